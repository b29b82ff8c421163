//! What of this site's audit logs a peer lacks, and whether what it has can be what this site wrote.

use farside_codec::audit::{AuditHead, AuditPlace, AuditScope};
use std::collections::BTreeMap;

/// Entries of one chain that a peer lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacking {
    /// Whose log.
    pub scope: AuditScope,
    /// The first.
    pub from: AuditPlace,
    /// The last.
    pub to: u64,
}

/// A peer has what this site did not write, as far as it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contradiction {
    /// Entries past the end of a chain that is written here now.
    Ahead {
        /// Whose log.
        scope: AuditScope,
        /// The last one here; 0: there is none.
        here: u64,
        /// The last one there.
        there: u64,
    },
    /// Another last entry.
    Differs {
        /// Whose log.
        scope: AuditScope,
        /// Its number.
        sequence: u64,
    },
}

fn key(head: &AuditHead) -> (Vec<u8>, u64) {
    use farside_codec::Field;
    (head.scope.to_bytes().to_vec(), head.incarnation)
}

/// What of `own` chains is not in `theirs`, in the order in which it has to be sent: a log's earlier incarnations first. And
/// what there is of them that this site, in this incarnation, can't have written. What an earlier incarnation wrote may be
/// lost here: that is what a site that was restored or recovered leaves behind.
pub fn lacking(own: &[AuditHead], theirs: &[AuditHead], incarnation: u64) -> (Vec<Lacking>, Vec<Contradiction>) {
    let own: BTreeMap<_, &AuditHead> = own.iter().map(|head| (key(head), head)).collect();
    let theirs: BTreeMap<_, &AuditHead> = theirs.iter().map(|head| (key(head), head)).collect();
    let (mut lacking, mut contradictions) = (Vec::new(), Vec::new());
    for (key, here) in &own {
        let first = theirs.get(key).map_or(here.first, |there| there.sequence.saturating_add(1));
        if first <= here.sequence {
            let from = AuditPlace { incarnation: here.incarnation, sequence: first };
            lacking.push(Lacking { scope: here.scope.clone(), from, to: here.sequence });
        }
    }
    for (key, there) in &theirs {
        let scope = || there.scope.clone();
        match own.get(key) {
            Some(here) if here.sequence == there.sequence && here.hash != there.hash => {
                contradictions.push(Contradiction::Differs { scope: scope(), sequence: there.sequence });
            }
            Some(here) if here.sequence >= there.sequence => {}
            here if there.incarnation >= incarnation => contradictions.push(Contradiction::Ahead {
                scope: scope(),
                here: here.map_or(0, |here| here.sequence),
                there: there.sequence,
            }),
            _ => {}
        }
    }
    (lacking, contradictions)
}
