//! Cuts rows into batches. Pure: rows go in, steps for the store come out.
//!
//! Which recipients share a batch, and its sequence, follow from the order of the rows alone. So a split
//! that goes on from any stored position makes the batches that the first one would have made: rows up
//! to the position only tell which keys were seen, the part-filled batches come from the store.

use crate::audience::row::weight;
use crate::audience::{ReadError, Row, RowReason};
use postrider_common::campaign::OnBadRow;
use postrider_common::erasure::Erasing;
use postrider_common::ids::{Fence, RunId, SiteName};
use postrider_common::limits::{
    BAD_ROWS_KEPT_MAX, BATCH_BYTES_MAX, BATCH_RECIPIENTS_MAX, RUN_RECIPIENTS_MAX, SPLIT_OPEN_BYTES_MAX,
    SPLIT_STEP_BATCHES_MAX, SPLIT_STEP_ROWS_MAX,
};
use postrider_common::message::Recipient;
use postrider_common::payload::{self, InvalidPayload};
use postrider_common::sabotage::{Fault, planted};
use postrider_common::site::SiteTable;
use postrider_store::{AddBatches, BadRow, NewBatch, SplitLease};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

/// Batches that one row can close: the one it would overfill, the one it fills, and the largest one when
/// all open ones together are too large.
const BATCHES_PER_ROW_MAX: usize = 3;
/// Characters of a reason that are kept.
const REASON_CHARS_MAX: usize = 300;

/// The state of one split.
#[derive(Debug)]
pub struct Splitter {
    run: RunId,
    fence: Fence,
    sites: Arc<SiteTable>,
    on_bad_row: OnBadRow,
    /// Nobody with one of these addresses comes in.
    erasing: Vec<Erasing>,
    seen: HashSet<u128, BuildHasherDefault<AlreadyHashed>>,
    recipients_max: usize,
    open: BTreeMap<SiteName, Open>,
    open_bytes: usize,
    /// Batches that the next step stores.
    ready: Vec<NewBatch>,
    /// Sequence of the newest batch, stored or ready.
    sequence: u64,
    /// Rows that are behind the position in the store.
    cursor: u64,
    /// Rows taken.
    taken: u64,
    bad_rows: u64,
    repeated_rows: u64,
    samples: Vec<BadRow>,
    ended: bool,
    complete: bool,
}

/// A part-filled batch.
#[derive(Debug, Default)]
struct Open {
    recipients: Vec<Recipient>,
    bytes: usize,
}

impl Splitter {
    /// Goes on from where the lease says. Rows are to be given from the first one again.
    pub fn resume(
        lease: &SplitLease,
        sites: Arc<SiteTable>,
        on_bad_row: OnBadRow,
        erasing: Vec<Erasing>,
    ) -> Result<Self, ReadError> {
        let mut splitter = Self {
            run: lease.run.clone(),
            fence: lease.fence.clone(),
            sites,
            on_bad_row,
            erasing,
            seen: HashSet::default(),
            recipients_max: RUN_RECIPIENTS_MAX,
            open: BTreeMap::new(),
            open_bytes: 0,
            ready: Vec::new(),
            sequence: lease.sequence_max,
            cursor: lease.cursor,
            taken: 0,
            bad_rows: lease.bad_rows,
            repeated_rows: lease.repeated_rows,
            samples: Vec::new(),
            ended: false,
            complete: false,
        };
        if !lease.open.is_empty() {
            let recipients = payload::decode(&lease.open).map_err(|error| {
                let message = format!("the position of the split cannot be read: {error}");
                match error {
                    // It is whole: what is missing is the key.
                    InvalidPayload::Sealed(_) => ReadError::Storage(message),
                    InvalidPayload::Frame(_) | InvalidPayload::Message(_) | InvalidPayload::Shape(_) => {
                        ReadError::run("split_position", message, "cancel this run and start a new one")
                    }
                }
            })?;
            for recipient in recipients {
                match splitter.without_erased(recipient) {
                    Some(recipient) => splitter.place(recipient),
                    None => splitter.bad_rows += 1,
                }
            }
        }
        Ok(splitter)
    }

    /// Takes the next row. An error ends the run.
    pub fn take(&mut self, row: Row) -> Result<(), ReadError> {
        self.taken += 1;
        let before_position = self.taken <= self.cursor;
        match row.recipient {
            Ok(recipient) => {
                let is_new = self.seen.insert(hash(&recipient.key));
                if self.seen.len() > self.recipients_max {
                    let message = format!("row {}: a run has at most {} recipients", row.number, self.recipients_max);
                    let mend =
                        "cancel the run, or let it end with those it has, and make several campaigns of the audience";
                    return Err(ReadError::run("audience_too_many", message, mend));
                }
                match (before_position, is_new) {
                    (true, _) => {}
                    (false, true) => match self.without_erased(recipient) {
                        Some(recipient) => self.place(recipient),
                        None => self.skip(row.number, &RowReason::erased()),
                    },
                    (false, false) if planted(Fault::DedupeOff) => self.place(recipient),
                    (false, false) => self.repeated_rows += 1,
                }
            }
            Err(_) if before_position => {}
            Err(reason) if reason.is_erased() => self.skip(row.number, &reason),
            Err(reason) => match self.on_bad_row {
                OnBadRow::Fail => {
                    let mend = "mend that row and run the campaign again, or set on_bad_row = \"skip\"";
                    return Err(ReadError::run("bad_row", format!("row {}: {reason}", row.number), mend));
                }
                OnBadRow::Skip => self.skip(row.number, &reason),
            },
        }
        Ok(())
    }

