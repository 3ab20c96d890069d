//! Before a lease is answered: batches that were not looked at since the set changed.

use super::hash::Hasher;
use super::{Mail, SuppressError, hasher, keys_of, look_up, tell, those_of};
use crate::core::Core;
use crate::lease::poll::give_back;
use futures::future::try_join_all;
use postrider_common::payload;
use postrider_common::state::RecipientState;
use postrider_common::suppression::SuppressionKey;
use postrider_common::{Recipient, WorkerId};
use postrider_store::{ClaimedBatch, SuppressionRecord};
use std::collections::BTreeMap;

/// What cannot be looked at now is not leased again before.
const BLIND_PAUSE_MS: u64 = 2_000;

/// The leases that are left to be answered: without those that were lost meanwhile, or in which nobody is left.
pub async fn check(
    core: &Core,
    worker: &WorkerId,
    leases: Vec<ClaimedBatch>,
) -> Result<Vec<ClaimedBatch>, SuppressError> {
    if leases.iter().all(|lease| lease.unchecked.is_none()) {
        return Ok(leases);
    }
    // What cannot be read goes to the worker as it is, who says so; it gets no intents.
    let read = |lease: &ClaimedBatch| match lease.unchecked {
        Some(number) => payload::decode(&lease.payload).ok().map(|recipients| (number, recipients)),
        None => None,
    };
    let people: Vec<Option<(u64, Vec<Recipient>)>> = leases.iter().map(read).collect();
    let (hasher, found) = match looked_up(core, &people).await {
        Ok(looked_up) => looked_up,
        // A lease that nobody is told of must not expire for that, and count against its batch.
        Err(error @ (SuppressError::Storage(_) | SuppressError::OtherKey)) => {
            give_back(core, worker, leases, BLIND_PAUSE_MS).await?;
            return Err(error);
        }
        Err(error @ (SuppressError::Store(_) | SuppressError::Unreadable { .. })) => return Err(error),
    };
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
        give_back(core, worker, empty, 0).await?;
    }
    Ok(left)
}

type Known = BTreeMap<SuppressionKey, SuppressionRecord>;

async fn looked_up(core: &Core, people: &[Option<(u64, Vec<Recipient>)>]) -> Result<(Hasher, Known), SuppressError> {
    let hasher = hasher(core).await?;
    let everybody = people.iter().flatten().flat_map(|(_, recipients)| recipients);
    let (_, found) = look_up(core, &hasher, keys_of(&hasher, everybody)).await?;
    Ok((hasher, found))
}

fn without(mut lease: ClaimedBatch, ended: &[(u32, RecipientState)]) -> ClaimedBatch {
    for (index, state) in ended {
        if let Some(progress) = lease.recipients.get_mut(*index as usize) {
            progress.state = *state;
        }
    }
    lease
}
