//! The transit engine of Vault or OpenBao: `vault:https://HOST[:PORT][?..]`.
//!
//! A key is one of the type `hmac`, and a version of it is one of transit's. The client logs in with a token that it is
//! given in a file or in the environment, by AppRole, or by its certificate. It needs `update` on
//! `MOUNT/hmac/KEY/sha2-256`; whoever makes or rotates a key needs more (docs/kms.md). Tokens are not renewed: a client
//! that logs in by itself does so again once its token is refused.
//!
//! What the engine answers is text in a buffer of the HTTP library: such buffers are not wiped.

use super::parameters::Parameters;
use super::{Created, KmsError, Mac, TenantKms, is_key, name_of, presentable};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use farside_io::entropy::{Entropy, random};
use futures_util::future::LocalBoxFuture;
use reqwest::{Method, StatusCode, Url};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long a connection may take to come about.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a request is made, where the KMS can't be reached or is not able to answer now.
const ATTEMPTS: u32 = 3;
/// Before the second attempt, on average; twice as long before the third.
const PAUSE: Duration = Duration::from_millis(250);
/// Answers are a few hundred bytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;
/// A token or a secret id in a file.
const MAX_SECRET_BYTES: u64 = 64 << 10;

const KNOWN: [&str; 11] = [
    "mount",
    "namespace",
    "ca",
    "auth",
    "auth-mount",
    "token-file",
    "role-id",
    "secret-id-file",
    "role",
    "cert",
    "key",
];

/// How the client proves itself.
#[derive(Debug, Clone)]
enum Login {
    /// With a token from a file, or else from the environment or `~/.vault-token`, as `bao` and `vault` have it.
    Token(Option<PathBuf>),
    /// With a role's id and the secret id in a file.
    AppRole { mount: String, role_id: String, secret_id: PathBuf },
    /// With the certificate that the connection shows.
    Certificate { mount: String, role: Option<String> },
}

/// A transit engine.
pub struct VaultKms {
    base: Url,
    parameters: Parameters,
    mount: String,
    login: Login,
    entropy: Rc<dyn Entropy>,
    /// Made when it is first needed, which reads the files of certificates.
    http: RefCell<Option<reqwest::Client>>,
    token: RefCell<Option<Rc<Zeroizing<String>>>>,
}

impl std::fmt::Debug for VaultKms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.url())
    }
}

/// A request that was answered: with a body, or with an objection.
struct Reply {
    status: StatusCode,
    body: Value,
}

impl Reply {
    /// What the KMS says is wrong.
    fn objection(&self) -> String {
        let errors = self.body["errors"].as_array().cloned().unwrap_or_default();
        let text: Vec<&str> = errors.iter().filter_map(Value::as_str).collect();
        let text: String = match text.is_empty() {
            true => format!("it answers {}", self.status),
            false => text.join("; "),
        };
        presentable(&text)
    }

    /// Whether the same may be answered in a moment.
    fn is_passing(&self) -> bool {
        // 412: a standby is behind; 472 and 473: a standby that answers no such request.
        matches!(self.status.as_u16(), 412 | 429 | 472 | 473) || self.status.is_server_error()
    }
}

