//! What becomes of schedules.

use crate::schedule::{Origin, Zones};
use postrider_store::SkipReason;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Database {
    version: String,
    origin: &'static str,
}

/// Of this master; clones share them.
#[derive(Debug, Clone)]
pub struct Schedules {
    fired: Counter,
    skipped: Family<Reason, Counter>,
    lateness: Histogram,
    zones: Family<Database, Gauge>,
}

impl Schedules {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let fired = Counter::default();
        let skipped = Family::<Reason, Counter>::default();
        let lateness = Histogram::new(exponential_buckets(0.05, 2.0, 16));
        let zones = Family::default();
        registry.register("schedule_runs_fired", "Runs that this master began by a schedule", fired.clone());
        SkipReason::ALL.into_iter().for_each(|reason| drop(skipped.get_or_create(&Reason { reason: reason.name() })));
        let help = "Occurrences of schedules that this master passed over, by reason";
        registry.register("schedule_occurrences_skipped", help, skipped.clone());
        let help = "How much later than due, and than its jitter, runs of schedules began";
        registry.register_with_unit("schedule_lateness", help, Unit::Seconds, lateness.clone());
        let help = "The time zone database that schedules are calculated with";
        registry.register("time_zone_database_info", help, zones.clone());
        Self { fired, skipped, lateness, zones }
    }

    pub fn fired(&self, late: Duration) {
        self.fired.inc();
        self.lateness.observe(late.as_secs_f64());
    }

    pub fn skipped(&self, reason: SkipReason, count: u64) {
        self.skipped.get_or_create(&Reason { reason: reason.name() }).inc_by(count);
    }

    pub fn calculate_with(&self, zones: &Zones) {
        let origin = match zones.origin() {
            Origin::Bundled => "bundled",
            Origin::System => "system",
        };
        self.zones.get_or_create(&Database { version: zones.version().to_owned(), origin }).set(1);
    }
}
