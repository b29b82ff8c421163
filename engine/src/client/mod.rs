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
mod freshness;
mod keys;
mod node;
pub mod pulse;
mod reapply;
mod reseal;
pub mod route;
mod storing;
mod tenants;
mod upload;

pub use aside::{SetAside, What};
pub use connection::SiteLink;
pub(crate) use context::check_key_cache;
pub use context::{ClientSettings, Context};
pub use download::{Object, ObjectInfo};
pub use error::ClientError;
pub use reapply::{Reapplied, Sent};
pub use reseal::{Resealed, TellReseal};
pub use route::Target;
pub use tenants::{KeyState, Rotated, Rotation};
pub(crate) use upload::Prepared;
pub use upload::{PutReceipt, Upload, UploadBody};

use crate::machine::Machine;
use bytes::Bytes;
use farside_codec::delta::{DeltaKind, DeltaReceipt, EpochRecord, LogDescriptor, LogPolicy, Proposal};
use farside_codec::ids::{BlindName, EpochId, Hlc, Label, LogId, OperationId, SiteId};
use farside_codec::message::{History, LogInfo, Propose, Refusal, Reply, Request, ResolveLog};
use farside_codec::seal::BlindKey;
use farside_io::entropy::random;
use std::cell::{Cell, RefCell};
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

/// A client of one site.
#[derive(Clone)]
pub struct Client {
    pub(crate) link: Rc<SiteLink>,
    pub(crate) settings: Rc<RefCell<ClientSettings>>,
    pub(crate) machine: Machine,
    keys: Rc<keys::KeyCache>,
    /// Whether the site may have its peers asked for what it has lost.
    trusts_peers: Rc<Cell<bool>>,
}

/// A log, opened by a client that has its tenant's keys.
#[derive(Clone)]
pub struct Log {
    pub(crate) client: Client,
    pub(crate) info: Rc<LogInfo>,
    pub(crate) blind: Rc<BlindKey>,
    /// Key epochs that the log was given after it was opened, as far as they were needed.
    later: Rc<RefCell<Vec<EpochRecord>>>,
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
        Ok(Self {
            link,
            settings: Rc::new(RefCell::new(settings)),
            machine,
            keys: Rc::default(),
            trusts_peers: Rc::new(Cell::new(true)),
        })
    }

    /// From now on this client and its clones read what the site itself has, and nothing that it would have to get from a peer: what
    /// there would be if the peer were gone.
    pub fn read_only_here(&self) {
        self.trusts_peers.set(false);
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

    /// Makes a log whose home is this site.
    pub async fn create_log(&self, tenant: &Label, name: &Label) -> Result<LogInfo, ClientError> {
        self.create_log_as(LogId(self.random()), tenant, name, LogPolicy::default()).await
    }

    /// The same with a policy of its own from the beginning: nobody learns of it before that holds.
    pub async fn create_log_with(
        &self,
        tenant: &Label,
        name: &Label,
        policy: LogPolicy,
    ) -> Result<LogInfo, ClientError> {
        self.create_log_as(LogId(self.random()), tenant, name, policy).await
    }

    /// The site that this client talks to.
    pub fn site(&self) -> SiteId {
        self.link.site()
    }

    /// The same with an id and a policy of its own from the beginning.
    pub(crate) async fn create_log_as(
        &self,
        log: LogId,
        tenant: &Label,
        name: &Label,
        policy: LogPolicy,
    ) -> Result<LogInfo, ClientError> {
        let owner = self.tenant(tenant).await?;
        let epoch = owner.epochs.last().cloned();
        let first_epoch = epoch.ok_or_else(|| ClientError::Failed(format!("tenant {tenant} has no key epoch")))?;
        keys::check(self, tenant, owner.tenant, &first_epoch).await?;
        let descriptor = LogDescriptor {
            log,
            tenant: owner.tenant,
            tenant_name: tenant.clone(),
            name: name.clone(),
            created: Hlc::default(),
            first_epoch,
            policy,
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
        let descriptor = &info.descriptor;
        let key = keys::check(self, &descriptor.tenant_name, descriptor.tenant, &descriptor.first_epoch).await?;
        let blind = Rc::new(key.blind_key(descriptor.log));
        Ok(Log { client: self.clone(), info: Rc::new(info), blind, later: Rc::default() })
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

    /// Proposes one delta, and remembers the head that its receipt shows.
    /// A name's newest delta in a log, a removal too, as the log's home shows it.
    async fn newest_delta(&self, log: LogId, name: BlindName) -> Result<Option<Bytes>, ClientError> {
        let question = Request::History(History { log, name, before: u64::MAX, limit: 1 });
        match self.link.call(Target::Log(log), &question).await {
            Ok(Reply::Versions(found)) => Ok(found.versions.into_iter().next().map(|newest| newest.delta)),
            Ok(reply) => Err(unexpected(&reply)),
            Err(ClientError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn propose_one(&self, log: LogId, proposal: Proposal) -> Result<DeltaReceipt, ClientError> {
        let receipt = self.propose(log, vec![proposal]).await?.into_iter().next();
        let receipt = receipt.ok_or_else(|| ClientError::Failed("no receipt came back".into()))??;
        self.settings.borrow_mut().saw(log, &receipt.cursor);
        Ok(receipt)
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

    /// An epoch of this log. Whoever has had it open for long may read what was sealed under one that came since.
    pub(crate) async fn epoch(&self, epoch: EpochId) -> Result<EpochRecord, ClientError> {
        let known = |epochs: &[EpochRecord]| epochs.iter().find(|known| known.epoch == epoch).cloned();
        if let Some(found) = known(&self.info.epochs).or_else(|| known(&self.later.borrow())) {
            return Ok(found);
        }
        let info = self.client.resolve(&self.name()).await?;
        let found = known(&info.epochs).filter(|_| info.descriptor.log == self.id());
        self.later.replace(info.epochs);
        found.ok_or_else(|| ClientError::Failed("an object uses a key epoch that its log never announced".into()))
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
        let receipt = self.client.propose_one(self.id(), proposal).await?;
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
