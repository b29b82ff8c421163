//! What a node shows, over time: its certificates are issued anew before they expire, when they are ordered to be, and when
//! another authority issues. Every node has the authority's key, so none has to ask.
//!
//! The new files are durable before anybody is shown what is in them. Connections go on under what they were made with.

use super::authority::{self, Known};
use super::directory::NodeDirectory;
use super::error::{NodeError, failed};
use super::expiring::expires_soon;
use super::init::save_identity;
use super::seed::ShardSeed;
use super::server::Answered;
use super::shard::Shard;
use super::{identities, limits};
use crate::client::Context;
use crate::machine::Machine;
use crate::node::keys::HeldKey;
use bytes::Bytes;
use farside_codec::authority::NodeStanding;
use farside_codec::cluster::NodeState;
use farside_codec::command::ControlCommand;
use farside_codec::message::{Reply, Request};
use farside_io::disk::Disk;
use farside_transport::{Class, HeldIdentity, Identity, Role, Validity};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What a node shows to its own site and to peers. Clones share it, over all shards.
#[derive(Clone)]
pub(crate) struct Shown {
    /// To whoever calls it, and to other nodes.
    pub(super) node: HeldIdentity,
    /// To peers.
    pub(super) peer: HeldIdentity,
    /// How long what it issues for itself is good.
    pub(super) life: Duration,
}

/// How a node does with its certificates; kept on shard 0.
#[derive(Default)]
pub(crate) struct Certificates {
    /// They are to be issued anew now.
    ordered: Cell<bool>,
    /// What was issued has not been listed yet.
    unlisted: Cell<bool>,
    /// The step of the site's authority that is written down in the directory, as far as was looked.
    pub(super) written: Cell<u64>,
    /// The step by which is gone when somebody shows a certificate; 0: what the directory said at the start.
    pub(super) trusted: Cell<u64>,
    /// Why they could not be.
    trouble: RefCell<Option<String>>,
}

/// Whether a certificate has to be issued anew: it ends soon, or a clock that was wrong had it begin in what is the future now.
fn is_due(validity: Validity, now_ms: u64) -> bool {
    let (issued, ends) = (validity.issued().saturating_mul(1000), validity.ends.saturating_mul(1000));
    validity.begins.saturating_mul(1000) > now_ms || expires_soon(issued, ends, now_ms)
}

/// Everything that it takes to issue for a node.
struct Issuer<'a> {
    directory: NodeDirectory,
    known: Known,
    number: String,
    shown: &'a Shown,
    machine: &'a Machine,
}

