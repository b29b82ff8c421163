//! What people type: names, sizes, times, addresses, tokens, command lines. And names of entries of a tree, which may be
//! any bytes.

use super::Seed;
use farside::cli;
use farside::cli::sizes::{parse_bytes, parse_seconds, parse_time, show_bytes, show_time};
use farside::client::{parse_label, parse_log_name};
use farside::kms::{self, FileKms};
use farside::node::token_site;
use farside::tree;
use farside_codec::Field;
use farside_codec::erasure::Geometry;
use farside_codec::ids::{ChunkId, Hlc, Label, SiteId};
use farside_io::entropy::{Entropy, SystemEntropy};
use farside_transport::Caller;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::rc::Rc;

/// The last millisecond of the year 9999, the last that is written in four digits.
const LAST_MS: u64 = 253_402_300_799_999;

/// One text, read as everything that a text can be.
pub fn text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    names(text);
    numbers(text);
    if let Ok(time) = parse_time(text)
        && time.ms() <= LAST_MS
    {
        let shown = show_time(time);
        assert_eq!(parse_time(&shown), Ok(time), "{text} is shown as {shown}");
    }
    let entropy: Rc<dyn Entropy> = Rc::new(SystemEntropy);
    if let Ok(kms) = FileKms::parse(text, entropy.clone()) {
        assert!(kms.directory().is_absolute());
        // A log's epochs name the key, so the name comes from a site.
        let key = text.trim_start_matches("file:");
        assert!(Label::parse(key).is_some() || kms.compute(key, 1, b"label").is_err());
    }
    if let Ok(kms) = kms::open(text, &entropy) {
        let again = kms::open(&kms.url(), &entropy).expect("its own URL");
        assert_eq!(again.url(), kms.url(), "it is found from anywhere");
    }
    if let Some(caller) = Caller::parse(text) {
        assert!(caller.uri().eq_ignore_ascii_case(text));
        assert_eq!(Caller::parse(&caller.uri()), Some(caller));
    }
    if let Some(name) = token_site(text) {
        assert!(Label::parse(name.as_str()).is_some());
    }
}

fn names(text: &str) {
    let label = Label::parse(text);
    assert_eq!(parse_label(text).ok(), label);
    if let Some(label) = label {
        assert_eq!(label.as_str(), text);
        assert!(!text.contains(['/', '\0', '\n']) && !text.starts_with('.'), "a label is the name of a file");
        assert_eq!(Label::from_bytes(label.to_bytes()), Ok(label));
    }
    if let Ok((tenant, log)) = parse_log_name(text) {
        assert_eq!(format!("{tenant}/{log}"), text);
    }
    if let Some(site) = SiteId::parse(text) {
        assert!(site.to_string().eq_ignore_ascii_case(text));
    }
    if let Some(chunk) = ChunkId::parse(text) {
        assert!(chunk.to_string().eq_ignore_ascii_case(text));
    }
    if let Some(geometry) = Geometry::parse(text) {
        assert_eq!(geometry.to_string(), text);
    }
}

fn numbers(text: &str) {
    if let Ok(bytes) = parse_bytes(text) {
        assert!((1..1_000_000_000_000_000_000).contains(&bytes));
        assert_eq!(parse_bytes(&bytes.to_string()), Ok(bytes));
        assert!(show_bytes(bytes).contains('B'));
    }
    if let Ok(seconds) = parse_seconds(text) {
        assert_eq!(parse_seconds(&format!("{seconds}s")), Ok(seconds));
    }
    if let Ok(number) = text.parse::<u64>() {
        assert!(show_time(Hlc(number)).ends_with('Z') && !show_bytes(number).is_empty());
    }
}

