//! Puts a master together, without the ports it serves: what `start` binds, and what the simulation calls.

use crate::api::admin::AdminApi;
use crate::api::dispatch::DispatchApi;
use crate::api::lists::CHANGES_AT_ONCE_MAX;
use crate::config::{MasterConfig, Retention, StartError};
use crate::core::Core;
use crate::lease::{Definitions, Gates, Turnstile};
use crate::lineage::Lineage;
use crate::loops::census::Draining;
use crate::loops::{cancel, census, compare, fire, history, reclaim, reconcile, retention, split};
use crate::metered::Metered;
use crate::metrics::Metrics;
use crate::schedule::{self, Zones};
use crate::storage::Storage;
use postrider_common::Clock;
use postrider_store::Store;
use std::sync::Arc;
use tokio::sync::{Notify, OnceCell, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A master that is not heard yet.
#[derive(Debug)]
pub struct Master {
    pub(crate) core: Arc<Core>,
    /// What workers call.
    pub dispatch: DispatchApi,
    /// What operators call.
    pub admin: AdminApi,
    draining: Draining,
    retention: Retention,
}

/// Checks the settings. Nothing is done yet.
pub fn assemble(
    config: &MasterConfig,
    store: Arc<dyn Store>,
    storage: Storage,
    clock: Arc<dyn Clock>,
    zones: Zones,
) -> Result<Master, StartError> {
    config.check()?;
    let lane_hours = schedule::lane_hours(&config.lanes, &zones)
        .map_err(|error| StartError::Setting { field: "lane", why: error.to_string() })?;
    let metrics = Metrics::default();
    metrics.schedules.calculate_with(&zones);
    let core = Arc::new(Core {
        store: Arc::new(Metered::new(store, metrics.clone())),
        storage,
        clock,
        lease: config.lease,
        lanes: config.lanes.clone(),
        lane_hours,
        sites: Arc::new(config.sites.clone()),
        zones,
        limits: config.limits.clone(),
        audience_bytes_max: config.audience_bytes_max,
        sources: config.sources.clone(),
        split_ahead_batches: config.split_ahead_batches,
        metrics,
        stopping: CancellationToken::new(),
        turnstile: Turnstile::default(),
        gates: Gates::default(),
        lineage: Lineage::default(),
        split_due: Notify::new(),
        suppression_key: OnceCell::new(),
        list_changes: Semaphore::new(CHANGES_AT_ONCE_MAX),
    });
    let draining = Draining::default();
    let definitions = Arc::new(Definitions::default());
    let dispatch = DispatchApi { core: Arc::clone(&core), definitions, draining: draining.clone() };
    let admin = AdminApi { core: Arc::clone(&core) };
    Ok(Master { core, dispatch, admin, draining, retention: config.retention })
}

impl Master {
    /// Begins what a master does by itself. Dropping the set ends it at once, as a crash would.
    pub fn begin_duties(&self) -> JoinSet<()> {
        let core = &self.core;
        let mut duties = JoinSet::new();
        duties.spawn(compare::CompareDuty::new(Arc::clone(core), compare::Config::default()).run());
        let reclaim = reclaim::Config::of(core.lease.ttl_ms(), core.lease.doubt_grace_ms());
        duties.spawn(reclaim::ReclaimDuty::new(Arc::clone(core), reclaim).run());
        let reconcile = reconcile::Config::of(core.lease.doubt_grace_ms());
        duties.spawn(reconcile::ReconcileDuty::new(Arc::clone(core), reconcile).run());
        duties.spawn(cancel::CancelDuty::new(Arc::clone(core), cancel::Config::default()).run());
        duties.spawn(fire::FireDuty::new(Arc::clone(core), fire::Config::default()).run());
        duties.spawn(split::SplitDuty::new(Arc::clone(core), split::Config::default()).run());
        duties.spawn(history::HistoryDuty::new(Arc::clone(core), history::Config::default()).run());
        let retention = retention::Config::of(self.retention);
        duties.spawn(retention::RetentionDuty::new(Arc::clone(core), retention).run());
        duties.spawn(census::CensusDuty::new(Arc::clone(core), census::Config::default(), self.draining.clone()).run());
        duties
    }

    /// Held calls answer empty, duties hand back what they hold and end.
    pub fn stop(&self) {
        self.core.stopping.cancel();
    }
}
