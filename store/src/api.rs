//! The trait, and the values that go in and come out.

pub use crate::campaigns::{
    AppliedCampaign, ApplyCampaign, CampaignRecord, DueSchedules, Fire, Fired, FiredRun, Scheduled, SkipReason, Skipped,
};
pub use crate::compared::{Compare, Compared, Found};
pub use crate::erasure::{
    EraseRecipients, EraseRun, ErasedRecipients, ErasedRun, ErasureRecord, Replace, WriteErasure,
};
pub use crate::given_up::{DeadAnswer, DeadLetter, ENDS_WORKERS, ReplayDead, RetriedRun, RetryRun};
pub use crate::pinned::PinAudience;
pub use crate::reconciled::{Reconcile, Reconciled, Repair, RepairKind};
pub use crate::retention::{ForgetRun, ForgottenRun, Kept, LeftSegment, Shared};
pub use crate::room::{Room, RoomOf};
pub use crate::span::GrantSpan;
pub use crate::suppression::{
    SUPPRESSIONS_PER_CALL_MAX, Suppress, SuppressRecipients, SuppressedRecipients, Suppressing, SuppressionChange,
    SuppressionRecord, SuppressionSet,
};

use crate::error::StoreError;
use crate::quota::{ShareLimit, SharedLimit};
use async_trait::async_trait;
use bytes::Bytes;
use postrider_common::backoff::RetryPolicy;
use postrider_common::campaign::OnUnknown;
use postrider_common::ids::{
    BatchId, CampaignName, DeadId, DefinitionHash, ErasureId, Fence, LaneName, RequestId, RunId, SiteName, WorkerId,
};
use postrider_common::lease::{Fact, FactStatus, IndexRange, LeaseAnswer, LeaseReport, Progress};
use postrider_common::mark::Marks;
use postrider_common::pace::Limits;
use postrider_common::relay::{RelayShare, RelayWish};
use postrider_common::run::{BatchCounts, RecipientCounts, RunError, RunState};
use postrider_common::state::{RecipientState, UnknownReason};
use postrider_common::suppression::SuppressionKey;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub type Result<T> = std::result::Result<T, StoreError>;