impl VaultKms {
    /// Reads `vault:https://HOST[:PORT][?mount=..&..]`; docs/kms.md lists the parameters. Relative paths are taken from the
    /// current directory, once and for all.
    pub fn parse(url: &str, entropy: Rc<dyn Entropy>) -> Result<Self, KmsError> {
        let refuse = |why: String| KmsError::Url { url: url.to_owned(), why };
        let rest = url.strip_prefix("vault:").unwrap_or_default();
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        let base = Url::parse(address).map_err(|error| refuse(format!("it has no address: {error}")))?;
        let is_local = matches!(base.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        match base.scheme() {
            "https" => {}
            "http" if is_local => {}
            "http" => return Err(refuse("without TLS keys would cross the network in the open: use https".into())),
            _ => return Err(refuse("it is reached as vault:https://HOST[:PORT]".into())),
        }
        if !base.username().is_empty() || base.password().is_some() || base.fragment().is_some() {
            return Err(refuse("it takes neither a user nor a fragment".into()));
        }
        if !matches!(base.path(), "" | "/") || base.host_str().is_none() {
            return Err(refuse("it takes a host and a port, and no path: mount=PATH says where the engine is".into()));
        }
        let mut parameters = Parameters::parse(url, query, &KNOWN)?;
        parameters.make_absolute(&["ca", "token-file", "secret-id-file", "cert", "key"])?;
        for name in ["mount", "namespace", "auth-mount"] {
            if parameters.get(name).is_some_and(|path| !is_path(path)) {
                return Err(refuse(format!("{name} is a path such as team/transit")));
            }
        }
        if parameters.get("cert").is_some() != parameters.get("key").is_some() {
            return Err(refuse("cert and key go together".into()));
        }
        let login = Login::parse(&parameters).map_err(|why| refuse(why.into()))?;
        let mount = parameters.get("mount").unwrap_or("transit").to_owned();
        Ok(Self { base, parameters, mount, login, entropy, http: RefCell::default(), token: RefCell::default() })
    }

    fn unreachable(&self, why: impl Into<String>) -> KmsError {
        KmsError::Unreachable { kms: self.place(), why: why.into() }
    }

    fn failed(&self, why: impl Into<String>) -> KmsError {
        KmsError::Failed { kms: self.place(), why: why.into() }
    }

    /// Which KMS, for people.
    fn place(&self) -> String {
        let address = self.base.as_str().trim_end_matches('/');
        match self.parameters.get("namespace") {
            Some(namespace) => format!("vault:{address} ({namespace}/{})", self.mount),
            None => format!("vault:{address} ({})", self.mount),
        }
    }

    fn http(&self) -> Result<reqwest::Client, KmsError> {
        if let Some(http) = &*self.http.borrow() {
            return Ok(http.clone());
        }
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_PATIENCE)
            .timeout(PATIENCE)
            // A token would go along wherever a redirect leads.
            .redirect(reqwest::redirect::Policy::none())
            .https_only(self.base.scheme() == "https");
        if self.base.scheme() == "http" {
            // Nor does a proxy hear what may not leave this machine.
            builder = builder.no_proxy();
        }
        let bad = |path: &Path, what: &str| self.failed(format!("{} holds no {what}", path.display()));
        if let Some(path) = self.parameters.path("ca") {
            let certificates = reqwest::Certificate::from_pem_bundle(&read(&path)?);
            let certificates = certificates.ok().filter(|certificates| !certificates.is_empty());
            builder = builder.tls_certs_only(certificates.ok_or_else(|| bad(&path, "certificate in PEM"))?);
        }
        if let (Some(certificate), Some(key)) = (self.parameters.path("cert"), self.parameters.path("key")) {
            let both = Zeroizing::new([&read(&certificate)?[..], b"\n", &read(&key)?[..]].concat());
            let identity = reqwest::Identity::from_pem(&both);
            builder = builder.identity(identity.map_err(|_| bad(&certificate, "certificate that the key fits"))?);
        }
        let http = builder.build().map_err(|error| self.failed(told(&error)))?;
        self.http.replace(Some(http.clone()));
        Ok(http)
    }

    /// Makes a request, again where that may help. Everything that is asked here is harmless to repeat.
    async fn request(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Reply, KmsError> {
        let http = self.http()?;
        let url = format!("{}v1/{path}", self.base);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut request = http.request(method.clone(), &url).header("X-Vault-Request", "true");
            if let Some(namespace) = self.parameters.get("namespace") {
                request = request.header("X-Vault-Namespace", namespace);
            }
            if let Some(token) = token {
                request = request.header("X-Vault-Token", token);
            }
            if let Some(body) = body {
                request = request.header("Content-Type", "application/json").body(body.to_string());
            }
            let failure = match self.answer(request).await {
                Ok(reply)
                    if reply.status == StatusCode::SERVICE_UNAVAILABLE && reply.objection().contains("sealed") =>
                {
                    return Err(KmsError::Sealed { kms: self.place() });
                }
                Ok(reply) if !reply.is_passing() => return Ok(reply),
                Ok(reply) => self.unreachable(reply.objection()),
                Err(error @ KmsError::Unreachable { .. }) => error,
                Err(error) => return Err(error),
            };
            if attempt >= ATTEMPTS {
                return Err(failure);
            }
            self.pause(attempt).await;
        }
    }

