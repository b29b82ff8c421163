//! The site's authority as a node has it: which one issues, which ones are trusted, and the way from one to the next.
//!
//! What the control group agrees on is kept in the node's directory as well (`authorities.frame`), written before the node says that it
//! has come along: a node whose state is lost, or that starts alone, trusts whom it trusted before. It never goes back to an
//! older step than the one in that file. Keys lie there under the site's system key, as `authority.key` does.

use super::auditing::certificate;
use super::directory::{NodeDirectory, SiteFile};
use super::error::NodeError;
use super::keys::SystemKey;
use super::server::Answered;
use super::shard::Shard;
use super::{limits, peers};
use crate::framed::{self, FileKind, FramedFileError};
use crate::state::{ControlView, authority_depends, authority_waits};
use bytes::Bytes;
use farside_codec::audit::AuditActor;
use farside_codec::authority::{
    Authorities, AuthorityOrder, AuthorityProgress, AuthorityStep, DropAuthority, IntroduceAuthority, PeerAuthorities,
    PeerTold, SiteAuthority,
};
use farside_codec::command::ControlCommand;
use farside_codec::ids::Hlc;
use farside_codec::message::{PeerRecord, Refusal, RefusalCode, Reply, Request};
use farside_io::disk::Disk;
use farside_transport::{Authority, Caller};
use std::rc::Rc;
use zeroize::Zeroizing;

/// The authorities that a node knows of.
pub(super) struct Known {
    /// The step with which it has come along; 0: the site has had one authority ever since it was made.
    pub(super) change: u64,
    /// Which authority issues.
    pub(super) generation: u32,
    /// The authority that issues.
    pub(super) issuing: Authority,
    /// What goes along with its certificates for those who trust only the one before.
    pub(super) endorsement: Option<Bytes>,
}

fn internal(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(RefusalCode::Internal, error.to_string())
}

