//! What the engine takes from the machine that it runs on: clocks, chance, cryptography, sockets. A simulator gives it
//! another one. Devices come apart from this, because each kind has a type of its own.

use crate::backup::target::{Courier, Target, TargetError, TargetLimits, TargetUrl};
use farside_io::clock::{Clock, SystemClock};
use farside_io::entropy::{Entropy, SystemEntropy};
use farside_transport::{BindError, Credentials, Crypto, Endpoint, Settings};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

/// Makes an endpoint at an address: a listener where credentials are given, else one that only calls.
pub type Bind = dyn Fn(SocketAddr, Option<&Credentials>, Settings, &dyn Entropy) -> Result<Endpoint, BindError>;

/// A machine. Clones are the same one.
#[derive(Clone)]
pub struct Machine {
    /// Its clocks.
    pub clock: Rc<dyn Clock>,
    /// Its source of random bytes.
    pub entropy: Rc<dyn Entropy>,
    /// Its cryptography, and the clock that certificates are checked against.
    pub crypto: Crypto,
    /// Its network.
    pub bind: Rc<Bind>,
    /// Who carries its requests to stores; `None`: HTTP does. Where there is one, no thread is begun for what is done there.
    pub courier: Option<Arc<dyn Courier>>,
}

impl Machine {
    /// The one that this process runs on.
    pub fn real() -> Self {
        let bind = |address, listener: Option<&Credentials>, settings, entropy: &dyn Entropy| match listener {
            Some(credentials) => Endpoint::listen(address, credentials, settings, entropy),
            None => Endpoint::caller(address, settings, entropy),
        };
        Self {
            clock: Rc::new(SystemClock::default()),
            entropy: Rc::new(SystemEntropy),
            crypto: Crypto::default(),
            bind: Rc::new(bind),
            courier: None,
        }
    }

    /// A target of backups, as this machine reaches it.
    pub fn target(&self, url: &TargetUrl, limits: TargetLimits) -> Result<Target, TargetError> {
        match &self.courier {
            Some(courier) => Target::open_by(courier.clone(), url, limits),
            None => Target::open(url, limits),
        }
    }

    /// An endpoint with this machine's cryptography.
    pub fn endpoint(
        &self,
        address: SocketAddr,
        listener: Option<&Credentials>,
        settings: Settings,
    ) -> Result<Endpoint, BindError> {
        let settings = Settings { crypto: self.crypto.clone(), ..settings };
        (self.bind)(address, listener, settings, self.entropy.as_ref())
    }
}
