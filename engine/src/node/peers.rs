//! Joining two sites: a token made at one, carried by hand, and used once at the other.
//!
//! The token holds where the maker is, its CA's certificate, a secret, and a short-lived identity issued by that CA with
//! which the other side may say one thing: who it is. Both then trust one another's CA about one another's site.

use super::directory::NodeDirectory;
use super::server::Answered;
use super::shard::Shard;
use super::{limits, links};
use bytes::Bytes;
use farside_codec::command::{ControlCommand, GroupCommand, PendingToken, RedeemToken};
use farside_codec::ids::{GroupId, Hlc, Label, SiteId};
use farside_codec::message::{PeerAction, PeerJoin, PeerRecord, Refusal, RefusalCode, Reply, Request, SetPeer};
use farside_codec::{Field, record};
use farside_io::disk::Disk;
use farside_io::entropy::random;
use farside_transport::{Authority, CallError, Class, ConnectError, Credentials, Expect, Identity, Role, Trust};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use zeroize::Zeroizing;

/// Subject of the identity in a token.
pub(super) const INVITED: &str = "invited";
/// Tokens begin so, with the version of their contents.
const PREFIX: &str = "farside-peer-1.";

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
    fn own_check(&self) -> u32 {
        let mut unchecked = self.clone();
        unchecked.check = 0;
        let hash = blake3::hash(&unchecked.to_bytes());
        u32::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1], hash.as_bytes()[2], hash.as_bytes()[3]])
    }

    fn to_text(&self) -> String {
        let hex: String = self.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{PREFIX}{hex}")
    }

    fn parse(text: &str) -> Option<Self> {
        let hex = text.trim().strip_prefix(PREFIX)?.as_bytes();
        let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
        let bytes: Option<Vec<u8>> =
            hex.chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect();
        let token = Self::from_bytes(bytes?.into()).ok()?;
        (token.check == token.own_check()).then_some(token)
    }
}

/// The name of the site that made a token; `None` if this is no token.
pub fn token_site(text: &str) -> Option<Label> {
    Token::parse(text).map(|token| token.name)
}

/// This site, as a peer should keep it.
fn own_record<D: Disk>(shard: &Shard<D>) -> Result<PeerRecord, Refusal> {
    if shard.advertised.ip().is_unspecified() {
        let address = shard.advertised;
        let detail = format!(
            "nobody can reach this site at {address}: set `advertise = \"IP:PORT\"` in its node.toml, and restart it"
        );
        return Err(Refusal::new(RefusalCode::BadRequest, detail));
    }
    Ok(PeerRecord {
        site: shard.site.site,
        name: shard.site.name.clone(),
        certificate: shard.site.certificate.clone(),
        endpoints: vec![shard.advertised.to_string()],
        paused: false,
    })
}

fn since_epoch(now: Hlc) -> Duration {
    Duration::from_millis(now.ms())
}

/// Makes a token.
pub(super) async fn make_token<D: Disk>(shard: &Rc<Shard<D>>) -> Answered {
    let failed = |error: String| Refusal::new(RefusalCode::Internal, error);
    let own = own_record(shard)?;
    let key = NodeDirectory::new(&shard.root).authority().map_err(|error| failed(error.to_string()))?;
    let authority = Authority::from_parts(shard.site.site, shard.site.certificate.to_vec(), key);
    let now = shard.clock.now();
    let identity = authority
        .issue(Role::Peer, INVITED, since_epoch(now), limits::TOKEN_LIFE, shard.machine.entropy.as_ref())
        .map_err(|error| failed(error.to_string()))?;
    let mut token = Token {
        site: own.site,
        name: own.name,
        certificate: own.certificate,
        endpoints: own.endpoints,
        secret: random(shard.machine.entropy.as_ref()),
        invitation: Bytes::copy_from_slice(identity.certificate()),
        key: Bytes::copy_from_slice(identity.key()),
        check: 0,
    };
    token.check = token.own_check();
    let expires = Hlc::from_ms(now.ms() + limits::TOKEN_LIFE.as_millis() as u64);
    let pending = PendingToken { secret_hash: *blake3::hash(&token.secret).as_bytes(), expires };
    shard.control(ControlCommand::PutToken(pending)).await?;
    Ok(Reply::Token(token.to_text()).into())
}

