//! The embedded store: the pure model, one thread that owns it, and a log that makes it durable.
//!
//! A call is a closure sent to the owner thread. The owner takes as many as are waiting, stamps them with
//! the clock, runs them, writes their records to the log in one transaction, and only then answers them. So
//! an answer is durable, many callers share one sync, and state has one owner. Reads go the same way,
//! without a record. When the log fails the model is ahead of it: nothing is answered any more until a
//! restart has gone back to what is on disk.

mod log;
pub mod model;

use crate::api::{
    AddBatches, AppliedCampaign, ApplyCampaign, BadRow, BatchRecord, CampaignRecord, CancelledBatches, Checkpoint,
    Claim, ClaimHistory, ClaimSplit, Claimed, ClaimedHistory, Compare, Compared, CreatedRun, DeadAnswer, DeadLetter,
    DueSchedules, EraseRecipients, EraseRun, ErasedRecipients, ErasedRun, ErasureRecord, Finish, Fire, Fired,
    ForgetRun, ForgottenRun, Found, Kept, LaneRecord, LeftSegment, NewRun, PinAudience, Reclaim, Reclaimed, Reconcile,
    Reconciled, Release, ReleaseSplit, ReplayDead, Result, RetireBatches, RetriedRun, RetryRun, Room, RunRecord,
    ShareRelay, Shared, SplitLease, SplitStatus, Steered, Store, Suppress, SuppressRecipients, SuppressedRecipients,
    Suppressing, SuppressionRecord, SuppressionSet, WorkerRecord, WriteErasure,
};
use crate::error::StoreError;
use crate::quota::{ShareLimit, SharedLimit};
use async_trait::async_trait;
use bytes::Bytes;
use log::Log;
use model::{Command, Model};
use postrider_common::Clock;
use postrider_common::ids::{CampaignName, DeadId, DefinitionHash, ErasureId, LaneName, RunId};
use postrider_common::lease::{Fact, FactStatus, LeaseAnswer};
use postrider_common::mark::Marks;
use postrider_common::pace::Limits;
use postrider_common::relay::RelayShare;
use postrider_common::suppression::SuppressionKey;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, thread};
use tokio::sync::{mpsc, oneshot, watch};

/// Calls waiting for the owner thread; callers wait when it is full.
const QUEUE_CALLS_MAX: usize = 1024;
/// Calls made durable by one sync.
const GROUP_CALLS_MAX: usize = 256;

/// A transition that waits until the server was compared.
macro_rules! once_compared {
    ($transition:ident) => {
        |model, now, arguments| model.once_compared(|model| model.$transition(now, arguments))
    };
}

/// Sends the answer, or the error that the log failed with.
type Answer = Box<dyn FnOnce(Option<StoreError>) + Send>;

/// Runs the call; also says whether its answer must wait for the disk.
type Act = Box<dyn FnOnce(&mut Model, i64) -> (Answer, bool) + Send>;

/// A call on its way to the owner thread.
struct Call {
    /// What is logged; None for a read or when nothing is durable.
    command: Option<Command>,
    act: Act,
}

/// A store inside the process.
pub struct Embedded {
    calls: mpsc::Sender<Call>,
    durable: bool,
    place: String,
    wake: Arc<watch::Sender<u64>>,
    clock: Arc<dyn Clock>,
    /// Written by the owner before it answers. Empty: nothing is durable, so nothing can go back.
    seen: Arc<Mutex<Marks>>,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Embedded {
    /// Gone with the process.
    pub fn in_memory(clock: Arc<dyn Clock>) -> Self {
        Self::start(Model::default(), None, "embedded: (in memory)".to_owned(), clock)
    }

    /// Durable in the folder `path`, which is created if missing. One process at a time.
    pub async fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self> {
        let folder = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || Log::open(&folder)).await;
        let (log, model) = opened.map_err(|error| StoreError::Unavailable(error.to_string()))??;
        let server = format!("{:016x}{:016x}", clock.random(), clock.random());
        let store = Self::start(model, Some(log), format!("embedded:{}", path.display()), clock);
        store.write(server, Command::MeetServer, Model::meet_server).await?;
        Ok(store)
    }

