//! Audit entries: their bytes are pinned, since hashes are over them for ever; and a chain takes the next entry and no other one.

use farside_codec::Field;
use farside_codec::audit::chain::{ChainFault, Verifier, next_after};
use farside_codec::audit::{
    AuditAction, AuditActor, AuditEntry, AuditFailure, AuditHash, AuditHead, AuditOutcome, AuditScope,
};
use farside_codec::ids::{Hlc, SiteId, TenantId};
use farside_codec::message::RefusalCode;
use proptest::prelude::*;

fn entry() -> AuditEntry {
    AuditEntry {
        site: SiteId([0x11; 16]),
        incarnation: 2,
        scope: AuditScope::Tenant(TenantId([0x22; 16])),
        sequence: 3,
        previous: AuditHash([0x33; 32]),
        time: Hlc(4),
        ordered: Hlc(5),
        order: [0x44; 16],
        by: AuditActor::Certificate(format!("farside://{}/admin/admin", SiteId([0x11; 16]))),
        action: AuditAction::RepairLimit(6),
        outcome: AuditOutcome::Failed(AuditFailure { code: RefusalCode::Full, detail: "full".into() }),
    }
}

const ENTRY: &str = "1111111111111111111111111111111102000000000000000100222222222222222222222222222222220300000000000000\
    3333333333333333333333333333333333333333333333333333333333333333040000000000000005000000000000004444\
    4444444444444444444444444444010036000000666172736964653a2f2f3131313131313131313131313131313131313131\
    3131313131313131313131312f61646d696e2f61646d696e0a000600000000000000020007000400000066756c6c";

#[test]
fn entries_have_the_bytes_that_they_always_had() {
    let bytes = entry().to_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, ENTRY);
    assert_eq!(AuditEntry::from_bytes(bytes), Ok(entry()));
}

/// A log that a site wrote, with the incarnations in which it did.
fn written(incarnations: &[u64]) -> Vec<AuditEntry> {
    let (mut entries, mut head) = (Vec::new(), None);
    for (number, incarnation) in incarnations.iter().enumerate() {
        let (sequence, previous, time) = next_after(head.as_ref(), Hlc(number as u64 % 3));
        let entry = AuditEntry { incarnation: *incarnation, sequence, previous, time, ..entry() };
        head = Some(AuditHead::begin(&entry, AuditHash::of(&entry.to_bytes())));
        entries.push(entry);
    }
    entries
}

fn verify(entries: &[AuditEntry], heads: &[AuditHead]) -> Result<(), ChainFault> {
    let mut verifier = Verifier::new(SiteId([0x11; 16]), AuditScope::Tenant(TenantId([0x22; 16])));
    entries.iter().try_for_each(|entry| verifier.take(&entry.to_bytes()).map(drop))?;
    verifier.ends_as(heads)
}

proptest! {
    /// Whatever is done to a log that changes it is found, in one incarnation or over several.
    #[test]
    fn every_change_is_found(
        mut incarnations in proptest::collection::vec(0u64..3, 1..12),
        change in 0usize..6,
        at in any::<prop::sample::Index>(),
        other in any::<prop::sample::Index>(),
    ) {
        incarnations.sort_unstable();
        let log = written(&incarnations);
        let mut verifier = Verifier::new(SiteId([0x11; 16]), AuditScope::Tenant(TenantId([0x22; 16])));
        for entry in &log {
            prop_assert!(verifier.take(&entry.to_bytes()).is_ok());
        }
        let heads = verifier.heads().to_vec();
        prop_assert_eq!(verify(&log, &heads), Ok(()));
        prop_assert!(verifier.lost().is_empty());
        let mut changed = log.clone();
        let (at, other) = (at.index(log.len()), other.index(log.len()));
        match change {
            0 => drop(changed.remove(at)),
            1 => changed.swap(at, other),
            2 => changed.insert(at, log[other].clone()),
            3 => changed[at].action = AuditAction::RepairLimit(7),
            4 => changed.truncate(at),
            _ => changed[at].previous = AuditHash([0x55; 32]),
        }
        prop_assume!(changed != log);
        prop_assert!(verify(&changed, &heads).is_err());
    }
}
