//! The URL of a KMIP server: `kmip://HOST[:PORT]?ca=FILE&cert=FILE&key=FILE[&server-name=NAME]`.
//!
//! There is no standard for such URLs; this one keeps to the generic syntax of RFC 3986, so that brackets stand around
//! IPv6 addresses and `%20` for a space. It is written to disk and shown to operators. So it holds names of files and
//! never what is in them, and whatever could be a secret (user info, parameters of other names) is refused by name.
//!
//! Deliberately left out: several hosts in one URL, paths, and zones of IPv6 addresses.

use crate::kms::KmsError;
use rustls::pki_types::ServerName;
use std::fmt::{Display, Formatter, Write};
use std::net::Ipv6Addr;
use std::path::PathBuf;

/// The port that IANA registered for KMIP.
const DEFAULT_PORT: u16 = 5696;

/// What may stand behind the question mark.
const PARAMETERS: [&str; 4] = ["ca", "cert", "key", "server-name"];

/// A server, and the files with which to speak to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// Name or address of the host, an IPv6 address without brackets.
    pub(super) host: String,
    /// The port.
    pub(super) port: u16,
    /// Whose signature the server's certificate has to bear.
    pub(super) authority: PathBuf,
    /// The client's certificate, followed by the ones that lead to an authority that the server knows.
    pub(super) certificate: PathBuf,
    /// The client's private key.
    pub(super) private_key: PathBuf,
    /// The name in the server's certificate, where it is not that of the host.
    pub(super) server_name: Option<String>,
}

impl Address {
    /// Reads a URL. Relative paths are taken from the current directory, once and for all.
    pub(super) fn parse(url: &str) -> Result<Self, KmsError> {
        Self::read(url).map_err(|why| KmsError::Url { url: url.to_owned(), why })
    }

    fn read(url: &str) -> Result<Self, String> {
        let rest = url.strip_prefix("kmip:").ok_or("it does not begin with kmip:")?;
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        if rest.contains('#') {
            return Err("it has a fragment (#); write # in a file name as %23".to_owned());
        }
        let (place, query) = rest.split_once('?').ok_or("it lacks ?ca=FILE&cert=FILE&key=FILE")?;
        let (host, port) = read_place(place)?;
        let mut found: [Option<String>; PARAMETERS.len()] = Default::default();
        for pair in query.split('&') {
            let (name, value) = read_parameter(pair)?;
            let slot = PARAMETERS.iter().position(|known| *known == name).and_then(|at| found.get_mut(at));
            let slot = slot.ok_or_else(|| unknown_parameter(name))?;
            if slot.replace(value).is_some() {
                return Err(format!("the parameter {name} is given twice"));
            }
        }
        let [authority, certificate, private_key, server_name] = found;
        let address = Self {
            host,
            port,
            authority: absolute("ca", authority)?,
            certificate: absolute("cert", certificate)?,
            private_key: absolute("key", private_key)?,
            server_name,
        };
        address.tls_name()?;
        Ok(address)
    }

    /// The name that the server's certificate has to bear.
    pub(super) fn tls_name(&self) -> Result<ServerName<'static>, String> {
        let name = self.server_name.as_ref().unwrap_or(&self.host);
        ServerName::try_from(name.clone()).map_err(|_| format!("{name:?} is no name or address of a server"))
    }

    /// Which KMS it is, short enough for messages.
    pub(super) fn server(&self) -> String {
        if self.host.contains(':') {
            format!("kmip://[{}]:{}", self.host, self.port)
        } else {
            format!("kmip://{}:{}", self.host, self.port)
        }
    }
}

/// The canonical URL: slashes, port and every path in full, parameters in one order.
impl Display for Address {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.server())?;
        let files = [&self.authority, &self.certificate, &self.private_key];
        for ((mark, name), file) in ["?", "&", "&"].iter().zip(PARAMETERS).zip(files) {
            write!(f, "{mark}{name}=")?;
            write_escaped(f, &file.to_string_lossy())?;
        }
        if let Some(name) = &self.server_name {
            write!(f, "&server-name=")?;
            write_escaped(f, name)?;
        }
        Ok(())
    }
}

