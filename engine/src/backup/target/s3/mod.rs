//! A bucket of a store that speaks S3, through object_store's client, whose own trying again is switched off.
//!
//! object_store repeats a put whose answer was lost and then reports that its own object exists already; it does not obey
//! `Retry-After`. So attempts are made here. A put carries its SHA-256, which the store checks, and a random number as
//! metadata, by which its object is told from another writer's of the same content where an answer was lost.

mod failure;
mod line;
mod settings;

pub use settings::StoreSettings;

use self::failure::{Failure, Kind, Verdict};
use self::line::{Checksum, Line, Streamed, failure_of};
use super::backoff::Backoff;
use super::courier::Courier;
use super::gate::Gate;
use super::limits::{ANSWER_PATIENCE, MAX_LISTED, PAGE_NAMES, SLOWEST_BYTES_PER_SECOND};
use super::name::is_name;
use super::{Listed, TargetError};
use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsAuthorizer, Checksum as Algorithm};
use object_store::client::{HttpRequest, HttpRequestBody};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, Extensions, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    PutPayload, RetryConfig,
};
use reqwest::header::HeaderValue;
use reqwest::{Method, Url};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Metadata of an object: which put made it.
const PUT_NUMBER: &str = "farside-put";

/// A bucket, and what all names in it begin with.
pub(super) struct S3 {
    store: AmazonS3,
    line: Line,
    gate: Arc<Gate>,
    target: String,
    /// Where the bucket is, without a slash at its end.
    bucket_url: String,
    /// Empty, or with a slash at its end.
    prefix: String,
    region: String,
}

/// Without credentials.
impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3").field("bucket_url", &self.bucket_url).field("prefix", &self.prefix).finish()
    }
}

/// An object that is being put.
struct Put {
    name: String,
    payload: PutPayload,
    bytes: u64,
    sha256: digest::Digest,
    number: String,
}

/// What reading led to.
enum Read {
    All(Bytes),
    /// The object is another one: larger, or of another put.
    Other,
    Short,
}

/// What is to be read.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    /// Offset and length; all of it otherwise.
    range: Option<(u64, u64)>,
    limit_bytes: u64,
    /// Of the put that made it, where the store has kept that.
    number: Option<&'a str>,
}

