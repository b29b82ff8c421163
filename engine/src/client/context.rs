//! What a client knows: where its site is and who it is (the context), and what it alone decides about a tenant (the
//! settings beside it: the KMS, pinned check values, the heads it saw). The settings never leave the client.

use super::error::ClientError;
use crate::framed::{self, FileKind};
use crate::whole_file;
use bytes::Bytes;
use farside_codec::delta::{Cursor, Lineage};
use farside_codec::ids::{EpochId, Label, LogId, SiteId, hex};
use farside_codec::record;
use farside_transport::{Credentials, Identity, Trust};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

record!(
    /// How a client finds a site, and with which identity. Holds a private key, never a tenant's.
    Context {
        /// The site.
        site: SiteId,
        /// Its name.
        site_name: Label,
        /// Its CA's certificate (DER).
        authority: Bytes,
        /// Shard 0 of its nodes.
        endpoints: Vec<String>,
        /// The client's certificate (DER).
        certificate: Bytes,
        /// Its key (PKCS #8 DER).
        key: Bytes,
    }
);

impl Context {
    /// Reads a context file.
    pub fn load(path: &Path) -> Result<Self, ClientError> {
        Ok(framed::read_record(path, FileKind::Context)?)
    }

    /// Writes it, for its owner only.
    pub fn save(&self, path: &Path) -> Result<(), ClientError> {
        Ok(framed::write_record(path, FileKind::Context, self)?)
    }

    /// What its file holds.
    pub fn to_file_bytes(&self) -> Vec<u8> {
        framed::record_bytes(FileKind::Context, self)
    }

    /// Who the client is.
    pub fn identity(&self) -> Result<Identity, ClientError> {
        let identity = Identity::from_parts(self.certificate.to_vec(), Zeroizing::new(self.key.to_vec()));
        identity.map_err(|error| ClientError::Failed(error.to_string()))
    }

    /// What the client proves itself with.
    pub fn credentials(&self) -> Result<Credentials, ClientError> {
        Ok(Credentials { identity: self.identity()?.into(), trust: Trust::new(self.site, &self.authority) })
    }

    /// Where its nodes listen.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>, ClientError> {
        let parse = |text: &String| text.parse().map_err(|_| ClientError::Usage(format!("{text} is no ip:port")));
        self.endpoints.iter().map(parse).collect()
    }
}

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TenantSetting {
    kms: Option<String>,
    /// How long a computed key is used before the KMS is asked again.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_cache_seconds: Option<u64>,
    /// Epoch → check value, in hexadecimal.
    #[serde(default)]
    pins: BTreeMap<String, String>,
}

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
struct SeenHead {
    generation: u64,
    sequence: u64,
    hash: String,
}

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SettingsFile {
    #[serde(default)]
    tenants: BTreeMap<String, TenantSetting>,
    #[serde(default)]
    heads: BTreeMap<String, SeenHead>,
}

/// How long a computed key is used unless somebody says otherwise.
const KEY_CACHE_SECONDS: u64 = 60;
/// What somebody may say: less would ask the KMS all the time, more would not be a bound that anybody relies on.
const KEY_CACHE_RANGE: RangeInclusive<u64> = 5..=300;

/// Whether keys may be used for so long.
pub(crate) fn check_key_cache(seconds: u64) -> Result<(), String> {
    match KEY_CACHE_RANGE.contains(&seconds) {
        true => Ok(()),
        false => {
            let (least, most) = (KEY_CACHE_RANGE.start(), KEY_CACHE_RANGE.end());
            Err(format!("a key is kept for {least} to {most} seconds, not for {seconds}"))
        }
    }
}

/// The client's own settings, in a text file beside its context.
pub struct ClientSettings {
    path: Option<PathBuf>,
    file: SettingsFile,
    /// As they were read.
    read: SettingsFile,
}

impl ClientSettings {
    /// Settings that are kept nowhere.
    pub fn in_memory() -> Self {
        Self { path: None, file: SettingsFile::default(), read: SettingsFile::default() }
    }

    /// The settings beside a context; empty if there are none yet.
    pub fn beside(context: &Path) -> Result<Self, ClientError> {
        Self::at(context.with_extension("client.toml"))
    }

