//! Cuts rows into batches. Pure: rows go in, steps for the store come out.
//!
//! Which recipients share a batch, and its sequence, follow from the order of the rows alone. So a split
//! that goes on from any stored position makes the batches that the first one would have made: rows up
//! to the position only tell which keys were seen, the part-filled batches come from the store.
//!
//! With waves the rows are given once for each, after a survey (`waves`): only those of its wave are placed.

use super::plan::Local;
use super::survey::Surveyed;
use super::waves::{Position, Waves};
use crate::audience::row::weight;
use crate::audience::{ReadError, Row, RowReason};
use postrider_common::campaign::OnBadRow;
use postrider_common::erasure::Erasing;
use postrider_common::ids::{Fence, RunId, SiteName};
use postrider_common::limits::{
    BAD_ROWS_KEPT_MAX, BATCH_BYTES_MAX, BATCH_RECIPIENTS_MAX, RUN_RECIPIENTS_MAX, SPLIT_OPEN_BYTES_MAX,
    SPLIT_STEP_BATCHES_MAX, SPLIT_STEP_ROWS_MAX,
};
use postrider_common::local_time::SendAtLocal;
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
pub(super) const REASON_CHARS_MAX: usize = 300;

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
    /// None: all are sent to at once, or the survey is still to be made.
    waves: Option<Waves>,
    /// By which a row tells its wave.
    rule: Option<SendAtLocal>,
    /// Rows that are behind the position in the store, those of each pass.
    cursor: u64,
    /// Rows taken, of this pass.
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
        local: Option<&Local>,
    ) -> Result<Self, ReadError> {
        let position = Position::decode(&lease.open).map_err(unreadable)?;
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
            waves: position.waves,
            rule: local.map(|local| local.rule.clone()),
            cursor: lease.cursor,
            taken: 0,
            bad_rows: lease.bad_rows,
            repeated_rows: lease.repeated_rows,
            samples: Vec::new(),
            ended: false,
            complete: false,
        };
        for recipient in position.open {
            match splitter.without_erased(recipient) {
                Some(recipient) => splitter.place(recipient),
                // With waves it is told by who is missing at the end.
                None => splitter.bad_rows += u64::from(splitter.waves.is_none()),
            }
        }
        Ok(splitter)
    }

    /// The survey is to be made first.
    pub fn needs_survey(&self) -> bool {
        self.rule.is_some() && self.waves.is_none()
    }

    /// The waves are known: rows are to be given from the first one, once for each wave. To be stored as a step first.
    pub fn begin_waves(&mut self, surveyed: Surveyed) {
        self.bad_rows = surveyed.waves.bad_rows;
        self.repeated_rows = surveyed.repeated_rows;
        self.samples = surveyed.samples;
        self.ended = surveyed.waves.waves.is_empty();
        self.waves = Some(surveyed.waves);
    }

    pub fn waves(&self) -> Option<&Waves> {
        self.waves.as_ref()
    }

    /// Of a wave nothing is behind the position yet.
    pub fn begins_pass(&self) -> bool {
        self.waves.is_some() && self.behind() == 0
    }

    /// Rows behind the position in the store, of this pass.
    fn behind(&self) -> u64 {
        self.cursor.saturating_sub(self.waves.as_ref().map_or(0, Waves::base))
    }

    /// Takes the next row. An error ends the run.
    pub fn take(&mut self, row: Row) -> Result<(), ReadError> {
        self.taken += 1;
        let before_position = self.taken <= self.behind();
        if let (Some(waves), Some(rule)) = (&self.waves, &self.rule) {
            // What is bad was counted by the survey.
            let Ok(recipient) = row.recipient else { return Ok(()) };
            let Ok(wave) = waves.clocks.of(rule, &recipient.fields) else { return Ok(()) };
            let is_of_pass = *wave == Some(waves.pass);
            let is_new = self.seen.insert(hash(&recipient.key));
            if is_new
                && is_of_pass
                && !before_position
                && let Some(recipient) = self.without_erased(recipient)
            {
                self.place(recipient);
            }
            return Ok(());
        }
        match row.recipient {
            Ok(recipient) => {
                let is_new = self.seen.insert(hash(&recipient.key));
                if self.seen.len() > self.recipients_max {
                    return Err(too_many(row.number, self.recipients_max));
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
                OnBadRow::Fail => return Err(bad_row(row.number, &reason)),
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
        let before = self.waves.as_ref().map_or(self.cursor, |waves| waves.rows);
        if self.taken < before || (self.waves.is_some() && self.taken > before) {
            let message = format!("the audience has {} rows, and {before} were read from it before", self.taken);
            return Err(ReadError::run("audience_changed", message, "cancel this run and start a new one"));
        }
        self.ended = true;
        Ok(())
    }

    /// Whether a step should be stored before more rows are taken.
    pub fn step_is_full(&self) -> bool {
        self.ready.len() + BATCHES_PER_ROW_MAX > SPLIT_STEP_BATCHES_MAX
            || self.taken.saturating_sub(self.behind()) >= SPLIT_STEP_ROWS_MAX
    }

    /// Whether rows up to the stored position are still being read again.
    pub fn is_behind_position(&self) -> bool {
        self.taken < self.behind()
    }

    /// What to store next: all since the last step, up to `SPLIT_STEP_BATCHES_MAX` batches.
    pub fn step(&mut self, ttl_ms: u64) -> AddBatches {
        while self.ended && self.ready.len() < SPLIT_STEP_BATCHES_MAX {
            let Some(site) = self.open.keys().next().cloned() else { break };
            self.close(&site);
        }
        let cursor_next = self.waves.as_ref().map_or(0, Waves::base).saturating_add(self.taken).max(self.cursor);
        if self.ended && self.open.is_empty() {
            self.end_pass();
        }
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

    /// All rows were given, and of the last wave all are in batches.
    fn end_pass(&mut self) {
        let Some(waves) = &mut self.waves else {
            self.complete = true;
            return;
        };
        if waves.next_pass() {
            (self.ended, self.taken) = (false, 0);
            self.seen.clear();
        } else {
            self.bad_rows = waves.bad_rows_in_all();
            self.complete = true;
        }
    }

    /// All rows of the pass were given, and not all of it is stored.
    pub fn is_ending(&self) -> bool {
        self.ended && !self.complete
    }

    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// The last step is the last one of the run.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    fn open_encoded(&self) -> Vec<u8> {
        let recipients: Vec<Recipient> = self.open.values().flat_map(|open| open.recipients.iter().cloned()).collect();
        Position::encode(self.waves.as_ref().filter(|_| !self.complete), &recipients)
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
        let not_before_ms = self.waves.as_ref().map_or(0, Waves::at_ms);
        if let Some(waves) = &mut self.waves {
            waves.count(open.recipients.len());
        }
        self.ready.push(NewBatch {
            sequence: self.sequence,
            site: site.clone(),
            count: open.recipients.len() as u32,
            payload: payload::encode(&open.recipients).into(),
            not_before_ms,
            checked: 0,
        });
    }
}

/// What ends a run that is to have none.
pub(crate) fn bad_row(number: u64, reason: &RowReason) -> ReadError {
    let mend = "mend that row and run the campaign again, or set on_bad_row = \"skip\"";
    ReadError::run("bad_row", format!("row {number}: {reason}"), mend)
}

pub(super) fn too_many(number: u64, max: usize) -> ReadError {
    let message = format!("row {number}: a run has at most {max} recipients");
    let mend = "cancel the run, or let it end with those it has, and make several campaigns of the audience";
    ReadError::run("audience_too_many", message, mend)
}

fn unreadable(error: InvalidPayload) -> ReadError {
    let message = format!("the position of the split cannot be read: {error}");
    match error {
        // It is whole: what is missing is the key.
        InvalidPayload::Sealed(_) => ReadError::Storage(message),
        InvalidPayload::Frame(_) | InvalidPayload::Message(_) | InvalidPayload::Shape(_) => {
            ReadError::run("split_position", message, "cancel this run and start a new one")
        }
    }
}

/// 128 bits: among ten thousand million keys a collision is less likely than a broken disk.
pub(crate) fn hash(key: &str) -> u128 {
    let digest = Sha256::digest(key);
    digest.iter().take(16).fold(0, |sum, byte| (sum << 8) | u128::from(*byte))
}

/// The keys of the set are hashes already.
#[derive(Debug, Default)]
pub(crate) struct AlreadyHashed(u64);

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
