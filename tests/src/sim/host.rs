//! A simulated machine: a clock that can be wrong, a seeded source of chance, a place in the network.

use super::network::Network;
use farside::backup::target::Courier;
use farside::machine::Machine;
use farside_io::clock::Clock;
use farside_io::entropy::{Entropy, SeededEntropy};
use farside_transport::{Credentials, Crypto, Endpoint, Settings};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// When simulated time begins: the first instant of 2030.
const BEGIN_MS: u64 = 1_893_456_000_000;

/// A machine's wall clock: it showed `shown_ms` when `at_ms` of tokio's time had passed, and goes on at `pace_ppm`.
#[derive(Debug, Clone, Copy)]
struct Hand {
    at_ms: u64,
    shown_ms: u64,
    /// Of a million: how many microseconds it shows for each second that passes.
    pace_ppm: u64,
}

/// A machine's clocks: the monotonic one is tokio's, the wall clock can be wrong.
#[derive(Debug, Clone)]
pub struct HostClock {
    begun: Instant,
    hand: Arc<Mutex<Hand>>,
}

impl HostClock {
    /// A clock that is right: it showed the first instant when the world began.
    fn new(begun: Instant) -> Self {
        let hand = Hand { at_ms: 0, shown_ms: BEGIN_MS, pace_ppm: 1_000_000 };
        Self { begun, hand: Arc::new(Mutex::new(hand)) }
    }

    fn hand(&self) -> MutexGuard<'_, Hand> {
        self.hand.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn elapsed_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// Makes the wall clock jump to so many milliseconds beside the right time, and go on at the right pace.
    pub fn set_wrong_by(&self, milliseconds: i64) {
        let at_ms = self.elapsed_ms();
        let shown_ms = (BEGIN_MS + at_ms).saturating_add_signed(milliseconds);
        *self.hand() = Hand { at_ms, shown_ms, pace_ppm: 1_000_000 };
    }

    /// Makes the wall clock go on from what it shows at another pace; at 0 it stands still.
    pub fn set_pace(&self, pace_ppm: u64) {
        let (at_ms, shown_ms) = (self.elapsed_ms(), self.wall_ms());
        *self.hand() = Hand { at_ms, shown_ms, pace_ppm };
    }
}

impl Clock for HostClock {
    fn monotonic(&self) -> Duration {
        self.begun.elapsed()
    }
    fn wall_ms(&self) -> u64 {
        let hand = *self.hand();
        hand.shown_ms + self.elapsed_ms().saturating_sub(hand.at_ms) * hand.pace_ppm / 1_000_000
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
        Self { ip, clock: HostClock::new(network.begun()), entropy, network: network.clone() }
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
        let courier = Some(Arc::new(self.network.stores().clone()) as Arc<dyn Courier>);
        Machine { clock: Rc::new(self.clock.clone()), entropy, crypto, bind: Rc::new(bind), courier }
    }
}
