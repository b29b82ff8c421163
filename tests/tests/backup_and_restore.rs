//! Both sites are gone: a site comes back from its backup and shares of its system key alone, and what the backup can't give it
//! says.

use farside_tests::{Site, bytes, farside, free_port};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Objects as they should be, by name.
type Objects = BTreeMap<String, Vec<u8>>;

struct World {
    root: tempfile::TempDir,
    kms: PathBuf,
}

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let kms = root.path().join("kms");
        Self { root, kms }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn put(&self, site: &Site, objects: &mut Objects, name: &str, contents: Vec<u8>) -> Value {
        let file = self.path("in");
        std::fs::write(&file, &contents).expect("written");
        let receipt = site.farside(&["put", "--json", "acme/data", name, &file.display().to_string()]).json();
        objects.insert(name.to_owned(), contents);
        receipt
    }

    /// Every object is there with its contents, and no other.
    fn check(&self, site: &Site, objects: &Objects) {
        let listed = site.farside(&["ls", "--json", "acme/data"]).ok();
        let name = |line: &str| {
            serde_json::from_str::<Value>(line).expect("JSON")["name"].as_str().expect("a name").to_owned()
        };
        let listed: Vec<String> = listed.lines().map(name).collect();
        assert_eq!(listed, objects.keys().cloned().collect::<Vec<_>>());
        let out = self.path("out");
        for (name, contents) in objects {
            site.farside(&["get", "acme/data", name, "-o", &out.display().to_string()]).ok();
            assert!(std::fs::read(&out).expect("read") == *contents, "{name} differs");
        }
    }

    /// Shares of a site's system key: the paths of five files, any three of which bring it back.
    fn shares(&self, site: &Site) -> Vec<String> {
        use farside_codec::Field;
        let name = site.directory.file_name().expect("a name").to_string_lossy().into_owned();
        let out = self.text(&format!("shares-of-{name}"));
        std::fs::create_dir(&out).expect("made");
        let key = std::fs::read(site.directory.join("system.key")).expect("read");
        let key: [u8; 32] = key[key.len() - 32..].try_into().expect("a key");
        let id = site.status()["site_id"].as_str().expect("an id").to_owned();
        let id: Vec<u8> = (0..16).map(|at| u8::from_str_radix(&id[2 * at..2 * at + 2], 16).expect("hex")).collect();
        let id = farside_codec::ids::SiteId(id.try_into().expect("an id"));
        let _ = id.to_bytes();
        let mut fill = |out: &mut [u8]| out.iter_mut().for_each(|byte| *byte = 7);
        let shares = farside_codec::seal::shares::split(&key, id, 3, 5, [9; 16], &mut fill).expect("shares");
        let write = |share: &farside_codec::seal::shares::Share| {
            let path = format!("{out}/share-{}.txt", share.index());
            std::fs::write(&path, share.to_text()).expect("written");
            path
        };
        shares.iter().map(write).collect()
    }

    /// The arguments of a restore into a new directory.
    fn restore(&self, target: &str, shares: &[String], name: &str, more: &[&str]) -> (Vec<String>, Site) {
        let (directory, port) = (self.path(name), free_port());
        let mut arguments: Vec<String> =
            ["restore", "--json", "--target", target, "--shares", &shares.join(","), "--dir"]
                .map(str::to_owned)
                .to_vec();
        let listen = format!("127.0.0.1:{port}");
        arguments.extend([directory.display().to_string(), "--listen".into(), listen, "--cores".into(), "0".into()]);
        arguments.extend(["--device-size".into(), "256MiB".into()]);
        arguments.extend(more.iter().map(|more| (*more).to_owned()));
        (arguments, Site::at(directory, port))
    }
}

fn site_with_target(world: &World) -> (Site, String) {
    let near = Site::start(world.root.path(), "near", &["--cores", "0,1", "--geometry", "2+1"]);
    near.make_log(&world.kms, "acme/data");
    std::fs::create_dir(world.path("vault")).expect("made");
    let target = format!("file://{}", world.text("vault"));
    near.farside(&["backup", "target", "add", "vault", &target]).ok();
    (near, target)
}

#[test]
fn a_site_that_was_destroyed_comes_back_at_another_geometry() {
    let world = World::new();
    let (mut near, target) = site_with_target(&world);
    let mut objects = Objects::new();
    world.put(&near, &mut objects, "small", b"rides in its delta".to_vec());
    world.put(&near, &mut objects, "photos/large", bytes(1, 9_000_000));
    world.put(&near, &mut objects, "replaced", bytes(2, 100_000));
    let first = near.farside(&["backup", "now", "--json", "vault"]).json();
    assert_eq!((&first["backup"], &first["known_chunks"]), (&1.into(), &0.into()));
    world.put(&near, &mut objects, "replaced", bytes(3, 200_000));
    world.put(&near, &mut objects, "gone", bytes(4, 50_000));
    near.farside(&["rm", "acme/data", "gone"]).ok();
    objects.remove("gone");
    let second = near.farside(&["backup", "now", "--json", "vault"]).json();
    assert_eq!((&second["backup"], &second["known_chunks"]), (&2.into(), &first["chunks"]));
    assert!(second["stored_bytes"].as_u64() < Some(1_000_000), "{second}");
    near.farside(&["backup", "verify", "vault", "--read-all"]).ok();
    let shares = world.shares(&near);
    // What is acknowledged after the newest backup is what its lag costs.
    let covered = objects.clone();
    world.put(&near, &mut objects, "too late", bytes(5, 70_000));
    near.kill();
    std::fs::remove_dir_all(&near.directory).expect("removed");

    let (two, mut site) = world.restore(&target, &shares[..2], "again", &["--geometry", "4+2"]);
    farside(&two).fails(3, "3");
    assert!(!site.directory.exists(), "a restore that was refused leaves something behind");
    let (three, _) = world.restore(&target, &shares[1..4], "again", &["--geometry", "4+2"]);
    let port = three.iter().position(|argument| argument == "--listen").map(|at| three[at + 1].clone());
    let restored = farside(&three).json();
    assert_eq!((&restored["backup"], &restored["incarnation"]), (&2.into(), &1.into()));
    assert!(restored["rpo_seconds"].as_f64().expect("a figure") < 600.0, "{restored}");
    site.port = port.and_then(|port| port.rsplit(':').next()?.parse().ok()).expect("a port");
    site.run();
    site.farside(&["tenant", "kms", "acme", &format!("file:{}", world.kms.display())]).ok();
    world.check(&site, &covered);
    let shown = site.farside(&["log", "show", "--json", "acme/data"]).json();
    assert_eq!(shown["generation"], 2, "{shown}");
    // It goes on: writes, history, the next backup, and a restart.
    let mut objects = covered;
    world.put(&site, &mut objects, "new", bytes(6, 3_000_000));
    world.check(&site, &objects);
    let third = site.farside(&["backup", "now", "--json", "vault"]).json();
    assert_eq!(third["backup"], 3, "{third}");
    site.stop();
    site.run();
    world.check(&site, &objects);
    let alerts = site.alerts();
    assert!(!alerts.contains("damaged") && !alerts.contains("owed"), "{alerts}");
}
