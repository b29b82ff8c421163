//! What a store has to be told that stands in no URL: credentials, region, and whose certificates are trusted.

use super::super::TargetError;
use std::fmt;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// Where requests are signed for unless somebody says otherwise; stores that are not AWS take it too.
const DEFAULT_REGION: &str = "us-east-1";

/// Credentials and what goes with them.
#[derive(Clone)]
pub struct StoreSettings {
    /// Who asks, and the secret that proves it; nothing where the environment holds none.
    pub credentials: Option<(String, Zeroizing<String>)>,
    /// Of temporary credentials.
    pub session_token: Option<Zeroizing<String>>,
    /// The region that requests are signed for.
    pub region: String,
    /// A file of certificates (PEM); nobody else is trusted then.
    pub ca_bundle: Option<PathBuf>,
}

impl StoreSettings {
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION` (or `AWS_DEFAULT_REGION`) and
    /// `AWS_CA_BUNDLE`.
    pub fn from_environment() -> Result<Self, TargetError> {
        let secret = |name| Ok(text(name)?.map(Zeroizing::new));
        let credentials = text("AWS_ACCESS_KEY_ID")?.zip(secret("AWS_SECRET_ACCESS_KEY")?);
        let region = match text("AWS_REGION")? {
            Some(region) => Some(region),
            None => text("AWS_DEFAULT_REGION")?,
        };
        let region = region.unwrap_or_else(|| DEFAULT_REGION.to_owned());
        if !region.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
            return Err(TargetError::Setting { name: "AWS_REGION", why: "is no name of a region" });
        }
        let ca_bundle = std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty()).map(PathBuf::from);
        Ok(Self { credentials, session_token: secret("AWS_SESSION_TOKEN")?, region, ca_bundle })
    }

    /// These credentials, and otherwise what is usual.
    pub fn of(access_key_id: &str, secret_access_key: &str) -> Self {
        let credentials = Some((access_key_id.to_owned(), Zeroizing::new(secret_access_key.to_owned())));
        Self { credentials, session_token: None, region: DEFAULT_REGION.to_owned(), ca_bundle: None }
    }
}

/// A variable that goes into a header, so it holds nothing that can't.
fn text(name: &'static str) -> Result<Option<String>, TargetError> {
    let why = "holds letters that no key has";
    match std::env::var(name) {
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(TargetError::Setting { name, why }),
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) if text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Some(text)),
        Ok(_) => Err(TargetError::Setting { name, why }),
    }
}

impl fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreSettings").field("region", &self.region).field("ca_bundle", &self.ca_bundle).finish()
    }
}
