//! A simulated machine: a clock that can be wrong, a seeded source of chance, a place in the network.

use super::network::Network;
use farside::machine::Machine;
use farside_io::clock::Clock;
use farside_io::entropy::{Entropy, SeededEntropy};
use farside_transport::{Credentials, Crypto, Endpoint, Settings};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;

/// When simulated time begins: the first instant of 2030.
const BEGIN_MS: u64 = 1_893_456_000_000;

/// A machine's wall clock: tokio's time, plus what it is wrong by.
#[derive(Debug, Clone)]
pub struct HostClock {
    begun: Instant,
    wrong_by_ms: Arc<AtomicI64>,
}

impl HostClock {
    fn new() -> Self {
        Self { begun: Instant::now(), wrong_by_ms: Arc::default() }
    }

    /// Makes the wall clock jump.
    pub fn set_wrong_by(&self, milliseconds: i64) {
        self.wrong_by_ms.store(milliseconds, Relaxed);
    }
}

impl Clock for HostClock {
    fn monotonic(&self) -> Duration {
        self.begun.elapsed()
    }
    fn wall_ms(&self) -> u64 {
        let right = BEGIN_MS + self.begun.elapsed().as_millis() as u64;
        right.saturating_add_signed(self.wrong_by_ms.load(Relaxed))
    }
}

impl TimeProvider for HostClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.wall_ms())))
    }
}

/// A machine of the world.
#[derive(Clone)]
pub struct Host {
    /// Its address.
    pub ip: IpAddr,
    /// Its clock.
    pub clock: HostClock,
    entropy: Rc<SeededEntropy>,
    network: Network,
}

impl Host {
    /// The machine with this number.
    pub fn new(number: u8, seed: u64, network: &Network) -> Self {
        let ip = IpAddr::V4(Ipv4Addr::new(10, 0, 0, number));
        let entropy = Rc::new(SeededEntropy::new(seed ^ u64::from(number) << 32));
        Self { ip, clock: HostClock::new(), entropy, network: network.clone() }
    }

    /// What the engine gets of it.
    pub fn machine(&self) -> Machine {
        let mut provider = aws_lc_rs::default_provider();
        // One cheap key exchange: what it agrees on is not what is looked at here.
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
        let crypto = Crypto { provider: Arc::new(provider), time: Arc::new(self.clock.clone()) };
        let (network, ip) = (self.network.clone(), self.ip);
        let bind = move |address: SocketAddr, listener: Option<&Credentials>, settings, entropy: &dyn Entropy| {
            let socket = network.bind(SocketAddr::new(ip, address.port()));
            let socket = socket.map_err(|_| farside_transport::BindError::InUse(address))?;
            Endpoint::over(socket, listener, Settings { ..settings }, entropy)
        };
        let entropy: Rc<dyn Entropy> = self.entropy.clone();
        Machine { clock: Rc::new(self.clock.clone()), entropy, crypto, bind: Rc::new(bind) }
    }
}
