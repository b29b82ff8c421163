//! Where a backup lies, as an operator writes it: `s3://BUCKET[/PREFIX]`, `file:///DIR`, or a path.
//!
//! A URL is kept in files and shown in messages, so it never holds a secret; one that seems to is refused, and no refusal
//! repeats what was written. Relative paths are taken from the current directory, once and for all.

use super::limits::{MAX_PREFIX_BYTES, MAX_URL_BYTES};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use reqwest::Url;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// What a path does not hold as it is in a URL.
const PATH: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'?').add(b'#').add(b'"').add(b'<').add(b'>').add(b'\\');

/// Where a backup lies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TargetUrl {
    place: Place,
}

/// What kind of place it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// A bucket of a store that speaks S3.
    Bucket {
        /// Its name.
        bucket: String,
        /// What all names begin with, without slashes around it; may be empty.
        prefix: String,
        /// Where the store is, without a slash at its end; AWS without one.
        endpoint: Option<String>,
    },
    /// A directory, by an absolute path.
    Directory(PathBuf),
}

/// Why a text is no [`TargetUrl`]. None of these repeats the text, which may hold a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetUrlError {
    /// It is empty, or longer than any URL of a target.
    Length,
    /// It holds credentials, or what looks like some.
    Credentials,
    /// It begins with no scheme that this build speaks.
    Scheme,
    /// That is no name of a bucket.
    Bucket,
    /// The prefix has a component that is empty, or letters that not every store takes.
    Prefix,
    /// It has parameters.
    Parameters,
    /// It names another machine.
    Host,
    /// The path can't be one.
    Path,
    /// The endpoint is no `http://HOST[:PORT]` or `https://HOST[:PORT]`.
    Endpoint,
    /// A directory has no endpoint.
    EndpointOfDirectory,
}

impl TargetUrl {
    /// Reads what an operator wrote. `endpoint` says where a store is that is not AWS.
    pub fn parse(text: &str, endpoint: Option<&str>) -> Result<Self, TargetUrlError> {
        if text.is_empty() || text.len() > MAX_URL_BYTES || endpoint.is_some_and(|text| text.len() > MAX_URL_BYTES) {
            return Err(TargetUrlError::Length);
        }
        let endpoint = endpoint.map(read_endpoint).transpose()?;
        let place = match text.split_once("://") {
            Some((scheme, rest)) if is_scheme(scheme) => read_url(scheme, rest, endpoint)?,
            // `s3:BUCKET` is no path that anybody means.
            _ if text.starts_with("s3:") || text.starts_with("file:") => return Err(TargetUrlError::Scheme),
            _ if endpoint.is_some() => return Err(TargetUrlError::EndpointOfDirectory),
            _ => Place::Directory(absolute(text)?),
        };
        Ok(Self { place })
    }

    /// Where the store is, if it is not AWS.
    pub fn endpoint(&self) -> Option<&str> {
        match &self.place {
            Place::Bucket { endpoint, .. } => endpoint.as_deref(),
            Place::Directory(_) => None,
        }
    }

    /// Whether it is a directory of this machine.
    pub fn is_directory(&self) -> bool {
        matches!(self.place, Place::Directory(_))
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }
}

impl FromStr for TargetUrl {
    type Err = TargetUrlError;
    fn from_str(text: &str) -> Result<Self, TargetUrlError> {
        Self::parse(text, None)
    }
}

/// As it is parsed again, together with [`TargetUrl::endpoint`].
impl fmt::Display for TargetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Bucket { bucket, prefix, .. } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Place::Bucket { bucket, prefix, .. } => write!(f, "s3://{bucket}/{prefix}"),
            Place::Directory(path) => {
                write!(f, "file://{}", utf8_percent_encode(&path.to_string_lossy(), PATH))
            }
        }
    }
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

fn read_url(scheme: &str, rest: &str, endpoint: Option<String>) -> Result<Place, TargetUrlError> {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // Somewhere else than in a path an @ stands behind a user; keys hold slashes, so it may stand behind one too.
    let has_user = if scheme == "file" { authority.contains('@') } else { rest.contains('@') };
    if has_user {
        return Err(TargetUrlError::Credentials);
    }
    match scheme {
        "s3" | "file" if rest.contains(['?', '#']) => Err(TargetUrlError::Parameters),
        "s3" => read_bucket(rest, endpoint),
        "file" if endpoint.is_some() => Err(TargetUrlError::EndpointOfDirectory),
        "file" if !authority.is_empty() => Err(TargetUrlError::Host),
        "file" => {
            let path = percent_decode_str(rest).decode_utf8().map_err(|_| TargetUrlError::Path)?;
            Ok(Place::Directory(absolute(&path)?))
        }
        _ => Err(TargetUrlError::Scheme),
    }
}

