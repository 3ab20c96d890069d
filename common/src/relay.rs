//! What the workers of a fleet share of a relay: its rate, and how many connections are open to it.
//!
//! Masters do not know relays: a worker asks for its share with the limits that its own configuration gives. When
//! workers disagree, the lowest limit among those seen lately holds.

use crate::ids::RelayName;
use crate::pace::{Pace, Rate};
use serde::{Deserialize, Serialize};

/// Relays with limits that one worker may have: it asks for all its shares in one call.
pub const RELAYS_LIMITED_MAX: usize = 64;
/// Connections to one relay over the whole fleet.
pub const CONNECTIONS_TOTAL_MAX: u32 = 100_000;
/// Permits asked for in one call, as many as a worker has slots at most.
pub const PERMITS_PER_CALL_MAX: u32 = 10_000;
/// A permit that no send was begun with for this long is void: else a hoard of them could be let loose at once.
pub const PERMIT_MS: u64 = 1_000;

/// What holds for one relay over all workers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayLimit {
    pub pace: Option<Pace>,
    /// 1 to `CONNECTIONS_TOTAL_MAX`.
    pub connections: Option<u32>,
}

impl RelayLimit {
    pub fn is_none(&self) -> bool {
        self.pace.is_none() && self.connections.is_none()
    }

    /// The lower one of each.
    #[must_use]
    pub fn lowest(self, other: Self) -> Self {
        let lower = |one: Pace, two: Pace| Pace {
            rate: if two.rate.per_hour() < one.rate.per_hour() { two.rate } else { one.rate },
            burst: one.burst.min(two.burst),
        };
        let pace = match (self.pace, other.pace) {
            (Some(one), Some(two)) => Some(lower(one, two)),
            (one, two) => one.or(two),
        };
        let connections = match (self.connections, other.connections) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
        Self { pace, connections }
    }

    /// From numbers of which 0 is none, as they are sent and stored.
    pub fn of_numbers(rate_per_hour: u64, burst: u32, connections: u32) -> Result<Self, String> {
        let pace = match (rate_per_hour, burst) {
            (0, 0) => None,
            (per_hour, 1..) => Some(Pace { rate: Rate::of_per_hour(per_hour)?, burst }),
            (_, 0) => return Err("a rate needs a burst of at least 1".to_owned()),
        };
        if connections > CONNECTIONS_TOTAL_MAX {
            return Err(format!("connections must be from 0 to {CONNECTIONS_TOTAL_MAX}, not {connections}"));
        }
        Ok(Self { pace, connections: (connections > 0).then_some(connections) })
    }

    /// Rate per hour, burst, connections; 0: none.
    pub fn numbers(&self) -> (u64, u32, u32) {
        let (rate, burst) = self.pace.map_or((0, 0), |pace| (pace.rate.per_hour(), pace.burst));
        (rate, burst, self.connections.unwrap_or(0))
    }
}

/// What a worker wants of a relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayWish {
    pub relay: RelayName,
    pub limit: RelayLimit,
    /// Connections it has, or may open before the answer comes.
    pub held: u32,
    /// Connections it has use for. 0 of both: it leaves the relay.
    pub wanted: u32,
    /// Sends that it would begin now.
    pub sends: u32,
}

/// What a worker gets of a relay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayShare {
    /// Connections it may have; those above are to be closed, and are its own until it says that they are.
    pub connections: u32,
    /// Sends it may begin now.
    pub sends: u32,
    /// How long until the other sends asked for fit. 0: none was refused.
    pub retry_in_ms: u64,
    /// The connections are its own for this long, counted from before it asked.
    pub ttl_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_of_each_holds() {
        let of = |rate, burst, connections| RelayLimit::of_numbers(rate, burst, connections).expect("a limit");
        let rows = [
            ((0, 0, 0), (0, 0, 0), (0, 0, 0)),
            ((0, 0, 4), (0, 0, 0), (0, 0, 4)),
            ((0, 0, 4), (36, 1, 3), (36, 1, 3)),
            ((72, 1, 9), (36, 2, 0), (36, 1, 9)),
        ];
        for (one, two, lowest) in rows {
            let (one, two) = (of(one.0, one.1, one.2), of(two.0, two.1, two.2));
            assert_eq!(one.lowest(two).numbers(), lowest);
            assert_eq!(two.lowest(one).numbers(), lowest);
        }
        assert!(of(0, 0, 0).is_none());
        for (rate, burst, connections) in [(5, 0, 0), (0, 5, 0), (u64::MAX, 1, 0), (1, 1, 100_001)] {
            assert!(RelayLimit::of_numbers(rate, burst, connections).is_err(), "{rate} {burst} {connections}");
        }
    }
}
