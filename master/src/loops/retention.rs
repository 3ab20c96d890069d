//! Forgets what ended so long ago that it is not kept any more.
//!
//! The store decides, by its own clock, whether a run is over and old enough; this looks for those that may be, and goes
//! on with those whose batches are not all gone. Any number of masters may do it at the same time, and one that dies
//! in between leaves the rest to the others. What forgotten runs leave in the storage is removed by `sweep`.

use super::Trouble;
use crate::config::Retention;
use crate::core::Core;
use crate::split::Plan;
use postrider_common::campaign::Source;
use postrider_common::ids::RunId;
use postrider_store::{ForgetRun, ForgottenRun, RunRecord, StoreError};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// The longest time between two looks; shorter where things are kept for less than ten minutes.
const TICK_MAX: Duration = Duration::from_mins(1);
const TICK_MIN: Duration = Duration::from_millis(100);
/// Runs read at once.
const RUNS_PER_READ: usize = 50;
/// Batches forgotten in one call.
const BATCHES_PER_CALL_MAX: usize = 500;
/// Between calls, so that the store has time for others.
const CALL_PAUSE: Duration = Duration::from_millis(5);
/// Longer than anything was ever kept: a run that is not being forgotten already is not touched.
const NEVER_MS: u64 = 1 << 52;
/// Runs that cannot be read and are remembered.
const DAMAGED_NOTED_MAX: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    pub tick: Duration,
    pub retention: Retention,
}

impl Config {
    pub fn of(retention: Retention) -> Self {
        let tick = retention.least().map_or(TICK_MAX, |least| (least / 10).clamp(TICK_MIN, TICK_MAX));
        Self { tick, retention }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Runs of which nothing is left.
    pub runs: u64,
    pub batches: u64,
}

#[derive(Debug)]
pub struct RetentionDuty {
    core: Arc<Core>,
    config: Config,
    /// Runs that cannot be read, to say so once.
    damaged: BTreeSet<RunId>,
}

/// How long this run is kept. None: for ever.
fn keep(retention: &Retention, run: &RunRecord) -> Option<Duration> {
    let Retention { runs, messages, dead_letters: _ } = *retention;
    match Plan::decode(&run.audience).map(|plan| plan.audience.source) {
        Ok(Source::Inline { rows }) if rows.len() == 1 => messages,
        Ok(
            Source::Inline { .. }
            | Source::Stored { .. }
            | Source::Sql(_)
            | Source::Http(_)
            | Source::File { .. }
            | Source::List { .. },
        ) => runs,
        // Sealed with a key that is not here: as long as either.
        Err(_) => runs.zip(messages).map(|(runs, messages)| runs.max(messages)),
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(NEVER_MS).min(NEVER_MS)
}

impl RetentionDuty {
    pub fn new(core: Arc<Core>, config: Config) -> Self {
        Self { core, config, damaged: BTreeSet::new() }
    }

    pub async fn run(mut self) {
        let mut trouble = Trouble::new("retention");
        loop {
            trouble.note(self.run_once().await);
            if !self.core.pause(self.config.tick).await {
                return;
            }
        }
    }

    pub async fn run_once(&mut self) -> Result<Counts, StoreError> {
        let mut counts = Counts::default();
        for run in self.core.store.runs_to_forget(RUNS_PER_READ).await? {
            self.forget(run, NEVER_MS, &mut counts).await?;
        }
        let Some(least) = self.config.retention.least() else { return Ok(counts) };
        let now = self.core.store.now_ms().await?;
        // Of those created in that very millisecond some may wait for the next look.
        let mut before = (now.saturating_sub_unsigned(ms(least)), RunId::derive("retention", "first"));
        while self.core.pause(CALL_PAUSE).await {
            let runs = self.core.store.runs(Some(before), RUNS_PER_READ).await?;
            let Some(last) = runs.last() else { break };
            before = (last.created_at_ms, last.id.clone());
            for run in runs {
                let (Some(ended_at), Some(keep)) = (run.finished_at_ms(), keep(&self.config.retention, &run)) else {
                    continue;
                };
                if ended_at.saturating_add_unsigned(ms(keep)) <= now {
                    self.forget(run.id, ms(keep), &mut counts).await?;
                }
            }
        }
        Ok(counts)
    }

    /// All of it, if it may be forgotten.
    async fn forget(&mut self, run: RunId, keep_ms: u64, counts: &mut Counts) -> Result<(), StoreError> {
        let keep_dead_ms = self.config.retention.dead_letters.map(ms);
        let forget = ForgetRun { run, keep_ms, keep_dead_ms, limit: BATCHES_PER_CALL_MAX };
        loop {
            match self.core.store.forget_run(forget.clone()).await {
                Ok(ForgottenRun::Step { batches, left }) => {
                    counts.batches += batches;
                    if left == 0 {
                        counts.runs += 1;
                        self.core.metrics.runs_forgotten.inc();
                        tracing::info!(run = %forget.run, "run forgotten");
                        return Ok(());
                    }
                }
                Ok(ForgottenRun::NotYet | ForgottenRun::NoRun) => return Ok(()),
                Err(StoreError::Corrupt(why)) => {
                    if self.damaged.len() < DAMAGED_NOTED_MAX && self.damaged.insert(forget.run.clone()) {
                        tracing::error!(run = %forget.run, why, "a run that cannot be read is kept");
                    }
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            if !self.core.pause(CALL_PAUSE).await {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_frequent_where_little_is_kept() {
        let retention = |runs, messages| Retention { runs, messages, dead_letters: None };
        let tick = |runs, messages| Config::of(retention(runs, messages)).tick;
        assert_eq!(tick(None, None), TICK_MAX);
        assert_eq!(tick(Some(Duration::from_hours(24)), None), TICK_MAX);
        assert_eq!(tick(Some(Duration::from_hours(24)), Some(Duration::from_secs(20))), Duration::from_secs(2));
        assert_eq!(tick(Some(Duration::from_millis(1)), None), TICK_MIN);
    }
}
