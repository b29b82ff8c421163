//! The targets of a backup, a directory and a real store: what they owe a backup is the same, and everything that can be
//! wrong with them says so, with its own exit code, in bounded time.

use bytes::Bytes;
use farside::backup::target::{Capabilities, StoreSettings, Target, TargetError, TargetLimits, TargetUrl};
use farside_tests::lab::SeaweedFs;
use farside_tests::{bytes, rounds, skip};
use std::future::Future;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

/// Runs on a runtime like the command line's.
fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

fn body(seed: u64, length: usize) -> Bytes {
    bytes(seed, length).into()
}

fn directory(path: &Path) -> Target {
    let url = TargetUrl::parse(path.to_str().expect("UTF-8"), None).expect("a URL");
    Target::open(&url, TargetLimits::default()).expect("a target")
}

fn bucket(url: &TargetUrl) -> Target {
    Target::open_with(url, TargetLimits::default(), &SeaweedFs::settings()).expect("a target")
}

fn seaweedfs(root: &Path) -> Option<SeaweedFs> {
    SeaweedFs::start(root).map_err(|why| skip(&why)).ok()
}

fn is_refused<T: std::fmt::Debug>(done: Result<T, TargetError>, exit_code: u8, says: &str) {
    let error = done.expect_err("refused");
    assert_eq!(error.exit_code(), exit_code, "{error}");
    assert!(error.to_string().contains(says), "`{says}` is not in: {error}");
}

/// What every target does.
async fn does_what_a_backup_needs(target: &Target) {
    let large = body(1, 64 * MIB);
    let parts = vec![large.slice(..7), Bytes::new(), large.slice(7..20 * MIB), large.slice(20 * MIB..)];
    target.put_new("packs/00/large.pack", parts).await.expect("put");
    assert!(target.get("packs/00/large.pack", 64 << 20).await.expect("got") == large);
    let part = target.get_range("packs/00/large.pack", 33 << 20, 100_001).await.expect("got");
    assert!(part == large.slice(33 * MIB..33 * MIB + 100_001));
    let end = target.get_range("packs/00/large.pack", (64 << 20) - 5, 5).await.expect("got");
    assert!(end == large.slice(64 * MIB - 5..));
    assert_eq!(target.get_range("packs/00/large.pack", 3, 0).await.expect("got"), Bytes::new());
    is_refused(target.get_range("packs/00/large.pack", (64 << 20) - 5, 6).await, 6, "ends too early");
    is_refused(target.get_range("packs/00/large.pack", 65 << 20, 6).await, 6, "ends too early");
    is_refused(target.get_range("packs/00/large.pack", u64::MAX, 6).await, 6, "ends too early");
    is_refused(target.get("packs/00/large.pack", (64 << 20) - 1).await, 6, "is larger than");
    let oversize = vec![large, Bytes::from_static(b"!")];
    is_refused(target.put_new("packs/00/oversize", oversize).await, 1, "is what one object");

    // Nothing is replaced, and an empty object is one too.
    is_refused(target.put_new("packs/00/large.pack", vec![body(2, 10)]).await, 3, "which stays as it is");
    target.put_new("empty", vec![]).await.expect("put");
    is_refused(target.put_new("empty", vec![body(2, 10)]).await, 3, "has an object empty already");
    assert_eq!(target.get("empty", 0).await.expect("got"), Bytes::new());

    // Listings are by letters, not by components.
    for name in ["packs/01/a", "packs/01/b", "packs-old", "packs/010"] {
        target.put_new(name, vec![body(3, name.len())]).await.expect("put");
    }
    let listed = |prefix: &'static str| async move {
        let listed = target.list(prefix).await.expect("listed");
        listed.into_iter().map(|found| format!("{} {}", found.name, found.bytes)).collect::<Vec<_>>().join(", ")
    };
    let all = "empty 0, packs-old 9, packs/00/large.pack 67108864, packs/01/a 10, packs/01/b 10, packs/010 9";
    assert_eq!(listed("").await, all);
    assert_eq!(listed("packs/01").await, "packs/01/a 10, packs/01/b 10, packs/010 9");
    assert_eq!(listed("packs/01/").await, "packs/01/a 10, packs/01/b 10");
    assert_eq!(listed("nothing").await, "");

    // Gone is gone, twice too.
    for _ in 0..2 {
        target.delete("packs/01/a").await.expect("deleted");
        target.delete("no/such/object").await.expect("deleted");
    }
    is_refused(target.get("packs/01/a", 100).await, 5, "has no object packs/01/a");
    is_refused(target.get_range("no/such/object", 0, 1).await, 5, "has no object no/such/object");
    assert_eq!(listed("packs/01/").await, "packs/01/b 10");
    for name in ["", "/etc/passwd", "../a", "a/../../b", "a//b", "A", ".hidden", "a b", "a\0b"] {
        is_refused(target.put_new(name, vec![]).await, 2, "no name of an object");
        is_refused(target.get(name, 10).await, 2, "no name of an object");
        is_refused(target.delete(name).await, 2, "no name of an object");
    }
    is_refused(target.list("../").await, 2, "no name of an object");
}

