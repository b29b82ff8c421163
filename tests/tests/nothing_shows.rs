//! No plaintext, object name or tenant key is in any file or log line of either site, nor in anything that sites and
//! clients say to one another inside TLS; what is planted is found by the same search.

#![allow(clippy::panic, reason = "a test fails by panicking")]

use bytes::Bytes;
use farside::client::Context;
use farside::kms::FileKms;
use farside_codec::ids::ChunkId;
use farside_codec::message::{PutChunk, Reply, Request};
use farside_codec::seal::{kms_label, sealed_bytes};
use farside_io::entropy::SystemEntropy;
use farside_tests::relay::{Recording, Relay};
use farside_tests::{Site, farside};
use farside_transport::{Class, Connection, Endpoint, Expect, Settings};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tokio::task::LocalSet;

const MARKER: &[u8] = b"MARKER-plaintext-7f3a91c2";
const NAME: &str = "MARKER-name-5b0d44e8";
const TARGET: &str = "MARKER-target-c91e07aa";
const PLANTED: &[u8] = b"MARKER-planted-on-purpose-20d6b3f9";
/// Larger than what rides in a delta, and of a length that no other body has by chance.
const LARGE_BYTES: usize = 3_000_017;
const LOG: &str = "acme/data";

/// What would give a secret away: its bytes, and how bytes are written where text is.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let list: Vec<String> = secret.iter().map(ToString::to_string).collect();
    let escaped: String = secret.iter().flat_map(|byte| std::ascii::escape_default(*byte)).map(char::from).collect();
    let upper = hex.to_uppercase();
    [secret, hex.as_bytes(), upper.as_bytes(), list.join(", ").as_bytes(), escaped.as_bytes()]
        .map(<[u8]>::to_vec)
        .into()
}

/// Looks for many secrets in one go: gigabytes are searched, and each place is read once.
struct Search<'a> {
    secrets: &'a [&'a [u8]],
    /// Every form of every secret, with the secret's index.
    needles: Vec<(usize, Vec<u8>)>,
    /// Whether a needle begins with these two bytes.
    begins: Vec<bool>,
}

impl<'a> Search<'a> {
    fn new(secrets: &'a [&'a [u8]]) -> Self {
        let with_index = |(index, secret): (usize, &&[u8])| forms(secret).into_iter().map(move |form| (index, form));
        let needles: Vec<(usize, Vec<u8>)> = secrets.iter().enumerate().flat_map(with_index).collect();
        let mut begins = vec![false; 1 << 16];
        needles.iter().for_each(|(_, needle)| begins[pair(needle)] = true);
        Self { secrets, needles, begins }
    }

    fn found_in(&self, bytes: &[u8]) -> BTreeSet<&'a [u8]> {
        let mut found = BTreeSet::new();
        for (at, two) in bytes.windows(2).enumerate() {
            if self.begins[pair(two)] {
                let here = self.needles.iter().filter(|(_, needle)| bytes[at..].starts_with(needle));
                found.extend(here.map(|(index, _)| self.secrets[*index]));
            }
        }
        found
    }
}

fn pair(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

/// Everything that could be found in: each file of both sites, and both directions of each recorded stream.
struct Haystack(Vec<(String, Vec<u8>)>);

impl Haystack {
    fn gather(sites: &Path, recordings: &[(&str, &Recording)]) -> Self {
        let mut all = Vec::new();
        for path in files(sites) {
            all.push((path.display().to_string(), std::fs::read(&path).expect("read")));
        }
        for (site, recording) in recordings {
            for said in recording.all() {
                all.push((format!("asked of {site}"), said.asked));
                all.push((format!("answered by {site}"), said.answered));
            }
        }
        Self(all)
    }

    /// Which secrets show, and where, in whatever form.
    fn holders<'a>(&'a self, secrets: &'a [&'a [u8]]) -> BTreeSet<(&'a [u8], &'a str)> {
        let search = Search::new(secrets);
        let mut holders = BTreeSet::new();
        for (place, bytes) in &self.0 {
            holders.extend(search.found_in(bytes).into_iter().map(|secret| (secret, place.as_str())));
        }
        holders
    }
}

fn files(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut left) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).expect("listed") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => left.push(path),
                false => found.push(path),
            }
        }
    }
    found
}

/// A tree with markers in contents, names and a link's target.
fn plant_tree(tree: &Path) {
    std::fs::create_dir_all(tree).expect("made");
    let large: Vec<u8> = MARKER.iter().copied().cycle().take(LARGE_BYTES).collect();
    std::fs::write(tree.join(NAME), MARKER.repeat(3)).expect("written");
    std::fs::write(tree.join(format!("{NAME}-large")), large).expect("written");
    std::os::unix::fs::symlink(TARGET, tree.join("link")).expect("linked");
}

