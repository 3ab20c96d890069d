//! What a worker is started with, checked once.

use crate::engine::RelayPlan;
use crate::secret::SecretSource;
use crate::signing::Signing;
use postrider_common::ids::{InvalidId, LaneName, WorkerId};
use postrider_common::relay::{RELAYS_LIMITED_MAX, RelayLimit};
use postrider_mail::smtp::client::Method;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Recipients in flight of one worker: each holds a rendered message for a moment.
pub const SLOTS_MAX: u32 = 10_000;
/// Connections of one worker to one relay.
pub const CONNECTIONS_MAX: u32 = 1_000;

/// An SMTP server that takes messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayConfig {
    pub name: String,
    pub host: String,
    pub port: u16,
    /// Empty: all.
    pub lanes: Vec<LaneName>,
    pub security: Security,
    /// Certificates of authorities in PEM, beside those that the system trusts.
    pub authorities: Option<PathBuf>,
    pub login: Option<LoginConfig>,
    /// Of this worker, 1 to `CONNECTIONS_MAX`.
    pub connections: u32,
    /// What holds over all workers.
    pub limit: RelayLimit,
}

/// How a connection to a relay is protected. Certificates are always verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Security {
    #[default]
    None,
    /// Asked for after the greeting; a relay that does not offer it is told nothing (RFC 3207).
    StartTls,
    /// From the first byte on (RFC 8314).
    Tls,
}

/// An account at a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginConfig {
    pub user: String,
    /// Read again for each connection, so that it may change.
    pub secret: SecretSource,
    /// None: the best of PLAIN and LOGIN that the relay offers.
    pub method: Option<Method>,
}

impl RelayConfig {
    /// As the engine sees it. Errors: a limited relay whose name cannot be told to others.
    pub(crate) fn plan(&self) -> Result<RelayPlan, WorkerError> {
        let name =
            || self.name.parse().map_err(|error: InvalidId| WorkerError::config("relay.name", error.to_string()));
        let limit = if self.limit.is_none() { None } else { Some((name()?, self.limit)) };
        Ok(RelayPlan { lanes: self.lanes.clone(), connections: self.connections, limit })
    }
}

#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// `http://host:port` each.
    pub masters: Vec<String>,
    /// For people: 1 to 100 characters of `[A-Za-z0-9._-]`.
    pub name: String,
    /// Recipients in intent or in flight, 1 to `SLOTS_MAX`.
    pub slots: u32,
    /// Empty: all.
    pub lanes: Vec<LaneName>,
    /// Slots kept free for a lane.
    pub reserve: BTreeMap<LaneName, u32>,
    pub relays: Vec<RelayConfig>,
    /// This host's name for EHLO.
    pub ehlo: String,
    /// The local address of connections to relays.
    pub source_address: Option<IpAddr>,
    /// The folder of crash journals; several workers of one host may share it. None: no journal is kept.
    pub journal: Option<PathBuf>,
    /// How long open transactions are waited for when stopping.
    pub drain_timeout: Duration,
    /// Where metrics can be read; loopback. None: nowhere.
    pub http_listen: Option<SocketAddr>,
    /// What may be called on behalf of campaigns.
    pub outgoing: postrider_outgoing::Settings,
    /// The keys that sign.
    pub signing: Signing,
}

/// Why a worker did not start, or did not end cleanly. Reads after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("use the worker's configuration: {field}: {why}")]
    Config { field: &'static str, why: String },
    #[error(
        "use the crash journal in worker.journal = '{}': {why}; let this user write there, name another folder, or \
         set worker.journal = \"\" to work without one (a killed worker then leaves all its recipients in intent in doubt)",
        folder.display()
    )]
    Journal { folder: PathBuf, why: std::io::Error },
    #[error("listen on worker.http_listen = '{address}': {why}; use another port, or \"\" for none")]
    Listen { address: SocketAddr, why: std::io::Error },
    #[error(
        "hand back {leases} leases while stopping: no master answered; they return to their queue when they expire"
    )]
    NotHandedBack { leases: usize },
}

impl WorkerError {
    pub(crate) fn config(field: &'static str, why: impl Into<String>) -> Self {
        Self::Config { field, why: why.into() }
    }
}

impl WorkerConfig {
    /// Slots that are reserved for these lanes (none named: all).
    pub(crate) fn reserved_for(&self, lanes: &[LaneName]) -> u32 {
        let is_carried = |lane: &LaneName| lanes.is_empty() || lanes.contains(lane);
        self.reserve.iter().filter(|(lane, _)| is_carried(lane)).map(|(_, slots)| *slots).sum()
    }

    pub(crate) fn check(&self) -> Result<(), WorkerError> {
        let wrong = |field, why: String| WorkerError::config(field, why);
        WorkerId::try_new(&self.name, &uuid::Uuid::nil().to_string())
            .map_err(|error| wrong("worker.name", error.to_string()))?;
        if self.masters.is_empty() {
            return Err(wrong("worker.master", "name at least one master, such as http://127.0.0.1:7400".into()));
        }
        if self.slots == 0 || self.slots > SLOTS_MAX {
            return Err(wrong("worker.slots", format!("it must be from 1 to {SLOTS_MAX}")));
        }
        let reserved: u64 = self.reserve.values().map(|count| u64::from(*count)).sum();
        if reserved > u64::from(self.slots) {
            let why = format!("{reserved} slots are reserved, there are {}: raise slots or reserve less", self.slots);
            return Err(wrong("worker.reserve", why));
        }
        if let Some(address) = self.http_listen.filter(|address| !address.ip().is_loopback()) {
            return Err(wrong("worker.http_listen", format!("{address} is not a loopback address")));
        }
        if self.relays.is_empty() {
            return Err(wrong("relay", "name at least one relay, such as url = \"smtp://127.0.0.1:2525\"".into()));
        }
        if self.relays.iter().filter(|relay| !relay.limit.is_none()).count() > RELAYS_LIMITED_MAX {
            return Err(wrong("relay", format!("at most {RELAYS_LIMITED_MAX} may have rate or connections_total")));
        }
        for relay in &self.relays {
            if relay.host.is_empty() || relay.port == 0 {
                return Err(wrong("relay.url", format!("relay '{}' needs a host and a port", relay.name)));
            }
            if relay.connections == 0 || relay.connections > CONNECTIONS_MAX {
                let why = format!("it must be from 1 to {CONNECTIONS_MAX} (relay '{}')", relay.name);
                return Err(wrong("relay.connections", why));
            }
        }
        Ok(())
    }
}
