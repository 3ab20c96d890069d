//! Compares a store whose server is new with what was acknowledged, and keeps the mark in the storage.
//!
//! The mark is up to `WRITE_EVERY` old, and two masters that write at once may leave the lower one for that long. What
//! was acknowledged in between is remembered by this master and by workers.

use super::Trouble;
use crate::core::Core;
use crate::lineage;
use postrider_common::mark::Marks;
use postrider_store::{Compared, Found, StoreError};
use std::sync::Arc;
use std::time::Duration;

/// The storage is written at most this often.
const WRITE_EVERY: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    pub tick: Duration,
    pub write_every: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { tick: Duration::from_millis(250), write_every: WRITE_EVERY }
    }
}

/// Reads after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error("compare the store: {0}")]
    Store(#[from] StoreError),
    #[error("read or write the mark of the store: {0}")]
    Storage(#[from] crate::storage::StorageError),
}

#[derive(Debug)]
pub struct CompareDuty {
    core: Arc<Core>,
    config: Config,
    written: Marks,
    /// By the clock of the machine that goes on while it sleeps.
    written_at_ms: Option<u64>,
}

impl CompareDuty {
    pub fn new(core: Arc<Core>, config: Config) -> Self {
        Self { core, config, written: Marks::default(), written_at_ms: None }
    }

    pub async fn run(mut self) {
        let (mut comparing, mut writing) = (Trouble::new("compare"), Trouble::new("mark"));
        loop {
            comparing.note(self.run_once().await);
            let elapsed_ms = |at| self.core.clock.boot_ms().saturating_sub(at);
            if self.written_at_ms.map(elapsed_ms).is_none_or(|ms| u128::from(ms) >= self.config.write_every.as_millis())
            {
                writing.note(self.write().await);
            }
            if !self.core.pause(self.config.tick).await {
                break;
            }
        }
        // Whoever starts next finds all that this master answered.
        writing.note(self.write().await);
    }

    pub async fn run_once(&mut self) -> Result<Vec<Compared>, CompareError> {
        let compared = lineage::compare(&self.core, self.core.store.seen(), false).await?;
        if compared.iter().all(|shard| shard.found != Found::NewServer) {
            return Ok(compared);
        }
        let mut marks = self.core.store.seen();
        // One in memory is new each time, whatever another one wrote.
        if !marks.is_empty() {
            marks.merge(&self.core.storage.read_marks().await?);
        }
        let compared = lineage::compare(&self.core, marks, true).await?;
        // The new epoch at once, so that it is never given a second time.
        self.write().await?;
        Ok(compared)
    }

    /// Writes what was seen, if that is more than what was written.
    async fn write(&mut self) -> Result<(), CompareError> {
        let seen = self.core.store.seen();
        if seen.iter().all(|mark| self.written.covers(&mark)) {
            return Ok(());
        }
        let mut marks = self.core.storage.read_marks().await?;
        marks.merge(&seen);
        self.core.storage.write_marks(&marks).await?;
        self.written = marks;
        self.written_at_ms = Some(self.core.clock.boot_ms());
        Ok(())
    }
}
