//! Changes a list: reads its newest version and the rows that are brought, and writes the next version, all of it or nothing.
//!
//! Within the rows that are brought the first of a key counts, as in a split; what is brought takes the place of what the
//! list has. So a change that is made again makes the same rows, and no version.
//!
//! In memory are hashes of the keys that are brought, 20 to 39 bytes each, and never rows of the list.

use super::draft::{Draft, Names};
use super::version::{self, Change, Counts, Version};
use super::{ListError, missing};
use crate::audience::read;
use crate::audience::{Row, RowReason};
use crate::core::Core;
use crate::erase;
use crate::split::{AlreadyHashed, bad_row, hash};
use postrider_common::campaign::{Audience, OnBadRow};
use postrider_common::erasure::Erasing;
use postrider_common::ids::ListName;
use postrider_common::limits::{BAD_ROWS_KEPT_MAX, LIST_VERSIONS_KEPT_MAX, RUN_RECIPIENTS_MAX};
use postrider_common::message::Recipient;
use postrider_store::Shared;
use std::collections::{BTreeSet, HashSet};
use std::hash::BuildHasherDefault;
use std::time::Duration;

/// Others made a version, or an erasure began, at each of these.
const TRIES_MAX: u32 = 10;
/// Below the age at which what nobody names is swept.
const CHANGE_MAX: Duration = Duration::from_hours(1);
/// Characters of a reason that are told.
const REASON_CHARS_MAX: usize = 300;

/// A change to be made. The source of the rows is stored or inline, and address and key have the list's names.
#[derive(Debug, Clone)]
pub struct Wish {
    pub change: Change,
    pub rows: Audience,
    pub on_bad_row: OnBadRow,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    pub version: u64,
    /// False: the list is as it was.
    pub is_new: bool,
    pub rows: u64,
    pub counts: Counts,
    /// The first of those that were not taken.
    pub refused: Vec<Refused>,
}

/// A row that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub row: u64,
    pub reason: String,
}

type Keys = HashSet<u128, BuildHasherDefault<AlreadyHashed>>;

/// Dropping it leaves an upload that is swept, and the list as it was or as it is to be.
pub async fn change(core: &Core, name: &ListName, wish: &Wish) -> Result<Changed, ListError> {
    let too_long = ListError::TooLong { hours: CHANGE_MAX.as_secs() / 3600 };
    tokio::time::timeout(CHANGE_MAX, tried(core, name, wish)).await.unwrap_or(Err(too_long))
}

async fn tried(core: &Core, name: &ListName, wish: &Wish) -> Result<Changed, ListError> {
    for _ in 0..TRIES_MAX {
        // Before it is asked who is being erased: who is not among them was erased before, so that what is read from here on
        // has nothing of him, or is erased by a pass that is not among these.
        let passes = core.storage.passes().await?;
        if let Some(changed) = once(core, name, wish, &passes).await? {
            let Changed { version, is_new, rows, counts, refused: _ } = &changed;
            let Counts { added, replaced, removed, absent: _, repeated, bad } = counts;
            tracing::info!(list = %name, version, is_new, rows, added, replaced, removed, repeated, bad, "list changed");
            return Ok(changed);
        }
    }
    Err(ListError::Busy)
}

