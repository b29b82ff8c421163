//! No plaintext, object name or tenant key is in any file or log line of either site; what is planted is found.

use farside_tests::Site;
use std::path::Path;

const MARKER: &[u8] = b"MARKER-plaintext-7f3a91c2";
const NAME: &str = "MARKER-name-5b0d44e8";
const TARGET: &str = "MARKER-target-c91e07aa";

/// Every file below `root` that holds `needle`.
fn holders(root: &Path, needle: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).expect("listed") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                left.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).expect("read");
            if contains(&bytes, needle) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == needle[0]) {
        let start = from + at;
        if bytes[start..].starts_with(needle) {
            return true;
        }
        from = start + 1;
    }
    false
}

#[test]
fn markers_are_found_nowhere_but_where_they_were_planted() {
    let root = tempfile::tempdir().expect("a directory");
    let sites = root.path().join("sites");
    let tree = root.path().join("tree");
    std::fs::create_dir_all(&tree).expect("made");
    std::fs::create_dir_all(&sites).expect("made");
    let kms = root.path().join("kms");
    let small: Vec<u8> = MARKER.repeat(3);
    let large: Vec<u8> = MARKER.iter().copied().cycle().take(3_000_000).collect();
    std::fs::write(tree.join(NAME), &small).expect("written");
    std::fs::write(tree.join(format!("{NAME}-large")), &large).expect("written");
    std::os::unix::fs::symlink(TARGET, tree.join("link")).expect("linked");
    let size = ["--cores", "0", "--device-size", "128MiB"];
    let (mut near, mut far) = (Site::start(&sites, "near", &size), Site::start(&sites, "far", &size));
    near.make_log(&kms, "acme/data");
    near.join(&far);
    near.farside(&["put", "-r", "acme/data", &tree.display().to_string()]).ok();
    near.farside(&["rm", "acme/data", NAME]).ok();
    near.wait_caught_up();
    assert_eq!((near.stop(), far.stop()), (0, 0));
    let key = std::fs::read(kms.join("acme.v1.key")).expect("the tenant's key");
    let secrets: [&[u8]; 4] = [MARKER, NAME.as_bytes(), TARGET.as_bytes(), &key[32..]];
    for secret in secrets {
        assert_eq!(holders(&sites, secret), Vec::<String>::new(), "{}", String::from_utf8_lossy(secret));
    }
    // The same search finds what is there: the log's name is not secret, and a marker planted on purpose.
    assert!(!holders(&sites, b"acme").is_empty());
    let planted = sites.join("near/devices/device-2");
    let mut bytes = std::fs::read(&planted).expect("read");
    let at = bytes.len() - 1000;
    bytes[at..at + MARKER.len()].copy_from_slice(MARKER);
    std::fs::write(&planted, bytes).expect("written");
    assert_eq!(holders(&sites, MARKER), [planted.display().to_string()]);
}
