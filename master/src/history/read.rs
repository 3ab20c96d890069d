//! Reads batches whole, from the store's record and from the segments it names.

use super::{HistoryError, Known, Segment, stored};
use crate::storage::Storage;
use postrider_common::ids::BatchId;
use postrider_store::{BatchRecord, RunRecord};
use std::collections::VecDeque;
use std::sync::Arc;

/// Segments kept unpacked by one reader: neighbours in a run were settled at about the same time, those of different
/// sites apart. A few megabytes each.
const SEGMENTS_KEPT_MAX: usize = 16;

/// Reads one list; keeps the segments it read last.
#[derive(Debug)]
pub struct Reader {
    storage: Storage,
    kept: VecDeque<(String, Arc<Segment>)>,
}

impl Reader {
    pub fn new(storage: Storage) -> Self {
        Self { storage, kept: VecDeque::new() }
    }

    /// Every recipient of a batch, by index.
    pub async fn batch(&mut self, run: &RunRecord, batch: &BatchRecord) -> Result<Vec<Known>, HistoryError> {
        if !batch.is_retired() {
            return stored(run, batch);
        }
        let mut known = Vec::with_capacity(batch.recipients.len());
        for name in &batch.segments {
            self.segment(name).await?.apply(&batch.id, &mut known)?;
        }
        if known.len() != batch.recipients.len() {
            let (found, stored) = (known.len(), batch.recipients.len());
            let why = format!("its segments have {found} recipients and its tombstone {stored}");
            return Err(HistoryError::damaged(format!("the retired batch {}", batch.id), why));
        }
        // Corrections that no segment has yet.
        for (one, delivery) in known.iter_mut().zip(&batch.recipients).filter(|(_, d)| d.settled_at_ms.is_some()) {
            one.state = delivery.state;
            one.code.clone_from(&delivery.code);
            one.detail.clone_from(&delivery.detail);
            one.settled_at_ms = delivery.settled_at_ms;
        }
        Ok(known)
    }

    /// Whether a retired batch may have somebody with this address. Cheaper than reading it. `needle`: see
    /// `Segment::mentions`.
    pub async fn may_have(&mut self, id: &BatchId, segments: &[String], needle: &str) -> Result<bool, HistoryError> {
        // Addresses are in the first one only.
        match segments.first() {
            Some(name) => Ok(self.segment(name).await?.mentions(id, needle)),
            None => Ok(true),
        }
    }

    async fn segment(&mut self, name: &str) -> Result<Arc<Segment>, HistoryError> {
        if let Some(at) = self.kept.iter().position(|(kept, _)| kept == name)
            && let Some(kept) = self.kept.remove(at)
        {
            let segment = Arc::clone(&kept.1);
            self.kept.push_back(kept);
            return Ok(segment);
        }
        let bytes = self.storage.read_segment(name).await?;
        let bytes = bytes.ok_or_else(|| HistoryError::Missing(name.to_owned()))?;
        let segment = Arc::new(Segment::read(name, &bytes)?);
        if self.kept.len() == SEGMENTS_KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back((name.to_owned(), Arc::clone(&segment)));
        Ok(segment)
    }
}
