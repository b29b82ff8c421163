//! Small files: settings that people edit, and framed ones that nobody should.

use super::feed::Feed;
use super::wire::canonical;
use super::{Seed, transport, values};
use bytes::Bytes;
use farside::client::{ClientSettings, Context};
use farside::cluster::recovery::plan;
use farside::framed::{FileKind, check, record_bytes};
use farside::node::RestoringFile;
use farside::node::config::NodeConfig;
use farside::node::directory::{DevicesFile, MirrorsFile, ScrubRecord, SiteFile};
use farside::node::keys::{KeyExport, KeyExports};
use farside_codec::audit::AuditNotes;
use farside_codec::authority::Authorities;
use farside_codec::erasure::Geometry;
use farside_codec::frame::HEADER_BYTES;
use farside_codec::ids::{DeviceId, Hlc, NodeId};
use farside_codec::message::kind;
use farside_codec::recovery::{NodeReport, RecoveredFile};
use farside_codec::seal::passphrase::{MAX_FILLED_KIB, MAX_LANES, MAX_MEMORY_KIB, MIN_MEMORY_KIB, SealedKey};
use farside_codec::{Field, FrameHeader};
use farside_transport::{Identity, Role};
use std::path::PathBuf;

/// `node.toml`, and a client's settings beside its context.
pub fn settings(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match NodeConfig::parse(text) {
        Ok(config) => {
            assert!(config.pool_bytes_per_shard() > 0 && !config.cores.is_empty() && !config.devices.is_empty());
            let last = usize::from(config.advertised().port()) + config.cores.len() - 1;
            assert!(last <= usize::from(u16::MAX), "every shard has a port");
            let written = config.to_text().expect("what was read can be written");
            let again = NodeConfig::parse(&written).expect("what was written can be read");
            assert_eq!(format!("{again:?}"), format!("{config:?}"));
        }
        Err(reason) => assert!(!reason.contains('\n'), "one line says what is wrong: {reason}"),
    }
    let _ = ClientSettings::parse(text).map(|mut settings| {
        let (tenant, head) = (values::label("acme"), values::cursor());
        settings.set_kms(&tenant, "file:/keys");
        assert_eq!(settings.kms(&tenant), Some("file:/keys"));
        settings.saw(values::log(1), &head);
        let _ = settings.went_back(values::log(1), &head, &values::lineage());
    });
}

/// Seeds of [`settings`].
pub fn settings_seeds() -> Vec<Seed> {
    let listen = "127.0.0.1:7400".parse().expect("an address");
    let devices = (0..3).map(|index| PathBuf::from(format!("devices/device-{index}"))).collect();
    let mut config = NodeConfig::new(listen, devices, vec![0, 1]);
    let plain = config.to_text().expect("text").into_bytes();
    config.advertise = Some("[2001:db8::1]:7400".parse().expect("an address"));
    let advertised = config.to_text().expect("text").into_bytes();
    let ports = "listen = \"127.0.0.1:65535\"\ndevices = [\"a\"]\ncores = [0, 1]\n";
    let unknown = "listen = \"127.0.0.1:1\"\ndevices = [\"a\"]\ncores = [0]\nmtx = 1452\n";
    let client = "[tenants.acme]\nkms = \"file:/keys\"\n[tenants.acme.pins]\n0505 = \"0707\"\n\n\
                  [heads.21212121212121212121212121212121]\ngeneration = 3\nsequence = 78\nhash = \"04\"\n";
    vec![
        ("node", plain),
        ("node-advertised", advertised),
        ("node-ports", ports.into()),
        ("node-unknown", unknown.into()),
        ("client", client.into()),
        ("empty", Vec::new()),
    ]
}

const KINDS: [FileKind; 17] = [
    FileKind::Site,
    FileKind::SystemKey,
    FileKind::AuthorityKey,
    FileKind::Identity,
    FileKind::Context,
    FileKind::TenantKey,
    FileKind::Scrub,
    FileKind::SealedKey,
    FileKind::KeyExports,
    FileKind::RestoredAt,
    FileKind::Restoring,
    FileKind::Report,
    FileKind::Recovered,
    FileKind::Authorities,
    FileKind::Devices,
    FileKind::AuditNotes,
    FileKind::Mirrors,
];

/// A framed file as it comes, and the records that such files hold.
pub fn framed_file(bytes: &[u8]) {
    let mut feed = Feed::new(bytes);
    let (file, other) = (KINDS[feed.below(KINDS.len())], KINDS[feed.below(KINDS.len())]);
    let (at, change) = (usize::from(feed.short()), feed.byte().max(1));
    let payload = feed.rest();
    if let Ok(held) = check(Bytes::copy_from_slice(payload), file) {
        assert_eq!(held, payload[HEADER_BYTES..]);
    }
    let header = FrameHeader::of_payload(kind::FILE, 0, file as u64, payload);
    let mut whole = [&header.to_array()[..], payload].concat();
    assert_eq!(check(whole.clone().into(), file).as_deref(), Ok(payload));
    if other != file {
        assert!(check(whole.clone().into(), other).is_err(), "one file is not taken for another");
    }
    let at = at % whole.len();
    whole[at] ^= change;
    assert!(check(whole.into(), file).is_err(), "byte {at} may change");
    match file {
        FileKind::Site => drop(canonical::<SiteFile>(payload)),
        FileKind::Context => context(payload),
        FileKind::Identity => {
            if let Some((certificate, key)) = canonical::<(Bytes, Bytes)>(payload) {
                identity(&certificate, &key);
            }
        }
        FileKind::Scrub => drop(canonical::<ScrubRecord>(payload)),
        FileKind::SealedKey => sealed_key(payload),
        FileKind::KeyExports => drop(canonical::<KeyExports>(payload)),
        FileKind::RestoredAt => drop(canonical::<((u64, Option<Hlc>), bool)>(payload)),
        FileKind::Restoring => drop(canonical::<RestoringFile>(payload)),
        FileKind::Report => report(payload),
        FileKind::Recovered => drop(canonical::<RecoveredFile>(payload)),
        FileKind::Authorities => drop(canonical::<Authorities>(payload)),
        FileKind::Devices => drop(canonical::<DevicesFile>(payload)),
        FileKind::AuditNotes => drop(canonical::<AuditNotes>(payload)),
        FileKind::Mirrors => drop(canonical::<MirrorsFile>(payload)),
        FileKind::SystemKey | FileKind::AuthorityKey | FileKind::TenantKey => {}
    }
}