impl S3 {
    pub(super) fn open(
        (bucket, prefix, endpoint): (&str, &str, Option<&str>),
        settings: &StoreSettings,
        courier: Option<Arc<dyn Courier>>,
        target: String,
        gate: Arc<Gate>,
    ) -> Result<Self, TargetError> {
        let failed = |why: String| TargetError::Failed { target: target.clone(), why };
        let (id, secret) =
            settings.credentials.as_ref().ok_or_else(|| TargetError::NoCredentials { target: target.clone() })?;
        let region = settings.region.clone();
        let endpoint = endpoint.map_or_else(|| endpoint_of_aws(&region), str::to_owned);
        let url = Url::parse(&endpoint).map_err(|error| failed(error.to_string()))?;
        let roots = settings.ca_bundle.as_deref().map(certificates).transpose()?;
        let line = match courier {
            Some(courier) => Line::by(courier, gate.clone()),
            None => Line::new(&url, roots, gate.clone()).map_err(|error| failed(failure_of(&error).why))?,
        };
        let mut builder = AmazonS3Builder::new()
            .with_access_key_id(id)
            .with_secret_access_key(secret.as_str())
            .with_region(&region)
            .with_bucket_name(bucket)
            .with_endpoint(&endpoint)
            .with_allow_http(true)
            .with_virtual_hosted_style_request(false)
            .with_checksum_algorithm(Algorithm::SHA256)
            // Not every store has the other kind, and one object is deleted at a time.
            .with_disable_bulk_delete(true)
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_http_connector(line.clone());
        if let Some(token) = &settings.session_token {
            builder = builder.with_token(token.as_str());
        }
        let store = builder.build().map_err(|error| failed(error.to_string()))?;
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { store, line, gate, target, bucket_url: format!("{endpoint}/{bucket}"), prefix, region })
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.bucket_url.starts_with("https:")
    }

    fn path(&self, name: &str) -> Path {
        Path::from(format!("{}{name}", self.prefix))
    }

    fn error(&self, failure: Failure, name: Option<&str>) -> TargetError {
        failure.into_error(&self.target, name)
    }

    /// Tries until it is done, or until there is no point in it any more.
    async fn again<T, F>(&self, name: Option<&str>, mut attempt: impl FnMut() -> F) -> Result<T, TargetError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut backoff = self.gate.backoff();
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(failure) if self.pause(&mut backoff, &failure).await => {}
                Err(failure) => return Err(self.error(failure, name)),
            }
        }
    }

    /// Waits after a failure; whether there is to be another attempt.
    async fn pause(&self, backoff: &mut Backoff, failure: &Failure) -> bool {
        if failure.verdict() == Verdict::Throttled {
            self.gate.was_throttled();
        }
        if !failure.is_passing() {
            return false;
        }
        let chance = self.line.draw() as u32;
        let Some(pause) = backoff.next(self.gate.now(), failure.retry_after, chance) else { return false };
        tracing::debug!(target = %self.target, why = %failure, ?pause, "trying again");
        tokio::time::sleep(pause).await;
        self.gate.retried();
        true
    }

    /// Makes an object. See [`super::Target::put_new`].
    pub(super) async fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<(), TargetError> {
        let mut hash = digest::Context::new(&digest::SHA256);
        parts.iter().for_each(|part| hash.update(part));
        let number = self.line.draw();
        let put = Put {
            name: name.to_owned(),
            bytes: parts.iter().map(|part| part.len() as u64).sum(),
            payload: parts.into_iter().collect(),
            sha256: hash.finish(),
            number: format!("{number:032x}"),
        };
        let mut backoff = self.gate.backoff();
        // Whether some attempt may have made the object, though nobody has heard that it did.
        let mut is_in_doubt = false;
        loop {
            let Err(mut failure) = self.put_once(&put).await else { return Ok(()) };
            is_in_doubt |= failure.may_be_done();
            let there_is_one = failure.verdict() == Verdict::Exists;
            if is_in_doubt && (there_is_one || failure.kind == Kind::Lost) {
                match self.is_ours(&put).await {
                    Ok(Some(true)) => return Ok(()),
                    Ok(Some(false)) => return Err(TargetError::Exists { target: self.target.clone(), name: put.name }),
                    Ok(None) if there_is_one => {
                        failure = Failure::new(Kind::Garbled, "it has an object of that name and does not have it");
                    }
                    Err(other) if there_is_one => failure = other,
                    Ok(None) | Err(_) => {}
                }
            }
            if !self.pause(&mut backoff, &failure).await {
                return Err(self.error(failure, Some(&put.name)));
            }
        }
    }

    async fn put_once(&self, put: &Put) -> Result<(), Failure> {
        let mut attributes = Attributes::new();
        attributes.insert(Attribute::Metadata(PUT_NUMBER.into()), put.number.clone().into());
        let options = PutOptions { mode: PutMode::Create, attributes, ..PutOptions::default() };
        let path = self.path(&put.name);
        let done = self.store.put_opts(&path, put.payload.clone(), options).await;
        let done = done.map_err(|error| match Failure::of(&error) {
            // The store has said yes, in words that object_store does not take.
            Failure { kind: Kind::Garbled, why, .. } => Failure::new(Kind::Lost, why),
            failure => failure,
        })?;
        match done.extensions.get::<Checksum>() {
            Some(Checksum(answered)) if *answered != STANDARD.encode(put.sha256.as_ref()) => {
                // It is ours, and it is not what was sent.
                let _ = self.store.delete(&path).await;
                let kind = Kind::Answer { status: 400, code: "BadDigest".into(), region: None };
                Err(Failure::new(kind, "it has computed another checksum"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the object that is there is the one that is being put; nothing if there is none.
    async fn is_ours(&self, put: &Put) -> Result<Option<bool>, Failure> {
        let wanted = Wanted { range: None, limit_bytes: put.bytes, number: Some(&put.number) };
        match self.get_once(&put.name, wanted).await {
            Ok(Read::All(bytes)) => {
                let is_same = digest::digest(&digest::SHA256, &bytes).as_ref() == put.sha256.as_ref();
                Ok(Some(is_same))
            }
            Ok(Read::Other | Read::Short) => Ok(Some(false)),
            Err(failure) if failure.verdict() == Verdict::NotFound => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// All of an object.
    pub(super) async fn get(&self, name: &str, limit_bytes: u64) -> Result<Bytes, TargetError> {
        let wanted = Wanted { range: None, limit_bytes, number: None };
        let (target, name) = (self.target.clone(), name.to_owned());
        match self.again(Some(&name), || self.get_once(&name, wanted)).await? {
            Read::All(bytes) => Ok(bytes),
            Read::Other => Err(TargetError::TooLarge { target, name, limit_bytes }),
            Read::Short => Err(TargetError::Short { target, name }),
        }
    }

    /// A part of an object.
    pub(super) async fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Bytes, TargetError> {
        let short = || TargetError::Short { target: self.target.clone(), name: name.to_owned() };
        if length == 0 {
            return Ok(Bytes::new());
        }
        if offset.checked_add(length).is_none() {
            return Err(short());
        }
        let wanted = Wanted { range: Some((offset, length)), limit_bytes: length, number: None };
        match self.again(Some(name), || self.get_once(name, wanted)).await? {
            Read::All(bytes) => Ok(bytes),
            Read::Other | Read::Short => Err(short()),
        }
    }

    async fn get_once(&self, name: &str, wanted: Wanted<'_>) -> Result<Read, Failure> {
        let mut extensions = Extensions::new();
        extensions.insert(Streamed);
        let range = wanted.range.map(|(offset, length)| GetRange::Bounded(offset..offset + length));
        let options = GetOptions { range, extensions, ..GetOptions::default() };
        let found = self.store.get_opts(&self.path(name), options).await.map_err(|error| Failure::of(&error))?;
        let length = found.range.end - found.range.start;
        let number = found.attributes.get(&Attribute::Metadata(PUT_NUMBER.into()));
        let is_others = wanted.number.zip(number).is_some_and(|(wanted, found)| wanted != found.as_ref());
        if length > wanted.limit_bytes || is_others {
            return Ok(Read::Other);
        }
        if wanted.range.is_some_and(|(_, wanted)| wanted != length) {
            return Ok(Read::Short);
        }
        self.receive(found, length).await.map(Read::All)
    }

    async fn receive(&self, found: object_store::GetResult, length: u64) -> Result<Bytes, Failure> {
        let mut bytes = BytesMut::with_capacity(usize::try_from(length).unwrap_or(0));
        let mut pieces = found.into_stream();
        // Time that the gate takes does not count.
        let mut waited = Duration::ZERO;
        loop {
            let begun = Instant::now();
            let piece = timeout(ANSWER_PATIENCE, pieces.next()).await;
            waited += begun.elapsed();
            let late = Duration::from_secs(bytes.len() as u64 / SLOWEST_BYTES_PER_SECOND) + ANSWER_PATIENCE;
            let piece = match piece {
                Ok(Some(piece)) if waited <= late => piece.map_err(|error| Failure::of(&error))?,
                Ok(None) => break,
                Ok(Some(_)) | Err(_) => return Err(Failure::new(Kind::Lost, "the object does not come in time")),
            };
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > length {
                break;
            }
            self.gate.received(piece.len()).await;
        }
        match bytes.len() as u64 == length {
            true => Ok(bytes.freeze()),
            false => Err(Failure::new(Kind::Lost, "the object has not come whole")),
        }
    }

    /// All objects whose names begin so, in order.
    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<Listed>, TargetError> {
        let key = format!("{}{prefix}", self.prefix);
        let key = (!key.is_empty()).then_some(key.as_str());
        let (mut found, mut token) = (Vec::new(), None);
        loop {
            let before = token.clone();
            let page = self.again(None, || async {
                let options = PaginatedListOptions {
                    page_token: token.clone(),
                    max_keys: Some(PAGE_NAMES),
                    ..PaginatedListOptions::default()
                };
                self.store.list_paginated(key, options).await.map_err(|error| Failure::of(&error))
            });
            let page = page.await?;
            found.extend(page.result.objects.into_iter().filter_map(|object| {
                let name = object.location.as_ref().strip_prefix(&self.prefix)?;
                (is_name(name) && name.starts_with(prefix))
                    .then(|| Listed { name: name.to_owned(), bytes: object.size })
            }));
            token = page.page_token;
            if found.len() > MAX_LISTED {
                return Err(TargetError::TooMany { target: self.target.clone(), limit: MAX_LISTED });
            }
            if token.is_none() {
                break;
            }
            if token == before {
                let why = "its listing does not get on".to_owned();
                return Err(TargetError::Failed { target: self.target.clone(), why });
            }
        }
        found.sort_unstable_by(|one: &Listed, other| one.name.cmp(&other.name));
        found.dedup_by(|one, other| one.name == other.name);
        Ok(found)
    }

    /// Removes an object, if it is there.
    pub(super) async fn delete(&self, name: &str) -> Result<(), TargetError> {
        let path = self.path(name);
        let deleted =
            self.again(Some(name), || async { self.store.delete(&path).await.map_err(|error| Failure::of(&error)) });
        match deleted.await {
            Err(TargetError::NotFound { .. }) => Ok(()),
            deleted => deleted,
        }
    }

    /// Whether the store refuses a put whose bytes don't fit the SHA-256 that comes with them.
    pub(super) async fn refuses_wrong_checksums(&self, name: &str) -> Result<bool, TargetError> {
        let (bytes, others) = (Bytes::from_static(b"these bytes"), b"other bytes");
        let checksum = STANDARD.encode(digest::digest(&digest::SHA256, others));
        let url = format!("{}/{}{name}", self.bucket_url, self.prefix);
        let header = ("x-amz-checksum-sha256", checksum.as_str());
        let put = self.again(Some(name), || async {
            match self.ask(Method::PUT, &url, bytes.clone(), Some(header)).await {
                Ok(_) => Ok(false),
                Err(failure) if matches!(failure.kind, Kind::Answer { status: 400, .. }) => Ok(true),
                Err(failure) => Err(failure),
            }
        });
        put.await
    }

    /// Whether the bucket locks objects: `ObjectLockEnabled` in its configuration. Where it has none, or these
    /// credentials may not look, there is none to rely on.
    pub(super) async fn has_object_lock(&self) -> Result<bool, TargetError> {
        let url = format!("{}?object-lock", self.bucket_url);
        let asked = self.again(None, || async {
            match self.ask(Method::GET, &url, Bytes::new(), None).await {
                Ok(answer) => Ok(String::from_utf8_lossy(&answer).contains("<ObjectLockEnabled>Enabled</")),
                Err(failure) if failure.is_passing() => Err(failure),
                Err(_) => Ok(false),
            }
        });
        asked.await
    }

    /// Makes a request that object_store has no words for, and answers the body.
    async fn ask(
        &self,
        method: Method,
        url: &str,
        body: Bytes,
        header: Option<(&'static str, &str)>,
    ) -> Result<Bytes, Failure> {
        let unusable = |_| Failure::new(Kind::Distrusted, "the request can't be made");
        let credential = self.store.credentials().get_credential().await.map_err(|error| Failure::of(&error))?;
        let mut request = HttpRequest::new(HttpRequestBody::from(body.clone()));
        *request.method_mut() = method;
        *request.uri_mut() = url.parse().map_err(|_| unusable(()))?;
        if let Some((name, value)) = header {
            let value = HeaderValue::from_str(value).map_err(|_| unusable(()))?;
            request.headers_mut().insert(name, value);
        }
        let authorizer = AwsAuthorizer::new(&credential, "s3", &self.region);
        let sha256 = digest::digest(&digest::SHA256, &body);
        let signed = authorizer.try_authorize(&mut request, Some(sha256.as_ref()));
        signed.map_err(|error| Failure::of(&error))?;
        let answer = self.line.exchange(request).await?;
        answer.into_body().bytes().await.map_err(|_| Failure::new(Kind::Lost, "the answer has not come whole"))
    }
}

fn endpoint_of_aws(region: &str) -> String {
    let china = if region.starts_with("cn-") { ".cn" } else { "" };
    format!("https://s3.{region}.amazonaws.com{china}")
}

fn certificates(path: &std::path::Path) -> Result<Vec<reqwest::Certificate>, TargetError> {
    let bytes = std::fs::read(path).map_err(|error| TargetError::Io(path.to_owned(), error))?;
    let found = reqwest::Certificate::from_pem_bundle(&bytes).ok().filter(|found| !found.is_empty());
    found.ok_or(TargetError::Setting { name: "AWS_CA_BUNDLE", why: "names a file that holds no certificate in PEM" })
}
