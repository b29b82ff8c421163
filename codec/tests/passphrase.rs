//! The system key under a passphrase: it opens with that one only, its bytes stay as they are, and what it costs is bounded.

use bytes::Bytes;
use farside_codec::seal::passphrase::{MAX_FILLED_KIB, MAX_LANES, MAX_MEMORY_KIB, SealedKey, UnsealError};
use farside_codec::{DecodeError, Field};

const PASSPHRASE: &[u8] = b"correct horse battery staple";

fn sealed() -> SealedKey {
    SealedKey::seal(&[7; 32], PASSPHRASE, [3; 16]).expect("memory")
}

#[test]
fn golden_vector() {
    let record = sealed();
    let hex: String = record.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, GOLDEN);
    assert_eq!(SealedKey::read(record.to_bytes()), Ok(record.clone()));
    assert_eq!(*record.open(PASSPHRASE).expect("it opens"), [7; 32]);
}
const GOLDEN: &str = "010000010003000000010000000303030303030303030303030303030376b0dc697441b733be48214790c9ea34dee42902d5\
                      c73c43f14395338410881b0c30639589d73eee5c7dee7358c780ae";

#[test]
fn it_opens_with_its_passphrase_only() {
    let record = sealed();
    for other in
        [&b""[..], b"correct horse battery stapl", b"correct horse battery staple\n", b"Correct horse battery staple"]
    {
        assert_eq!(record.open(other), Err(UnsealError::WrongPassphrase));
    }
    let mut changed = record.clone();
    changed.sealed[0] ^= 1;
    assert_eq!(changed.open(PASSPHRASE), Err(UnsealError::WrongPassphrase));
    let cheaper = SealedKey { passes: 1, ..record };
    assert_eq!(cheaper.open(PASSPHRASE), Err(UnsealError::WrongPassphrase), "its cost is part of it");
}

#[test]
fn a_hostile_record_asks_for_nothing() {
    let read = |change: fn(&mut SealedKey)| {
        let mut record =
            SealedKey { version: 1, memory_kib: 64 << 10, passes: 3, lanes: 1, salt: [0; 16], sealed: [0; 48] };
        change(&mut record);
        SealedKey::read(record.to_bytes())
    };
    assert!(read(|_| {}).is_ok());
    assert!(read(|record| (record.memory_kib, record.passes) = (MAX_MEMORY_KIB, 8)).is_ok());
    let too_long = |read: Result<SealedKey, DecodeError>| assert!(matches!(read, Err(DecodeError::TooLong { .. })));
    too_long(read(|record| record.memory_kib = u32::MAX));
    too_long(read(|record| record.memory_kib = MAX_MEMORY_KIB + 1));
    too_long(read(|record| record.passes = u32::MAX));
    too_long(read(|record| (record.memory_kib, record.passes) = (MAX_MEMORY_KIB, 9)));
    let invalid = |read: Result<SealedKey, DecodeError>| assert!(matches!(read, Err(DecodeError::Invalid { .. })));
    invalid(read(|record| record.passes = 0));
    invalid(read(|record| record.lanes = 0));
    invalid(read(|record| record.lanes = MAX_LANES + 1));
    invalid(read(|record| record.memory_kib = 1));
    assert!(matches!(read(|record| record.version = 2), Err(DecodeError::Version { got: 2, .. })));
    assert_eq!(MAX_FILLED_KIB, 8 * u64::from(MAX_MEMORY_KIB));
    assert!(SealedKey::read(Bytes::from_static(&[7; 32])).is_err());
}
