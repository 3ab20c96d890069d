//! History, segment by segment, named by batches or not.

use super::EraseError;
use super::request::{Step, open};
use super::runs::find;
use super::work::Work;
use crate::core::Core;
use crate::history::{HistoryError, Segment};
use crate::storage::StorageError;
use postrider_common::ids::{BatchId, RunId};
use postrider_store::{EraseRecipients, ErasedRecipients};
use std::collections::{BTreeMap, BTreeSet};

/// Looks at a batch that changes at the same time.
const LOOKS_MAX: u32 = 50;

pub(super) async fn all(work: &mut Work<'_>, newest: &Option<(i64, RunId)>, first: u8) -> Result<(), EraseError> {
    for folder in first..=u8::MAX {
        for name in work.core.storage.segments_in(folder).await? {
            one(work, &name).await?;
        }
        work.go_on(Step::Segments { newest: newest.clone(), folder }).await?;
    }
    Ok(())
}

async fn read(work: &mut Work<'_>, name: &str) -> Result<Option<Segment>, EraseError> {
    let bytes = match work.core.storage.read_segment(name).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(StorageError::Sealed(sealed)) if !sealed.is_about_keys() => {
            work.count(|counts| counts.unreadable += 1);
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    match Segment::read(name, &bytes) {
        Ok(segment) => Ok(Some(segment)),
        Err(HistoryError::Damaged { .. }) => {
            work.count(|counts| counts.unreadable += 1);
            Ok(None)
        }
        Err(error @ (HistoryError::Storage(_) | HistoryError::Missing(_))) => Err(error.into()),
    }
}

/// The store learns first whose replies are not kept, then the corrections go, and last the segment by which they are found.
async fn one(work: &mut Work<'_>, name: &str) -> Result<(), EraseError> {
    let Some(segment) = read(work, name).await? else { return Ok(()) };
    if !segment.has(&work.erasing) {
        return Ok(());
    }
    let own = segment.recipients_of(&work.erasing)?;
    let mut corrections: BTreeMap<String, BTreeSet<(BatchId, u32)>> = BTreeMap::new();
    // What a master left that died is a copy of what another segment says.
    let (mut recipients, mut copies) = (0, 0);
    for (batch, indexes) in by_batch(&own) {
        let Some(others) = tell(work, &batch, &indexes, name).await? else {
            copies += indexes.len() as u64;
            continue;
        };
        recipients += indexes.len() as u64;
        for other in others {
            let all = corrections.entry(other).or_default();
            all.extend(indexes.iter().map(|index| (batch.clone(), *index)));
        }
    }
    for (other, own) in corrections {
        let Some(segment) = read(work, &other).await? else { continue };
        write(work, &segment, &own).await?;
    }
    let mentions = copies + write(work, &segment, &own.into_iter().collect()).await?;
    work.count(|counts| {
        counts.recipients += recipients;
        counts.mentions += mentions;
    });
    Ok(())
}

fn by_batch(own: &[(BatchId, u32)]) -> BTreeMap<BatchId, Vec<u32>> {
    let mut batches: BTreeMap<BatchId, Vec<u32>> = BTreeMap::new();
    own.iter().for_each(|(batch, index)| batches.entry(batch.clone()).or_default().push(*index));
    batches
}

/// Has the store know them, and tells which other segments have corrections of the batch. None: the batch does not name this
/// segment.
async fn tell(
    work: &mut Work<'_>,
    batch: &BatchId,
    indexes: &[u32],
    name: &str,
) -> Result<Option<Vec<String>>, EraseError> {
    for _ in 0..LOOKS_MAX {
        let record = find(work, batch).await?;
        // Left by a master that died, or by a run that is forgotten.
        let Some(record) = record.filter(|record| record.segments.iter().any(|named| named == name)) else {
            return Ok(None);
        };
        let erase = EraseRecipients {
            batch: batch.clone(),
            known: record.erased,
            recipients: indexes.to_vec(),
            details: Vec::new(),
            payload: Vec::new(),
        };
        work.step()?;
        match work.core.store.erase_recipients(erase).await? {
            ErasedRecipients::Done { .. } => {
                return Ok(Some(record.segments.into_iter().filter(|named| named != name).collect()));
            }
            ErasedRecipients::Gone => return Ok(None),
            ErasedRecipients::Changed => {}
        }
    }
    Err(EraseError::Busy)
}

/// Writes a segment anew if there is something to be taken from it. How many mentions went.
async fn write(work: &mut Work<'_>, segment: &Segment, own: &BTreeSet<(BatchId, u32)>) -> Result<u64, EraseError> {
    let Some((bytes, mentions)) = segment.without(&work.erasing, own)? else { return Ok(0) };
    work.be_sure().await?;
    work.core.storage.write_segment(segment.name(), bytes).await?;
    Ok(mentions)
}

/// Takes all that is being erased from one segment, which was written from what was read before. Called by its writer.
pub async fn scrub(core: &Core, name: &str) -> Result<(), EraseError> {
    for (_, erasing) in open(&*core.store).await? {
        let Some(bytes) = core.storage.read_segment(name).await? else { return Ok(()) };
        let segment = Segment::read(name, &bytes)?;
        let own = segment.recipients_of(&erasing)?.into_iter().collect();
        if let Some((bytes, _)) = segment.without(&erasing, &own)? {
            core.storage.write_segment(name, bytes).await?;
        }
    }
    Ok(())
}
