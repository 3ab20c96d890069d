//! Tells masters what dead workers left, before this one asks for work.

use super::Leftovers;
use crate::dispatch::Dispatch;
use postrider_common::clock::Clock;
use postrider_common::lease::FactStatus;
use postrider_common::limits::FACTS_PER_CALL_MAX;
use std::time::Duration;

const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two tries; doubles from the first to the second.
const PAUSE_MS_FIRST: u64 = 50;
const PAUSE_MS_MAX: u64 = 2_000;

/// Tells every fact until a master answered it. It ends: without a master that answers there is nothing to
/// lease either, and what is refused becomes smaller and is dropped in the end. Dropped before its end, it
/// leaves everything for the next start: facts may be told twice.
pub(crate) async fn tell(mut left: Leftovers, dispatch: &dyn Dispatch, clock: &dyn Clock) {
    let facts = std::mem::take(&mut left.facts);
    let (mut at, mut step, mut pause_ms, mut applied) = (0, FACTS_PER_CALL_MAX, PAUSE_MS_FIRST, 0);
    while at < facts.len() {
        let some = &facts[at..facts.len().min(at + step)];
        match dispatch.facts(some.to_vec(), CALL_TIMEOUT).await {
            Ok(statuses) => {
                at += some.len();
                pause_ms = PAUSE_MS_FIRST;
                applied += statuses.iter().filter(|status| **status == FactStatus::Applied).count();
            }
            Err(error) if error.is_refused && some.len() == 1 => {
                let batch = &some[0].batch;
                tracing::error!(%batch, %error, "a fact of the crash journal is refused; its recipient stays in doubt");
                at += 1;
            }
            Err(error) if error.is_refused => step = some.len() / 2,
            Err(error) => {
                tracing::debug!(%error, "the facts of the crash journal are not told yet");
                let jitter = clock.random() % (pause_ms / 2 + 1);
                tokio::time::sleep(Duration::from_millis(pause_ms / 2 + jitter)).await;
                pause_ms = (pause_ms * 2).min(PAUSE_MS_MAX);
            }
        }
    }
    if !left.files.is_empty() {
        tracing::info!(facts = facts.len(), applied, "told what an earlier worker's crash journal says");
    }
    left.discard();
}
