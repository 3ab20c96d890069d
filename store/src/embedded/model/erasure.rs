//! Erasing one address: what is stored of its recipients goes, what counts them stays.

use super::Model;
use super::batch::{Batch, Place};
use crate::api::{EraseRecipients, EraseRun, ErasedRecipients, ErasedRun, ErasureRecord, Replace, WriteErasure};
use postrider_common::ids::{BatchId, ErasureId, RequestId};
use postrider_common::sabotage::{Fault, planted};
use postrider_common::state::RecipientState;
use serde::{Deserialize, Serialize};

/// What is known of an erasure, for whoever works on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Erasure {
    version: u64,
    by: RequestId,
    held_until: i64,
    open: bool,
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
}

impl Batch {
    /// Its payload is there, or needs not to be.
    fn takes(&self, payload: &[u8]) -> bool {
        self.segments.is_empty() != payload.is_empty()
    }
}

impl Model {
    pub fn erase_recipients(&mut self, now: i64, erase: EraseRecipients) -> ErasedRecipients {
        let id = &erase.batch;
        if !self.runs.contains_key(&id.run) {
            return ErasedRecipients::Gone;
        }
        let Some(batch) = self.batches.get(id) else { return ErasedRecipients::Gone };
        let mut erased = erase.known.clone();
        erased.extend(&erase.recipients);
        erased.sort_unstable();
        erased.dedup();
        let as_known = batch.erased.iter().eq(&erase.known);
        if !as_known && batch.erased.iter().eq(&erased) {
            return ErasedRecipients::Done { ended: 0 };
        }
        if !as_known
            || !batch.takes(&erase.payload)
            || erased.iter().any(|index| *index as usize >= batch.entries.len())
        {
            return ErasedRecipients::Changed;
        }
        self.lineage.grow();
        self.suspect(now, id);
        let mut ended = 0;
        for index in &erase.recipients {
            let was_pending = self.change(now, id, *index, |entry| {
                let waits = matches!(entry.state, RecipientState::Pending | RecipientState::Deferred);
                if waits {
                    entry.cancel(now);
                }
                (waits, Default::default())
            });
            ended += u32::from(was_pending == Some(true));
            self.forget_dead(id, *index);
        }
        let Some(batch) = self.batches.get_mut(id) else { return ErasedRecipients::Gone };
        batch.erased = erased.into_iter().collect();
        for index in erase.recipients.iter().chain(&erase.details) {
            if let Some(entry) = batch.entries.get_mut(*index as usize) {
                entry.detail.clear();
            }
        }
        batch.payload = erase.payload;
        self.place_erased(now, id);
        ErasedRecipients::Done { ended }
    }

    fn place_erased(&mut self, now: i64, id: &BatchId) {
        let Some(batch) = self.batches.get(id) else { return };
        let is_over = batch.entries.iter().all(|entry| entry.state.is_final());
        let moves = match &batch.place {
            Place::Ready | Place::Delayed(_) => true,
            // Its history may be on its way to a segment as it was: another stamp refuses that.
            Place::Settled => batch.segments.is_empty() || batch.stamp.is_some(),
            Place::Dead => is_over,
            Place::Leased(_) => false,
        };
        if moves {
            self.put_back(now, id);
        }
    }

    pub fn erase_run(&mut self, now: i64, erase: EraseRun) -> ErasedRun {
        let Some(run) = self.runs.get_mut(&erase.run) else { return ErasedRun::NoRun };
        let differs = |replace: &Option<Replace>, stored: &[u8]| {
            replace.as_ref().is_some_and(|replace| replace.from != stored && replace.to != stored)
        };
        if differs(&erase.audience, &run.frozen.audience) || differs(&erase.open, &run.split.open) {
            return ErasedRun::Changed;
        }
        self.lineage.grow();
        if let Some(audience) = erase.audience {
            run.frozen.audience = audience.to;
        }
        if let Some(open) = erase.open {
            run.split.open = open.to;
        }
        let answer = ErasedRun::Done { open: run.split.open.clone() };
        if let Some((_, request)) = run.split.hold.take_if(|_| !planted(Fault::ErasedSplitGoesOn)) {
            self.split_requests.remove(&request);
            self.set_split_due(&erase.run, Some(now));
        }
        answer
    }

    pub fn write_erasure(&mut self, now: i64, write: WriteErasure) -> Option<u64> {
        let known = self.erasures.get(&write.id);
        let version = known.map_or(0, |known| known.version);
        if known.is_some_and(|known| known.version == write.version + 1 && known.by == write.by) {
            return Some(version);
        }
        let is_held = known.is_some_and(|known| known.held_until > now);
        if version != write.version || (write.takes && is_held) {
            return None;
        }
        let WriteErasure { id, by, hold_ms, open, body, .. } = write;
        let held_until = now.saturating_add_unsigned(hold_ms);
        self.erasures.insert(id, Erasure { version: version + 1, by, held_until, open, body });
        Some(version + 1)
    }

    pub fn erasure(&self, id: &ErasureId) -> Option<ErasureRecord> {
        let record = |known: &Erasure| ErasureRecord {
            id: id.clone(),
            version: known.version,
            open: known.open,
            body: known.body.clone(),
        };
        self.erasures.get(id).map(record)
    }

    /// In order of their ids.
    pub fn open_erasures(&self, limit: usize) -> Vec<ErasureRecord> {
        let open = self.erasures.iter().filter(|(_, known)| known.open);
        open.filter_map(|(id, _)| self.erasure(id)).take(limit).collect()
    }
}