impl Issuer<'_> {
    fn issue(&self, role: Role, subject: &str, life: Duration) -> Result<Identity, NodeError> {
        let now = Duration::from_millis(self.machine.clock.wall_ms());
        self.known.issuing.issue(role, subject, now, life, self.machine.entropy.as_ref()).map_err(failed)
    }

    /// Whether what the node shows was issued by the authority that issues now.
    fn is_current(&self) -> bool {
        let by_it = |held: &HeldIdentity| {
            farside_transport::identity::is_issued_by(held.get().certificate(), self.known.issuing.certificate())
        };
        by_it(&self.shown.node) && by_it(&self.shown.peer)
    }

    fn is_due(&self) -> bool {
        let now_ms = self.machine.clock.wall_ms();
        let due = |held: &HeldIdentity| is_due(held.get().validity(), now_ms);
        due(&self.shown.node) || due(&self.shown.peer)
    }

    /// Issues what the node shows anew. Interrupted in between it shows one of both, and goes on when it starts.
    fn reissue(&self) -> Result<(), NodeError> {
        let own = [
            (Role::Node, self.directory.node_identity(), &self.shown.node),
            (Role::Peer, self.directory.peer_identity(), &self.shown.peer),
        ];
        for (role, path, held) in own {
            let identity = self.issue(role, &self.number, self.shown.life)?;
            save_identity(&path, &identity)?;
            held.replace(identity);
        }
        Ok(())
    }

    /// Shows the way to the authority that issues to whoever trusts only the one before, for as long as that is trusted.
    fn endorse(&self) {
        for held in [&self.shown.node, &self.shown.peer] {
            held.replace(held.get().endorsed_by(self.known.endorsement.as_ref().map(|bytes| bytes.to_vec())));
        }
    }

    /// The operator's context in the directory, issued anew if it is time; `None` where it stays.
    fn operator(&self, is_revoked: impl Fn(&Identity) -> bool) -> Result<Option<Identity>, NodeError> {
        let path = self.directory.admin_context();
        // Whoever took it away has no use for another one.
        let Ok(context) = Context::load(&path) else { return Ok(None) };
        let identity = context.identity().map_err(failed)?;
        let authority = self.known.issuing.certificate();
        let is_current = farside_transport::identity::is_issued_by(identity.certificate(), authority);
        let stays = is_current && !is_due(identity.validity(), self.machine.clock.wall_ms());
        if stays || is_revoked(&identity) || identity.caller().role != Role::Admin {
            return Ok(None);
        }
        let next = self.issue(Role::Admin, &identity.caller().subject, limits::CERTIFICATE_LIFE)?;
        let (certificate, key) = (Bytes::copy_from_slice(next.certificate()), Bytes::copy_from_slice(next.key()));
        let authority = Bytes::copy_from_slice(authority);
        Context { authority, certificate, key, ..context }.save(&path).map_err(failed)?;
        Ok(Some(next))
    }
}

/// Before a node starts: what it shows is good, whatever time has passed, and it trusts whom it has trusted.
pub(super) fn prepare<D: Disk>(seed: &ShardSeed<D>, machine: &Machine) -> Result<(), NodeError> {
    let directory = NodeDirectory::new(&seed.root);
    let key: &Arc<HeldKey> = &seed.key;
    let known = authority::of_directory(&directory, &key.key(), &seed.site)?;
    let number = seed.site.node.to_string();
    let issuer = Issuer { directory, known, number, shown: &seed.shown, machine };
    if !issuer.is_current() || issuer.is_due() {
        issuer.reissue()?;
    }
    issuer.endorse();
    Ok(())
}

/// Keeps what the node shows good, for as long as it runs, and says how far it has come along with another authority.
pub(super) async fn keep<D: Disk>(shard: Rc<Shard<D>>) {
    while !identities::knows(&shard) {
        tokio::time::sleep(limits::AUTHORITY_LOOK).await;
    }
    loop {
        match look(&shard).await {
            Ok(()) => drop(shard.certificates.trouble.take()),
            Err(trouble) => {
                tracing::error!(trouble, "the node's certificates are not as they should be");
                shard.certificates.trouble.replace(Some(trouble));
            }
        }
        if shard.leads_site() {
            authority::lead(&shard).await;
        }
        tokio::time::sleep(limits::AUTHORITY_LOOK).await;
    }
}

