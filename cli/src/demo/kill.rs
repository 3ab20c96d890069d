//! Kills the worker once, at a moment when at least half its slots are in intent, and starts it again.
//!
//! The worker is stopped (SIGSTOP) before its intents are counted and killed without being continued: so
//! the number is exactly what the kill leaves in doubt.

use super::stage::WorkerProcess;
use crate::failure::{Failure, Result};
use crate::output::count;
use postrider_common::ids::RunId;
use postrider_store::{RunRecord, Store};
use rustix::process::Signal;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the store is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Requests that were under way when the worker was stopped are through after this.
const SETTLE: Duration = Duration::from_millis(50);
/// Nothing moves for this long: something is broken.
const STILL_MAX: Duration = Duration::from_secs(60);

/// When to kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Not before so many recipients are done.
    pub after: u64,
}

impl Plan {
    /// Somewhere from a tenth to four tenths of the run.
    pub fn new(seed: u64, recipients: u64) -> Self {
        // One step of a splitmix, so that neighbouring seeds differ.
        let mixed = (seed.wrapping_add(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33;
        let permille = 100 + mixed % 301;
        Self { after: recipients.saturating_mul(permille) / 1000 }
    }
}

/// What the kill hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Killed {
    /// Recipients done before.
    pub done: u64,
    /// Recipients in intent at the kill: what its expiry puts in doubt.
    pub in_intent: u32,
    pub slots: u32,
}

/// Carries out the plan, then keeps an eye on the worker until the run has ended.
pub async fn kill_once(
    store: &Arc<dyn Store>,
    worker: &mut WorkerProcess,
    run: &RunId,
    plan: &Plan,
    note: impl Fn(String),
) -> Result<Option<Killed>> {
    let (mut killed, mut last, mut moved) = (None, None, Instant::now());
    loop {
        let record = look(store, run).await?;
        if record.state().has_ended() {
            return Ok(killed);
        }
        worker.check()?;
        let done = record.recipients.total - record.recipients.pending;
        if last.replace((record.recipients, record.batches)) != Some((record.recipients, record.batches)) {
            moved = Instant::now();
        }
        if moved.elapsed() > STILL_MAX {
            let (seconds, tail) = (STILL_MAX.as_secs(), worker.log_tail());
            return Err(Failure::failed(format!("nothing moved for {seconds} s; the worker's last lines:\n{tail}")));
        }
        if killed.is_none() && done >= plan.after && in_intent(store).await? >= half(worker) {
            killed = try_kill(store, worker, done).await?;
            if let Some(killed) = &killed {
                note(format!(
                    "worker killed with {} of {} slots in intent after {} recipients; restarted as process {}",
                    killed.in_intent,
                    killed.slots,
                    count(killed.done),
                    worker.id()
                ));
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn look(store: &Arc<dyn Store>, run: &RunId) -> Result<RunRecord> {
    let record = store.run(run).await.map_err(|error| Failure::failed(format!("failed to {error}")))?;
    record.ok_or_else(|| Failure::failed(format!("run {run} is gone")))
}

fn half(worker: &WorkerProcess) -> u32 {
    worker.slots.div_ceil(2)
}

/// Recipients in intent under any worker's leases.
async fn in_intent(store: &Arc<dyn Store>) -> Result<u32> {
    let workers = store.workers().await.map_err(|error| Failure::failed(format!("failed to {error}")))?;
    Ok(workers.iter().map(|worker| worker.in_intent).sum())
}

/// Stops the worker and kills it if enough is in intent; otherwise lets it go on.
async fn try_kill(store: &Arc<dyn Store>, worker: &mut WorkerProcess, done: u64) -> Result<Option<Killed>> {
    worker.signal(Signal::STOP)?;
    let mut before = in_intent(store).await?;
    let stands_at = loop {
        tokio::time::sleep(SETTLE).await;
        let now = in_intent(store).await?;
        if now == before {
            break now;
        }
        before = now;
    };
    if stands_at < half(worker) {
        worker.signal(Signal::CONT)?;
        return Ok(None);
    }
    worker.kill().await?;
    let killed = Killed { done, in_intent: stands_at, slots: worker.slots };
    worker.restart()?;
    Ok(Some(killed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_chooses_a_moment_in_the_middle() {
        let moments: Vec<u64> = (0..100).map(|seed| Plan::new(seed, 10_000).after).collect();
        assert!(moments.iter().all(|after| (1000..=4000).contains(after)), "{moments:?}");
        assert!(moments.iter().collect::<std::collections::BTreeSet<_>>().len() > 50, "{moments:?}");
        assert_eq!(Plan::new(7, 10_000), Plan::new(7, 10_000));
    }
}