/// Reads `HOST[:PORT]`, with or without a slash at the end.
fn read_place(place: &str) -> Result<(String, u16), String> {
    if place.contains('@') {
        return Err("it has user info (@), and a URL that is kept on disk holds no secret: \
                    the client is known by its certificate"
            .to_owned());
    }
    let place = place.strip_suffix('/').unwrap_or(place);
    if place.contains('/') {
        return Err("it has a path behind the host".to_owned());
    }
    let (host, port) = match place.strip_prefix('[') {
        Some(bracketed) => {
            let (inner, rest) = bracketed.split_once(']').ok_or("a bracket around the host is not closed")?;
            let address: Ipv6Addr = inner.parse().map_err(|_| format!("{inner:?} is no IPv6 address"))?;
            let port =
                if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or("a colon lacks behind ]")?) };
            (address.to_string(), port)
        }
        None => match place.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err("an IPv6 address stands in brackets".to_owned()),
            Some((host, port)) => (host.to_ascii_lowercase(), Some(port)),
            None => (place.to_ascii_lowercase(), None),
        },
    };
    if host.is_empty() {
        return Err("it names no host".to_owned());
    }
    if !host.chars().all(|letter| letter.is_ascii_alphanumeric() || ".-_:".contains(letter)) {
        return Err(format!("{host:?} is no name of a host"));
    }
    let port = port.map_or(Ok(DEFAULT_PORT), |digits| read_port(digits).ok_or(format!("{digits:?} is no port")))?;
    Ok((host, port))
}

/// A port in plain digits, without the signs and spaces that `parse` would let pass.
fn read_port(digits: &str) -> Option<u16> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|port| plain && *port != 0)
}

/// Reads `NAME=VALUE`.
fn read_parameter(pair: &str) -> Result<(&str, String), String> {
    let (name, value) = pair.split_once('=').ok_or_else(|| unknown_parameter(pair))?;
    if !PARAMETERS.contains(&name) {
        return Err(unknown_parameter(name));
    }
    let value = unescaped(value).ok_or_else(|| format!("{name} has a % that begins no byte of UTF-8 (%25 is a %)"))?;
    if value.is_empty() || value.contains('\0') {
        return Err(format!("the parameter {name} is empty or has a zero byte"));
    }
    Ok((name, value))
}

fn unknown_parameter(name: &str) -> String {
    format!(
        "it has a parameter {name:?}, and there are {} only; the URL is kept on disk and holds no secret",
        PARAMETERS.join(", ")
    )
}

fn absolute(name: &str, path: Option<String>) -> Result<PathBuf, String> {
    let path = path.ok_or_else(|| format!("it lacks the parameter {name}"))?;
    let absolute = std::path::absolute(&path).map_err(|error| format!("{name}={path}: {error}"))?;
    if absolute.to_str().is_none() {
        // The current directory may have such a name, and a URL could not say it.
        return Err(format!("{name}: {} is not UTF-8", absolute.display()));
    }
    Ok(absolute)
}

/// Reads `%20` and the like. None if a `%` is followed by something else, or the bytes are not UTF-8.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Writes what [`unescaped`] reads. Only what would end the value, or be invisible, is escaped: the URL is for people.
fn write_escaped(f: &mut Formatter<'_>, text: &str) -> std::fmt::Result {
    for letter in text.chars() {
        if letter.is_control() || letter.is_whitespace() || "%&#?".contains(letter) {
            let mut buffer = [0; 4];
            for byte in letter.encode_utf8(&mut buffer).bytes() {
                write!(f, "%{byte:02X}")?;
            }
        } else {
            f.write_char(letter)?;
        }
    }
    Ok(())
}
