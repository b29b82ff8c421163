//! A tenant's KMS: where it is stays true wherever a command is run, and what is refused leaves nothing behind.

use farside_tests::{Site, command};

#[test]
fn a_directory_of_keys_is_named_once_and_for_all() {
    let root = tempfile::tempdir().expect("a directory");
    let site = Site::start(root.path(), "near", &["--cores", "0"]);
    let dir = site.directory.display().to_string();
    let run = |place: &str, arguments: &[&str]| {
        let place = root.path().join(place);
        std::fs::create_dir_all(&place).expect("made");
        command(arguments).args(["--dir", &dir]).current_dir(place).output().expect("it runs")
    };
    let code = |place: &str, arguments: &[&str]| run(place, arguments).status.code();
    assert_eq!(code("here", &["tenant", "create", "acme", "--kms", "file:acme-keys"]), Some(0));
    assert_eq!(code("there", &["log", "create", "acme/photos"]), Some(0));
    assert_eq!(code("there", &["put", "acme/photos", "a", "/etc/hostname"]), Some(0));
    assert_eq!(code("here", &["tenant", "kms", "acme", "file:./acme-keys"]), Some(0));
    assert_eq!(code("there", &["get", "acme/photos", "a"]), Some(0));
    assert_eq!(code("there", &["tenant", "kms", "acme", "file:acme-keys"]), Some(5), "there is no key");

    // Refused: neither the directory nor the key stays; what was there before does.
    let refused = run("here", &["tenant", "create", "acme", "--kms", "file:other-keys"]);
    assert_eq!(refused.status.code(), Some(1), "{}", String::from_utf8_lossy(&refused.stderr));
    assert!(!root.path().join("here/other-keys").exists());
    assert_eq!(code("here", &["tenant", "create", "acme", "--kms", "file:acme-keys"]), Some(1));
    assert!(root.path().join("here/acme-keys/acme.v1.key").exists());
    // A path that is mistyped is not made.
    assert_eq!(code("here", &["tenant", "create", "third", "--kms", "file:no/such/keys"]), Some(1));
    assert!(!root.path().join("here/no").exists());
}
