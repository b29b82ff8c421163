//! Joining two sites: a token made at one, carried by hand, and used once at the other.
//!
//! The token holds where the maker is, its CA's certificate, a secret, and a short-lived identity issued by that CA with
//! which the other side may say one thing: who it is. Both then trust one another's CA about one another's site.

use super::auditing::certificate;
use super::server::Answered;
use super::shard::Shard;
use super::token::{self, Purpose, Token};
use super::{authority, limits, links, renewing};
use bytes::Bytes;
use farside_codec::cluster::NodeState;
use farside_codec::command::{ControlCommand, GroupCommand, RedeemToken};
use farside_codec::ids::{GroupId, Label, SiteId};
use farside_codec::message::{
    Hello, PeerAction, PeerEndpoints, PeerJoin, PeerRecord, Refusal, RefusalCode, Reply, Request, SetPeer,
};
use farside_io::disk::Disk;
use farside_transport::{CallError, Caller, Class, ConnectError, Expect};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// How long a peer may take over what it is told or asked here.
pub(super) const TELL: Duration = Duration::from_secs(3);

/// The name of the site that made a token; `None` if this is no token.
pub fn token_site(text: &str) -> Option<Label> {
    Token::parse(Purpose::Peer, text).map(|token| token.name)
}

/// This site, as a peer should keep it.
fn own_record<D: Disk>(shard: &Shard<D>) -> Result<PeerRecord, Refusal> {
    renewing::refuse_part(&shard.root)?;
    token::check_reachable(shard)?;
    Ok(PeerRecord {
        site: shard.site.site,
        name: shard.site.name.clone(),
        certificate: Bytes::copy_from_slice(authority::issuing(shard)?.issuing.certificate()),
        endpoints: endpoints(shard),
        paused: false,
    })
}

/// Where this site's nodes are found, this one first.
pub(super) fn endpoints<D: Disk>(shard: &Shard<D>) -> Vec<String> {
    let others = shard.others().into_iter().map(|node| node.endpoint);
    std::iter::once(shard.advertised.to_string()).chain(others).collect()
}

/// Greets a peer as this node; what it says of itself is remembered.
pub(super) async fn greet<D: Disk>(shard: &Shard<D>, peer: &PeerRecord) -> Result<Hello, links::PeerCallError> {
    shard.links.hello(peer, links::own_hello(&shard.site, shard.index, shard.clock.now())).await
}

/// What a peer says of itself; one that has not said it yet is greeted.
pub(super) async fn greeted<D: Disk>(shard: &Shard<D>, peer: &PeerRecord) -> Result<Hello, links::PeerCallError> {
    match shard.links.known(peer.site) {
        Some(hello) => Ok(hello),
        None => greet(shard, peer).await,
    }
}

/// Says something to a peer's first shard, which greets it first.
pub(super) async fn tell<D: Disk>(shard: &Rc<Shard<D>>, peer: &PeerRecord, request: Request) -> Result<Reply, Refusal> {
    let silent = |error: String| Refusal::new(RefusalCode::Unavailable, error);
    let told = async {
        if shard.links.known(peer.site).is_none() || !shard.links.is_up(peer.site) {
            greet(shard, peer).await.map_err(|error| silent(error.to_string()))?;
        }
        match shard.links.call(peer, 0, Class::Request, &request, None).await {
            Ok(reply) => Ok(reply),
            Err(links::PeerCallError::Call(CallError::Refused(refusal))) => Err(refusal),
            Err(error) => Err(silent(error.to_string())),
        }
    };
    let late = || Err(silent(format!("peer {} does not answer", peer.name)));
    tokio::time::timeout(TELL, told).await.unwrap_or_else(|_| late())
}

/// Where this site's nodes are found, whichever of them says so. A node that is dead may come back.
fn endpoints_of_all<D: Disk>(shard: &Shard<D>) -> Vec<String> {
    let view = shard.view();
    let there = view.nodes.values().filter(|node| !matches!(node.state, NodeState::Joining | NodeState::Removed));
    let found: Vec<String> = there.map(|node| node.endpoint.clone()).filter(|endpoint| !endpoint.is_empty()).collect();
    if found.is_empty() { vec![shard.advertised.to_string()] } else { found }
}

