//! Both sites are gone: a site comes back from its backup and shares of its system key alone, to any moment; and backups and prunes
//! that are killed leave whole backups behind.

use farside_tests::backups::{Objects, World};
use farside_tests::{Site, bytes, command, rounds, signal};
use serde_json::Value;
use std::process::Stdio;
use std::time::Instant;

fn site_with_target(world: &World) -> (Site, String) {
    let near = Site::start(world.root(), "near", &["--cores", "0,1", "--geometry", "2+1"]);
    near.make_log(&world.kms, "acme/data");
    std::fs::create_dir(world.path("vault")).expect("made");
    let target = format!("file://{}", world.text("vault"));
    near.farside(&["backup", "target", "add", "vault", &target]).ok();
    (near, target)
}

fn destroy(mut site: Site) {
    site.kill();
    std::fs::remove_dir_all(&site.directory).expect("removed");
}

#[test]
fn a_site_that_was_destroyed_comes_back_at_another_geometry() {
    let world = World::default();
    let (near, target) = site_with_target(&world);
    let mut objects = Objects::new();
    world.put(&near, &mut objects, "small", b"rides in its delta".to_vec());
    world.put(&near, &mut objects, "photos/large", bytes(1, 9_000_000));
    world.put(&near, &mut objects, "replaced", bytes(2, 100_000));
    let first = near.farside(&["backup", "now", "--json", "vault"]).json();
    assert_eq!((&first["backup"], &first["known_chunks"]), (&1.into(), &0.into()));
    world.put(&near, &mut objects, "replaced", bytes(3, 200_000));
    world.put(&near, &mut objects, "gone", bytes(4, 50_000));
    world.remove(&near, &mut objects, "gone");
    let second = near.farside(&["backup", "now", "--json", "vault"]).json();
    assert_eq!((&second["backup"], &second["known_chunks"]), (&2.into(), &first["chunks"]));
    assert!(second["stored_bytes"].as_u64() < Some(1_000_000), "{second}");
    near.farside(&["backup", "verify", "vault", "--read-all"]).ok();
    let shown = near.status();
    assert_eq!(
        (&shown["backups"][0]["target"], &shown["backups"][0]["newest"]["backup"]),
        (&"vault".into(), &2.into())
    );
    let shares = world.shares(&near);
    // What is acknowledged after the newest backup is what its lag costs.
    let covered = objects.clone();
    world.put(&near, &mut objects, "too late", bytes(5, 70_000));
    destroy(near);

    let target = ["--target", &target];
    let (two, site) = world.restore(&target, &shares[..2], "again", &[]);
    world.run(&two).fails(3, "3");
    assert!(!site.directory.exists(), "a restore that was refused leaves something behind");
    let (restored, mut site) = world.restored(&target, &shares[1..4], "again", &["--geometry", "4+2"]);
    assert_eq!((&restored["backup"], &restored["incarnation"]), (&2.into(), &1.into()));
    assert!(restored["rpo_seconds"].as_f64().expect("a figure") < 600.0, "{restored}");
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

#[test]
fn a_site_that_was_restored_elsewhere_adds_nothing_any_more() {
    let world = World::default();
    let (near, target) = site_with_target(&world);
    let mut objects = Objects::new();
    world.put(&near, &mut objects, "one", bytes(1, 100_000));
    near.farside(&["backup", "now", "vault"]).ok();
    let shares = world.shares(&near);
    let (_, again) = world.restored(&["--target", &target], &shares[..3], "again", &[]);
    // Until the restored site has made a backup nobody can know; from then on the lost one is told.
    again.farside(&["backup", "now", "vault"]).ok();
    near.farside(&["backup", "now", "vault"]).fails(3, "restored elsewhere");
    // Another site does not mix its backups with these.
    let other = Site::start(world.root(), "other", &["--cores", "0"]);
    other.farside(&["backup", "target", "add", "vault", &target]).fails(3, "another system key");
    other.farside(&["backup", "now", "vault"]).fails(5, "there is no backup target vault");
    other.farside(&["backup", "list", &target]).fails(3, "another system key");
    let empty = world.text("nothing-here");
    std::fs::create_dir(&empty).expect("made");
    other.farside(&["backup", "list", &format!("file://{empty}")]).fails(5, "no backup lies at the target");
}

/// One log, or one tenant, comes back beside the site that goes on, and knows nobody who could take it for that site.
#[test]
fn a_part_of_a_site_is_restored_beside_it() {
    let world = World::default();
    let (near, target) = site_with_target(&world);
    let far = Site::start(world.root(), "far", &["--cores", "0"]);
    near.join(&far);
    let mut objects = Objects::new();
    for number in 0..4 {
        world.put(&near, &mut objects, &format!("object-{number}"), bytes(number, 10 << (5 * number)));
    }
    let file = world.text("in");
    near.farside(&["log", "create", "acme/more"]).ok();
    near.farside(&["put", "acme/more", "another", &file]).ok();
    near.make_log(&world.kms, "other/data");
    near.farside(&["put", "other/data", "secret", &file]).ok();
    near.farside(&["backup", "now", "vault"]).ok();
    let shares = world.shares(&near);
    let covered = objects.clone();
    world.put(&near, &mut objects, "object-0", bytes(9, 1000));

    let target = ["--target", &target];
    for (part, code, why) in [
        (["--log", "acme/none"], 5, "no log of acme/none"),
        (["--tenant", "nobody"], 5, "no log of nobody"),
        (["--log", "acme"], 2, "TENANT/LOG"),
    ] {
        let (arguments, site) = world.restore(&target, &shares[..3], "part", &part);
        world.run(&arguments).fails(code, why);
        assert!(!site.directory.exists(), "a restore that was refused leaves something behind");
    }
    let names = |site: &Site, arguments: &[&str]| {
        let listed = site.farside(&[arguments, &["--json"]].concat()).ok();
        let name = |line: &str| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            line["name"].as_str().expect("a name").to_owned()
        };
        listed.lines().map(name).collect::<Vec<String>>()
    };
    let (told, mut one) = world.restored(&target, &shares[..3], "one", &["--log", "acme/data"]);
    assert_eq!(told["part"], "acme/data", "{told}");
    assert_eq!(
        (names(&one, &["log", "list"]), names(&one, &["tenant", "list"])),
        (vec!["acme/data".into()], vec!["acme".into()])
    );
    assert_eq!(
        (names(&one, &["peer", "list"]), one.farside(&["backup", "target", "list"]).ok()),
        (vec![], String::new())
    );
    world.check(&one, &covered);
    // It is a site like any other, and starts again.
    let mut mine = covered.clone();
    world.put(&one, &mut mine, "new", bytes(20, 300_000));
    one.stop();
    one.run();
    world.check(&one, &mine);
    let (_, tenant) = world.restored(&target, &shares[..3], "tenant", &["--tenant", "acme"]);
    let mut logs = names(&tenant, &["log", "list"]);
    logs.sort();
    assert_eq!(logs, ["acme/data", "acme/more"]);
    world.check(&tenant, &covered);
    // Nobody mistakes either for the site, which goes on: with its peer, and with its backups.
    let peer = far.farside(&["peer", "token"]).ok();
    one.farside(&["peer", "add", "far", peer.trim()]).fails(3, "a part of a site");
    one.farside(&["peer", "token"]).fails(3, "a part of a site");
    let place = target[1];
    one.farside(&["backup", "target", "add", "vault", place]).fails(3, "a part of a site");
    world.check(&near, &objects);
    near.wait_caught_up();
    near.farside(&["backup", "now", "vault"]).ok();
}

