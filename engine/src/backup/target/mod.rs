//! The target of a backup: any store that speaks S3, or a directory, behind one small interface.
//!
//! An object is put whole or not at all, never replaced, and durable once the put answers; that is all that two writers
//! need so as not to lose what the other one wrote. Whether a store keeps to it is asked, not believed ([`Target::probe`]).
//! What fails in passing is tried again, bounded in number and in time. Lengths are checked here; contents are sealed and
//! are verified by whoever unseals them: what does not open can be got again.
//!
//! Absent on purpose: overwriting, appending, multipart uploads (an object is 64 MiB at most) and caches.

mod backoff;
mod courier;
mod directory;
mod error;
mod gate;
pub mod limits;
mod name;
mod probe;
mod rate;
mod s3;
mod url;

pub use courier::{Answer, Courier, NoAnswer};
pub use error::TargetError;
pub use gate::{TargetCounters, TargetLimits};
pub use name::{is_name, is_name_prefix};
pub use probe::{Capabilities, Objection};
pub use rate::TokenBucket;
pub use s3::StoreSettings;
pub use url::{TargetUrl, TargetUrlError};

use self::directory::Directory;
use self::gate::Gate;
use self::limits::MAX_PUT_BYTES;
use self::s3::S3;
use self::url::Place;
use bytes::Bytes;
use std::sync::Arc;

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its name, relative to the target.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// A target. Clones share rates and counters. It works on any tokio runtime that has time and I/O enabled; connections
/// belong to the runtime on which they were made, so runtimes don't share one.
#[derive(Debug, Clone)]
pub struct Target {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// For people.
    shown: String,
    gate: Arc<Gate>,
    store: Store,
}

#[derive(Debug)]
enum Store {
    Directory(Arc<Directory>),
    S3(Box<S3>),
}

impl Target {
    /// Opens a target. Nothing is asked of it yet. Credentials of a store come from the environment alone.
    pub fn open(url: &TargetUrl, limits: TargetLimits) -> Result<Self, TargetError> {
        // A directory needs none, whatever the environment holds.
        let settings = if url.is_directory() { None } else { Some(StoreSettings::from_environment()?) };
        Self::open_as(url, limits, settings.as_ref(), None)
    }

    /// Opens a target with credentials that the caller has, in place of the environment's.
    pub fn open_with(url: &TargetUrl, limits: TargetLimits, settings: &StoreSettings) -> Result<Self, TargetError> {
        Self::open_as(url, limits, Some(settings), None)
    }

    /// Opens a target whose store is not reached over HTTP but by this courier.
    pub fn open_by(courier: Arc<dyn Courier>, url: &TargetUrl, limits: TargetLimits) -> Result<Self, TargetError> {
        Self::open_as(url, limits, Some(&StoreSettings::of("id", "secret")), Some(courier))
    }

    fn open_as(
        url: &TargetUrl,
        limits: TargetLimits,
        settings: Option<&StoreSettings>,
        courier: Option<Arc<dyn Courier>>,
    ) -> Result<Self, TargetError> {
        let gate = Arc::new(Gate::new(limits)?);
        let shown = match url.endpoint() {
            Some(endpoint) => format!("{url} at {endpoint}"),
            None => url.to_string(),
        };
        let store = match url.place() {
            Place::Directory(path) => Store::Directory(Arc::new(Directory::new(path, shown.clone()))),
            Place::Bucket { bucket, prefix, endpoint } => {
                let settings = settings.ok_or_else(|| TargetError::NoCredentials { target: shown.clone() })?;
                let place = (bucket.as_str(), prefix.as_str(), endpoint.as_deref());
                Store::S3(Box::new(S3::open(place, settings, courier, shown.clone(), gate.clone())?))
            }
        };
        Ok(Self { inner: Arc::new(Inner { shown, gate, store }) })
    }

    /// Finds out what the target can do, with objects of random names that it removes again.
    pub async fn probe(&self) -> Result<Capabilities, TargetError> {
        probe::probe(self).await
    }

    /// Makes an object of these parts, one after the other. It is there whole and durable once this answers.
    ///
    /// [`TargetError::Exists`] says that there is another object of that name, and not the one of a try of this call whose
    /// answer was lost. After any other error the object may be there, whole, or not.
    pub async fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<(), TargetError> {
        check(name)?;
        let bytes = parts.iter().map(Bytes::len).sum::<usize>();
        if bytes as u64 > MAX_PUT_BYTES {
            return Err(TargetError::Oversize { name: name.to_owned(), limit_bytes: MAX_PUT_BYTES });
        }
        match &self.inner.store {
            Store::Directory(directory) => {
                self.inner.gate.request().await;
                self.inner.gate.sending(bytes).await;
                let name = name.to_owned();
                self.blocking(directory, move |directory| directory.put_new(&name, &parts)).await
            }
            Store::S3(store) => store.put_new(name, parts).await,
        }
    }

