//! When a certificate has to be looked after: as plain functions of its life and the time.

use super::limits::{EXPIRES_NAMED, EXPIRES_SOON};
use crate::state::ControlView;
use farside_codec::identity::{IdentityRecord, IdentityRole};
use farside_codec::ids::Hlc;

/// Less than a third of a life is left, and no more than what is early enough for anybody; all in milliseconds since 1970.
pub(super) fn expires_soon(issued_ms: u64, expires_ms: u64, now_ms: u64) -> bool {
    let third = expires_ms.saturating_sub(issued_ms) / 3;
    let early = third.min(EXPIRES_SOON.as_millis() as u64);
    now_ms >= expires_ms.saturating_sub(early)
}

/// What status says of identities of operators and clients that can still be shown, and not for long. Nodes see to theirs.
pub(super) fn alert(view: &ControlView, now_ms: u64) -> Option<String> {
    let ends = |record: &&IdentityRecord| {
        let issued_to_people = matches!(record.role, IdentityRole::Operator | IdentityRole::Client(_));
        let (issued, expires) = (record.issued.ms(), record.expires.ms());
        issued_to_people && record.is_live(Hlc::from_ms(now_ms)) && expires_soon(issued, expires, now_ms)
    };
    let mut soon: Vec<&IdentityRecord> = view.identities.values().filter(ends).collect();
    if soon.is_empty() {
        return None;
    }
    soon.sort_by_key(|record| record.expires);
    let left = |record: &&IdentityRecord| {
        let seconds = record.expires.ms().saturating_sub(now_ms) / 1000;
        match seconds / 86_400 {
            0 => format!("{} in {} h", record.name, seconds / 3600),
            days => format!("{} in {days} days", record.name),
        }
    };
    let named: Vec<String> = soon.iter().take(EXPIRES_NAMED).map(left).collect();
    let more = match soon.len().saturating_sub(EXPIRES_NAMED) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    Some(format!("identities expire soon: {}{more} (farside identity list)", named.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_said_once_and_for_all_and_in_time(begun in 0..1u64 << 42, life in 3..1u64 << 42, at in 0..1u64 << 43) {
            let ends = begun + life;
            prop_assert!(expires_soon(begun, ends, ends), "at the end it is said");
            prop_assert!(!expires_soon(begun, ends, begun + life / 2), "not in the first half");
            if expires_soon(begun, ends, at) {
                prop_assert!(expires_soon(begun, ends, at + 1), "and never unsaid");
            } else {
                prop_assert!(at < ends);
            }
        }
    }
}
