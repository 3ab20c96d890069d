//! When an audience is split: batches are looked at before they are stored. Who is not sent to is in them all the same, so that
//! everybody is counted, and ends right after.

use super::{Mail, SuppressError, hasher, keys_of, look_up, those_of};
use crate::core::Core;
use postrider_common::Recipient;
use postrider_common::payload;
use postrider_common::suppression::SuppressionReason;
use postrider_store::NewBatch;

/// What was found in one of the batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub sequence: u64,
    pub checked: u64,
    pub recipients: Vec<(u32, SuppressionReason)>,
}

/// Looks at batches that are about to be added. Those without anybody in the set are marked so; of the others it is told who is,
/// and until the store was told as well, they are looked at by whoever leases them.
pub async fn before(core: &Core, batches: &mut [NewBatch], mail: Mail<'_>) -> Result<Vec<Found>, SuppressError> {
    // Mostly there is nothing to add, or nobody in the set.
    if batches.is_empty() || core.store.suppression_set().await?.number == 0 {
        return Ok(Vec::new());
    }
    let hasher = hasher(core).await?;
    // Written by the splitter a moment ago.
    let read = |batch: &NewBatch| payload::decode(&batch.payload).ok();
    let people: Vec<Option<Vec<Recipient>>> = batches.iter().map(read).collect();
    let (set, found) = look_up(core, &hasher, keys_of(&hasher, people.iter().flatten().flatten())).await?;
    let mut all = Vec::new();
    for (batch, people) in batches.iter_mut().zip(people) {
        let Some(people) = people else { continue };
        let recipients = those_of(&hasher, &found, &people, mail);
        if recipients.is_empty() {
            batch.checked = set.number;
        } else {
            all.push(Found { sequence: batch.sequence, checked: set.number, recipients });
        }
    }
    Ok(all)
}
