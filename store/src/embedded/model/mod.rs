//! The store as a pure state machine: `transition(now, arguments) -> answer`.
//!
//! No IO, no clock, no randomness, ordered collections only: the same calls in the same order give the
//! same state, so it is at once the embedded store, its replay after a crash, and the executable
//! specification that Redis is compared with. docs/state-machines.md says the same in words.

#[cfg(feature = "conformance")]
mod audit;
mod batch;
mod campaigns;
mod cancel;
mod claim;
mod erasure;
mod generation;
mod history;
mod lineage;
mod look;
pub(crate) mod pace;
mod poison;
mod quota;
mod recipient;
mod reclaim;
mod reconcile;
pub(crate) mod relay;
mod report;
mod retention;
mod runs;
mod split;
mod suppression;
mod turns;

use crate::api::{
    AddBatches, AppliedCampaign, ApplyCampaign, BadRow, CampaignRecord, Checkpoint, Claim, ClaimHistory, ClaimSplit,
    ENDS_WORKERS, EraseRecipients, EraseRun, Finish, Fire, ForgetRun, Kept, LeftSegment, NewRun, PinAudience, Reclaim,
    Reconcile, Release, ReleaseSplit, ReplayDead, RetireBatches, RetryRun, ShareRelay, Shared, Suppress,
    SuppressRecipients, WriteErasure,
};
use crate::quota::ShareLimit;
#[cfg(feature = "conformance")]
pub use audit::Standing;
use batch::Batch;
use campaigns::Schedules;
use erasure::Erasure;
use lineage::Lineage;
use pace::Meters;
use postrider_common::ids::{
    BatchId, CampaignName, DeadId, DefinitionHash, ErasureId, Fence, IdempotencyKey, LaneName, RelayName, RequestId,
    RunId, SiteName, WorkerId,
};
use postrider_common::lease::Fact;
use postrider_common::mark::Mark;
use postrider_common::run::{BatchCounts, RecipientCounts, RunError};
use postrider_common::sabotage::{Fault, planted};
use postrider_common::state::{RecipientState, UnknownReason};
use quota::Divisions;
use reconcile::Round;
use relay::Relay;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use suppression::Suppressions;
use turns::Turns;

/// A logged call. Replaying all of them with their times rebuilds the model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Command {
    ApplyCampaign(ApplyCampaign),
    SetCampaignPaused((CampaignName, bool)),
    DeleteCampaign(CampaignName),
    CreateRun(NewRun),
    PauseRun(RunId),
    ResumeRun(RunId),
    CancelRun(RunId),
    CancelBatches((RunId, u64, usize)),
    ClaimSplit(ClaimSplit),
    AddBatches(AddBatches),
    ReleaseSplit(ReleaseSplit),
    Claim(Claim),
    Checkpoint(Checkpoint),
    Finish(Finish),
    Release(Release),
    Facts((Vec<Fact>, u32)),
    Reclaim(Reclaim),
    ClaimHistory(ClaimHistory),
    RetireBatches(RetireBatches),
    DrainWorker(String),
    SetLanePaused((LaneName, bool)),
    MeetServer(String),
    Compare((Vec<Mark>, bool)),
    RetryRun(RetryRun),
    ReplayDead(ReplayDead),
    PurgeDead(DeadId),
    ShareRelay(ShareRelay),
    ForgetRun(ForgetRun),
    ForgetSegments(Vec<LeftSegment>),
    Keep(Vec<Shared>),
    ForgetKept(Vec<Kept>),
    ShareLimit(ShareLimit),
    Reconcile(Reconcile),
    Fire(Fire),
    EraseRecipients(EraseRecipients),
    EraseRun(EraseRun),
    WriteErasure(WriteErasure),
    PinAudience(PinAudience),
    Suppress(Suppress),
    SuppressRecipients(SuppressRecipients),
}