/// One of all the threads that put an object of a name wins, and its object is what is read.
fn exactly_one_wins(open: &(dyn Fn() -> Target + Sync), rounds: usize, threads: usize) {
    let barrier = Barrier::new(threads);
    let won: Vec<Vec<bool>> = std::thread::scope(|scope| {
        let racer = |racer: usize| {
            let barrier = &barrier;
            scope.spawn(move || {
                let target = open();
                run(async {
                    let mut won = Vec::new();
                    for round in 0..rounds {
                        barrier.wait();
                        let object = body((round * threads + racer) as u64, 20_000);
                        let put = target.put_new(&format!("race/{round}"), vec![object]).await;
                        assert!(matches!(put, Ok(()) | Err(TargetError::Exists { .. })), "{put:?}");
                        won.push(put.is_ok());
                    }
                    won
                })
            })
        };
        let racers: Vec<_> = (0..threads).map(racer).collect();
        racers.into_iter().map(|racer| racer.join().expect("raced")).collect()
    });
    let target = open();
    for round in 0..rounds {
        let has_won = |(racer, won): (usize, &Vec<bool>)| won[round].then_some(racer);
        let winners: Vec<usize> = won.iter().enumerate().filter_map(has_won).collect();
        assert_eq!(winners.len(), 1, "round {round} was won by {winners:?}");
        let object = run(target.get(&format!("race/{round}"), 20_000)).expect("got");
        assert!(object == body((round * threads + winners[0]) as u64, 20_000), "round {round} holds the loser's");
    }
    assert_eq!(run(target.list("race/")).expect("listed").len(), rounds);
}

#[test]
fn a_directory() {
    let root = tempfile::tempdir().expect("a directory");
    let place = root.path().join("backup");
    is_refused(run(directory(&place).put_new("a", vec![])), 5, "there is no file:///");
    is_refused(run(directory(&place).list("")), 5, "there is no file:///");
    std::fs::create_dir(&place).expect("made");
    let target = directory(&place);
    run(does_what_a_backup_needs(&target));
    let found = run(target.probe()).expect("probed");
    let expected = Capabilities {
        reads_back: true,
        reads_ranges: true,
        lists: true,
        lists_at_once: true,
        deletes: true,
        put_if_absent: true,
        put_if_absent_racing: true,
        refuses_wrong_checksums: false,
        object_lock: false,
        encrypted: true,
    };
    assert_eq!(found, expected);
    assert_eq!(found.objections(), []);
    assert_eq!(run(target.list("probe")).expect("listed"), []);
    exactly_one_wins(&|| directory(&place), 100, 4);
    // Nothing but objects is left, and none of them can be read by others.
    let mut waiting = vec![place];
    while let Some(path) = waiting.pop() {
        for entry in std::fs::read_dir(path).expect("read").map(|entry| entry.expect("an entry")) {
            assert!(!entry.file_name().to_string_lossy().starts_with('.'), "{:?} is left", entry.path());
            if entry.file_type().expect("a type").is_dir() {
                waiting.push(entry.path());
            }
        }
    }
}

