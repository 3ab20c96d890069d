//! Has the store prove, step by step, that every batch is in exactly one place and that counters are sums; what it had to
//! repair is an error that a person should see.
//!
//! The store keeps the pace: however many masters ask, one step is made in `TICK`. Over 100 batches a second in each
//! shard: one that holds 100,000 is proved once in 17 minutes.

use super::Trouble;
use crate::core::Core;
use postrider_store::{Reconcile, Reconciled, StoreError};
use std::sync::Arc;
use std::time::Duration;

/// Batches of one step: it keeps the server for about a millisecond.
const BATCHES_PER_STEP: u32 = 50;
const TICK: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    pub tick: Duration,
    pub reconcile: Reconcile,
}

impl Config {
    pub fn of(doubt_grace_ms: u64) -> Self {
        let interval_ms = TICK.as_millis() as u64;
        Self { tick: TICK, reconcile: Reconcile { interval_ms, batches_max: BATCHES_PER_STEP, doubt_grace_ms } }
    }
}

#[derive(Debug)]
pub struct ReconcileDuty {
    core: Arc<Core>,
    config: Config,
}

impl ReconcileDuty {
    pub fn new(core: Arc<Core>, config: Config) -> Self {
        Self { core, config }
    }

    pub async fn run(self) {
        let mut trouble = Trouble::new("reconcile");
        while self.core.pause(self.config.tick).await {
            trouble.note(self.run_once().await);
        }
    }

    pub async fn run_once(&self) -> Result<Reconciled, StoreError> {
        let reconciled = self.core.store.reconcile(self.config.reconcile).await?;
        for repair in &reconciled.repairs {
            tracing::error!(kind = repair.kind.name(), about = repair.about, "the store was repaired");
        }
        Ok(reconciled)
    }
}
