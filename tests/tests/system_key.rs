//! The site's system key: it comes back out of its shares and out of nothing else, status nags until it can, and once it is
//! sealed under a passphrase no file of the node's directory gives it away.

use farside::framed::{FileKind, record_bytes};
use farside_codec::ids::SiteId;
use farside_codec::seal::passphrase::{MAX_MEMORY_KIB, SealedKey};
use farside_codec::seal::shares::split;
use farside_tests::{Outcome, Site, command, farside, free_port, outcome};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

const CORE: [&str; 2] = ["--cores", "0"];
const PASSPHRASE: &str = "correct horse battery staple";

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Exports the key of a site into `ROOT/NAME`; answers the files of the shares.
fn export(site: &Site, root: &Path, name: &str) -> Vec<String> {
    let output = text(&root.join(name));
    let told = site.farside(&["key", "export", "--shares", "5", "--threshold", "3", "-o", &output, "--json"]).json();
    assert_eq!((&told["threshold"], &told["shares"], &told["confirmed"]), (&3.into(), &5.into(), &Value::Null));
    let files: Vec<String> =
        told["files"].as_array().expect("files").iter().map(|file| file.as_str().expect("a path").to_owned()).collect();
    assert_eq!(files.len(), 5);
    files
}

fn with_files(site: &Site, command: &str, files: &[&String]) -> Outcome {
    let files: Vec<&str> = files.iter().map(|file| file.as_str()).collect();
    site.farside(&[&["key", command], &files[..]].concat())
}

fn key_status(site: &Site) -> Value {
    site.farside(&["key", "status", "--json"]).json()
}

