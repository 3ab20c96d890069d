//! What `/metrics` shows. The registry is a value, so two masters in one process do not share counters.

mod schedules;

use postrider_common::run::{BatchCounts, RecipientCounts};
use postrider_common::suppression::SuppressionReason;
use postrider_store::{Reconciled, RepairKind, Room, RoomOf, RunRecord};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LaneState {
    lane: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Transition {
    transition: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Repaired {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LaneLabel {
    lane: String,
}

/// `what`: how many more may begin now (rate), or be there at once (concurrency).
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Headroom {
    kind: &'static str,
    name: String,
    limit: &'static str,
}

type Latencies = Family<Transition, Histogram, fn() -> Histogram>;

/// The counters; clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    recipients: Family<LaneState, Gauge>,
    batches: Family<State, Gauge>,
    lane_ready: Family<LaneLabel, Gauge>,
    workers: Gauge,
    headroom: Family<Headroom, Gauge>,
    store_seconds: Latencies,
    store_errors: Family<Transition, Counter>,
    pub claims: Counter,
    pub leases_granted: Counter,
    pub leases_expired: Counter,
    pub doubts: Counter,
    repaired: Family<Repaired, Counter>,
    reconciled_batches: Counter,
    reconciler_rounds: Gauge,
    pub dead_letters: Counter,
    pub reclaim_held: Gauge,
    pub store_rollbacks: Gauge,
    pub leasing_stopped: Gauge,
    pub polls_held: Gauge,
    pub splits: Gauge,
    pub uploaded_bytes: Counter,
    pub history_backlog: Gauge,
    pub history_batches: Counter,
    pub history_segments: Counter,
    pub runs_forgotten: Counter,
    suppressed: Family<Reason, Counter>,
    pub schedules: schedules::Schedules,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("postrider");
        let seconds: fn() -> Histogram = || Histogram::new(exponential_buckets(0.000_1, 2.0, 16));
        let recipients = Family::default();
        let batches = Family::default();
        let lane_ready = Family::default();
        let workers = Gauge::default();
        let headroom = Family::default();
        let store_seconds = Latencies::new_with_constructor(seconds);
        let store_errors = Family::default();
        let claims = Counter::default();
        let leases_granted = Counter::default();
        let leases_expired = Counter::default();
        let doubts = Counter::default();
        let repaired = Family::<Repaired, Counter>::default();
        let reconciled_batches = Counter::default();
        let reconciler_rounds = Gauge::default();
        let dead_letters = Counter::default();
        let reclaim_held = Gauge::default();
        let store_rollbacks = Gauge::default();
        let leasing_stopped = Gauge::default();
        let polls_held = Gauge::default();
        let splits = Gauge::default();
        let uploaded = Counter::default();
        let history_backlog = Gauge::default();
        let history_batches = Counter::default();
        let history_segments = Counter::default();
        let runs_forgotten = Counter::default();
        let suppressed = Family::<Reason, Counter>::default();
        let r = &mut registry;
        r.register("recipients", "Recipients of the newest runs, by lane and state", recipients.clone());
        r.register("batches", "Batches of the newest runs, by state", batches.clone());
        r.register("lane_batches_ready", "Batches that wait for a worker, by lane", lane_ready.clone());
        r.register("workers", "Workers seen lately", workers.clone());
        let help = "What is left now of a limit of a lane, site or relay: recipients, or connections of a relay";
        r.register("rate_headroom", help, headroom.clone());
        let help = "Time of one store call, by transition";
        r.register_with_unit("store_call", help, Unit::Seconds, store_seconds.clone());
        r.register("store_errors", "Store calls that failed, by transition", store_errors.clone());
        r.register("claims", "Claims asked of the store", claims.clone());
        r.register("leases_granted", "Batches leased to workers", leases_granted.clone());
        r.register("leases_expired", "Leases taken back after they expired", leases_expired.clone());
        r.register("doubts", "Recipients in doubt because their lease expired", doubts.clone());
        r.register("dead_letters", "Recipients and batches set aside because they end workers", dead_letters.clone());
        // There from the start, so that an alarm sees the first repair as a rise from 0.
        RepairKind::ALL.into_iter().for_each(|kind| drop(repaired.get_or_create(&Repaired { kind: kind.name() })));
        let help = "What the reconciler had to repair, by kind; must stay 0";
        r.register("reconciler_repairs", help, repaired.clone());
        let help = "Batches that this master had the store prove to be in one place";
        r.register("reconciler_batches", help, reconciled_batches.clone());
        r.register(
            "reconciler_rounds",
            "Rounds of the reconciler over everything in the store",
            reconciler_rounds.clone(),
        );
        let help = "Milliseconds until leases are reclaimed again after an outage; 0: they are";
        r.register("reclaim_held_ms", help, reclaim_held.clone());
        let help = "Times the store came back with less than somebody saw acknowledged; must stay 0";
        r.register("store_rollbacks", help, store_rollbacks.clone());
        let help = "1: nothing is leased, because the store's server is not compared yet or the store went back";
        r.register("leasing_stopped", help, leasing_stopped.clone());
        r.register("long_polls_held", "Lease calls held now", polls_held.clone());
        r.register("splits_held", "Splits held by this master now", splits.clone());
        let help = "Bytes of audiences uploaded";
        r.register_with_unit("audience_uploaded", help, Unit::Bytes, uploaded.clone());
        let help = "Settled batches whose history is not written yet; when it is full nothing new is leased";
        r.register("history_backlog_batches", help, history_backlog.clone());
        r.register("history_batches", "Settled batches moved from the store to history", history_batches.clone());
        r.register("history_segments", "History segments written", history_segments.clone());
        for reason in SuppressionReason::ALL {
            drop(suppressed.get_or_create(&Reason { reason: reason.as_str() }));
        }
        let help = "Recipients that ended because they are not to be sent to, by reason";
        r.register("recipients_suppressed", help, suppressed.clone());
        r.register("runs_forgotten", "Runs forgotten because they ended long enough ago", runs_forgotten.clone());
        let schedules = schedules::Schedules::register(r);
        Self {
            registry: Arc::new(registry),
            recipients,
            batches,
            lane_ready,
            workers,
            headroom,
            store_seconds,
            store_errors,
            claims,
            leases_granted,
            leases_expired,
            doubts,
            repaired,
            reconciled_batches,
            reconciler_rounds,
            dead_letters,
            reclaim_held,
            store_rollbacks,
            leasing_stopped,
            polls_held,
            splits,
            uploaded_bytes: uploaded,
            history_backlog,
            history_batches,
            history_segments,
            runs_forgotten,
            suppressed,
            schedules,
        }
    }
}

impl Metrics {
    /// The OpenMetrics text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    pub fn store_call(&self, transition: &'static str, took: Duration, failed: bool) {
        let label = Transition { transition };
        self.store_seconds.get_or_create(&label).observe(took.as_secs_f64());
        if failed {
            self.store_errors.get_or_create(&label).inc();
        }
    }

    pub fn repaired(&self, kind: RepairKind, count: u64) {
        self.repaired.get_or_create(&Repaired { kind: kind.name() }).inc_by(count);
    }

    pub fn reconciled(&self, reconciled: &Reconciled) {
        self.reconciled_batches.inc_by(u64::from(reconciled.batches));
        self.reconciler_rounds.set(signed(reconciled.rounds));
        reconciled.repairs.iter().for_each(|repair| self.repaired(repair.kind, 1));
    }

    /// What was found when looking at the newest runs, lanes and workers.
    pub fn observe(&self, runs: &[RunRecord], lanes_ready: &[(String, u64)], workers: usize) {
        let mut lanes: BTreeMap<&str, RecipientCounts> = BTreeMap::new();
        let mut batches = BatchCounts::default();
        for run in runs {
            add_recipients(lanes.entry(run.lane.as_str()).or_default(), &run.recipients);
            add_batches(&mut batches, &run.batches);
        }
        for (lane, counts) in lanes {
            for (state, count) in named_recipients(&counts) {
                let label = LaneState { lane: lane.to_owned(), state };
                self.recipients.get_or_create(&label).set(signed(count));
            }
        }
        for (state, count) in named_batches(&batches) {
            self.batches.get_or_create(&State { state }).set(signed(count));
        }
        for (lane, ready) in lanes_ready {
            self.lane_ready.get_or_create(&LaneLabel { lane: lane.clone() }).set(signed(*ready));
        }
        self.workers.set(signed(workers as u64));
    }
}