/// None: it is to be done again. `passes`: those of erasures that had begun before.
pub(super) async fn once(
    core: &Core,
    name: &ListName,
    wish: &Wish,
    passes: &BTreeSet<String>,
) -> Result<Option<Changed>, ListError> {
    let storage = &core.storage;
    let newest = version::newest(storage, name).await?;
    if newest.is_none() && wish.change != Change::Import {
        return Err(missing(storage, name).await?);
    }
    let before = newest.as_ref().map(|(_, version)| version);
    let erasing = erase::erasing(&*core.store).await?;
    let mut maker =
        Maker { core, erasing, on_bad_row: wish.on_bad_row, counts: Counts::default(), refused: Vec::new() };
    let (address, key) = match (wish.change, before) {
        (Change::Append | Change::Remove, Some(before)) => (before.address.clone(), before.key.clone()),
        (Change::Import, _) | (_, None) => (wish.rows.address_field.clone(), wish.rows.key_field.clone()),
    };
    let mut draft = Draft::begin(core, &address).await?;
    let names = match maker.make(&mut draft, wish, before).await {
        Ok(names) => names,
        Err(error) => {
            draft.abort().await;
            return Err(error);
        }
    };
    let Maker { counts, refused, .. } = maker;
    let rows = draft.rows;
    let is_same =
        |before: &Version| (&before.contents, &before.address, &before.key) == (&names.contents, &address, &key);
    if let Some((number, _)) = newest.as_ref().filter(|(_, before)| is_same(before)) {
        draft.abort().await;
        return Ok(Some(Changed { version: *number, is_new: false, rows, counts, refused }));
    }
    // Before it is there under its name: from here on it is not swept.
    core.store.keep(vec![Shared::Audience(names.sha256.clone())]).await?;
    let (columns, has_more_columns) = (std::mem::take(&mut draft.columns), draft.has_more_columns);
    draft.finish().await?;
    // The erasures of other passes look at it, now that it is there.
    if !storage.passes().await?.is_subset(passes) {
        return Ok(None);
    }
    let version = Version {
        nonce: format!("{:032x}", core.random_wide()),
        sha256: names.sha256,
        contents: names.contents,
        rows,
        address,
        key,
        columns,
        has_more_columns,
        change: wish.change,
        counts,
        changed_at_ms: core.store.now_ms().await?,
    };
    let number = publish(core, name, newest.as_ref(), &version).await?;
    Ok(number.map(|number| Changed { version: number, is_new: true, rows, counts, refused }))
}

/// Makes it the next version of the newest that there was. None: that is not the newest any more.
pub(super) async fn publish(
    core: &Core,
    name: &ListName,
    newest: Option<&(u64, Version)>,
    version: &Version,
) -> Result<Option<u64>, ListError> {
    let storage = &core.storage;
    let number = newest.map_or(1, |(number, _)| number + 1);
    let encoded = version.encode().map_err(|error| ListError::Unread(error.to_string()))?;
    let is_this = |found: Option<Version>, nonce: &str| found.is_some_and(|found| found.nonce == nonce);
    if !storage.write_list(name, number, encoded).await?
        // An answer that was lost: it was written by the first try of the storage's client.
        && !is_this(version::read(storage, name, number).await?, &version.nonce)
    {
        return Ok(None);
    }
    // Versions go from the oldest on: as long as the one before is there, this number was not given before and taken back.
    let mut kept = storage.list_versions(name).await?;
    let is_next = match newest {
        Some((before, version)) => is_this(version::read(storage, name, *before).await?, &version.nonce),
        None => kept.last().is_none_or(|last| *last <= LIST_VERSIONS_KEPT_MAX as u64),
    };
    if !is_next {
        storage.remove_list(name, number).await?;
        return Ok(None);
    }
    while kept.len() > LIST_VERSIONS_KEPT_MAX
        && let Some(oldest) = kept.pop_first()
    {
        storage.remove_list(name, oldest).await?;
    }
    Ok(Some(number))
}

/// Makes the rows of a version.
struct Maker<'a> {
    core: &'a Core,
    erasing: Vec<Erasing>,
    on_bad_row: OnBadRow,
    counts: Counts,
    refused: Vec<Refused>,
}

