//! Converts what waits in cancelled runs: pending recipients end as cancelled, those in doubt as unknown.

use super::Trouble;
use crate::core::Core;
use postrider_common::RunId;
use postrider_store::StoreError;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Batches looked at in one call.
const BATCHES_PER_CALL_MAX: usize = 100;
/// Runs looked at in one tick.
const RUNS_PER_TICK_MAX: usize = 20;
/// Calls for one run in one tick, so that one large run does not hold up the others.
const CALLS_PER_RUN_MAX: usize = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    pub tick: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { tick: Duration::from_millis(250) }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub runs: usize,
    pub recipients: u64,
}

#[derive(Debug)]
pub struct CancelDuty {
    core: Arc<Core>,
    config: Config,
    /// How far each run was looked through. Only saves work: from the start is right as well.
    looked: BTreeMap<RunId, u64>,
}

impl CancelDuty {
    pub fn new(core: Arc<Core>, config: Config) -> Self {
        Self { core, config, looked: BTreeMap::new() }
    }

    pub async fn run(mut self) {
        let mut trouble = Trouble::new("cancel");
        loop {
            trouble.note(self.run_once().await);
            if !self.core.pause(self.config.tick).await {
                return;
            }
        }
    }

    pub async fn run_once(&mut self) -> Result<Counts, StoreError> {
        let runs = self.core.store.runs_to_cancel(RUNS_PER_TICK_MAX).await?;
        self.looked.retain(|run, _| runs.contains(run));
        let mut counts = Counts { runs: runs.len(), recipients: 0 };
        for run in runs {
            counts.recipients += self.convert(&run).await?;
        }
        Ok(counts)
    }

    async fn convert(&mut self, run: &RunId) -> Result<u64, StoreError> {
        let mut recipients = 0;
        for _ in 0..CALLS_PER_RUN_MAX {
            let after = self.looked.get(run).copied().unwrap_or_default();
            let step = self.core.store.cancel_batches(run, after, BATCHES_PER_CALL_MAX).await?;
            recipients += step.recipients;
            match step.next {
                Some(next) => drop(self.looked.insert(run.clone(), next)),
                None => {
                    self.looked.remove(run);
                    break;
                }
            }
        }
        if recipients > 0 {
            tracing::info!(%run, recipients, "recipients of a cancelled run ended");
        }
        Ok(recipients)
    }
}
