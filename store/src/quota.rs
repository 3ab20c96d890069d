//! Values of limits that hold for several shards together: what each shard may use of one, and until when.

use postrider_common::ids::{LaneName, SiteName};
use postrider_common::pace::Limit;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A quota is given for this long. One of a shard that is heard is taken back as soon as the shard has said that it has a
/// smaller one, so this is only how long the part of a shard that vanished is kept from the others; and how long limited
/// lanes go on while the node with the global keys is away.
pub const QUOTA_TTL_MS: u64 = 30_000;
/// A clock that moved by more than this between two calls is taken for one that stepped, or for an outage: no quota ends
/// until a whole ttl later. Shards trust a quota for so much less, so that a smaller step does no harm.
pub const CLOCK_GAP_MS: u64 = 2_000;
/// What was in flight in a shard that is not heard may still be in flight for this long after its quota ended: one
/// transaction with a relay at most.
pub const IN_FLIGHT_MS: u64 = postrider_common::limits::TRANSACTION_MS_MAX;
/// Who has the last recipient of a limit that cannot be divided keeps it this long at least.
pub const QUOTA_TURN_MS: u64 = 10_000;
/// In a turn at least so many recipients may begin: what a shard saved up for the next one is lost at its end.
pub const QUOTA_TURN_RECIPIENTS: u64 = 10;
/// A shard that wants nothing keeps this part of an even share, so that the first recipients there need not wait.
pub const IDLE_PART: u64 = 32;
/// More recipients wait than a look counts.
pub const MANY: u64 = 1_000_000_000;

/// Whose limit it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Limited {
    Lane(LaneName),
    Site(SiteName),
}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lane(name) => write!(f, "L|{name}"),
            Self::Site(name) => write!(f, "S|{name}"),
        }
    }
}

/// Recipients in an hour, recipients in a burst, recipients at once: of a whole limit, or a part of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts(pub [u64; 3]);

impl Amounts {
    /// 0 stands for none.
    pub fn of(limit: &Limit) -> Self {
        let (per_hour, burst) = limit.pace.map_or((0, 0), |pace| (pace.rate.per_hour(), u64::from(pace.burst)));
        Self([per_hour, burst, limit.concurrency.map_or(0, u64::from)])
    }

    pub(crate) fn most(self, other: Self) -> Self {
        Self(std::array::from_fn(|kind| self.0[kind].max(other.0[kind])))
    }

    pub(crate) fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// What a shard has of a limit, and has use for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardDemand {
    /// Of the newest quota it was told; 0: none.
    pub version: u64,
    /// That quota holds there now.
    pub is_live: bool,
    pub has: Amounts,
    /// Recipients that would begin if they might; `MANY`: more than were counted.
    pub waiting: u64,
    /// Recipients in flight.
    pub in_flight: u64,
}

/// What all shards want of one limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareLimit {
    pub of: Limited,
    pub limit: Limit,
    /// As of before the shards were looked at: somebody who shared meanwhile knows more.
    pub turn: u64,
    pub ttl_ms: u64,
    /// By shard; None: it did not answer.
    pub shards: Vec<Option<ShardDemand>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Grows with each quota of this limit, over all shards.
    pub version: u64,
    /// It ends this long after the call.
    pub lasts_ms: u64,
    pub amounts: Amounts,
    /// Recipients of the burst that may begin at once: of a limit that nobody has used for a while.
    pub saved: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedLimit {
    /// To be given with the next call.
    pub turn: u64,
    /// The turn was another: nothing was changed.
    pub is_stale: bool,
    /// Somebody gets more as soon as those that have less now have said so.
    pub is_awaited: bool,
    /// By shard: what it is to be told, if it is to be told something.
    pub quotas: Vec<Option<Quota>>,
}
