//! The client: seals before anything leaves it, opens what comes back. What embedders use and the command line is made of.
//!
//! ```no_run
//! # async fn example() -> Result<(), farside::client::ClientError> {
//! use farside::client::{Client, ClientSettings, Context, Upload};
//! let path = std::path::Path::new("near/admin.context");
//! let client = Client::connect(&Context::load(path)?, ClientSettings::beside(path)?).await?;
//! let log = client.open_log("acme/photos").await?;
//! let receipt = log.put(Upload::bytes(b"hello.txt", b"hello".to_vec())).await?;
//! assert_eq!(log.get(b"hello.txt", &receipt.moment()).await?.into_bytes().await?, b"hello");
//! # Ok(()) }
//! ```

mod aside;
mod chunks;
mod connection;
mod context;
mod download;
mod error;
mod keys;
mod node;
pub mod pulse;
mod reapply;
pub mod route;
mod upload;

pub use aside::{SetAside, What};
pub use connection::SiteLink;
pub use context::{ClientSettings, Context};
pub use download::{Object, ObjectInfo};
pub use error::ClientError;
pub use reapply::{Reapplied, Sent};
pub use route::Target;
pub(crate) use upload::Prepared;
pub use upload::{PutReceipt, Upload, UploadBody};

use crate::kms::FileKms;
use crate::machine::Machine;
use farside_codec::delta::{DeltaKind, DeltaReceipt, LogDescriptor, LogPolicy, Proposal};
use farside_codec::ids::{BlindName, Hlc, Label, LogId, OperationId, TenantId};
use farside_codec::message::{LogInfo, Propose, Refusal, RefusalCode, Reply, Request, ResolveLog, Tenant};
use farside_codec::seal::BlindKey;
use farside_io::entropy::random;
use std::cell::RefCell;
use std::rc::Rc;

/// Splits `T/L` into its two names.
pub fn parse_log_name(text: &str) -> Result<(Label, Label), ClientError> {
    let parts = text.split_once('/').and_then(|(tenant, log)| Some((Label::parse(tenant)?, Label::parse(log)?)));
    parts.ok_or_else(|| {
        ClientError::Usage(format!("{text} is no log: a log is TENANT/LOG, each of a-z 0-9 . _ - and up to 63 long"))
    })
}

/// Reads a tenant's, log's or site's name.
pub fn parse_label(text: &str) -> Result<Label, ClientError> {
    Label::parse(text)
        .ok_or_else(|| ClientError::Usage(format!("{text} is no name: names are of a-z 0-9 . _ - and up to 63 long")))
}

pub(crate) fn unexpected(reply: &Reply) -> ClientError {
    let text = format!("{reply:?}");
    ClientError::Failed(format!("the node answered something else than was asked: {}", text.get(..80).unwrap_or(&text)))
}

/// Whether nobody will ever need what was made for a request that ended so. A lost answer does not say that, nor does
/// "not now": an earlier attempt, at this node or at another one, may have been carried out.
fn is_conclusive(code: &RefusalCode) -> bool {
    matches!(code, RefusalCode::Exists | RefusalCode::Forbidden | RefusalCode::BadRequest | RefusalCode::Version)
}

/// A client of one site.
#[derive(Clone)]
pub struct Client {
    pub(crate) link: Rc<SiteLink>,
    pub(crate) settings: Rc<RefCell<ClientSettings>>,
    pub(crate) machine: Machine,
    keys: Rc<keys::KeyCache>,
}

/// A log, opened by a client that has its tenant's keys.
#[derive(Clone)]
pub struct Log {
    pub(crate) client: Client,
    pub(crate) info: Rc<LogInfo>,
    pub(crate) blind: Rc<BlindKey>,
}

impl Client {
    /// Connects to the site that `context` names.
    pub async fn connect(context: &Context, settings: ClientSettings) -> Result<Self, ClientError> {
        Self::connect_from(Machine::real(), context, settings).await
    }

