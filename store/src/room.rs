//! What is left of limits, to be looked at.

use postrider_common::ids::{LaneName, RelayName, SiteName};

/// Whose limit it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoomOf {
    Lane(LaneName),
    Site(SiteName),
    Relay(RelayName),
}

/// What is left of a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    pub of: RoomOf,
    /// Recipients that the rate allows to begin now; None: it has no rate.
    pub paced: Option<u64>,
    /// Recipients (of a relay: connections) that may come on top at once; None: their number is not limited.
    pub at_once: Option<u64>,
}
