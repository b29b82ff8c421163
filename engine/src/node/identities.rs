//! Who may call here, over time: identities are issued, listed, revoked and expire, and connections that were made under
//! them go with them.
//!
//! What is revoked is agreed on in the control group; every node of the site refuses it once it has heard of that, and closes what
//! is open under it. A node that has just started takes nothing in from operators and clients before it knows how far its
//! control group is: it may have been down when somebody was revoked. One that is cut off goes by what it knew, and can
//! commit nothing.
//!
//! An identity that was issued on a node's own machine, beside the control group, is listed when it is shown first.

use super::auditing::certificate;
use super::authority;
use super::init::load_identity;
use super::limits;
use super::routing;
use super::server::Answered;
use super::shard::{Shard, count};
use crate::client::Context;
use crate::node::directory::NodeDirectory;
use crate::state::ControlView;
use bytes::Bytes;
use farside_codec::audit::AuditActor;
use farside_codec::authority::AuthorityStep;
use farside_codec::command::ControlCommand;
use farside_codec::identity::{
    Identities, IdentityQuestion, IdentityRecord, IdentityRole, IssueIdentity, IssuedIdentity, PutIdentity, Revocation,
    RevokeIdentity, RevokeOrder, Serial,
};
use farside_codec::ids::{Hlc, Label, TenantId, hex};
use farside_codec::message::{Refusal, RefusalCode, Reply, Request};
use farside_io::disk::Disk;
use farside_transport::{Caller, Connection, Identity, Role, Validity};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Who is connected to a shard.
#[derive(Default)]
pub(crate) struct Callers {
    connections: RefCell<BTreeMap<u64, Connection>>,
    next: Cell<u64>,
    /// Identities that are being listed.
    unlisted: RefCell<BTreeSet<Serial>>,
    /// This node knows, or knew once since it was started, everything that its control group had agreed on.
    knows: Cell<bool>,
    /// Connections that were closed because their identity was revoked or has expired.
    pub(super) cut_off: Cell<u64>,
}

/// A caller that is connected.
pub(super) struct Present<D: Disk>(Rc<Shard<D>>, u64);

impl<D: Disk> Drop for Present<D> {
    fn drop(&mut self) {
        self.0.callers.connections.borrow_mut().remove(&self.1);
    }
}

/// Takes note of a caller for as long as what this answers is kept.
pub(super) fn arrived<D: Disk>(shard: &Rc<Shard<D>>, connection: &Connection) -> Present<D> {
    let callers = &shard.callers;
    let number = callers.next.replace(callers.next.get() + 1);
    callers.connections.borrow_mut().insert(number, connection.clone());
    // Between its handshake and here it may have been revoked.
    if is_own(shard, connection) && shard.trust.is_revoked(&connection.serial()) {
        close_revoked(shard, connection);
    } else {
        list_when_first_seen(shard, connection);
    }
    Present(shard.clone(), number)
}

fn is_own<D: Disk>(shard: &Shard<D>, connection: &Connection) -> bool {
    connection.caller().site == shard.site.site
}

fn close_revoked<D: Disk>(shard: &Shard<D>, connection: &Connection) {
    count(&shard.callers.cut_off);
    connection.close_revoked();
}

/// Closes what is open under identities that were revoked between two views, or whose authority is trusted no more.
pub(crate) fn cut_off<D: Disk>(shard: &Shard<D>, before: &ControlView, view: &ControlView) {
    let connections = shard.callers.connections.borrow();
    let settled = view.authorities.as_ref().filter(|known| known.step == AuthorityStep::Settled);
    if let Some(settled) = settled.filter(|_| before.authorities != view.authorities) {
        let dropped = |connection: &&Connection| {
            is_own(shard, connection)
                && !farside_transport::identity::is_issued_by(connection.certificate(), &settled.current.certificate)
        };
        // Nodes connect again, with what they show now.
        connections
            .values()
            .filter(dropped)
            .for_each(|connection| connection.close("its authority is trusted no more"));
    }
    if Arc::ptr_eq(&before.revoked, &view.revoked) {
        return;
    }
    let gone = |connection: &&Connection| is_own(shard, connection) && view.revoked.contains(&connection.serial());
    connections.values().filter(gone).for_each(|connection| close_revoked(shard, connection));
}

/// Closes connections of operators and clients whose certificate has expired. Nodes renew theirs, and go on.
pub(super) async fn close_expired<D: Disk>(shard: Rc<Shard<D>>) {
    loop {
        tokio::time::sleep(limits::EXPIRY_LOOK).await;
        let now = shard.machine.clock.wall_ms() / 1000;
        let connections = shard.callers.connections.borrow();
        let over = |connection: &&Connection| {
            matches!(connection.caller().role, Role::Admin | Role::Client)
                && connection.validity().ends < now
                && !connection.is_closed()
        };
        for connection in connections.values().filter(over) {
            count(&shard.callers.cut_off);
            connection.close_expired();
        }
    }
}