    /// The same from another machine than the one that this process runs on.
    pub async fn connect_from(
        machine: Machine,
        context: &Context,
        settings: ClientSettings,
    ) -> Result<Self, ClientError> {
        let link = Rc::new(SiteLink::connect(context, &machine).await?);
        link.find_nodes().await;
        Ok(Self { link, settings: Rc::new(RefCell::new(settings)), machine, keys: Rc::default() })
    }

    /// Random bytes of this client's machine.
    pub(crate) fn random<const N: usize>(&self) -> [u8; N] {
        random(self.machine.entropy.as_ref())
    }

    /// The client's settings.
    pub fn settings(&self) -> &Rc<RefCell<ClientSettings>> {
        &self.settings
    }

    /// Asks the site.
    pub async fn control(&self, request: &Request) -> Result<Reply, ClientError> {
        self.link.call(Target::Any, request).await
    }

    /// The KMS of a tenant, as this client was told.
    fn kms(&self, tenant: &Label) -> Result<FileKms, ClientError> {
        match self.settings.borrow().kms(tenant) {
            Some(url) => Ok(FileKms::parse(url)?),
            None => Err(ClientError::NoKms { tenant: tenant.to_string() }),
        }
    }

    /// Makes a tenant, with a key in the KMS at `url`, and remembers that KMS.
    pub async fn create_tenant(&self, name: &Label, url: &str) -> Result<Tenant, ClientError> {
        let kms = FileKms::parse(url)?;
        let created = kms.create_key(name, self.machine.entropy.as_ref())?;
        let tenant = TenantId(self.random());
        let epoch = keys::new_epoch(&kms, tenant, name, self.machine.entropy.as_ref())?;
        let tenant = Tenant { tenant, name: name.clone(), epochs: vec![epoch], created: Hlc::default() };
        let reply = self.control(&Request::CreateTenant(tenant)).await;
        if matches!(&reply, Err(ClientError::Refused(refusal)) if is_conclusive(&refusal.code)) {
            created.undo();
        }
        match reply? {
            Reply::Tenants(tenants) => {
                self.settings.borrow_mut().set_kms(name, &kms.url());
                let made = tenants.into_iter().next().ok_or(ClientError::Failed("no tenant was made".into()))?;
                // Pins what the KMS computes for the epoch.
                made.epochs.iter().try_for_each(|epoch| keys::check(self, &made.name, made.tenant, epoch).map(drop))?;
                Ok(made)
            }
            reply => Err(unexpected(&reply)),
        }
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
        let kms = FileKms::parse(url)?;
        let tenant = self.tenant(name).await?;
        let before = self.settings.borrow().kms(name).map(str::to_owned);
        self.settings.borrow_mut().set_kms(name, &kms.url());
        for epoch in &tenant.epochs {
            if let Err(error) = keys::check(self, name, tenant.tenant, epoch) {
                if let Some(before) = before {
                    self.settings.borrow_mut().set_kms(name, &before);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Makes a log whose home is this site.
    pub async fn create_log(&self, tenant: &Label, name: &Label) -> Result<LogInfo, ClientError> {
        let owner = self.tenant(tenant).await?;
        let epoch = owner.epochs.last().cloned();
        let first_epoch = epoch.ok_or_else(|| ClientError::Failed(format!("tenant {tenant} has no key epoch")))?;
        keys::check(self, tenant, owner.tenant, &first_epoch)?;
        let descriptor = LogDescriptor {
            log: LogId(self.random()),
            tenant: owner.tenant,
            tenant_name: tenant.clone(),
            name: name.clone(),
            created: Hlc::default(),
            first_epoch,
            policy: LogPolicy::default(),
            policy_version: 0,
        };
        match self.control(&Request::CreateLog(descriptor)).await? {
            Reply::Log(info) => Ok(info),
            reply => Err(unexpected(&reply)),
        }
    }

    /// Every log of the site.
    pub async fn logs(&self) -> Result<Vec<LogInfo>, ClientError> {
        match self.control(&Request::ListLogs).await? {
            Reply::Logs(logs) => Ok(logs),
            reply => Err(unexpected(&reply)),
        }
    }

    /// A log by name, without its keys.
    pub async fn resolve(&self, name: &str) -> Result<LogInfo, ClientError> {
        let (tenant, log) = parse_log_name(name)?;
        match self.control(&Request::ResolveLog(ResolveLog { tenant, log })).await? {
            Reply::Log(info) => Ok(info),
            reply => Err(unexpected(&reply)),
        }
    }

    /// Opens a log: checks that it has not gone back and that the KMS computes its keys.
    pub async fn open_log(&self, name: &str) -> Result<Log, ClientError> {
        let info = self.resolve(name).await?;
        if let Some(seen) = self.settings.borrow().went_back(info.descriptor.log, &info.head, &info.lineage) {
            return Err(ClientError::WentBack { log: name.to_owned(), seen, shown: info.head.sequence });
        }
        self.settings.borrow_mut().saw(info.descriptor.log, &info.head);
        let key =
            keys::check(self, &info.descriptor.tenant_name, info.descriptor.tenant, &info.descriptor.first_epoch)?;
        let blind = Rc::new(key.blind_key(info.descriptor.log));
        Ok(Log { client: self.clone(), info: Rc::new(info), blind })
    }

    /// Proposes deltas to a log. Answers a receipt or a refusal for each, in order.
    async fn propose(
        &self,
        log: LogId,
        proposals: Vec<Proposal>,
    ) -> Result<Vec<Result<DeltaReceipt, Refusal>>, ClientError> {
        let (expected, seen) = (proposals.len(), Hlc::from_ms(self.machine.clock.wall_ms()));
        match self.link.call(Target::Log(log), &Request::Propose(Propose { log, seen, proposals })).await? {
            Reply::Proposed(receipts) if receipts.len() == expected => Ok(receipts),
            reply => Err(unexpected(&reply)),
        }
    }

    /// Closes connections and keeps the settings.
    pub async fn close(&self) -> Result<(), ClientError> {
        self.link.close().await;
        self.settings.borrow().save()
    }
}

impl Log {
    /// What the site said about it when it was opened.
    pub fn info(&self) -> &LogInfo {
        &self.info
    }

    /// Its name, `T/L`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.info.descriptor.tenant_name, self.info.descriptor.name)
    }

    pub(crate) fn id(&self) -> LogId {
        self.info.descriptor.log
    }

    pub(crate) fn target(&self) -> Target {
        Target::Log(self.id())
    }

    pub(crate) fn blind(&self, name: &[u8]) -> BlindName {
        self.blind.name(name)
    }

    /// Removes a name.
    pub async fn remove(&self, name: &[u8]) -> Result<PutReceipt, ClientError> {
        let at = farside_codec::message::Moment::Latest;
        if self.version(name, &at).await?.is_none() {
            return Err(self.no_such(name));
        }
        let (operation, epoch) = (OperationId(self.client.random()), self.info.descriptor.first_epoch.epoch);
        let proposal = Proposal::without_chunks(operation, DeltaKind::Remove, self.blind(name), epoch);
        let receipts = self.propose(vec![proposal]).await?;
        let receipt = receipts.into_iter().next().ok_or(ClientError::Failed("no receipt came back".into()))?;
        let receipt = receipt.map_err(ClientError::from)?;
        Ok(PutReceipt { name: name.to_vec().into(), receipt, size_bytes: 0, chunks: 0, deduplicated_bytes: 0 })
    }

    pub(crate) async fn propose(
        &self,
        proposals: Vec<Proposal>,
    ) -> Result<Vec<Result<DeltaReceipt, Refusal>>, ClientError> {
        let receipts = self.client.propose(self.id(), proposals).await?;
        for receipt in receipts.iter().flatten() {
            self.client.settings.borrow_mut().saw(self.id(), &receipt.cursor);
        }
        Ok(receipts)
    }

    pub(crate) fn no_such(&self, name: &[u8]) -> ClientError {
        ClientError::NotFound(format!(
            "there is no {} in {}",
            String::from_utf8_lossy(name).escape_debug(),
            self.name()
        ))
    }
}
