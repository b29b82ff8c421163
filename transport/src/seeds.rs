//! Keys and connection ids that QUIC draws for itself, drawn from the injected entropy instead, so that a simulated
//! network repeats itself.

use aws_lc_rs::{hkdf, hmac};
use farside_io::entropy::{Entropy, random};
use quinn::crypto::{HandshakeTokenKey, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Bytes of a connection id: quinn's own choice for servers.
const ID_BYTES: usize = 8;
/// Bytes of the id that a caller invents for the other end; RFC 9000 asks for at least 8.
const FIRST_ID_BYTES: usize = 16;

/// Connection ids: a keyed hash of a count, so that nobody outside can tell which belong together.
#[derive(Debug, Clone)]
pub(crate) struct Ids {
    key: Arc<hmac::Key>,
    count: Arc<AtomicU64>,
}

impl Ids {
    pub(crate) fn new(entropy: &dyn Entropy) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &random::<32>(entropy));
        Self { key: Arc::new(key), count: Arc::default() }
    }

    fn draw(&self, length: usize) -> ConnectionId {
        let count = self.count.fetch_add(1, Relaxed);
        ConnectionId::new(&hmac::sign(&self.key, &count.to_le_bytes()).as_ref()[..length])
    }

    /// The id by which a caller first addresses the other end.
    pub(crate) fn first(&self) -> ConnectionId {
        self.draw(FIRST_ID_BYTES)
    }
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        self.draw(ID_BYTES)
    }
    fn cid_len(&self) -> usize {
        ID_BYTES
    }
    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// An endpoint's configuration with nothing random in it that `entropy` did not give.
pub(crate) fn endpoint_config(entropy: &dyn Entropy, ids: &Ids) -> EndpointConfig {
    let reset_key: Arc<dyn HmacKey> = Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &random::<32>(entropy)));
    let mut config = EndpointConfig::new(reset_key);
    let ids = ids.clone();
    config.cid_generator(move || Box::new(ids.clone()));
    config.rng_seed(Some(random(entropy)));
    config
}

/// The key under which a listener issues address tokens.
pub(crate) fn token_key(entropy: &dyn Entropy) -> Arc<dyn HandshakeTokenKey> {
    Arc::new(hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&random::<32>(entropy)))
}