    /// Half as long as it might be, and up to half as long again: clients that failed together do not come back together.
    async fn pause(&self, attempt: u32) {
        let span = PAUSE * (1 << (attempt - 1).min(8));
        let share = u32::from_le_bytes(random(self.entropy.as_ref()));
        tokio::time::sleep(span / 2 + span.mul_f64(f64::from(share) / f64::from(u32::MAX))).await;
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<Reply, KmsError> {
        let mut response = request.send().await.map_err(|error| self.transport(&error))?;
        let status = response.status();
        let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
        while let Some(piece) = response.chunk().await.map_err(|error| self.transport(&error))? {
            if bytes.len() + piece.len() > MAX_ANSWER_BYTES {
                return Err(self.failed("it answers more than any answer has"));
            }
            bytes.extend_from_slice(&piece);
        }
        let body = match bytes.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        };
        Ok(Reply { status, body })
    }

    /// A certificate that is not trusted is no matter of time.
    fn transport(&self, error: &reqwest::Error) -> KmsError {
        let text = told(error);
        match text {
            // The server's alert (RFC 8446, section 6) is about what this client has shown.
            _ if text.contains("fatal alert") => KmsError::Denied { kms: self.place(), why: text },
            _ if text.contains("certificate") => self.failed(text),
            _ => self.unreachable(text),
        }
    }

    async fn log_in(&self) -> Result<Rc<Zeroizing<String>>, KmsError> {
        if let Some(token) = &*self.token.borrow() {
            return Ok(token.clone());
        }
        let token = match &self.login {
            Login::Token(file) => self.given_token(file.as_deref())?,
            Login::AppRole { mount, role_id, secret_id } => {
                let secret_id = secret(secret_id)?;
                self.token_of(mount, &json!({ "role_id": role_id, "secret_id": secret_id.as_str() })).await?
            }
            Login::Certificate { mount, role } => {
                let body = role.as_ref().map_or(json!({}), |role| json!({ "name": role }));
                self.token_of(mount, &body).await?
            }
        };
        let token = Rc::new(token);
        self.token.replace(Some(token.clone()));
        Ok(token)
    }

    fn given_token(&self, file: Option<&Path>) -> Result<Zeroizing<String>, KmsError> {
        if let Some(file) = file {
            return secret(file);
        }
        let named = ["VAULT_TOKEN", "BAO_TOKEN"].into_iter().find_map(|name| std::env::var(name).ok());
        if let Some(token) = named.filter(|token| !token.is_empty()) {
            return Ok(Zeroizing::new(token));
        }
        let kept = std::env::home_dir().map(|home| home.join(".vault-token")).filter(|path| path.exists());
        let absent = || KmsError::Denied {
            kms: self.place(),
            why: "there is no token: set VAULT_TOKEN, or name a file by token-file=".into(),
        };
        secret(&kept.ok_or_else(absent)?)
    }

    async fn token_of(&self, mount: &str, body: &Value) -> Result<Zeroizing<String>, KmsError> {
        let reply = self.request(Method::POST, &format!("auth/{mount}/login"), None, Some(body)).await?;
        match reply.body["auth"]["client_token"].as_str() {
            Some(token) if reply.status.is_success() => Ok(Zeroizing::new(token.to_owned())),
            _ if reply.status.is_client_error() => {
                Err(KmsError::Denied { kms: self.place(), why: format!("logging in: {}", reply.objection()) })
            }
            _ => Err(self.failed(format!("logging in gave no token: {}", reply.objection()))),
        }
    }

    /// Asks with a token. One that was good before may have expired since, or been renewed where it is kept: another one
    /// is got, once.
    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Reply, KmsError> {
        let mut is_old = self.token.borrow().is_some();
        loop {
            let token = self.log_in().await?;
            let reply = self.request(method.clone(), path, Some(&token), body).await?;
            if reply.status != StatusCode::FORBIDDEN {
                return Ok(reply);
            }
            // Unless somebody else has replaced it already.
            let mut held = self.token.borrow_mut();
            if held.as_ref().is_some_and(|held| Rc::ptr_eq(held, &token)) {
                held.take();
            }
            if !std::mem::take(&mut is_old) {
                return Err(KmsError::Denied { kms: self.place(), why: reply.objection() });
            }
        }
    }

