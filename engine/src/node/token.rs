//! Tokens: what a running node makes, somebody carries by hand, and a peer site or a new node of this one shows once.
//!
//! A token holds where its maker is, its CA's certificate, a secret, and a short-lived identity issued by that CA with
//! which whoever shows it may say one thing: who it is.

use super::auditing::certificate;
use super::limits;
use super::peers::endpoints;
use super::server::Answered;
use super::shard::Shard;
use super::{authority, identities};
use bytes::Bytes;
use farside_codec::command::{ControlCommand, PendingToken, TokenPurpose};
use farside_codec::ids::{Hlc, Label, SiteId, hex};
use farside_codec::message::{Refusal, RefusalCode, Reply};
use farside_codec::{Field, record};
use farside_io::disk::Disk;
use farside_io::entropy::random;
use farside_transport::{Caller, Credentials, Identity, IdentityError, Role, Trust};
use std::rc::Rc;
use std::time::Duration;
use zeroize::Zeroizing;

/// Whom a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A peer site.
    Peer,
    /// A node of the site that made it.
    Node,
}

impl Purpose {
    /// Subject of the identity in the token: all that it can do is join.
    pub(super) fn subject(self) -> &'static str {
        match self {
            Self::Peer => "invited",
            Self::Node => "invited-node",
        }
    }

    /// Every subject of such an identity.
    fn all() -> [&'static str; 2] {
        [Self::Peer.subject(), Self::Node.subject()]
    }

    /// Tokens begin so, with the version of their contents.
    fn prefix(self) -> &'static str {
        match self {
            Self::Peer => "farside-peer-1.",
            Self::Node => "farside-node-1.",
        }
    }
}

/// Whether an identity with this subject came with a token.
pub(super) fn is_invitation(subject: &str) -> bool {
    Purpose::all().contains(&subject)
}

record!(
    /// What a token holds.
    Token {
        /// Its maker.
        site: SiteId,
        /// The maker's name.
        name: Label,
        /// The maker's CA (DER).
        certificate: Bytes,
        /// Where the maker listens.
        endpoints: Vec<String>,
        /// Good once.
        secret: [u8; 32],
        /// The short-lived identity's certificate (DER).
        invitation: Bytes,
        /// And its key (PKCS #8 DER).
        key: Bytes,
        /// First bytes of the BLAKE3 of everything before, so that a mistyped token is told from a refused one.
        check: u32,
    }
);

impl Token {
    /// What whoever shows the token calls its maker with.
    pub(super) fn credentials(&self) -> Result<Credentials, IdentityError> {
        let identity = Identity::from_parts(self.invitation.to_vec(), Zeroizing::new(self.key.to_vec()))?;
        Ok(Credentials { identity: identity.into(), trust: Trust::new(self.site, &self.certificate) })
    }

    fn own_check(&self) -> u32 {
        let hash = blake3::hash(&Self { check: 0, ..self.clone() }.to_bytes());
        let [a, b, c, d, ..] = *hash.as_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    fn to_text(&self, purpose: Purpose) -> String {
        format!("{}{}", purpose.prefix(), hex(&self.to_bytes()))
    }

    /// Reads a token that was made for `purpose`.
    pub(crate) fn parse(purpose: Purpose, text: &str) -> Option<Self> {
        let hex = text.trim().strip_prefix(purpose.prefix())?.as_bytes();
        let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
        let bytes: Option<Vec<u8>> =
            hex.chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect();
        let token = Self::from_bytes(bytes?.into()).ok()?;
        (token.check == token.own_check()).then_some(token)
    }
}

/// Refuses where nobody could find this node by what it says of itself.
pub(super) fn check_reachable<D: Disk>(shard: &Shard<D>) -> Result<(), Refusal> {
    let address = shard.advertised;
    if !address.ip().is_unspecified() {
        return Ok(());
    }
    let detail = format!(
        "nobody can reach this site at {address}: set `advertise = \"IP:PORT\"` in its node.toml, and restart it"
    );
    Err(Refusal::new(RefusalCode::BadRequest, detail))
}

/// Makes a token, and has the site wait for whoever shows it.
pub(super) async fn make<D: Disk>(
    shard: &Rc<Shard<D>>,
    caller: &Caller,
    purpose: Purpose,
    lets_in: TokenPurpose,
) -> Answered {
    check_reachable(shard)?;
    if lets_in == TokenPurpose::Peer {
        super::renewing::refuse_part(&shard.root)?;
    }
    let failed = |error: String| Refusal::new(RefusalCode::Internal, error);
    let entropy = shard.machine.entropy.as_ref();
    let authority = authority::issuing(shard)?.issuing;
    let now = shard.clock.now();
    let since_epoch = Duration::from_millis(now.ms());
    let identity = authority
        .issue(Role::Peer, purpose.subject(), since_epoch, limits::TOKEN_LIFE, entropy)
        .map_err(|error| failed(error.to_string()))?;
    let mut token = Token {
        site: shard.site.site,
        name: shard.site.name.clone(),
        certificate: Bytes::copy_from_slice(authority.certificate()),
        endpoints: endpoints(shard),
        secret: random(entropy),
        invitation: Bytes::copy_from_slice(identity.certificate()),
        key: Bytes::copy_from_slice(identity.key()),
        check: 0,
    };
    token.check = token.own_check();
    // It can be revoked as any other, also before anybody has shown it.
    identities::list_identity(shard, &identity).await?;
    let expires = Hlc::from_ms(now.ms() + limits::TOKEN_LIFE.as_millis() as u64);
    let secret_hash = *blake3::hash(&token.secret).as_bytes();
    let pending = PendingToken { secret_hash, purpose: lets_in, expires };
    shard.control(&certificate(caller), ControlCommand::PutToken(pending)).await?;
    Ok(Reply::Token(token.to_text(purpose)).into())
}
