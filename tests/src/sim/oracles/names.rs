//! Which names and versions a site shows.

use super::super::work::{NAMES, name};
use super::super::world::World;
use farside::client::{ClientError, Log};
use std::collections::BTreeMap;

/// Which versions there are, by sequence: of which name each is, and which put made it.
pub(super) async fn versions_of(log: &Log) -> Result<BTreeMap<u64, (u64, u64)>, ClientError> {
    let mut found = BTreeMap::new();
    for number in 0..NAMES {
        let versions = match log.history(&name(number)).await {
            Err(ClientError::NotFound(_)) => continue,
            versions => versions?,
        };
        let puts = versions.iter().filter(|version| version.kind.is_some());
        found.extend(puts.map(|version| (version.sequence, (number, version.modified.0 as u64))));
    }
    Ok(found)
}

/// (3) Every copy has every name, with the same newest version. Whoever forces a copy that is still being made to take over
/// is told that it is none.
pub(super) fn names_agree(world: &World, log: &str, newest: &[BTreeMap<u64, u64>]) {
    let may_lack =
        world.promotions().iter().any(|promotion| promotion.forced && promotion.promoted.lost_deltas.is_none());
    let agree = newest.windows(2).all(|pair| pair[0] == pair[1]);
    world.violations().check(agree || may_lack, || format!("the copies of {log} have other names: {newest:?}"));
}
