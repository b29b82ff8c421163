//! The receiving side of federation: offers, and deltas whose chunks are here.

use super::auditing;
use super::limits::LEASE_MOST;
use super::server::{Answer, Answered};
use super::shard::{Shard, log_view, state_refusal};
use crate::federation::receiver::{LocalCopy, OfferDecision, decide, generation_of};
use farside_codec::command::{AcceptDeltas, ControlCommand, Fence, GroupCommand};
use farside_codec::delta::{Delta, Generation};
use farside_codec::ids::LogId;
use farside_codec::limits;
use farside_codec::message::{
    FedDeltas, FedHello, LogOffer, LogPosition, Refusal, RefusalCode, Reply, Request, Tenant,
};
use farside_io::disk::Disk;
use farside_transport::Caller;
use std::rc::Rc;
use std::time::Duration;

/// Steps that an offer may take before it has its answer: create or fence, then answer.
const STEPS: usize = 3;

/// Answers a sender's offers.
pub(super) async fn greet<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, hello: FedHello) -> Answered {
    if hello.site != caller.site {
        return Err(Refusal::new(RefusalCode::Forbidden, "the offer is made in another site's name"));
    }
    if hello.offers.len() != 1 {
        return greet_for_each(shard, caller, hello).await;
    }
    let mut positions = Vec::with_capacity(hello.offers.len());
    for offer in hello.offers {
        let log = offer.descriptor.log;
        let site = hello.site;
        let (owner, from) = (shard.shard_of_log(log), caller.clone());
        let answered = shard.on(owner, move |there| async move { take_offer(&there, &from, offer).await }).await?;
        positions.push(match answered {
            Ok(position) => position,
            Err(refusal) if refusal.code == RefusalCode::NotLeader => return Err(refusal),
            Err(refusal) => refused_position(log, Generation { counter: 0, site, incarnation: 0 }, refusal),
        });
    }
    Ok(Answer::from(Reply::FedPositions(positions)))
}

/// Each log's leader answers for its own.
async fn greet_for_each<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, hello: FedHello) -> Answered {
    let mut positions = Vec::with_capacity(hello.offers.len());
    for offer in hello.offers {
        let (log, site) = (offer.descriptor.log, hello.site);
        let one = Request::FedHello(FedHello { site, offers: vec![offer] });
        match Box::pin(super::routing::at_leader(shard, caller, shard.group_of(log), one)).await {
            Ok(Answer { reply: Reply::FedPositions(mut found), .. }) => positions.append(&mut found),
            Ok(_) => return Err(Refusal::new(RefusalCode::Internal, "an offer was answered by something else")),
            Err(refusal) => {
                positions.push(refused_position(log, Generation { counter: 0, site, incarnation: 0 }, refusal));
            }
        }
    }
    Ok(Answer::from(Reply::FedPositions(positions)))
}

fn refused_position(log: LogId, generation: Generation, refusal: Refusal) -> LogPosition {
    let head = farside_codec::delta::Cursor { generation, sequence: 0, hash: Default::default() };
    LogPosition { log, whole: head.clone(), head, lineage: Vec::new(), refusal: Some(refusal) }
}

async fn take_offer<D: Disk>(shard: &Rc<Shard<D>>, sender: &Caller, offer: LogOffer) -> Result<LogPosition, Refusal> {
    let log = offer.descriptor.log;
    shard.led_group(log).await?;
    for _ in 0..STEPS {
        let local = local_copy(shard, log)?;
        match decide(&offer, sender.site, shard.site.site, local.as_ref()) {
            OfferDecision::Create => create(shard, sender, &offer).await?,
            OfferDecision::Fence => {
                let fence = Fence { log, lineage: offer.lineage.clone(), time: shard.clock.now() };
                shard.log_command(log, GroupCommand::Fence(fence)).await?;
                tracing::warn!(%log, "another site is home now; what only this one held was set aside");
            }
            OfferDecision::Position | OfferDecision::Ahead => return position(shard, log),
            OfferDecision::Refuse(refusal) => return Err(refusal),
        }
    }
    Err(Refusal::new(RefusalCode::Diverged, "this copy and the sender's have no such point in common"))
}

fn local_copy<D: Disk>(shard: &Rc<Shard<D>>, log: LogId) -> Result<Option<LocalCopy>, Refusal> {
    let view = shard.log_group(log)?.state().borrow().log(log).map_err(state_refusal)?;
    Ok(view.map(|view| LocalCopy { lineage: view.lineage, head: view.head }))
}

