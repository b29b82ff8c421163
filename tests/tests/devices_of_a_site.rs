//! Which devices and cores a site may be made of, and what it says when they are too few.

use farside_tests::{Site, bytes, farside, free_port};
use std::time::{Duration, Instant};

#[test]
fn what_can_not_work_is_not_made() {
    let root = tempfile::tempdir().expect("a directory");
    let path = |name: &str| root.path().join(name).display().to_string();
    for name in ["a", "b"] {
        let device = std::fs::File::create(path(name)).expect("made");
        device.set_len(128 << 20).expect("sized");
    }
    std::fs::hard_link(path("a"), path("hard")).expect("linked");
    std::os::unix::fs::symlink(path("a"), path("soft")).expect("linked");
    let dir = path("near");
    let listen = format!("127.0.0.1:{}", free_port());
    let init = |more: &[&str]| {
        let base = ["init", "--dir", &dir, "--site", "near", "--geometry", "1+1"];
        let listen = if more.contains(&"--listen") { vec![] } else { vec!["--listen", &listen] };
        farside(&[&base[..], &listen, more].concat())
    };
    for other in ["a", "hard", "soft"] {
        init(&["--devices", &format!("{},{}", path("a"), path(other))]).fails(2, "one device twice");
    }
    init(&["--cores", "9999"]).fails(2, "no core 9999");
    init(&["--cores", "0,0"]).fails(2, "core 0 twice");
    init(&["--cores", "0", "--listen", "127.0.0.1:0"]).fails(2, "needs a port");
    init(&["--cores", "0", "--devices", &path("nothing")]).fails(1, &path("nothing"));
    std::fs::File::create(path("b")).expect("made").set_len(1 << 20).expect("sized");
    init(&["--cores", "0", "--devices", &format!("{},{}", path("a"), path("b"))])
        .fails(1, &format!("{} is too small", path("b")));
    assert!(!std::path::Path::new(&dir).exists(), "a refused init leaves nothing");
}

#[test]
fn too_few_devices_are_told_at_once() {
    let root = tempfile::tempdir().expect("a directory");
    let input = root.path().join("input");
    std::fs::write(&input, bytes(1, 100_000)).expect("written");
    let input = input.display().to_string();
    // One device for everything: allowed, and said.
    let arguments = ["--cores", "0", "--device-size", "256MiB", "--device-count", "1"];
    let mut single = Site::init(root.path(), "single", &arguments);
    single.run();
    assert!(single.alerts().contains("the loss of one more device loses data"), "{}", single.alerts());
    single.make_log(&root.path().join("kms"), "acme/data");
    single.farside(&["put", "acme/data", "a", &input]).ok();
    single.kill();

    // Two of six are gone: reads go on, a put that could not survive another loss is refused, and not for being full.
    let mut site = Site::start(root.path(), "near", &["--cores", "0"]);
    assert_eq!(site.alerts(), "[]");
    site.make_log(&root.path().join("kms"), "acme/data");
    site.farside(&["put", "acme/data", "before", &input]).ok();
    site.kill();
    for lost in ["device-1", "device-4"] {
        std::fs::remove_file(site.directory.join("devices").join(lost)).expect("removed");
    }
    site.run();
    let begun = Instant::now();
    site.farside(&["put", "acme/data", "after", &input]).fails(1, "too few devices work");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let alerts = site.alerts();
    assert!(alerts.contains("too few devices work, 4 of 6") && !alerts.contains("full"), "{alerts}");
    assert!(site.farside(&["get", "acme/data", "before"]).stdout == bytes(1, 100_000));
}