/// All of it. Milliseconds named `…_at_ms` are by the store's clock since 1970-01-01T00:00:00Z.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// A line for people: kind and place, without credentials.
    fn describe(&self) -> String;
    /// Changes whenever work may have become claimable. A hint, never the truth: it may be lost.
    fn wake(&self) -> watch::Receiver<u64>;
    /// The store's clock.
    async fn now_ms(&self) -> Result<i64>;

    // Whether the store went back in time (section "compare").
    /// The highest positions that answers to this process carried. Never behind an answer to a
    /// worker or a client. Empty: nothing it acknowledges is durable, so it cannot go back.
    fn seen(&self) -> Marks;
    /// Compares what others saw acknowledged with what the store has; one answer per shard. A store that went back
    /// begins a new epoch, in which nothing is leased until workers had the time to report.
    async fn compare(&self, compare: Compare) -> Result<Vec<Compared>>;

    // Campaigns (section "apply campaign").
    async fn apply_campaign(&self, apply: ApplyCampaign) -> Result<AppliedCampaign>;
    async fn campaign(&self, name: &CampaignName) -> Result<Option<CampaignRecord>>;
    /// In order of name, after `after`.
    async fn campaigns(&self, after: Option<&CampaignName>, limit: usize) -> Result<Vec<CampaignRecord>>;
    /// False: there is none of that name.
    async fn set_campaign_paused(&self, name: &CampaignName, paused: bool) -> Result<bool>;
    async fn delete_campaign(&self, name: &CampaignName) -> Result<bool>;
    /// Decides about occurrences of a campaign's schedule, and creates the run of one of them, as one.
    async fn fire(&self, fire: Fire) -> Result<Fired>;
    /// Campaigns whose schedule is to be looked at now.
    async fn due_schedules(&self, limit: usize) -> Result<DueSchedules>;
    /// The encoded message definition of that hash.
    async fn definition(&self, hash: &DefinitionHash) -> Result<Option<Bytes>>;

    // Runs.
    /// Creates the run and its split work, or finds the one that was created by the same call before.
    async fn create_run(&self, run: NewRun) -> Result<CreatedRun>;
    async fn run(&self, run: &RunId) -> Result<Option<RunRecord>>;
    /// Newest first, older than `before` (created_at_ms, id).
    async fn runs(&self, before: Option<(i64, RunId)>, limit: usize) -> Result<Vec<RunRecord>>;
    async fn pause_run(&self, run: &RunId) -> Result<Steered>;
    /// Also clears the error of a failed run and makes its split due again.
    async fn resume_run(&self, run: &RunId) -> Result<Steered>;
    async fn cancel_run(&self, run: &RunId) -> Result<Steered>;
    /// Converts the pending recipients of the next ready and delayed batches of a cancelled run; leased
    /// ones follow when their lease ends. Looks at up to `limit` batches after `after` (a sequence).
    async fn cancel_batches(&self, run: &RunId, after: u64, limit: usize) -> Result<CancelledBatches>;
    /// Runs that are cancelled and still have batches to convert.
    async fn runs_to_cancel(&self, limit: usize) -> Result<Vec<RunId>>;

    // The split, leased like everything else.
    /// The run whose split has been due longest, if any.
    async fn claim_split(&self, claim: ClaimSplit) -> Result<Option<SplitLease>>;
    /// Adds batches and moves the cursor from `cursor` to `cursor_next`, as one.
    async fn add_batches(&self, add: AddBatches) -> Result<SplitStatus>;
    /// What was fetched from where nothing is read twice the same takes the place of the run's audience; only while
    /// nothing was split.
    async fn pin_audience(&self, pin: PinAudience) -> Result<SplitStatus>;
    /// Gives the split back: due again after `delay_ms`, or, with an error, when the run is resumed.
    async fn release_split(&self, release: ReleaseSplit) -> Result<SplitStatus>;
    async fn bad_rows(&self, run: &RunId) -> Result<Vec<BadRow>>;

    // Leases.
    async fn claim(&self, claim: Claim) -> Result<Claimed>;
    async fn checkpoint(&self, checkpoint: Checkpoint) -> Result<Vec<LeaseAnswer>>;
    async fn finish(&self, finish: Finish) -> Result<Vec<LeaseAnswer>>;
    async fn release(&self, release: Release) -> Result<Vec<LeaseAnswer>>;
    async fn facts(&self, facts: Vec<Fact>, retry_fraction: u32) -> Result<Vec<FactStatus>>;
    /// Takes back up to `limit` expired leases. Also the sign of life of the masters: when none came for
    /// `outage_gap_ms`, nothing is reclaimed until `ttl_ms` + `doubt_grace_ms` from now.
    async fn reclaim(&self, reclaim: Reclaim) -> Result<Reclaimed>;

    /// The next step of a round that proves that every batch is in exactly one place and that counters are sums, and
    /// repairs what is not. Anybody may call it at any time: one step is made in `interval_ms`.
    async fn reconcile(&self, reconcile: Reconcile) -> Result<Reconciled>;

    // Relays.
    /// Tells what a worker wants of a relay, and what it may use of it from now on.
    async fn share_relay(&self, share: ShareRelay) -> Result<RelayShare>;
    /// Tells what every shard wants of one limit of a lane or a site, and what each may use of it from now on.
    async fn share_limit(&self, share: ShareLimit) -> Result<SharedLimit>;
    /// What is left now of these limits, and of those of relays that workers seen lately have.
    async fn rooms(&self, limits: &Limits) -> Result<Vec<Room>>;

    // History.
    /// The settled batches that have waited longest for their history to be written, for one caller at a time:
    /// nobody else gets any until `ttl_ms` from now, or until `retire_batches` of the same request. Also how many
    /// wait in all.
    async fn claim_history(&self, claim: ClaimHistory) -> Result<ClaimedHistory>;
    /// Replaces what is stored of these batches by a tombstone that names the segment, which must be durable. One
    /// that changed since the claim is left as it is and claimed again. How many are in this segment now.
    async fn retire_batches(&self, retire: RetireBatches) -> Result<u64>;

    // Looking.
    /// The batches of a run with a sequence above `after`, in order, with payload.
    async fn batches(&self, run: &RunId, after: u64, limit: usize) -> Result<Vec<BatchRecord>>;
    async fn workers(&self) -> Result<Vec<WorkerRecord>>;
    /// Marks workers of that name or instance to drain; how many there are.
    async fn drain_worker(&self, name_or_instance: &str) -> Result<usize>;
    /// Lanes that were paused, and ready batches by lane for those asked.
    async fn lanes(&self, lanes: &[LaneName]) -> Result<Vec<LaneRecord>>;
    async fn set_lane_paused(&self, lane: &LaneName, paused: bool) -> Result<()>;

    // What was given up, and begins again when a person says so.
    /// Makes recipients of the next batches pending again that are exhausted or, if asked for, unknown; not those that
    /// are dead letters. Looks at up to `limit` batches after `after` (a sequence).
    async fn retry_run(&self, retry: RetryRun) -> Result<RetriedRun>;
    /// In order of run, batch and index, after `after`; of one run if given.
    async fn dead_letters(&self, run: Option<&RunId>, after: Option<&DeadId>, limit: usize) -> Result<Vec<DeadLetter>>;
    /// Makes a dead letter pending again. One in doubt only if that is said.
    async fn replay_dead(&self, replay: ReplayDead) -> Result<DeadAnswer>;
    /// Gives a dead letter up for good: it is listed no more, and who is pending in it ends as exhausted, or as
    /// unknown when in doubt.
    async fn purge_dead(&self, id: &DeadId) -> Result<DeadAnswer>;

    // What ends by age.
    /// Forgets a run that ended long enough ago: from the first call on it is not there any more, and its batches go
    /// step by step. A repeat goes on where the last call was.
    async fn forget_run(&self, forget: ForgetRun) -> Result<ForgottenRun>;
    /// Runs whose batches are not all gone.
    async fn runs_to_forget(&self, limit: usize) -> Result<Vec<RunId>>;
    /// Segments that forgotten batches named, for whoever finds out whether others name them, oldest first.
    async fn left_segments(&self, limit: usize) -> Result<Vec<LeftSegment>>;
    /// These were looked after; those that were left again meanwhile stay.
    async fn forget_segments(&self, segments: Vec<LeftSegment>) -> Result<()>;
    /// Somebody names these, or is about to: they are not forgotten for a while.
    async fn keep(&self, shared: Vec<Shared>) -> Result<()>;
    /// What nobody was about to name since, oldest first.
    async fn kept(&self, before_ms: i64, skip: usize, limit: usize) -> Result<Vec<Kept>>;
    /// Forgets what nobody names, unless somebody was about to since; definitions are deleted. Those that are gone.
    async fn forget_kept(&self, unnamed: Vec<Kept>) -> Result<Vec<Shared>>;

    // Erasure of one address.
    /// Recipients of a batch end, and nothing of them is kept but their states.
    async fn erase_recipients(&self, erase: EraseRecipients) -> Result<ErasedRecipients>;
    /// Whoever holds the split of the run loses it, and what is stored of its recipients is replaced.
    async fn erase_run(&self, erase: EraseRun) -> Result<ErasedRun>;
    /// The version it has now. None: it has another one than was given, or somebody holds it.
    async fn write_erasure(&self, write: WriteErasure) -> Result<Option<u64>>;
    async fn erasure(&self, id: &ErasureId) -> Result<Option<ErasureRecord>>;
    async fn open_erasures(&self, limit: usize) -> Result<Vec<ErasureRecord>>;

    // Who is not sent to.
    /// Changes the set. Once answered, no intent is granted in a batch that was not checked since.
    async fn suppress(&self, suppress: Suppress) -> Result<Suppressing>;
    async fn suppression_set(&self) -> Result<SuppressionSet>;
    /// What holds of these, in their order.
    async fn suppressions_of(&self, keys: &[SuppressionKey]) -> Result<Vec<Option<SuppressionRecord>>>;
    /// In order of their keys, after `after`.
    async fn suppressions_after(&self, after: Option<SuppressionKey>, limit: usize) -> Result<Vec<SuppressionRecord>>;
    /// Recipients of a batch end because they are in the set, and it is checked as of then.
    async fn suppress_recipients(&self, found: SuppressRecipients) -> Result<SuppressedRecipients>;
}