/// Makes an empty copy of a log that this site hears of for the first time.
async fn create<D: Disk>(shard: &Rc<Shard<D>>, sender: &Caller, offer: &LogOffer) -> Result<(), Refusal> {
    let descriptor = &offer.descriptor;
    let generation = generation_of(&offer.lineage)
        .ok_or_else(|| Refusal::new(RefusalCode::BadRequest, "the offer has no lineage"))?;
    let tenant = Tenant {
        tenant: descriptor.tenant,
        name: descriptor.tenant_name.clone(),
        epochs: vec![descriptor.first_epoch.clone()],
        created: descriptor.created,
    };
    let by = auditing::certificate(sender);
    shard.control(&by, ControlCommand::PutTenant(tenant)).await?;
    shard.control(&by, ControlCommand::PutLog(descriptor.clone())).await?;
    shard.log_command(descriptor.log, GroupCommand::CreateLog((descriptor.clone(), generation))).await?;
    Ok(())
}

/// Where this site stands in a log of this shard.
fn position<D: Disk>(shard: &Rc<Shard<D>>, log: LogId) -> Result<LogPosition, Refusal> {
    let view = log_view(&shard.log_group(log)?, log)?;
    let (head, whole) = (view.goes_on_from().clone(), view.whole().0.clone());
    Ok(LogPosition { log, head, whole, lineage: view.lineage, refusal: None })
}

/// Takes in deltas; their chunks must be here already.
pub(super) async fn accept<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, deltas: FedDeltas) -> Answered {
    if generation_of(&deltas.lineage).is_none_or(|generation| generation.site != caller.site) {
        return Err(Refusal::new(
            RefusalCode::Forbidden,
            "the deltas' lineage does not end at the site that sends them",
        ));
    }
    if deltas.deltas.len() + deltas.pruned.len() > limits::MAX_DELTAS_PER_REQUEST {
        return Err(Refusal::new(RefusalCode::BadRequest, "more deltas than a request may carry"));
    }
    let owner = shard.shard_of_log(deltas.log);
    shard.on(owner, move |there| async move { accept_here(&there, deltas).await }).await?
}

async fn accept_here<D: Disk>(shard: &Rc<Shard<D>>, deltas: FedDeltas) -> Answered {
    let log = deltas.log;
    if !shard.log_group(log)?.is_leader() {
        // What is known here of the log may be old.
        return Err(Refusal::retry(RefusalCode::NotLeader, 100, "another node leads the log's group"));
    }
    let mut chunks = Vec::new();
    let mut grows = !deltas.pruned.is_empty();
    for encoded in &deltas.deltas {
        let delta = Delta::parse(encoded.clone())
            .map_err(|error| Refusal::new(RefusalCode::BadRequest, format!("a delta can't be read: {error}")))?;
        grows |= !delta.proposal.payload.is_empty();
        chunks.extend(delta.proposal.chunks.into_iter().map(|chunk| chunk.chunk));
    }
    if grows {
        shard.takes_writes()?;
    }
    super::chunks::all_here(shard, chunks).await.map_err(|refusal| Refusal {
        // The sender makes sure that it is, and tries again.
        code: RefusalCode::Unavailable,
        retry_after_ms: refusal.retry_after_ms.max(50),
        ..refusal
    })?;
    let skew = |error: farside_io::clock::ClockSkew| Refusal::retry(RefusalCode::ClockSkew, 5000, error.to_string());
    shard.clock.observe(deltas.head_time.max(deltas.closed)).map_err(skew)?;
    let theirs = generation_of(&deltas.lineage);
    let lease_ms = deltas.lease_ms.min(LEASE_MOST * 1000);
    let command = GroupCommand::Accept(AcceptDeltas {
        log,
        lineage: deltas.lineage,
        deltas: deltas.deltas,
        pruned: deltas.pruned,
        floor: deltas.floor,
        head: deltas.head,
        head_time: deltas.head_time,
        closed: deltas.closed,
        policy: deltas.policy,
        policy_version: deltas.policy_version,
        lease_ms,
    });
    // A leader of a later term does not know what this one promises: it counts from when it is asked.
    let term = shard.log_group(log)?.status().term;
    match shard.command(shard.group_of(log), &command).await {
        Ok(_) => {
            if lease_ms > 0 {
                let view = log_view(&shard.log_group(log)?, log)?;
                let (number, now) = (view.lease.map_or(0, |lease| lease.promises), shard.clock.clock().monotonic());
                shard.promises.made(log, term, number, now, Duration::from_millis(lease_ms));
            }
            Ok(Reply::FedAck(position(shard, log)?).into())
        }
        // The sender learns from our lineage that it is no longer home. A copy that is still empty may have heard of the
        // new home and have no lineage yet: a position without one would only have the sender deliver again at once.
        Err(refusal) if refusal.code == RefusalCode::NotHome => {
            let position = position(shard, log)?;
            match generation_of(&position.lineage) > theirs {
                true => Ok(Reply::FedAck(position).into()),
                false => Err(refusal),
            }
        }
        Err(refusal) => Err(refusal),
    }
}
