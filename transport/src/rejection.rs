//! Why one end turned the other away: the TLS alert or QUIC code that ended the connection, as a closed list.

use crate::limits::{CLOSED_EXPIRED, CLOSED_REVOKED};
use quinn::{ConnectionError, TransportErrorCode, VarInt};

/// Why a connection was refused, by whichever end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// No certificate was shown.
    NoCertificate,
    /// The certificate is no Farside identity, or its signatures do not hold.
    BadCertificate,
    /// The certificate was not issued by an authority that is trusted for the site it names.
    UnknownAuthority,
    /// The certificate has expired, or is not valid yet by the other end's clock.
    Expired,
    /// The identity was revoked by the site that issued it.
    Revoked,
    /// The identity is genuine, but of a role or site that has no business here.
    NotAllowed,
    /// The two ends have no protocol in common.
    Protocol,
    /// The other end takes no more connections.
    Busy,
    /// Anything else that ended the handshake.
    Other,
}

impl Rejection {
    /// How many there are.
    pub const COUNT: usize = 9;
    /// Each of them, in the order of declaration.
    pub const ALL: [Self; Self::COUNT] = [
        Self::NoCertificate,
        Self::BadCertificate,
        Self::UnknownAuthority,
        Self::Expired,
        Self::Revoked,
        Self::NotAllowed,
        Self::Protocol,
        Self::Busy,
        Self::Other,
    ];

    /// Its name in status documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::BadCertificate => "bad_certificate",
            Self::UnknownAuthority => "unknown_authority",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::NotAllowed => "not_allowed",
            Self::Protocol => "protocol",
            Self::Busy => "busy",
            Self::Other => "other",
        }
    }

    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// What ended a connection, where that was a refusal by either end and not a loss or a goodbye.
    pub(crate) fn of(error: &ConnectionError) -> Option<Self> {
        match error {
            ConnectionError::TransportError(error) => Some(Self::of_code(error.code)),
            ConnectionError::ConnectionClosed(close) => Some(Self::of_code(close.error_code)),
            ConnectionError::ApplicationClosed(close) if close.error_code == VarInt::from_u32(CLOSED_REVOKED) => {
                Some(Self::Revoked)
            }
            ConnectionError::ApplicationClosed(close) if close.error_code == VarInt::from_u32(CLOSED_EXPIRED) => {
                Some(Self::Expired)
            }
            ConnectionError::VersionMismatch => Some(Self::Protocol),
            _ => None,
        }
    }

    fn of_code(code: TransportErrorCode) -> Self {
        if code == TransportErrorCode::CONNECTION_REFUSED {
            return Self::Busy;
        }
        // QUIC carries TLS alerts as 0x100 + alert (RFC 9001, section 4.8); their numbers are in RFC 8446, section 6.
        match u64::from(code).checked_sub(0x100) {
            Some(44) => Self::Revoked,
            Some(42 | 43 | 51) => Self::BadCertificate,
            Some(45) => Self::Expired,
            Some(48) => Self::UnknownAuthority,
            Some(49) => Self::NotAllowed,
            Some(70 | 120) => Self::Protocol,
            Some(116) => Self::NoCertificate,
            _ => Self::Other,
        }
    }
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NoCertificate => "no certificate was shown",
            Self::BadCertificate => "the certificate is no valid Farside identity",
            Self::UnknownAuthority => "the certificate's authority is not trusted for the site it names",
            Self::Expired => "the certificate has expired, or a clock is wrong",
            Self::Revoked => "the identity was revoked",
            Self::NotAllowed => "the identity's role or site has no business there",
            Self::Protocol => "the two ends speak no common protocol version",
            Self::Busy => "it takes no more connections now",
            Self::Other => "the handshake failed",
        })
    }
}
