//! Devices as an operator names them: which names are one device, and how many of them may be lost.

use crate::store::{most_per_device, needed_fragments};
use farside_codec::erasure::Geometry;
use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Two of these paths that lead to one device, by whatever names. What is not there is nobody's twin.
pub(super) fn twins(paths: &[PathBuf]) -> Option<(&Path, &Path)> {
    let mut seen: BTreeMap<(u64, u64, bool), &Path> = BTreeMap::new();
    paths.iter().find_map(|path| {
        let metadata = std::fs::metadata(path).ok()?;
        // A block device is its number, whichever node of whichever file system leads to it.
        let block = metadata.file_type().is_block_device();
        let identity = if block { (metadata.rdev(), 0, true) } else { (metadata.dev(), metadata.ino(), false) };
        seen.insert(identity, path).map(|first| (first, path.as_path()))
    })
}

/// Losses of whole devices that everything on a node survives, whichever they are: of `devices`, where `working` work
/// now, and the first `mirrors` have the write-ahead log. `None`: more are gone already than the geometry carries.
pub(super) fn losses_survived(geometry: Geometry, mirrors: usize, devices: usize, working: usize) -> Option<usize> {
    // With fewer devices than a stripe has fragments some hold several of them.
    let most_fragments = most_per_device(geometry.total(), devices);
    let gone = devices.saturating_sub(working);
    let chunks = (geometry.parity() / most_fragments).checked_sub(gone)?;
    // As many as the geometry asked for that the site was made with.
    let mirrors = devices.min(mirrors).checked_sub(gone + 1)?;
    Some(chunks.min(mirrors))
}

/// Fragments of a new chunk that find a place while `working` of `devices` work, and those that must.
pub(super) fn fragments_placed(geometry: Geometry, devices: usize, working: usize) -> (usize, usize) {
    let most_fragments = most_per_device(geometry.total(), devices);
    (geometry.total().min(working * most_fragments), needed_fragments(geometry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_counted_in_devices() {
        let geometry = Geometry::DEFAULT;
        for (devices, working, survived) in
            [(6, 6, Some(2)), (9, 9, Some(2)), (6, 5, Some(1)), (6, 4, Some(0)), (6, 3, None), (3, 3, Some(1))]
        {
            assert_eq!(losses_survived(geometry, 3, devices, working), survived, "{working} of {devices}");
        }
        assert_eq!(losses_survived(geometry, 3, 2, 2), Some(0));
        assert_eq!(losses_survived(geometry, 3, 1, 1), Some(0));
        assert_eq!(losses_survived(geometry, 2, 6, 6), Some(1), "the log is lost with its second mirror");
    }

    #[test]
    fn one_device_is_known_by_any_name() {
        let root = tempfile::tempdir().expect("a directory");
        let path = |name: &str| root.path().join(name);
        std::fs::write(path("a"), "").expect("written");
        std::fs::write(path("b"), "").expect("written");
        std::fs::hard_link(path("a"), path("hard")).expect("linked");
        std::os::unix::fs::symlink(path("b"), path("soft")).expect("linked");
        assert_eq!(twins(&[path("a"), path("b"), path("gone"), path("gone")]), None);
        for (name, other) in [("a", "a"), ("hard", "a"), ("soft", "b"), ("./b", "soft")] {
            assert!(twins(&[path(name), path(other)]).is_some(), "{name} {other}");
        }
    }
}
