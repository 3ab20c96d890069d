//! Looks at runs, lanes and workers for the metrics, and at which workers are told to drain.

use super::Trouble;
use crate::core::Core;
use postrider_common::WorkerId;
use postrider_store::StoreError;
use std::collections::HashSet;
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
}

impl CensusDuty {
    pub fn new(core: Arc<Core>, config: Config, draining: Draining) -> Self {
        Self { core, config, draining }
    }

    pub async fn run(self) {
        let mut trouble = Trouble::new("census");
        loop {
            trouble.note(self.run_once().await);
            if !self.core.pause(self.config.tick).await {
                return;
            }
        }
    }

    pub async fn run_once(&self) -> Result<Counts, StoreError> {
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
        core.metrics.observe_rooms(&core.store.rooms(&core.limits).await?);
        Ok(Counts { runs: runs.len(), ..counts })
    }
}
