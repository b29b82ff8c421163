//! Says at the target that somebody is at work, so that a prune spares what that needs.

use super::error::BackupError;
use super::limits::WORKER_RENEW;
use super::repository::Repository;
use farside_codec::backup::Work;
use farside_codec::ids::Hlc;
use farside_io::clock::Clock;
use std::rc::Rc;
use std::time::Duration;

/// Somebody at work.
pub(super) struct AtWork<'a> {
    repository: &'a Repository,
    clock: Rc<dyn Clock>,
    work: Work,
    name: String,
    said: Duration,
}

impl<'a> AtWork<'a> {
    pub(super) async fn begin(
        repository: &'a Repository,
        clock: Rc<dyn Clock>,
        work: Work,
    ) -> Result<Self, BackupError> {
        let name = repository.begin_work(work.clone(), Hlc::from_ms(clock.wall_ms())).await?;
        let said = clock.monotonic();
        Ok(Self { repository, clock, work, name, said })
    }

    /// Says so again, where it was last said a while ago.
    pub(super) async fn renew_if_due(&mut self) -> Result<(), BackupError> {
        let now = self.clock.monotonic();
        if now.saturating_sub(self.said) >= WORKER_RENEW {
            let name = self.repository.begin_work(self.work.clone(), Hlc::from_ms(self.clock.wall_ms())).await?;
            let before = std::mem::replace(&mut self.name, name);
            self.said = now;
            self.repository.remove(&before).await?;
        }
        Ok(())
    }

    /// Ends it. Without this it is over in a day.
    pub(super) async fn end(self) {
        if let Err(error) = self.repository.remove(&self.name).await {
            tracing::info!(%error, "what says that somebody is at work stays at the target for a day");
        }
    }
}
