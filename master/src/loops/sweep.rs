//! Removes from the storage what crashes left there: unfinished uploads, and segments of history that no tombstone names.
//!
//! A segment is named within an hour of being written, or never, because every attempt has a name of its own. So
//! one that is a day old and is named by no batch of any run is an orphan. It is removed only when every run was looked
//! at whole, and when orphans are few beside what is named: many of them mean that this is the storage of another store.
//! Any number of masters may do this at the same time.

use super::Trouble;
use crate::core::Core;
use crate::storage::StorageError;
use postrider_store::{RunRecord, StoreError};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// What is younger is left alone.
const AGE: Duration = Duration::from_hours(24);
const TICK: Duration = Duration::from_hours(24);
/// A master that lives for a moment only leaves this to others.
const FIRST_AFTER: Duration = Duration::from_hours(1);
/// And those that were started together do not sweep together.
const FIRST_SPREAD: Duration = Duration::from_hours(1);
/// Segments looked for at one sweep: bounds its memory to some ten megabytes.
const SEGMENTS_MAX: usize = 100_000;
/// Orphans that are plausible beside any number of named segments: one for each crash of a master while it writes.
const ORPHANS_PLAUSIBLE: usize = 10;
/// Runs and batches read at once.
const RUNS_PER_READ: usize = 50;
const BATCHES_PER_READ: usize = 20;
/// Between reads, so that the store has time for others.
const READ_PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    pub tick: Duration,
    pub age: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { tick: TICK, age: AGE }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub uploads: u64,
    pub segments: u64,
    /// Old segments that are named.
    pub named: u64,
}

/// Why nothing is swept for now. Reads after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("see every batch of {0}: some are missing, and what they name is not known")]
    Missing(String),
    #[error(
        "sweep the storage: no run names {orphans} of {old} old segments, too many to be left by crashes; is this the \
         storage of another store? nothing is removed"
    )]
    Implausible { orphans: usize, old: usize },
    #[error("sweep the storage: the master stops")]
    Stopping,
}

#[derive(Debug)]
pub struct SweepDuty {
    core: Arc<Core>,
    config: Config,
}

impl SweepDuty {
    pub fn new(core: Arc<Core>, config: Config) -> Self {
        Self { core, config }
    }

    pub async fn run(self) {
        let mut trouble = Trouble::new("sweep");
        let spread_ms = self.core.clock.random() % (FIRST_SPREAD.as_millis() as u64);
        let mut wait = FIRST_AFTER + Duration::from_millis(spread_ms);
        while self.core.pause(wait).await {
            wait = self.config.tick;
            match self.run_once().await {
                Err(SweepError::Stopping) => return,
                result => drop(trouble.note(result)),
            }
        }
    }

    pub async fn run_once(&self) -> Result<Counts, SweepError> {
        let storage = &self.core.storage;
        let old = storage.older_than(self.config.age).await?;
        let uploads = storage.sweep_uploads(old).await?;
        // Listed before the runs are looked at: whatever is named meanwhile is younger.
        let candidates = storage.old_segments(old, SEGMENTS_MAX).await?;
        let all = candidates.len();
        let orphans = if candidates.is_empty() { candidates } else { self.unnamed(candidates).await? };
        let named = all - orphans.len();
        if orphans.len() > ORPHANS_PLAUSIBLE.max(all / 10) || (named == 0 && !orphans.is_empty()) {
            return Err(SweepError::Implausible { orphans: orphans.len(), old: all });
        }
        for name in &orphans {
            storage.remove_segment(name).await?;
        }
        let counts = Counts { uploads, segments: orphans.len() as u64, named: named as u64 };
        if counts.uploads + counts.segments > 0 {
            tracing::info!(uploads = counts.uploads, segments = counts.segments, "storage swept");
        }
        Ok(counts)
    }

    /// Those that no batch of any run names.
    async fn unnamed(&self, mut candidates: BTreeSet<String>) -> Result<BTreeSet<String>, SweepError> {
        let mut before = None;
        loop {
            let runs = self.core.store.runs(before.take(), RUNS_PER_READ).await?;
            for run in &runs {
                self.keep_named(run, &mut candidates).await?;
            }
            match runs.last() {
                Some(last) => before = Some((last.created_at_ms, last.id.clone())),
                None => return Ok(candidates),
            }
        }
    }

    async fn keep_named(&self, run: &RunRecord, candidates: &mut BTreeSet<String>) -> Result<(), SweepError> {
        let (mut after, mut seen) = (0, 0);
        while after < run.sequence_max {
            let batches = self.core.store.batches(&run.id, after, BATCHES_PER_READ).await?;
            let Some(last) = batches.last() else { break };
            after = last.id.sequence;
            seen += batches.iter().filter(|batch| batch.id.sequence <= run.sequence_max).count() as u64;
            for name in batches.iter().flat_map(|batch| &batch.segments) {
                candidates.remove(name);
            }
            if !self.core.pause(READ_PAUSE).await {
                return Err(SweepError::Stopping);
            }
        }
        if seen == run.sequence_max { Ok(()) } else { Err(SweepError::Missing(run.id.to_string())) }
    }
}

#[cfg(test)]
#[path = "sweep_tests.rs"]
mod tests;
