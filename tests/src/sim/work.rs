//! The workload: clients that put, get and remove under a few names, and follow a log's home when it moves.

use super::history::{History, Operation, Outcome, Question};
use super::host::Host;
use super::site::SimSite;
use super::trace::Trace;
use super::violation::Violations;
use farside::client::{Client, ClientError, Log, Upload};
use farside_codec::delta::{Cursor, DeltaReceipt};
use farside_codec::ids::Label;
use farside_codec::message::{Moment, RefusalCode};
use farside_io::entropy::SeededEntropy;
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

/// Names of one log; few, so that operations meet.
pub const NAMES: u64 = 6;
/// The largest object: one chunk of several fragments.
const LARGEST_BYTES: u64 = 150_000;
/// Different contents; the same ones come back, so that chunks are deduplicated.
const CONTENTS: u64 = 64;

/// What the objects of a world are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objects {
    /// Of every size, often the same ones.
    Mixed,
    /// Most are about as large as may ride in a delta, and there are many of them: logs fill up.
    Bulky,
    /// Each is a large chunk of its own: devices fill up.
    Large,
}

/// What all clients share.
pub struct Shared {
    /// The sites.
    pub sites: Vec<Rc<RefCell<SimSite>>>,
    /// The tenants' KMS.
    pub kms: PathBuf,
    /// The tenant.
    pub tenant: Label,
    /// The logs, `T/L`.
    pub logs: Vec<String>,
    /// What objects are like.
    pub objects: Objects,
    /// What was asked and answered.
    pub history: History,
    /// What must not be.
    pub violations: Violations,
    /// What happened.
    pub trace: Trace,
    /// The workload is over.
    pub over: Cell<bool>,
}

/// The name with this number.
pub fn name(number: u64) -> Vec<u8> {
    format!("name-{number}").into_bytes()
}

/// What a put with this number writes.
pub fn contents(number: u64, objects: Objects) -> Vec<u8> {
    let seed = match objects {
        Objects::Large => number,
        _ => number % CONTENTS,
    };
    let length = match seed % 4 {
        _ if objects == Objects::Large => 100_000 + (seed * 7919) % 50_000,
        0..3 if objects == Objects::Bulky => 12_000 + seed * 60,
        0 => seed,
        1 => 300 + seed * 100,
        _ => 17_000 + (seed * 7919) % (LARGEST_BYTES - 17_000),
    };
    crate::bytes(seed, length as usize)
}

/// One client.
pub struct Worker {
    shared: Rc<Shared>,
    host: Host,
    random: SeededEntropy,
    log: usize,
    /// The site that is asked next.
    site: Cell<usize>,
    clients: RefCell<Vec<Option<Client>>>,
    pace: Duration,
}

impl Worker {
    /// A client of one log on a machine of its own.
    pub fn new(shared: &Rc<Shared>, host: Host, seed: u64, log: usize, pace: Duration) -> Self {
        let clients = RefCell::new(vec![None; shared.sites.len()]);
        Self { shared: shared.clone(), host, random: SeededEntropy::new(seed), log, site: Cell::new(0), clients, pace }
    }

    fn draw(&self, below: u64) -> u64 {
        self.random.next_u64() % below
    }

    /// Works until the world says that it is enough.
    pub async fn run(self) {
        while !self.shared.over.get() {
            tokio::time::sleep(self.pace.mul_f64(self.draw(2000) as f64 / 1000.0)).await;
            let site = self.site.get();
            let name = self.draw(NAMES);
            let Ok(log) = self.open(site).await else {
                self.site.set(self.draw(self.shared.sites.len() as u64) as usize);
                continue;
            };
            match self.draw(10) {
                0..5 => self.put(&log, site, name).await,
                5 => self.remove(&log, site, name).await,
                _ => self.get(&log, site, name).await,
            }
        }
    }

    async fn open(&self, site: usize) -> Result<Log, ClientError> {
        let held = self.clients.borrow()[site].clone();
        let client = match held {
            Some(client) => client,
            None => {
                // Only the directory of the site is looked at, not whether its node runs.
                let connect = {
                    let there = self.shared.sites[site].borrow();
                    there.connect(&self.host, &self.shared.kms, &[&self.shared.tenant])
                };
                let client = connect.await?;
                self.clients.borrow_mut()[site] = Some(client.clone());
                client
            }
        };
        let opened = client.open_log(&self.shared.logs[self.log]).await;
        if let Err(ClientError::WentBack { seen, shown, .. }) = &opened {
            let log = &self.shared.logs[self.log];
            self.shared.violations.add(format!("{log} went back from {seen} to {shown} at site {site}"));
        }
        opened
    }

    async fn put(&self, log: &Log, site: usize, name_number: u64) {
        let condition = match self.draw(4) {
            0 => Some(self.newest(log, name_number).await),
            _ => None,
        };
        let Some(condition) = condition.map_or(Some(None), |newest| newest.map(Some)) else { return };
        let number = self.ask(log, site, name_number, Operation::Put { condition });
        let mut upload = Upload::bytes(&name(name_number), contents(number, self.shared.objects));
        upload.modified = (number as i64, 0);
        upload.condition = condition;
        match log.put(upload).await {
            Ok(receipt) => self.placed(number, receipt.receipt),
            Err(error) => self.answer(number, self.failed(&error)),
        }
    }

