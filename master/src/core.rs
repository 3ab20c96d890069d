//! What every part of a master shares: settings, seams and the signal to stop.

#[cfg(test)]
use crate::api::lists::CHANGES_AT_ONCE_MAX;
use crate::config::LeaseSettings;
use crate::erase::KEY_BYTES;
use crate::fetch;
use crate::lease::{Gates, Turnstile};
use crate::lineage::Lineage;
use crate::metrics::Metrics;
use crate::schedule::{LaneHours, Zones};
use crate::storage::Storage;
use postrider_common::ids::LaneName;
use postrider_common::lane::Lane;
use postrider_common::pace::Limits;
use postrider_common::site::SiteTable;
use postrider_common::{Clock, RequestId};
use postrider_store::Store;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;

/// Cheap to share; nothing in it changes but the signals and the counters.
#[derive(Debug)]
pub struct Core {
    pub store: Arc<dyn Store>,
    pub storage: Storage,
    pub clock: Arc<dyn Clock>,
    pub lease: LeaseSettings,
    pub lanes: Vec<Lane>,
    /// Of those that have any.
    pub lane_hours: BTreeMap<LaneName, LaneHours>,
    pub sites: Arc<SiteTable>,
    pub limits: Limits,
    /// Of schedules.
    pub zones: Zones,
    pub audience_bytes_max: u64,
    /// What reading sources that are elsewhere needs.
    pub sources: fetch::Settings,
    /// Ready batches of a run after which its split pauses.
    pub split_ahead_batches: u64,
    pub metrics: Metrics,
    /// Cancelled when the master is to stop: held calls answer, duties end.
    pub stopping: CancellationToken,
    /// Held Lease calls pass it one by one after a hint.
    pub turnstile: Turnstile,
    /// Which hours the batches have that are leased.
    pub gates: Gates,
    /// Whether the store is what it was.
    pub lineage: Lineage,
    /// A run was created or resumed here: its split is due.
    pub split_due: Notify,
    /// Of the hashes of those who are not sent to, once it was needed.
    pub suppression_key: OnceCell<[u8; KEY_BYTES]>,
    /// Changes of lists take one each.
    pub list_changes: Semaphore,
}

impl Core {
    pub fn lane(&self, name: &LaneName) -> Option<&Lane> {
        self.lanes.iter().find(|lane| lane.name == *name)
    }

    /// For messages: the lanes there are.
    pub fn lane_names(&self) -> String {
        self.lanes.iter().map(|lane| lane.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// A fresh request id for a call of the master's own.
    pub fn request_id(&self, purpose: &str) -> Option<RequestId> {
        format!("{purpose}-{:032x}", self.random_wide()).parse().ok()
    }

    pub fn random_wide(&self) -> u128 {
        (u128::from(self.clock.random()) << 64) | u128::from(self.clock.random())
    }

    pub fn nonce(&self) -> u32 {
        self.clock.random() as u32
    }

    /// Jitter of retries, in millionths.
    pub fn retry_fraction(&self) -> u32 {
        (self.clock.random() % 1_000_001) as u32
    }

    /// Waits, unless the master stops first. False: it stops.
    pub async fn pause(&self, duration: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => false,
            () = tokio::time::sleep(duration) => true,
        }
    }

    /// The delay before a store call is tried again: doubles from 50 ms to 2 s, half of it jitter.
    pub fn retry_delay(&self, failures: u32) -> Duration {
        let bound = RETRY_BASE_MS.saturating_mul(1 << failures.min(16)).min(RETRY_CAP_MS);
        Duration::from_millis(bound / 2 + self.clock.random() % (bound / 2 + 1))
    }
}

#[cfg(test)]
impl Core {
    /// With the defaults, and its storage in a folder. Nothing can be uploaded by the API.
    pub fn for_tests(folder: &std::path::Path, store: Arc<dyn Store>, clock: Arc<dyn Clock>, zones: Zones) -> Self {
        Self {
            store,
            storage: Storage::open(&folder.display().to_string(), Default::default()).expect("opens"),
            clock,
            lease: LeaseSettings::for_tests(),
            lanes: postrider_common::lane::defaults(),
            lane_hours: BTreeMap::new(),
            sites: Arc::new(SiteTable::default()),
            limits: Limits::default(),
            zones,
            audience_bytes_max: 1,
            sources: fetch::Settings::default(),
            split_ahead_batches: postrider_common::limits::SPLIT_AHEAD_BATCHES,
            metrics: Metrics::default(),
            stopping: CancellationToken::new(),
            turnstile: Turnstile::default(),
            gates: Gates::default(),
            lineage: Lineage::default(),
            split_due: Notify::new(),
            suppression_key: OnceCell::new(),
            list_changes: Semaphore::new(CHANGES_AT_ONCE_MAX),
        }
    }
}

const RETRY_BASE_MS: u64 = 50;
const RETRY_CAP_MS: u64 = 2_000;
