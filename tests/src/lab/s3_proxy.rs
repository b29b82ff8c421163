//! A proxy in front of a store, in which requests and answers get lost, late and damaged as it is told.
//!
//! HTTP/1.1 by hand, one connection a request: every request is read whole, and so is its answer, before it is decided what
//! becomes of it. What happens follows from a seed and from the order in which requests come. Nothing that is signed is
//! changed but [`Faults::takes_seconds`], which does in the answer what a store does that ignores conditions.

use farside_io::entropy::SeededEntropy;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long either side may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// What happens to requests; the numbers are percent of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Where chance begins.
    pub seed: u64,
    /// Answered with 500.
    pub failed: u8,
    /// Answered with 503 and `SlowDown`.
    pub slow_down: u8,
    /// What those answers say in `Retry-After`.
    pub retry_after_seconds: Option<u64>,
    /// Held up before they are passed on,
    pub delayed: u8,
    /// for so long.
    pub delay: Duration,
    /// Cut off before they reach the store.
    pub cut_before: u8,
    /// Cut off after the store has carried them out.
    pub cut_after: u8,
    /// Cut off in the middle of the answer.
    pub cut_within: u8,
    /// Of objects that are read: one bit of them is another one.
    pub corrupted: u8,
    /// A put that the store refuses because there is one of that name is answered as if it had been taken.
    pub takes_seconds: bool,
    /// Only requests of this method have faults.
    pub method: Option<&'static str>,
    /// After so many faults there are no more.
    pub at_most: Option<u64>,
}

/// A proxy, until it is dropped.
pub struct S3Proxy {
    address: SocketAddr,
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

struct Desk {
    upstream: SocketAddr,
    faults: Mutex<Faults>,
    requests: AtomicU64,
    happened: AtomicU64,
    ends: AtomicBool,
}

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passes,
    Failed,
    SlowDown,
    Delayed,
    CutBefore,
    CutAfter,
    CutWithin,
    Corrupted,
}

impl S3Proxy {
    /// Puts a proxy in front of a store.
    pub fn start(upstream: SocketAddr, faults: Faults) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let desk = Arc::new(Desk {
            upstream,
            faults: Mutex::new(faults),
            requests: AtomicU64::new(0),
            happened: AtomicU64::new(0),
            ends: AtomicBool::new(false),
        });
        let shared = desk.clone();
        let thread = std::thread::spawn(move || serve(&listener, &shared));
        Self { address, desk, thread: Some(thread) }
    }

    /// Lets other things happen from now on; both counts begin anew.
    pub fn set(&self, faults: Faults) {
        *self.desk.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
        self.desk.requests.store(0, Ordering::Relaxed);
        self.desk.happened.store(0, Ordering::Relaxed);
    }

    /// Requests that have come so far.
    pub fn requests(&self) -> u64 {
        self.desk.requests.load(Ordering::Relaxed)
    }

    /// Faults that have happened so far.
    pub fn happened(&self) -> u64 {
        self.desk.happened.load(Ordering::Relaxed)
    }

    /// Where it listens.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for S3Proxy {
    fn drop(&mut self) {
        self.desk.ends.store(true, Ordering::Relaxed);
        // Whoever waits for a connection gets one.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || std::thread::panicking(), "the proxy ends well");
        }
    }
}

fn serve(listener: &TcpListener, desk: &Arc<Desk>) {
    while let Ok((caller, _)) = listener.accept() {
        if desk.ends.load(Ordering::Relaxed) {
            return;
        }
        let desk = desk.clone();
        // Either side may go whenever it likes; that is nobody's concern here.
        std::thread::spawn(move || desk.answer(&caller).ok());
    }
}

impl Desk {
    fn answer(&self, caller: &TcpStream) -> std::io::Result<()> {
        caller.set_read_timeout(Some(PATIENCE))?;
        let Some(request) = Message::read(caller, false)? else { return Ok(()) };
        let faults = *self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let (fate, chance) = self.fate(&faults, &request);
        match fate {
            Fate::CutBefore => return caller.shutdown(Shutdown::Both),
            Fate::Failed => return refuse(caller, "500 Internal Server Error", "InternalError", None),
            Fate::SlowDown => {
                return refuse(caller, "503 Slow Down", "SlowDown", faults.retry_after_seconds);
            }
            Fate::Delayed => std::thread::sleep(faults.delay),
            _ => {}
        }
        let mut answer = self.ask(&request)?;
        if faults.takes_seconds && request.first_word() == "PUT" && answer.head.starts_with("HTTP/1.1 412") {
            answer.head = "HTTP/1.1 200 OK\r\nETag: \"0\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into();
            answer.body.clear();
        }
        let mut caller = caller;
        match fate {
            Fate::CutAfter => return caller.shutdown(Shutdown::Both),
            Fate::CutWithin => answer.body.truncate(answer.body.len() / 2),
            Fate::Corrupted if !answer.body.is_empty() => {
                let bit = usize::try_from(chance).unwrap_or(0) % (answer.body.len() * 8);
                answer.body[bit / 8] ^= 1 << (bit % 8);
            }
            _ => {}
        }
        caller.write_all(answer.head.as_bytes())?;
        caller.write_all(&answer.body)
    }

