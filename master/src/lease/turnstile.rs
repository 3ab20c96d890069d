//! Lets held calls look for work one after the other when the store hints at some.
//!
//! A hint wakes every held call. Without this all of them would claim, and all but a few in vain: the
//! first one that finds nothing has found it for all that ask for the same lanes.

use postrider_common::ids::LaneName;
use postrider_common::limits::CLAIM_POLL_MS;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;

/// Sets of lanes that are told apart; there are few lanes, and workers of one kind ask for the same.
const LANE_SETS_MAX: usize = 256;

/// The hint after which nothing was found.
type FoundNothing = Option<u64>;

/// One per master.
#[derive(Debug, Default)]
pub struct Turnstile {
    gates: Mutex<BTreeMap<Vec<LaneName>, Arc<tokio::sync::Mutex<FoundNothing>>>>,
}

/// What a call does after a hint.
#[derive(Debug)]
pub enum Turn {
    /// Look; and say so when nothing was found.
    Look(Option<OwnedMutexGuard<FoundNothing>>),
    /// Somebody looked after this hint and found nothing.
    Skip,
}

impl Turnstile {
    /// The turn of a call for `lanes` after the hint `version`. Waits no longer than a poll would.
    pub async fn turn(&self, lanes: &[(LaneName, u32)], version: u64) -> Turn {
        let mut names: Vec<LaneName> = lanes.iter().map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        let gate = {
            let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
            if gates.len() >= LANE_SETS_MAX {
                gates.clear();
            }
            Arc::clone(gates.entry(names).or_default())
        };
        match tokio::time::timeout(Duration::from_millis(CLAIM_POLL_MS), gate.lock_owned()).await {
            Ok(gate) if *gate == Some(version) => Turn::Skip,
            Ok(gate) => Turn::Look(Some(gate)),
            Err(_) => Turn::Look(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_finds_nothing_finds_it_for_all() {
        let turnstile = Turnstile::default();
        let bulk = [(LaneName::bulk(), 10)];
        let Turn::Look(Some(mut gate)) = turnstile.turn(&bulk, 7).await else { panic!("the first looks") };
        *gate = Some(7);
        drop(gate);
        assert!(matches!(turnstile.turn(&bulk, 7).await, Turn::Skip));
        let other = [(LaneName::transactional(), 100)];
        assert!(matches!(turnstile.turn(&other, 7).await, Turn::Look(Some(_))), "other lanes are looked at");
        let Turn::Look(Some(held)) = turnstile.turn(&bulk, 8).await else { panic!("a new hint is looked at") };
        assert!(matches!(turnstile.turn(&bulk, 8).await, Turn::Look(None)), "nobody waits for ever");
        drop(held);
    }
}
