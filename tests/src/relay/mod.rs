//! A relay that stands in front of a site, ends every caller's TLS, and writes down what passes before it says it again.
//!
//! Whoever calls the site's advertised address speaks with the relay: real QUIC, under an identity of the site's own CA.
//! For each of those connections the relay makes a second one to the node, as the same role and subject. A connection
//! carries its streams in the same order on both sides of the relay, so that their numbers agree and every byte passes
//! as it is, frame headers included. Absent on purpose: checks of who may call; this sees what is said, to whomever.

mod recording;
mod tls;

pub use recording::{Recording, Said};

use crate::Site;
use farside::client::Context;
use farside::node::HeldKey;
use farside::node::directory::{NodeDirectory, SiteFile};
use farside_codec::ids::SiteId;
use farside_io::entropy::SystemEntropy;
use farside_transport::{Authority, Caller, Class, Identity, Role};
use quinn::rustls::pki_types::CertificateDer;
use quinn::{Connection, Endpoint, EndpointConfig, Incoming, RecvStream, SendStream, TokioRuntime, VarInt, WriteError};
use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};

/// What a relay holds of one stream at a time: memory, not meaning.
const PIECE_BYTES: usize = 64 << 10;

/// A relay, until it is dropped.
pub struct Relay {
    /// What has passed so far.
    pub recording: Recording,
    ending: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Puts a relay in front of `site`, which is made but does not run: what the site tells peers and clients about
    /// where it is becomes the relay's address. Calls of all `sites` pass.
    pub fn in_front_of(site: &Site, sites: &[&Site]) -> Self {
        let directory = NodeDirectory::new(&site.directory);
        let file = directory.load_site().expect("a site");
        let port = crate::free_port();
        advertise(&directory, port);
        let context = directory.admin_context();
        site.farside(&["context", "export", "-o", &context.display().to_string()]).ok();
        let context = Context::load(&context).expect("a context");
        assert_eq!(context.endpoints, [format!("127.0.0.1:{port}")], "clients go through the relay");
        let authorities: BTreeMap<SiteId, Authority> = sites.iter().map(|site| authority(&site.directory)).collect();
        let identity = issue(&authorities[&file.site], Role::Node, "1");
        let recording = Recording::default();
        let desk = Arc::new(Desk { authorities, recording: recording.clone() });
        let lines: Vec<Line> = (0..file.shards).map(|shard| Line::bind(port, site.port, shard)).collect();
        let (ending, ended) = oneshot::channel();
        let thread = std::thread::spawn(move || serve(lines, &identity, &desk, ended));
        Self { recording, ending: Some(ending), thread: Some(thread) }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.ending.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the relay ends well");
        }
    }
}

/// What all connections of a relay share.
struct Desk {
    authorities: BTreeMap<SiteId, Authority>,
    recording: Recording,
}

/// One shard's address, and the relay's in front of it.
struct Line {
    socket: UdpSocket,
    node: SocketAddr,
}

impl Line {
    fn bind(relay_port: u16, site_port: u16, shard: u16) -> Self {
        let socket = UdpSocket::bind(("127.0.0.1", relay_port + shard)).expect("the port is free");
        Self { socket, node: SocketAddr::from(([127, 0, 0, 1], site_port + shard)) }
    }
}

fn advertise(directory: &NodeDirectory, port: u16) {
    let settings = std::fs::read_to_string(directory.config()).expect("settings");
    let settings = format!("advertise = \"127.0.0.1:{port}\"\n{settings}");
    std::fs::write(directory.config(), settings).expect("written");
}

fn authority(directory: &Path) -> (SiteId, Authority) {
    let directory = NodeDirectory::new(directory);
    let SiteFile { site, certificate, .. } = directory.load_site().expect("a site");
    let held = HeldKey::in_the_clear(&directory).expect("its system key");
    let key = held.key().authority(&directory).expect("its authority's key");
    (site, Authority::from_parts(site, certificate.to_vec(), key))
}

