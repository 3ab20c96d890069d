//! Tells masters what dead workers left, before this one asks for work.

use super::Leftovers;
use crate::dispatch::Dispatch;
use postrider_common::clock::Clock;
use postrider_common::lease::{Fact, FactStatus};
use postrider_common::limits::FACTS_PER_CALL_MAX;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two tries; doubles from the first to the second.
const PAUSE_MS_FIRST: u64 = 50;
const PAUSE_MS_MAX: u64 = 2_000;

/// Tells every fact until a master answered it. It ends: without a master that answers there is nothing to
/// lease either, and what is refused becomes smaller and is dropped in the end. Dropped before its end, it
/// leaves everything for the next start: facts may be told twice.
///
/// `reached` is sent to, or dropped, once all is told but what belongs to a part of the store that is away: work of the
/// other parts need not wait for that.
pub(crate) async fn tell(
    mut left: Leftovers,
    dispatch: Arc<dyn Dispatch>,
    clock: Arc<dyn Clock>,
    reached: oneshot::Sender<()>,
) {
    let mut facts = std::mem::take(&mut left.facts);
    let all = facts.len();
    let mut teller = Teller { dispatch, clock, step: FACTS_PER_CALL_MAX, pause_ms: PAUSE_MS_FIRST, applied: 0 };
    let mut reached = Some(reached);
    while !facts.is_empty() {
        facts = teller.round(facts).await;
        if let Some(reached) = reached.take() {
            let _ = reached.send(());
        }
        if !facts.is_empty() {
            tracing::debug!(facts = facts.len(), "a part of the store that the crash journal speaks of is away");
            teller.pause().await;
        }
    }
    if !left.files.is_empty() {
        tracing::info!(facts = all, applied = teller.applied, "told what an earlier worker's crash journal says");
    }
    left.discard();
}

struct Teller {
    dispatch: Arc<dyn Dispatch>,
    clock: Arc<dyn Clock>,
    /// Facts of one call.
    step: usize,
    pause_ms: u64,
    applied: usize,
}

impl Teller {
    /// Tells all of them once, and gives those whose part of the store was away.
    async fn round(&mut self, facts: Vec<Fact>) -> Vec<Fact> {
        let (mut at, mut away) = (0, Vec::new());
        while at < facts.len() {
            let some = &facts[at..facts.len().min(at + self.step)];
            match self.dispatch.facts(some.to_vec(), CALL_TIMEOUT).await {
                Ok(statuses) => {
                    at += some.len();
                    self.applied += statuses.iter().filter(|status| **status == FactStatus::Applied).count();
                    let unanswered =
                        some.iter().zip(&statuses).filter(|(_, status)| **status == FactStatus::Unanswered);
                    away.extend(unanswered.map(|(fact, _)| fact.clone()));
                    if away.is_empty() {
                        self.pause_ms = PAUSE_MS_FIRST;
                    }
                }
                Err(error) if error.is_refused && some.len() == 1 => {
                    let batch = &some[0].batch;
                    tracing::error!(%batch, %error, "a fact of the crash journal is refused; its recipient stays in doubt");
                    at += 1;
                }
                Err(error) if error.is_refused => self.step = some.len() / 2,
                Err(error) => {
                    tracing::debug!(%error, "the facts of the crash journal are not told yet");
                    self.pause().await;
                }
            }
        }
        away
    }

    async fn pause(&mut self) {
        let jitter = self.clock.random() % (self.pause_ms / 2 + 1);
        tokio::time::sleep(Duration::from_millis(self.pause_ms / 2 + jitter)).await;
        self.pause_ms = (self.pause_ms * 2).min(PAUSE_MS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::{CallError, Leased, Reported};
    use crate::engine::LeaseWish;
    use async_trait::async_trait;
    use postrider_common::clock::SystemClock;
    use postrider_common::ids::{BatchId, DefinitionHash, Fence, RunId};
    use postrider_common::lease::{LeaseReport, Outcome, OutcomeKind};
    use postrider_common::relay::{RelayShare, RelayWish};
    use std::sync::Mutex;
    use tokio::sync::Notify;

    /// Masters that take facts, but none of the first batch while its part of the store is away.
    #[derive(Debug, Default)]
    struct Masters {
        is_back: Mutex<bool>,
        told: Mutex<Vec<u64>>,
        asked_again: Notify,
    }

    #[async_trait]
    impl Dispatch for Masters {
        async fn lease(&self, _: LeaseWish, _: Vec<DefinitionHash>, _: u32, _: Duration) -> Result<Leased, CallError> {
            unreachable!("only facts are told")
        }

        async fn checkpoint(&self, _: Vec<LeaseReport>, _: Duration) -> Result<Reported, CallError> {
            unreachable!("only facts are told")
        }

        async fn finish(&self, _: Vec<LeaseReport>, _: Duration) -> Result<Reported, CallError> {
            unreachable!("only facts are told")
        }

        async fn release(&self, _: Vec<LeaseReport>, _: bool, _: u64, _: Duration) -> Result<Reported, CallError> {
            unreachable!("only facts are told")
        }

        async fn facts(&self, facts: Vec<Fact>, _: Duration) -> Result<Vec<FactStatus>, CallError> {
            let is_away = !*self.is_back.lock().unwrap();
            if facts.iter().all(|fact| fact.batch.sequence == 1) {
                self.asked_again.notify_one();
            }
            let answer = |fact: Fact| {
                if is_away && fact.batch.sequence == 1 {
                    return FactStatus::Unanswered;
                }
                self.told.lock().unwrap().push(fact.batch.sequence);
                FactStatus::Applied
            };
            Ok(facts.into_iter().map(answer).collect())
        }

        async fn share_relays(&self, _: u64, _: Vec<RelayWish>, _: Duration) -> Result<Vec<RelayShare>, CallError> {
            unreachable!("only facts are told")
        }
    }

    #[tokio::test]
    async fn a_part_of_the_store_that_is_away_does_not_keep_a_worker_from_the_others() {
        let root = tempfile::tempdir().unwrap();
        let (journal, _) = crate::journal::open(root.path(), "one", "boot").unwrap();
        for lease in [1, 2] {
            let batch = BatchId { run: RunId::derive("digest", "1"), sequence: lease };
            let fence = Fence { epoch: 1, counter: lease, nonce: 7 };
            journal.leased(lease, &batch, &fence);
            journal.asked(&[LeaseReport {
                batch,
                fence,
                sequence: 1,
                outcomes: vec![],
                intents: vec![0],
                progress: 0,
            }]);
            let kind = OutcomeKind::Accepted;
            assert!(journal.dot(lease, 0));
            journal.ended(lease, &Outcome { index: 0, kind, code: "250".into(), detail: "".into(), retry_after_ms: 0 });
        }
        drop(journal);
        let left = || crate::journal::facts_in(root.path()).unwrap().len();
        let (_ours, leftovers) = crate::journal::open(root.path(), "two", "boot").unwrap();
        let masters = Arc::new(Masters::default());
        let (reached, told) = oneshot::channel();
        let clock = Arc::new(SystemClock::default());
        let telling = tokio::spawn(tell(leftovers, masters.clone(), clock, reached));
        told.await.unwrap();
        assert_eq!((masters.told.lock().unwrap().clone(), left()), (vec![2], 2), "it may ask for work");
        masters.asked_again.notified().await;
        *masters.is_back.lock().unwrap() = true;
        telling.await.unwrap();
        assert_eq!((masters.told.lock().unwrap().clone(), left()), (vec![2, 1], 0));
    }
}
