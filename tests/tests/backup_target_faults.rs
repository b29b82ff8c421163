//! A store behind a proxy in which requests and answers get lost, late and damaged: what is lost is sent again and counts
//! once, one of two writers wins all the same, and whatever never comes is not waited for.

use bytes::Bytes;
use farside::backup::target::{Objection, Target, TargetError, TargetLimits, TargetUrl};
use farside_tests::lab::{Faults, S3Proxy, SeaweedFs, free_tcp_port};
use farside_tests::{bytes, skip};
use std::future::Future;
use std::time::{Duration, Instant};

/// Runs on a runtime like the command line's.
fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

fn body(seed: u64, length: usize) -> Bytes {
    bytes(seed, length).into()
}

fn through(proxy: &S3Proxy, prefix: &str) -> Target {
    SeaweedFs::target_through(proxy, prefix, TargetLimits::default())
}

fn is_refused<T: std::fmt::Debug>(done: Result<T, TargetError>, exit_code: u8, says: &str) {
    let error = done.expect_err("refused");
    assert_eq!(error.exit_code(), exit_code, "{error}");
    assert!(error.to_string().contains(says), "`{says}` is not in: {error}");
}

#[test]
fn what_is_lost_on_the_way_is_sent_again_and_counts_once() {
    let root = tempfile::tempdir().expect("a directory");
    let server = match SeaweedFs::start(root.path()) {
        Ok(server) => server,
        Err(why) => return skip(&why),
    };
    let proxy = S3Proxy::start(server.address(), Faults::default());
    lost_answers(&proxy);
    for seed in 1..4 {
        many_faults(&proxy, seed);
    }
    throttled(&proxy);
    damaged_reads(&proxy);
    a_store_that_takes_seconds(&proxy);
    never(&proxy);
}

/// A put whose answer is lost is no other writer's, and another writer's is none of ours.
fn lost_answers(proxy: &S3Proxy) {
    let target = through(proxy, "lost");
    let put = Faults { method: Some("PUT"), at_most: Some(1), ..Faults::default() };
    for (name, faults) in [
        ("after", Faults { cut_after: 100, ..put }),
        ("before", Faults { cut_before: 100, ..put }),
        ("within", Faults { cut_within: 100, ..put }),
        ("failed", Faults { failed: 100, ..put }),
    ] {
        proxy.set(faults);
        run(target.put_new(name, vec![body(1, 300_000)])).expect(name);
        assert_eq!(proxy.happened(), 1, "{name}");
        assert!(run(target.get(name, 300_000)).expect("got") == body(1, 300_000));
        // Somebody else's: the same length, the same bytes, other ones.
        for other in [body(2, 300_000), body(1, 300_000), body(1, 299_999)] {
            proxy.set(faults);
            is_refused(run(target.put_new(name, vec![other])), 3, "already");
        }
        assert!(run(target.get(name, 300_000)).expect("got") == body(1, 300_000));
    }
    let read = Faults { method: Some("GET"), at_most: Some(1), ..Faults::default() };
    for faults in [Faults { cut_within: 100, ..read }, Faults { cut_before: 100, ..read }] {
        proxy.set(faults);
        assert!(run(target.get("after", 300_000)).expect("got") == body(1, 300_000));
        proxy.set(faults);
        assert!(run(target.get_range("after", 1000, 200_000)).expect("got") == body(1, 300_000).slice(1000..201_000));
        proxy.set(faults);
        assert_eq!(run(target.list("")).expect("listed").len(), 4);
        assert_eq!(proxy.happened(), 1);
    }
    proxy.set(Faults { cut_after: 100, method: Some("DELETE"), at_most: Some(1), ..Faults::default() });
    run(target.delete("within")).expect("deleted");
    assert_eq!(run(target.list("within")).expect("listed"), []);
}

