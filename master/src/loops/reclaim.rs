//! Takes back expired leases. Also the masters' sign of life, by which the store notices outages.

use super::Trouble;
use crate::core::Core;
use postrider_store::{Reclaim, Reclaimed, StoreError};
use std::sync::Arc;
use std::time::Duration;

/// Leases taken back in one call.
const LEASES_PER_CALL_MAX: u32 = 200;
/// The longest time between two looks.
const TICK_MS_MAX: u64 = 250;
/// The shortest silence that counts as an outage.
const OUTAGE_GAP_MS_MIN: u64 = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    pub tick: Duration,
    pub reclaim: Reclaim,
}

impl Config {
    pub fn of(ttl_ms: u64, doubt_grace_ms: u64) -> Self {
        Self {
            tick: Duration::from_millis((ttl_ms / 8).clamp(1, TICK_MS_MAX)),
            reclaim: Reclaim {
                limit: LEASES_PER_CALL_MAX,
                ttl_ms,
                doubt_grace_ms,
                outage_gap_ms: (ttl_ms / 3).max(OUTAGE_GAP_MS_MIN),
            },
        }
    }
}

#[derive(Debug)]
pub struct ReclaimDuty {
    core: Arc<Core>,
    config: Config,
    /// Whether the last answer said that nothing is reclaimed for now.
    was_held: bool,
}

impl ReclaimDuty {
    pub fn new(core: Arc<Core>, config: Config) -> Self {
        Self { core, config, was_held: false }
    }

    pub async fn run(mut self) {
        let mut trouble = Trouble::new("reclaim");
        loop {
            let counts = trouble.note(self.run_once().await);
            let more = counts.is_some_and(|counts| counts.leases >= LEASES_PER_CALL_MAX);
            if !more && !self.core.pause(self.config.tick).await {
                return;
            }
        }
    }

    pub async fn run_once(&mut self) -> Result<Reclaimed, StoreError> {
        let counts = self.core.store.reclaim(self.config.reclaim).await?;
        if counts.leases > 0 {
            tracing::warn!(leases = counts.leases, doubts = counts.doubts, "leases expired and were taken back");
        }
        if counts.dead > 0 {
            tracing::error!(letters = counts.dead, "set aside what ends workers: see dead list");
        }
        if counts.repaired > 0 {
            tracing::error!(batches = counts.repaired, "batches that cannot be read were set aside: see dead list");
        }
        let held = counts.held_ms > 0;
        if held != self.was_held {
            tracing::info!(held_ms = counts.held_ms, "reclaiming held after an outage, or resumed");
        }
        self.was_held = held;
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_frequent_for_short_leases_and_outages_are_not_jitter() {
        for (ttl_ms, tick_ms, gap_ms) in [(60_000, 250, 20_000), (1_000, 125, 1_000), (2_000, 250, 1_000)] {
            let config = Config::of(ttl_ms, 10_000);
            assert_eq!(config.tick, Duration::from_millis(tick_ms));
            assert_eq!(config.reclaim.outage_gap_ms, gap_ms);
        }
    }
}
