//! A tenant's KMS: where it is stays true wherever a command is run, and what is refused leaves nothing behind.

use farside::client::{Client, ClientSettings, Context};
use farside_codec::message::Moment;
use farside_tests::{Site, command};
use std::time::{Duration, Instant};

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

/// A client that runs on uses a key for as long as it was told, and not when that is over: a key that was destroyed opens
/// nothing after that.
#[test]
fn a_key_is_kept_for_as_long_as_somebody_says() {
    let root = tempfile::tempdir().expect("a directory");
    let site = Site::start(root.path(), "near", &["--cores", "0"]);
    let kms = root.path().join("kms");
    site.make_log(&kms, "acme/data");
    site.farside(&["put", "acme/data", "a", "/etc/hostname"]).ok();
    let url = format!("file:{}", kms.display());
    let set = |time: &str| site.farside(&["tenant", "kms", "acme", &url, "--key-cache", time, "--json"]);
    assert_eq!(set("5s").json()["key_cache_seconds"], 5);
    for (wrong, why) in [("4s", "5 to 300 seconds"), ("6m", "5 to 300 seconds"), ("soon", "no duration")] {
        set(wrong).fails(2, why);
    }
    let context = site.directory.join("admin.context");
    let settings = ClientSettings::beside(&context).expect("settings");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let client = Client::connect(&Context::load(&context).expect("a context"), settings).await.expect("it answers");
        let log = client.open_log("acme/data").await.expect("opened");
        let read = async || log.get(b"a", &Moment::Latest).await?.into_bytes().await;
        let kept = Instant::now();
        read().await.expect("read");
        std::fs::rename(&kms, root.path().join("gone")).expect("the key is gone");
        // For as long as it is kept it opens, and then no more.
        while read().await.is_ok() {
            assert!(kept.elapsed() < Duration::from_secs(9), "it opens still");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(kept.elapsed() > Duration::from_millis(4_500), "it was kept for {:?} only", kept.elapsed());
        std::fs::rename(root.path().join("gone"), &kms).expect("it is back");
        read().await.expect("read again");
    });
    // What somebody wrote into the file by hand is checked as well.
    let file = site.directory.join("admin.client.toml");
    let text = std::fs::read_to_string(&file).expect("settings");
    std::fs::write(&file, text.replace("key_cache_seconds = 5", "key_cache_seconds = 3600")).expect("written");
    site.farside(&["ls", "acme/data"]).fails(2, "not for 3600");
}