#[test]
fn a_site_goes_back_to_any_moment() {
    let world = World::default();
    let (near, target) = site_with_target(&world);
    let mut objects = Objects::new();
    let mut history: Vec<(String, Objects)> = Vec::new();
    let dice = farside_io::entropy::SeededEntropy::new(7);
    let draw = |dice: &farside_io::entropy::SeededEntropy, below: u64| {
        u64::from_le_bytes(farside_io::entropy::random(dice)) % below
    };
    for step in 0..24 {
        let name = format!("object-{}", draw(&dice, 6));
        let receipt = match objects.contains_key(&name) && draw(&dice, 3) == 0 {
            true => world.remove(&near, &mut objects, &name),
            false => {
                let length = 1 + draw(&dice, 200_000) as usize;
                world.put(&near, &mut objects, &name, bytes(step, length))
            }
        };
        history.push((receipt["time"].as_str().expect("a time").to_owned(), objects.clone()));
        if step % 8 == 7 {
            near.farside(&["backup", "now", "vault"]).ok();
        }
    }
    let shares = world.shares(&near);
    destroy(near);
    let target = ["--target", &target];
    for round in 0..rounds("FARSIDE_MOMENTS", 3) {
        let (time, objects) = &history[draw(&dice, history.len() as u64) as usize];
        let name = format!("moment-{round}");
        let (told, site) = world.restored(&target, &shares[..3], &name, &["--at", time]);
        println!("back to {time}: backup {}, {} objects", told["backup"], objects.len());
        world.check(&site, objects);
        destroy(site);
    }
    let (late, _) = world.restore(&target, &shares[..3], "late", &["--at", "2100-01-01T00:00:00Z"]);
    world.run(&late).fails(5, "before the time asked for");
}

