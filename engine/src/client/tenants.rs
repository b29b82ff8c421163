//! Tenants, as a client makes them, finds them, and gives them new keys. Their keys come from their KMS, which only the
//! client reaches; the site is told which version of which key an epoch is under, and a check value.

use super::{Client, ClientError, keys, unexpected};
use crate::kms::{self, KmsError, TenantKms};
use farside_codec::delta::{DeltaKind, EpochRecord, Proposal};
use farside_codec::ids::{BlindName, Hlc, Label, OperationId, TenantId};
use farside_codec::message::{LogInfo, RefusalCode, Reply, Request, Tenant};
use std::rc::Rc;

/// Whether nobody will ever need what was made for a request that ended so. A lost answer does not say that, nor does
/// "not now": an earlier attempt, at this node or at another one, may have been carried out.
fn is_conclusive(code: &RefusalCode) -> bool {
    matches!(code, RefusalCode::Exists | RefusalCode::Forbidden | RefusalCode::BadRequest | RefusalCode::Version)
}

/// What came of a new epoch in one log.
#[derive(Debug)]
pub enum Rotated {
    /// What is put from now on is sealed under it.
    Announced,
    /// The log has its home at this site, and only its home takes an epoch in.
    Elsewhere(String),
    /// It did not get there; rotating again makes up for it.
    Failed(ClientError),
}

/// A new epoch of a tenant.
#[derive(Debug)]
pub struct Rotation {
    /// The epoch.
    pub epoch: EpochRecord,
    /// The tenant's logs at this site, and what came of it there.
    pub logs: Vec<(LogInfo, Rotated)>,
}

/// What became of a key under which something was sealed.
#[derive(Debug)]
pub enum KeyState {
    /// The KMS has it no more: what was sealed under it can't be read, wherever it lies.
    Destroyed,
    /// The KMS has it and lets nobody use it, which can be taken back.
    Forbidden(KmsError),
    /// The KMS computes with it.
    There,
    /// The KMS computes something else under its name: it was replaced, or this is another KMS.
    Replaced,
    /// The KMS does not say.
    Unknown(KmsError),
}

impl KeyState {
    /// Whether what was sealed under it is lost for good, as far as the KMS can be believed.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Destroyed)
    }
}

impl Client {
    /// The KMS of a tenant, as this client was told. It is kept open for as long as it is the one.
    pub(super) fn kms(&self, tenant: &Label) -> Result<Rc<dyn TenantKms>, ClientError> {
        let url = self.settings.borrow().kms(tenant).map(str::to_owned);
        let url = url.ok_or_else(|| ClientError::NoKms { tenant: tenant.to_string() })?;
        if let Some(kms) = self.keys.kms(&url) {
            return Ok(kms);
        }
        let kms = kms::open(&url, &self.machine.entropy)?;
        self.keys.keep(url, kms.clone());
        Ok(kms)
    }

    /// Makes a tenant, with a key in the KMS at `url`, and remembers that KMS.
    pub async fn create_tenant(&self, name: &Label, url: &str) -> Result<Tenant, ClientError> {
        let kms = kms::open(url, &self.machine.entropy)?;
        let created = kms.create_key(name.as_str()).await?;
        let id = TenantId(self.random());
        let epoch = keys::new_epoch(kms.as_ref(), id, name.as_str(), 1, self.machine.entropy.as_ref()).await?;
        let tenant = Tenant { tenant: id, name: name.clone(), epochs: vec![epoch], created: Hlc::default() };
        let reply = self.control(&Request::CreateTenant(tenant)).await;
        if let Err(ClientError::Refused(refusal)) = &reply
            && is_conclusive(&refusal.code)
            && !self.may_need(name, kms.as_ref(), refusal.code == RefusalCode::Exists).await
        {
            kms.take_back(name.as_str(), created).await;
        }
        match reply? {
            Reply::Tenants(tenants) => {
                self.settings.borrow_mut().set_kms(name, &kms.url());
                let made = tenants.into_iter().next().ok_or(ClientError::Failed("no tenant was made".into()))?;
                // Pins what the KMS computes for the epoch.
                for epoch in &made.epochs {
                    keys::check(self, &made.name, made.tenant, epoch).await?;
                }
                Ok(made)
            }
            reply => Err(unexpected(&reply)),
        }
    }

    /// Whether a tenant of this name may use the key of that name: somebody may have made it at the same time, and found
    /// the key that was made here. `exists`: there is one, whether or not this client is shown it.
    async fn may_need(&self, name: &Label, kms: &dyn TenantKms, exists: bool) -> bool {
        let found = match self.tenants().await {
            Ok(tenants) => tenants.into_iter().find(|tenant| tenant.name == *name),
            Err(_) => return true,
        };
        let Some(tenant) = found else { return exists };
        for epoch in &tenant.epochs {
            if keys::computes(kms, tenant.tenant, epoch).await.unwrap_or(true) {
                return true;
            }
        }
        false
    }

