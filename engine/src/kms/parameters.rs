//! The part of a KMS's URL behind the `?`: names and values, percent-encoded (RFC 3986). Unknown names are refused, since
//! one that is mistyped would otherwise be ignored; so are those that would hold a secret.

use super::KmsError;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Names under which somebody may try to give a secret.
const SECRETS: [&str; 8] = ["token", "password", "secret", "secret-id", "pin", "pin-value", "passphrase", "api-key"];

/// What is encoded in a value.
const RESERVED: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'&').add(b'=').add(b'#').add(b'?').add(b'+').add(b'"');

/// The parameters of one URL.
#[derive(Debug, Clone, Default)]
pub(super) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// Reads `name=value&name=value`, of which the names have to be among `known`.
    pub(super) fn parse(url: &str, text: &str, known: &[&str]) -> Result<Self, KmsError> {
        let refuse = |why: String| Err(KmsError::Url { url: url.to_owned(), why });
        let mut parameters = BTreeMap::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let Some((name, value)) = part.split_once('=') else {
                return refuse(format!("{part} is no NAME=VALUE"));
            };
            if SECRETS.contains(&name) {
                return refuse(format!("{name} would be kept in a text file: name a file that holds it"));
            }
            if !known.contains(&name) {
                return refuse(format!("it has no parameter {name}; it has {}", known.join(", ")));
            }
            let Ok(value) = percent_decode_str(value).decode_utf8() else {
                return refuse(format!("the value of {name} is no text"));
            };
            if value.is_empty() || value.chars().any(char::is_control) {
                return refuse(format!("the value of {name} is empty, or not to be printed"));
            }
            if parameters.insert(name.to_owned(), value.into_owned()).is_some() {
                return refuse(format!("it names {name} twice"));
            }
        }
        Ok(Self(parameters))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The path that a parameter gives. A relative one is taken from the current directory, once and for all.
    pub(super) fn make_absolute(&mut self, names: &[&str]) -> Result<(), KmsError> {
        for name in names {
            if let Some(path) = self.0.get_mut(*name) {
                let absolute =
                    std::path::absolute(&*path).map_err(|error| KmsError::Io(PathBuf::from(&*path), error))?;
                // It came from text, and so did the current directory as far as anybody can name it here.
                *path = absolute.to_string_lossy().into_owned();
            }
        }
        Ok(())
    }

    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    /// As it stands in a URL, with the `?`; nothing without parameters.
    pub(super) fn encoded(&self) -> String {
        let parts: Vec<String> =
            self.0.iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, RESERVED))).collect();
        if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) }
    }
}
