//! The configuration: default.toml, then a file, then the environment, then flags.
//!
//! `keys` says which keys there are and where this version stands with them, `settings` merges the
//! layers and keeps the origin of each value, `gather` finds the layers, `read` checks every value into
//! one `Config` (`urls` for those), `show` prints. Nothing that limits, signs or protects is ever ignored: it is enforced
//! or the program does not start.

pub mod dkim;
pub mod gather;
pub mod keys;
mod outgoing;
pub mod read;
mod relays;
mod retention;
pub mod settings;
pub mod show;
pub mod urls;
mod windows;

#[cfg(test)]
mod tests;

use postrider_common::Clock;
use postrider_common::ids::LaneName;
use postrider_common::lane::Lane;
use postrider_common::pace::Limits;
use postrider_common::relay::RelayLimit;
use postrider_common::site::SiteTable;
use postrider_store::open::{Durability, TlsFiles};
use postrider_store::{Options, StoreUrl};
use postrider_worker::{LoginConfig, Security};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Everything, checked.
#[derive(Debug, Clone)]
pub struct Config {
    pub master: MasterConfig,
    pub store: StoreUrl,
    /// Parts that the runs are spread over.
    pub shards: NonZeroU16,
    pub durability: Durability,
    /// For stores that are reached with TLS.
    pub tls: TlsFiles,
    /// A folder, a `file://` URL, or `s3://BUCKET/PREFIX`.
    pub storage: String,
    /// None: what is stored is not sealed.
    pub key_file: Option<PathBuf>,
    /// Below it masters read files that campaigns name.
    pub files_root: Option<PathBuf>,
    pub lease: LeaseConfig,
    pub retention: RetentionConfig,
    pub lanes: Vec<Lane>,
    pub sites: SiteTable,
    pub limits: Limits,
    pub worker: WorkerConfig,
    pub relays: Vec<RelayConfig>,
    pub dkim: Vec<dkim::DkimConfig>,
    /// What campaigns may have called.
    pub outgoing: postrider_outgoing::Settings,
}

impl Config {
    /// How the store is opened.
    pub fn store_options(&self, clock: &Arc<dyn Clock>) -> Options {
        Options { shards: self.shards, tls: self.tls.clone(), ..Options::new(self.durability, clock.clone()) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MasterConfig {
    pub grpc_listen: SocketAddr,
    pub http_listen: Option<SocketAddr>,
    pub audience_bytes_max: u64,
    pub split_ahead_batches: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseConfig {
    /// 1 s to 1 h.
    pub ttl: Duration,
    /// 1 to 100 recipients.
    pub window: u32,
    pub doubt_grace: Duration,
    /// More than `ttl` and than one SMTP transaction.
    pub hard_cap: Duration,
}

/// How long what has ended is kept. None: for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionConfig {
    pub runs: Option<Duration>,
    pub messages: Option<Duration>,
    pub dead_letters: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerConfig {
    pub masters: Vec<String>,
    pub name: String,
    pub slots: u32,
    /// Empty: all.
    pub lanes: Vec<LaneName>,
    pub reserve: BTreeMap<LaneName, u32>,
    pub source_address: Option<IpAddr>,
    pub ehlo: String,
    /// None: switched off.
    pub journal: Option<PathBuf>,
    pub drain_timeout: Duration,
    /// None: metrics are not shown.
    pub http_listen: Option<SocketAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayConfig {
    pub name: String,
    pub host: String,
    pub port: u16,
    pub security: Security,
    /// Certificates of authorities in PEM, beside those of the system.
    pub authorities: Option<PathBuf>,
    pub login: Option<LoginConfig>,
    /// Empty: all.
    pub lanes: Vec<LaneName>,
    /// Per worker.
    pub connections: u32,
    /// Of the whole fleet.
    pub limit: RelayLimit,
}
