//! Positions of the store that somebody saw acknowledged: what proves that a store went back in time.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Epochs remembered of each shard, the newest. More than one, because an answer of a new epoch may overtake the last
/// answer of the epoch before it.
pub const EPOCHS_REMEMBERED_MAX: usize = 4;
/// Shards remembered, far above what any store has: bounds what a peer can make us keep.
const SHARDS_MAX: usize = 1024;

/// A shard had acknowledged this much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mark {
    pub shard: u32,
    /// New with each life of the shard's server, and when the shard went back in time.
    pub epoch: u64,
    /// Grows with whatever the shard acknowledges.
    pub sequence: u64,
}

/// The highest mark of each of the newest epochs of each shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks(BTreeMap<u32, BTreeMap<u64, u64>>);

impl Marks {
    /// Remembers a mark, unless a higher one of its epoch is known.
    pub fn note(&mut self, mark: Mark) {
        if self.0.len() >= SHARDS_MAX && !self.0.contains_key(&mark.shard) {
            return;
        }
        let epochs = self.0.entry(mark.shard).or_default();
        let sequence = epochs.entry(mark.epoch).or_default();
        *sequence = mark.sequence.max(*sequence);
        while epochs.len() > EPOCHS_REMEMBERED_MAX {
            epochs.pop_first();
        }
    }

    pub fn merge(&mut self, other: &Self) {
        other.iter().for_each(|mark| self.note(mark));
    }

    /// It says nothing that is not known.
    pub fn covers(&self, mark: &Mark) -> bool {
        let known = self.0.get(&mark.shard).and_then(|epochs| epochs.get(&mark.epoch));
        known.is_some_and(|sequence| *sequence >= mark.sequence)
    }

    /// Lower epochs first.
    pub fn iter(&self) -> impl Iterator<Item = Mark> {
        let shard = |(shard, epochs): (&u32, &BTreeMap<u64, u64>)| {
            let (shard, epochs) = (*shard, epochs.clone());
            epochs.into_iter().map(move |(epoch, sequence)| Mark { shard, epoch, sequence })
        };
        self.0.iter().flat_map(shard)
    }

    /// Those of one shard.
    pub fn of_shard(&self, shard: u32) -> impl Iterator<Item = Mark> {
        self.iter().filter(move |mark| mark.shard == shard)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Mark> for Marks {
    fn from_iter<T: IntoIterator<Item = Mark>>(marks: T) -> Self {
        let mut all = Self::default();
        marks.into_iter().for_each(|mark| all.note(mark));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(epoch: u64, sequence: u64) -> Mark {
        Mark { shard: 0, epoch, sequence }
    }

    #[test]
    fn the_highest_of_each_of_the_newest_epochs_is_kept() {
        let mut marks = Marks::default();
        for (epoch, sequence) in [(1, 5), (1, 9), (1, 7), (2, 3)] {
            marks.note(mark(epoch, sequence));
        }
        assert_eq!(marks.iter().collect::<Vec<_>>(), [mark(1, 9), mark(2, 3)], "an overtaken answer is not lost");
        assert!(marks.covers(&mark(1, 9)) && !marks.covers(&mark(1, 10)) && !marks.covers(&mark(3, 0)));
        for epoch in 3..20 {
            marks.note(mark(epoch, 1));
        }
        assert_eq!(marks.iter().map(|mark| mark.epoch).collect::<Vec<_>>(), [16, 17, 18, 19]);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let marks: Marks = (0..5000).map(|shard| Mark { shard, epoch: 1, sequence: 1 }).collect();
        assert_eq!(marks.iter().count(), SHARDS_MAX);
    }
}
