//! The tenants' KMS, and what can be wrong with it: a directory of keys that is moved away, and others in its place.

use super::World;
use crate::sim::faults::Kms;
use farside::kms::FileKms;
use farside_io::entropy::SeededEntropy;
use std::path::{Path, PathBuf};
use std::rc::Rc;

impl World {
    /// Puts the good KMS aside, the first time, and what is to be met instead in its place.
    pub(super) fn trouble_kms(&self, trouble: Kms) {
        let kms = &self.0.shared.kms;
        self.0.kms_troubles.set(self.0.kms_troubles.get() + 1);
        if !away(kms).exists() {
            self.expect_kms(std::fs::rename(kms, away(kms)));
        }
        // Whatever was met until now.
        let _ = std::fs::remove_dir_all(kms);
        let spoilt = match trouble {
            Kms::Away => Ok(()),
            Kms::Lies => {
                let random = Rc::new(SeededEntropy::new(self.0.random.next_u64()));
                FileKms::parse(&format!("file:{}", kms.display()), random)
                    .and_then(|other| other.create(self.0.shared.tenant.as_str()).map(drop))
                    .map_err(|error| std::io::Error::other(error.to_string()))
            }
            Kms::Damaged => damage_all(&away(kms), kms, self.0.random.next_u64()),
        };
        self.expect_kms(spoilt);
    }

    /// Puts the good KMS back once the last trouble is over.
    pub(super) fn mend_kms(&self) {
        let kms = &self.0.shared.kms;
        self.0.kms_troubles.set(self.0.kms_troubles.get().saturating_sub(1));
        if self.0.kms_troubles.get() == 0 && away(kms).exists() {
            // There is nothing where it is only away.
            let _ = std::fs::remove_dir_all(kms);
            self.expect_kms(std::fs::rename(away(kms), kms));
        }
    }

    fn expect_kms(&self, done: std::io::Result<()>) {
        if let Err(error) = done {
            self.violations().add(format!("the simulator could not do to the KMS what it wanted: {error}"));
        }
    }
}

fn away(kms: &Path) -> PathBuf {
    kms.with_extension("away")
}

/// Copies a directory of keys, with a bit of each flipped.
fn damage_all(from: &Path, to: &Path, at: u64) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let mut bytes = std::fs::read(entry.path())?;
        if !bytes.is_empty() {
            let place = at as usize % bytes.len();
            bytes[place] ^= 1 << (at % 8);
        }
        std::fs::write(to.join(entry.file_name()), bytes)?;
    }
    Ok(())
}