/// Reads what `plant_tree` made, in every way there is.
fn read_all(tree: &Path, command: impl Fn(&[&str]) -> farside_tests::Outcome) {
    let large = format!("{NAME}-large");
    let got = command(&["get", LOG, &large]);
    assert_eq!(got.code, 0, "{}", got.stderr);
    assert!(got.stdout == std::fs::read(tree.join(&large)).expect("read"), "the large object is as it was");
    assert!(command(&["ls", LOG]).ok().contains(&large));
    assert!(!command(&["history", LOG, NAME]).ok().is_empty());
    let out = tree.with_extension("restored");
    command(&["get", "-r", LOG, &out.display().to_string()]).ok();
    assert_eq!(std::fs::read_link(out.join("link")).expect("a link"), Path::new(TARGET));
    std::fs::remove_dir_all(out).expect("removed");
}

/// Speaks with a site as its administrator, as any client does.
fn as_admin<T>(site: &Site, ask: impl AsyncFnOnce(Connection) -> T) -> T {
    let context = Context::load(&site.directory.join("admin.context")).expect("a context");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let address: SocketAddr = context.addresses().expect("addresses")[0];
        let anywhere = SocketAddr::from(([0; 4], 0));
        let endpoint = Endpoint::caller(anywhere, Settings::default(), &SystemEntropy).expect("a caller");
        let (credentials, expect) = (context.credentials().expect("credentials"), Expect { site: context.site });
        let connection = endpoint.connect(address, &credentials, &expect, Class::Bulk).await.expect("a connection");
        let answer = ask(connection).await;
        endpoint.close().await;
        answer
    })
}

/// Stores a chunk of plaintext, as no client does.
fn plant(site: &Site) {
    let body = Bytes::from(PLANTED.repeat(400));
    let chunk = ChunkId(*blake3::hash(&body).as_bytes());
    let put = Request::PutChunk(PutChunk { chunk, sealed_bytes: body.len() as u32 });
    as_admin(site, async |connection| connection.call(&put, Some(vec![body])).await.map(drop).expect("stored"));
}

/// The bytes of every key of the tenant: the KMS's own, and the data key of each epoch, which is stored nowhere.
fn tenant_keys(site: &Site, kms: &Path) -> Vec<Vec<u8>> {
    let answered = as_admin(site, async |connection| connection.call(&Request::ListTenants, None).await);
    let Reply::Tenants(tenants) = answered.expect("an answer").0 else { panic!("these are no tenants") };
    let kms = FileKms::parse(&format!("file:{}", kms.display()), Rc::new(SystemEntropy)).expect("a KMS");
    let file = std::fs::read(kms.directory().join("acme.v1.key")).expect("the tenant's key");
    let mut keys = vec![file[farside_codec::frame::HEADER_BYTES..].to_vec()];
    for tenant in &tenants {
        for epoch in &tenant.epochs {
            let label = kms_label(tenant.tenant, epoch.epoch, &epoch.salt);
            keys.push(kms.compute(&epoch.key_name, epoch.key_version, &label).expect("a data key").to_vec());
        }
    }
    assert!(keys.len() >= 2 && keys.iter().all(|key| key.len() == 32), "a key of the KMS and a data key");
    keys
}

/// Both relays heard what they stand there for, or their silence shows nothing.
fn check_heard(near: &Recording, far: &Recording) {
    let all = |recording: &Recording, asked: &[(&str, &str)]| {
        let heard = recording.requests();
        for (role, request) in asked {
            assert!(heard.contains(&(*role, (*request).to_owned())), "{request} by a {role} is not among {heard:?}");
        }
    };
    let reads = ["ResolveLog", "Lookup", "List", "History", "GetChunk", "Status"].map(|request| ("admin", request));
    let writes = ["Hello", "CreateTenant", "CreateLog", "PutChunk", "Propose", "PeerAdd"];
    all(near, &reads);
    all(near, &writes.map(|request| ("admin", request)));
    all(near, &["ResolveLog", "GetChunk", "Lookup", "History"].map(|request| ("client", request)));
    all(near, &["Hello", "FedHello", "FedDeltas", "PutChunk"].map(|request| ("peer", request)));
    all(far, &reads);
    all(far, &["PeerToken", "Failover", "PutChunk", "Propose"].map(|request| ("admin", request)));
    all(far, &["PeerJoin", "FedHello", "HaveChunks", "PutChunk", "FedDeltas"].map(|request| ("peer", request)));
    for recording in [near, far] {
        // Put at near, sent on to far, and read at both: each time as ciphertext of this length.
        let bodies = recording.bodies();
        assert!(bodies.iter().filter(|length| **length == sealed_bytes(LARGE_BYTES)).count() >= 2, "{bodies:?}");
    }
}

