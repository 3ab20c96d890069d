//! Finds splits that are due and works on them, several at a time: a small run starts while a huge one
//! splits. What was submitted here is begun at once, what another master left is found by looking.

use super::Trouble;
use crate::core::Core;
use crate::split::work::work;
use postrider_common::limits::CLAIM_POLL_MS;
use postrider_store::{ClaimSplit, SplitLease, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Splits that one master holds. Each has a reading thread and the hashes of the keys it has seen; when
/// all are taken, one that only waits for the workers gives way.
const SPLITS_HELD_MAX: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    pub tick: Duration,
    pub splits_held_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { tick: Duration::from_millis(CLAIM_POLL_MS), splits_held_max: SPLITS_HELD_MAX }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub claimed: usize,
}

#[derive(Debug)]
pub struct SplitDuty {
    core: Arc<Core>,
    config: Config,
    room: Arc<Semaphore>,
    working: JoinSet<()>,
    /// A claim whose answer was lost: it is asked again, so that its lease is not left to expire.
    unanswered: Option<ClaimSplit>,
}

impl SplitDuty {
    pub fn new(core: Arc<Core>, config: Config) -> Self {
        let room = Arc::new(Semaphore::new(config.splits_held_max));
        Self { core, config, room, working: JoinSet::new(), unanswered: None }
    }

    /// Ends when the master stops and every split is given back.
    pub async fn run(mut self) {
        let mut trouble = Trouble::new("split");
        let core = Arc::clone(&self.core);
        while !core.stopping.is_cancelled() {
            trouble.note(self.run_once().await);
            tokio::select! {
                biased;
                () = core.stopping.cancelled() => break,
                () = core.split_due.notified() => {}
                () = tokio::time::sleep(self.config.tick) => {}
            }
        }
        while self.working.join_next().await.is_some() {}
    }

    /// Begins every split that is due, as far as there is room.
    pub async fn run_once(&mut self) -> Result<Counts, StoreError> {
        let mut counts = Counts::default();
        while let Some(ended) = self.working.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(%error, "a split ended by a defect; it is tried again when its lease expires");
            }
        }
        while !self.core.stopping.is_cancelled() {
            let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else { break };
            let Some(lease) = self.claim().await? else { break };
            counts.claimed += 1;
            let (core, room) = (Arc::clone(&self.core), Arc::clone(&self.room));
            self.working.spawn(async move {
                core.metrics.splits.inc();
                work(&core, lease, || room.available_permits() == 0).await;
                core.metrics.splits.dec();
                drop(permit);
                // What found no room may have it now.
                core.split_due.notify_one();
            });
        }
        Ok(counts)
    }

    async fn claim(&mut self) -> Result<Option<SplitLease>, StoreError> {
        let claim = match self.unanswered.take() {
            Some(claim) => claim,
            None => {
                let Some(request) = self.core.request_id("split") else { return Ok(None) };
                ClaimSplit { request, nonce: self.core.nonce(), ttl_ms: self.core.lease.ttl_ms() }
            }
        };
        let answer = self.core.store.claim_split(claim.clone()).await;
        if answer.as_ref().is_err_and(StoreError::may_have_happened) {
            self.unanswered = Some(claim);
        }
        answer
    }
}