    /// All of an object, if it has no more than `limit_bytes`.
    pub async fn get(&self, name: &str, limit_bytes: u64) -> Result<Bytes, TargetError> {
        check(name)?;
        match &self.inner.store {
            Store::Directory(directory) => {
                self.inner.gate.request().await;
                let name = name.to_owned();
                let bytes = self.blocking(directory, move |directory| directory.get(&name, limit_bytes)).await?;
                self.inner.gate.received(bytes.len()).await;
                Ok(bytes)
            }
            Store::S3(store) => store.get(name, limit_bytes).await,
        }
    }

    /// `length` bytes of an object from `offset` on: all of them, or [`TargetError::Short`].
    pub async fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Bytes, TargetError> {
        check(name)?;
        match &self.inner.store {
            Store::Directory(directory) => {
                self.inner.gate.request().await;
                let name = name.to_owned();
                let bytes =
                    self.blocking(directory, move |directory| directory.get_range(&name, offset, length)).await?;
                self.inner.gate.received(bytes.len()).await;
                Ok(bytes)
            }
            Store::S3(store) => store.get_range(name, offset, length).await,
        }
    }

    /// All objects whose names begin with `prefix`, in the order of their names. What is no name of ours is left out.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>, TargetError> {
        if !is_name_prefix(prefix) {
            return Err(TargetError::Name(presentable(prefix)));
        }
        match &self.inner.store {
            Store::Directory(directory) => {
                self.inner.gate.request().await;
                let prefix = prefix.to_owned();
                self.blocking(directory, move |directory| directory.list(&prefix)).await
            }
            Store::S3(store) => store.list(prefix).await,
        }
    }

    /// Removes an object. One that is gone already is fine.
    pub async fn delete(&self, name: &str) -> Result<(), TargetError> {
        check(name)?;
        match &self.inner.store {
            Store::Directory(directory) => {
                self.inner.gate.request().await;
                let name = name.to_owned();
                self.blocking(directory, move |directory| directory.delete(&name)).await
            }
            Store::S3(store) => store.delete(name).await,
        }
    }

    /// What has passed so far.
    pub fn counters(&self) -> TargetCounters {
        self.inner.gate.counters()
    }

    /// Whether nobody on the way reads along.
    fn is_encrypted(&self) -> bool {
        match &self.inner.store {
            Store::Directory(_) => true,
            Store::S3(store) => store.is_encrypted(),
        }
    }

    /// Whether a put is refused whose bytes don't fit their checksum.
    async fn refuses_wrong_checksums(&self, name: &str) -> Result<bool, TargetError> {
        match &self.inner.store {
            // There is none: the file system is trusted with what it is given.
            Store::Directory(_) => Ok(false),
            Store::S3(store) => store.refuses_wrong_checksums(name).await,
        }
    }

    /// Whether the place locks objects against deletion.
    async fn has_object_lock(&self) -> Result<bool, TargetError> {
        match &self.inner.store {
            Store::Directory(_) => Ok(false),
            Store::S3(store) => store.has_object_lock().await,
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        directory: &Arc<Directory>,
        work: impl FnOnce(&Directory) -> Result<T, TargetError> + Send + 'static,
    ) -> Result<T, TargetError> {
        let directory = directory.clone();
        let done = tokio::task::spawn_blocking(move || work(&directory)).await;
        let ended = |_| TargetError::Failed { target: self.inner.shown.clone(), why: "the process ends".into() };
        done.map_err(ended)?
    }
}

/// As messages name it.
impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.inner.shown)
    }
}

fn check(name: &str) -> Result<(), TargetError> {
    is_name(name).then_some(()).ok_or_else(|| TargetError::Name(presentable(name)))
}

/// What a stranger wrote, cut and without control characters, so that it can't fill or steer a terminal.
fn presentable(text: &str) -> String {
    let visible = |letter: char| match letter.is_control() {
        true if letter.is_whitespace() => ' ',
        true => char::REPLACEMENT_CHARACTER,
        false => letter,
    };
    text.chars().take(limits::SHOWN_CHARACTERS).map(visible).collect()
}
