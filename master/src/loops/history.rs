//! Writes what settled batches leave behind to the storage, then has the store forget it.
//!
//! A segment is durable before the store is told of it, and a batch that changed meanwhile is refused by its stamp. So a
//! master that dies anywhere in between loses nothing and repeats nothing; at most a segment that nobody names is left.

use super::Trouble;
use crate::core::Core;
use crate::erase::{self, EraseError};
use crate::history::{self, HistoryError, Known, Written};
use postrider_common::ids::{BatchId, RequestId, RunId};
use postrider_common::limits::{HISTORY_BACKLOG_BATCHES_MAX, SEGMENT_BATCHES_MAX};
use postrider_store::{BatchRecord, ClaimHistory, RetireBatches, RunRecord, SettledBatch, StoreError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How long the other masters leave the batches to this one: a segment is written in a fraction of it.
const CLAIM_MS: u64 = 5_000;
/// Also how long what trickles in is gathered, so that segments are few.
const TICK: Duration = Duration::from_secs(2);

/// A segment that was not named this long after it was begun never will be: a small part of the age at which segments
/// that nobody names are swept.
const RETIRE_WITHIN_MS: u64 = 3_600_000;

/// Batches that cannot be read and are remembered.
const DAMAGED_NOTED_MAX: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    pub tick: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { tick: TICK }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub segments: u64,
    pub batches: u64,
    pub recipients: u64,
    /// Batches that waited at the last claim.
    pub backlog: u64,
}

/// Why history is not written for now. Reads after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error(transparent)]
    Erase(#[from] EraseError),
    #[error("write history in time: the storage took too long, and what was written may be swept")]
    TooLate,
}

#[derive(Debug)]
pub struct HistoryDuty {
    core: Arc<Core>,
    config: Config,
    /// A claim that did not end with a segment: it is made again, so that nobody waits until it expires.
    unfinished: Option<RequestId>,
    was_full: bool,
    /// Batches that cannot be read, to say so once.
    damaged: BTreeSet<BatchId>,
}

impl HistoryDuty {
    pub fn new(core: Arc<Core>, config: Config) -> Self {
        Self { core, config, unfinished: None, was_full: false, damaged: BTreeSet::new() }
    }

    pub async fn run(mut self) {
        let mut trouble = Trouble::new("history");
        loop {
            trouble.note(self.run_once().await);
            if !self.core.pause(self.config.tick).await {
                return;
            }
        }
    }

    /// Writes segments until fewer batches wait than fill one.
    pub async fn run_once(&mut self) -> Result<Counts, DrainError> {
        let mut counts = Counts::default();
        while !self.core.stopping.is_cancelled() {
            let Some(request) = self.unfinished.take().or_else(|| self.core.request_id("history")) else { break };
            self.unfinished = Some(request.clone());
            let claim = ClaimHistory { request: request.clone(), ttl_ms: CLAIM_MS, limit: SEGMENT_BATCHES_MAX };
            let claimed = self.core.store.claim_history(claim).await?;
            self.note_backlog(claimed.backlog);
            counts.backlog = claimed.backlog;
            if claimed.batches.is_empty() {
                self.unfinished = None;
                break;
            }
            let full = claimed.batches.len() == SEGMENT_BATCHES_MAX;
            let segments = counts.segments;
            self.drain(request, claimed.batches, &mut counts).await?;
            self.unfinished = None;
            if !full || counts.segments == segments {
                break;
            }
        }
        Ok(counts)
    }

    async fn drain(
        &mut self,
        request: RequestId,
        batches: Vec<SettledBatch>,
        counts: &mut Counts,
    ) -> Result<(), DrainError> {
        let known = self.know(&batches).await?;
        if known.is_empty() {
            return Ok(());
        }
        let core = &self.core;
        let begun_ms = core.clock.boot_ms();
        let written: Written = history::write(core.random_wide(), &known)?;
        core.storage.write_segment(&written.name, written.bytes).await.map_err(HistoryError::from)?;
        if core.clock.boot_ms().saturating_sub(begun_ms) > RETIRE_WITHIN_MS {
            return Err(DrainError::TooLate);
        }
        let wrote = |batch: &&SettledBatch| known.iter().any(|(record, _)| record.id == batch.record.id);
        let stamps = batches.iter().filter(wrote).map(|batch| (batch.record.id.clone(), batch.stamp)).collect();
        let retire = RetireBatches { request, segment: written.name.clone(), batches: stamps };
        let retired = core.store.retire_batches(retire).await?;
        if retired < known.len() as u64 {
            // One may have changed because an address is erased: what was read before has it.
            erase::scrub(core, &written.name).await?;
        }
        core.metrics.history_segments.inc();
        core.metrics.history_batches.inc_by(retired);
        tracing::debug!(segment = written.name, batches = retired, "history written");
        counts.segments += 1;
        counts.batches += retired;
        counts.recipients += written.recipients;
        Ok(())
    }

    /// What becomes lines. A batch that cannot be read stays where it is, for a person; the error when that is all.
    async fn know<'a>(
        &mut self,
        batches: &'a [SettledBatch],
    ) -> Result<Vec<(&'a BatchRecord, Vec<Known>)>, DrainError> {
        let mut runs: BTreeMap<&RunId, Option<RunRecord>> = BTreeMap::new();
        let mut known = Vec::with_capacity(batches.len());
        let mut damaged = None;
        for SettledBatch { record, .. } in batches {
            if record.is_retired() {
                known.push((record, Vec::new()));
                continue;
            }
            let run = match runs.entry(&record.id.run) {
                std::collections::btree_map::Entry::Occupied(found) => found.into_mut(),
                std::collections::btree_map::Entry::Vacant(room) => {
                    room.insert(self.core.store.run(&record.id.run).await?)
                }
            };
            // Its run is forgotten, and so will it be.
            let Some(run) = run else { continue };
            match history::stored(run, record) {
                Ok(recipients) => known.push((record, recipients)),
                Err(error) => {
                    if self.damaged.len() < DAMAGED_NOTED_MAX && self.damaged.insert(record.id.clone()) {
                        let batch = &record.id;
                        tracing::error!(%batch, %error, "a settled batch cannot be read and stays in the store");
                    }
                    damaged = Some(error);
                }
            }
        }
        match damaged {
            Some(error) if known.is_empty() => Err(error.into()),
            Some(_) | None => Ok(known),
        }
    }

    fn note_backlog(&mut self, backlog: u64) {
        self.core.metrics.history_backlog.set(i64::try_from(backlog).unwrap_or(i64::MAX));
        let full = backlog >= HISTORY_BACKLOG_BATCHES_MAX;
        if full != self.was_full {
            if full {
                tracing::error!(backlog, "history backlog is full, nothing new is leased until it is written");
            } else {
                tracing::info!(backlog, "history backlog has room again");
            }
        }
        self.was_full = full;
    }
}