/// What a directory holds of the way that the site has gone from its first authority, if it has.
pub(super) fn load(directory: &NodeDirectory) -> Result<Option<Authorities>, NodeError> {
    match framed::read_record(&directory.authorities(), FileKind::Authorities) {
        Ok(authorities) => Ok(Some(authorities)),
        Err(FramedFileError::Missing(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The certificates of the authorities that a directory trusts.
pub(super) fn trusted(directory: &NodeDirectory, site: &SiteFile) -> Result<Vec<Bytes>, NodeError> {
    let known = load(directory)?;
    let certificates = known.map(|known| known.trusted().map(|one| one.certificate.clone()).collect());
    Ok(certificates.unwrap_or_else(|| vec![site.certificate.clone()]))
}

/// The authority under which a directory's node issues.
pub(super) fn of_directory(directory: &NodeDirectory, key: &SystemKey, site: &SiteFile) -> Result<Known, NodeError> {
    let Some(known) = load(directory)? else {
        let (certificate, key) = (site.certificate.to_vec(), key.authority(directory)?);
        let issuing = Authority::from_parts(site.site, certificate, key);
        return Ok(Known { change: 0, generation: 0, issuing, endorsement: None });
    };
    let wrong = || super::DirectoryError::WrongSystemKey(directory.authorities());
    let opened = key.open_authority(&known.current.sealed_key).ok_or_else(wrong)?;
    let certificate = known.current.certificate.to_vec();
    Ok(Known {
        change: known.change,
        generation: known.current.generation,
        issuing: Authority::from_parts(site.site, certificate, opened),
        endorsement: endorsement(&known),
    })
}

/// While the one before is trusted, whoever trusts that one only is shown the way.
fn endorsement(authorities: &Authorities) -> Option<Bytes> {
    let shown = authorities.step == AuthorityStep::Issuing && !authorities.current.endorsement.is_empty();
    shown.then(|| authorities.current.endorsement.clone())
}

/// The certificate and the key of the authority under which a directory's node issues.
pub fn issuing_parts(
    directory: &NodeDirectory,
    key: &SystemKey,
    site: &SiteFile,
) -> Result<(Bytes, Zeroizing<Vec<u8>>), NodeError> {
    let known = of_directory(directory, key, site)?;
    let key = Zeroizing::new(known.issuing.key().to_vec());
    Ok((Bytes::copy_from_slice(known.issuing.certificate()), key))
}

/// The authority under which identities are issued now.
pub(super) fn issuing<D: Disk>(shard: &Shard<D>) -> Result<Known, Refusal> {
    of_directory(&NodeDirectory::new(&shard.root), &shard.key.key(), &shard.site).map_err(internal)
}

/// Writes down what the control group has agreed on, unless this node knew as much. Answers whether it is another step.
pub(super) fn come_along<D: Disk>(shard: &Shard<D>) -> Result<bool, NodeError> {
    let Some(agreed) = shard.view().authorities.clone() else { return Ok(false) };
    if shard.certificates.written.get() >= agreed.change {
        return Ok(false);
    }
    let directory = NodeDirectory::new(&shard.root);
    let written = load(&directory)?.map_or(0, |known| known.change);
    if written < agreed.change {
        framed::write_record(&directory.authorities(), FileKind::Authorities, &*agreed)?;
    }
    shard.certificates.written.set(written.max(agreed.change));
    Ok(written < agreed.change)
}

/// The generation of the authority that issued a certificate, of those that are trusted.
pub(super) fn generation_of<D: Disk>(shard: &Shard<D>, certificate: &[u8]) -> u32 {
    let authorities = shard.view().authorities.clone();
    let issued = |one: &&SiteAuthority| farside_transport::identity::is_issued_by(certificate, &one.certificate);
    authorities.and_then(|known| known.trusted().find(issued).map(|one| one.generation)).unwrap_or(0)
}

/// Answers an order about the authority.
pub(super) async fn order<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, order: AuthorityOrder) -> Answered {
    let by = certificate(caller);
    match order {
        AuthorityOrder::Show => {}
        AuthorityOrder::Rotate => begin(shard, &by).await?,
        AuthorityOrder::Drop(force) => {
            let known = shard.view().authorities.clone();
            let time = shard.clock.now();
            match known.as_ref().map(|known| (&known.step, known.change)) {
                Some((AuthorityStep::Issuing, change)) => {
                    let order = DropAuthority { change, force, time };
                    shard.control(&by, ControlCommand::DropAuthority(order)).await?;
                }
                // Done before, perhaps by an order whose answer was lost.
                Some((AuthorityStep::Settled, _)) => {}
                _ => {
                    let detail = "no other authority issues yet: farside certificate rotate --ca";
                    return Err(Refusal::new(RefusalCode::Unsafe, detail));
                }
            }
        }
    }
    Ok(Reply::Authority(progress(shard)).into())
}

fn progress<D: Disk>(shard: &Shard<D>) -> AuthorityProgress {
    let (view, time) = (shard.view(), Hlc::from_ms(shard.machine.clock.wall_ms()));
    let known = view.authorities.as_ref();
    AuthorityProgress {
        generation: known.map_or(0, |known| known.current.generation),
        step: known.map_or(AuthorityStep::Settled, |known| known.step.clone()),
        waits: authority_waits(&view),
        depends: authority_depends(&view, time),
    }
}

/// Makes the next authority, unless there is one on the way. It issues nothing before everybody trusts it.
async fn begin<D: Disk>(shard: &Rc<Shard<D>>, by: &AuditActor) -> Result<(), Refusal> {
    let agreed = shard.view().authorities.clone();
    if agreed.as_ref().is_some_and(|known| known.step != AuthorityStep::Settled) {
        return Ok(());
    }
    let (entropy, key) = (shard.machine.entropy.as_ref(), shard.key.key());
    let made = shard.clock.now();
    // Somebody may have come further than this node; then the command is refused, and given again.
    let known = issuing(shard)?;
    let current = match agreed {
        Some(agreed) => agreed.current.clone(),
        None => SiteAuthority {
            generation: known.generation,
            certificate: Bytes::copy_from_slice(known.issuing.certificate()),
            endorsement: Bytes::new(),
            sealed_key: key.seal_authority(known.issuing.key(), entropy).into(),
            made: shard.site.created,
        },
    };
    if current.certificate != known.issuing.certificate() {
        let detail = "this node has not come along with the authority that issues now";
        return Err(Refusal::retry(RefusalCode::Unavailable, 500, detail));
    }
    let generation = current.generation + 1;
    let next = Authority::create_next(shard.site.site, &shard.site.name, generation, entropy).map_err(internal)?;
    let next = SiteAuthority {
        generation,
        certificate: Bytes::copy_from_slice(next.certificate()),
        endorsement: known.issuing.endorse(&next).map_err(internal)?.into(),
        sealed_key: key.seal_authority(next.key(), entropy).into(),
        made,
    };
    let introduced = IntroduceAuthority { current, next };
    shard.control(by, ControlCommand::IntroduceAuthority(introduced)).await.map(drop)
}

/// Where this node leads the control group: takes the next step once everybody has come along.
pub(super) async fn lead<D: Disk>(shard: &Rc<Shard<D>>) {
    let view = shard.view();
    let Some(known) = view.authorities.as_ref().filter(|known| known.step == AuthorityStep::Introduced) else { return };
    if authority_waits(&view).is_empty() {
        // Refused where somebody came meanwhile who has not heard of it; the next turn finds out.
        if let Err(refusal) = shard.control(&shard.by_itself(), ControlCommand::StepAuthority(known.change)).await {
            tracing::info!(%refusal, "the next authority does not issue yet");
        }
    }
}

/// Where this node leads the control group: tells peers whom to trust about this site, over connections for which an authority
/// vouches that they know.
pub(super) async fn tell_peers<D: Disk>(shard: Rc<Shard<D>>) {
    loop {
        tokio::time::sleep(shard.pace(limits::AUTHORITY_LOOK)).await;
        let view = shard.view();
        let Some(known) = view.authorities.clone().filter(|_| shard.leads_site()) else { continue };
        let told = |peer: &PeerRecord| view.peers_told.get(&peer.site).is_some_and(|told| told.change >= known.change);
        for peer in view.peers.values().filter(|peer| !told(peer)) {
            let certificates = known.trusted().map(|one| one.certificate.clone()).collect();
            let said = PeerAuthorities { site: shard.site.site, change: known.change, certificates };
            match peers::tell(&shard, peer, Request::FedAuthorities(said)).await {
                Ok(Reply::Done) => {
                    let told = PeerTold { peer: peer.site, change: known.change };
                    // Said again at the next turn.
                    let _ = shard.control(&shard.by_itself(), ControlCommand::TellPeer(told)).await;
                }
                Ok(_) => tracing::info!(peer = %peer.name, "the peer answered something else than was said"),
                Err(refusal) => {
                    tracing::info!(peer = %peer.name, %refusal, "the peer does not trust our authority yet")
                }
            }
        }
    }
}

/// A peer says whom to trust about it.
pub(super) async fn hear_peer<D: Disk>(shard: &Rc<Shard<D>>, caller: &Caller, said: PeerAuthorities) -> Answered {
    shard.control(&certificate(caller), ControlCommand::PutPeerAuthorities(said)).await?;
    Ok(Reply::Done.into())
}

/// Trusts whom the control group has agreed on, unless this node has come further already.
pub(super) fn trust<D: Disk>(shard: &Shard<D>, view: &ControlView) {
    // This is asked at every change of the view, and the file is read once a step.
    let trusted = &shard.certificates.trusted;
    let Some(agreed) = view.authorities.as_ref().filter(|agreed| trusted.get() != agreed.change) else { return };
    match load(&NodeDirectory::new(&shard.root)) {
        Ok(Some(known)) if known.change > agreed.change => {}
        Ok(_) => {
            let certificates: Vec<&[u8]> = agreed.trusted().map(|one| &one.certificate[..]).collect();
            shard.trust.set_own(&certificates);
            trusted.set(agreed.change);
        }
        Err(error) => tracing::error!(%error, "the site's authorities can't be read"),
    }
}