    /// What becomes of the next request, and one more number.
    fn fate(&self, faults: &Faults, request: &Message) -> (Fate, u64) {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let seed = SeededEntropy::new(faults.seed).next_u64();
        let chance = SeededEntropy::new(seed ^ number.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let mut drawn = chance.next_u64() % 100;
        let reads =
            request.first_word() == "GET" && !request.head.lines().next().is_some_and(|line| line.contains('?'));
        let fates = [
            (faults.failed, Fate::Failed),
            (faults.slow_down, Fate::SlowDown),
            (faults.delayed, Fate::Delayed),
            (faults.cut_before, Fate::CutBefore),
            (faults.cut_after, Fate::CutAfter),
            (faults.cut_within, Fate::CutWithin),
            (if reads { faults.corrupted } else { 0 }, Fate::Corrupted),
        ];
        let is_spared = faults.method.is_some_and(|method| method != request.first_word())
            || faults.at_most.is_some_and(|most| self.happened.load(Ordering::Relaxed) >= most);
        for (percent, fate) in fates {
            if !is_spared && drawn < u64::from(percent) {
                self.happened.fetch_add(1, Ordering::Relaxed);
                return (fate, chance.next_u64());
            }
            drawn = drawn.wrapping_sub(u64::from(percent));
        }
        (Fate::Passes, 0)
    }

    /// Passes a request on, and reads what comes back.
    fn ask(&self, request: &Message) -> std::io::Result<Message> {
        let mut store = TcpStream::connect(self.upstream)?;
        store.set_read_timeout(Some(PATIENCE))?;
        store.write_all(request.with_close().as_bytes())?;
        store.write_all(&request.body)?;
        Message::read(&store, true)?.ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
    }
}

fn refuse(mut caller: &TcpStream, status: &str, code: &str, retry_after: Option<u64>) -> std::io::Result<()> {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>as told</Message></Error>");
    let retry_after = retry_after.map(|seconds| format!("Retry-After: {seconds}\r\n")).unwrap_or_default();
    let length = body.len();
    write!(caller, "HTTP/1.1 {status}\r\n{retry_after}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

/// A request or an answer.
struct Message {
    /// With the empty line at its end.
    head: String,
    /// As it is on the wire, pieces of chunked ones included.
    body: Vec<u8>,
}

impl Message {
    /// Reads one; an answer ends with its connection. Nothing if there is none.
    fn read(from: &TcpStream, is_answer: bool) -> std::io::Result<Option<Self>> {
        let (mut from, mut head) = (BufReader::new(from), String::new());
        while !head.ends_with("\r\n\r\n") {
            if from.read_line(&mut head)? == 0 {
                return Ok(None);
            }
        }
        let mut message = Self { head, body: Vec::new() };
        match is_answer {
            true => from.read_to_end(&mut message.body).map(drop)?,
            false => {
                let length = message.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
                message.body.resize(length, 0);
                from.read_exact(&mut message.body)?;
            }
        }
        Ok(Some(message))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let named = |line: &'_ str| line.split_once(':').is_some_and(|(found, _)| found.eq_ignore_ascii_case(name));
        let line = self.head.lines().find(|line| named(line))?;
        line.split_once(':').map(|(_, value)| value.trim())
    }

    /// Its method.
    fn first_word(&self) -> &str {
        self.head.split(' ').next().unwrap_or_default()
    }

    /// The head, so that the store closes the connection behind its answer.
    fn with_close(&self) -> String {
        let kept = self.head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
        let mut head: String = kept.filter(|line| !line.is_empty()).map(|line| format!("{line}\r\n")).collect();
        head.push_str("Connection: close\r\n\r\n");
        head
    }
}