    fn at(path: PathBuf) -> Result<Self, ClientError> {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(ClientError::File(path, error)),
        };
        let settings = Self::parse(&text).map_err(|what| ClientError::Usage(format!("{}: {what}", path.display())))?;
        Ok(Self { path: Some(path), ..settings })
    }

    /// Settings as their file says them, kept nowhere. The error is what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: SettingsFile = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        for (tenant, setting) in &file.tenants {
            let life = setting.key_cache_seconds.map_or(Ok(()), check_key_cache);
            life.map_err(|what| format!("tenant {tenant}: {what}"))?;
        }
        Ok(Self { path: None, read: file.clone(), file })
    }

    /// Keeps what has changed.
    pub fn save(&self) -> Result<(), ClientError> {
        let Some(path) = self.path.as_ref().filter(|_| self.file != self.read) else { return Ok(()) };
        // Another command may have kept something meanwhile.
        let now = Self::at(path.clone()).map_or_else(|_| self.read.clone(), |now| now.file);
        let text =
            toml::to_string_pretty(&self.changes_to(now)).map_err(|error| ClientError::Failed(error.to_string()))?;
        // Two commands at once must not leave half a file behind.
        whole_file::write(path, 0o600, text.as_bytes()).map_err(|error| ClientError::File(path.clone(), error))
    }

    /// What has changed here, on top of `file`.
    fn changes_to(&self, mut file: SettingsFile) -> SettingsFile {
        for (tenant, setting) in &self.file.tenants {
            if self.read.tenants.get(tenant) != Some(setting) {
                file.tenants.insert(tenant.clone(), setting.clone());
            }
        }
        for (log, seen) in &self.file.heads {
            let newest = file.heads.get(log).map_or((0, 0), |there| (there.generation, there.sequence));
            if self.read.heads.get(log) != Some(seen) && (seen.generation, seen.sequence) >= newest {
                file.heads.insert(log.clone(), seen.clone());
            }
        }
        file
    }

    /// The tenant's KMS.
    pub fn kms(&self, tenant: &Label) -> Option<&str> {
        self.file.tenants.get(tenant.as_str())?.kms.as_deref()
    }

    /// Sets the tenant's KMS.
    pub fn set_kms(&mut self, tenant: &Label, url: &str) {
        self.file.tenants.entry(tenant.to_string()).or_default().kms = Some(url.to_owned());
    }

    /// How long a computed key of the tenant is used before the KMS is asked again: the bound within which one that was destroyed
    /// stops working here.
    pub fn key_cache(&self, tenant: &Label) -> Duration {
        let set = self.file.tenants.get(tenant.as_str()).and_then(|setting| setting.key_cache_seconds);
        Duration::from_secs(set.unwrap_or(KEY_CACHE_SECONDS))
    }

    /// Sets it; 5 to 300 seconds. The error says so.
    pub fn set_key_cache(&mut self, tenant: &Label, seconds: u64) -> Result<(), String> {
        check_key_cache(seconds)?;
        self.file.tenants.entry(tenant.to_string()).or_default().key_cache_seconds = Some(seconds);
        Ok(())
    }

    /// Whether `check` is what was pinned for this epoch; the first one seen is pinned.
    pub fn pin(&mut self, tenant: &Label, epoch: EpochId, check: &[u8; 16]) -> bool {
        let hex = hex(check);
        let pins = &mut self.file.tenants.entry(tenant.to_string()).or_default().pins;
        *pins.entry(epoch.to_string()).or_insert_with(|| hex.clone()) == hex
    }

    /// The head seen last, if the log shown now goes back behind it without a change of home that explains it.
    pub fn went_back(&self, log: LogId, head: &Cursor, lineage: &Lineage) -> Option<u64> {
        let seen = self.file.heads.get(&log.to_string())?;
        let explained = lineage.iter().any(|branch| branch.generation.counter > seen.generation);
        let behind =
            head.sequence < seen.sequence || (head.sequence == seen.sequence && head.hash.to_string() != seen.hash);
        (behind && !explained).then_some(seen.sequence)
    }

    /// Remembers a head.
    pub fn saw(&mut self, log: LogId, head: &Cursor) {
        let seen = self.file.heads.entry(log.to_string()).or_default();
        if (head.generation.counter, head.sequence) >= (seen.generation, seen.sequence) {
            *seen =
                SeenHead { generation: head.generation.counter, sequence: head.sequence, hash: head.hash.to_string() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farside_codec::delta::Generation;
    use farside_codec::ids::{DeltaHash, SiteId};

    fn head(sequence: u64) -> Cursor {
        let generation = Generation { counter: 1, site: SiteId([1; 16]), incarnation: 1 };
        Cursor { generation, sequence, hash: DeltaHash::ZERO }
    }

    fn tenant(name: &str) -> Label {
        Label::parse(name).expect("a label")
    }

    #[test]
    fn two_commands_at_once_keep_what_both_have_changed() {
        let root = tempfile::tempdir().expect("a directory");
        let context = root.path().join("site.context");
        let open = || ClientSettings::beside(&context).expect("read");
        let (mut one, mut other, mut third) = (open(), open(), open());
        one.set_kms(&tenant("acme"), "file:a");
        one.saw(LogId([7; 16]), &head(9));
        other.set_kms(&tenant("umbrella"), "file:b");
        other.saw(LogId([7; 16]), &head(5));
        third.saw(LogId([7; 16]), &head(12));
        for settings in [one, third, other] {
            settings.save().expect("kept");
        }
        let now = open();
        assert_eq!(now.kms(&tenant("acme")), Some("file:a"));
        assert_eq!(now.kms(&tenant("umbrella")), Some("file:b"));
        assert_eq!(now.file.heads.values().map(|seen| seen.sequence).collect::<Vec<_>>(), [12]);
    }

    #[test]
    fn what_has_not_changed_is_not_written() {
        let root = tempfile::tempdir().expect("a directory");
        let settings = ClientSettings::beside(&root.path().join("site.context")).expect("read");
        drop(root);
        settings.save().expect("there is nothing to keep");
    }
}