fn key_file(site: &Site) -> PathBuf {
    site.directory.join("system.key")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

/// Lets a node in, which is given the key.
fn let_in(site: &Site, root: &Path, name: &str) -> Site {
    let token = site.farside(&["invite"]).ok();
    let (directory, port) = (root.join(name), free_port());
    let (path, listen) = (text(&directory), format!("127.0.0.1:{port}"));
    let join = ["join", "--dir", &path, "--token", token.trim(), "--listen", &listen, "--device-size", "128MiB"];
    farside(&[&join[..], &CORE].concat()).ok();
    let mut node = Site::at(directory, port);
    node.run();
    assert_eq!(fs::read(key_file(&node)).expect("its key").len(), 64, "a new node has the key in the clear");
    node
}

#[test]
fn shares_bring_a_lost_key_back() {
    let root = tempfile::tempdir().expect("a directory");
    let mut site = Site::init(root.path(), "near", &CORE);
    let other = Site::init(root.path(), "far", &CORE);
    let shares = export(&site, root.path(), "shares");
    let strangers = export(&other, root.path(), "strangers");
    let status = key_status(&site);
    assert_eq!((&status["held"], &status["export"]), (&"clear".into(), &"made".into()), "{status}");
    let letter = fs::read_to_string(&shares[1]).expect("a share");
    assert!(letter.starts_with("Share 2 of 5 of the system key") && letter.contains("site    near, "), "{letter}");
    assert!(letter.contains("\n\nfarside-share-1-") && letter.lines().all(|line| line.len() < 200), "{letter}");
    assert!(shares.iter().all(|share| mode(Path::new(share)) == 0o600) && mode(&root.path().join("shares")) == 0o700);

    // Lost: the node does not start, and says what to do.
    let good = fs::read(key_file(&site)).expect("a key");
    fs::remove_file(key_file(&site)).expect("removed");
    let (_, stderr) = site.try_run();
    assert!(stderr.contains("system.key is missing") && stderr.contains("farside key import"), "{stderr}");
    let lost = site.farside(&["key", "status"]);
    assert!(lost.code == 5 && String::from_utf8_lossy(&lost.stdout).contains("file is missing"), "{lost:?}");

    let [one, two, three, four, five] = [0, 1, 2, 3, 4].map(|at| &shares[at]);
    with_files(&site, "import", &[one, four]).fails(3, "2 of the 3 shares that are needed: 1 missing");
    with_files(&site, "import", &[one, four, one]).fails(3, "share 1 is given twice");
    with_files(&site, "import", &[one, four, &strangers[1]]).fails(3, "different sites");
    with_files(&site, "import", &[&strangers[0], &strangers[1], &strangers[2]]).fails(3, "another site's");
    with_files(&site, "import", &[one, four, &text(&root.path().join("nothing"))]).fails(1, "No such file");
    let damaged = text(&root.path().join("damaged.txt"));
    let wrong = |letter: char| if letter == '7' { '8' } else { '7' };
    let at = letter.trim_end().len() - 1;
    fs::write(&damaged, format!("{}{}", &letter[..at], wrong(char::from(letter.as_bytes()[at])))).expect("written");
    with_files(&site, "import", &[one, &damaged, three]).fails(6, "damaged.txt: the share is damaged");
    assert!(!key_file(&site).exists(), "nothing of that left a key");

    with_files(&site, "import", &[two, five, four]).ok();
    assert!(fs::read(key_file(&site)).expect("a key") == good && mode(&key_file(&site)) == 0o600);
    assert!(with_files(&site, "import", &[one, two, three]).ok().contains("was there"));
    fs::write(key_file(&site), &good[..40]).expect("damaged");
    with_files(&site, "import", &[three, one, two, five]).ok();
    site.run();
    site.farside(&["context", "export", "-o", &text(&root.path().join("near.context"))]).ok();
    let second = let_in(&site, root.path(), "near-2");
    // One alert for the site, until one of its nodes has seen the shares.
    let nags = || {
        let alerts = site.status()["alerts"].take();
        alerts.as_array().expect("alerts").iter().filter(|alert| alert.to_string().contains("system key")).count()
    };
    wait_until("both nodes answer", || site.status()["notices"].to_string().contains("at node-1, node-2"));
    assert_eq!(nags(), 1, "{}", site.status()["alerts"]);
    with_files(&second, "confirm", &[five, two, three]).ok();
    assert_eq!(nags(), 0, "{}", site.status()["alerts"]);
    assert_eq!(site.stop(), 0);
}

#[test]
fn a_key_is_not_replaced_by_another_one() {
    let root = tempfile::tempdir().expect("a directory");
    let site = Site::init(root.path(), "near", &CORE);
    let id = key_status(&site)["site_id"].as_str().and_then(SiteId::parse).expect("its id");
    let forged = split(&[7; 32], id, 2, 2, [8; 16], &mut |bytes| bytes.fill(9)).expect("shares");
    let files: Vec<String> = (0..2).map(|at| text(&root.path().join(format!("forged-{at}")))).collect();
    forged.iter().zip(&files).for_each(|(share, file)| fs::write(file, share.to_text()).expect("written"));
    let files = [&files[0], &files[1]];
    with_files(&site, "import", &files).fails(3, "another key");
    with_files(&site, "confirm", &files).fails(3, "another key");
    fs::remove_file(key_file(&site)).expect("removed");
    with_files(&site, "import", &files).fails(6, "was not sealed with this system key");
    assert!(!key_file(&site).exists());
}

#[test]
fn status_nags_until_an_export_was_confirmed() {
    let root = tempfile::tempdir().expect("a directory");
    let site = Site::start(root.path(), "near", &CORE);
    let alerts = || site.status()["alerts"].to_string();
    assert!(alerts().contains("the system key has never been exported"), "{}", alerts());
    assert!(site.status()["notices"].to_string().contains("lies in the clear beside the data at node-1"));
    let dir = text(&site.directory);
    let refused = |code, what, arguments: &[&str]| {
        let export = ["key", "export", "--dir", &dir];
        farside(&[&export[..], arguments].concat()).fails(code, what);
    };
    refused(3, "inside the node's directory", &["-o", &text(&site.directory.join("shares"))]);
    refused(3, "is not empty", &["-o", &text(root.path())]);
    refused(
        2,
        "can't be cut into 3 shares",
        &["--shares", "3", "--threshold", "4", "-o", &text(&root.path().join("x"))],
    );
    refused(2, "--threshold", &["--threshold", "1", "-o", "x"]);
    refused(1, "No such file", &["-o", &text(&root.path().join("no/such"))]);
    assert!(!root.path().join("x").exists());

    let shares = export(&site, root.path(), "shares");
    assert!(alerts().contains("nobody has confirmed"), "{}", alerts());
    with_files(&site, "confirm", &[&shares[0], &shares[1]]).fails(3, "1 missing");
    assert!(alerts().contains("nobody has confirmed"), "{}", alerts());
    with_files(&site, "confirm", &[&shares[4], &shares[1], &shares[2]]).ok();
    assert_eq!(alerts(), "[]");
    let status = key_status(&site);
    assert_eq!(status["export"], "confirmed", "{status}");
    let told = site.farside(&["status"]).ok();
    assert!(!told.contains("alert:") && told.contains("notice: the system key lies in the clear"), "{told}");
    // Another export that nobody has confirmed takes nothing away from the first one.
    export(&site, root.path(), "more");
    assert_eq!(alerts(), "[]");
    assert_eq!(key_status(&site)["exports"].as_array().map(Vec::len), Some(2));

    // Sealed while the node runs, which has the key in memory.
    let secret = write_secret(root.path(), "secret", PASSPHRASE);
    site.farside(&["key", "seal", "--passphrase-file", &secret]).ok();
    assert_eq!(site.status()["notices"], Value::Array(Vec::new()));
    assert_eq!(site.status()["nodes"][0]["system_key"]["export"], "confirmed");
    site.farside(&["peer", "token"]).ok();
    fs::remove_file(key_file(&site)).expect("removed");
    assert!(alerts().contains("the next start will fail"), "{}", alerts());
}

fn write_secret(root: &Path, name: &str, secret: &str) -> String {
    let path = root.join(name);
    fs::write(&path, format!("{secret}\n")).expect("written");
    text(&path)
}

/// Devices are mostly zeros, which are skipped a block at a time.
fn holds(bytes: &[u8], secret: &[u8]) -> bool {
    const BLOCK: usize = 4096;
    let zeros = [0; 2 * BLOCK];
    (0..bytes.len()).step_by(BLOCK).any(|at| {
        let block = &bytes[at..bytes.len().min(at + BLOCK + secret.len() - 1)];
        *block != zeros[..block.len()] && block.windows(secret.len()).any(|window| window == secret)
    })
}

/// Files below `directory` that hold `secret`.
fn holding(directory: &Path, secret: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("listed") {
        let (entry, path) = (entry.as_ref().expect("an entry"), entry.as_ref().expect("an entry").path());
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            found.extend(holding(&path, secret));
        } else if kind.is_file() && holds(&fs::read(&path).expect("read"), secret) {
            found.push(path);
        }
    }
    found
}

