//! Every key, spelled once. docs/redis-keys.md says what each holds.
//!
//! Keys of one script share one hash tag: `{s0}` for the first shard (its runs, batches, leases), `{s1}` for the next,
//! and `{g}` for what is global (campaigns, definitions, the schema).

use postrider_common::ids::{BatchId, CampaignName, DefinitionHash, ErasureId, RelayName, RunId};
use std::fmt::Display;
use std::num::NonZeroU16;

const GLOBAL: &str = "postrider:{g}:";

/// Published whenever work may have become claimable.
pub(super) const WAKE_CHANNEL: &str = "postrider:{s0}:wake";
pub(super) const SCHEMA: &str = "postrider:{g}:schema";
pub(super) const CAMPAIGNS: &str = "postrider:{g}:campaigns";
/// Sorted set: campaigns with a schedule, by when to look at it.
pub(super) const SCHEDULES: &str = "postrider:{g}:schedules";
/// Effects that not every shard has yet, and the version of the newest.
pub(super) const OUTBOX: &str = "postrider:{g}:outbox";
pub(super) const VERSION: &str = "postrider:{g}:version";
/// The number of shards, which never changes.
pub(super) const SHARDS: &str = "postrider:{g}:shards";
/// Audiences and definitions, and when somebody was about to name them.
pub(super) const KEPT: &str = "postrider:{g}:kept";
/// Hash: how each limit of a lane or a site is divided among shards.
pub(super) const QUOTAS: &str = "postrider:{g}:quotas";
/// Sorted set: erasures that are not done.
pub(super) const ERASURES: &str = "postrider:{g}:erasures";
/// Hash: number, size and check of the set of those who are not sent to.
pub(super) const SUPPRESSED: &str = "postrider:{g}:suppressed";
pub(super) const RELAYS: &str = "postrider:{g}:relays";

/// The keys that every script of a shard declares first, in the order of `lua/prelude.lua`: the name below the tag, and
/// the type each has.
pub(super) const SHARD_KEYS: [(&str, &str); 28] = [
    ("shard", "hash"),
    ("rdy", "zset"),
    ("dly", "zset"),
    ("lease", "zset"),
    ("holder", "hash"),
    ("turns", "zset"),
    ("node", "hash"),
    ("count", "hash"),
    ("lanes", "set"),
    ("parked", "set"),
    ("splits", "zset"),
    ("splits_parked", "zset"),
    ("split", "hash"),
    ("split_request", "hash"),
    ("runs", "zset"),
    ("to_cancel", "zset"),
    ("worker", "hash"),
    ("seen", "zset"),
    ("last_claim", "hash"),
    ("dead", "hash"),
    ("depth", "hash"),
    ("to_retire", "zset"),
    ("flight", "hash"),
    ("pace", "hash"),
    ("throttled", "zset"),
    ("steered", "hash"),
    ("dead_order", "zset"),
    ("round", "hash"),
];

/// Where a name stands among `SHARD_KEYS`.
pub(super) fn place_of(name: &str) -> Option<usize> {
    SHARD_KEYS.iter().position(|(known, _)| *known == name)
}

/// Whose keys are reached through one connection.
#[derive(Debug)]
pub(super) struct Tags {
    /// The global ones too; with the number of shards, which is kept there.
    pub global: Option<NonZeroU16>,
    pub shards: Vec<Keys>,
}

impl Tags {
    /// One of them, with its braces: where they are is where this one is.
    pub fn tag(&self) -> &str {
        match &self.global {
            Some(_) => "{g}",
            None => self.shards.first().map_or("{g}", Keys::tag),
        }
    }

    /// A key of each that nothing is ever stored under.
    pub fn unused(&self) -> Vec<String> {
        let global = self.global.map(|_| format!("{GLOBAL}permission"));
        global.into_iter().chain(self.shards.iter().map(|keys| format!("{}permission", keys.prefix))).collect()
    }
}

/// The keys of one shard. All of them have its tag.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    /// What each key begins with: `postrider:{s0}:`.
    prefix: String,
    /// `SHARD_KEYS`, in full.
    all: Vec<String>,
}

impl Keys {
    /// Of the shard with this number, counted from 0.
    pub fn of_shard(number: u16) -> Self {
        let prefix = format!("postrider:{{s{number}}}:");
        let all = SHARD_KEYS.iter().map(|(name, _)| format!("{prefix}{name}")).collect();
        Self { prefix, all }
    }

    fn one(&self, kind: &str, name: impl Display) -> String {
        format!("{}{kind}:{name}", self.prefix)
    }

