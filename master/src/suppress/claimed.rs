//! Before a lease is answered: batches that were not looked at since the set changed.

use super::{Mail, SuppressError, hasher, keys_of, look_up, tell, those_of};
use crate::core::Core;
use crate::lease::poll::give_back;
use futures::future::try_join_all;
use postrider_common::payload;
use postrider_common::state::RecipientState;
use postrider_common::{Recipient, WorkerId};
use postrider_store::ClaimedBatch;

/// The leases that are left to be answered: without those that were lost meanwhile, or in which nobody is left.
pub async fn check(
    core: &Core,
    worker: &WorkerId,
    leases: Vec<ClaimedBatch>,
) -> Result<Vec<ClaimedBatch>, SuppressError> {
    if leases.iter().all(|lease| lease.unchecked.is_none()) {
        return Ok(leases);
    }
    let hasher = hasher(core).await?;
    // What cannot be read goes to the worker as it is, who says so; it gets no intents.
    let read = |lease: &ClaimedBatch| match lease.unchecked {
        Some(number) => payload::decode(&lease.payload).ok().map(|recipients| (number, recipients)),
        None => None,
    };
    let people: Vec<Option<(u64, Vec<Recipient>)>> = leases.iter().map(read).collect();
    let everybody = people.iter().flatten().flat_map(|(_, recipients)| recipients);
    let (_, found) = look_up(core, &hasher, keys_of(&hasher, everybody)).await?;
    let each = leases.into_iter().zip(people).map(|(lease, people)| {
        let (hasher, found) = (&hasher, &found);
        async move {
            let Some((number, recipients)) = people else { return Ok(Some(lease)) };
            let mail = Mail { lane: &lease.lane, campaign: &lease.campaign };
            let suppressed = those_of(hasher, found, &recipients, mail);
            let told = tell(core, lease.batch.clone(), Some(lease.fence.clone()), number, suppressed).await?;
            Ok::<_, SuppressError>(told.map(|ended| without(lease, &ended)))
        }
    });
    let (left, empty): (Vec<_>, Vec<_>) =
        try_join_all(each).await?.into_iter().flatten().partition(|lease: &ClaimedBatch| {
            lease.unchecked.is_none() || lease.recipients.iter().any(|progress| !progress.state.is_final())
        });
    if !empty.is_empty() {
        // Settles them.
        give_back(core, worker, empty).await?;
    }
    Ok(left)
}

fn without(mut lease: ClaimedBatch, ended: &[(u32, RecipientState)]) -> ClaimedBatch {
    for (index, state) in ended {
        if let Some(progress) = lease.recipients.get_mut(*index as usize) {
            progress.state = *state;
        }
    }
    lease
}
