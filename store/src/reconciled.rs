//! Values of the reconciler: what it is asked, and what it had to repair.

use serde::{Deserialize, Serialize};

/// One step of a round that goes over everything in a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconcile {
    /// Nothing is done before this long after the last step, whoever made it.
    pub interval_ms: u64,
    /// Batches, or entries of an index, that are looked at.
    pub batches_max: u32,
    /// Who was in intent of a batch whose lease is gone is sent to again after this long.
    pub doubt_grace_ms: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconciled {
    /// Batches looked at.
    pub batches: u32,
    /// Entries of indexes looked at.
    pub entries: u32,
    /// Rounds that are complete, in the shard that has the fewest.
    pub rounds: u64,
    /// Must be empty.
    pub repairs: Vec<Repair>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    pub kind: RepairKind,
    /// The batch, the run or the entry of an index; of a batch also where it stood and stands, if that is known.
    pub about: String,
}

/// What was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RepairKind {
    /// A batch stood nowhere.
    Lost,
    /// A batch stood in several places.
    Twice,
    /// A batch stood where its recipients do not belong, or half way there.
    Misplaced,
    /// An index named what is not there.
    Stray,
    /// A batch or its payload cannot be read: it is a dead letter now.
    Unreadable,
    /// A counter was not the sum of what it counts.
    Counter,
    /// A run with ready batches was not among the choices of a claim, or one without was.
    Turn,
    /// A split, or the cancelling of a run, was not queued, or was and should not be.
    Split,
}

impl RepairKind {
    pub const ALL: [Self; 8] = [
        Self::Lost,
        Self::Twice,
        Self::Misplaced,
        Self::Stray,
        Self::Unreadable,
        Self::Counter,
        Self::Turn,
        Self::Split,
    ];

    /// In metrics and logs, and what the scripts say.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Twice => "twice",
            Self::Misplaced => "misplaced",
            Self::Stray => "stray",
            Self::Unreadable => "unreadable",
            Self::Counter => "counter",
            Self::Turn => "turn",
            Self::Split => "split",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}
