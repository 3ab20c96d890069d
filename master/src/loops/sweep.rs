//! Removes from the storage what nobody names: unfinished uploads, segments of history without a batch that has its
//! history there, and audiences of no campaign and no run; and with them definitions of messages.
//!
//! A segment is named within an hour of being written, or never, because every attempt has a name of its own. So
//! one that is a day old and is named by no batch of any run is an orphan. Those that forgotten runs left are known to
//! the store. Of others there are few, left by crashes; many of them mean that this is the storage of another store,
//! and nothing is removed. Segments are removed only when every run was looked at whole.
//!
//! Audiences and definitions are noted in the store by whoever is about to name them. What was noted a day ago and is
//! named by no campaign and no run goes; what is named is noted anew.
//! Any number of masters may do this at the same time.

use super::Trouble;
use crate::core::Core;
use crate::storage::{OlderThan, StorageError};
use postrider_store::{LeftSegment, StoreError};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

mod named;
use named::Named;

/// What is younger is left alone.
const AGE: Duration = Duration::from_hours(24);
const TICK: Duration = Duration::from_hours(24);
/// A master that lives for a moment only leaves this to others.
const FIRST_AFTER: Duration = Duration::from_hours(1);
/// And those that were started together do not sweep together.
const FIRST_SPREAD: Duration = Duration::from_hours(1);
/// Segments looked for at one sweep: bounds its memory to some ten megabytes.
const SEGMENTS_MAX: usize = 100_000;
/// Audiences and definitions looked at in one sweep, likewise; and how many are read at once.
const KEPT_MAX: usize = 100_000;
const KEPT_PER_READ: usize = 5_000;
/// Notes of runs looked at in one sweep, of each kind.
const NOTES_MAX: usize = 100_000;
/// Orphans that are plausible beside any number of named segments: one for each crash of a master while it writes.
const ORPHANS_PLAUSIBLE: usize = 10;

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
    pub audiences: u64,
    pub definitions: u64,
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
        let left = self.core.store.left_segments(SEGMENTS_MAX).await?;
        let mut candidates = storage.old_segments(old, SEGMENTS_MAX).await?;
        let settled = self.look_for(&left, &mut candidates, old).await?;
        let (all, kept) = (candidates.len(), self.kept().await?);
        let named = Named::look(&self.core, candidates, kept).await?;

        self.forget_notes(old).await?;
        let shared = self.forget_unnamed(&named).await?;
        let counts = Counts { uploads, ..shared };
        let segments = self.remove_orphans(&named.segments, &left, all).await?;
        self.core.store.forget_segments(settled).await?;
        let counts = Counts { segments: segments.0, named: segments.1, ..counts };
        if counts != (Counts { named: counts.named, ..Counts::default() }) {
            let Counts { uploads, segments, audiences, definitions, named: _ } = counts;
            tracing::info!(uploads, segments, audiences, definitions, "storage swept");
        }
        Ok(counts)
    }

    /// Adds to the candidates those that forgotten runs left. Done with: all but those that are too young yet.
    async fn look_for(
        &self,
        left: &[LeftSegment],
        candidates: &mut BTreeSet<String>,
        old: OlderThan,
    ) -> Result<Vec<LeftSegment>, SweepError> {
        let mut settled = Vec::with_capacity(left.len());
        for segment in left {
            let is_candidate = candidates.contains(&segment.name);
            let age =
                if is_candidate { Some(true) } else { self.core.storage.segment_is_old(&segment.name, old).await? };
            if age == Some(true) {
                candidates.insert(segment.name.clone());
            }
            // Whether it goes now or another run names it: who is forgotten later leaves it again.
            if age != Some(false) {
                settled.push(segment.clone());
            }
        }
        Ok(settled)
    }

    /// What is noted of runs that are not there any more.
    async fn forget_notes(&self, old: OlderThan) -> Result<(), SweepError> {
        for run in self.core.storage.old_notes(old, NOTES_MAX).await? {
            if self.core.store.run(&run).await?.is_none() {
                self.core.storage.forget_notes(&run).await?;
            }
            if !self.core.pause(named::READ_PAUSE).await {
                return Err(SweepError::Stopping);
            }
        }
        Ok(())
    }

    /// Of `all` old segments; how many were removed, and how many are named.
    async fn remove_orphans(
        &self,
        orphans: &BTreeSet<String>,
        left: &[LeftSegment],
        all: usize,
    ) -> Result<(u64, u64), SweepError> {
        let expected: BTreeSet<&str> = left.iter().map(|left| left.name.as_str()).collect();
        let strange = orphans.iter().filter(|name| !expected.contains(name.as_str())).count();
        let ours = all - strange;
        if strange > ORPHANS_PLAUSIBLE.max(all / 10) || (ours == 0 && strange > 0) {
            return Err(SweepError::Implausible { orphans: strange, old: all });
        }
        for name in orphans {
            self.core.storage.remove_segment(name).await?;
        }
        Ok((orphans.len() as u64, (all - orphans.len()) as u64))
    }
}

#[cfg(test)]
#[path = "sweep_tests.rs"]
mod tests;
