//! A link that is wanted for long: one connection of one class, made when needed, made again when lost, with backoff.

use crate::endpoint::{ConnectError, Connection, Credentials, Endpoint};
use crate::limits::{FIRST_BACKOFF, LAST_BACKOFF};
use crate::settings::{Class, Expect};
use farside_io::entropy::{Entropy, random};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Dials one address. Callers share the connection, the attempt under way, and its failure.
pub struct Dialer {
    endpoint: Endpoint,
    credentials: Credentials,
    address: SocketAddr,
    expect: Expect,
    class: Class,
    entropy: Rc<dyn Entropy>,
    /// Held by whoever makes the attempt.
    turn: Mutex<()>,
    current: RefCell<Option<Current>>,
    /// Attempts that have ended, and how the last one failed if it did.
    ended: Cell<u64>,
    failure: RefCell<Option<ConnectError>>,
    backoff: Cell<Duration>,
    not_before: Cell<Option<Instant>>,
}

struct Current {
    connection: Connection,
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
        Self {
            endpoint,
            credentials,
            address,
            expect,
            class,
            entropy,
            turn: Mutex::new(()),
            current: RefCell::new(None),
            ended: Cell::new(0),
            failure: RefCell::new(None),
            backoff: Cell::new(FIRST_BACKOFF),
            not_before: Cell::new(None),
        }
    }

    /// Where it dials.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The connection that is up, or one attempt to make one, after the backoff that is due. Who asks while an attempt
    /// is under way shares its outcome.
    pub async fn connection(&self) -> Result<Connection, ConnectError> {
        let ended = self.ended.get();
        if let Some(connection) = self.up() {
            return Ok(connection);
        }
        let _turn = self.turn.lock().await;
        if let Some(connection) = self.up() {
            return Ok(connection);
        }
        if self.ended.get() != ended
            && let Some(failure) = self.failure.borrow().clone()
        {
            return Err(failure);
        }
        self.attempt().await
    }

    fn up(&self) -> Option<Connection> {
        let current = self.current.borrow();
        current.as_ref().map(|current| &current.connection).filter(|connection| !connection.is_closed()).cloned()
    }

    async fn attempt(&self) -> Result<Connection, ConnectError> {
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
        self.ended.set(self.ended.get() + 1);
        self.failure.replace(outcome.as_ref().err().cloned());
        match &outcome {
            Ok(connection) => {
                self.not_before.set(None);
                self.current.replace(Some(Current { connection: connection.clone(), since: Instant::now() }));
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

    /// Gives up the connection that is up.
    pub async fn hang_up(&self, reason: &str) {
        let _turn = self.turn.lock().await;
        if let Some(current) = self.current.take() {
            current.connection.close(reason);
        }
    }
}