impl Maker<'_> {
    async fn make(&mut self, draft: &mut Draft, wish: &Wish, before: Option<&Version>) -> Result<Names, ListError> {
        match (wish.change, before) {
            (Change::Import, _) | (Change::Append | Change::Remove, None) => self.import(draft, &wish.rows).await?,
            (Change::Append, Some(before)) => self.append(draft, &wish.rows, before).await?,
            (Change::Remove, Some(before)) => self.remove(draft, &wish.rows, before).await?,
        }
        draft.end().await
    }

    async fn import(&mut self, draft: &mut Draft, rows: &Audience) -> Result<(), ListError> {
        let mut seen = Keys::default();
        let mut rows = read::open(&self.core.storage, rows).await?;
        while let Some(rows) = self.next(&mut rows).await? {
            for row in rows {
                let Some(recipient) = self.taken(row)? else { continue };
                match seen.insert(hash(&recipient.key)) {
                    true => draft.put(recipient).await?,
                    false => self.counts.repeated += 1,
                }
            }
        }
        self.counts.added = draft.rows;
        if draft.rows > 0 {
            return Ok(());
        }
        let message = match self.refused.first() {
            Some(Refused { row, reason }) => format!("no row can be used: row {row}: {reason}"),
            None => "there are no rows".to_owned(),
        };
        Err(ListError::Rows { message, mend: "give rows, or delete the list".to_owned() })
    }

    async fn append(&mut self, draft: &mut Draft, rows: &Audience, before: &Version) -> Result<(), ListError> {
        let mut brought = self.keys(rows).await?;
        self.counts.added = brought.len() as u64;
        let mut old = read::open(&self.core.storage, &before.audience()).await?;
        while let Some(rows) = self.next(&mut old).await? {
            for row in rows {
                let Some(recipient) = self.kept(row) else { continue };
                match brought.contains(&hash(&recipient.key)) {
                    true => self.counts.replaced += 1,
                    false => draft.put(recipient).await?,
                }
            }
        }
        self.counts.added -= self.counts.replaced;
        let mut new = read::open(&self.core.storage, rows).await?;
        while let Some(rows) = self.next(&mut new).await? {
            for row in rows {
                let Some(recipient) = self.kept(row) else { continue };
                match brought.remove(&hash(&recipient.key)) {
                    true => draft.put(recipient).await?,
                    false => self.counts.repeated += 1,
                }
            }
        }
        Ok(())
    }

    async fn remove(&mut self, draft: &mut Draft, rows: &Audience, before: &Version) -> Result<(), ListError> {
        let brought = self.keys(rows).await?;
        let mut found = Keys::default();
        let mut old = read::open(&self.core.storage, &before.audience()).await?;
        while let Some(rows) = self.next(&mut old).await? {
            for row in rows {
                let Some(recipient) = self.kept(row) else { continue };
                let own = hash(&recipient.address.normalised());
                match brought.contains(&own) {
                    true => {
                        self.counts.removed += 1;
                        found.insert(own);
                    }
                    false => draft.put(recipient).await?,
                }
            }
        }
        self.counts.absent = (brought.len() - found.len()) as u64;
        Ok(())
    }

    /// Of all rows that can be used; what cannot is noted.
    async fn keys(&mut self, rows: &Audience) -> Result<Keys, ListError> {
        let mut keys = Keys::default();
        let mut rows = read::open(&self.core.storage, rows).await?;
        while let Some(rows) = self.next(&mut rows).await? {
            for row in rows {
                keys.extend(self.taken(row)?.map(|recipient| hash(&recipient.key)));
            }
            if keys.len() > RUN_RECIPIENTS_MAX {
                let message = format!("there are over {RUN_RECIPIENTS_MAX} rows (run_recipients_max)");
                return Err(ListError::Rows { message, mend: "change the list in parts".to_owned() });
            }
        }
        Ok(keys)
    }

    async fn next(&self, rows: &mut read::Rows) -> Result<Option<Vec<Row>>, ListError> {
        tokio::select! {
            biased;
            () = self.core.stopping.cancelled() => Err(ListError::Stopping),
            rows = rows.next() => Ok(rows?),
        }
    }

    /// A row that is brought. None: it cannot be used, which is noted.
    fn taken(&mut self, row: Row) -> Result<Option<Recipient>, ListError> {
        let reason = match row.recipient {
            Ok(recipient) => match self.without_erased(recipient) {
                Some(recipient) => return Ok(Some(recipient)),
                None => RowReason::erased(),
            },
            Err(reason) => reason,
        };
        match self.on_bad_row {
            OnBadRow::Fail if !reason.is_erased() => return Err(bad_row(row.number, &reason).into()),
            OnBadRow::Fail | OnBadRow::Skip => self.counts.bad += 1,
        }
        if self.refused.len() < BAD_ROWS_KEPT_MAX {
            let reason = reason.0.chars().take(REASON_CHARS_MAX).collect();
            self.refused.push(Refused { row: row.number, reason });
        }
        Ok(None)
    }

    /// A row of the list, or one that was brought and noted before. None: there is nothing left of it.
    fn kept(&self, row: Row) -> Option<Recipient> {
        self.without_erased(row.recipient.ok()?)
    }

    fn without_erased(&self, mut recipient: Recipient) -> Option<Recipient> {
        for erasing in &self.erasing {
            erasing.take_from_recipient(&mut recipient);
        }
        (!recipient.address.is_erased()).then_some(recipient)
    }
}