    fn start(model: Model, log: Option<Log>, place: String, clock: Arc<dyn Clock>) -> Self {
        let (calls, queue) = mpsc::channel(QUEUE_CALLS_MAX);
        let wake = Arc::new(watch::Sender::new(0));
        let durable = log.is_some();
        let seen = Arc::new(Mutex::default());
        let owner = Owner { model, log, queue, clock: clock.clone(), seen: Arc::clone(&seen) };
        let spawned = thread::Builder::new().name("postrider-store".to_owned()).spawn(move || owner.run());
        if let Err(error) = spawned {
            tracing::error!(%error, "failed to start the store's thread");
        }
        Self { calls, durable, place, wake, clock, seen }
    }

    async fn send<T: Send + 'static>(
        &self,
        command: Option<Command>,
        needs_sync: fn(&T) -> bool,
        act: impl FnOnce(&mut Model, i64) -> T + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let act = Box::new(move |model: &mut Model, now| {
            let result = act(model, now);
            let sync = needs_sync(&result);
            let send: Answer = Box::new(move |failed: Option<StoreError>| {
                // The caller may be gone; the call happened all the same.
                let _ = answer.send(failed.map_or(Ok(result), Err));
            });
            (send, sync)
        });
        let gone = || StoreError::Unavailable("the store's thread has ended".to_owned());
        self.calls.send(Call { command, act }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    async fn read<T: Send + 'static>(&self, act: impl FnOnce(&Model) -> T + Send + 'static) -> Result<T> {
        self.send(None, |_| false, move |model, _| act(model)).await
    }

    /// A transition: applied, then logged when durable, then answered.
    async fn write<A: Clone + Send + 'static, T: Send + 'static>(
        &self,
        arguments: A,
        command: fn(A) -> Command,
        act: fn(&mut Model, i64, A) -> T,
    ) -> Result<T> {
        self.write_lazily(arguments, command, act, |_| true).await
    }

    /// As `write`, for one that often changes nothing: then the answer does not wait for the disk. Its
    /// record is written with the next one, since replay needs every call.
    async fn write_lazily<A: Clone + Send + 'static, T: Send + 'static>(
        &self,
        arguments: A,
        command: fn(A) -> Command,
        act: fn(&mut Model, i64, A) -> T,
        needs_sync: fn(&T) -> bool,
    ) -> Result<T> {
        let record = self.durable.then(|| command(arguments.clone()));
        self.send(record, needs_sync, move |model, now| act(model, now, arguments)).await
    }

    /// As `write`, for a transition that may make work claimable.
    async fn write_and_wake<A: Clone + Send + 'static, T: Send + 'static>(
        &self,
        arguments: A,
        command: fn(A) -> Command,
        act: fn(&mut Model, i64, A) -> T,
    ) -> Result<T> {
        let result = self.write(arguments, command, act).await;
        self.wake.send_modify(|count| *count += 1);
        result
    }
}

/// The thread that owns the model.
struct Owner {
    model: Model,
    log: Option<Log>,
    queue: mpsc::Receiver<Call>,
    clock: Arc<dyn Clock>,
    seen: Arc<Mutex<Marks>>,
}

impl Owner {
    fn run(mut self) {
        let mut group = Vec::with_capacity(GROUP_CALLS_MAX);
        let mut failed: Option<StoreError> = None;
        while self.queue.blocking_recv_many(&mut group, GROUP_CALLS_MAX) > 0 {
            if failed.is_none() {
                failed = self.run_group(group.drain(..)).err();
            } else {
                // Dropping a call answers that the thread has ended.
                group.clear();
            }
        }
    }

    fn run_group(&mut self, group: impl Iterator<Item = Call>) -> Result<()> {
        let now = self.clock.wall_ms();
        let mut answers = Vec::new();
        let mut commands = Vec::new();
        let mut sync = false;
        for call in group {
            let (answer, needs_sync) = (call.act)(&mut self.model, now);
            sync |= needs_sync && call.command.is_some();
            answers.push(answer);
            commands.extend(call.command);
        }
        let logged = match &mut self.log {
            Some(log) => {
                let appended = log.append(now, &commands, sync);
                appended.and_then(|()| log.renew_after(&commands, &self.model))
            }
            None => Ok(()),
        };
        if let Err(error) = &logged {
            tracing::error!(%error, "the log of the store failed; restart the master once the disk is mended");
        }
        if self.log.is_some() && logged.is_ok() {
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).note(self.model.mark());
        }
        for answer in answers {
            answer(logged.clone().err());
        }
        if let Some(Err(error)) = self.log.as_mut().map(|log| log.compact_when_long(&self.model)) {
            tracing::warn!(%error, "failed to compact the log of the store; it goes on growing");
        }
        logged
    }
}