/// One run: what was frozen, and what happens to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Run {
    frozen: NewRun,
    nominal_at_ms: i64,
    created_at_ms: i64,
    started_at_ms: Option<i64>,
    settled_at_ms: Option<i64>,
    paused: bool,
    cancelled: bool,
    error: Option<RunError>,
    split: Split,
    sequence_max: u64,
    sites: BTreeSet<SiteName>,
    bad_rows: u64,
    repeated_rows: u64,
    bad_row_samples: Vec<BadRow>,
    recipients: RecipientCounts,
    batches: BatchCounts,
    resent_reply_lost: u64,
    resent_outcome_not_recorded: u64,
    leases_expired: u64,
    leases_taken_over: u64,
    /// `Lineage::base` when it was created.
    epoch: u64,
    /// Grows with each retry and replay by a person.
    generation: u64,
    /// The newest retries, oldest first.
    retries: Vec<KnownRetry>,
    /// Grows when a batch changes its place, and when somebody comes back from exhausted or unknown. All else only ever
    /// moves the counters on, so that what moved shows even when they are as they were.
    moves: u64,
    /// Moves when the run was over and all of it was proved.
    proved: Option<u64>,
}

impl Run {
    /// No new intents, and its batches are not leased.
    fn is_parked(&self) -> bool {
        (self.paused && !planted(Fault::PauseIgnored)) || self.cancelled || self.error.is_some()
    }

    /// Moves one recipient between the counters; the only place that does.
    fn count_move(&mut self, now: i64, from: RecipientState, to: RecipientState) {
        if to == RecipientState::Rejected && planted(Fault::CounterNotMoved) {
            return;
        }
        *self.recipients.of(from) -= 1;
        *self.recipients.of(to) += 1;
        self.moves += u64::from(matches!(from, RecipientState::Exhausted | RecipientState::Unknown));
        if to.is_final() {
            self.settled_at_ms = Some(now);
        }
    }

    fn count_resend(&mut self, reason: UnknownReason, by: i64) {
        let counter = match reason {
            UnknownReason::ReplyLost => &mut self.resent_reply_lost,
            UnknownReason::OutcomeNotRecorded => &mut self.resent_outcome_not_recorded,
        };
        *counter = counter.saturating_add_signed(by);
    }
}

/// The split of a run: a cursor, and who may move it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Split {
    /// When it may be claimed (or claimed again); None: ended, cancelled or failed.
    due_at: Option<i64>,
    hold: Option<(Fence, RequestId)>,
    cursor: u64,
    open: Vec<u8>,
    complete: bool,
}

/// A retry, by its key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct KnownRetry {
    key: IdempotencyKey,
    unknown: bool,
    generation: u64,
    /// The newest batch when it began: later ones are not its business.
    until: u64,
}

/// Why and when something was set aside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Dead {
    at_ms: i64,
    reason: String,
}

impl Dead {
    fn ends_workers(at_ms: i64) -> Self {
        Self { at_ms, reason: ENDS_WORKERS.to_owned() }
    }
}

/// A keyed apply and what it was answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct KnownApply {
    key: IdempotencyKey,
    fingerprint: String,
    answer: AppliedCampaign,
}

/// A worker process that was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Seen {
    at_ms: i64,
    slots: u32,
    draining: bool,
    last_claim: Option<(RequestId, Vec<(BatchId, Fence)>)>,
}

/// Everything.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Model {
    campaigns: BTreeMap<CampaignName, CampaignRecord>,
    schedules: Schedules,
    /// The newest keyed applies of each campaign, oldest first.
    apply_keys: BTreeMap<CampaignName, Vec<KnownApply>>,
    definitions: BTreeMap<DefinitionHash, Vec<u8>>,
    runs: BTreeMap<RunId, Run>,
    runs_by_age: BTreeSet<(i64, RunId)>,
    runs_to_cancel: BTreeSet<RunId>,
    splits: BTreeSet<(i64, RunId)>,
    split_requests: BTreeMap<RequestId, RunId>,
    batches: BTreeMap<BatchId, Batch>,
    /// Due time of delayed batches and expiry of leased ones.
    delayed: BTreeSet<(i64, BatchId)>,
    leased: BTreeSet<(i64, BatchId)>,
    /// Batches whose history is to be written, by their stamps.
    to_retire: BTreeMap<u64, BatchId>,
    stamp_counter: u64,
    /// What waits for a person.
    dead: BTreeMap<DeadId, Dead>,
    /// Who is writing history, and until when nobody else is asked to.
    history_hold: Option<(RequestId, i64)>,
    /// Runs that are forgotten and still have batches: how many.
    to_forget: BTreeMap<RunId, u64>,
    /// Segments that forgotten batches named, and when the last of them went.
    left_segments: BTreeMap<String, i64>,
    /// When somebody was about to name what is shared.
    kept: BTreeMap<Shared, i64>,
    erasures: BTreeMap<ErasureId, Erasure>,
    suppressions: Suppressions,
    turns: Turns,
    meters: Meters,
    relays: BTreeMap<RelayName, Relay>,
    divisions: Divisions,
    fence_counter: u64,
    workers: BTreeMap<WorkerId, Seen>,
    /// The masters' last sign of life, and until when nothing is reclaimed.
    last_sign_ms: Option<i64>,
    hold_until_ms: i64,
    lineage: Lineage,
    /// When it was noticed last that the store went back.
    went_back_at_ms: Option<i64>,
    round: Round,
}