/// Finds out, once after the start, everything that the control group has agreed on, and lets operators and clients in.
pub(super) async fn learn<D: Disk>(shard: Rc<Shard<D>>) {
    // Alone, it has led the group since before this began.
    while shard.view().site.is_none() || (!shard.is_alone() && !routing::knows_control(&shard).await) {
        tokio::time::sleep(limits::LEARN_PAUSE).await;
    }
    shard.publish_view().await;
    for index in 0..shard.shards() {
        // A shard that has stopped lets nobody in.
        let _ = shard.on(index, |there| async move { there.callers.knows.set(true) }).await;
    }
    list_own(&shard).await;
}

/// Whether this node knows, since it was started, everything that its control group had agreed on.
pub(super) fn knows<D: Disk>(shard: &Shard<D>) -> bool {
    shard.callers.knows.get()
}

/// Why an operator or a client is not answered yet. How the site is they are told in any case.
pub(super) fn not_yet<D: Disk>(shard: &Shard<D>, caller: &Caller, request: &Request) -> Option<Refusal> {
    let says_how_it_is = matches!(request, Request::Hello(_) | Request::Status | Request::Nodes);
    if shard.callers.knows.get() || says_how_it_is || !matches!(caller.role, Role::Admin | Role::Client) {
        return None;
    }
    let detail = "the node has just started and does not know yet whose identity its site has revoked";
    Some(Refusal::retry(RefusalCode::Unavailable, 200, detail))
}

/// What is listed of a certificate of this site.
fn record_of<D: Disk>(
    shard: &Shard<D>,
    caller: &Caller,
    (serial, certificate): (Serial, &[u8]),
    validity: Validity,
) -> Option<IdentityRecord> {
    let tenant = || TenantId::parse(&caller.subject);
    let (role, name) = match caller.role {
        Role::Node => (IdentityRole::Node, None),
        Role::Peer if super::token::is_invitation(&caller.subject) => (IdentityRole::Invitation, None),
        Role::Peer => (IdentityRole::Peer, None),
        Role::Admin => (IdentityRole::Operator, None),
        Role::Client => {
            let tenant = tenant()?;
            (IdentityRole::Client(tenant), shard.view().tenants.get(&tenant).map(|tenant| tenant.name.clone()))
        }
    };
    let name = name.or_else(|| Label::parse(&caller.subject))?;
    let seconds = |seconds: u64| Hlc::from_ms(seconds.saturating_mul(1000));
    let (issued, expires) = (seconds(validity.issued()), seconds(validity.ends));
    let authority = authority::generation_of(shard, certificate);
    Some(IdentityRecord { serial, name, role, authority, issued, expires, revoked: None })
}

/// Lists an identity of this site that nobody has listed so far.
pub(super) async fn list_identity<D: Disk>(shard: &Rc<Shard<D>>, identity: &Identity) -> Result<(), Refusal> {
    let Some(record) =
        record_of(shard, identity.caller(), (identity.serial(), identity.certificate()), identity.validity())
    else {
        return Ok(());
    };
    put(shard, &shard.by_itself(), record, false).await
}

async fn put<D: Disk>(
    shard: &Rc<Shard<D>>,
    by: &AuditActor,
    record: IdentityRecord,
    named: bool,
) -> Result<(), Refusal> {
    if shard.view().identities.contains_key(&record.serial) {
        return Ok(());
    }
    let time = shard.clock.now();
    shard.control(by, ControlCommand::PutIdentity(PutIdentity { record, named, time })).await.map(drop)
}

fn list_when_first_seen<D: Disk>(shard: &Rc<Shard<D>>, connection: &Connection) {
    let (caller, serial) = (connection.caller(), connection.serial());
    let lists = is_own(shard, connection) && matches!(caller.role, Role::Admin | Role::Client);
    if !lists || !shard.callers.knows.get() || shard.view().identities.contains_key(&serial) {
        return;
    }
    let Some(record) = record_of(shard, caller, (serial, connection.certificate()), connection.validity()) else {
        return;
    };
    let mut unlisted = shard.callers.unlisted.borrow_mut();
    if unlisted.len() >= limits::UNLISTED || !unlisted.insert(serial) {
        return;
    }
    let shard = shard.clone();
    tokio::task::spawn_local(async move {
        if let Err(refusal) = put(&shard, &shard.by_itself(), record, false).await {
            tracing::info!(%refusal, "an identity that was shown first is not listed yet");
        }
        shard.callers.unlisted.borrow_mut().remove(&serial);
    });
}