fn issue(authority: &Authority, role: Role, subject: &str) -> Identity {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    authority.issue(role, subject, now, Duration::from_secs(86_400), &SystemEntropy).expect("an identity")
}

/// Runs on the relay's own thread until the sender of `ended` is dropped.
fn serve(lines: Vec<Line>, identity: &Identity, desk: &Arc<Desk>, ended: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let mut endpoints = Vec::new();
        for Line { socket, node } in lines {
            let server = Some(tls::server(identity));
            let endpoint = Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime));
            let endpoint = endpoint.expect("an endpoint");
            spawn_local(accept(endpoint.clone(), node, desk.clone()));
            endpoints.push(endpoint);
        }
        let _ = ended.await;
        for endpoint in endpoints {
            endpoint.close(VarInt::from_u32(0), b"gone");
            endpoint.wait_idle().await;
        }
    });
}

async fn accept(endpoint: Endpoint, node: SocketAddr, desk: Arc<Desk>) {
    while let Some(incoming) = endpoint.accept().await {
        spawn_local(connect_through(endpoint.clone(), incoming, node, desk.clone()));
    }
}

/// Whom a caller proved to be, and what the connection is for.
fn proven(caller: &Connection) -> (Caller, Class) {
    let chain = caller.peer_identity().and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
    let who = chain.and_then(|chain| Caller::of_certificate(chain.first()?));
    let data = caller.handshake_data().and_then(|data| data.downcast::<quinn::crypto::rustls::HandshakeData>().ok());
    let protocol = data.and_then(|data| data.protocol);
    let class = [Class::Request, Class::Bulk].into_iter().find(|class| protocol.as_deref() == Some(class.protocol()));
    (who.expect("an identity"), class.expect("a protocol"))
}

/// Joins a caller's connection with one of the same role, subject and class to the node.
async fn connect_through(endpoint: Endpoint, incoming: Incoming, node: SocketAddr, desk: Arc<Desk>) {
    let Ok(caller) = incoming.await else { return };
    let (who, class) = proven(&caller);
    let identity = issue(&desk.authorities[&who.site], who.role, &who.subject);
    let connecting =
        endpoint.connect_with(tls::client(&identity, class), node, "farside.internal").expect("connecting");
    let Ok(upstream) = connecting.await else {
        caller.close(VarInt::from_u32(1), b"the node does not answer");
        return;
    };
    spawn_local(hang_up_together(caller.clone(), upstream.clone()));
    while let Ok((answers, asks)) = caller.accept_bi().await {
        let Ok((forward, back)) = upstream.open_bi().await else { return };
        assert_eq!(answers.id(), forward.id(), "a stream has one number on both sides");
        let number = desk.recording.begin(&who);
        let recording = desk.recording.clone();
        spawn_local(pass(asks, forward, move |bytes| recording.asked(number, bytes)));
        let recording = desk.recording.clone();
        spawn_local(pass(back, answers, move |bytes| recording.answered(number, bytes)));
    }
}

async fn hang_up_together(one: Connection, other: Connection) {
    tokio::select! {
        _ = one.closed() => other.close(VarInt::from_u32(0), b"the other end is gone"),
        _ = other.closed() => one.close(VarInt::from_u32(0), b"the other end is gone"),
    }
}

/// Passes one direction of a stream on, and how it ends.
async fn pass(mut from: RecvStream, mut to: SendStream, record: impl Fn(&[u8])) {
    loop {
        match from.read_chunk(PIECE_BYTES, true).await {
            Ok(Some(piece)) => {
                record(&piece.bytes);
                match to.write_chunk(piece.bytes).await {
                    Ok(()) => {}
                    Err(WriteError::Stopped(code)) => return from.stop(code).unwrap_or_default(),
                    Err(_) => return,
                }
            }
            Ok(None) => return to.finish().unwrap_or_default(),
            Err(quinn::ReadError::Reset(code)) => return to.reset(code).unwrap_or_default(),
            Err(_) => return,
        }
    }
}
