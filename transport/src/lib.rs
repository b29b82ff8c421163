//! QUIC between shards: identities, links, frame streams, pacing.
//!
//! One quinn endpoint a shard, inside the shard's own runtime; mutual TLS 1.3 with the site's own certificates; two
//! connections a link, so that chunks never hold up requests; one request a stream. WIRE.md describes the bytes.

#![doc = include_str!("../../WIRE.md")]

pub mod dialer;
pub mod endpoint;
pub mod hello;
pub mod identity;
pub mod limits;
pub mod rejection;
mod runtime;
mod seeds;
pub mod settings;
pub mod statistics;
pub mod stream;
mod tls;
mod waiting;

pub use dialer::Dialer;
pub use endpoint::{Arrival, BindError, ConnectError, Connection, Credentials, Endpoint};
pub use identity::{
    Authority, Caller, HeldIdentity, Identity, IdentityError, IdentityRequest, Role, Serial, Trust, Validity,
};
pub use rejection::Rejection;
pub use settings::{Class, Congestion, Expect, Settings};
pub use statistics::{Statistics, Traffic};
pub use stream::{CallError, Stream, StreamError};
pub use tls::{Crypto, verify_caller};
