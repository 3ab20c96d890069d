//! What became of recipients, from wherever it is: a batch in the store, or segments in the storage.
//!
//! A batch is in exactly one of the two at every instant: while it has a payload the store knows all of it, and from
//! the transition `retire_batches` on its tombstone names the segments that do. So whoever reads batch after batch
//! finds every recipient once, however many are retired meanwhile. A segment that no tombstone names (its writer died
//! before it was registered) is never read.

mod erase;
mod read;
mod segment;

pub use read::Reader;
pub use segment::{Segment, Written, write};

use crate::storage::StorageError;
use postrider_common::message::message_id;
use postrider_common::payload;
use postrider_common::state::{RecipientState, UnknownReason};
use postrider_store::{BatchRecord, RunRecord};

/// What is known of one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub key: String,
    pub address: String,
    pub state: RecipientState,
    pub attempts: u32,
    pub code: String,
    pub detail: String,
    pub reason: Option<UnknownReason>,
    pub message_id: String,
    pub settled_at_ms: Option<i64>,
}

/// Why the fate of recipients cannot be told. Reads after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("read history/{0}: it is not in the storage; is [storage] url the same for all masters? else restore it")]
    Missing(String),
    #[error("read {what}: {why}")]
    Damaged { what: String, why: String },
}

impl HistoryError {
    fn damaged(what: impl ToString, why: impl ToString) -> Self {
        Self::Damaged { what: what.to_string(), why: why.to_string() }
    }
}

/// The recipients of a batch that is not retired, by index.
pub fn stored(run: &RunRecord, batch: &BatchRecord) -> Result<Vec<Known>, HistoryError> {
    let what = || format!("the stored batch {}", batch.id);
    let recipients = payload::decode(&batch.payload).map_err(|error| HistoryError::damaged(what(), error))?;
    if recipients.len() != batch.recipients.len() {
        return Err(HistoryError::damaged(what(), "its payload and its states differ in number"));
    }
    let known = recipients.into_iter().zip(&batch.recipients).map(|(recipient, delivery)| Known {
        // Of one that is erased it would be another than was sent.
        message_id: match recipient.address.is_erased() {
            true => String::new(),
            false => message_id(&run.id, &recipient.key, &run.sender_domain),
        },
        key: recipient.key,
        address: recipient.address.to_string(),
        state: delivery.state,
        attempts: delivery.attempts,
        code: delivery.code.clone(),
        detail: delivery.detail.clone(),
        reason: delivery.reason,
        settled_at_ms: delivery.settled_at_ms,
    });
    Ok(known.collect())
}
