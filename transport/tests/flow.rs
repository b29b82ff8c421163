//! Links over a socket that watches and misbehaves: batches stay small, a reader who stops bounds the writer, and
//! datagrams that are lost, doubled, delayed or damaged change nothing that arrives.

#![allow(clippy::panic, reason = "a test fails by panicking")]

mod common;

use bytes::Bytes;
use common::{Site, anywhere, run, serve};
use farside_codec::Field;
use farside_codec::message::{PutChunk, Reply, Request, kind};
use farside_io::entropy::{Entropy, SeededEntropy, SystemEntropy, random};
use farside_transport::{CallError, Class, Connection, Endpoint, Settings};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::task::spawn_local;

/// What a socket does to what is sent through it.
#[derive(Debug, Default)]
struct Watched {
    bytes: AtomicUsize,
    largest_batch_bytes: AtomicUsize,
    most_segments: AtomicUsize,
}

/// A real socket, watched; with `faults`, one that treats an eighth of its datagrams badly.
#[derive(Debug)]
struct OddSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    watched: Arc<Watched>,
    faults: Option<Mutex<Faults>>,
}

#[derive(Debug)]
struct Faults {
    entropy: SeededEntropy,
    held_back: Option<Vec<u8>>,
}

impl OddSocket {
    fn new(faults: Option<u64>) -> (Arc<Self>, Arc<Watched>) {
        let watched = Arc::new(Watched::default());
        let plain = std::net::UdpSocket::bind(anywhere()).expect("a socket");
        let socket = TokioRuntime.wrap_udp_socket(plain).expect("a socket");
        let faults = faults.map(|seed| Mutex::new(Faults { entropy: SeededEntropy::new(seed), held_back: None }));
        (Arc::new(Self { socket, watched: watched.clone(), faults }), watched)
    }

    fn misbehave(&self, faults: &mut Faults, transmit: &Transmit<'_>) -> io::Result<()> {
        let send = |contents: &[u8]| self.socket.try_send(&Transmit { contents, ..copy_of(transmit) });
        if let Some(late) = faults.held_back.take() {
            send(&late)?;
        }
        match random::<1>(&faults.entropy)[0] {
            0..8 => Ok(()),
            8..16 => send(transmit.contents).and_then(|()| send(transmit.contents)),
            16..24 => {
                faults.held_back = Some(transmit.contents.to_vec());
                Ok(())
            }
            24..32 => {
                let mut damaged = transmit.contents.to_vec();
                let at = usize::from(u16::from_le_bytes(random(&faults.entropy))) % damaged.len();
                damaged[at] ^= 1;
                send(&damaged)
            }
            _ => send(transmit.contents),
        }
    }
}

fn copy_of<'a>(transmit: &Transmit<'a>) -> Transmit<'a> {
    Transmit {
        destination: transmit.destination,
        ecn: transmit.ecn,
        contents: transmit.contents,
        segment_size: transmit.segment_size,
        src_ip: transmit.src_ip,
    }
}

impl AsyncUdpSocket for OddSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.socket.clone().create_io_poller()
    }
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let length = transmit.contents.len();
        self.watched.bytes.fetch_add(length, Relaxed);
        self.watched.largest_batch_bytes.fetch_max(length, Relaxed);
        self.watched.most_segments.fetch_max(length.div_ceil(transmit.segment_size.unwrap_or(length).max(1)), Relaxed);
        match &self.faults {
            Some(faults) => self.misbehave(&mut faults.lock().expect("no thread panicked"), transmit),
            None => self.socket.try_send(transmit),
        }
    }
    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_recv(context, buffers, meta)
    }
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
    fn max_transmit_segments(&self) -> usize {
        // Faults are those of single datagrams.
        if self.faults.is_some() { 1 } else { self.socket.max_transmit_segments() }
    }
    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }
    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

async fn link(site: &Site, address: SocketAddr, settings: Settings, faults: Option<u64>) -> (Connection, Arc<Watched>) {
    let (socket, watched) = OddSocket::new(faults);
    let caller = Endpoint::over(socket, None, settings, &SystemEntropy).expect("a caller");
    let connection = caller.connect(address, &site.node(), &site.expect(), Class::Bulk).await;
    (connection.expect("a connection"), watched)
}

async fn put(link: Connection, body: Bytes) -> Result<Reply, CallError> {
    let put = Request::PutChunk(PutChunk { chunk: Default::default(), sealed_bytes: body.len() as u32 });
    link.call(&put, Some(vec![body])).await.map(|(reply, _)| reply)
}

