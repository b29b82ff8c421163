//! Files that `get` writes are whole or not there, as private as they were; files that `put` reads are of one moment.

use farside_tests::{Site, bytes, names};
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

const LARGE_BYTES: usize = 9 << 20;

#[test]
fn what_can_not_be_read_costs_a_tree_nothing_else() {
    let root = tempfile::tempdir().expect("a directory");
    let size = ["--cores", "0", "--geometry", "2+1", "--device-count", "3"];
    let mut site = Site::start(root.path(), "near", &size);
    site.make_log(&root.path().join("kms"), "acme/data");
    let tree = root.path().join("tree");
    std::fs::create_dir_all(tree.join("below")).expect("made");
    for number in 0..20 {
        std::fs::write(tree.join(format!("small-{number}")), bytes(number, 900)).expect("written");
    }
    std::fs::write(tree.join("large"), bytes(99, LARGE_BYTES)).expect("written");
    std::fs::write(tree.join("below/small"), bytes(98, 900)).expect("written");
    std::fs::set_permissions(tree.join("below"), Permissions::from_mode(0o750)).expect("set");
    std::os::unix::fs::symlink("large", tree.join("link")).expect("linked");
    site.farside(&["put", "-r", "acme/data", &tree.display().to_string()]).ok();
    site.kill();
    // The log's mirrors lie on the first two.
    for device in ["device-1", "device-2"] {
        std::fs::remove_file(site.directory.join("devices").join(device)).expect("removed");
    }
    site.run();
    let back = root.path().join("back");
    site.farside(&["get", "-r", "acme/data", &back.display().to_string()]).fails(6, "large");
    let mut expected: Vec<String> = (0..20).map(|number| format!("small-{number}")).collect();
    expected.extend(["below".to_owned(), "link".to_owned()]);
    expected.sort();
    assert_eq!(names(&back), expected, "all the others, and nothing half-written");
    for number in 0..20 {
        let read = std::fs::read(back.join(format!("small-{number}"))).expect("read");
        assert!(read == bytes(number, 900), "small-{number} differs");
    }
    assert_eq!(std::fs::metadata(back.join("below")).expect("there").permissions().mode() & 0o7777, 0o750);
}

#[test]
fn a_private_file_that_is_replaced_stays_private() {
    let root = tempfile::tempdir().expect("a directory");
    let site = Site::start(root.path(), "near", &["--cores", "0"]);
    site.make_log(&root.path().join("kms"), "acme/data");
    let (secret, text) = (root.path().join("secret"), root.path().join("secret").display().to_string());
    std::fs::write(&secret, "old").expect("written");
    std::fs::set_permissions(&secret, Permissions::from_mode(0o600)).expect("set");
    site.farside(&["put", "acme/data", "secret", &text]).ok();
    site.farside(&["get", "acme/data", "secret", "-o", &text]).ok();
    assert_eq!(std::fs::metadata(&secret).expect("there").permissions().mode() & 0o7777, 0o600);
}

#[test]
fn a_file_that_is_written_to_meanwhile_is_put_and_told() {
    let root = tempfile::tempdir().expect("a directory");
    let site = Site::start(root.path(), "near", &["--cores", "0"]);
    site.make_log(&root.path().join("kms"), "acme/data");
    let path = root.path().join("growing");
    std::fs::write(&path, bytes(1, LARGE_BYTES)).expect("written");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = std::fs::File::options().append(true).open(&path).expect("opened");
            while !over.load(Ordering::Relaxed) {
                file.write_all(b"more").expect("written");
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let put = site.farside(&["put", "acme/data", "growing", &path.display().to_string()]);
        over.store(true, Ordering::Relaxed);
        put.fails(1, "changed while it was read");
    });
    // Once nobody writes any more it is taken as it is.
    site.farside(&["put", "acme/data", "growing", &path.display().to_string()]).ok();
    let read = site.farside(&["get", "acme/data", "growing"]);
    assert!(read.stdout == std::fs::read(&path).expect("read"), "{}", read.stderr);
}
