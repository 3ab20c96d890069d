//! What a journal is made of: records, and their form in a file. Pure.
//!
//! A file is frames one after the other, then zeros up to the size that its first record says. A frame is
//! the payload's length (2 bytes), a CRC-32 of length and payload (4 bytes), both little-endian, and the
//! payload. Whatever comes after the first frame that is not right is not believed.

use postrider_common::ids::{BatchId, Fence};
use postrider_common::lease::Outcome;
use serde::{Deserialize, Serialize};

/// Of the records; a file of another version is not read.
pub(super) const VERSION: u8 = 1;
/// Of one record. The largest names every recipient of a batch, or carries a reply's text.
pub(super) const PAYLOAD_BYTES_MAX: usize = 4096;
const HEAD_BYTES: usize = 6;

/// `lease` is the worker's own number for a lease; recipients are indexes into its batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// The first of every file.
    Begin {
        version: u8,
        /// Of the process that writes: a new one for every start.
        instance: String,
        /// Of the boot of the machine. After another boot the end of a file may be missing.
        boot: String,
        /// How long the file is. A shorter one was cut.
        bytes: u64,
    },
    Leased {
        lease: u64,
        batch: BatchId,
        fence: Fence,
    },
    /// Intents are asked for; no dot of theirs is written without a `Dot` before it.
    Asked {
        lease: u64,
        indexes: Vec<u32>,
    },
    /// The final dot is about to be written.
    Dot {
        lease: u64,
        index: u32,
    },
    /// The reply is read, or it ended another way.
    Ended {
        lease: u64,
        outcome: Outcome,
    },
    /// A master has taken these outcomes.
    Told {
        lease: u64,
        indexes: Vec<u32>,
    },
    /// The lease is over. Only the outcomes that are owed still count.
    Over {
        lease: u64,
        owed: Vec<u32>,
    },
}

impl Record {
    /// Appends its frame. False, and nothing appended: it is too large.
    pub fn write(&self, out: &mut Vec<u8>) -> bool {
        let Ok(payload) = postcard::to_allocvec(self) else { return false };
        let Ok(length) = u16::try_from(payload.len()) else { return false };
        if payload.len() > PAYLOAD_BYTES_MAX {
            return false;
        }
        let length = length.to_le_bytes();
        out.extend_from_slice(&length);
        out.extend_from_slice(&checksum(&length, &payload).to_le_bytes());
        out.extend_from_slice(&payload);
        true
    }

    /// The first record and how many bytes it takes.
    fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let [low, high, sum @ ..] = *head;
        let length = usize::from(u16::from_le_bytes([low, high]));
        let payload = rest.get(..length).filter(|_| (1..=PAYLOAD_BYTES_MAX).contains(&length))?;
        if checksum(&[low, high], payload) != u32::from_le_bytes(sum) {
            return None;
        }
        let record = postcard::from_bytes(payload).ok()?;
        Some((record, HEAD_BYTES + length))
    }
}

/// What a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) instance: String,
    pub(super) boot: String,
    /// Those after the first.
    pub(super) records: Vec<Record>,
    /// Nothing is missing at its end: what is not in it did not happen.
    pub(super) is_whole: bool,
}

/// Reads as much of a file as is right. `None`: not even its first record is.
pub(super) fn read(file: &[u8]) -> Option<Contents> {
    let (first, mut at) = Record::read(file)?;
    let Record::Begin { version: VERSION, instance, boot, bytes } = first else { return None };
    let mut records = Vec::new();
    while let Some((record, length)) = file.get(at..).and_then(Record::read) {
        at += length;
        records.push(record);
    }
    let is_whole = file.len() as u64 == bytes && file[at..].iter().all(|byte| *byte == 0);
    Some(Contents { instance, boot, records, is_whole })
}

fn checksum(length: &[u8], payload: &[u8]) -> u32 {
    let step = |sum: u32, byte: &u8| (sum >> 8) ^ CRC[usize::from(sum.to_le_bytes()[0] ^ byte)];
    !length.iter().chain(payload).fold(u32::MAX, step)
}