/// A quarter of all requests goes wrong, in every way there is, and two writers race meanwhile.
fn many_faults(proxy: &S3Proxy, seed: u64) {
    proxy.set(Faults {
        seed,
        failed: 7,
        slow_down: 5,
        delayed: 5,
        delay: Duration::from_millis(50),
        cut_before: 4,
        cut_after: 6,
        cut_within: 3,
        ..Faults::default()
    });
    let prefix = format!("faults-{seed}");
    let (one, other) = (through(proxy, &prefix), through(proxy, &prefix));
    run(async {
        for round in 0..12 {
            let name = format!("object-{round}");
            let put = |target: &Target, writer: u64| {
                let (target, name) = (target.clone(), name.clone());
                async move { target.put_new(&name, vec![body(writer, 50_000)]).await }
            };
            let done = futures_util::future::join(put(&one, 1), put(&other, 2)).await;
            let is_lost = |put: &Result<(), TargetError>| matches!(put, Err(TargetError::Exists { .. }));
            let (first, second) = (done.0.is_ok() && is_lost(&done.1), done.1.is_ok() && is_lost(&done.0));
            assert!(first || second, "seed {seed}, round {round}: {done:?}");
            let winner = if first { 1 } else { 2 };
            assert!(one.get(&name, 50_000).await.expect("got") == body(winner, 50_000), "seed {seed}, round {round}");
        }
        assert_eq!(one.list("object-").await.expect("listed").len(), 12);
        for round in 0..12 {
            one.delete(&format!("object-{round}")).await.expect("deleted");
        }
        assert_eq!(one.list("object-").await.expect("listed"), []);
    });
    let (one, other) = (one.counters(), other.counters());
    assert!(one.retries > 0 && other.retries > 0 && one.throttled + other.throttled > 0, "{one:?} {other:?}");
    assert!(proxy.happened() > 10, "{} of {}", proxy.happened(), proxy.requests());
}

/// A store that asks to be left alone is left alone for as long, and not asked for ever.
fn throttled(proxy: &S3Proxy) {
    let target = through(proxy, "throttled");
    let faults = Faults { slow_down: 100, retry_after_seconds: Some(2), at_most: Some(1), ..Faults::default() };
    proxy.set(faults);
    let begun = Instant::now();
    run(target.put_new("a", vec![body(1, 9)])).expect("put");
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!((target.counters().throttled, target.counters().retries), (1, 1));
    proxy.set(Faults { retry_after_seconds: Some(3600), at_most: None, ..faults });
    let begun = Instant::now();
    is_refused(run(target.get("a", 9)), 4, "takes no more requests for now: SlowDown");
    assert!(begun.elapsed() < Duration::from_secs(2), "an hour is not waited for");
}

/// What is damaged on the way here is seen by whoever knows its hash, and is whole when it is got again.
fn damaged_reads(proxy: &S3Proxy) {
    let target = through(proxy, "damaged");
    proxy.set(Faults::default());
    let (object, hash) = (body(4, 100_000), blake3::hash(&body(4, 100_000)));
    run(target.put_new("a", vec![object])).expect("put");
    proxy.set(Faults { seed: 3, corrupted: 40, ..Faults::default() });
    let read = || run(target.get("a", 100_000)).expect("got");
    let whole = (0..20).filter(|_| blake3::hash(&read()) == hash).count();
    assert_eq!(20 - whole as u64, proxy.happened());
    assert!((1..20).contains(&whole), "{whole} of 20");
    proxy.set(Faults { corrupted: 100, at_most: Some(1), ..Faults::default() });
    assert!(blake3::hash(&read()) != hash && blake3::hash(&read()) == hash);
}

/// A store that answers 200 whatever the condition is found out.
fn a_store_that_takes_seconds(proxy: &S3Proxy) {
    let target = through(proxy, "seconds");
    proxy.set(Faults { takes_seconds: true, ..Faults::default() });
    let found = run(target.probe()).expect("probed");
    assert!(!found.put_if_absent && !found.put_if_absent_racing, "{found:?}");
    assert!(found.reads_back && found.lists && found.deletes, "{found:?}");
    assert_eq!(found.objections(), [Objection::PutIfAbsent]);
    assert!(found.objections()[0].to_string().contains("If-None-Match"));
    proxy.set(Faults::default());
    assert_eq!(run(target.list("")).expect("listed"), []);
}

/// It ends, whatever never happens.
fn never(proxy: &S3Proxy) {
    let limits = TargetLimits { patience: Some(Duration::from_secs(2)), ..TargetLimits::default() };
    let open = |endpoint: &str| {
        let url = TargetUrl::parse("s3://nowhere", Some(endpoint)).expect("a URL");
        Target::open_with(&url, limits, &SeaweedFs::settings()).expect("a target")
    };
    let target = SeaweedFs::target_through(proxy, "never", limits);
    proxy.set(Faults { cut_after: 100, ..Faults::default() });
    is_refused(run(target.put_new("a", vec![body(1, 9)])), 4, "does not answer");
    proxy.set(Faults { failed: 100, ..Faults::default() });
    is_refused(run(target.put_new("b", vec![body(1, 9)])), 4, "does not answer: InternalError");
    is_refused(run(target.list("")), 4, "does not answer");
    let nowhere = open(&format!("http://127.0.0.1:{}", free_tcp_port()));
    is_refused(run(nowhere.get("a", 9)), 4, "does not answer");
    // Somebody who takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = open(&format!("http://{}", silent.local_addr().expect("an address")));
    let begun = Instant::now();
    is_refused(run(silent.get("a", 9)), 4, "no answer in time");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}