fn read_bucket(rest: &str, endpoint: Option<String>) -> Result<Place, TargetUrlError> {
    let (bucket, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = rest.strip_suffix('/').unwrap_or(rest);
    if !is_bucket(bucket) {
        return Err(TargetUrlError::Bucket);
    }
    if !rest.is_empty() && !is_prefix(prefix) {
        return Err(TargetUrlError::Prefix);
    }
    Ok(Place::Bucket { bucket: bucket.to_owned(), prefix: prefix.to_owned(), endpoint })
}

/// By the rules of AWS, which other stores follow.
fn is_bucket(text: &str) -> bool {
    let is_end = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = text.as_bytes();
    let is_letter = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-');
    (3..=63).contains(&bytes.len())
        && is_end(bytes.first())
        && is_end(bytes.last())
        && bytes.iter().all(is_letter)
        && !text.contains("..")
}

fn is_prefix(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let is_component = |part: &str| !part.is_empty() && !matches!(part, "." | "..") && part.bytes().all(is_letter);
    text.len() <= MAX_PREFIX_BYTES && text.split('/').all(is_component)
}

fn read_endpoint(text: &str) -> Result<String, TargetUrlError> {
    if text.contains('@') {
        return Err(TargetUrlError::Credentials);
    }
    let url = Url::parse(text).map_err(|_| TargetUrlError::Endpoint)?;
    let is_bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
    let is_http = matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty());
    match is_bare && is_http {
        true => Ok(url.as_str().trim_end_matches('/').to_owned()),
        false => Err(TargetUrlError::Endpoint),
    }
}

fn absolute(path: &str) -> Result<PathBuf, TargetUrlError> {
    if path.contains('\0') {
        return Err(TargetUrlError::Path);
    }
    let path = std::path::absolute(path).map_err(|_| TargetUrlError::Path)?;
    // What is not UTF-8, which only the current directory can add, would not be read again as it was.
    path.to_str().is_some().then_some(path).ok_or(TargetUrlError::Path)
}

impl fmt::Display for TargetUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "a target is s3://BUCKET[/PREFIX], file:///DIR or a path, of at most 4096 bytes",
            Self::Credentials => {
                "a target holds no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
            }
            Self::Scheme => "a target is s3://BUCKET[/PREFIX], file:///DIR or a path",
            Self::Bucket => {
                "a bucket is named by 3 to 63 of a-z, 0-9, dots and hyphens, and begins and ends with a letter"
            }
            Self::Prefix => "a prefix is names of letters, digits and . - _ between single slashes",
            Self::Parameters => "a target takes no parameters",
            Self::Host => "a directory is one of this machine: file:///DIR",
            Self::Path => "the path of a target is UTF-8, without a zero byte",
            Self::Endpoint => "an endpoint is https://HOST[:PORT], or http:// where nobody listens in",
            Self::EndpointOfDirectory => "a directory has no endpoint",
        })
    }
}

