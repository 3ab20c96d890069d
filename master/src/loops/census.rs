//! Looks at runs, lanes and workers for the metrics, and at which workers are told to drain.

use super::Trouble;
use crate::core::Core;
use postrider_common::WorkerId;
use postrider_store::StoreError;
use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// Newest runs that the metrics sum up.
const RUNS_MAX: usize = 200;

/// The workers that are told to drain, as of the last look.
#[derive(Debug, Clone, Default)]
pub struct Draining(Arc<RwLock<HashSet<WorkerId>>>);

impl Draining {
    pub fn includes(&self, worker: &WorkerId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(worker)
    }

    fn replace(&self, workers: HashSet<WorkerId>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = workers;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    pub tick: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { tick: Duration::from_secs(1) }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub runs: usize,
    pub workers: usize,
    pub draining: usize,
}

#[derive(Debug)]
pub struct CensusDuty {
    core: Arc<Core>,
    config: Config,
    draining: Draining,
    /// Lanes of runs that go on which the configuration does not have.
    strange: BTreeSet<String>,
}

impl CensusDuty {
    pub fn new(core: Arc<Core>, config: Config, draining: Draining) -> Self {
        Self { core, config, draining, strange: BTreeSet::new() }
    }

    pub async fn run(mut self) {
        let mut trouble = Trouble::new("census");
        loop {
            trouble.note(self.run_once().await);
            if !self.core.pause(self.config.tick).await {
                return;
            }
        }
    }

    pub async fn run_once(&mut self) -> Result<Counts, StoreError> {
        let core = &self.core;
        let workers = core.store.workers().await?;
        let draining: HashSet<WorkerId> = workers.iter().filter(|w| w.draining).map(|w| w.id.clone()).collect();
        let counts = Counts { runs: 0, workers: workers.len(), draining: draining.len() };
        self.draining.replace(draining);
        let runs = core.store.runs(None, RUNS_MAX).await?;
        let names: Vec<_> = core.lanes.iter().map(|lane| lane.name.clone()).collect();
        let lanes = core.store.lanes(&names).await?;
        let ready: Vec<(String, u64)> = lanes.into_iter().map(|l| (l.name.to_string(), l.batches_ready)).collect();
        core.metrics.observe(&runs, &ready, workers.len());
        let strange = runs.iter().filter(|run| !run.state().has_ended() && core.lane(&run.lane).is_none());
        let strange: BTreeSet<String> = strange.map(|run| run.lane.to_string()).collect();
        for lane in strange.difference(&self.strange) {
            tracing::warn!(lane, "runs use a lane that is not configured: nothing of them is sent until it is");
        }
        self.strange = strange;
        core.metrics.observe_rooms(&core.store.rooms(&core.limits).await?);
        Ok(Counts { runs: runs.len(), ..counts })
    }
}
