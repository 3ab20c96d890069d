//! Every key, spelled once. docs/redis-keys.md says what each holds.
//!
//! Keys of one script share one hash tag: `{s0}` for the shard (runs, batches, leases), `{g}` for what is
//! global (campaigns, definitions, the schema).

use postrider_common::ids::{BatchId, CampaignName, DefinitionHash, RelayName, RunId};

const SHARD: &str = "postrider:{s0}:";
const GLOBAL: &str = "postrider:{g}:";

/// Published whenever work may have become claimable.
pub(super) const WAKE_CHANNEL: &str = "postrider:{s0}:wake";
pub(super) const SCHEMA: &str = "postrider:{g}:schema";
pub(super) const CAMPAIGNS: &str = "postrider:{g}:campaigns";
pub(super) const RELAYS: &str = "postrider:{g}:relays";

/// The keys that every script of the shard declares first, in the order of `lua/prelude.lua`, with the
/// type each has.
pub(super) const SHARD_KEYS: [(&str, &str); 25] = [
    ("postrider:{s0}:shard", "hash"),
    ("postrider:{s0}:rdy", "zset"),
    ("postrider:{s0}:dly", "zset"),
    ("postrider:{s0}:lease", "zset"),
    ("postrider:{s0}:holder", "hash"),
    ("postrider:{s0}:turns", "zset"),
    ("postrider:{s0}:node", "hash"),
    ("postrider:{s0}:count", "hash"),
    ("postrider:{s0}:lanes", "set"),
    ("postrider:{s0}:parked", "set"),
    ("postrider:{s0}:splits", "zset"),
    ("postrider:{s0}:splits_parked", "zset"),
    ("postrider:{s0}:split", "hash"),
    ("postrider:{s0}:split_request", "hash"),
    ("postrider:{s0}:runs", "zset"),
    ("postrider:{s0}:to_cancel", "zset"),
    ("postrider:{s0}:worker", "hash"),
    ("postrider:{s0}:seen", "zset"),
    ("postrider:{s0}:last_claim", "hash"),
    ("postrider:{s0}:dead", "hash"),
    ("postrider:{s0}:depth", "hash"),
    ("postrider:{s0}:to_retire", "zset"),
    ("postrider:{s0}:flight", "hash"),
    ("postrider:{s0}:pace", "hash"),
    ("postrider:{s0}:throttled", "zset"),
];

pub(super) const DELAYED: &str = SHARD_KEYS[2].0;
pub(super) const LEASE: &str = SHARD_KEYS[3].0;
pub(super) const HOLDER: &str = SHARD_KEYS[4].0;
pub(super) const COUNT: &str = SHARD_KEYS[7].0;
pub(super) const LANES: &str = SHARD_KEYS[8].0;
pub(super) const RUNS: &str = SHARD_KEYS[14].0;
pub(super) const TO_CANCEL: &str = SHARD_KEYS[15].0;
pub(super) const WORKER: &str = SHARD_KEYS[16].0;
pub(super) const DEAD: &str = SHARD_KEYS[19].0;
pub(super) const DEPTH: &str = SHARD_KEYS[20].0;
pub(super) const FLIGHT: &str = SHARD_KEYS[22].0;
pub(super) const PACE: &str = SHARD_KEYS[23].0;

/// Hash: what a run froze, its flags and its split.
pub(super) fn run(run: &RunId) -> String {
    format!("{SHARD}run:{run}")
}

/// List: rows of the audience that could not be used.
pub(super) fn bad_rows(run: &RunId) -> String {
    format!("{SHARD}bad:{run}")
}

/// Hash: states and records of the recipients of a batch.
pub(super) fn batch(batch: &BatchId) -> String {
    format!("{SHARD}o:{batch}")
}

/// Hash: reply texts of recipients; apart from the batch so that its hash stays small.
pub(super) fn details(batch: &BatchId) -> String {
    format!("{SHARD}d:{batch}")
}

/// String: the payload. `name` is derived from its content, so that nobody can replace it.
pub(super) fn payload(batch: &BatchId, name: &str) -> String {
    format!("{SHARD}p:{batch}:{name}")
}

pub(super) fn campaign(name: &CampaignName) -> String {
    format!("{GLOBAL}campaign:{name}")
}

pub(super) fn definition(hash: &DefinitionHash) -> String {
    format!("{GLOBAL}definition:{hash}")
}

/// Hash: the meter of a relay, and the share of each worker.
pub(super) fn relay(name: &RelayName) -> String {
    format!("{GLOBAL}relay:{name}")
}