#[test]
fn a_directory_is_not_left_through_links() {
    let root = tempfile::tempdir().expect("a directory");
    let (place, outside) = (root.path().join("backup"), root.path().join("outside"));
    std::fs::create_dir_all(place.join("packs")).expect("made");
    std::fs::create_dir(&outside).expect("made");
    std::fs::write(outside.join("secret"), "secret").expect("written");
    let link = |to: &Path, at: &str| std::os::unix::fs::symlink(to, place.join(at)).expect("linked");
    link(&outside, "away");
    link(&outside.join("secret"), "packs/secret");
    link(&outside.join("new"), "packs/new");
    let target = directory(&place);
    run(async {
        is_refused(target.put_new("away/new", vec![body(1, 9)]).await, 1, "away/new");
        is_refused(target.get("away/secret", 100).await, 1, "away/secret");
        is_refused(target.delete("away/secret").await, 1, "away/secret");
        is_refused(target.get("packs/secret", 100).await, 1, "packs/secret");
        is_refused(target.put_new("packs/new", vec![body(1, 9)]).await, 3, "already");
        assert_eq!(target.list("").await.expect("listed"), []);
        // A link itself can be removed; what it leads to stays.
        target.delete("packs/secret").await.expect("deleted");
    });
    assert_eq!(std::fs::read(outside.join("secret")).expect("read"), b"secret");
    assert_eq!(std::fs::read_dir(&outside).expect("read").count(), 1);
    // The operator's own directory may be one.
    let other = root.path().join("link");
    std::os::unix::fs::symlink(&place, &other).expect("linked");
    run(directory(&other).put_new("packs/a", vec![body(1, 9)])).expect("put");
    assert_eq!(run(target.get("packs/a", 9)).expect("got"), body(1, 9));
    // What is no file is no object, and holds nobody up.
    let pipe = std::process::Command::new("mkfifo").arg(place.join("pipe")).status().expect("it runs");
    assert!(pipe.success());
    is_refused(run(target.get("pipe", 9)), 5, "has no object pipe");
}

#[test]
fn a_full_disk_says_so_and_keeps_nothing_half() {
    let root = tempfile::tempdir().expect("a directory");
    let Some(_disk) = SmallDisk::mount(root.path()) else { return };
    let target = directory(root.path());
    let names = || std::fs::read_dir(root.path()).expect("read").count();
    run(async {
        target.put_new("first", vec![body(1, MIB)]).await.expect("put");
        is_refused(target.put_new("second", vec![body(2, MIB), body(3, 3 * MIB)]).await, 1, "is full");
        assert_eq!(names(), 1, "nothing is left of it");
        target.put_new("third", vec![body(2, 2 * MIB)]).await.expect("there is room again");
        assert!(target.get("first", 1 << 20).await.expect("got") == body(1, MIB));
    });
}