    /// The newest version of a key; nothing where there is no such key.
    async fn latest(&self, key: &str) -> Result<Option<u32>, KmsError> {
        let reply = self.ask(Method::GET, &format!("{}/keys/{key}", self.mount), None).await?;
        match reply.status {
            status if status.is_success() => self.version_in(&reply).map(Some),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.failed(reply.objection())),
        }
    }

    fn version_in(&self, reply: &Reply) -> Result<u32, KmsError> {
        let version = reply.body["data"]["latest_version"].as_u64().and_then(|version| u32::try_from(version).ok());
        version.filter(|version| *version > 0).ok_or_else(|| self.failed("it does not say which version is the newest"))
    }

    fn check(&self, key: &str, version: u32) -> Result<(), KmsError> {
        is_key(key, version)
            .then_some(())
            .ok_or_else(|| KmsError::NoKey { kms: self.place(), key: name_of(key, version) })
    }

    async fn create(&self, key: &str) -> Result<Created, KmsError> {
        self.check(key, 1)?;
        if self.latest(key).await?.is_some() {
            return Ok(Created::default());
        }
        let path = format!("{}/keys/{key}", self.mount);
        let reply = self.ask(Method::POST, &path, Some(&json!({ "type": "hmac", "key_size": 32 }))).await?;
        match reply.status.is_success() {
            true => Ok(Created { key: true, place: false }),
            false => Err(self.failed(format!("it makes no key: {}", reply.objection()))),
        }
    }

    async fn next_version(&self, key: &str, above: u32) -> Result<u32, KmsError> {
        self.check(key, 1)?;
        let before = self.latest(key).await?;
        let before = before.ok_or_else(|| KmsError::NoKey { kms: self.place(), key: name_of(key, 1) })?;
        let reply = self.ask(Method::POST, &format!("{}/keys/{key}/rotate", self.mount), Some(&json!({}))).await?;
        if !reply.status.is_success() {
            return Err(self.failed(format!("it does not rotate key {key}: {}", reply.objection())));
        }
        // Vault answers nothing, OpenBao the key.
        let after = self.latest(key).await?.unwrap_or(0);
        match after {
            _ if after <= before => Err(self.failed(format!("key {key} has no new version after it was rotated"))),
            _ if after <= above => {
                Err(self.failed(format!("key {key} has {after} versions, and {above} were used: it was made anew")))
            }
            _ => Ok(after),
        }
    }

    async fn compute(&self, key: &str, version: u32, label: &[u8]) -> Result<Mac, KmsError> {
        self.check(key, version)?;
        let body = json!({ "input": STANDARD.encode(label), "key_version": version });
        let reply = self.ask(Method::POST, &format!("{}/hmac/{key}/sha2-256", self.mount), Some(&body)).await?;
        if !reply.status.is_success() {
            return Err(self.no_mac(key, version, &reply));
        }
        let text = reply.body["data"]["hmac"].as_str().unwrap_or_default();
        let encoded = text.strip_prefix(&format!("vault:v{version}:"));
        let encoded = encoded.ok_or_else(|| self.failed("it answers no MAC of the version that was asked for"))?;
        let mut mac = Zeroizing::new([0; 32]);
        match STANDARD.decode_slice(encoded, &mut mac[..]) {
            Ok(32) => Ok(mac),
            _ => Err(self.failed("it answers a MAC of another length than HMAC-SHA256 has")),
        }
    }

    fn no_mac(&self, key: &str, version: u32, reply: &Reply) -> KmsError {
        let (kms, key, why) = (self.place(), name_of(key, version), reply.objection());
        let says = |words: &[&str]| words.iter().any(|word| why.contains(word));
        match reply.status {
            StatusCode::NOT_FOUND => self.failed(format!("is there a transit engine? {why}")),
            _ if says(&["too old", "disallowed", "soft-deleted", "soft deleted", "disabled"]) => {
                KmsError::Revoked { kms, key, why }
            }
            _ if says(&["not found", "does not exist", "no existing key"]) => KmsError::NoKey { kms, key },
            _ => self.failed(why),
        }
    }
}

