//! Tenant data keys, for as long as a command takes; and the check that a KMS is the right one before it is trusted.

use super::{Client, ClientError};
use crate::kms::FileKms;
use farside_codec::delta::EpochRecord;
use farside_codec::ids::{EpochId, Label, TenantId};
use farside_codec::seal::{TenantDataKey, kms_label};
use farside_io::entropy::{Entropy, random};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a key is used before the KMS is asked again: the bound within which a destroyed key stops working here.
const KEY_LIFE: Duration = Duration::from_secs(60);
/// Epochs in use at once; a log that used more than this in its life asks the KMS again now and then.
const MAX_KEYS: usize = 64;

#[derive(Default)]
pub(super) struct KeyCache(RefCell<HashMap<EpochId, (Instant, Rc<TenantDataKey>)>>);

fn compute(kms: &FileKms, tenant: TenantId, epoch: &EpochRecord) -> Result<TenantDataKey, ClientError> {
    let label = kms_label(tenant, epoch.epoch, &epoch.salt);
    let mac = kms.mac(&epoch.key_name, epoch.key_version, &label)?;
    Ok(TenantDataKey::from_mac(*mac))
}

/// A new epoch under version 1 of the tenant's KMS key.
pub(super) fn new_epoch(
    kms: &FileKms,
    tenant: TenantId,
    name: &Label,
    entropy: &dyn Entropy,
) -> Result<EpochRecord, ClientError> {
    let mut epoch = EpochRecord {
        epoch: EpochId(random(entropy)),
        salt: random(entropy),
        key_name: name.to_string(),
        key_version: 1,
        check: [0; 16],
    };
    epoch.check = compute(kms, tenant, &epoch)?.check();
    Ok(epoch)
}

/// The key of an epoch, from the cache or the KMS. Refused unless it agrees with the epoch's record and with what this
/// client pinned: a wrong KMS must not seal data that nobody can read.
pub(super) fn check(
    client: &Client,
    name: &Label,
    tenant: TenantId,
    epoch: &EpochRecord,
) -> Result<Rc<TenantDataKey>, ClientError> {
    if let Some((since, key)) = client.keys.0.borrow().get(&epoch.epoch)
        && since.elapsed() < KEY_LIFE
    {
        return Ok(key.clone());
    }
    let key = Rc::new(compute(&client.kms(name)?, tenant, epoch)?);
    let check = key.check();
    if check != epoch.check || !client.settings.borrow_mut().pin(name, epoch.epoch, &check) {
        return Err(ClientError::WrongKms { tenant: name.to_string() });
    }
    let mut keys = client.keys.0.borrow_mut();
    if keys.len() >= MAX_KEYS {
        keys.retain(|_, (since, _)| since.elapsed() < KEY_LIFE);
    }
    if keys.len() >= MAX_KEYS {
        keys.clear();
    }
    keys.insert(epoch.epoch, (Instant::now(), key.clone()));
    Ok(key)
}