/// CRC-32 as in IEEE 802.3, by byte.
const CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut sum = index as u32;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 };
            bit += 1;
        }
        table[index] = sum;
        index += 1;
    }
    table
};

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use postrider_common::ids::RunId;
    use postrider_common::lease::OutcomeKind;
    use proptest::prelude::*;

    pub(in crate::journal) fn any_record() -> impl Strategy<Value = Record> {
        let lease = 0..5u64;
        let indexes = || proptest::collection::vec(0..100u32, 0..100);
        let kind = prop_oneof![
            Just(OutcomeKind::Accepted),
            Just(OutcomeKind::Deferred),
            Just(OutcomeKind::Rejected),
            Just(OutcomeKind::Unknown),
            Just(OutcomeKind::NotWritten)
        ];
        let outcome = (0..100u32, kind, "[ -~]{0,40}", "[ -~]{0,200}", any::<u64>()).prop_map(
            |(index, kind, code, detail, retry_after_ms)| Outcome { index, kind, code, detail, retry_after_ms },
        );
        prop_oneof![
            (lease.clone(), 1..1000u64, any::<u64>(), any::<u32>()).prop_map(|(lease, sequence, counter, nonce)| {
                let batch = BatchId { run: RunId::derive("digest", "1"), sequence };
                Record::Leased { lease, batch, fence: Fence { epoch: 1, counter, nonce } }
            }),
            (lease.clone(), indexes()).prop_map(|(lease, indexes)| Record::Asked { lease, indexes }),
            (lease.clone(), 0..100u32).prop_map(|(lease, index)| Record::Dot { lease, index }),
            (lease.clone(), outcome).prop_map(|(lease, outcome)| Record::Ended { lease, outcome }),
            (lease.clone(), indexes()).prop_map(|(lease, indexes)| Record::Told { lease, indexes }),
            (lease, indexes()).prop_map(|(lease, owed)| Record::Over { lease, owed }),
        ]
    }

    const SPACE: usize = 512;

    fn file_of(records: &[Record]) -> Vec<u8> {
        let mut body = Vec::new();
        assert!(records.iter().all(|record| record.write(&mut body)));
        let begin = |bytes| Record::Begin { version: VERSION, instance: "i".into(), boot: "b".into(), bytes };
        // The number takes as many bytes as it needs, so the file is a little larger than it has to be.
        let bytes = body.len() + SPACE;
        let mut file = Vec::new();
        assert!(begin(bytes as u64).write(&mut file));
        file.extend(body);
        file.resize(bytes, 0);
        file
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(records in proptest::collection::vec(any_record(), 0..30)) {
            let contents = read(&file_of(&records)).unwrap();
            prop_assert!(contents.is_whole);
            prop_assert_eq!(contents.records, records);
        }

        #[test]
        fn a_cut_leaves_the_beginning(records in proptest::collection::vec(any_record(), 0..30), cut in any::<prop::sample::Index>()) {
            let mut file = file_of(&records);
            file.truncate(cut.index(file.len()));
            if let Some(contents) = read(&file) {
                prop_assert!(!contents.is_whole, "it says so wherever it is cut");
                prop_assert!(records.starts_with(&contents.records));
            }
        }

        #[test]
        fn a_flipped_bit_leaves_the_beginning(
            records in proptest::collection::vec(any_record(), 0..30),
            at in any::<prop::sample::Index>(),
            bit in 0..8u8,
        ) {
            let mut file = file_of(&records);
            let at = at.index(file.len());
            file[at] ^= 1 << bit;
            if let Some(contents) = read(&file) {
                prop_assert!(!contents.is_whole, "it says so wherever it is");
                prop_assert!(records.starts_with(&contents.records));
            }
        }

        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            drop(read(&bytes));
        }

        #[test]
        fn garbage_in_the_middle_leaves_the_beginning(
            records in proptest::collection::vec(any_record(), 1..30),
            at in any::<prop::sample::Index>(),
            garbage in proptest::collection::vec(any::<u8>(), 1..64),
        ) {
            let clean = file_of(&records);
            let at = at.index(clean.len() - garbage.len());
            let mut file = clean.clone();
            file[at..at + garbage.len()].copy_from_slice(&garbage);
            if let Some(contents) = read(&file) && file != clean {
                prop_assert!(!contents.is_whole);
                prop_assert!(records.starts_with(&contents.records));
            }
        }
    }

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(checksum(b"1234", b"56789"), 0xcbf4_3926);
    }

    #[test]
    fn the_largest_records_fit() {
        let every: Vec<u32> = (0..100).map(|index| u32::MAX - index).collect();
        let outcome = Outcome {
            index: u32::MAX,
            kind: OutcomeKind::Rejected,
            code: "x".repeat(postrider_common::limits::CODE_BYTES_MAX),
            detail: "x".repeat(postrider_common::limits::DETAIL_BYTES_MAX),
            retry_after_ms: u64::MAX,
        };
        let lease = u64::MAX;
        let records = [
            Record::Asked { lease, indexes: every.clone() },
            Record::Told { lease, indexes: every.clone() },
            Record::Over { lease, owed: every },
            Record::Ended { lease, outcome },
        ];
        assert_eq!(read(&file_of(&records)).unwrap().records, records);
    }
}