/// Seeds of [`text`].
pub fn text_seeds() -> Vec<Seed> {
    let texts = [
        ("label", "photos-2026.a_b"),
        ("log", "acme/photos"),
        ("site", "0123456789abcdef0123456789ABCDEF"),
        ("chunk", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"),
        ("geometry", "28+4"),
        ("mebibytes", "4MiB"),
        ("fraction", " 1.5GB"),
        ("exponent", "1e17"),
        ("not-a-number", "NaNKiB"),
        ("infinite", "infTB"),
        ("seconds", "30s"),
        ("days", "7d"),
        ("too-many-days", "213503982334602d"),
        ("time", "2026-01-31T12:00:00Z"),
        ("time-zone", "2000-02-29t23:59:60.123456-11:30"),
        ("time-epoch", "1970-01-01 00:00:00+00:00"),
        ("time-last", "9999-12-31T23:59:59.999Z"),
        ("time-odd-fraction", "2026-01-31T12:00:00.123xZ"),
        ("time-two-zones", "2026-01-31T12:00:00Z05:00"),
        ("kms", "file:keys/acme"),
        ("kms-up", "file:../../etc/passwd"),
        ("vault", "vault:https://bao.acme.example:8200?mount=team/transit&namespace=a/b&ca=ca.pem&token-file=%2Ftoken"),
        ("vault-approle", "vault:https://[::1]:8200/?auth=approle&role-id=r%20%26&secret-id-file=s&auth-mount=roles"),
        ("vault-cert", "vault:http://127.0.0.1:8200?auth=cert&cert=c.pem&key=k.pem&role=farside"),
        ("kmip", "kmip:[::1]:5697?ca=a.pem&cert=%C3%A4.pem&key=c.pem&server-name=kms.acme.example"),
        ("address", "127.0.0.1:7400"),
        ("caller", "farside://0123456789abcdef0123456789abcdef/peer/node-1"),
        ("token", "farside-peer-1.00112233445566778899aabbccddeeff"),
        ("number", "18446744073709551615"),
        ("empty", ""),
    ];
    texts.map(|(name, text)| (name, text.as_bytes().to_vec())).to_vec()
}

/// A command line: its arguments with a zero byte between them.
pub fn command_line(bytes: &[u8]) {
    let arguments = bytes.split(|byte| *byte == 0).map(|part| OsString::from_vec(part.to_vec()));
    let all = [OsString::from("farside")].into_iter().chain(arguments).take(40);
    if let Err(told) = cli::understands(all) {
        assert!(!told.trim().is_empty(), "whoever typed it is told something");
    }
}

/// Seeds of [`command_line`].
pub fn command_line_seeds() -> Vec<Seed> {
    let lines = [
        ("demo", "demo . --size 1GiB --keep there"),
        ("init", "init --dir near --site near --listen 127.0.0.1:7400 --device-size 8GiB --geometry 4+2 --cores 0,1"),
        ("init-devices", "init --dir x --site x --devices /a,/b --advertise [::1]:1 --mtu 9000"),
        ("node", "node --dir near"),
        ("put", "put --dir near -r acme/photos ./photos"),
        ("get", "get acme/photos a -o - --at 2026-01-31T12:00:00Z --json"),
        ("ls", "ls acme/photos --seq 7 --context c"),
        ("policy", "log policy acme/photos --history 7d --dedup tenant --lag-bound 30s"),
        ("peer", "peer add far farside-peer-1.00"),
        ("status", "status --wait-caught-up 60"),
        ("failover", "failover --from near --log acme/photos --force"),
        ("bench", "bench replicate --size 4GiB --mtu 8952 --work w"),
        ("help", "tenant create --help"),
    ];
    lines.map(|(name, line)| (name, line.replace(' ', "\0").into_bytes())).to_vec()
}

/// A name of an entry, as a tree is given back.
pub fn tree_name(name: &[u8]) {
    let target = Path::new("/target/of/it");
    let Some(path) = tree::place(target, name) else { return };
    let below = path.strip_prefix(target).expect("below the target");
    assert_eq!(below.as_os_str().as_bytes(), name, "two names have two places");
    let components = below.components().count();
    assert!(components > 0 && path.components().count() == 4 + components);
    assert!(
        below.components().all(|part| matches!(part, std::path::Component::Normal(_))),
        "{below:?} leads elsewhere"
    );
    assert!(!name.contains(&0) && path.starts_with(target));
}

/// Seeds of [`tree_name`].
pub fn tree_name_seeds() -> Vec<Seed> {
    let names: [Seed; 10] = [
        ("plain", b"cat.jpg".to_vec()),
        ("deep", b"a/b/c/d".to_vec()),
        ("root", b"/etc/passwd".to_vec()),
        ("up", b"a/../../b".to_vec()),
        ("here", b"./a".to_vec()),
        ("double", b"a//b".to_vec()),
        ("end", b"a/".to_vec()),
        ("zero", b"a\0b".to_vec()),
        ("bytes", b"\xff\n/\x80".to_vec()),
        ("dots", b"..a/...".to_vec()),
    ];
    names.to_vec()
}