/// A disk of 4 MiB, while it is mounted.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(at: &'a Path) -> Option<Self> {
        let mut mount = std::process::Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(at).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(at)),
            _ => {
                skip("a small disk can't be mounted here; it takes root");
                None
            }
        }
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_store_and_all_that_can_be_wrong_with_it() {
    let root = tempfile::tempdir().expect("a directory");
    let Some(mut server) = seaweedfs(root.path()) else { return };
    let target = bucket(&server.url("site-a/x"));
    run(does_what_a_backup_needs(&target));
    let found = run(target.probe()).expect("probed");
    let expected = Capabilities {
        reads_back: true,
        reads_ranges: true,
        lists: true,
        lists_at_once: true,
        deletes: true,
        put_if_absent: true,
        put_if_absent_racing: true,
        refuses_wrong_checksums: true,
        object_lock: false,
        encrypted: false,
    };
    assert_eq!(found, expected);
    assert_eq!(found.objections(), []);
    assert_eq!(run(target.list("probe")).expect("listed"), []);
    // Another prefix holds nothing of it.
    assert_eq!(run(bucket(&server.url("site-a")).list("x/race")).expect("listed"), []);
    assert_eq!(run(bucket(&server.url("site-b")).list("")).expect("listed"), []);
    // Whoever meets another writer waits a second or two for a lock of SeaweedFS's.
    exactly_one_wins(&|| bucket(&server.url("races")), rounds("FARSIDE_RACES", 20), 3);
    more_than_one_page(&server);
    slowly(&server);

    // A bucket that locks its objects.
    assert!(server.make_bucket("locked"));
    server.lock_bucket("locked");
    let locked = bucket(&TargetUrl::parse("s3://locked", Some(&server.endpoint())).expect("a URL"));
    assert_eq!(run(locked.probe()).expect("probed"), Capabilities { object_lock: true, ..expected });

    // What the operator has to mend.
    let wrong = StoreSettings::of(SeaweedFs::ACCESS_KEY_ID, "something-else");
    let denied = Target::open_with(&server.url("site-a/x"), TargetLimits::default(), &wrong).expect("a target");
    is_refused(run(denied.get("empty", 10)), 3, "denies this");
    is_refused(run(denied.put_new("new", vec![])), 3, "denies this");
    is_refused(run(denied.list("")), 3, "denies this");
    is_refused(run(denied.probe()), 3, "denies this");
    let nobody = StoreSettings { credentials: None, ..SeaweedFs::settings() };
    let nobody = Target::open_with(&server.url("site-a/x"), TargetLimits::default(), &nobody);
    is_refused(nobody, 3, "holds no credentials");
    let elsewhere = TargetUrl::parse("s3://no-such-bucket/x", Some(&server.endpoint())).expect("a URL");
    is_refused(run(bucket(&elsewhere).put_new("a", vec![body(1, 9)])), 5, "there is no s3://no-such-bucket/x");
    is_refused(run(bucket(&elsewhere).list("")), 5, "there is no s3://no-such-bucket/x");
    is_refused(run(bucket(&elsewhere).probe()), 5, "there is no s3://no-such-bucket/x");

    // A server that is not there: within the patience.
    server.kill();
    let limits = TargetLimits { patience: Some(Duration::from_secs(3)), ..TargetLimits::default() };
    let stopped = Target::open_with(&server.url("site-a/x"), limits, &SeaweedFs::settings()).expect("a target");
    let begun = Instant::now();
    is_refused(run(stopped.get("empty", 10)), 4, "does not answer");
    is_refused(run(stopped.put_new("new", vec![])), 4, "does not answer");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let begun = Instant::now();
    is_refused(run(target.list("")), 4, "does not answer");
    assert!((10..40).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    // What it has taken is there when it is back.
    server.run().expect("it runs again");
    assert!(run(target.get("packs/00/large.pack", 64 << 20)).expect("got") == body(1, 64 * MIB));
}

fn more_than_one_page(server: &SeaweedFs) {
    let target = bucket(&server.url("pages"));
    let names: Vec<String> = (0..1203).map(|number| format!("object/{number:04}")).collect();
    run(async {
        for names in names.chunks(16) {
            let puts = names.iter().map(|name| target.put_new(name, vec![Bytes::from_static(b"x")]));
            for done in futures_util::future::join_all(puts).await {
                done.expect("put");
            }
        }
        let listed = target.list("object/").await.expect("listed");
        assert!(listed.iter().map(|found| &found.name).eq(&names), "{} listed", listed.len());
    });
}

/// Rates are kept: of bytes both ways, and of requests.
fn slowly(server: &SeaweedFs) {
    let limits = TargetLimits { bytes_per_second: Some(MIB as u64), ..TargetLimits::default() };
    let target = Target::open_with(&server.url("slow"), limits, &SeaweedFs::settings()).expect("a target");
    let begun = Instant::now();
    run(async {
        target.put_new("a", vec![body(1, 2 * MIB)]).await.expect("put");
        assert!(target.get("a", 2 << 20).await.expect("got") == body(1, 2 * MIB));
    });
    let took = begun.elapsed().as_secs_f64();
    assert!((2.9..6.0).contains(&took), "4 MiB at 1 MiB/s, the first at once, took {took} s");
    let counters = target.counters();
    assert_eq!((counters.bytes_out, counters.bytes_in, counters.requests), (2 << 20, 2 << 20, 2));
    let limits = TargetLimits { requests_per_second: Some(10), ..TargetLimits::default() };
    let target = Target::open_with(&server.url("slow"), limits, &SeaweedFs::settings()).expect("a target");
    let begun = Instant::now();
    run(async {
        for _ in 0..30 {
            target.delete("nothing").await.expect("deleted");
        }
    });
    let took = begun.elapsed().as_secs_f64();
    assert!((1.9..5.0).contains(&took), "30 requests at 10 a second, the first 10 at once, took {took} s");
}

#[test]
fn a_directory_keeps_a_rate_too() {
    let root = tempfile::tempdir().expect("a directory");
    let url = TargetUrl::parse(root.path().to_str().expect("UTF-8"), None).expect("a URL");
    let limits = TargetLimits { bytes_per_second: Some(MIB as u64), ..TargetLimits::default() };
    let target = Target::open(&url, limits).expect("a target");
    let begun = Instant::now();
    run(target.put_new("a", vec![body(1, 2 * MIB)])).expect("put");
    assert!(run(target.get("a", 2 << 20)).expect("got") == body(1, 2 * MIB));
    assert!(begun.elapsed() >= Duration::from_millis(2900), "{:?}", begun.elapsed());
    let nothing = TargetLimits { requests_per_second: Some(0), ..TargetLimits::default() };
    is_refused(Target::open(&url, nothing), 2, "would let nothing through");
}