/// A report from elsewhere: whatever it says, it is refused or something follows that another node comes to as well.
fn report(payload: &[u8]) {
    let Some(report) = canonical::<NodeReport>(payload) else { return };
    let mut other = report.clone();
    other.node = NodeId(report.node.0 ^ 3);
    for reports in [vec![report.clone()], vec![report.clone(), other.clone()]] {
        for begin_empty in [false, true] {
            let backwards: Vec<NodeReport> = reports.iter().rev().cloned().collect();
            assert_eq!(plan(&reports, begin_empty), plan(&backwards, begin_empty));
        }
    }
}

/// What a key file asks for to be opened is bounded, whoever wrote it.
fn sealed_key(payload: &[u8]) {
    let Ok(sealed) = SealedKey::read(Bytes::copy_from_slice(payload)) else { return };
    assert_eq!(canonical::<SealedKey>(payload).as_ref(), Some(&sealed));
    assert!((MIN_MEMORY_KIB..=MAX_MEMORY_KIB).contains(&sealed.memory_kib) && (1..=MAX_LANES).contains(&sealed.lanes));
    assert!(sealed.passes > 0 && u64::from(sealed.memory_kib) * u64::from(sealed.passes) <= MAX_FILLED_KIB);
}

fn context(payload: &[u8]) {
    let Some(context) = canonical::<Context>(payload) else { return };
    assert_eq!(check(context.to_file_bytes().into(), FileKind::Context).as_deref(), Ok(payload));
    if let Ok(addresses) = context.addresses() {
        assert_eq!(addresses.len(), context.endpoints.len());
    }
    drop(context.credentials());
}

/// An identity out of these parts, if they are any.
fn identity(certificate: &[u8], key: &[u8]) {
    if let Ok(identity) = Identity::from_parts(certificate.to_vec(), key.to_vec().into()) {
        assert_eq!((identity.certificate(), identity.key()), (certificate, key));
    }
}

/// Seeds of [`framed_file`].
pub fn framed_file_seeds() -> Vec<Seed> {
    let authority = transport::authority(1);
    let node = transport::identity(&authority, Role::Node, "1");
    let (certificate, key) = (Bytes::copy_from_slice(node.certificate()), Bytes::copy_from_slice(node.key()));
    let site = SiteFile {
        site: values::site(1),
        name: values::label("near"),
        incarnation: 0,
        node: NodeId(1),
        shards: 2,
        groups: 8,
        geometry: Geometry::DEFAULT,
        certificate: Bytes::copy_from_slice(authority.certificate()),
        created: Hlc(3),
        secret: [6; 16],
    };
    let context = Context {
        site: site.site,
        site_name: site.name.clone(),
        authority: site.certificate.clone(),
        endpoints: vec!["127.0.0.1:7400".into(), "[::1]:7401".into()],
        certificate: certificate.clone(),
        key: key.clone(),
    };
    let sealed = SealedKey { version: 1, memory_kib: 65_536, passes: 3, lanes: 1, salt: [3; 16], sealed: [4; 48] };
    let (made, confirmed) = (Hlc(3), Some(Hlc(4)));
    let export = KeyExport { set: [1; 16], threshold: 3, shares: 5, check: [2; 16], made, confirmed };
    let leaving = vec![(DeviceId([5; 16]), "/dev/nvme3n1".to_owned())];
    let of = |file: u8, payload: &[u8]| [&[file, 0, 40, 0, 1], payload].concat();
    vec![
        ("site", of(0, &site.to_bytes())),
        ("site-whole", of(0, &record_bytes(FileKind::Site, &site))),
        ("system-key", of(1, &[7; 32])),
        ("authority-key", of(2, &[8; 60])),
        ("identity", of(3, &(certificate, key).to_bytes())),
        ("context", of(4, &context.to_bytes())),
        ("tenant-key", of(5, &[9; 32])),
        ("report", of(11, &values::node_report().to_bytes())),
        ("recovered", of(12, &values::recovered().to_bytes())),
        ("audit-notes", of(15, &values::audit_notes().to_bytes())),
        ("sealed-key", of(7, &sealed.to_bytes())),
        (
            "key-exports",
            of(8, &KeyExports { exports: vec![export.clone(), KeyExport { confirmed: None, ..export }] }.to_bytes()),
        ),
        ("authorities", of(13, &values::authorities().to_bytes())),
        ("devices", of(14, &DevicesFile { leaving, unbalanced: true, paused: false }.to_bytes())),
        ("mirrors", of(16, &MirrorsFile { devices: vec![DeviceId([5; 16]), DeviceId([6; 16])] }.to_bytes())),
        ("restored", of(9, &(1u64, Some(Hlc(9))).to_bytes())),
        ("restoring", of(10, &RestoringFile { number: 3, at: Some(Hlc(9)), tenant: None, log: None }.to_bytes())),
    ]
}
