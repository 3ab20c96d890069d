//! The settings of a master, as one value.

use postrider_common::lane::Lane;
use postrider_common::limits::{SPLIT_AHEAD_BATCHES_MAX, TRANSACTION_MS_MAX};
use postrider_common::pace::{LIMITED_MAX, Limits};
use postrider_common::site::SiteTable;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How leases are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseSettings {
    /// 1 s to 1 h.
    pub ttl: Duration,
    /// Recipients of a batch that may be in intent at once, 1 to 100.
    pub window: u32,
    /// How long a recipient in doubt waits for late facts before it is sent again.
    pub doubt_grace: Duration,
    /// No lease is extended beyond this long after its claim.
    pub hard_cap: Duration,
}

impl LeaseSettings {
    pub(crate) fn ttl_ms(&self) -> u64 {
        ms(self.ttl)
    }
    pub(crate) fn doubt_grace_ms(&self) -> u64 {
        ms(self.doubt_grace)
    }
    pub(crate) fn hard_cap_ms(&self) -> u64 {
        ms(self.hard_cap)
    }
}

#[cfg(test)]
impl LeaseSettings {
    /// The defaults of the configuration.
    pub fn for_tests() -> Self {
        Self {
            ttl: Duration::from_mins(1),
            window: 10,
            doubt_grace: Duration::from_secs(10),
            hard_cap: Duration::from_mins(30),
        }
    }
}

/// How long what has ended is kept, counted from its end. None: for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Runs of campaigns: their counts, recipients, history and idempotency key.
    pub runs: Option<Duration>,
    /// The same of single messages.
    pub messages: Option<Duration>,
    /// Runs with dead letters, at least.
    pub dead_letters: Option<Duration>,
}

impl Default for Retention {
    fn default() -> Self {
        let days = |days: u64| Some(Duration::from_hours(24 * days));
        Self { runs: days(90), messages: days(30), dead_letters: None }
    }
}

impl Retention {
    /// Nothing younger is forgotten. None: nothing ever is.
    pub fn least(&self) -> Option<Duration> {
        self.runs.into_iter().chain(self.messages).min()
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Debug, Clone)]
pub struct MasterConfig {
    pub grpc_listen: SocketAddr,
    pub http_listen: Option<SocketAddr>,
    /// Plain path or `file://` URL of a directory, created if missing, or `s3://BUCKET/PREFIX`.
    pub storage: String,
    /// What is stored is sealed with its first key; none: it is not sealed.
    pub key_file: Option<PathBuf>,
    pub lease: LeaseSettings,
    pub lanes: Vec<Lane>,
    pub sites: SiteTable,
    /// Rate and concurrency of lanes and sites, the same for all masters of a store.
    pub limits: Limits,
    pub audience_bytes_max: u64,
    /// What reading sources that are elsewhere needs.
    pub sources: crate::fetch::Settings,
    /// Ready batches of a run after which its split pauses, 1 to `SPLIT_AHEAD_BATCHES_MAX`.
    pub split_ahead_batches: u64,
    pub retention: Retention,
}