/// Where this node leads the control group: tells peers where the site's nodes are, each time that this changes. A peer goes by
/// what it was told last, and the nodes that it was joined with may all be gone one day.
pub(super) async fn tell_endpoints<D: Disk>(shard: Rc<Shard<D>>) {
    let mut told: BTreeMap<SiteId, Vec<String>> = BTreeMap::new();
    loop {
        tokio::time::sleep(shard.pace(limits::ENDPOINTS_LOOK)).await;
        if !shard.leads_site() {
            // Whoever led in between may have said something else.
            told.clear();
            continue;
        }
        let (view, endpoints) = (shard.view(), endpoints_of_all(&shard));
        told.retain(|site, _| view.peers.contains_key(site));
        for peer in view.peers.values().filter(|peer| !peer.paused) {
            if told.get(&peer.site) == Some(&endpoints) {
                continue;
            }
            let said = PeerEndpoints { site: shard.site.site, endpoints: endpoints.clone() };
            match tell(&shard, peer, Request::FedEndpoints(said)).await {
                Ok(_) => drop(told.insert(peer.site, endpoints.clone())),
                // Said again at the next turn.
                Err(refusal) => tracing::info!(peer = %peer.name, %refusal, "the peer was not told where we are"),
            }
        }
    }
}

/// A peer says where its nodes are.
pub(super) async fn hear_endpoints<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, said: PeerEndpoints) -> Answered {
    if shard.view().peers.get(&said.site).is_none_or(|known| known.endpoints != said.endpoints) {
        shard.control(&certificate(caller), ControlCommand::MovePeer(said)).await?;
    }
    Ok(Reply::Done.into())
}

/// Joins the site that made a token.
pub(super) async fn add<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, text: &str) -> Answered {
    let bad = |detail: String| Refusal::new(RefusalCode::BadRequest, detail);
    let token = Token::parse(Purpose::Peer, text)
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
    shard.control(&certificate(caller), ControlCommand::PutPeer(peer)).await?;
    Ok(Reply::Peers(shard.view().peers.values().cloned().collect()).into())
}

/// Says who we are to the token's maker, with the identity in the token.
async fn introduce<D: Disk>(shard: &Rc<Shard<D>>, token: &Token) -> Result<(), Refusal> {
    let bad = |detail: String| Refusal::new(RefusalCode::BadRequest, detail);
    let unreachable = |detail: String| Refusal::new(RefusalCode::Unavailable, detail);
    let credentials = token.credentials().map_err(|error| bad(error.to_string()))?;
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
pub(super) async fn join<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, join: PeerJoin) -> Answered {
    let own = own_record(shard)?;
    let redeem =
        RedeemToken { secret_hash: *blake3::hash(&join.secret).as_bytes(), peer: join.peer, time: shard.clock.now() };
    shard.control(&certificate(caller), ControlCommand::RedeemToken(redeem)).await?;
    Ok(Reply::Peers(vec![own]).into())
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

/// What was said of the bounds of each peer.
pub(super) fn limits<D: Disk>(shard: &Shard<D>) -> Reply {
    let view = shard.view();
    Reply::PeerLimits(view.peers.keys().map(|site| view.bounds(*site)).collect())
}

/// Pauses, resumes, bounds or removes a peer.
pub(super) async fn set<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, set: SetPeer) -> Answered {
    let missing = || Refusal::new(RefusalCode::NotFound, format!("there is no peer {}", set.name));
    let peer = shard.view().peer(&set.name).map(|peer| peer.site).ok_or_else(missing)?;
    let removes = set.action == PeerAction::Remove;
    let stops = removes || set.action == PeerAction::Pause;
    shard.control(&certificate(caller), ControlCommand::SetPeer((set.name, set.action))).await?;
    if stops {
        wait_for_silence(shard, peer).await?;
    }
    if removes {
        for group in 1..=shard.site.groups {
            let group = GroupId(group);
            // It is a peer no more, whatever else is so; a group that can't forget it now does so at the next round of GC.
            if let Err(refusal) = shard.group_command(group, GroupCommand::ForgetPeer(peer)).await {
                tracing::warn!(%group, %refusal, "a group has not forgotten a removed peer yet");
            }
        }
    }
    Ok(Reply::Done.into())
}
