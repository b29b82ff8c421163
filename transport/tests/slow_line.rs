//! A line that carries little. Bodies take many times as long on it as anybody waits for an answer, and are given up only where
//! nothing moves.

#![allow(clippy::panic, reason = "a test fails by panicking")]

mod common;

use bytes::Bytes;
use common::{Site, anywhere, run, serve};
use farside_codec::Field;
use farside_codec::message::{PutChunk, Reply, Request, kind};
use farside_transport::{CallError, Class, Connection, Settings};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::spawn_local;

/// Bytes a second towards the listener.
const RATE: usize = 512 << 10;
/// Datagrams that wait for the line; what comes beyond is lost.
const QUEUE: usize = 32;
/// As long as nobody waits for an answer, and a body of a MiB takes four times.
const HASTE: Duration = Duration::from_millis(500);

/// Puts a slow line in front of a listener, for one caller. It becomes dead once `carries` bytes have passed.
async fn line(listener: SocketAddr, carries: usize) -> SocketAddr {
    let near = Rc::new(UdpSocket::bind(anywhere()).await.expect("a socket"));
    let far = Rc::new(UdpSocket::bind(anywhere()).await.expect("a socket"));
    far.connect(listener).await.expect("connected");
    let address = near.local_addr().expect("an address");
    let (queue, mut queued) = mpsc::channel::<Vec<u8>>(QUEUE);
    let (entrance, exit) = (near.clone(), far.clone());
    spawn_local(async move {
        let mut caller = None;
        let mut datagram = vec![0; 65_536];
        let mut back = vec![0; 65_536];
        loop {
            tokio::select! {
                Ok((length, from)) = entrance.recv_from(&mut datagram) => {
                    caller = Some(from);
                    let _ = queue.try_send(datagram[..length].to_vec());
                }
                Ok(length) = far.recv(&mut back) => {
                    if let Some(caller) = caller {
                        let _ = entrance.send_to(&back[..length], caller).await;
                    }
                }
            }
        }
    });
    spawn_local(async move {
        let (begun, mut passed) = (Instant::now(), 0);
        let mut idle = Duration::ZERO;
        while let Some(datagram) = queued.recv().await {
            // A line that had nothing to do does not make up for it.
            let at = Duration::from_secs_f64(passed as f64 / RATE as f64) + idle;
            match at.checked_sub(begun.elapsed()) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => idle += begun.elapsed() - at,
            }
            passed += datagram.len();
            if passed <= carries {
                let _ = exit.send(&datagram).await;
            }
        }
    });
    address
}

async fn put(link: Connection, bytes: usize) -> Result<Reply, CallError> {
    let put = Request::PutChunk(PutChunk { chunk: Default::default(), sealed_bytes: bytes as u32 });
    link.call(&put, Some(vec![Bytes::from(vec![1; bytes])])).await.map(|(reply, _)| reply)
}

fn hasty() -> Settings {
    Settings { reply_timeout: HASTE, stall_timeout: HASTE, ..Settings::default() }
}

#[test]
fn bodies_get_through_as_long_as_they_move() {
    run(async {
        let near = Site::new(1);
        let (listener, address) = near.listen(hasty());
        serve(listener.clone());
        let link = near.link(line(address, usize::MAX).await, hasty(), Class::Bulk).await;
        let begun = Instant::now();
        // More than two: whoever stands in line waits for all that is before it.
        let puts: Vec<_> = (0..4).map(|_| spawn_local(put(link.clone(), 1 << 20))).collect();
        for put in puts {
            // The listener says how much came.
            match put.await.expect("a task") {
                Err(CallError::Refused(refusal)) => assert_eq!(refusal.detail, (1 << 20).to_string()),
                Err(error) => panic!("given up after {:?}: {error}", begun.elapsed()),
                Ok(reply) => panic!("{reply:?}"),
            }
        }
        assert!(begun.elapsed() > 8 * HASTE, "the line was no slow one: {:?}", begun.elapsed());
        assert_eq!(listener.statistics().stalled, 0);
    });
}

#[test]
fn a_line_that_goes_dead_ends_what_is_on_it() {
    run(async {
        let near = Site::new(1);
        let (listener, address) = near.listen(hasty());
        serve(listener);
        let link = near.link(line(address, 700 << 10).await, hasty(), Class::Bulk).await;
        let begun = Instant::now();
        let given_up = tokio::time::timeout(Duration::from_secs(15), put(link, 2 << 20)).await.expect("an end");
        // The way back is not dead: whoever gives it up first is heard.
        let is_end = match &given_up {
            Err(CallError::Refused(refusal)) => refusal.detail == "nothing moved any more",
            Err(CallError::TimedOut | CallError::Stream(_)) => true,
            _ => false,
        };
        assert!(is_end, "{given_up:?}");
        assert!(begun.elapsed() > HASTE, "{:?}", begun.elapsed());
    });
}

/// A listener that reads nothing of the first body, and answers all others.
#[test]
fn a_body_that_others_pass_by_is_given_up() {
    run(async {
        let near = Site::new(1);
        let (listener, address) = near.listen(hasty());
        spawn_local(async move {
            let connection = listener.accept().await.expect("a caller").complete().await.expect("a connection");
            let _unread = connection.accept().await.expect("the first");
            while let Some(mut stream) = connection.accept().await {
                spawn_local(async move {
                    let request = Request::from_bytes(stream.receive(kind::REQUEST).await.expect("a request"));
                    let Ok(Request::PutChunk(put)) = request else { panic!("a body was due") };
                    stream.receive_body(put.sealed_bytes as usize, drop).await.expect("a body");
                    stream.reply(&Reply::Done, Vec::new()).await.expect("an answer");
                    stream.delivered().await;
                });
            }
        });
        let link = near.link(address, hasty(), Class::Bulk).await;
        let stuck = spawn_local(put(link.clone(), 8 << 20));
        tokio::time::sleep(HASTE / 5).await;
        let mut passed = 0;
        while !stuck.is_finished() {
            assert_eq!(put(link.clone(), 1 << 20).await.expect("an answer"), Reply::Done);
            passed += 1;
            assert!(passed < 4096, "{passed} MiB have passed a body that nobody reads");
        }
        assert!(matches!(stuck.await.expect("a task"), Err(CallError::TimedOut)));
    });
}
