//! The first request of a connection: both ends say who they are and which protocol versions they speak.

use crate::endpoint::Connection;
use crate::stream::{CallError, StreamError};
use farside_codec::DecodeError;
use farside_codec::message::{Hello, Refusal, RefusalCode, Reply, Request};

/// The newest version that both ends speak, or the refusal that says why there is none.
pub fn common_version(own: &Hello, other: &Hello) -> Result<u16, Refusal> {
    let version = own.newest_version.min(other.newest_version);
    if version < own.oldest_version.max(other.oldest_version) {
        let detail = format!(
            "{} speaks protocol versions {} to {}, {} speaks {} to {}: upgrade the older one",
            own.site_name,
            own.oldest_version,
            own.newest_version,
            other.site_name,
            other.oldest_version,
            other.newest_version
        );
        return Err(Refusal::new(RefusalCode::Version, detail));
    }
    Ok(version)
}

impl Connection {
    /// Greets the other end. Refused where the two speak no common version, or where it claims to be another site than
    /// its certificate says.
    pub async fn handshake(&self, own: Hello) -> Result<Hello, CallError> {
        let (reply, _) = self.call(&Request::Hello(own.clone()), None).await?;
        let Reply::Hello(other) = reply else {
            return Err(StreamError::Corrupt(DecodeError::Invalid { what: "answer to a hello" }).into());
        };
        common_version(&own, &other).map_err(CallError::Refused)?;
        if other.site != self.caller().site {
            let detail = format!("the node at {} answers for another site than its certificate", self.remote_address());
            return Err(CallError::Refused(Refusal::new(RefusalCode::Forbidden, detail)));
        }
        Ok(other)
    }
}