/// Why a master cannot start. Reads after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "listen on {address}: {field} is not a loopback address, and this version has neither tokens nor TLS; \
         listen on 127.0.0.1 or [::1] and reach it through a tunnel or a proxy that authenticates"
    )]
    NotLoopback { field: &'static str, address: SocketAddr },
    #[error("listen on {address}: {why}; set {field} to an address that is free")]
    Bind { field: &'static str, address: SocketAddr, why: String },
    #[error("accept the settings: {field}: {why}")]
    Setting { field: &'static str, why: String },
    #[error(transparent)]
    KeyFile(#[from] crate::seal::KeyFileError),
    #[error(transparent)]
    Storage(#[from] crate::storage::StorageError),
    #[error("start the gRPC service: {0}")]
    Service(String),
}

impl MasterConfig {
    /// What must hold for the promises to hold.
    pub fn check(&self) -> Result<(), StartError> {
        let wrong = |field, why: &str| Err(StartError::Setting { field, why: why.to_owned() });
        for (field, address) in [("grpc_listen", Some(self.grpc_listen)), ("http_listen", self.http_listen)] {
            if let Some(address) = address.filter(|address| !address.ip().is_loopback()) {
                return Err(StartError::NotLoopback { field, address });
            }
        }
        let lease = &self.lease;
        if !(Duration::from_secs(1)..=Duration::from_hours(1)).contains(&lease.ttl) {
            return wrong("lease.ttl", "it must be from 1s to 1h");
        }
        if !(1..=postrider_common::limits::BATCH_RECIPIENTS_MAX as u32).contains(&lease.window) {
            return wrong("lease.window", "it must be from 1 to 100");
        }
        if lease.hard_cap < lease.ttl {
            return wrong("lease.hard_cap", "it must be at least lease.ttl");
        }
        if lease.hard_cap_ms() <= TRANSACTION_MS_MAX {
            let why = "it must be more than 11m: no intent is granted whose transaction might not end before it";
            return wrong("lease.hard_cap", why);
        }
        if self.lanes.is_empty() {
            return wrong("lane", "at least one lane is needed");
        }
        if self.limits.lanes.len() + self.limits.sites.len() > LIMITED_MAX {
            return wrong("site", "at most 200 lanes and sites may have limits");
        }
        if self.audience_bytes_max == 0 {
            return wrong("audience_bytes_max", "it must be at least 1");
        }
        if !(1..=SPLIT_AHEAD_BATCHES_MAX).contains(&self.split_ahead_batches) {
            return wrong("split_ahead_batches", &format!("it must be from 1 to {SPLIT_AHEAD_BATCHES_MAX}"));
        }
        let Retention { runs, messages, dead_letters } = self.retention;
        for (field, keep) in
            [("retention.runs", runs), ("retention.messages", messages), ("retention.dead_letters", dead_letters)]
        {
            if keep.is_some_and(|keep| keep < Duration::from_secs(1)) {
                return wrong(field, "it must be at least 1s, or for ever");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_common::limits::SPLIT_AHEAD_BATCHES;

    fn config() -> MasterConfig {
        MasterConfig {
            grpc_listen: "127.0.0.1:0".parse().unwrap(),
            http_listen: Some("[::1]:0".parse().unwrap()),
            storage: "x".into(),
            key_file: None,
            lease: LeaseSettings::for_tests(),
            lanes: postrider_common::lane::defaults(),
            sites: SiteTable::default(),
            limits: Limits::default(),
            audience_bytes_max: 1,
            sources: Default::default(),
            split_ahead_batches: SPLIT_AHEAD_BATCHES,
            retention: Retention::default(),
        }
    }

    #[test]
    fn settings_that_break_promises_are_refused() {
        type Change = fn(&mut MasterConfig);
        let rows: [(Change, &str); 9] = [
            (|c| c.grpc_listen = "0.0.0.0:7400".parse().unwrap(), "grpc_listen is not a loopback address"),
            (|c| c.http_listen = Some("10.0.0.1:7401".parse().unwrap()), "http_listen is not a loopback address"),
            (|c| c.lease.ttl = Duration::from_millis(999), "lease.ttl"),
            (|c| c.lease.window = 0, "lease.window"),
            (|c| c.lease.hard_cap = Duration::from_secs(1), "lease.hard_cap"),
            (|c| c.lease.hard_cap = Duration::from_mins(11), "lease.hard_cap: it must be more than 11m"),
            (|c| c.lanes.clear(), "lane"),
            (|c| c.split_ahead_batches = 0, "split_ahead_batches"),
            (|c| c.retention.messages = Some(Duration::ZERO), "retention.messages: it must be at least 1s"),
        ];
        assert!(config().check().is_ok());
        for (change, part) in rows {
            let mut config = config();
            change(&mut config);
            let error = config.check().expect_err("refused").to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
