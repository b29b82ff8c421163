//! A network under quinn: datagrams that are lost, late, doubled, damaged, cut off and held back, all from one seed.
//!
//! Every host has an address of its own, every endpoint a port. A datagram that is under way outlives its sender. Order
//! is kept in nanoseconds here, although tokio's clock moves in milliseconds. Absent on purpose: bandwidth.

use super::store::Stores;
use super::trace::Trace;
use farside_io::entropy::SeededEntropy;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Debug;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Largest datagram that a path carries: Ethernet's 1500 less IPv4 and UDP headers.
const PATH_BYTES: usize = 1472;
/// Datagrams that wait at a socket; later ones are dropped, as by a kernel whose buffer is full.
const INBOX: usize = 8192;

/// How a network treats its datagrams.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Shortest time on the way.
    pub delay_min: Duration,
    /// Longest; the spread is what reorders.
    pub delay_max: Duration,
    /// Of a million, so many are lost.
    pub loss_ppm: u64,
    /// Arrive twice.
    pub double_ppm: u64,
    /// Arrive with a bit flipped.
    pub damage_ppm: u64,
}

impl Weather {
    /// A clean path of a data centre.
    pub const FAIR: Self = Self {
        delay_min: Duration::from_micros(150),
        delay_max: Duration::from_micros(400),
        loss_ppm: 0,
        double_ppm: 0,
        damage_ppm: 0,
    };
}

struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Inbox {
    waiting: VecDeque<Datagram>,
    reader: Option<Waker>,
}

struct Inner {
    random: SeededEntropy,
    weather: Weather,
    sockets: BTreeMap<SocketAddr, Inbox>,
    /// By when they arrive, in nanoseconds since the beginning, and by number.
    flights: BTreeMap<(u64, u64), Datagram>,
    next_number: u64,
    next_port: u16,
    /// Nothing goes this way.
    cuts: BTreeSet<(IpAddr, IpAddr)>,
    /// What is sent this way is held.
    clogs: BTreeMap<(IpAddr, IpAddr), Vec<Datagram>>,
    trace: Trace,
}

/// The network. Clones are the same one.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Mutex<Inner>>,
    begun: Instant,
    sent: Arc<Notify>,
    stores: Stores,
}

impl Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Network")
    }
}

fn draw(random: &SeededEntropy, below: u64) -> u64 {
    random.next_u64() % below.max(1)
}

impl Network {
    /// A network in fair weather.
    pub fn new(seed: u64, trace: Trace) -> Self {
        let inner = Inner {
            random: SeededEntropy::new(seed),
            weather: Weather::FAIR,
            sockets: BTreeMap::new(),
            flights: BTreeMap::new(),
            next_number: 0,
            next_port: 40_000,
            cuts: BTreeSet::new(),
            clogs: BTreeMap::new(),
            trace,
        };
        let stores = Stores::new(!seed);
        Self { inner: Arc::new(Mutex::new(inner)), begun: Instant::now(), sent: Arc::default(), stores }
    }

    /// When the world began.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// The stores that every machine reaches. None of the ways here leads there.
    pub fn stores(&self) -> &Stores {
        &self.stores
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn now_ns(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    /// Changes how datagrams are treated from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.inner().weather = weather;
    }

    /// Cuts the way from one host to another.
    pub fn cut(&self, from: IpAddr, to: IpAddr) {
        self.inner().cuts.insert((from, to));
    }

    /// Holds back what one host sends to another.
    pub fn clog(&self, from: IpAddr, to: IpAddr) {
        self.inner().clogs.entry((from, to)).or_default();
    }

    /// Mends every way; what was held back arrives now, in any order.
    pub fn heal(&self) {
        let now = self.now_ns();
        let mut inner = self.inner();
        inner.cuts.clear();
        for (_, held) in std::mem::take(&mut inner.clogs) {
            for datagram in held {
                let due = now + draw(&inner.random, 20_000_000);
                inner.fly(due, datagram);
            }
        }
        drop(inner);
        self.sent.notify_one();
    }

    /// A socket at `address`; port 0 is any free one.
    pub fn bind(&self, mut address: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let mut inner = self.inner();
        if address.port() == 0 {
            inner.next_port += 1;
            address.set_port(inner.next_port);
        }
        if inner.sockets.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        inner.sockets.insert(address, Inbox::default());
        Ok(Arc::new(SimSocket { network: self.clone(), address }))
    }

    fn send(&self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let now = self.now_ns();
        let mut inner = self.inner();
        inner.trace.packet(now, from, to, bytes.len());
        let way = (from.ip(), to.ip());
        if bytes.len() > PATH_BYTES || inner.cuts.contains(&way) {
            return;
        }
        let weather = inner.weather;
        let copies = match draw(&inner.random, 1_000_000) {
            lot if lot < weather.loss_ppm => 0,
            lot if lot < weather.loss_ppm + weather.double_ppm => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let mut bytes = bytes.to_vec();
            if draw(&inner.random, 1_000_000) < weather.damage_ppm {
                let at = draw(&inner.random, bytes.len() as u64) as usize;
                bytes[at] ^= 1 << draw(&inner.random, 8);
            }
            let datagram = Datagram { from, to, bytes };
            if let Some(held) = inner.clogs.get_mut(&way) {
                held.push(datagram);
                continue;
            }
            let spread = (weather.delay_max - weather.delay_min).as_nanos() as u64;
            let due = now + weather.delay_min.as_nanos() as u64 + draw(&inner.random, spread + 1);
            inner.fly(due, datagram);
        }
        drop(inner);
        self.sent.notify_one();
    }

    /// Delivers what is due, for ever.
    pub async fn run(self) {
        loop {
            let sent = self.sent.notified();
            let next = self.deliver();
            match next {
                None => sent.await,
                Some(due) => {
                    let due = self.begun + Duration::from_nanos(due);
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep_until(due) => {}
                        () = sent => {}
                    }
                }
            }
        }
    }

    /// Puts everything that is due into its inbox. Answers when the next one is.
    fn deliver(&self) -> Option<u64> {
        let now = self.now_ns();
        let mut inner = self.inner();
        let mut wake = Vec::new();
        while let Some(entry) = inner.flights.first_entry().filter(|entry| entry.key().0 <= now) {
            let datagram = entry.remove();
            let Some(inbox) = inner.sockets.get_mut(&datagram.to) else { continue };
            if inbox.waiting.len() < INBOX {
                inbox.waiting.push_back(datagram);
                wake.extend(inbox.reader.take());
            }
        }
        let next = inner.flights.first_key_value().map(|((due, _), _)| *due);
        drop(inner);
        wake.into_iter().for_each(Waker::wake);
        next
    }
}

impl Inner {
    fn fly(&mut self, due: u64, datagram: Datagram) {
        self.next_number += 1;
        self.flights.insert((due, self.next_number), datagram);
    }
}

#[derive(Debug)]
struct SimSocket {
    network: Network,
    address: SocketAddr,
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.network.inner().sockets.remove(&self.address);
    }
}

/// Sending never waits.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for SimSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for datagram in transmit.contents.chunks(segment) {
            self.network.send(self.address, transmit.destination, datagram);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.network.inner();
        let Some(inbox) = inner.sockets.get_mut(&self.address) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(meta) {
            let Some(datagram) = inbox.waiting.pop_front() else { break };
            let length = datagram.bytes.len().min(buffer.len());
            buffer[..length].copy_from_slice(&datagram.bytes[..length]);
            *meta = RecvMeta { addr: datagram.from, len: length, stride: length, ecn: None, dst_ip: None };
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        inbox.reader = Some(context.waker().clone());
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}
