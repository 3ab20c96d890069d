//! A store that measures: every call's latency by transition, and what the answers say.

use crate::metrics::Metrics;
use async_trait::async_trait;
use bytes::Bytes;
use postrider_common::ids::{CampaignName, DeadId, DefinitionHash, ErasureId, LaneName, RunId};
use postrider_common::lease::{Fact, FactStatus, LeaseAnswer};
use postrider_common::mark::Marks;
use postrider_common::pace::Limits;
use postrider_common::relay::RelayShare;
use postrider_common::suppression::SuppressionKey;
use postrider_store::{
    AddBatches, AppliedCampaign, ApplyCampaign, BadRow, BatchRecord, CampaignRecord, CancelledBatches, Checkpoint,
    Claim, ClaimHistory, ClaimSplit, Claimed, ClaimedHistory, Compare, Compared, CreatedRun, DeadAnswer, DeadLetter,
    DueSchedules, EraseRecipients, EraseRun, ErasedRecipients, ErasedRun, ErasureRecord, Finish, Fire, Fired,
    ForgetRun, ForgottenRun, Kept, LaneRecord, LeftSegment, NewRun, PinAudience, Reclaim, Reclaimed, Reconcile,
    Reconciled, Release, ReleaseSplit, RepairKind, ReplayDead, Result, RetireBatches, RetriedRun, RetryRun, Room,
    RunRecord, ShareLimit, ShareRelay, Shared, SharedLimit, SplitLease, SplitStatus, Steered, Store, Suppress,
    SuppressRecipients, SuppressedRecipients, Suppressing, SuppressionRecord, SuppressionSet, WorkerRecord,
    WriteErasure,
};
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

#[derive(Debug)]
pub struct Metered {
    inner: Arc<dyn Store>,
    metrics: Metrics,
}

impl Metered {
    pub fn new(inner: Arc<dyn Store>, metrics: Metrics) -> Self {
        Self { inner, metrics }
    }

    async fn timed<T>(&self, transition: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
        let begun = Instant::now();
        let answer = call.await;
        self.metrics.store_call(transition, begun.elapsed(), answer.is_err());
        answer
    }
}

/// Methods that are passed on, timed under their own name.
macro_rules! passed_on {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {
        /// The store as it is, measured.
        #[async_trait]
        impl Store for Metered {
            fn describe(&self) -> String {
                self.inner.describe()
            }

            fn wake(&self) -> watch::Receiver<u64> {
                self.inner.wake()
            }

            fn seen(&self) -> Marks {
                self.inner.seen()
            }

            async fn claim(&self, claim: Claim) -> Result<Claimed> {
                let claimed = self.timed("claim", self.inner.claim(claim)).await?;
                self.metrics.claims.inc();
                self.metrics.leases_granted.inc_by(claimed.leases.len() as u64);
                Ok(claimed)
            }

            async fn reclaim(&self, reclaim: Reclaim) -> Result<Reclaimed> {
                let reclaimed = self.timed("reclaim", self.inner.reclaim(reclaim)).await?;
                self.metrics.leases_expired.inc_by(u64::from(reclaimed.leases));
                self.metrics.doubts.inc_by(u64::from(reclaimed.doubts));
                self.metrics.dead_letters.inc_by(u64::from(reclaimed.dead));
                self.metrics.repaired(RepairKind::Unreadable, u64::from(reclaimed.repaired));
                self.metrics.reclaim_held.set(i64::try_from(reclaimed.held_ms).unwrap_or(i64::MAX));
                Ok(reclaimed)
            }

            async fn reconcile(&self, reconcile: Reconcile) -> Result<Reconciled> {
                let reconciled = self.timed("reconcile", self.inner.reconcile(reconcile)).await?;
                self.metrics.reconciled(&reconciled);
                Ok(reconciled)
            }

            $(async fn $name(&self, $($argument: $kind),*) -> Result<$answer> {
                self.timed(stringify!($name), self.inner.$name($($argument),*)).await
            })*
        }
    };
}