    /// Sequence of the name's newest delta: 0 if there is none, `None` if it is not known.
    async fn newest(&self, log: &Log, name_number: u64) -> Option<u64> {
        match log.history(&name(name_number)).await {
            Ok(versions) => versions.first().map(|newest| newest.sequence),
            Err(ClientError::NotFound(_)) => Some(0),
            Err(_) => None,
        }
    }

    async fn remove(&self, log: &Log, site: usize, name_number: u64) {
        let number = self.ask(log, site, name_number, Operation::Remove);
        match log.remove(&name(name_number)).await {
            Ok(receipt) => self.placed(number, receipt.receipt),
            // There was nothing to remove: as good as not asked for.
            Err(ClientError::NotFound(_)) => self.answer(number, Outcome::Refused),
            Err(error) => self.answer(number, self.failed(&error)),
        }
    }

    async fn get(&self, log: &Log, site: usize, name_number: u64) {
        let number = self.ask(log, site, name_number, Operation::Get);
        let outcome = match read(log, &name(name_number), &self.shared).await {
            Ok(Some((number, sequence))) => Outcome::Found { number, sequence },
            Ok(None) => Outcome::Nothing,
            Err(error) => self.failed(&error),
        };
        self.answer(number, outcome);
    }

    fn ask(&self, log: &Log, site: usize, name: u64, operation: Operation) -> u64 {
        let question = Question { log: self.log, name, site, operation, lineage: log.info().lineage.clone() };
        self.shared.history.ask(question, self.shared.trace.now_ms())
    }

    fn placed(&self, number: u64, receipt: DeltaReceipt) {
        let Cursor { generation, sequence, .. } = receipt.cursor;
        self.shared.trace.line(format!("operation {number}: placed at {generation}/{sequence}"));
        self.shared.history.placed(number, receipt, self.shared.trace.now_ms());
    }

    fn answer(&self, number: u64, outcome: Outcome) {
        self.shared.trace.line(format!("operation {number}: {outcome:?}"));
        self.shared.history.answer(number, outcome, self.shared.trace.now_ms());
    }

    /// What an error says about whether the operation was done, and where to go next.
    fn failed(&self, error: &ClientError) -> Outcome {
        match error {
            ClientError::Refused(refusal) if refusal.code == RefusalCode::NotHome => {
                self.site.set((self.site.get() + 1) % self.shared.sites.len());
                Outcome::Refused
            }
            ClientError::Refused(refusal) if refusal.code == RefusalCode::ConditionFailed => Outcome::Unmet,
            ClientError::Corrupt { .. } => {
                self.shared.violations.add(format!("a client was given what does not open: {error}"));
                Outcome::Unknown
            }
            _ => {
                self.shared.trace.line(format!("no answer of site {}: {error}", self.site.get()));
                if self.draw(3) == 0 {
                    self.site.set(self.draw(self.shared.sites.len() as u64) as usize);
                }
                Outcome::Unknown
            }
        }
    }
}

/// Reads a name's newest version: the number of the put that made it, and its sequence. What it holds is checked.
pub async fn read(log: &Log, name: &[u8], shared: &Shared) -> Result<Option<(u64, u64)>, ClientError> {
    read_at(log, name, &Moment::Latest, shared).await
}

/// The same of the version that was the newest at a moment.
pub async fn read_at(log: &Log, name: &[u8], at: &Moment, shared: &Shared) -> Result<Option<(u64, u64)>, ClientError> {
    let violations = &shared.violations;
    let object = match log.get(name, at).await {
        Err(ClientError::NotFound(_)) => return Ok(None),
        // It was pruned, as old versions are.
        Err(ClientError::Refused(refusal)) if refusal.code == RefusalCode::Pruned => return Ok(None),
        object => object?,
    };
    let (number, sequence) = (object.info.modified.0 as u64, object.info.sequence);
    match object.into_bytes().await {
        Ok(bytes) => {
            let expected = contents(number, shared.objects);
            violations.check(bytes == expected, || format!("version {number} reads back different"));
        }
        Err(error) if is_missing(&error) => {
            // A version that was replaced meanwhile may have gone with its chunks.
            let now = log.get(name, at).await?;
            if now.info.sequence == sequence {
                // A version is seen only where its chunks are, and they survive whatever this world does to devices.
                violations.add(format!("version {number} is seen, but not whole: {error}"));
            }
            return Err(error);
        }
        Err(error) => return Err(error),
    }
    Ok(Some((number, sequence)))
}

/// Whether an error says that a chunk is not there, or not whole.
fn is_missing(error: &ClientError) -> bool {
    match error {
        ClientError::NotFound(_) => true,
        ClientError::Refused(refusal) => matches!(refusal.code, RefusalCode::Corrupt | RefusalCode::NotFound),
        _ => false,
    }
}
