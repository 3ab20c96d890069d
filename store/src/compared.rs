//! What `Store::compare` takes and answers.

use postrider_common::mark::{Mark, Marks};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    pub marks: Marks,
    /// These are all the marks there are to ask for, so a server that is not known may be trusted if none is higher.
    /// Otherwise nothing is leased from it until such a call came.
    pub confirm: bool,
}

/// What a shard had to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// Nothing: no mark is higher, and the server is the one it was.
    Same,
    /// The server is not the one that was last compared, and this call does not confirm it: nothing is leased.
    NewServer,
    /// The same, and this call confirmed it.
    Confirmed,
    /// This was seen acknowledged and the shard does not have it. It had this much.
    WentBack { seen: Mark, had: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    pub found: Found,
    /// Where the shard is, after this call.
    pub mark: Mark,
    /// Nothing is leased: the server is not confirmed, or workers have the time to report after the shard went back.
    pub is_stopped: bool,
    /// How often the shard went back.
    pub rollbacks: u64,
    /// The masters' last sign of life before this call, by the shard: about when the copy was made that it went back to.
    pub sign_ms: Option<i64>,
}