/// Runs a command with `input` on its standard input.
fn with_input(arguments: &[&str], input: &str) -> Outcome {
    let mut child = command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Outcome { code: output.status.code().unwrap_or(-1), stdout: output.stdout, stderr: text(&output.stderr) }
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_sealed_key_takes_its_passphrase() {
    let root = tempfile::tempdir().expect("a directory");
    let mut site = Site::init(root.path(), "near", &CORE);
    let dir = text(&site.directory);
    let held = fs::read(key_file(&site)).expect("a key");
    let key = &held[32..];
    assert_eq!((key.len(), holding(&site.directory, key)), (32, vec![key_file(&site)]), "the search finds it");
    let [right, wrong] = [("right", PASSPHRASE), ("wrong", "correct horse battery stable")];
    let [right, wrong] = [right, wrong].map(|(name, secret)| write_secret(root.path(), name, secret));
    let shares = export(&site, root.path(), "shares");

    site.farside(&["key", "seal", "--passphrase-file", &write_secret(root.path(), "short", "1234567")])
        .fails(2, "shorter");
    site.farside(&["key", "seal"]).fails(2, "nobody can be asked");
    site.farside(&["key", "unseal", "--passphrase-file", &right]).fails(1, "not sealed");
    site.farside(&["node", "unlock", "--passphrase-file", &right]).fails(1, "not sealed");
    site.farside(&["key", "seal", "--passphrase-file", &right]).ok();
    site.farside(&["key", "seal", "--passphrase-file", &right]).fails(3, "sealed by a passphrase already");
    assert_eq!(key_status(&site)["held"], "passphrase");
    assert_eq!(holding(&site.directory, key), Vec::<PathBuf>::new());

    // It waits for whoever unlocks it, and each wrong guess takes a second.
    site.farside(&["node", "unlock", "--passphrase-file", &right]).fails(4, "no node waits");
    let socket = site.directory.join("unlock.sock");
    std::thread::scope(|scope| {
        let (directory, log) = (site.directory.clone(), site.log());
        let (right, wrong) = (&right, &wrong);
        let unlocking = scope.spawn(move || {
            let waits = || fs::read_to_string(&log).is_ok_and(|said| said.contains("waits for: farside node unlock"));
            wait_until("the node waits", waits);
            let unlock =
                |file: &str| farside(&["node", "unlock", "--dir", &text(&directory), "--passphrase-file", file]);
            assert_eq!(mode(&directory.join("unlock.sock")), 0o600);
            let begun = Instant::now();
            unlock(wrong).fails(3, "the passphrase is wrong");
            unlock(wrong).fails(3, "the passphrase is wrong");
            assert!(begun.elapsed() >= Duration::from_secs(1), "guessed in {:?}", begun.elapsed());
            unlock(right).ok();
        });
        site.run();
        unlocking.join().expect("unlocked");
    });
    assert!(!socket.exists());
    assert_eq!(site.status()["nodes"][0]["system_key"]["unlocked_by"], "unlock");
    let _second = let_in(&site, root.path(), "near-2");
    let context = text(&root.path().join("near.context"));
    let exporting = ["context", "export", "--dir", &dir, "-o", &context];
    farside(&exporting).fails(2, "nobody can be asked for the passphrase");
    farside(&[&exporting[..], &["--passphrase-file", &wrong]].concat()).fails(3, "the passphrase is wrong");
    with_input(&[&exporting[..], &["--passphrase-file", "-"]].concat(), PASSPHRASE).ok();
    farside(&["ls", "--context", &context, "acme/photos"]).fails(5, "no log");
    assert_eq!(holding(&site.directory, key), Vec::<PathBuf>::new());
    assert_eq!(site.stop(), 0);

    // The service manager knows it.
    let credentials = root.path().join("credentials");
    fs::create_dir(&credentials).expect("made");
    fs::copy(&wrong, credentials.join("farside-passphrase")).expect("copied");
    site.prefix = vec!["env".into(), format!("CREDENTIALS_DIRECTORY={}", credentials.display())];
    let (_, stderr) = site.try_run();
    assert!(stderr.contains("the passphrase is wrong"), "{stderr}");
    fs::copy(&right, credentials.join("farside-passphrase")).expect("copied");
    site.run();
    assert_eq!(site.status()["nodes"][0]["system_key"]["unlocked_by"], "credential");
    assert_eq!(site.stop(), 0);
    farside(&["node", "--dir", &dir, "--passphrase-file", &wrong]).fails(3, "the passphrase is wrong");

    // Commands that need the key take it as well; shares are worth more than a passphrase that is forgotten.
    let three = [&shares[0], &shares[1], &shares[2]];
    with_files(&site, "confirm", &three).fails(2, "nobody can be asked");
    with_files(&site, "confirm", &[&three[..], &[&"--passphrase-file".to_owned(), &right]].concat()).ok();
    with_files(&site, "import", &three).fails(3, "may be good");
    let change = ["key", "seal", "--change", "--dir", &dir, "--passphrase-file", &wrong];
    farside(&[&change[..], &["--old-passphrase-file", &wrong]].concat()).fails(3, "the passphrase is wrong");
    farside(&[&change[..], &["--old-passphrase-file", &right]].concat()).ok();
    site.farside(&["key", "unseal", "--passphrase-file", &right]).fails(3, "the passphrase is wrong");
    with_files(&site, "import", &[&three[..], &[&"--replace-sealed".to_owned()]].concat()).ok();
    assert!(fs::read(key_file(&site)).expect("a key") == held);
    site.farside(&["key", "seal", "--passphrase-file", &right]).ok();
    site.farside(&["key", "unseal", "--passphrase-file", &right]).ok();
    assert!(fs::read(key_file(&site)).expect("a key") == held);
}

#[test]
fn a_hostile_key_file_is_refused_at_once() {
    let root = tempfile::tempdir().expect("a directory");
    let mut site = Site::init(root.path(), "near", &CORE);
    let secret = write_secret(root.path(), "secret", PASSPHRASE);
    site.farside(&["key", "seal", "--passphrase-file", &secret]).ok();
    let good = fs::read(key_file(&site)).expect("a key");
    let hostile =
        |memory_kib, passes| SealedKey { version: 1, memory_kib, passes, lanes: 1, salt: [0; 16], sealed: [0; 48] };
    for record in [hostile(u32::MAX, 1), hostile(MAX_MEMORY_KIB, u32::MAX), hostile(0, 3)] {
        fs::write(key_file(&site), record_bytes(FileKind::SealedKey, &record)).expect("written");
        let begun = Instant::now();
        site.farside(&["key", "unseal", "--passphrase-file", &secret]).fails(6, "system.key is damaged");
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(site.try_run().1.contains("of a passphrase"));
    }
    for at in [3, 12, 40, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        fs::write(key_file(&site), bytes).expect("written");
        site.farside(&["key", "unseal", "--passphrase-file", &secret]).fails(6, "system.key is damaged");
    }
    fs::write(key_file(&site), &good).expect("written");
    let mut unlocked = command(&["key", "unseal", "--dir", &text(&site.directory), "--passphrase-file", &secret]);
    assert_eq!(outcome(&mut unlocked).code, 0);
}
