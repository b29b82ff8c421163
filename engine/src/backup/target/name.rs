//! Names of objects: relative to the target's prefix, and of so few letters that they mean the same in every store.
//!
//! A name is components of `a-z 0-9 . -` between single slashes. None begins with a dot, so none leads out of a directory
//! and none is that of a file that is still being written.

use super::limits::{MAX_COMPONENT_BYTES, MAX_NAME_BYTES};

/// Whether this can be the name of an object.
pub fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME_BYTES && text.split('/').all(is_component)
}

/// Whether names can begin so: nothing, or a name of which the end is missing.
pub fn is_name_prefix(text: &str) -> bool {
    let (components, rest) = text.rsplit_once('/').map_or(("", text), |(components, rest)| (components, rest));
    let is_begun = text.is_empty() || (rest.is_empty() && !components.is_empty()) || is_component(rest);
    let is_nested = !text.contains('/') || components.split('/').all(is_component);
    text.len() <= MAX_NAME_BYTES && is_begun && is_nested
}

fn is_component(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-');
    !text.is_empty() && text.len() <= MAX_COMPONENT_BYTES && !text.starts_with('.') && text.bytes().all(is_letter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_and_what_is_none() {
        for name in ["a", "packs/00/3f.pack", "manifest-1.json", "a-/b", "0", "a..b", "-"] {
            assert!(is_name(name), "{name}");
            assert!(is_name_prefix(name), "{name}");
        }
        let long = "a".repeat(MAX_COMPONENT_BYTES + 1);
        let deep = ["a/"; 256].concat() + "ab";
        let none = [
            "", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/.", ".hidden", "A", "a b", "a\\b", "a%2fb",
            "ä", "a\0", "a\n", "a?b", "a#b", "a:b", &long, &deep,
        ];
        for name in none {
            assert!(!is_name(name), "{name}");
        }
        for prefix in ["", "a", "a/", "a/b", "a/b/"] {
            assert!(is_name_prefix(prefix), "{prefix}");
        }
        for prefix in ["/", "/a", "a//", "..", "../", "a/../", ".", "a/.b", "A", "a\0"] {
            assert!(!is_name_prefix(prefix), "{prefix}");
        }
    }

    proptest! {
        /// Whatever is taken for a name stays where it is put.
        #[test]
        fn a_name_leads_nowhere_else(text in "[a-zA-Z0-9./\\\\%~ \0-]{0,40}") {
            if is_name(&text) {
                prop_assert!(!text.starts_with('/') && !text.ends_with('/') && !text.contains("//"));
                prop_assert!(text.split('/').all(|part| !part.starts_with('.')));
                for end in 0..=text.len() {
                    prop_assert!(is_name_prefix(&text[..end]), "{}", &text[..end]);
                }
            }
        }
    }
}