/// Workers not seen for this long and without leases are forgotten.
const WORKER_FORGET_MS: i64 = 86_400_000;

impl Model {
    /// Applies a logged call.
    pub fn replay(&mut self, now: i64, command: Command) {
        match command {
            Command::ApplyCampaign(apply) => drop(self.apply_campaign(now, apply)),
            Command::SetCampaignPaused(set) => drop(self.set_campaign_paused(now, set)),
            Command::DeleteCampaign(name) => drop(self.delete_campaign(now, name)),
            Command::CreateRun(run) => drop(self.create_run(now, run)),
            Command::PauseRun(run) => drop(self.pause_run(now, run)),
            Command::ResumeRun(run) => drop(self.resume_run(now, run)),
            Command::CancelRun(run) => drop(self.cancel_run(now, run)),
            Command::CancelBatches(step) => drop(self.once_compared(|model| model.cancel_batches(now, step))),
            Command::ClaimSplit(claim) => drop(self.claim_split(now, claim)),
            Command::AddBatches(add) => drop(self.add_batches(now, add)),
            Command::ReleaseSplit(release) => drop(self.release_split(now, release)),
            Command::Claim(claim) => drop(self.claim(now, claim)),
            Command::Checkpoint(checkpoint) => drop(self.once_compared(|model| model.checkpoint(now, checkpoint))),
            Command::Finish(finish) => drop(self.once_compared(|model| model.finish(now, finish))),
            Command::Release(release) => drop(self.once_compared(|model| model.release(now, release))),
            Command::Facts(facts) => drop(self.once_compared(|model| model.facts(now, facts))),
            Command::Reclaim(reclaim) => drop(self.reclaim(now, reclaim)),
            Command::ClaimHistory(claim) => drop(self.claim_history(now, claim)),
            Command::RetireBatches(retire) => drop(self.retire_batches(now, retire)),
            Command::DrainWorker(worker) => drop(self.drain_worker(now, worker)),
            Command::SetLanePaused(set) => self.set_lane_paused(now, set),
            Command::MeetServer(server) => self.meet_server(now, server),
            Command::Compare(compare) => drop(self.compare(now, compare)),
            Command::RetryRun(retry) => drop(self.once_compared(|model| model.retry_run(now, retry))),
            Command::ReplayDead(replay) => drop(self.once_compared(|model| model.replay_dead(now, replay))),
            Command::PurgeDead(id) => drop(self.once_compared(|model| model.purge_dead(now, id))),
            Command::ShareRelay(share) => drop(self.share_relay(now, share)),
            Command::ForgetRun(forget) => drop(self.forget_run(now, forget)),
            Command::ForgetSegments(segments) => self.forget_segments(now, segments),
            Command::Keep(shared) => self.keep(now, shared),
            Command::ForgetKept(unnamed) => drop(self.forget_kept(now, unnamed)),
            Command::ShareLimit(share) => drop(self.share_limit(now, share)),
            Command::Reconcile(reconcile) => drop(self.reconcile(now, reconcile)),
            Command::Fire(fire) => drop(self.fire(now, fire)),
            Command::EraseRecipients(erase) => drop(self.once_compared(|model| model.erase_recipients(now, erase))),
            Command::EraseRun(erase) => drop(self.erase_run(now, erase)),
            Command::WriteErasure(write) => drop(self.write_erasure(now, write)),
            Command::PinAudience(pin) => drop(self.pin_audience(now, pin)),
            Command::Suppress(suppress) => drop(self.suppress(now, suppress)),
            Command::SuppressRecipients(found) => {
                drop(self.once_compared(|model| model.suppress_recipients(now, found)));
            }
        }
    }

    fn next_fence(&mut self, nonce: u32) -> Fence {
        self.fence_counter += 1;
        Fence { epoch: self.lineage.epoch, counter: self.fence_counter, nonce }
    }
}
