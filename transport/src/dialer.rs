//! A link that is wanted for long: one connection of one class, made when needed, made again when lost, with backoff.

use crate::endpoint::{ConnectError, Connection, Credentials, Endpoint};
use crate::settings::{Class, Expect};
use farside_io::entropy::{Entropy, random};
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// First wait after a failed attempt.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// Longest wait between attempts: a peer that comes back is found within two seconds.
const LAST_BACKOFF: Duration = Duration::from_secs(2);

/// Dials one address. Callers share the connection and the attempt under way.
pub struct Dialer {
    endpoint: Endpoint,
    credentials: Credentials,
    address: SocketAddr,
    expect: Expect,
    class: Class,
    entropy: Rc<dyn Entropy>,
    current: Mutex<Option<Connection>>,
    backoff: Cell<Duration>,
    not_before: Cell<Option<Instant>>,
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
            current: Mutex::new(None),
            backoff: Cell::new(FIRST_BACKOFF),
            not_before: Cell::new(None),
        }
    }

    /// Where it dials.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The connection that is up, or one attempt to make one, after the backoff that is due.
    pub async fn connection(&self) -> Result<Connection, ConnectError> {
        let mut current = self.current.lock().await;
        if let Some(connection) = current.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        if let Some(not_before) = self.not_before.get() {
            tokio::time::sleep_until(not_before).await;
        }
        match self.endpoint.connect(self.address, &self.credentials, &self.expect, self.class).await {
            Ok(connection) => {
                self.backoff.set(FIRST_BACKOFF);
                self.not_before.set(None);
                *current = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                let backoff = self.backoff.get();
                self.backoff.set((backoff * 2).min(LAST_BACKOFF));
                // Half of the wait is drawn, so that many callers of one peer don't come back as one.
                let draw = f64::from(u16::from_le_bytes(random(self.entropy.as_ref()))) / f64::from(u16::MAX);
                self.not_before.set(Some(Instant::now() + backoff.mul_f64(0.5 + draw / 2.0)));
                Err(error)
            }
        }
    }

    /// Gives up the connection that is up.
    pub async fn hang_up(&self, reason: &str) {
        if let Some(connection) = self.current.lock().await.take() {
            connection.close(reason);
        }
    }
}