#[async_trait]
impl Store for Embedded {
    fn describe(&self) -> String {
        self.place.clone()
    }

    fn wake(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
    }

    async fn now_ms(&self) -> Result<i64> {
        Ok(self.clock.wall_ms())
    }

    fn seen(&self) -> Marks {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn compare(&self, compare: Compare) -> Result<Vec<Compared>> {
        // What nothing was found by need not be on disk.
        let changed = |compared: &Compared| matches!(compared.found, Found::Confirmed | Found::WentBack { .. });
        let arguments = Model::comparison(&compare);
        let compared = self.write_lazily(arguments, Command::Compare, Model::compare, changed).await?;
        if compared.found == Found::Confirmed {
            self.wake.send_modify(|count| *count += 1);
        }
        Ok(vec![compared])
    }

    async fn apply_campaign(&self, apply: ApplyCampaign) -> Result<AppliedCampaign> {
        self.write(apply, Command::ApplyCampaign, Model::apply_campaign).await
    }

    async fn campaign(&self, name: &CampaignName) -> Result<Option<CampaignRecord>> {
        let name = name.clone();
        self.read(move |model| model.campaign(&name)).await
    }

    async fn campaigns(&self, after: Option<&CampaignName>, limit: usize) -> Result<Vec<CampaignRecord>> {
        let after = after.cloned();
        self.read(move |model| model.campaigns(after.as_ref(), limit)).await
    }

    async fn set_campaign_paused(&self, name: &CampaignName, paused: bool) -> Result<bool> {
        self.write((name.clone(), paused), Command::SetCampaignPaused, Model::set_campaign_paused).await
    }

    async fn delete_campaign(&self, name: &CampaignName) -> Result<bool> {
        self.write(name.clone(), Command::DeleteCampaign, Model::delete_campaign).await
    }

    async fn fire(&self, fire: Fire) -> Result<Fired> {
        let fired = self.write_lazily(fire, Command::Fire, Model::fire, |fired| *fired == Fired::Done).await?;
        self.wake.send_modify(|count| *count += 1);
        Ok(fired)
    }

    async fn due_schedules(&self, limit: usize) -> Result<DueSchedules> {
        let now = self.clock.wall_ms();
        self.read(move |model| model.due_schedules(now, limit)).await
    }

    async fn definition(&self, hash: &DefinitionHash) -> Result<Option<Bytes>> {
        let hash = hash.clone();
        self.read(move |model| model.definition(&hash).map(Bytes::from)).await
    }

    async fn create_run(&self, run: NewRun) -> Result<CreatedRun> {
        self.write_and_wake(run, Command::CreateRun, Model::create_run).await
    }

    async fn run(&self, run: &RunId) -> Result<Option<RunRecord>> {
        let run = run.clone();
        self.read(move |model| model.run(&run)).await
    }

    async fn runs(&self, before: Option<(i64, RunId)>, limit: usize) -> Result<Vec<RunRecord>> {
        self.read(move |model| model.runs(before, limit)).await
    }

    async fn pause_run(&self, run: &RunId) -> Result<Steered> {
        self.write(run.clone(), Command::PauseRun, Model::pause_run).await
    }

    async fn resume_run(&self, run: &RunId) -> Result<Steered> {
        self.write_and_wake(run.clone(), Command::ResumeRun, Model::resume_run).await
    }

    async fn cancel_run(&self, run: &RunId) -> Result<Steered> {
        self.write(run.clone(), Command::CancelRun, Model::cancel_run).await
    }

    async fn cancel_batches(&self, run: &RunId, after: u64, limit: usize) -> Result<CancelledBatches> {
        self.write((run.clone(), after, limit), Command::CancelBatches, once_compared!(cancel_batches)).await?
    }

    async fn runs_to_cancel(&self, limit: usize) -> Result<Vec<RunId>> {
        self.read(move |model| model.runs_to_cancel(limit)).await
    }

    async fn claim_split(&self, claim: ClaimSplit) -> Result<Option<SplitLease>> {
        self.write_lazily(claim, Command::ClaimSplit, Model::claim_split, Option::is_some).await
    }

    async fn add_batches(&self, add: AddBatches) -> Result<SplitStatus> {
        self.write_and_wake(add, Command::AddBatches, Model::add_batches).await
    }

    async fn pin_audience(&self, pin: PinAudience) -> Result<SplitStatus> {
        self.write(pin, Command::PinAudience, Model::pin_audience).await
    }

    async fn release_split(&self, release: ReleaseSplit) -> Result<SplitStatus> {
        self.write_and_wake(release, Command::ReleaseSplit, Model::release_split).await
    }

    async fn bad_rows(&self, run: &RunId) -> Result<Vec<BadRow>> {
        let run = run.clone();
        self.read(move |model| model.bad_rows(&run)).await
    }

    async fn claim(&self, claim: Claim) -> Result<Claimed> {
        self.write_lazily(claim, Command::Claim, Model::claim, |claimed| !claimed.leases.is_empty()).await
    }

    async fn checkpoint(&self, checkpoint: Checkpoint) -> Result<Vec<LeaseAnswer>> {
        self.write(checkpoint, Command::Checkpoint, once_compared!(checkpoint)).await?
    }

    async fn finish(&self, finish: Finish) -> Result<Vec<LeaseAnswer>> {
        self.write_and_wake(finish, Command::Finish, once_compared!(finish)).await?
    }

    async fn release(&self, release: Release) -> Result<Vec<LeaseAnswer>> {
        self.write_and_wake(release, Command::Release, once_compared!(release)).await?
    }

    async fn facts(&self, facts: Vec<Fact>, retry_fraction: u32) -> Result<Vec<FactStatus>> {
        self.write((facts, retry_fraction), Command::Facts, once_compared!(facts)).await?
    }

    async fn reclaim(&self, reclaim: Reclaim) -> Result<Reclaimed> {
        let changed = |reclaimed: &Reclaimed| reclaimed.leases > 0;
        let reclaimed = self.write_lazily(reclaim, Command::Reclaim, Model::reclaim, changed).await?;
        if reclaimed.leases > 0 {
            self.wake.send_modify(|count| *count += 1);
        }
        Ok(reclaimed)
    }

    async fn reconcile(&self, reconcile: Reconcile) -> Result<Reconciled> {
        let repaired = |reconciled: &Reconciled| !reconciled.repairs.is_empty();
        let reconciled = self.write_lazily(reconcile, Command::Reconcile, Model::reconcile, repaired).await?;
        if !reconciled.repairs.is_empty() {
            self.wake.send_modify(|count| *count += 1);
        }
        Ok(reconciled)
    }

    async fn share_relay(&self, share: ShareRelay) -> Result<RelayShare> {
        self.write(share, Command::ShareRelay, Model::share_relay).await
    }

    async fn share_limit(&self, share: ShareLimit) -> Result<SharedLimit> {
        self.write(share, Command::ShareLimit, Model::share_limit).await
    }

    async fn rooms(&self, limits: &Limits) -> Result<Vec<Room>> {
        let (limits, now) = (limits.clone(), self.clock.wall_ms());
        self.read(move |model| model.rooms(now, &limits)).await
    }

    async fn claim_history(&self, claim: ClaimHistory) -> Result<ClaimedHistory> {
        // Losing the claim loses nothing: what was claimed is retired by its stamps.
        self.write_lazily(claim, Command::ClaimHistory, Model::claim_history, |_| false).await
    }

    async fn retire_batches(&self, retire: RetireBatches) -> Result<u64> {
        self.write_and_wake(retire, Command::RetireBatches, Model::retire_batches).await
    }

    async fn batches(&self, run: &RunId, after: u64, limit: usize) -> Result<Vec<BatchRecord>> {
        let run = run.clone();
        self.read(move |model| model.batches(&run, after, limit)).await
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>> {
        self.read(Model::workers).await
    }

    async fn drain_worker(&self, name_or_instance: &str) -> Result<usize> {
        self.write_and_wake(name_or_instance.to_owned(), Command::DrainWorker, Model::drain_worker).await
    }

    async fn lanes(&self, lanes: &[LaneName]) -> Result<Vec<LaneRecord>> {
        let lanes = lanes.to_vec();
        self.read(move |model| model.lanes(&lanes)).await
    }

    async fn set_lane_paused(&self, lane: &LaneName, paused: bool) -> Result<()> {
        self.write_and_wake((lane.clone(), paused), Command::SetLanePaused, Model::set_lane_paused).await
    }

    async fn retry_run(&self, retry: RetryRun) -> Result<RetriedRun> {
        self.write_and_wake(retry, Command::RetryRun, once_compared!(retry_run)).await?
    }

    async fn dead_letters(&self, run: Option<&RunId>, after: Option<&DeadId>, limit: usize) -> Result<Vec<DeadLetter>> {
        let (run, after) = (run.cloned(), after.cloned());
        self.read(move |model| model.dead_letters(run.as_ref(), after.as_ref(), limit)).await
    }

    async fn replay_dead(&self, replay: ReplayDead) -> Result<DeadAnswer> {
        self.write_and_wake(replay, Command::ReplayDead, once_compared!(replay_dead)).await?
    }

    async fn purge_dead(&self, id: &DeadId) -> Result<DeadAnswer> {
        self.write(id.clone(), Command::PurgeDead, once_compared!(purge_dead)).await?
    }

    async fn forget_run(&self, forget: ForgetRun) -> Result<ForgottenRun> {
        self.write(forget, Command::ForgetRun, Model::forget_run).await
    }

    async fn runs_to_forget(&self, limit: usize) -> Result<Vec<RunId>> {
        self.read(move |model| model.runs_to_forget(limit)).await
    }

    async fn left_segments(&self, limit: usize) -> Result<Vec<LeftSegment>> {
        self.read(move |model| model.left_segments(limit)).await
    }

    async fn forget_segments(&self, segments: Vec<LeftSegment>) -> Result<()> {
        self.write(segments, Command::ForgetSegments, Model::forget_segments).await
    }

    async fn keep(&self, shared: Vec<Shared>) -> Result<()> {
        self.write(shared, Command::Keep, Model::keep).await
    }

    async fn kept(&self, before_ms: i64, skip: usize, limit: usize) -> Result<Vec<Kept>> {
        self.read(move |model| model.kept(before_ms, skip, limit)).await
    }

    async fn forget_kept(&self, unnamed: Vec<Kept>) -> Result<Vec<Shared>> {
        self.write(unnamed, Command::ForgetKept, Model::forget_kept).await
    }

    async fn erase_recipients(&self, erase: EraseRecipients) -> Result<ErasedRecipients> {
        self.write_and_wake(erase, Command::EraseRecipients, once_compared!(erase_recipients)).await?
    }

    async fn erase_run(&self, erase: EraseRun) -> Result<ErasedRun> {
        self.write_and_wake(erase, Command::EraseRun, Model::erase_run).await
    }

    async fn write_erasure(&self, write: WriteErasure) -> Result<Option<u64>> {
        self.write(write, Command::WriteErasure, Model::write_erasure).await
    }

    async fn erasure(&self, id: &ErasureId) -> Result<Option<ErasureRecord>> {
        let id = id.clone();
        self.read(move |model| model.erasure(&id)).await
    }

    async fn open_erasures(&self, limit: usize) -> Result<Vec<ErasureRecord>> {
        self.read(move |model| model.open_erasures(limit)).await
    }

    async fn suppress(&self, suppress: Suppress) -> Result<Suppressing> {
        self.write(suppress, Command::Suppress, Model::suppress).await
    }

    async fn suppression_set(&self) -> Result<SuppressionSet> {
        self.read(Model::suppression_set).await
    }

    async fn suppressions_of(&self, keys: &[SuppressionKey]) -> Result<Vec<Option<SuppressionRecord>>> {
        let keys = keys.to_vec();
        self.read(move |model| model.suppressions_of(&keys)).await
    }

    async fn suppressions_after(&self, after: Option<SuppressionKey>, limit: usize) -> Result<Vec<SuppressionRecord>> {
        self.read(move |model| model.suppressions_after(after, limit)).await
    }

    async fn suppress_recipients(&self, found: SuppressRecipients) -> Result<SuppressedRecipients> {
        self.write_and_wake(found, Command::SuppressRecipients, once_compared!(suppress_recipients)).await?
    }
}