/// Joins the site that made a token.
pub(super) async fn add<D: Disk>(shard: &Rc<Shard<D>>, text: &str) -> Answered {
    let bad = |detail: String| Refusal::new(RefusalCode::BadRequest, detail);
    let token = Token::parse(text)
        .ok_or_else(|| bad("this is no peer token, or part of it is missing: copy the whole line".into()))?;
    if token.site == shard.site.site || token.name == shard.site.name {
        return Err(bad(format!(
            "the token was made by a site called {}, like this one; a peer needs another name",
            token.name
        )));
    }
    let peer = PeerRecord {
        site: token.site,
        name: token.name.clone(),
        certificate: token.certificate.clone(),
        endpoints: token.endpoints.clone(),
        paused: false,
    };
    introduce(shard, &token).await?;
    shard.control(ControlCommand::PutPeer(peer)).await?;
    Ok(Reply::Peers(shard.view().peers.values().cloned().collect()).into())
}

/// Says who we are to the token's maker, with the identity in the token.
async fn introduce<D: Disk>(shard: &Rc<Shard<D>>, token: &Token) -> Result<(), Refusal> {
    let bad = |detail: String| Refusal::new(RefusalCode::BadRequest, detail);
    let unreachable = |detail: String| Refusal::new(RefusalCode::Unavailable, detail);
    let identity = Identity::from_parts(token.invitation.to_vec(), Zeroizing::new(token.key.to_vec()));
    let identity = identity.map_err(|error| bad(error.to_string()))?;
    let credentials = Credentials { identity, trust: Trust::new(token.site, &token.certificate) };
    let address: SocketAddr = token
        .endpoints
        .first()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| bad("the token names no address".into()))?;
    let expect = Expect { site: token.site };
    let silent = || {
        let detail = format!(
            "site {} does not answer at {address}: is its node running, and may UDP pass between the two?",
            token.name
        );
        unreachable(detail)
    };
    let connecting = shard.endpoint.connect(address, &credentials, &expect, Class::Request);
    let connection = match tokio::time::timeout(limits::INTRODUCTION, connecting).await {
        Err(_) | Ok(Err(ConnectError::Unreachable(_))) => return Err(silent()),
        Ok(connected) => connected.map_err(|error| unreachable(error.to_string()))?,
    };
    let hello = Request::Hello(links::own_hello(&shard.site, shard.index, shard.clock.now()));
    let join = Request::PeerJoin(PeerJoin { secret: token.secret, peer: own_record(shard)? });
    for request in [hello, join] {
        match connection.call(&request, None).await {
            Ok(_) => {}
            Err(CallError::Refused(refusal)) => return Err(refusal),
            Err(error) => return Err(unreachable(format!("site {} at {address}: {error}", token.name))),
        }
    }
    connection.close("introduced");
    Ok(())
}

/// Lets in a site that shows a token's secret.
pub(super) async fn join<D: Disk>(shard: &Rc<Shard<D>>, join: PeerJoin) -> Answered {
    let redeem =
        RedeemToken { secret_hash: *blake3::hash(&join.secret).as_bytes(), peer: join.peer, time: shard.clock.now() };
    shard.control(ControlCommand::RedeemToken(redeem)).await?;
    Ok(Reply::Peers(vec![own_record(shard)?]).into())
}

/// Waits until no sender speaks to a peer any more: when the command answers, nothing crosses.
async fn wait_for_silence<D: Disk>(shard: &Rc<Shard<D>>, peer: SiteId) -> Result<(), Refusal> {
    for index in 0..shard.shards() {
        let silent = move |there: Rc<Shard<D>>| async move {
            while there.senders.borrow().keys().any(|(_, to)| *to == peer) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        shard.on(index, silent).await?;
    }
    Ok(())
}

/// Pauses, resumes or removes a peer.
pub(super) async fn set<D: Disk>(shard: &Rc<Shard<D>>, set: SetPeer) -> Answered {
    let missing = || Refusal::new(RefusalCode::NotFound, format!("there is no peer {}", set.name));
    let peer = shard.view().peer(&set.name).map(|peer| peer.site).ok_or_else(missing)?;
    let (removes, stops) = (set.action == PeerAction::Remove, set.action != PeerAction::Resume);
    shard.control(ControlCommand::SetPeer((set.name, set.action))).await?;
    if stops {
        wait_for_silence(shard, peer).await?;
    }
    if removes {
        for group in 1..=shard.site.groups {
            let group = GroupId(group);
            let owner = group.shard(shard.shards());
            let forget = move |there: Rc<Shard<D>>| async move {
                there.command(group, &GroupCommand::ForgetPeer(peer)).await.map(drop)
            };
            shard.on(owner, forget).await??;
        }
        for index in 0..shard.shards() {
            shard.on(index, move |there| async move { there.links.forget(peer) }).await?;
        }
    }
    Ok(Reply::Done.into())
}