    /// All tenants that the site knows.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, ClientError> {
        match self.control(&Request::ListTenants).await? {
            Reply::Tenants(tenants) => Ok(tenants),
            reply => Err(unexpected(&reply)),
        }
    }

    /// One tenant.
    pub async fn tenant(&self, name: &Label) -> Result<Tenant, ClientError> {
        let found = self.tenants().await?.into_iter().find(|tenant| tenant.name == *name);
        found.ok_or_else(|| ClientError::NotFound(format!("there is no tenant {name} at this site")))
    }

    /// Remembers a tenant's KMS, once it has proved that it computes the tenant's keys.
    pub async fn set_kms(&self, name: &Label, url: &str) -> Result<(), ClientError> {
        let kms = kms::open(url, &self.machine.entropy)?;
        let tenant = self.tenant(name).await?;
        let (mut proved, mut missing) = (false, None);
        for epoch in &tenant.epochs {
            match keys::computes(kms.as_ref(), tenant.tenant, epoch).await {
                Ok(true) if self.settings.borrow_mut().pin(name, epoch.epoch, &epoch.check) => proved = true,
                Ok(_) => return Err(ClientError::WrongKms { tenant: name.to_string() }),
                // An old version may be gone, or forbidden, and the others good.
                Err(error @ ClientError::Kms(KmsError::NoKey { .. } | KmsError::Revoked { .. })) => {
                    missing.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        match missing {
            Some(error) if !proved => return Err(error),
            _ => self.settings.borrow_mut().set_kms(name, &kms.url()),
        }
        // What another KMS computed is not asked of this one otherwise.
        self.keys.forget(tenant.epochs.iter().map(|epoch| epoch.epoch));
        Ok(())
    }

    /// Gives a tenant a new data key: a new version of its key in the KMS, an epoch under it, and a delta in each of its
    /// logs whose home is here, from which on everything is sealed under it. Reads and writes go on meanwhile; what was
    /// sealed before stays as it is, and readable for as long as the KMS keeps the old version.
    pub async fn rotate_tenant(&self, name: &Label) -> Result<Rotation, ClientError> {
        let tenant = self.tenant(name).await?;
        let kms = self.kms(name)?;
        let last = tenant.epochs.last().cloned();
        let last = last.ok_or_else(|| ClientError::Failed(format!("tenant {name} has no key epoch")))?;
        // A wrong KMS must not be given a new version, nor the tenant an epoch under it.
        self.keys.forget([last.epoch]);
        keys::check(self, name, tenant.tenant, &last).await?;
        let above = tenant.epochs.iter().filter(|epoch| epoch.key_name == last.key_name).map(|epoch| epoch.key_version);
        let version = kms.rotate(&last.key_name, above.max().unwrap_or(0)).await?;
        let entropy = self.machine.entropy.as_ref();
        let epoch = keys::new_epoch(kms.as_ref(), tenant.tenant, &last.key_name, version, entropy).await?;
        let more = Tenant { epochs: vec![epoch.clone()], ..tenant.clone() };
        match self.control(&Request::CreateTenant(more)).await? {
            Reply::Tenants(_) => {}
            reply => return Err(unexpected(&reply)),
        }
        keys::check(self, name, tenant.tenant, &epoch).await?;
        // Logs that are made from now on begin under the new epoch; one that was being made is found by the second look.
        let mut rotated: Vec<(LogInfo, Rotated)> = Vec::new();
        for _ in 0..2 {
            let logs = self.logs().await?;
            let left = logs.into_iter().filter(|log| {
                log.descriptor.tenant == tenant.tenant
                    && !log.epochs.iter().any(|known| known.epoch == epoch.epoch)
                    && !rotated.iter().any(|(done, _)| done.descriptor.log == log.descriptor.log)
            });
            for log in left.collect::<Vec<_>>() {
                let outcome = self.announce(&log, &epoch).await;
                rotated.push((log, outcome));
            }
        }
        Ok(Rotation { epoch, logs: rotated })
    }

    /// Asks the KMS for the key of every epoch of a tenant, or of its logs at this site, and answers what became of it.
    /// Whether a tenant's data was shredded follows from that; destroying a key is the business of whoever runs the KMS.
    pub async fn key_states(&self, name: &Label) -> Result<Vec<(EpochRecord, KeyState)>, ClientError> {
        let tenant = self.tenant(name).await?;
        let kms = self.kms(name)?;
        let mut epochs = tenant.epochs;
        for log in self.logs().await?.into_iter().filter(|log| log.descriptor.tenant == tenant.tenant) {
            for epoch in log.epochs {
                if !epochs.iter().any(|known| known.epoch == epoch.epoch) {
                    epochs.push(epoch);
                }
            }
        }
        let mut states = Vec::new();
        for epoch in epochs {
            let state = match keys::computes(kms.as_ref(), tenant.tenant, &epoch).await {
                Ok(true) => KeyState::There,
                Ok(false) => KeyState::Replaced,
                Err(ClientError::Kms(KmsError::NoKey { .. })) => KeyState::Destroyed,
                Err(ClientError::Kms(error @ KmsError::Revoked { .. })) => KeyState::Forbidden(error),
                Err(ClientError::Kms(error)) => KeyState::Unknown(error),
                Err(error) => return Err(error),
            };
            states.push((epoch, state));
        }
        Ok(states)
    }

    async fn announce(&self, log: &LogInfo, epoch: &EpochRecord) -> Rotated {
        let (operation, kind) = (OperationId(self.random()), DeltaKind::Epoch(epoch.clone()));
        let proposal = Proposal::without_chunks(operation, kind, BlindName::default(), epoch.epoch);
        match self.propose_one(log.descriptor.log, proposal).await {
            Ok(_) => Rotated::Announced,
            Err(ClientError::Refused(refusal)) if refusal.code == RefusalCode::NotHome => {
                Rotated::Elsewhere(refusal.home.map(|home| home.to_string()).unwrap_or_default())
            }
            Err(error) => Rotated::Failed(error),
        }
    }
}
