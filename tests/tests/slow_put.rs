//! A put that takes longer than rounds of GC: nothing names its chunks before the last one has come, and none is collected.

use farside_tests::{Site, bytes, command};
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

const PIECE_BYTES: usize = 4 << 20;
const PIECES: u64 = 24;
/// With a round of GC a second, the first chunk is as old as a dozen of them when the last one comes.
const PAUSE: Duration = Duration::from_millis(500);

#[test]
fn an_object_that_comes_slowly_is_put_whole() {
    let root = tempfile::tempdir().expect("a directory");
    let mut site = Site::init(root.path(), "near", &["--cores", "0", "--device-size", "256MiB"]);
    let settings = site.directory.join("node.toml");
    let text = std::fs::read_to_string(&settings).expect("read");
    std::fs::write(&settings, text.replace("gc_seconds = 300", "gc_seconds = 1")).expect("written");
    site.run();
    site.make_log(&root.path().join("kms"), "acme/data");
    let directory = site.directory.display().to_string();
    let mut put = command(&["put", "acme/data", "slow", "-", "--dir", &directory]);
    let mut put = put.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut input = put.stdin.take().expect("a pipe");
    for number in 0..PIECES {
        // One that has given up reads no more; what it says tells why.
        if input.write_all(&bytes(number, PIECE_BYTES)).is_err() {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    drop(input);
    let output = put.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = site.farside(&["get", "acme/data", "slow"]);
    let whole: Vec<u8> = (0..PIECES).flat_map(|number| bytes(number, PIECE_BYTES)).collect();
    assert!(read.stdout == whole, "{} bytes came back: {}", read.stdout.len(), read.stderr);
}
