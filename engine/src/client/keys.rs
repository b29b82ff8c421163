//! Tenant data keys, for as long as a command takes; and the check that a KMS is the right one before it is trusted.

use super::{Client, ClientError};
use crate::kms::TenantKms;
use farside_codec::delta::EpochRecord;
use farside_codec::ids::{EpochId, Label, TenantId};
use farside_codec::seal::{TenantDataKey, kms_label};
use farside_io::entropy::{Entropy, random};
use farside_io::secret::SecretPage;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use tokio::time::Instant;

/// Epochs in use at once; a log that used more than this in its life asks the KMS again now and then.
const MAX_KEYS: usize = 64;

/// Every KMS in use at once: a client serves a few tenants.
const MAX_KMS: usize = 64;

/// What came from KMS lately, and the way there.
#[derive(Default)]
pub(super) struct KeyCache {
    /// Each until when it is used.
    keys: RefCell<HashMap<EpochId, (Instant, Rc<TenantDataKey>)>>,
    kms: RefCell<HashMap<String, Rc<dyn TenantKms>>>,
}

impl KeyCache {
    /// The KMS at a URL, if it was used before.
    pub(super) fn kms(&self, url: &str) -> Option<Rc<dyn TenantKms>> {
        self.kms.borrow().get(url).cloned()
    }

    pub(super) fn keep(&self, url: String, kms: Rc<dyn TenantKms>) {
        let mut known = self.kms.borrow_mut();
        if known.len() >= MAX_KMS {
            known.clear();
        }
        known.insert(url, kms);
    }

    /// Has the KMS asked again for these.
    pub(super) fn forget(&self, epochs: impl IntoIterator<Item = EpochId>) {
        let mut keys = self.keys.borrow_mut();
        epochs.into_iter().for_each(|epoch| drop(keys.remove(&epoch)));
    }
}

async fn compute(kms: &dyn TenantKms, tenant: TenantId, epoch: &EpochRecord) -> Result<TenantDataKey, ClientError> {
    let label = kms_label(tenant, epoch.epoch, &epoch.salt);
    let mac = kms.mac(&epoch.key_name, epoch.key_version, &label).await?;
    let page = SecretPage::new(&mac).map_err(|error| ClientError::Failed(format!("no page for a key: {error}")))?;
    Ok(TenantDataKey::kept(page))
}

/// A new epoch under a version of a key of the tenant's KMS.
pub(super) async fn new_epoch(
    kms: &dyn TenantKms,
    tenant: TenantId,
    key_name: &str,
    key_version: u32,
    entropy: &dyn Entropy,
) -> Result<EpochRecord, ClientError> {
    let mut epoch = EpochRecord {
        epoch: EpochId(random(entropy)),
        salt: random(entropy),
        key_name: key_name.to_owned(),
        key_version,
        check: [0; 16],
    };
    epoch.check = compute(kms, tenant, &epoch).await?.check();
    Ok(epoch)
}

/// Whether a KMS computes the key of an epoch.
pub(super) async fn computes(kms: &dyn TenantKms, tenant: TenantId, epoch: &EpochRecord) -> Result<bool, ClientError> {
    Ok(compute(kms, tenant, epoch).await?.check() == epoch.check)
}

/// The key of an epoch, from the cache or the KMS. Refused unless it agrees with the epoch's record and with what this
/// client pinned: a wrong KMS must not seal data that nobody can read.
pub(super) async fn check(
    client: &Client,
    name: &Label,
    tenant: TenantId,
    epoch: &EpochRecord,
) -> Result<Rc<TenantDataKey>, ClientError> {
    // From before the question: a key that was destroyed meanwhile must not live longer for a slow answer.
    let now = Instant::now();
    if let Some((until, key)) = client.keys.keys.borrow().get(&epoch.epoch)
        && *until > now
    {
        return Ok(key.clone());
    }
    let until = now + client.settings.borrow().key_cache(name);
    let kms = client.kms(name)?;
    let key = Rc::new(compute(kms.as_ref(), tenant, epoch).await?);
    let check = key.check();
    if check != epoch.check || !client.settings.borrow_mut().pin(name, epoch.epoch, &check) {
        return Err(ClientError::WrongKms { tenant: name.to_string() });
    }
    let mut keys = client.keys.keys.borrow_mut();
    if keys.len() >= MAX_KEYS {
        keys.retain(|_, (until, _)| *until > now);
    }
    if keys.len() >= MAX_KEYS {
        keys.clear();
    }
    keys.insert(epoch.epoch, (until, key.clone()));
    Ok(key)
}
