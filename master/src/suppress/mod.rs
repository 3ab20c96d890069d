//! Who is not sent to. The store has keyed hashes and knows no addresses: here recipients are compared with them, when an
//! audience is split (`split`), before a lease is answered (`claimed`), and before intents are granted (`intents`).
//!
//! That nothing is sent past an addition that was acknowledged is kept by the store: it knows at which number of the set a
//! batch was looked at, and grants no intent in one that was not looked at since. What is here only looks.

mod claimed;
mod hash;
mod intents;
mod list;
mod split;

pub use claimed::check as check_claimed;
pub use intents::checkpoint;
pub use list::{Entry, Removal, add, find, page, remove, unname};
pub use split::{Found, before as before_adding};

use crate::core::Core;
use crate::storage::StorageError;
use hash::Hasher;
use postrider_common::Recipient;
use postrider_common::ids::{BatchId, Fence, LaneName};
use postrider_common::payload::InvalidPayload;
use postrider_common::state::RecipientState;
use postrider_common::suppression::{SuppressionKey, SuppressionReason, SuppressionSubject, gravest};
use postrider_store::{StoreError, SuppressRecipients, SuppressedRecipients, SuppressionRecord, SuppressionSet};
use std::collections::BTreeMap;

/// Keys that are looked up by one call.
const KEYS_PER_CALL_MAX: usize = 10_000;

/// Why it is not known who is not sent to. Reads after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum SuppressError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(
        "look up who is not sent to: the list was made with the key of another storage; give every master the same \
         [storage] url, the one with the erasure.key that was there when the list began"
    )]
    OtherKey,
    #[error("look at the recipients of {batch}: {why}")]
    Unreadable { batch: BatchId, why: InvalidPayload },
}

/// Of whom it is asked: mail of one lane and campaign.
#[derive(Debug, Clone, Copy)]
pub struct Mail<'a> {
    pub lane: &'a LaneName,
    /// "" : of none.
    pub campaign: &'a str,
}

pub(crate) async fn hasher(core: &Core) -> Result<Hasher, SuppressError> {
    let key = core.suppression_key.get_or_try_init(|| core.storage.erasure_key()).await?;
    Ok(Hasher::new(*key))
}

/// What holds of these, by key; and the set as it is, or was just before.
pub(crate) async fn look_up(
    core: &Core,
    hasher: &Hasher,
    keys: Vec<SuppressionKey>,
) -> Result<(SuppressionSet, BTreeMap<SuppressionKey, SuppressionRecord>), SuppressError> {
    // Before the look: what is found is at least as new.
    let set = core.store.suppression_set().await?;
    if !set.check.is_empty() && set.check != hasher.check() {
        return Err(SuppressError::OtherKey);
    }
    let mut found = BTreeMap::new();
    if set.count > 0 {
        for keys in keys.chunks(KEYS_PER_CALL_MAX) {
            let records = core.store.suppressions_of(keys).await?;
            found.extend(records.into_iter().flatten().map(|record| (record.key, record)));
        }
    }
    Ok((set, found))
}

/// The keys of everybody's address and domain.
pub(crate) fn keys_of<'a>(hasher: &Hasher, recipients: impl IntoIterator<Item = &'a Recipient>) -> Vec<SuppressionKey> {
    let both = |recipient: &Recipient| both_keys(hasher, recipient);
    let mut keys: Vec<SuppressionKey> = recipients.into_iter().flat_map(both).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn both_keys(hasher: &Hasher, recipient: &Recipient) -> [SuppressionKey; 2] {
    let address = &recipient.address;
    [SuppressionSubject::of(address), SuppressionSubject::of_domain_of(address)].map(|subject| hasher.key_of(&subject))
}

/// Who of these is not sent to, by index.
pub(crate) fn those_of(
    hasher: &Hasher,
    found: &BTreeMap<SuppressionKey, SuppressionRecord>,
    recipients: &[Recipient],
    mail: Mail<'_>,
) -> Vec<(u32, SuppressionReason)> {
    if found.is_empty() {
        return Vec::new();
    }
    let reason = |recipient: &Recipient| {
        let records = both_keys(hasher, recipient).into_iter().filter_map(|key| found.get(&key));
        gravest(records.flat_map(|record| &record.holds), mail.lane, mail.campaign)
    };
    let all = (0..).zip(recipients).filter_map(|(index, recipient)| Some((index, reason(recipient)?)));
    all.collect()
}

/// Tells the store what was found; who ended by it. None: the batch is not there any more as it was.
pub(crate) async fn tell(
    core: &Core,
    batch: BatchId,
    fence: Option<Fence>,
    checked: u64,
    recipients: Vec<(u32, SuppressionReason)>,
) -> Result<Option<Vec<(u32, RecipientState)>>, StoreError> {
    let found = SuppressRecipients { batch, fence, checked, recipients: recipients.clone() };
    match core.store.suppress_recipients(found).await? {
        SuppressedRecipients::Lost => Ok(None),
        SuppressedRecipients::Done { ended } => {
            let reasons: BTreeMap<u32, SuppressionReason> = recipients.into_iter().collect();
            let suppressed = ended.iter().filter(|(_, state)| *state == RecipientState::Suppressed);
            suppressed.filter_map(|(index, _)| reasons.get(index)).for_each(|reason| core.metrics.suppressed(*reason));
            Ok(Some(ended))
        }
    }
}
