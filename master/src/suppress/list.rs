//! The list itself: additions, removals, and looking at it.

use super::{SuppressError, hasher, look_up};
use crate::core::Core;
use postrider_common::Address;
use postrider_common::suppression::{SuppressionKey, SuppressionReason, SuppressionScope, SuppressionSubject};
use postrider_store::{Suppress, Suppressing, SuppressionChange, SuppressionRecord};

/// Somebody who is not to be sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub subject: SuppressionSubject,
    pub scope: SuppressionScope,
    pub reason: SuppressionReason,
    /// None: now.
    pub at_ms: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    pub subject: SuppressionSubject,
    /// None: of every scope.
    pub scope: Option<SuppressionScope>,
}

/// How many of these changed something. Once it is answered, nobody of them is granted an intent.
pub async fn add(core: &Core, entries: Vec<Entry>) -> Result<u64, SuppressError> {
    let hasher = hasher(core).await?;
    let change = |entry: Entry| SuppressionChange::Add {
        key: hasher.key_of(&entry.subject),
        scope: entry.scope,
        reason: entry.reason,
        at_ms: entry.at_ms,
        subject: entry.subject.as_str().as_bytes().to_vec(),
    };
    make(core, hasher.check(), entries.into_iter().map(change).collect()).await
}

/// Holds for what is split from now on: who ended as suppressed stays so.
pub async fn remove(core: &Core, removals: Vec<Removal>) -> Result<u64, SuppressError> {
    let hasher = hasher(core).await?;
    let change =
        |removal: Removal| SuppressionChange::Remove { key: hasher.key_of(&removal.subject), scope: removal.scope };
    make(core, hasher.check(), removals.into_iter().map(change).collect()).await
}

/// The address goes, the duty stays: what is left is its keyed hash.
pub async fn unname(core: &Core, address: &Address) -> Result<(), SuppressError> {
    let hasher = hasher(core).await?;
    let key = hasher.key_of(&SuppressionSubject::of(address));
    let (_, found) = look_up(core, &hasher, vec![key]).await?;
    if found.get(&key).is_some_and(|record| !record.subject.is_empty()) {
        make(core, hasher.check(), vec![SuppressionChange::Unname { key }]).await?;
    }
    Ok(())
}

async fn make(core: &Core, check: String, changes: Vec<SuppressionChange>) -> Result<u64, SuppressError> {
    match core.store.suppress(Suppress { check, changes }).await? {
        Suppressing::Done { changed, number: _ } => Ok(changed),
        Suppressing::OtherKey => Err(SuppressError::OtherKey),
    }
}

/// What holds of one subject.
pub async fn find(core: &Core, subject: &SuppressionSubject) -> Result<Option<SuppressionRecord>, SuppressError> {
    let hasher = hasher(core).await?;
    let key = hasher.key_of(subject);
    Ok(look_up(core, &hasher, vec![key]).await?.1.remove(&key))
}

/// In order of the keys, after `after`.
pub async fn page(
    core: &Core,
    after: Option<SuppressionKey>,
    limit: usize,
) -> Result<Vec<SuppressionRecord>, SuppressError> {
    Ok(core.store.suppressions_after(after, limit).await?)
}
