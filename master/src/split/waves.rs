//! The waves of a run: instants at which some of its recipients are due, in order.
//!
//! A first pass over the audience, the survey, finds them. What it found is kept with the position of the split and
//! decides from then on: a time zone database that changes meanwhile moves nobody from one wave into another. Then one
//! pass for each wave, in order, places those that are in it.

use super::clocks::Clocks;
use postrider_common::message::Recipient;
use postrider_common::payload::{self, InvalidPayload};
use serde::{Deserialize, Serialize};

/// A position that knows of waves begins with this. No frame of zstd (RFC 8878, section 3.1.1) and nothing sealed does.
const MAGIC: &[u8; 8] = b"waves 1\n";
const LENGTH_BYTES: usize = 4;
const ZSTD_LEVEL: i32 = 1;
/// Of what is known of waves, unpacked: a name, a number and some signs for each zone and country there is.
const WAVES_BYTES_MAX: usize = 1024 * 1024;

/// What the survey found, and how far the passes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waves {
    /// Of the audience.
    pub rows: u64,
    /// In ascending order.
    pub waves: Vec<Wave>,
    /// The wave of the pass that goes on.
    pub pass: usize,
    /// Which wave, by its place in the order. None: nothing is sent there.
    pub clocks: Clocks<Option<usize>>,
    /// Recipients for the waves.
    pub found: u64,
    /// Of them, those in batches that were stored.
    pub placed: u64,
    /// Rows that are for no wave, repeats apart.
    pub bad_rows: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wave {
    pub at_ms: i64,
    /// That were stored.
    pub batches: u64,
    /// IANA name of a zone that shows what all clocks of it do, where batches are of one clock. "": they are not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub clock: String,
}

impl Waves {
    /// Rows before the first one of the present pass, those of the survey and the passes before.
    pub fn base(&self) -> u64 {
        self.rows * (self.pass as u64 + 1)
    }

    pub fn at_ms(&self) -> i64 {
        self.waves.get(self.pass).map_or(0, |wave| wave.at_ms)
    }

    /// See `Wave`.
    pub fn clock(&self) -> &str {
        self.waves.get(self.pass).map_or("", |wave| wave.clock.as_str())
    }

    pub fn count(&mut self, recipients: usize) {
        self.placed += recipients as u64;
        if let Some(wave) = self.waves.get_mut(self.pass) {
            wave.batches += 1;
        }
    }

    /// The present one is over. False: it was the last one.
    pub fn next_pass(&mut self) -> bool {
        if self.pass + 1 >= self.waves.len() {
            return false;
        }
        self.pass += 1;
        true
    }

    /// Batches that wait for a wave to come, and when the next of these comes.
    pub fn waiting(&self, now_ms: i64) -> (u64, Option<i64>) {
        let waiting = || self.waves.iter().filter(|wave| wave.at_ms > now_ms && wave.batches > 0);
        (waiting().map(|wave| wave.batches).sum(), waiting().map(|wave| wave.at_ms).min())
    }

    /// Of all rows, those that nothing was sent to and that are no repeats. Somebody may have been erased since the survey.
    pub fn bad_rows_in_all(&self) -> u64 {
        self.bad_rows + self.found.saturating_sub(self.placed)
    }
}

/// What a split keeps beside its cursor.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Position {
    pub waves: Option<Waves>,
    /// Recipients read and not in a batch yet.
    pub open: Vec<Recipient>,
}

impl Position {
    pub fn encode(waves: Option<&Waves>, open: &[Recipient]) -> Vec<u8> {
        let open = if open.is_empty() { Vec::new() } else { payload::encode(open).to_vec() };
        let Some(waves) = waves else { return open };
        // Neither writing numbers and texts as JSON nor packing in memory can fail; what is empty is refused by `decode`.
        let json = serde_json::to_vec(waves).unwrap_or_default();
        let packed = zstd::bulk::compress(&json, ZSTD_LEVEL).unwrap_or_default();
        [MAGIC.as_slice(), &(packed.len() as u32).to_be_bytes(), &packed, &open].concat()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidPayload> {
        let Some(rest) = bytes.strip_prefix(MAGIC) else {
            let open = if bytes.is_empty() { Vec::new() } else { payload::decode(bytes)? };
            return Ok(Self { waves: None, open });
        };
        let short = || InvalidPayload::Shape("what is known of its waves is cut off");
        let (length, rest) = rest.split_first_chunk::<LENGTH_BYTES>().ok_or_else(short)?;
        let (packed, open) = rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(short)?;
        let json = zstd::bulk::decompress(packed, WAVES_BYTES_MAX).map_err(InvalidPayload::Frame)?;
        let waves = serde_json::from_slice(&json)
            .map_err(|_| InvalidPayload::Shape("what is known of its waves cannot be read"))?;
        let open = if open.is_empty() { Vec::new() } else { payload::decode(open)? };
        Ok(Self { waves: Some(waves), open })
    }
}
