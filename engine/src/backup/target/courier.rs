//! Who carries requests to a store that speaks S3: HTTP over the machine's network, or a simulator that answers in its place.

use bytes::Bytes;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// It did not get there.
    Unreached,
    /// It may have been carried out.
    Lost,
}

/// What comes of a request.
pub type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Bytes>, NoAnswer>> + Send>>;

/// Carries requests in place of HTTP. Where there is one, chance comes from it too, so that a run can be repeated.
pub trait Courier: fmt::Debug + Send + Sync {
    /// Carries one request, and its answer.
    fn carry(&self, request: http::Request<Bytes>) -> Answer;
    /// A random number: for the pauses between attempts, and for telling one put from another.
    fn draw(&self) -> u128;
}
