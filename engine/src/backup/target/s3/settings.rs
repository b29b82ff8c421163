//! What a store has to be told that stands in no URL: credentials, region, and whose certificates are trusted.

use super::super::TargetError;
use std::ffi::OsString;
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
        Self::from(&|name| std::env::var_os(name))
    }

    fn from(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, TargetError> {
        let text = |name| text(name, variable(name));
        let secret = |name| Ok(text(name)?.map(Zeroizing::new));
        let credentials = text("AWS_ACCESS_KEY_ID")?.zip(secret("AWS_SECRET_ACCESS_KEY")?);
        let region = text("AWS_REGION")?.or(text("AWS_DEFAULT_REGION")?);
        let region = region.unwrap_or_else(|| DEFAULT_REGION.to_owned());
        // It becomes a part of a host's name.
        if !region.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
            return Err(TargetError::Setting { name: "AWS_REGION", why: "is no name of a region" });
        }
        let ca_bundle = variable("AWS_CA_BUNDLE").filter(|path| !path.is_empty()).map(PathBuf::from);
        Ok(Self { credentials, session_token: secret("AWS_SESSION_TOKEN")?, region, ca_bundle })
    }

    /// These credentials, and otherwise what is usual.
    pub fn of(access_key_id: &str, secret_access_key: &str) -> Self {
        let credentials = Some((access_key_id.to_owned(), Zeroizing::new(secret_access_key.to_owned())));
        Self { credentials, session_token: None, region: DEFAULT_REGION.to_owned(), ca_bundle: None }
    }
}

/// A variable that goes into a header, so it holds nothing that can't.
fn text(name: &'static str, value: Option<OsString>) -> Result<Option<String>, TargetError> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(None) };
    let text = value.into_string().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()));
    let refused = TargetError::Setting { name, why: "holds letters that can't be in it" };
    text.map(Some).ok_or(refused)
}

impl fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreSettings").field("region", &self.region).field("ca_bundle", &self.ca_bundle).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<StoreSettings, TargetError> {
        StoreSettings::from(&|name| {
            variables.iter().find(|(found, _)| *found == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn what_the_environment_holds() {
        let bare = read(&[]).expect("settings");
        assert!(bare.credentials.is_none() && bare.session_token.is_none() && bare.ca_bundle.is_none());
        assert_eq!(bare.region, "us-east-1");
        let all = read(&[
            ("AWS_ACCESS_KEY_ID", "AKIA"),
            ("AWS_SECRET_ACCESS_KEY", "sec/ret+"),
            ("AWS_SESSION_TOKEN", "token=="),
            ("AWS_DEFAULT_REGION", "eu-west-1"),
            ("AWS_CA_BUNDLE", "/etc/ca.pem"),
        ])
        .expect("settings");
        let (id, secret) = all.credentials.as_ref().expect("credentials");
        assert_eq!((id.as_str(), secret.as_str()), ("AKIA", "sec/ret+"));
        assert_eq!(all.session_token.as_ref().map(|token| token.as_str()), Some("token=="));
        assert_eq!((all.region.as_str(), all.ca_bundle.clone()), ("eu-west-1", Some("/etc/ca.pem".into())));
        let shown = format!("{all:?}");
        assert!(!shown.contains("sec/ret") && !shown.contains("token=="), "{shown}");
        assert!(read(&[("AWS_ACCESS_KEY_ID", "AKIA")]).expect("settings").credentials.is_none(), "half of them");
        assert!(
            read(&[("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", "x")]).expect("settings").credentials.is_none()
        );
    }

    #[test]
    fn what_can_not_be_in_a_header_or_a_host() {
        let refused = [
            ("AWS_ACCESS_KEY_ID", "AK IA"),
            ("AWS_SECRET_ACCESS_KEY", "secret\n"),
            ("AWS_SESSION_TOKEN", "tok\u{e9}n"),
            ("AWS_REGION", "x.example/"),
            ("AWS_REGION", "x@example"),
        ];
        for (name, value) in refused {
            let error = read(&[(name, value)]).expect_err("refused");
            assert!(error.exit_code() == 2 && error.to_string().starts_with(name), "{error}");
            assert!(!error.to_string().contains(value.trim()), "{error}");
        }
    }
}