impl Metrics {
    pub fn suppressed(&self, reason: SuppressionReason) {
        self.suppressed.get_or_create(&Reason { reason: reason.as_str() }).inc();
    }

    /// Only of what is limited now.
    pub fn observe_rooms(&self, rooms: &[Room]) {
        self.headroom.clear();
        for Room { of, paced, at_once } in rooms {
            let (kind, name) = match of {
                RoomOf::Lane(name) => ("lane", name.to_string()),
                RoomOf::Site(name) => ("site", name.to_string()),
                RoomOf::Relay(name) => ("relay", name.to_string()),
            };
            for (limit, left) in [("rate", paced), ("concurrency", at_once)] {
                if let Some(left) = left {
                    let label = Headroom { kind, name: name.clone(), limit };
                    self.headroom.get_or_create(&label).set(signed(*left));
                }
            }
        }
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn add_recipients(sum: &mut RecipientCounts, other: &RecipientCounts) {
    let RecipientCounts { total, pending, accepted, rejected, exhausted, suppressed, cancelled, unknown } = other;
    sum.total += total;
    sum.pending += pending;
    sum.accepted += accepted;
    sum.rejected += rejected;
    sum.exhausted += exhausted;
    sum.suppressed += suppressed;
    sum.cancelled += cancelled;
    sum.unknown += unknown;
}

fn named_recipients(counts: &RecipientCounts) -> [(&'static str, u64); 8] {
    let RecipientCounts { total, pending, accepted, rejected, exhausted, suppressed, cancelled, unknown } = *counts;
    [
        ("total", total),
        ("pending", pending),
        ("accepted", accepted),
        ("rejected", rejected),
        ("exhausted", exhausted),
        ("suppressed", suppressed),
        ("cancelled", cancelled),
        ("unknown", unknown),
    ]
}

fn add_batches(sum: &mut BatchCounts, other: &BatchCounts) {
    let BatchCounts { ready, leased, delayed, dead, settled } = other;
    sum.ready += ready;
    sum.leased += leased;
    sum.delayed += delayed;
    sum.dead += dead;
    sum.settled += settled;
}

fn named_batches(counts: &BatchCounts) -> [(&'static str, u64); 5] {
    let BatchCounts { ready, leased, delayed, dead, settled } = *counts;
    [("ready", ready), ("leased", leased), ("delayed", delayed), ("dead", dead), ("settled", settled)]
}