/// Lists what lies in the node's own directory.
async fn list_own<D: Disk>(shard: &Rc<Shard<D>>) {
    let directory = NodeDirectory::new(&shard.root);
    let own = [load_identity(&directory.node_identity()), load_identity(&directory.peer_identity())];
    let operator = Context::load(&directory.admin_context()).ok().and_then(|context| context.identity().ok());
    for identity in own.into_iter().filter_map(Result::ok).chain(operator) {
        while let Err(refusal) = list_identity(shard, &identity).await {
            if refusal.retry_after_ms == 0 {
                tracing::warn!(%refusal, "an identity of this node is not listed");
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Issues an identity whose key is the caller's. Asked again with one key, the answer is the same identity.
pub(super) async fn issue<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, ask: IssueIdentity) -> Answered {
    let by = certificate(caller);
    let bad = |detail: String| Refusal::new(RefusalCode::BadRequest, detail);
    if ask.life_seconds == 0 || ask.life_seconds > limits::MAX_IDENTITY_LIFE.as_secs() {
        return Err(bad("an identity is good for a second at least, and for ten years at most".into()));
    }
    let (role, caller_role, subject) = match &ask.tenant {
        None => (IdentityRole::Operator, Role::Admin, ask.name.to_string()),
        Some(name) => {
            let missing = || Refusal::new(RefusalCode::NotFound, format!("there is no tenant {name}"));
            let tenant = shard.view().tenant(name).ok_or_else(missing)?.tenant;
            (IdentityRole::Client(tenant), Role::Client, tenant.to_string())
        }
    };
    let serial = farside_transport::identity::serial_of_key(&ask.public_key);
    let authority::Known { issuing: authority, generation, .. } = authority::issuing(shard)?;
    let now = shard.machine.clock.wall_ms() / 1000;
    let fresh = IdentityRecord {
        serial,
        name: ask.name,
        role,
        authority: generation,
        issued: Hlc::from_ms(now * 1000),
        expires: Hlc::from_ms((now + ask.life_seconds) * 1000),
        revoked: None,
    };
    let record = match shard.view().identities.get(&serial) {
        Some(known) if (&known.name, &known.role) != (&fresh.name, &fresh.role) || known.revoked.is_some() => {
            return Err(bad("the key belongs to another identity already: make a new one".into()));
        }
        Some(known) if known.authority != generation => {
            return Err(bad("the key was used under the authority before: make a new one".into()));
        }
        Some(known) => known.clone(),
        None => fresh,
    };
    // Before it is listed, so that nothing is that could not be signed; and shown to nobody before it is.
    let (from, until) = (Duration::from_millis(record.issued.ms()), Duration::from_millis(record.expires.ms()));
    let certificate = authority.sign(caller_role, &subject, &ask.public_key, from, until);
    let certificate = certificate.map_err(|error| Refusal::new(RefusalCode::Internal, error.to_string()))?;
    put(shard, &by, record.clone(), true).await?;
    Ok(Reply::IssuedIdentity(IssuedIdentity {
        site_name: shard.site.name.clone(),
        record,
        certificate: certificate.into(),
        authority: Bytes::copy_from_slice(authority.certificate()),
        endpoints: super::peers::endpoints(shard),
    })
    .into())
}

/// Lists identities.
pub(super) fn list<D: Disk>(shard: &Shard<D>, question: &IdentityQuestion) -> Reply {
    let view = shard.view();
    let limit = question.limit.clamp(1, limits::IDENTITIES_LISTED) as usize;
    let later = |record: &&IdentityRecord| question.after.is_none_or(|after| record.serial > after);
    let mut identities: Vec<IdentityRecord> = view.identities.values().filter(later).take(limit + 1).cloned().collect();
    let more = identities.len() > limit;
    identities.truncate(limit);
    Reply::Identities(Identities { identities, more })
}

/// Which listed identity is meant by a serial or a name.
pub(super) fn meant(
    identities: &BTreeMap<Serial, IdentityRecord>,
    which: &str,
    now: Hlc,
) -> Result<IdentityRecord, Refusal> {
    let of_serial = identities.values().find(|record| hex(&record.serial) == which);
    if let Some(record) = of_serial {
        return Ok(record.clone());
    }
    let named: Vec<&IdentityRecord> = identities.values().filter(|record| record.name.as_str() == which).collect();
    let live: Vec<&IdentityRecord> = named.iter().filter(|record| record.is_live(now)).copied().collect();
    match (&live[..], &named[..]) {
        ([one], _) | ([], [one]) => Ok((*one).clone()),
        ([], []) => {
            let detail = format!("no identity of this site has the serial or the name {which}");
            Err(Refusal::new(RefusalCode::NotFound, detail))
        }
        ([], [one, ..]) => Ok((*one).clone()),
        (several, _) => {
            let shown = several.iter().take(limits::EXPIRES_NAMED).map(|record| hex(&record.serial));
            let (count, shown) = (several.len(), shown.collect::<Vec<_>>().join(", "));
            let detail = format!("{count} identities are called {which}: name one by its serial ({shown})");
            Err(Refusal::new(RefusalCode::BadRequest, detail))
        }
    }
}

/// Refuses an identity from now on, at every node that hears of it.
pub(super) async fn revoke<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, order: RevokeOrder) -> Answered {
    let at = shard.clock.now();
    let record = meant(&shard.view().identities, &order.which, at)?;
    let nobody = || Refusal::new(RefusalCode::Internal, "the caller has no name that could be written down");
    let by = Label::parse(&caller.subject).ok_or_else(nobody)?;
    let revocation = Revocation { at, by };
    let serial = record.serial;
    let command = RevokeIdentity { serial, revocation, force: order.force };
    shard.control(&certificate(caller), ControlCommand::RevokeIdentity(command)).await?;
    let now = shard.view().identities.get(&serial).cloned().unwrap_or(record);
    Ok(Reply::RevokedIdentity(now).into())
}