impl Login {
    fn parse(parameters: &Parameters) -> Result<Self, &'static str> {
        let has = |name| parameters.get(name).is_some();
        let mount = |default: &str| parameters.get("auth-mount").unwrap_or(default).to_owned();
        let login = match parameters.get("auth").unwrap_or("token") {
            "token" if has("auth-mount") => return Err("auth-mount goes with auth=approle or auth=cert"),
            "token" => Self::Token(parameters.path("token-file")),
            "approle" => match (parameters.get("role-id"), parameters.path("secret-id-file")) {
                (Some(role_id), Some(secret_id)) => {
                    Self::AppRole { mount: mount("approle"), role_id: role_id.to_owned(), secret_id }
                }
                _ => return Err("auth=approle needs role-id and secret-id-file"),
            },
            "cert" if !has("cert") => return Err("auth=cert needs cert and key"),
            "cert" => Self::Certificate { mount: mount("cert"), role: parameters.get("role").map(str::to_owned) },
            _ => return Err("auth is token, approle or cert"),
        };
        match &login {
            Self::Token(_) => {}
            _ if has("token-file") => return Err("token-file goes with auth=token"),
            _ => {}
        }
        if !matches!(login, Self::AppRole { .. }) && (has("role-id") || has("secret-id-file")) {
            return Err("role-id and secret-id-file go with auth=approle");
        }
        if !matches!(login, Self::Certificate { .. }) && has("role") {
            return Err("role goes with auth=cert");
        }
        Ok(login)
    }
}

/// Names between slashes, none of which leads elsewhere.
fn is_path(text: &str) -> bool {
    let is_name = |name: &str| {
        !name.is_empty()
            && !matches!(name, "." | "..")
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    text.trim_end_matches('/') == text && text.split('/').all(is_name)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    let fail = |error| KmsError::Io(path.to_owned(), error);
    let about = std::fs::metadata(path).map_err(fail)?;
    if !about.is_file() || about.len() > MAX_SECRET_BYTES {
        let what = "it is no file that holds a secret or a certificate";
        return Err(fail(std::io::Error::new(std::io::ErrorKind::InvalidData, what)));
    }
    std::fs::read(path).map(Zeroizing::new).map_err(fail)
}

/// A token or the like, without the newline that editors leave.
fn secret(path: &Path) -> Result<Zeroizing<String>, KmsError> {
    let bytes = read(path)?;
    let text = std::str::from_utf8(&bytes).map(str::trim).unwrap_or_default();
    if text.is_empty() || !text.chars().all(|c| c.is_ascii_graphic()) {
        let what = std::io::Error::new(std::io::ErrorKind::InvalidData, "it holds no token and no secret id");
        return Err(KmsError::Io(path.to_owned(), what));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// An error with what is behind it: the library's own line tells only that something failed.
fn told(error: &reqwest::Error) -> String {
    let mut causes = vec![];
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    let text = causes.pop().unwrap_or_else(|| error.to_string());
    let text = if error.is_timeout() { format!("no answer in time ({text})") } else { text };
    presentable(&text)
}

impl TenantKms for VaultKms {
    fn url(&self) -> String {
        format!("vault:{}{}", self.base.as_str().trim_end_matches('/'), self.parameters.encoded())
    }

    fn create_key<'a>(&'a self, key: &'a str) -> LocalBoxFuture<'a, Result<Created, KmsError>> {
        Box::pin(self.create(key))
    }

    fn rotate<'a>(&'a self, key: &'a str, above: u32) -> LocalBoxFuture<'a, Result<u32, KmsError>> {
        Box::pin(self.next_version(key, above))
    }

    fn mac<'a>(&'a self, key: &'a str, version: u32, label: &'a [u8]) -> LocalBoxFuture<'a, Result<Mac, KmsError>> {
        Box::pin(self.compute(key, version, label))
    }
}