async fn look<D: Disk>(shard: &Rc<Shard<D>>) -> Result<(), String> {
    let came = authority::come_along(shard).map_err(|error| error.to_string())?;
    let ordered = shard.certificates.ordered.replace(false);
    let now_ms = shard.machine.clock.wall_ms();
    let due = |held: &HeldIdentity| is_due(held.get().validity(), now_ms);
    let view = shard.view();
    let change = view.authorities.as_ref().map_or(0, |known| known.change);
    let stands = view.standings.get(&shard.site.node).map_or(0, |stands| stands.change);
    let unlisted = shard.certificates.unlisted.get();
    if !came && !ordered && !unlisted && stands >= change && !due(&shard.shown.node) && !due(&shard.shown.peer) {
        return Ok(());
    }
    let known = authority::issuing(shard).map_err(|refusal| refusal.detail)?;
    let (generation, change) = (known.generation, known.change);
    let directory = NodeDirectory::new(&shard.root);
    let (number, machine) = (shard.site.node.to_string(), &shard.machine);
    let issuer = Issuer { directory, known, number, shown: &shard.shown, machine };
    let issued = (|| {
        if ordered || !issuer.is_current() || issuer.is_due() {
            issuer.reissue()?;
            tracing::info!("the node shows new certificates");
        }
        issuer.endorse();
        issuer.operator(|identity| view.revoked.contains(&identity.serial()))
    })();
    if issued.is_err() && ordered {
        shard.certificates.ordered.set(true);
    }
    let operator = issued.map_err(|error| error.to_string())?;
    shard.certificates.unlisted.set(true);
    let own = [shard.shown.node.get(), shard.shown.peer.get()];
    for identity in own.iter().chain(&operator) {
        identities::list_identity(shard, identity).await.map_err(|refusal| refusal.detail)?;
    }
    shard.certificates.unlisted.set(false);
    if change > stands {
        let standing = NodeStanding { node: shard.site.node, change, generation };
        shard
            .control(&shard.by_itself(), ControlCommand::StandNode(standing))
            .await
            .map_err(|refusal| refusal.detail)?;
    }
    Ok(())
}

/// Has every node show new certificates now. Answers the names of those that did not hear of it.
pub(super) async fn rotate<D: Disk>(shard: &Rc<Shard<D>>) -> Answered {
    rotate_here(shard).await?;
    let mut silent = Vec::new();
    let nodes = shard.view().nodes.values().cloned().collect::<Vec<_>>();
    for node in nodes.into_iter().filter(|node| node.node != shard.site.node && node.state != NodeState::Removed) {
        let request = Request::RenewCertificates;
        let asked = shard.nodes.call(&node, 0, Class::Request, &request, None, limits::STEP_PATIENCE);
        match asked.await {
            Ok((Reply::Done, _)) => {}
            Ok(_) | Err(_) => silent.push(node.name.to_string()),
        }
    }
    Ok(Reply::CertificatesRenewed(silent).into())
}

/// Has this node show new certificates now, and waits until it does.
pub(super) async fn rotate_here<D: Disk>(shard: &Rc<Shard<D>>) -> Answered {
    let before = shard.shown.node.get().serial();
    shard.on(0, |there| async move { there.certificates.ordered.set(true) }).await?;
    let deadline = tokio::time::Instant::now() + limits::NODE_PATIENCE;
    while shard.shown.node.get().serial() == before {
        if tokio::time::Instant::now() > deadline {
            let trouble = shard.on(0, |there| async move { there.certificates.trouble.borrow().clone() }).await?;
            let detail = trouble.unwrap_or_else(|| "the node is at something else: try again".to_owned());
            return Err(farside_codec::message::Refusal::new(farside_codec::message::RefusalCode::Internal, detail));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(Reply::Done.into())
}

/// What status says of a node's own certificate.
pub(super) fn told<D: Disk>(shard: &Shard<D>, alerts: &mut Vec<String>) -> Value {
    let (validity, now_ms) = (shard.shown.node.get().validity(), shard.machine.clock.wall_ms());
    let ends_ms = validity.ends.saturating_mul(1000);
    if let Some(trouble) = &*shard.certificates.trouble.borrow() {
        alerts.push(format!("the node's certificates are not as they should be: {trouble}"));
    }
    let show = |seconds: u64| crate::times::show_time(farside_codec::ids::Hlc::from_ms(seconds.saturating_mul(1000)));
    if ends_ms < now_ms {
        let ended = show(validity.ends);
        alerts.push(format!("the node's certificate has expired ({ended}), or its clock is wrong: nobody lets it in"));
    } else if is_due(validity, now_ms) {
        alerts.push(format!("the node's certificate expires {} and was not renewed", show(validity.ends)));
    }
    json!({
        "serial": farside_codec::ids::hex(&shard.shown.node.get().serial()), "issued": show(validity.issued()),
        "expires": show(validity.ends),
    })
}
