//! Marks of the store on the wire.

use super::InvalidField;
use crate::mark::{EPOCHS_REMEMBERED_MAX, Mark, Marks};
use postrider_proto::v1;

/// Marks of one message: every shard of a large store, with all the epochs that are remembered.
const MARKS_MAX: usize = 64 * EPOCHS_REMEMBERED_MAX;
/// Far above what a store gets to, and far below what its counters can hold: a mark above it is no proof but a mistake.
const EPOCH_MAX: u64 = 1_000_000_000;
const SEQUENCE_MAX: u64 = 1 << 52;

/// What the caller saw.
pub fn seen(worker: Option<&v1::Worker>) -> Result<Marks, InvalidField> {
    marks(worker.map_or(&[], |worker| &worker.seen))
}

pub fn marks(wire: &[v1::StoreMark]) -> Result<Marks, InvalidField> {
    if wire.len() > MARKS_MAX {
        return Err(InvalidField::new("seen", format!("at most {MARKS_MAX} marks")));
    }
    if wire.iter().any(|mark| mark.epoch > EPOCH_MAX || mark.sequence > SEQUENCE_MAX) {
        let why = format!("an epoch is at most {EPOCH_MAX} and a sequence at most {SEQUENCE_MAX}");
        return Err(InvalidField::new("seen", why));
    }
    let mark = |mark: &v1::StoreMark| Mark { shard: mark.shard, epoch: mark.epoch, sequence: mark.sequence };
    Ok(wire.iter().map(mark).collect())
}

impl From<&Marks> for Vec<v1::StoreMark> {
    fn from(marks: &Marks) -> Self {
        let mark = |mark: Mark| v1::StoreMark { shard: mark.shard, epoch: mark.epoch, sequence: mark.sequence };
        marks.iter().map(mark).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive_the_wire_and_absurd_ones_are_refused() {
        let two: Marks =
            [(1, 7), (2, 9)].map(|(epoch, sequence)| Mark { shard: 0, epoch, sequence }).into_iter().collect();
        assert_eq!(marks(&Vec::from(&two)), Ok(two));
        let one = |epoch, sequence| vec![v1::StoreMark { shard: 0, epoch, sequence }];
        for absurd in [one(EPOCH_MAX + 1, 1), one(1, u64::MAX), vec![v1::StoreMark::default(); MARKS_MAX + 1]] {
            assert_eq!(marks(&absurd).unwrap_err().field, "seen");
        }
        assert!(seen(None).unwrap().is_empty());
    }
}
