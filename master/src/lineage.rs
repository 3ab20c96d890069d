//! Whether the store is a later state of what it was.
//!
//! A store restored from a copy, or taken over by a replica that lagged, has forgotten what it acknowledged. Whoever
//! remembers can tell: this master, workers that echo what they saw, and the mark in the storage. The store decides, in
//! its transition `compare`; this carries the marks to it and says what it found.

use crate::api::ApiError;
use crate::core::Core;
use crate::metrics::Metrics;
use postrider_common::mark::Marks;
use postrider_common::wire;
use postrider_proto::v1;
use postrider_store::{Compare, Compared, Found, StoreError};
use std::sync::{Mutex, PoisonError};

/// What was found last.
#[derive(Debug, Default)]
pub struct Lineage {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Marks that the store was found to have.
    there: Marks,
    is_compared: bool,
    is_stopped: bool,
    rollbacks: u64,
}

impl Lineage {
    /// Why nothing is leased, for people; none: it is.
    pub fn why_stopped(&self) -> Option<&'static str> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match (state.is_compared, state.is_stopped, state.rollbacks) {
            (false, _, _) => Some("the store was not compared with what was acknowledged yet; nothing is leased"),
            (true, false, _) => None,
            (true, true, 0) => Some("the store's server is not compared with what was acknowledged; nothing is leased"),
            (true, true, _) => {
                Some("the store went back in time; nothing is leased until workers had the time to report")
            }
        }
    }

    fn covers(&self, marks: &Marks) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        marks.iter().all(|mark| state.there.covers(&mark))
    }

    fn note(&self, marks: &Marks, compared: &[Compared], metrics: &Metrics) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.there.merge(marks);
        compared.iter().for_each(|shard| state.there.note(shard.mark));
        state.is_compared = true;
        state.is_stopped = compared.iter().any(|shard| shard.is_stopped);
        state.rollbacks = compared.iter().map(|shard| shard.rollbacks).sum();
        metrics.store_rollbacks.set(i64::try_from(state.rollbacks).unwrap_or(i64::MAX));
        metrics.leasing_stopped.set(i64::from(state.is_stopped));
    }
}

/// Gives marks to the store and says what it found.
pub async fn compare(core: &Core, marks: Marks, confirm: bool) -> Result<Vec<Compared>, StoreError> {
    let compared = core.store.compare(Compare { marks: marks.clone(), confirm }).await?;
    core.lineage.note(&marks, &compared, &core.metrics);
    for shard in &compared {
        match shard.found {
            Found::Same | Found::NewServer => (),
            Found::Confirmed => {
                let (epoch, sequence) = (shard.mark.epoch, shard.mark.sequence);
                tracing::info!(shard = shard.mark.shard, epoch, sequence, "store server is known");
            }
            Found::WentBack { seen, had } => tracing::error!(
                shard = shard.mark.shard,
                epoch = shard.mark.epoch,
                seen_epoch = seen.epoch,
                seen_sequence = seen.sequence,
                had_sequence = had,
                copy_at_ms = shard.sign_ms,
                "store went back in time: what it acknowledged since is gone; recipients that may have been sent to are \
                 marked, runs submitted since must be submitted again"
            ),
        }
    }
    Ok(compared)
}

/// What a worker saw proves that the store went back, or it does not.
pub async fn witness(core: &Core, worker: Option<&v1::Worker>) -> Result<(), ApiError> {
    let marks = wire::seen(worker)?;
    let ours = core.store.seen();
    if ours.is_empty() || marks.iter().all(|mark| ours.covers(&mark)) || core.lineage.covers(&marks) {
        return Ok(());
    }
    compare(core, marks, false).await?;
    Ok(())
}

/// What a worker is told to remember.
pub fn seen(core: &Core) -> Vec<v1::StoreMark> {
    (&core.store.seen()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_common::mark::Mark;

    #[test]
    fn it_is_said_why_nothing_is_leased() {
        let lineage = Lineage::default();
        let mark = Mark { shard: 0, epoch: 1, sequence: 5 };
        let shard = |is_stopped, rollbacks| Compared { found: Found::Same, mark, is_stopped, rollbacks, sign_ms: None };
        assert!(lineage.why_stopped().is_some_and(|why| why.contains("yet")));
        let metrics = Metrics::default();
        for (is_stopped, rollbacks, word) in [(true, 0, "server"), (true, 1, "back"), (false, 1, "")] {
            lineage.note(&Marks::default(), &[shard(is_stopped, rollbacks)], &metrics);
            assert_eq!(lineage.why_stopped().is_some_and(|why| why.contains(word)), is_stopped, "{word}");
        }
        assert!(lineage.covers(&Marks::from_iter([mark])));
        assert!(metrics.encode().unwrap_or_default().contains("postrider_store_rollbacks 1"));
    }
}