    /// What the keys of one script have in common, with its braces; its hash is the slot.
    pub fn tag(&self) -> &str {
        self.prefix.trim_matches(|c| c != '{' && c != '}')
    }

    /// Those of `SHARD_KEYS`, in that order.
    pub fn all(&self) -> &[String] {
        &self.all
    }

    pub fn shard(&self) -> &str {
        &self.all[0]
    }

    pub fn delayed(&self) -> &str {
        &self.all[2]
    }

    pub fn lease(&self) -> &str {
        &self.all[3]
    }

    pub fn holder(&self) -> &str {
        &self.all[4]
    }

    pub fn count(&self) -> &str {
        &self.all[7]
    }

    pub fn lanes(&self) -> &str {
        &self.all[8]
    }

    pub fn runs(&self) -> &str {
        &self.all[14]
    }

    pub fn to_cancel(&self) -> &str {
        &self.all[15]
    }

    pub fn worker(&self) -> &str {
        &self.all[16]
    }

    pub fn dead(&self) -> &str {
        &self.all[19]
    }

    pub fn dead_order(&self) -> &str {
        &self.all[26]
    }

    pub fn round(&self) -> &str {
        &self.all[27]
    }

    /// One of `SHARD_KEYS`, by its name.
    pub fn named(&self, name: &str) -> &str {
        &self.all[place_of(name).unwrap_or_default()]
    }

    pub fn depth(&self) -> &str {
        &self.all[20]
    }

    pub fn flight(&self) -> &str {
        &self.all[22]
    }

    pub fn pace(&self) -> &str {
        &self.all[23]
    }

    /// Sorted set: runs that are forgotten and still have batches, and how many. Apart from `SHARD_KEYS` because few
    /// scripts need it; so is the next.
    pub fn to_forget(&self) -> String {
        format!("{}to_forget", self.prefix)
    }

    /// Sorted set: segments that forgotten batches named, and when the last of them went (ms).
    pub fn left_segments(&self) -> String {
        format!("{}left", self.prefix)
    }

    /// Hash: what a run froze, its flags and its split.
    pub fn run(&self, run: &RunId) -> String {
        self.one("run", run)
    }

    /// List: rows of the audience that could not be used.
    pub fn bad_rows(&self, run: &RunId) -> String {
        self.one("bad", run)
    }

    /// Hash: states and records of the recipients of a batch.
    pub fn batch(&self, batch: &BatchId) -> String {
        self.one("o", batch)
    }

    /// Hash: reply texts of recipients; apart from the batch so that its hash stays small.
    pub fn details(&self, batch: &BatchId) -> String {
        self.one("d", batch)
    }

    /// String: the payload. `name` is derived from its content, so that nobody can replace it.
    pub fn payload(&self, batch: &BatchId, name: &str) -> String {
        format!("{}p:{batch}:{name}", self.prefix)
    }
}

/// String that is written before a wait for replicas, so that the wait covers all that was written before.
pub(super) fn mark(tag: &str) -> String {
    format!("postrider:{tag}:mark")
}

pub(super) fn campaign(name: &CampaignName) -> String {
    format!("{GLOBAL}campaign:{name}")
}

pub(super) fn definition(hash: &DefinitionHash) -> String {
    format!("{GLOBAL}definition:{hash}")
}

/// Hash: what is known of an erasure.
pub(super) fn erasure(id: &ErasureId) -> String {
    format!("{GLOBAL}erasure:{id}")
}

/// Hash: of those who are not sent to, the ones whose keys begin with these two bytes. Few enough to be a compact list.
pub(super) fn suppressed(bucket: u16) -> String {
    format!("{SUPPRESSED}:{bucket:04x}")
}

/// Hash: the meter of a relay, and the share of each worker.
pub(super) fn relay(name: &RelayName) -> String {
    format!("{GLOBAL}relay:{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_taken_by_its_name() {
        let keys = Keys::of_shard(12);
        let named = [
            ("shard", keys.shard()),
            ("dly", keys.delayed()),
            ("lease", keys.lease()),
            ("holder", keys.holder()),
            ("count", keys.count()),
            ("lanes", keys.lanes()),
            ("runs", keys.runs()),
            ("to_cancel", keys.to_cancel()),
            ("worker", keys.worker()),
            ("dead", keys.dead()),
            ("depth", keys.depth()),
            ("flight", keys.flight()),
            ("pace", keys.pace()),
            ("dead_order", keys.dead_order()),
            ("round", keys.round()),
            ("holder", keys.named("holder")),
        ];
        for (name, key) in named {
            assert_eq!(key, format!("postrider:{{s12}}:{name}"));
        }
    }
}