#[test]
fn batches_stay_below_one_udp_send() {
    run(async {
        for mtu in [1452, 8952, 65_000] {
            let near = Site::new(1);
            let (listener, address) = near.listen(Settings::with_mtu(mtu));
            serve(listener);
            let (link, watched) = link(&near, address, Settings::with_mtu(mtu), None).await;
            for _ in 0..8 {
                let answer = put(link.clone(), Bytes::from(vec![7; 4 << 20])).await;
                assert!(matches!(answer, Err(CallError::Refused(_))));
            }
            let segments = watched.most_segments.load(Relaxed);
            assert!(watched.largest_batch_bytes.load(Relaxed) <= 65_000);
            assert!(segments <= 65_000 / usize::from(mtu), "{segments} segments of {mtu}");
            assert!(segments > 1 || mtu == 65_000, "nothing was batched at {mtu}");
        }
    });
}

/// A body on a stream of its own, out of line.
async fn send_only(link: Connection, body: Bytes) {
    let mut stream = link.open().await.expect("a stream");
    let put = Request::PutChunk(PutChunk { chunk: Default::default(), sealed_bytes: body.len() as u32 });
    stream.send(kind::REQUEST, put.to_bytes()).await.expect("sent");
    stream.send_body(vec![body]).await.expect("sent");
    stream.delivered().await;
}

#[test]
fn a_reader_who_stops_bounds_the_writer() {
    run(async {
        let near = Site::new(1);
        let (listener, address) = near.listen(Settings::default());
        spawn_local(async move {
            let connection = listener.accept().await.expect("a caller").complete().await.expect("a connection");
            let mut unread = Vec::new();
            while let Some(stream) = connection.accept().await {
                unread.push(stream);
            }
        });
        // A caller that would send without end: it is the reader's window that holds.
        let greedy = Settings { connection_window_bytes: 256 << 20, ..Settings::default() };
        let (link, watched) = link(&near, address, greedy, None).await;
        let body = Bytes::from(vec![1; 4 << 20]);
        let puts: Vec<_> = (0..32).map(|_| spawn_local(send_only(link.clone(), body.clone()))).collect();
        // Until nothing moves any more.
        let mut before = usize::MAX;
        while watched.bytes.load(Relaxed) != before {
            before = watched.bytes.load(Relaxed);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let window = Settings::default().connection_window_bytes as usize;
        assert!(before > window / 2, "only {before} bytes were sent");
        assert!(before < window * 5 / 4, "{before} bytes were sent to somebody who reads none");
        drop(puts);
    });
}

/// Answers a `PutChunk` with its body.
fn echo(listener: Endpoint) {
    spawn_local(async move {
        let connection = listener.accept().await.expect("a caller").complete().await.expect("a connection");
        while let Some(mut stream) = connection.accept().await {
            spawn_local(async move {
                let request = stream.receive(kind::REQUEST).await.expect("a request");
                let Ok(Request::PutChunk(put)) = Request::from_bytes(request) else { panic!("a body was due") };
                let mut pieces = Vec::new();
                stream.receive_body(put.sealed_bytes as usize, |piece| pieces.push(piece)).await.expect("a body");
                stream.send(kind::REPLY, Reply::Done.to_bytes()).await.expect("sent");
                stream.send_body(pieces).await.expect("sent");
                stream.finish();
                stream.delivered().await;
            });
        }
    });
}

#[test]
fn a_bad_network_changes_nothing_that_arrives() {
    for seed in 0..4 {
        println!("seed {seed}");
        run(async {
            let near = Site::new(1);
            let (socket, _) = OddSocket::new(Some(seed + 1000));
            let listener = Endpoint::over(socket, Some(&near.node()), Settings::default(), &SystemEntropy);
            let listener = listener.expect("a listener");
            let address = listener.local_address().expect("an address");
            echo(listener.clone());
            let (link, _) = link(&near, address, Settings::default(), Some(seed)).await;
            let entropy = SeededEntropy::new(seed);
            for length in [1, 1000, 65_536, 1 << 20] {
                let mut body = vec![0; length];
                entropy.fill(&mut body);
                let body = Bytes::from(body);
                let put = Request::PutChunk(PutChunk { chunk: Default::default(), sealed_bytes: length as u32 });
                let (reply, mut stream) = link.call(&put, Some(vec![body.clone()])).await.expect("an answer");
                assert_eq!(reply, Reply::Done);
                let mut back = Vec::new();
                stream.receive_body(length, |piece| back.extend_from_slice(&piece)).await.expect("a body");
                assert!(back == body, "{length} bytes came back changed");
            }
            assert_eq!(listener.statistics().corrupt_frames, 0);
        });
    }
}
