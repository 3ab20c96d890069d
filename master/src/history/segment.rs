//! A segment: what settled batches leave behind, one JSON line a recipient, in one zstd frame. Pure.
//!
//! The first line is the header: the version, and the batches with their number of lines, in order. A line of a batch
//! that was retired before is a correction: it has only what changed, and overrides what earlier segments say of that
//! recipient.

use super::{HistoryError, Known};
use postrider_common::ids::{BatchId, to_hex};
use postrider_common::state::{RecipientState, UnknownReason};
use postrider_store::BatchRecord;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::ops::Range;

const VERSION: u32 = 1;
const ZSTD_LEVEL: i32 = 3;
/// Bytes of an unpacked segment: far beyond what `SEGMENT_BATCHES_MAX` batches of the longest texts come to, so only
/// damage meets it.
const SEGMENT_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Bytes of the hash that a segment is named by.
const NAME_BYTES: usize = 14;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Header {
    postrider_history: u32,
    /// With their lines.
    batches: Vec<(BatchId, usize)>,
}

/// One recipient. A correction has only what is not optional.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Line {
    pub batch: BatchId,
    pub index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    pub code: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown_reason: Option<UnknownName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    settled_at_ms: i64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum UnknownName {
    ReplyLost,
    OutcomeNotRecorded,
}

impl From<UnknownReason> for UnknownName {
    fn from(reason: UnknownReason) -> Self {
        match reason {
            UnknownReason::ReplyLost => Self::ReplyLost,
            UnknownReason::OutcomeNotRecorded => Self::OutcomeNotRecorded,
        }
    }
}

impl From<UnknownName> for UnknownReason {
    fn from(name: UnknownName) -> Self {
        match name {
            UnknownName::ReplyLost => Self::ReplyLost,
            UnknownName::OutcomeNotRecorded => Self::OutcomeNotRecorded,
        }
    }
}

/// A segment to be stored.
#[derive(Debug)]
pub struct Written {
    /// Of its contents and its attempt: no other segment ever has it.
    pub name: String,
    pub bytes: Vec<u8>,
    pub recipients: u64,
}

/// Packs batches: those not retired before with what is known of each recipient, others with their corrections. `attempt`
/// is random: a segment that is left by a crash is not mistaken for one that is written again.
pub fn write(attempt: u128, batches: &[(&BatchRecord, Vec<Known>)]) -> Result<Written, HistoryError> {
    let mut lines = Vec::new();
    let mut header = Header { postrider_history: VERSION, batches: Vec::with_capacity(batches.len()) };
    for (batch, known) in batches {
        let before = lines.len();
        if batch.is_retired() {
            lines.extend(corrections(batch));
        } else {
            lines.extend(known.iter().zip(0..).map(|(one, index)| whole(batch, index, one)));
        }
        header.batches.push((batch.id.clone(), lines.len() - before));
    }
    let (text, bytes) = pack(header, &lines)?;
    let mut hash = Sha256::new();
    hash.update(attempt.to_be_bytes());
    hash.update(&text);
    let name = to_hex(&hash.finalize()[..NAME_BYTES]);
    Ok(Written { name, bytes, recipients: lines.len() as u64 })
}

/// The text, and its frame.
pub(super) fn pack(header: Header, lines: &[Line]) -> Result<(Vec<u8>, Vec<u8>), HistoryError> {
    let failed = |error: &dyn std::fmt::Display| HistoryError::damaged("batches to be packed", error);
    let mut text = serde_json::to_vec(&header).map_err(|error| failed(&error))?;
    text.push(b'\n');
    for line in lines {
        serde_json::to_writer(&mut text, line).map_err(|error| failed(&error))?;
        text.push(b'\n');
    }
    let mut frame = zstd::Encoder::new(Vec::new(), ZSTD_LEVEL).map_err(|error| failed(&error))?;
    frame.include_checksum(true).map_err(|error| failed(&error))?;
    frame.write_all(&text).map_err(|error| failed(&error))?;
    let bytes = frame.finish().map_err(|error| failed(&error))?;
    Ok((text, bytes))
}

fn whole(batch: &BatchRecord, index: u32, known: &Known) -> Line {
    Line {
        batch: batch.id.clone(),
        index,
        key: Some(known.key.clone()),
        address: Some(known.address.clone()),
        state: known.state.name().to_owned(),
        attempts: Some(known.attempts),
        code: known.code.clone(),
        detail: known.detail.clone(),
        unknown_reason: known.reason.map(UnknownName::from),
        message_id: Some(known.message_id.clone()),
        settled_at_ms: known.settled_at_ms.unwrap_or_default(),
    }
}

