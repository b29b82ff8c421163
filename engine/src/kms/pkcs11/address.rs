//! The URL of a token: RFC 7512, as far as it names a token, its module and the file of its PIN.
//!
//! Left out on purpose: attributes that name objects, which are found by label alone, and every one that a vendor made
//! up. An attribute that is not understood is refused, since whoever wrote it meant something by it.

use crate::kms::KmsError;
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::AuthPin;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use zeroize::Zeroizing;

/// The attributes before the question mark, in the order in which the canonical URL has them.
const PATH_ATTRIBUTES: [&str; 5] = ["token", "manufacturer", "serial", "model", "slot-id"];
/// The attributes behind it.
const QUERY_ATTRIBUTES: [&str; 2] = ["module-path", "pin-source"];
/// No token takes a PIN that is longer than this.
const LONGEST_PIN_FILE: u64 = 4096;
/// Why a PIN must not stand in the URL.
const PIN_IN_URL: &str =
    "the URL is kept on disk and holds no secret: put the PIN into a file and name it as pin-source";
/// What is escaped in an attribute before the question mark: all but what RFC 3986 calls unreserved.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// What is escaped in an attribute behind it, where paths stand and RFC 7512 allows their slashes.
const ESCAPED_IN_QUERY: &AsciiSet = &ESCAPED.remove(b'/').remove(b':');

/// Tells one PIN from another, among those that a token refused, without keeping it.
static PIN_MARKS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// What a URL says.
#[derive(Debug)]
pub(super) struct Address {
    pub(super) url: String,
    token: BTreeMap<&'static str, String>,
    pub(super) module: PathBuf,
    pub(super) pin_file: PathBuf,
    pub(super) pin: AuthPin,
    pub(super) pin_mark: u64,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let rest = url.strip_prefix("pkcs11:").ok_or("it does not begin with pkcs11:")?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let token = attributes(path, ';', &PATH_ATTRIBUTES)?;
        let mut query = attributes(query, '&', &QUERY_ATTRIBUTES)?;
        if !token.contains_key("token") && !token.contains_key("serial") {
            return Err("it names no token: token or serial has to be there".to_owned());
        }
        if token.get("slot-id").is_some_and(|slot| slot.parse::<u64>().map(|id| id.to_string()).as_ref() != Ok(slot)) {
            return Err("slot-id is no decimal number".to_owned());
        }
        let module = PathBuf::from(query.remove("module-path").ok_or("module-path is missing")?);
        if !module.is_absolute() {
            return Err("module-path is not absolute".to_owned());
        }
        let pin_file = pin_file(&query.remove("pin-source").ok_or("pin-source is missing")?)?;
        let pin = AuthPin::from("");
        let mut address = Self { url: String::new(), token, module, pin_file, pin, pin_mark: 0 };
        address.url = address.canonical_url();
        Ok(address)
    }

    /// Takes the PIN out of its file.
    pub(super) fn read_pin(&mut self) -> Result<(), KmsError> {
        let pin = read_pin(&self.pin_file).map_err(|error| KmsError::Io(self.pin_file.clone(), error))?;
        self.pin_mark = PIN_MARKS.hash_one(&*pin);
        self.pin = AuthPin::from(pin.as_str());
        Ok(())
    }

    /// The URL that opens the same token from any directory.
    fn canonical_url(&self) -> String {
        let attribute = |name: &&str| Some(format!("{name}={}", utf8_percent_encode(self.token.get(name)?, ESCAPED)));
        let token: Vec<String> = PATH_ATTRIBUTES.iter().filter_map(attribute).collect();
        let [module, pin_file] = [&self.module, &self.pin_file].map(|path| path.to_string_lossy());
        let [module, pin_file] = [&module, &pin_file].map(|path| utf8_percent_encode(path, ESCAPED_IN_QUERY));
        format!("pkcs11:{}?module-path={module}&pin-source=file:{pin_file}", token.join(";"))
    }

    pub(super) fn fits(&self, slot: Slot, info: &TokenInfo) -> bool {
        self.token.iter().all(|(name, wanted)| match *name {
            "token" => wanted == info.label(),
            "manufacturer" => wanted == info.manufacturer_id(),
            "serial" => wanted == info.serial_number(),
            "model" => wanted == info.model(),
            _ => *wanted == slot.id().to_string(),
        })
    }
}

/// Reads the attributes of one half of a URL.
fn attributes(
    text: &str,
    separator: char,
    understood: &[&'static str],
) -> Result<BTreeMap<&'static str, String>, String> {
    let mut found = BTreeMap::new();
    for attribute in text.split(separator).filter(|_| !text.is_empty()) {
        let (name, value) = attribute.split_once('=').unwrap_or((attribute, ""));
        let Some(name) = understood.iter().find(|candidate| **candidate == name) else {
            return Err(match name {
                _ if name.to_ascii_lowercase().starts_with("pin-value") => {
                    format!("pin-value is refused: {PIN_IN_URL}")
                }
                _ if name.starts_with("x-") => format!("{name:?} is a vendor's own attribute: none is understood"),
                _ => format!("{name:?} is not understood here, where {} may stand", understood.join(", ")),
            });
        };
        if found.insert(*name, decode(name, value)?).is_some() {
            return Err(format!("{name} is there twice"));
        }
    }
    Ok(found)
}

/// Takes the percent-escapes out of a value. The crate leaves wrong ones as they are, which would hide a mistake.
fn decode(name: &str, value: &str) -> Result<String, String> {
    let escaped = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    let decoded = percent_decode_str(value).decode_utf8().map_err(|_| format!("{name} is not UTF-8"))?;
    match decoded.as_ref() {
        "" => Err(format!("{name} has no value")),
        _ if !value.split('%').skip(1).all(escaped) => Err(format!("{name} has a % without two hexadecimal digits")),
        text if text.chars().any(char::is_control) => Err(format!("{name} has a control character")),
        text => Ok(text.to_owned()),
    }
}

/// The file that `pin-source` names, as an absolute path: the URL has to open the same one from any directory.
fn pin_file(source: &str) -> Result<PathBuf, String> {
    let path = match source.strip_prefix("file:") {
        Some(rest) => match rest.strip_prefix("//localhost/").or(rest.strip_prefix("///")) {
            Some(local) => format!("/{local}"),
            None => rest.to_owned(),
        },
        None if Path::new(source).is_absolute() => source.to_owned(),
        None => return Err("pin-source is neither a file: URI nor an absolute path".to_owned()),
    };
    if path.is_empty() || path.starts_with("//") {
        return Err("pin-source names no file of this machine".to_owned());
    }
    let path = std::path::absolute(path).map_err(|error| format!("pin-source can't be made absolute: {error}"))?;
    path.to_str().map(PathBuf::from).ok_or_else(|| format!("the path {} is not UTF-8", path.display()))
}

/// Reads a PIN. An empty one is refused here, since the token would count it as a wrong one.
fn read_pin(file: &Path) -> std::io::Result<Zeroizing<String>> {
    let no_pin = |why| Err(std::io::Error::new(std::io::ErrorKind::InvalidData, why));
    let about = std::fs::metadata(file)?;
    if !about.is_file() || about.len() > LONGEST_PIN_FILE {
        return no_pin("it is no file that holds a PIN");
    }
    let text = Zeroizing::new(std::fs::read_to_string(file)?);
    match text.trim_end_matches(['\r', '\n']) {
        "" => no_pin("it holds no PIN"),
        pin => Ok(Zeroizing::new(pin.to_owned())),
    }
}