/// A run to create. Everything in it is frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewRun {
    /// Derived from campaign and idempotency key, so the same submit is the same run.
    pub id: RunId,
    /// Hash of everything the submitter gave; another one under the same id is a conflict.
    pub fingerprint: String,
    /// Name of the campaign; "" for a single message without one.
    pub campaign: String,
    /// When the campaign must exist and not be paused for the run to be created.
    pub requires_campaign: bool,
    pub lane: LaneName,
    pub on_unknown: OnUnknown,
    pub retry: RetryPolicy,
    pub definition: DefinitionHash,
    #[serde(with = "serde_bytes")]
    pub definition_bytes: Vec<u8>,
    /// The domain of the sender, for message ids.
    pub sender_domain: String,
    /// The encoded audience; opaque to the store.
    #[serde(with = "serde_bytes")]
    pub audience: Vec<u8>,
    /// None: the store's time at creation.
    pub nominal_at_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CreatedRun {
    Created,
    /// The same submit created it before.
    Existed,
    /// The id is taken by a submit with another fingerprint.
    Conflict,
    NoCampaign,
    CampaignPaused,
    /// The same submit created it so long ago that it is being forgotten. It can be created anew in a moment.
    BeingForgotten,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    pub id: RunId,
    pub campaign: String,
    pub lane: LaneName,
    pub on_unknown: OnUnknown,
    pub retry: RetryPolicy,
    pub definition: DefinitionHash,
    pub sender_domain: String,
    #[serde(with = "serde_bytes")]
    pub audience: Vec<u8>,
    pub nominal_at_ms: i64,
    pub created_at_ms: i64,
    /// First claim of the split; None: not yet.
    pub started_at_ms: Option<i64>,
    /// When the last recipient got its final state; None while somebody is pending.
    pub settled_at_ms: Option<i64>,
    pub paused: bool,
    pub cancelled: bool,
    pub error: Option<RunError>,
    pub split_complete: bool,
    /// Sequence of the newest batch; lower ones are refused for ever.
    pub sequence_max: u64,
    pub bad_rows: u64,
    pub repeated_rows: u64,
    pub recipients: RecipientCounts,
    pub batches: BatchCounts,
    pub resent_reply_lost: u64,
    pub resent_outcome_not_recorded: u64,
    pub leases_expired: u64,
    pub leases_taken_over: u64,
    /// Grows with each retry and replay by a person.
    pub generation: u64,
}