    fn skip(&mut self, number: u64, reason: &RowReason) {
        if self.bad_rows < BAD_ROWS_KEPT_MAX as u64 {
            let reason = reason.0.chars().take(REASON_CHARS_MAX).collect();
            self.samples.push(BadRow { row: number, reason });
        }
        self.bad_rows += 1;
    }

    /// Without what is being erased, or was. None: all of it.
    fn without_erased(&self, mut recipient: Recipient) -> Option<Recipient> {
        for erasing in &self.erasing {
            erasing.take_from_recipient(&mut recipient);
        }
        (!recipient.address.is_erased()).then_some(recipient)
    }

    /// The audience is read to its end.
    pub fn end(&mut self) -> Result<(), ReadError> {
        if self.taken < self.cursor {
            let message = format!("the audience has {} rows, and {} were read from it before", self.taken, self.cursor);
            return Err(ReadError::run("audience_changed", message, "cancel this run and start a new one"));
        }
        self.ended = true;
        Ok(())
    }

    /// Whether a step should be stored before more rows are taken.
    pub fn step_is_full(&self) -> bool {
        self.ready.len() + BATCHES_PER_ROW_MAX > SPLIT_STEP_BATCHES_MAX
            || self.taken.saturating_sub(self.cursor) >= SPLIT_STEP_ROWS_MAX
    }

    /// Whether rows up to the stored position are still being read again.
    pub fn is_behind_position(&self) -> bool {
        self.taken < self.cursor
    }

    /// What to store next: all since the last step, up to `SPLIT_STEP_BATCHES_MAX` batches.
    pub fn step(&mut self, ttl_ms: u64) -> AddBatches {
        while self.ended && self.ready.len() < SPLIT_STEP_BATCHES_MAX {
            let Some(site) = self.open.keys().next().cloned() else { break };
            self.close(&site);
        }
        self.complete = self.ended && self.open.is_empty();
        let cursor_next = self.taken.max(self.cursor);
        let add = AddBatches {
            run: self.run.clone(),
            fence: self.fence.clone(),
            cursor: self.cursor,
            cursor_next,
            batches: std::mem::take(&mut self.ready),
            open: self.open_encoded(),
            bad_rows: self.bad_rows,
            repeated_rows: self.repeated_rows,
            bad_row_samples: std::mem::take(&mut self.samples),
            complete: self.complete,
            ttl_ms,
        };
        self.cursor = cursor_next;
        add
    }

    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// The last step is the last one of the run.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    fn open_encoded(&self) -> Vec<u8> {
        if self.open.is_empty() {
            return Vec::new();
        }
        let recipients: Vec<Recipient> = self.open.values().flat_map(|open| open.recipients.iter().cloned()).collect();
        payload::encode(&recipients).into()
    }

    fn place(&mut self, recipient: Recipient) {
        let site = self.sites.site_of(&recipient.address.domain());
        let bytes = weight(&recipient);
        if self.open.get(&site).is_some_and(|open| open.bytes + bytes > BATCH_BYTES_MAX) {
            self.close(&site);
        }
        let open = self.open.entry(site.clone()).or_default();
        open.recipients.push(recipient);
        open.bytes += bytes;
        self.open_bytes += bytes;
        if open.recipients.len() >= BATCH_RECIPIENTS_MAX {
            self.close(&site);
        }
        if self.open_bytes > SPLIT_OPEN_BYTES_MAX {
            let largest = self.open.iter().max_by_key(|(_, open)| open.bytes).map(|(site, _)| site.clone());
            if let Some(site) = largest {
                self.close(&site);
            }
        }
    }

    fn close(&mut self, site: &SiteName) {
        let Some(open) = self.open.remove(site) else { return };
        self.open_bytes -= open.bytes;
        self.sequence += 1;
        self.ready.push(NewBatch {
            sequence: self.sequence,
            site: site.clone(),
            count: open.recipients.len() as u32,
            payload: payload::encode(&open.recipients).into(),
        });
    }
}

/// 128 bits: among ten thousand million keys a collision is less likely than a broken disk.
fn hash(key: &str) -> u128 {
    let digest = Sha256::digest(key);
    digest.iter().take(16).fold(0, |sum, byte| (sum << 8) | u128::from(*byte))
}

/// The keys of the set are hashes already.
#[derive(Debug, Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |sum, byte| sum.rotate_left(8) ^ u64::from(*byte));
    }
    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

#[cfg(test)]
#[path = "splitter_tests.rs"]
mod tests;
