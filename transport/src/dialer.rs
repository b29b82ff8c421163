//! A link that is wanted for long: one connection of one class, made when needed, made again when lost, with backoff.
//!
//! An attempt is a task of its own. Callers only wait for what comes of it, so one that is dropped, or that nobody polls
//! any more, holds up none of the others.

use crate::endpoint::{ConnectError, Connection, Credentials, Endpoint};
use crate::limits::{FIRST_BACKOFF, LAST_BACKOFF};
use crate::settings::{Class, Expect};
use farside_io::entropy::{Entropy, random};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Dials one address. Callers share the connection, the attempt under way, and its failure.
pub struct Dialer {
    line: Rc<Line>,
    attempt: RefCell<Option<Attempt>>,
}

type Outcome = Result<Connection, ConnectError>;

/// An attempt under way, or the last one that was.
struct Attempt {
    told: Rc<Told>,
    task: AbortHandle,
}

/// What attempts work with, one after the other.
struct Line {
    endpoint: Endpoint,
    credentials: Credentials,
    address: SocketAddr,
    expect: Expect,
    class: Class,
    entropy: Rc<dyn Entropy>,
    current: RefCell<Option<Current>>,
    backoff: Cell<Duration>,
    not_before: Cell<Option<Instant>>,
}

struct Current {
    /// Until it is lost: what it had to send and did not is in memory for as long as anybody holds it.
    connection: Option<Connection>,
    since: Instant,
}

impl Dialer {
    /// Nothing is dialled before somebody asks.
    pub fn new(
        endpoint: Endpoint,
        credentials: Credentials,
        address: SocketAddr,
        expect: Expect,
        class: Class,
        entropy: Rc<dyn Entropy>,
    ) -> Self {
        let line = Line {
            endpoint,
            credentials,
            address,
            expect,
            class,
            entropy,
            current: RefCell::new(None),
            backoff: Cell::new(FIRST_BACKOFF),
            not_before: Cell::new(None),
        };
        Self { line: Rc::new(line), attempt: RefCell::new(None) }
    }

    /// Where it dials.
    pub fn address(&self) -> SocketAddr {
        self.line.address
    }

    /// Whether a connection is up, as far as this end has noticed.
    pub fn is_up(&self) -> bool {
        self.line.up().is_some()
    }

    /// The connection that is up, or one attempt to make one, after the backoff that is due. Who asks while an attempt
    /// is under way shares its outcome. Must be called inside the `LocalSet` on whose thread the endpoint lives.
    pub async fn connection(&self) -> Result<Connection, ConnectError> {
        if let Some(connection) = self.line.up() {
            return Ok(connection);
        }
        let told = self.attempt_under_way();
        loop {
            let ended = told.ended.notified();
            match &*told.outcome.borrow() {
                Some(outcome) => return outcome.clone(),
                // Without an outcome the attempt was given up.
                None if told.is_over.get() => return Err(ConnectError::Closed),
                None => {}
            }
            ended.await;
        }
    }

    /// Joins the attempt under way, or begins one.
    fn attempt_under_way(&self) -> Rc<Told> {
        let mut attempt = self.attempt.borrow_mut();
        if let Some(attempt) = attempt.as_ref().filter(|attempt| !attempt.told.is_over.get()) {
            return attempt.told.clone();
        }
        let told = Rc::new(Told::default());
        let (line, own, ending) = (self.line.clone(), told.clone(), Ending(told.clone()));
        let task = tokio::task::spawn_local(async move {
            let made = line.attempt().await;
            own.outcome.replace(Some(made.clone()));
            drop(ending);
            let Ok(connection) = made else { return };
            connection.closed().await;
            // Nobody may ask for another one for hours.
            own.outcome.replace(Some(Err(ConnectError::Closed)));
            line.let_go();
        });
        *attempt = Some(Attempt { told: told.clone(), task: task.abort_handle() });
        told
    }

    /// Gives up the connection that is up, and the attempt under way.
    pub fn hang_up(&self, reason: &str) {
        if let Some(attempt) = self.attempt.take() {
            attempt.task.abort();
        }
        if let Some(connection) = self.line.current.take().and_then(|current| current.connection) {
            connection.close(reason);
        }
    }
}

/// What came of an attempt. Those who wait are woken in the order of waiting: a watch channel's order is a random one,
/// and a simulated world would not repeat itself.
#[derive(Default)]
struct Told {
    outcome: RefCell<Option<Outcome>>,
    is_over: Cell<bool>,
    ended: Notify,
}

/// Says that an attempt is over, also where it was given up.
struct Ending(Rc<Told>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.is_over.set(true);
        self.0.ended.notify_waiters();
    }
}

impl Drop for Dialer {
    fn drop(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            attempt.task.abort();
        }
    }
}

impl Line {
    fn up(&self) -> Option<Connection> {
        let current = self.current.borrow();
        current.as_ref()?.connection.as_ref().filter(|connection| !connection.is_closed()).cloned()
    }

    /// Lets go of a connection that is lost. When it was made still counts.
    fn let_go(&self) {
        if let Some(current) = self.current.borrow_mut().as_mut() {
            current.connection.take_if(|connection| connection.is_closed());
        }
    }

    async fn attempt(&self) -> Outcome {
        if let Some(lost) = self.current.take() {
            // A caller that is turned away learns it only after its own handshake: a connection that did not last
            // was as good as none, and is not tried again at once.
            match lost.since.elapsed() < LAST_BACKOFF {
                true => self.back_off(),
                false => self.backoff.set(FIRST_BACKOFF),
            }
        }
        if let Some(not_before) = self.not_before.get() {
            tokio::time::sleep_until(not_before).await;
        }
        let outcome = self.endpoint.connect(self.address, &self.credentials, &self.expect, self.class).await;
        match &outcome {
            Ok(connection) => {
                self.not_before.set(None);
                let connection = Some(connection.clone());
                self.current.replace(Some(Current { connection, since: Instant::now() }));
            }
            Err(_) => self.back_off(),
        }
        outcome
    }

    fn back_off(&self) {
        let backoff = self.backoff.get();
        self.backoff.set((backoff * 2).min(LAST_BACKOFF));
        // Half of the wait is drawn, so that many callers of one peer don't come back as one.
        let draw = f64::from(u16::from_le_bytes(random(self.entropy.as_ref()))) / f64::from(u16::MAX);
        self.not_before.set(Some(Instant::now() + backoff.mul_f64(0.5 + draw / 2.0)));
    }
}