passed_on! {
    now_ms() -> i64;
    compare(compare: Compare) -> Vec<Compared>;
    apply_campaign(apply: ApplyCampaign) -> AppliedCampaign;
    campaign(name: &CampaignName) -> Option<CampaignRecord>;
    campaigns(after: Option<&CampaignName>, limit: usize) -> Vec<CampaignRecord>;
    set_campaign_paused(name: &CampaignName, paused: bool) -> bool;
    delete_campaign(name: &CampaignName) -> bool;
    fire(fire: Fire) -> Fired;
    due_schedules(limit: usize) -> DueSchedules;
    definition(hash: &DefinitionHash) -> Option<Bytes>;
    create_run(run: NewRun) -> CreatedRun;
    run(run: &RunId) -> Option<RunRecord>;
    runs(before: Option<(i64, RunId)>, limit: usize) -> Vec<RunRecord>;
    pause_run(run: &RunId) -> Steered;
    resume_run(run: &RunId) -> Steered;
    cancel_run(run: &RunId) -> Steered;
    cancel_batches(run: &RunId, after: u64, limit: usize) -> CancelledBatches;
    runs_to_cancel(limit: usize) -> Vec<RunId>;
    claim_split(claim: ClaimSplit) -> Option<SplitLease>;
    add_batches(add: AddBatches) -> SplitStatus;
    pin_audience(pin: PinAudience) -> SplitStatus;
    release_split(release: ReleaseSplit) -> SplitStatus;
    bad_rows(run: &RunId) -> Vec<BadRow>;
    checkpoint(checkpoint: Checkpoint) -> Vec<LeaseAnswer>;
    finish(finish: Finish) -> Vec<LeaseAnswer>;
    release(release: Release) -> Vec<LeaseAnswer>;
    facts(facts: Vec<Fact>, retry_fraction: u32) -> Vec<FactStatus>;
    share_relay(share: ShareRelay) -> RelayShare;
    share_limit(share: ShareLimit) -> SharedLimit;
    rooms(limits: &Limits) -> Vec<Room>;
    claim_history(claim: ClaimHistory) -> ClaimedHistory;
    retire_batches(retire: RetireBatches) -> u64;
    batches(run: &RunId, after: u64, limit: usize) -> Vec<BatchRecord>;
    workers() -> Vec<WorkerRecord>;
    drain_worker(name_or_instance: &str) -> usize;
    lanes(lanes: &[LaneName]) -> Vec<LaneRecord>;
    set_lane_paused(lane: &LaneName, paused: bool) -> ();
    retry_run(retry: RetryRun) -> RetriedRun;
    dead_letters(run: Option<&RunId>, after: Option<&DeadId>, limit: usize) -> Vec<DeadLetter>;
    replay_dead(replay: ReplayDead) -> DeadAnswer;
    purge_dead(id: &DeadId) -> DeadAnswer;
    forget_run(forget: ForgetRun) -> ForgottenRun;
    runs_to_forget(limit: usize) -> Vec<RunId>;
    left_segments(limit: usize) -> Vec<LeftSegment>;
    forget_segments(segments: Vec<LeftSegment>) -> ();
    keep(shared: Vec<Shared>) -> ();
    kept(before_ms: i64, skip: usize, limit: usize) -> Vec<Kept>;
    forget_kept(unnamed: Vec<Kept>) -> Vec<Shared>;
    erase_recipients(erase: EraseRecipients) -> ErasedRecipients;
    erase_run(erase: EraseRun) -> ErasedRun;
    write_erasure(write: WriteErasure) -> Option<u64>;
    erasure(id: &ErasureId) -> Option<ErasureRecord>;
    open_erasures(limit: usize) -> Vec<ErasureRecord>;
    suppress(suppress: Suppress) -> Suppressing;
    suppression_set() -> SuppressionSet;
    suppressions_of(keys: &[SuppressionKey]) -> Vec<Option<SuppressionRecord>>;
    suppressions_after(after: Option<SuppressionKey>, limit: usize) -> Vec<SuppressionRecord>;
    suppress_recipients(found: SuppressRecipients) -> SuppressedRecipients;
}
