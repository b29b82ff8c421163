//! What commands print: lines for people, JSON for scripts, errors as one sentence and a hint.

use crate::backup::BackupError;
use crate::client::{ClientError, ObjectInfo, PutReceipt};
use crate::node::keys::KeyError;
use crate::node::{DirectoryError, NodeError};
use crate::terminal::note;
use farside_codec::seal::ObjectKind;
use serde_json::{Value, json};

/// Why a command failed.
pub(super) enum CliError {
    /// A client's command.
    Client(ClientError),
    /// A node's command.
    Node(NodeError),
    /// A backup's command.
    Backup(BackupError),
    /// The command is done and said what was wrong with it; this is its exit code.
    Told(u8),
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<DirectoryError> for CliError {
    fn from(error: DirectoryError) -> Self {
        Self::Node(error.into())
    }
}

impl From<BackupError> for CliError {
    fn from(error: BackupError) -> Self {
        Self::Backup(error)
    }
}

impl From<KeyError> for CliError {
    fn from(error: KeyError) -> Self {
        Self::Node(error.into())
    }
}

impl From<NodeError> for CliError {
    fn from(error: NodeError) -> Self {
        Self::Node(error)
    }
}

impl CliError {
    pub(super) fn usage(what: impl Into<String>) -> Self {
        Self::Client(ClientError::Usage(what.into()))
    }

    pub(super) fn not_found(what: impl Into<String>) -> Self {
        Self::Client(ClientError::NotFound(what.into()))
    }

    pub(super) fn failed(what: impl ToString) -> Self {
        Self::Client(ClientError::Failed(what.to_string()))
    }

    /// Says it on stderr and answers with the exit code.
    pub(super) fn tell(self) -> u8 {
        match self {
            Self::Told(code) => code,
            Self::Backup(error) => tell(&error, error.hint(), error.exit_code()),
            Self::Client(error) => tell(&error, error.hint(), error.exit_code()),
            Self::Node(error) => tell(&error, error.hint().map(str::to_owned), error.exit_code()),
        }
    }
}

fn tell(error: &dyn std::error::Error, hint: Option<String>, code: u8) -> u8 {
    note(format_args!("error: {error}"));
    if let Some(hint) = hint {
        note(format_args!("hint: {hint}"));
    }
    code
}

/// A name for people: no control characters reach the terminal.
pub(super) fn show_name(name: &[u8]) -> String {
    String::from_utf8_lossy(name).escape_debug().to_string().replace("\\'", "'").replace("\\\"", "\"")
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let encode = |chunk: &[u8]| {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        let letter = |at: usize| match at <= chunk.len() {
            true => LETTERS[(word >> (18 - 6 * at) & 63) as usize] as char,
            false => '=',
        };
        [letter(0), letter(1), letter(2), letter(3)]
    };
    bytes.chunks(3).flat_map(encode).collect()
}

pub(super) fn with_name(mut object: Value, name: &[u8]) -> Value {
    match std::str::from_utf8(name) {
        Ok(text) => object["name"] = json!(text),
        Err(_) => object["name_base64"] = json!(base64(name)),
    }
    object
}

pub(super) fn put_json(log: &str, receipt: &PutReceipt) -> Value {
    let object = json!({
        "log": log,
        "seq": receipt.receipt.cursor.sequence,
        "time": super::sizes::show_time(receipt.receipt.time),
        "size_bytes": receipt.size_bytes,
        "chunks": receipt.chunks,
        "deduplicated_bytes": receipt.deduplicated_bytes,
    });
    with_name(object, &receipt.name)
}

pub(super) fn kind(info: &ObjectInfo) -> &'static str {
    match info.kind {
        Some(ObjectKind::File) => "file",
        Some(ObjectKind::Link(_)) => "link",
        Some(ObjectKind::Directory) => "directory",
        None => "removed",
    }
}

pub(super) fn object_json(info: &ObjectInfo) -> Value {
    let object = json!({
        "seq": info.sequence,
        "time": super::sizes::show_time(info.time),
        "size_bytes": info.size_bytes,
        "kind": kind(info),
    });
    with_name(object, &info.name)
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_is_rfc_4648() {
        for (plain, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), text);
        }
    }
}