impl std::error::Error for TargetUrlError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str, endpoint: Option<&str>) -> String {
        let url = TargetUrl::parse(text, endpoint).expect("a target");
        let again = TargetUrl::parse(&url.to_string(), url.endpoint()).expect("a target still");
        assert_eq!(url, again);
        format!("{url} {}", url.endpoint().unwrap_or("-"))
    }

    #[test]
    fn what_operators_write() {
        assert_eq!(shown("s3://backups", None), "s3://backups -");
        assert_eq!(shown("s3://backups/", None), "s3://backups -");
        assert_eq!(shown("s3://b.ackups-1/Site_a/x/", None), "s3://b.ackups-1/Site_a/x -");
        assert_eq!(shown("s3://abc/d", Some("https://s3.example")), "s3://abc/d https://s3.example");
        assert_eq!(shown("s3://abc", Some("HTTP://127.0.0.1:8333/")), "s3://abc http://127.0.0.1:8333");
        assert_eq!(shown("s3://abc", Some("http://[::1]:8333")), "s3://abc http://[::1]:8333");
        assert_eq!(shown("file:///srv/backup", None), "file:///srv/backup -");
        assert_eq!(shown("file:///srv/a%20b%25", None), "file:///srv/a%20b%25 -");
        assert_eq!(shown("/srv/b@ck up?#", None), "file:///srv/b@ck%20up%3F%23 -");
        let here = std::env::current_dir().expect("a directory");
        assert_eq!(shown("there", None), format!("file://{} -", here.join("there").display()));
    }

    #[test]
    fn what_is_refused() {
        use TargetUrlError::*;
        let long = format!("s3://abc/{}", "a".repeat(MAX_PREFIX_BYTES + 1));
        let cases = [
            ("", Length),
            ("s3://", Bucket),
            ("s3:///prefix", Bucket),
            ("s3://ab", Bucket),
            ("s3://Bucket", Bucket),
            ("s3://a..b", Bucket),
            ("s3://-abc", Bucket),
            ("s3://abc.", Bucket),
            ("s3://bücket", Bucket),
            ("s3://abc:9000", Bucket),
            ("s3://abc\0", Bucket),
            ("s3://..", Bucket),
            ("s3://abc//", Prefix),
            ("s3://abc//a", Prefix),
            ("s3://abc/a/../b", Prefix),
            ("s3://abc/./b", Prefix),
            ("s3://abc/a%2e%2e", Prefix),
            ("s3://abc/a b", Prefix),
            ("s3://abc/a=b", Prefix),
            ("s3://abc/a\r\nHost: x", Prefix),
            (&long, Prefix),
            ("s3://abc?region=x", Parameters),
            ("s3://abc/d#e", Parameters),
            ("s3://AKIA:secret@abc", Credentials),
            ("s3://AKIA:sec/ret@abc/d", Credentials),
            ("https://AKIA:secret@host/abc", Credentials),
            ("file://me:secret@host/abc", Credentials),
            ("https://host/abc", Scheme),
            ("S3://abc", Scheme),
            ("s3:abc", Scheme),
            ("file:abc", Scheme),
            ("gs://abc", Scheme),
            ("file://host/abc", Host),
            ("file://", Path),
            ("file:///a%00b", Path),
            ("file:///a%ffb", Path),
            ("a\0b", Path),
        ];
        for (text, error) in cases {
            assert_eq!(TargetUrl::parse(text, None), Err(error), "{text:?}");
            assert!(!error.to_string().contains("secret"));
        }
        let endpoints = [
            ("", Endpoint),
            ("s3.example", Endpoint),
            ("ftp://s3.example", Endpoint),
            ("https://", Endpoint),
            ("https://s3.example/path", Endpoint),
            ("https://s3.example/?a=b", Endpoint),
            ("https://s3.example/#a", Endpoint),
            ("https://me:secret@s3.example", Credentials),
            ("https://me@s3.example", Credentials),
        ];
        for (text, error) in endpoints {
            assert_eq!(TargetUrl::parse("s3://abc", Some(text)), Err(error), "{text:?}");
        }
        assert_eq!(TargetUrl::parse("/srv", Some("https://s3.example")), Err(EndpointOfDirectory));
        assert_eq!(TargetUrl::parse("file:///srv", Some("https://s3.example")), Err(EndpointOfDirectory));
    }

    proptest! {
        /// Whatever is taken is shown as what it was, and holds neither users nor parameters.
        #[test]
        fn anything_at_all(
            scheme in "(s3://|file://|s3:/|https://|)",
            rest in "[a-z0-9A-Z:/@?#%.\\\\\r\n\0 -]{0,60}",
            endpoint in proptest::option::of("(https?://)?[a-z0-9:/@?#%.\\[\\] -]{0,30}"),
        ) {
            if let Ok(url) = TargetUrl::parse(&format!("{scheme}{rest}"), endpoint.as_deref()) {
                let again = TargetUrl::parse(&url.to_string(), url.endpoint());
                prop_assert_eq!(again.as_ref(), Ok(&url));
                if let Place::Bucket { bucket, prefix, endpoint } = url.place() {
                    let all = format!("{bucket}/{prefix}/{}", endpoint.as_deref().unwrap_or_default());
                    prop_assert!(!all.contains(['@', '?', '#', '\r', '\n', '\0', '%']), "{all:?}");
                }
            }
        }
    }
}