#[test]
fn markers_are_found_nowhere_but_where_they_were_planted() {
    let root = tempfile::tempdir().expect("a directory");
    let (sites, tree, kms) = (root.path().join("sites"), root.path().join("tree"), root.path().join("kms"));
    std::fs::create_dir_all(&sites).expect("made");
    plant_tree(&tree);
    let size = ["--cores", "0", "--device-size", "64MiB"];
    let (mut near, mut far) = (Site::init(&sites, "near", &size), Site::init(&sites, "far", &size));
    let before_near = Relay::in_front_of(&near, &[&near, &far]);
    let before_far = Relay::in_front_of(&far, &[&near, &far]);
    std::thread::scope(|both| {
        for site in [&mut near, &mut far] {
            site.verbose = true;
            both.spawn(|| site.run());
        }
    });
    near.make_log(&kms, LOG);
    near.join(&far);
    near.farside(&["put", "-r", LOG, &tree.display().to_string()]).ok();
    read_all(&tree, |arguments| near.farside(arguments));
    let url = format!("file:{}", kms.display());
    let context = root.path().join("acme.context").display().to_string();
    near.farside(&["context", "export", "--tenant", "acme", "-o", &context]).ok();
    let as_tenant = |arguments: &[&str]| farside(&[arguments, &["--context", &context]].concat());
    as_tenant(&["tenant", "kms", "acme", &url]).ok();
    read_all(&tree, as_tenant);
    near.wait_caught_up();

    // Near is lost, far takes over and is written to; near comes back and follows.
    assert_eq!(near.stop(), 0);
    far.farside(&["tenant", "kms", "acme", &url]).ok();
    far.farside(&["failover", "--from", "near"]).ok();
    read_all(&tree, |arguments| far.farside(arguments));
    let path = tree.join(format!("{NAME}-large")).display().to_string();
    far.farside(&["log", "policy", LOG, "--dedup", "off"]).ok();
    far.farside(&["put", LOG, &format!("{NAME}-far"), &path]).ok();
    far.farside(&["rm", LOG, NAME]).ok();
    near.run();
    far.wait_caught_up();
    let back = near.farside(&["get", LOG, &format!("{NAME}-far")]);
    assert!(back.stdout == std::fs::read(&path).expect("read"), "near has what was put at far");

    let keys = tenant_keys(&near, &kms);
    plant(&near);
    assert_eq!((near.stop(), far.stop()), (0, 0));
    check_heard(&before_near.recording, &before_far.recording);
    let recordings = [("near", &before_near.recording), ("far", &before_far.recording)];
    let haystack = Haystack::gather(&sites, &recordings);
    check_search(&haystack, &keys, &near);
}

/// One search: secrets show nowhere, while names that are no secret and the marker that was planted are found.
fn check_search(haystack: &Haystack, keys: &[Vec<u8>], near: &Site) {
    let known = ["acme", "data", "near", "far"];
    let logged = " TRACE ";
    let mut wanted = vec![MARKER, NAME.as_bytes(), TARGET.as_bytes(), PLANTED, logged.as_bytes()];
    wanted.extend(known.iter().map(|name| name.as_bytes()));
    wanted.extend(keys.iter().map(Vec::as_slice));
    let mut found = haystack.holders(&wanted);
    let mut places = |what: &[u8]| -> Vec<&str> {
        let of_this: Vec<_> = found.extract_if(.., |(secret, _)| *secret == what).collect();
        of_this.into_iter().map(|(_, place)| place).collect()
    };
    for name in known {
        let places = places(name.as_bytes());
        for place in ["asked of near", "answered by near", "asked of far", "answered by far"] {
            assert!(places.contains(&place), "{name} is not in what was {place}");
        }
    }
    let log = near.log().display().to_string();
    assert!(places(logged.as_bytes()).contains(&log.as_str()), "the node logs all that it can");
    let devices = near.directory.join("devices").display().to_string();
    let (files, streams): (Vec<&str>, Vec<&str>) =
        places(PLANTED).into_iter().partition(|place| place.starts_with(&devices));
    assert_eq!(streams, ["asked of near"], "what was planted is found in the stream that carried it");
    assert!(!files.is_empty(), "a chunk of plaintext lies on devices as plaintext");
    let shows: Vec<_> = found.iter().map(|(secret, place)| (secret.escape_ascii().to_string(), place)).collect();
    assert!(shows.is_empty(), "secrets show: {shows:?}");
}
