//! Identities that a site has issued: what its control group keeps of them, and what is asked about them.
//!
//! The list names what may be refused; it is no list of who is let in. Whoever shows a certificate of the site's authority
//! that is not in it is let in and listed from then on, so nothing is lost where an identity was issued beside the control
//! group, on a node's own machine.

use crate::ids::{Hlc, Label, TenantId};
use crate::{choice, record};
use bytes::Bytes;

/// What tells a certificate from all others: the first bytes of its public key.
pub type Serial = [u8; 16];

choice!(
    /// What the holder of an identity may be.
    IdentityRole {
        /// A node of the site, towards everybody who calls it and the other nodes.
        Node = 1,
        /// A node of the site, towards the site's peers.
        Peer = 2,
        /// An operator.
        Operator = 3,
        /// A client of one tenant.
        Client(TenantId) = 4,
        /// Whoever was given a token: a node or a peer site that may join, once.
        Invitation = 5,
    }
);
record!(
    /// An identity was revoked.
    Revocation {
        /// When.
        at: Hlc,
        /// By whom: the name of the operator whose identity asked for it.
        by: Label,
    }
);
record!(
    /// An identity that the site has issued.
    IdentityRecord {
        /// Its serial.
        serial: [u8; 16],
        /// What it is called: an operator's name, a node's number, the name that a client's was given.
        name: Label,
        /// What its holder may be.
        role: IdentityRole,
        /// The generation of the authority that issued it.
        authority: u32,
        /// When it was issued, or was seen first where that was done beside the control group.
        issued: Hlc,
        /// When it expires.
        expires: Hlc,
        /// When it was revoked, if it was.
        revoked: Option<Revocation>,
    }
);
record!(
    /// An identity joins the list.
    PutIdentity {
        /// The identity. One whose serial is listed stays as it is.
        record: IdentityRecord,
        /// Its name must be nobody else's who could still show his own, issued by the same authority.
        named: bool,
        /// The proposer's clock.
        time: Hlc,
    }
);
record!(
    /// An identity is refused from now on.
    RevokeIdentity {
        /// Its serial.
        serial: [u8; 16],
        /// When, by whom.
        revocation: Revocation,
        /// Also if it is the last operator's.
        force: bool,
    }
);
record!(
    /// Asks for an identity whose key the caller has made.
    IssueIdentity {
        /// What it is to be called.
        name: Label,
        /// The tenant whose client it is for; an operator's where there is none.
        tenant: Option<Label>,
        /// How long it is to be good.
        life_seconds: u64,
        /// The Ed25519 key.
        public_key: [u8; 32],
    }
);
record!(
    /// An identity that was issued.
    IssuedIdentity {
        /// The site's name.
        site_name: Label,
        /// As it is listed.
        record: IdentityRecord,
        /// Its certificate (DER).
        certificate: Bytes,
        /// The certificate of the site's authority (DER).
        authority: Bytes,
        /// Where the site's nodes listen: `ip:port` of shard 0 of each.
        endpoints: Vec<String>,
    }
);
record!(
    /// Asks for an identity to be refused.
    RevokeOrder {
        /// Its serial in hexadecimal, or its name.
        which: String,
        /// Also if it is the last operator's.
        force: bool,
    }
);
record!(
    /// Asks for listed identities, in order of their serials.
    IdentityQuestion {
        /// Those after this one.
        after: Option<[u8; 16]>,
        /// At most so many.
        limit: u32,
    }
);
record!(
    /// Listed identities, and whether there are more.
    Identities {
        /// In order.
        identities: Vec<IdentityRecord>,
        /// There are more.
        more: bool,
    }
);

impl IdentityRole {
    /// As it is shown to people and scripts.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Peer => "peer",
            Self::Operator => "operator",
            Self::Client(_) => "client",
            Self::Invitation => "invitation",
        }
    }
}

impl IdentityRecord {
    /// Whether its holder could still show it at `time`.
    pub fn is_live(&self, time: Hlc) -> bool {
        self.revoked.is_none() && self.expires > time
    }
}