impl RunRecord {
    pub fn state(&self) -> RunState {
        let started = self.started_at_ms.is_some();
        let failed = self.error.is_some();
        postrider_common::run::state(started, self.split_complete, self.cancelled, failed, self.recipients.pending)
    }

    pub fn finished_at_ms(&self) -> Option<i64> {
        match self.state() {
            RunState::Finished | RunState::Cancelled => self.settled_at_ms.or(Some(self.created_at_ms)),
            RunState::Scheduled | RunState::Splitting | RunState::Sending | RunState::Failed => None,
        }
    }
}

/// The answer to pause, resume and cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Steered {
    Done,
    NoRun,
    /// The run is cancelled; pause and resume mean nothing.
    Cancelled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelledBatches {
    /// Recipients that became cancelled or unknown.
    pub recipients: u64,
    /// Pass as `after` next time; None: the last batch was looked at and none is left to convert.
    pub next: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimSplit {
    /// A repeat with the same id returns the same lease.
    pub request: RequestId,
    pub nonce: u32,
    pub ttl_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitLease {
    pub run: RunId,
    pub fence: Fence,
    pub ttl_ms: u64,
    /// Rows consumed from the audience.
    pub cursor: u64,
    pub sequence_max: u64,
    /// What `add_batches` stored with that cursor; opaque.
    #[serde(with = "serde_bytes")]
    pub open: Vec<u8>,
    pub bad_rows: u64,
    pub repeated_rows: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewBatch {
    /// Sequences of one call are consecutive and begin at `sequence_max` + 1.
    pub sequence: u64,
    pub site: SiteName,
    /// Recipients, 1 to `BATCH_RECIPIENTS_MAX`.
    pub count: u32,
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
    /// Until then, by the store's clock, it is delayed, whatever becomes of it. 0: it is ready.
    pub not_before_ms: i64,
    /// The number of the set of those who are not sent to, at which nobody in it was there. 0: not looked at.
    pub checked: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddBatches {
    pub run: RunId,
    pub fence: Fence,
    /// Compared with the stored cursor.
    pub cursor: u64,
    pub cursor_next: u64,
    pub batches: Vec<NewBatch>,
    /// Recipients read and not yet in a batch, for whoever goes on.
    #[serde(with = "serde_bytes")]
    pub open: Vec<u8>,
    /// Totals so far, not increments.
    pub bad_rows: u64,
    pub repeated_rows: u64,
    /// Those of this step, with their row number.
    pub bad_row_samples: Vec<BadRow>,
    /// The audience is read to its end and `open` is empty.
    pub complete: bool,
    /// The lease of the split is extended by this.
    pub ttl_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRow {
    /// 1-based record number, the header not counted.
    pub row: u64,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SplitStatus {
    /// Done, or done before by the same call.
    Done,
    /// The lease or the cursor is not the current one: stop, nothing was written.
    Lost,
    /// The run is cancelled or failed: stop, nothing was written.
    Stopped,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseSplit {
    pub run: RunId,
    pub fence: Fence,
    pub delay_ms: u64,
    /// The run fails: nothing more is sent until it is resumed.
    pub error: Option<RunError>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub worker: WorkerId,
    pub request: RequestId,
    pub nonce: u32,
    pub batches_max: u32,
    /// Lanes to choose from, with their weights. Others are not looked at.
    pub lanes: Vec<(LaneName, u32)>,
    pub ttl_ms: u64,
    pub hard_cap_ms: u64,
    /// Slots of the worker in all, for the list of workers.
    pub slots: u32,
    /// Lanes and sites without room are passed over.
    pub limits: Limits,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    pub leases: Vec<ClaimedBatch>,
    pub drain: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimedBatch {
    pub batch: BatchId,
    pub fence: Fence,
    pub campaign: String,
    pub lane: LaneName,
    pub site: SiteName,
    pub definition: DefinitionHash,
    /// What is left of the lease and of its hard cap (less than asked when the claim is a repeat).
    pub ttl_ms: u64,
    pub hard_cap_ms: u64,
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
    pub recipients: Vec<Progress>,
    /// The only ones that may get intents; None: all.
    pub only: Option<IndexRange>,
    /// It was not checked at this number of the set of those who are not sent to, which it has now. None: it was.
    pub unchecked: Option<u64>,
}

/// What reports need beside the reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub worker: WorkerId,
    pub reports: Vec<LeaseReport>,
    pub ttl_ms: u64,
    pub window: u32,
    /// Jitter of retries: uniform in 0..=1_000_000 millionths.
    pub retry_fraction: u32,
    /// Every intent needs room in its lane and in its site.
    pub limits: Limits,
    /// Only then is an intent granted that was not granted before. None: at any time.
    #[serde(default)]
    pub grants: Option<GrantSpan>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finish {
    pub worker: WorkerId,
    pub reports: Vec<LeaseReport>,
    pub retry_fraction: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    pub worker: WorkerId,
    pub reports: Vec<LeaseReport>,
    pub retry_fraction: u32,
    /// Recipients still in intent become in doubt; otherwise they refuse the release.
    pub abandon: bool,
    pub doubt_grace_ms: u64,
    /// The rest is not due before so long from now. Not with `abandon`.
    pub delay_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reclaim {
    pub limit: u32,
    pub ttl_ms: u64,
    pub doubt_grace_ms: u64,
    pub outage_gap_ms: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reclaimed {
    pub leases: u32,
    /// Recipients that became in doubt.
    pub doubts: u32,
    /// Recipients and batches that were set aside because they end workers.
    pub dead: u32,
    /// Nothing is reclaimed for this long, because service was away. 0: not held.
    pub held_ms: u64,
    /// Batches that cannot be read and were set aside. Must stay 0.
    pub repaired: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatchState {
    Ready,
    Leased,
    Delayed,
    Dead,
    Settled,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRecord {
    pub id: BatchId,
    pub site: SiteName,
    pub state: BatchState,
    /// Empty: retired.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
    /// Of a retired batch: the state, and, where a fact corrected it and no segment has that yet, code, detail and
    /// `settled_at_ms`. The rest is in the segments.
    pub recipients: Vec<Delivery>,
    /// Names of the segments that hold the history of a retired batch: the first one whole, the others corrections in
    /// order. Empty: not retired.
    pub segments: Vec<String>,
    /// Recipients that were erased, in order.
    pub erased: Vec<u32>,
}

impl BatchRecord {
    /// Its recipients are in segments; the store has states and corrections only.
    pub fn is_retired(&self) -> bool {
        !self.segments.is_empty()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimHistory {
    /// A repeat with the same id is answered like the first call.
    pub request: RequestId,
    pub ttl_ms: u64,
    pub limit: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimedHistory {
    /// Settled batches whose history is not written, those of this answer included.
    pub backlog: u64,
    /// Longest waiting first. Empty: none waits, or somebody else has them.
    pub batches: Vec<SettledBatch>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettledBatch {
    /// New whenever the batch settles or a fact corrects it.
    pub stamp: u64,
    pub record: BatchRecord,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetireBatches {
    /// That of the claim, which ends with this.
    pub request: RequestId,
    /// 1 to 64 of a-z, 0-9, '.', '_' and '-'.
    pub segment: String,
    /// With their stamps.
    pub batches: Vec<(BatchId, u64)>,
}

/// What is known of one delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    pub state: RecipientState,
    /// Transmissions begun that ended in an outcome or in doubt.
    pub attempts: u32,
    pub code: String,
    pub detail: String,
    /// Why a second transmission began, or why it is unknown.
    pub reason: Option<UnknownReason>,
    pub settled_at_ms: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRecord {
    pub id: WorkerId,
    pub seen_at_ms: i64,
    pub slots: u32,
    pub leases: u32,
    pub in_intent: u32,
    pub draining: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneRecord {
    pub name: LaneName,
    pub paused: bool,
    pub batches_ready: u64,
    /// Recipients in intent of leases that were counted against a limit; 0 without limits.
    pub in_intent_limited: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareRelay {
    pub worker: WorkerId,
    /// Grows with each call of the worker, over all relays: what comes late changes nothing.
    pub sequence: u64,
    pub wish: RelayWish,
    /// What it gets ends this long from now, unless it asks again.
    pub ttl_ms: u64,
}