#[test]
fn backups_and_prunes_that_are_killed_leave_whole_backups() {
    let world = World::default();
    let (near, target) = site_with_target(&world);
    let mut objects = Objects::new();
    world.put(&near, &mut objects, "first", bytes(1, 2_000_000));
    // How long each takes here when it is left alone.
    let taken = |arguments: &[&str]| {
        let begun = Instant::now();
        near.farside(arguments).ok();
        begun.elapsed()
    };
    let keep = ["backup", "prune", "vault", "--keep-last", "2", "--grace", "0s"];
    let (whole_backup, whole_prune) = (taken(&["backup", "now", "vault"]), taken(&keep));
    let dice = farside_io::entropy::SeededEntropy::new(11);
    let (mut killed, kills) = (0, rounds("FARSIDE_KILLS", 12));
    for round in 0..kills as u64 {
        let draw = u64::from_le_bytes(farside_io::entropy::random(&dice));
        world.put(&near, &mut objects, &format!("object-{}", round % 5), bytes(100 + round, 300_000));
        let directory = near.directory.display().to_string();
        let backup = ["backup", "now", "vault", "--dir", &directory];
        let prune = [&keep[..], &["--dir", &directory]].concat();
        let (arguments, whole) = if draw % 2 == 0 { (&backup[..], whole_backup) } else { (&prune[..], whole_prune) };
        let mut child = command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
        std::thread::sleep(whole.mul_f64((draw / 2 % 1000) as f64 / 1000.0));
        signal("-KILL", child.id());
        killed += usize::from(child.wait().expect("ended").code().is_none());
    }
    assert!(killed > kills / 4, "only {killed} of {kills} were killed in time");
    let verified = near.farside(&["backup", "verify", "vault", "--read-all", "--json"]).ok();
    let last: Value = serde_json::from_str(verified.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["damaged_backups"], 0, "{verified}");
    near.farside(&["backup", "now", "vault"]).ok();
    // What those that were killed have left goes as well, but for what says that somebody is at work.
    for _ in 0..2 {
        near.farside(&["backup", "prune", "vault", "--keep-last", "1", "--grace", "0s"]).ok();
    }
    near.farside(&["backup", "verify", "vault", "--read-all"]).ok();
    near.farside(&["backup", "prune", "vault"]).fails(2, "--keep-last");
    let shares = world.shares(&near);
    destroy(near);
    let (_, site) = world.restored(&["--target", &target], &shares[2..], "again", &[]);
    world.check(&site, &objects);
}