/// Attempts and reason of a corrected recipient stay as they were, see `retire_batches`.
fn corrections(batch: &BatchRecord) -> impl Iterator<Item = Line> {
    let corrected = |(delivery, index): (&postrider_store::Delivery, u32)| {
        Some(Line {
            batch: batch.id.clone(),
            index,
            key: None,
            address: None,
            state: delivery.state.name().to_owned(),
            attempts: None,
            code: delivery.code.clone(),
            detail: delivery.detail.clone(),
            unknown_reason: None,
            message_id: None,
            settled_at_ms: delivery.settled_at_ms?,
        })
    };
    batch.recipients.iter().zip(0..).filter_map(corrected)
}

/// An unpacked segment.
#[derive(Debug)]
pub struct Segment {
    name: String,
    text: String,
    /// Where each line after the header is in the text.
    lines: Vec<Range<usize>>,
    /// Which lines are of which batch.
    batches: BTreeMap<BatchId, Range<usize>>,
}

impl Segment {
    /// Unpacks and checks the frame and the header; lines are read when they are asked for.
    pub fn read(name: &str, bytes: &[u8]) -> Result<Self, HistoryError> {
        let wrong = |why: &dyn std::fmt::Display| HistoryError::damaged(format!("history/{name}"), why);
        let mut text = String::new();
        let frame = zstd::Decoder::new(bytes).map_err(|error| wrong(&error))?;
        frame.take(SEGMENT_BYTES_MAX).read_to_string(&mut text).map_err(|error| wrong(&error))?;
        let mut lines = Vec::new();
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            lines.push(at..at + line.trim_end_matches('\n').len());
            at += line.len();
        }
        let first = lines.first().cloned().ok_or_else(|| wrong(&"it is empty"))?;
        let header: Header = serde_json::from_str(&text[first]).map_err(|error| wrong(&error))?;
        if header.postrider_history != VERSION {
            return Err(wrong(&format!("its version is {}, this program reads {VERSION}", header.postrider_history)));
        }
        lines.remove(0);
        let mut batches = BTreeMap::new();
        let mut next = 0;
        for (id, count) in header.batches {
            batches.insert(id, next..next + count);
            next += count;
        }
        if next != lines.len() {
            return Err(wrong(&format!("it has {} lines and names {next}", lines.len())));
        }
        Ok(Self { name: name.to_owned(), text, lines, batches })
    }

    /// Whether any line of the batch has this text in it, in whatever case. `needle` is in lower case and written as in
    /// JSON.
    pub fn mentions(&self, batch: &BatchId, needle: &str) -> bool {
        self.lines_of(batch).any(|line| line.to_lowercase().contains(needle))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// All lines but the header.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(|line| &self.text[line.clone()])
    }

    pub(super) fn line(&self, text: &str) -> Result<Line, HistoryError> {
        serde_json::from_str(text).map_err(|error| HistoryError::damaged(format!("history/{}", self.name), error))
    }

    /// As it was read, in the order of its lines.
    pub(super) fn header(&self) -> Header {
        let mut batches: Vec<_> = self.batches.iter().collect();
        batches.sort_by_key(|(_, lines)| (lines.start, lines.end));
        let batches = batches.into_iter().map(|(id, lines)| (id.clone(), lines.len())).collect();
        Header { postrider_history: VERSION, batches }
    }

    fn lines_of(&self, batch: &BatchId) -> impl Iterator<Item = &str> {
        let range = self.batches.get(batch).cloned().unwrap_or_default();
        self.lines[range].iter().map(|line| &self.text[line.clone()])
    }

    /// Puts what this segment says of a batch over what earlier ones said.
    pub fn apply(&self, batch: &BatchId, known: &mut Vec<Known>) -> Result<(), HistoryError> {
        let wrong = |why: &dyn std::fmt::Display| HistoryError::damaged(format!("history/{}", self.name), why);
        if !self.batches.contains_key(batch) {
            return Err(wrong(&format!("it does not have the batch {batch}")));
        }
        for text in self.lines_of(batch) {
            let line = self.line(text)?;
            let state = RecipientState::ALL.into_iter().find(|state| state.is_final() && state.name() == line.state);
            let state = state.ok_or_else(|| wrong(&"a state is none"))?;
            let index = line.index as usize;
            match (line.key, line.address, line.message_id) {
                (Some(key), Some(address), Some(message_id)) if index == known.len() => known.push(Known {
                    key,
                    address,
                    state,
                    attempts: line.attempts.unwrap_or_default(),
                    code: line.code,
                    detail: line.detail,
                    reason: line.unknown_reason.map(UnknownReason::from),
                    message_id,
                    settled_at_ms: Some(line.settled_at_ms),
                }),
                (None, None, None) if index < known.len() => {
                    let one = &mut known[index];
                    (one.state, one.code, one.detail) = (state, line.code, line.detail);
                    one.settled_at_ms = Some(line.settled_at_ms);
                }
                _ => return Err(wrong(&format!("the line {index} of the batch {batch} is out of order"))),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_common::ids::RunId;
    use postrider_store::{BatchState, Delivery};

    fn batch(sequence: u64, retired: bool, recipients: Vec<Delivery>) -> BatchRecord {
        BatchRecord {
            id: BatchId { run: RunId::derive("t", "r"), sequence },
            site: "other".parse().unwrap(),
            state: BatchState::Settled,
            payload: Vec::new(),
            recipients,
            segments: if retired { vec!["first".into()] } else { Vec::new() },
            erased: Vec::new(),
        }
    }

    fn known(number: u32) -> Known {
        Known {
            key: format!("key \"{number}\""),
            address: format!("User{number}@example.com"),
            state: RecipientState::Rejected,
            attempts: number,
            code: "550 5.1.1".into(),
            detail: if number == 1 { String::new() } else { "no such user".into() },
            reason: (number == 2).then_some(UnknownReason::ReplyLost),
            message_id: format!("<{number}@acme.example>"),
            settled_at_ms: Some(1_790_000_000_000),
        }
    }

    fn delivery(settled_at_ms: Option<i64>) -> Delivery {
        Delivery {
            state: RecipientState::Accepted,
            attempts: 0,
            code: "250".into(),
            detail: "late".into(),
            reason: None,
            settled_at_ms,
        }
    }

    #[test]
    fn what_is_written_is_read_and_corrections_override() {
        let (one, two) = (batch(1, false, Vec::new()), batch(12, false, Vec::new()));
        let written = write(1, &[(&one, vec![known(0), known(1), known(2)]), (&two, vec![known(3)])]).unwrap();
        assert_eq!(written.recipients, 4);
        let first = Segment::read("first", &written.bytes).unwrap();
        let mut read = Vec::new();
        first.apply(&one.id, &mut read).unwrap();
        assert_eq!(read, [known(0), known(1), known(2)]);
        assert!(first.mentions(&two.id, "user3@example.com") && !first.mentions(&one.id, "user3@example.com"));

        let corrected = batch(1, true, vec![delivery(None), delivery(Some(7)), delivery(None)]);
        let later = write(2, &[(&corrected, Vec::new())]).unwrap();
        assert_eq!(later.recipients, 1);
        Segment::read("later", &later.bytes).unwrap().apply(&one.id, &mut read).unwrap();
        let expected = Known {
            state: RecipientState::Accepted,
            code: "250".into(),
            detail: "late".into(),
            settled_at_ms: Some(7),
            ..known(1)
        };
        assert_eq!(read, [known(0), expected, known(2)]);
    }

    #[test]
    fn every_attempt_has_a_name_of_its_own() {
        let one = batch(1, false, Vec::new());
        let name = |attempt, number| write(attempt, &[(&one, vec![known(number)])]).unwrap().name;
        assert_eq!(name(7, 1), name(7, 1));
        assert_ne!(name(7, 1), name(7, 2));
        assert_ne!(name(7, 1), name(8, 1));
    }

    #[test]
    fn damage_is_an_error() {
        let one = batch(1, false, Vec::new());
        let bytes = write(1, &[(&one, vec![known(0), known(1)])]).unwrap().bytes;
        for length in 0..bytes.len() {
            assert!(Segment::read("cut", &bytes[..length]).is_err(), "cut at {length}");
        }
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            // A bit of the frame's header may say nothing; then all is as it was.
            if let Ok(segment) = Segment::read("flipped", &flipped) {
                let mut read = Vec::new();
                segment.apply(&one.id, &mut read).unwrap();
                assert_eq!(read, [known(0), known(1)], "flipped at {at}");
            }
        }
        let segment = Segment::read("whole", &bytes).unwrap();
        assert!(segment.apply(&batch(2, false, Vec::new()).id, &mut Vec::new()).is_err());
        assert!(segment.apply(&one.id, &mut vec![known(0)]).is_err(), "it is there already");
    }
}
