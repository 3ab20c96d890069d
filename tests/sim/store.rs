//! The store of the world: the model, virtual time, and a line from each master to it that loses, delays and repeats.

use crate::coverage::Point;
use crate::gate::Gate;
use crate::mix::Mix;
use crate::random::Random;
use crate::rollback::Log;
use crate::rules::Rules;
use crate::time::{EPOCH_MS, Time};
use async_trait::async_trait;
use bytes::Bytes;
use postrider_common::ids::{CampaignName, DeadId, DefinitionHash, ErasureId, LaneName, RunId};
use postrider_common::lease::{Fact, FactStatus, LeaseAnswer};
use postrider_common::mark::{Mark, Marks};
use postrider_common::pace::Limits;
use postrider_common::relay::RelayShare;
use postrider_common::suppression::SuppressionKey;
use postrider_store::embedded::model::{Command, Model};
use postrider_store::{
    AddBatches, AppliedCampaign, ApplyCampaign, BadRow, BatchRecord, CampaignRecord, CancelledBatches, Checkpoint,
    Claim, ClaimHistory, ClaimSplit, Claimed, ClaimedHistory, Compare, Compared, CreatedRun, DeadAnswer, DeadLetter,
    DueSchedules, EraseRecipients, EraseRun, ErasedRecipients, ErasedRun, ErasureRecord, Finish, Fire, Fired,
    ForgetRun, ForgottenRun, Found, Kept, LaneRecord, LeftSegment, NewRun, PinAudience, Reclaim, Reclaimed, Reconcile,
    Reconciled, Release, ReleaseSplit, ReplayDead, Result, RetireBatches, RetriedRun, RetryRun, Room, RunRecord,
    ShareLimit, ShareRelay, Shared, SharedLimit, SplitLease, SplitStatus, Steered, Store, StoreError, Suppress,
    SuppressRecipients, SuppressedRecipients, Suppressing, SuppressionRecord, SuppressionSet, WorkerRecord,
    WriteErasure,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;

mod line;

/// A transition that waits until the server was compared.
macro_rules! once_compared {
    ($transition:ident) => {
        |model, now, arguments| model.once_compared(|model| model.$transition(now, arguments))
    };
}

#[derive(Debug)]
pub struct StoreWorld {
    pub time: Time,
    pub model: Model,
    /// Every call that was applied; kept when the store may restart.
    pub log: Option<Log>,
    /// Of servers that had the store.
    pub lives: u64,
    /// Of those that lost what nobody was told: how much of the log is left. No answer of what is not comes any more.
    pub unheard: BTreeMap<u64, usize>,
    pub offset_ms: i64,
    pub is_down: bool,
    /// Since when, or was last.
    pub down_ms: u64,
    pub random: Random,
    pub mix: Mix,
    pub is_healed: bool,
    pub rules: Rules,
    pub calls: u64,
    pub faults: u64,
    /// One for every call that waits: receivers of one channel are woken in no order.
    wakes: Vec<watch::Sender<u64>>,
}

impl StoreWorld {
    pub fn new(time: Time, mix: &Mix, random: Random) -> Arc<Mutex<Self>> {
        let mut world = Self {
            time,
            model: Model::default(),
            log: (mix.store_restarts + mix.rollbacks > 0).then(Log::default),
            lives: 0,
            unheard: BTreeMap::new(),
            offset_ms: 0,
            is_down: false,
            down_ms: 0,
            random,
            mix: mix.clone(),
            is_healed: false,
            rules: Rules::new(mix),
            calls: 0,
            faults: 0,
            wakes: Vec::new(),
        };
        world.meet_server();
        Arc::new(Mutex::new(world))
    }

    pub fn falls(&mut self) {
        self.is_down = true;
        self.down_ms = self.time.now_ms();
    }

    pub fn now(&self) -> i64 {
        EPOCH_MS + self.time.now_ms() as i64 + self.offset_ms
    }

    /// What a person does about batches that were set aside whole: gives up what is left of them.
    pub fn purge_whole_batches(&mut self) {
        let letters = self.model.dead_letters(None, None, usize::MAX);
        for id in letters.into_iter().map(|letter| letter.id).filter(|id| id.index.is_none()) {
            if self.apply(&id, Command::PurgeDead, once_compared!(purge_dead)).is_err() {
                // The store is down: at the next look.
                return;
            }
        }
    }

    /// Somebody knows what was in the log when it had this length.
    fn tell(&mut self, length: usize) {
        if let Some(log) = &mut self.log {
            log.tell(length);
        }
    }

    fn hint(&mut self) {
        self.wakes.retain(|wake| !wake.is_closed());
        self.wakes.iter().for_each(|wake| wake.send_modify(|count| *count += 1));
    }

    fn apply<A: Clone, T>(
        &mut self,
        arguments: &A,
        command: fn(A) -> Command,
        act: fn(&mut Model, i64, A) -> T,
    ) -> Result<T> {
        if self.is_down {
            return Err(StoreError::Unavailable("it is down".to_owned()));
        }
        self.calls += 1;
        let now = self.now();
        let record = command(arguments.clone());
        let answer = act(&mut self.model, now, arguments.clone());
        self.rules.applied(&self.model, now, self.time.now_ms(), &record);
        if let Some(log) = &mut self.log {
            log.add(now, self.time.now_ms(), record, self.model.mark());
        }
        Ok(answer)
    }

    fn position(&self) -> Position {
        let length = self.log.as_ref().map_or(0, Log::length);
        Position { life: self.lives, length, mark: self.model.mark() }
    }

    fn was_never_told(&self, position: &Position) -> bool {
        self.unheard.get(&position.life).is_some_and(|left| position.length > *left)
    }
}

/// The line from one master to the store.
#[derive(Debug, Clone)]
pub struct Line {
    pub world: Arc<Mutex<StoreWorld>>,
    /// The master does not run (SIGSTOP): nothing of it leaves or arrives.
    pub gate: Arc<Gate>,
    /// How far the process knows the store to be, by the answers it got.
    seen: Arc<Mutex<Marks>>,
}

/// How far the store was when it answered: its server, its log, its own mark.
#[derive(Debug)]
struct Position {
    life: u64,
    length: usize,
    mark: Mark,
}

const LOST_AFTER_MS: u64 = 300;

impl Line {
    pub fn new(world: Arc<Mutex<StoreWorld>>) -> Self {
        Self { world, gate: Arc::default(), seen: Arc::default() }
    }

    pub fn marks(&self) -> Marks {
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Another process makes the calls from now on.
    pub fn forget(&self) {
        *self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Marks::default();
    }

    pub fn world(&self) -> MutexGuard<'_, StoreWorld> {
        // After a panic the seed has failed already.
        self.world.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for Line {
    fn describe(&self) -> String {
        "simulated".to_owned()
    }

    fn wake(&self) -> watch::Receiver<u64> {
        let (sender, receiver) = watch::channel(0);
        self.world().wakes.push(sender);
        receiver
    }

    async fn now_ms(&self) -> Result<i64> {
        Ok(self.world().now())
    }

    fn seen(&self) -> Marks {
        self.marks()
    }

    async fn compare(&self, compare: Compare) -> Result<Vec<Compared>> {
        let arguments = Model::comparison(&compare);
        let compared = self.carry(|world| {
            let length = world.position().length;
            let compared = world.apply(&arguments, Command::Compare, Model::compare)?;
            world.rules.compared(&compare, &compared, (&self.marks(), length));
            Ok(compared)
        });
        let compared = compared.await?;
        if compared.found == Found::Confirmed {
            self.world().hint();
        }
        Ok(vec![compared])
    }

    async fn apply_campaign(&self, apply: ApplyCampaign) -> Result<AppliedCampaign> {
        self.write(apply, Command::ApplyCampaign, Model::apply_campaign).await
    }

    async fn campaign(&self, name: &CampaignName) -> Result<Option<CampaignRecord>> {
        self.read(|model| model.campaign(name)).await
    }

    async fn campaigns(&self, after: Option<&CampaignName>, limit: usize) -> Result<Vec<CampaignRecord>> {
        self.read(|model| model.campaigns(after, limit)).await
    }

    async fn set_campaign_paused(&self, name: &CampaignName, paused: bool) -> Result<bool> {
        self.write((name.clone(), paused), Command::SetCampaignPaused, Model::set_campaign_paused).await
    }

    async fn delete_campaign(&self, name: &CampaignName) -> Result<bool> {
        self.write(name.clone(), Command::DeleteCampaign, Model::delete_campaign).await
    }

    async fn definition(&self, hash: &DefinitionHash) -> Result<Option<Bytes>> {
        self.read(|model| model.definition(hash).map(Bytes::from)).await
    }

    async fn create_run(&self, run: NewRun) -> Result<CreatedRun> {
        let created = self.carry(|world| match world.rules.forgotten.contains_key(&run.id) {
            // Of a run that came to its end nobody repeats the submit; but a master that was stopped may.
            true => Ok(CreatedRun::Existed),
            false => world.apply(&run, Command::CreateRun, Model::create_run),
        });
        let created = created.await?;
        self.world().hint();
        if created == CreatedRun::Existed {
            self.world().rules.coverage.reach(Point::SubmitRepeated);
        }
        Ok(created)
    }

    async fn run(&self, run: &RunId) -> Result<Option<RunRecord>> {
        self.read(|model| model.run(run)).await
    }

    async fn runs(&self, before: Option<(i64, RunId)>, limit: usize) -> Result<Vec<RunRecord>> {
        self.read(|model| model.runs(before.clone(), limit)).await
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
        self.read(|model| model.runs_to_cancel(limit)).await
    }

    async fn claim_split(&self, claim: ClaimSplit) -> Result<Option<SplitLease>> {
        let lease = self.write(claim, Command::ClaimSplit, Model::claim_split).await?;
        if lease.as_ref().is_some_and(|lease| lease.cursor > 0) {
            self.world().rules.coverage.reach(Point::SplitTakenOver);
        }
        Ok(lease)
    }

    async fn add_batches(&self, add: AddBatches) -> Result<SplitStatus> {
        let status = self.write_and_wake(add, Command::AddBatches, Model::add_batches).await?;
        if status == SplitStatus::Lost {
            self.world().rules.coverage.reach(Point::SplitRefused);
        }
        Ok(status)
    }

    async fn pin_audience(&self, pin: PinAudience) -> Result<SplitStatus> {
        self.write(pin, Command::PinAudience, Model::pin_audience).await
    }

    async fn release_split(&self, release: ReleaseSplit) -> Result<SplitStatus> {
        self.write_and_wake(release, Command::ReleaseSplit, Model::release_split).await
    }

    async fn bad_rows(&self, run: &RunId) -> Result<Vec<BadRow>> {
        self.read(|model| model.bad_rows(run)).await
    }

    async fn claim(&self, claim: Claim) -> Result<Claimed> {
        self.carry(|world| {
            let claimed = world.apply(&claim, Command::Claim, Model::claim)?;
            let now = world.now();
            world.rules.claimed(now, &claim, &claimed);
            Ok(claimed)
        })
        .await
    }

    async fn checkpoint(&self, checkpoint: Checkpoint) -> Result<Vec<LeaseAnswer>> {
        let answers = self.write(checkpoint, Command::Checkpoint, once_compared!(checkpoint)).await??;
        self.world().rules.answered(&answers);
        Ok(answers)
    }

    async fn finish(&self, finish: Finish) -> Result<Vec<LeaseAnswer>> {
        let answers = self.write_and_wake(finish, Command::Finish, once_compared!(finish)).await??;
        self.world().rules.answered(&answers);
        Ok(answers)
    }

    async fn release(&self, release: Release) -> Result<Vec<LeaseAnswer>> {
        self.write_and_wake(release, Command::Release, once_compared!(release)).await?
    }

    async fn facts(&self, facts: Vec<Fact>, retry_fraction: u32) -> Result<Vec<FactStatus>> {
        let statuses = self.write((facts, retry_fraction), Command::Facts, once_compared!(facts)).await??;
        if statuses.contains(&FactStatus::Applied) {
            self.world().rules.coverage.reach(Point::FactCorrected);
        }
        Ok(statuses)
    }

    async fn reclaim(&self, reclaim: Reclaim) -> Result<Reclaimed> {
        let (world, reclaimed) = (
            Arc::clone(&self.world),
            self.carry(|world| {
                let reclaimed = world.apply(&reclaim, Command::Reclaim, Model::reclaim)?;
                let now = world.now();
                world.rules.reclaimed(now, &reclaim, &reclaimed);
                Ok(reclaimed)
            })
            .await?,
        );
        if reclaimed.leases > 0 {
            let mut world = world.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            world.hint();
        }
        Ok(reclaimed)
    }

    async fn reconcile(&self, reconcile: Reconcile) -> Result<Reconciled> {
        self.carry(|world| {
            let reconciled = world.apply(&reconcile, Command::Reconcile, Model::reconcile)?;
            world.rules.reconciled(&reconciled);
            Ok(reconciled)
        })
        .await
    }

    async fn claim_history(&self, claim: ClaimHistory) -> Result<ClaimedHistory> {
        let request = claim.request.clone();
        let claimed = self.write(claim, Command::ClaimHistory, Model::claim_history).await?;
        self.world().rules.claimed_history(request, &claimed);
        Ok(claimed)
    }

    async fn fire(&self, fire: Fire) -> Result<Fired> {
        self.write_and_wake(fire, Command::Fire, Model::fire).await
    }

    async fn due_schedules(&self, limit: usize) -> Result<DueSchedules> {
        let now = self.world().now();
        self.read(|model| model.due_schedules(now, limit)).await
    }

    async fn retire_batches(&self, retire: RetireBatches) -> Result<u64> {
        self.write_and_wake(retire, Command::RetireBatches, Model::retire_batches).await
    }

    async fn batches(&self, run: &RunId, after: u64, limit: usize) -> Result<Vec<BatchRecord>> {
        self.read(|model| model.batches(run, after, limit)).await
    }

    async fn share_relay(&self, share: ShareRelay) -> Result<RelayShare> {
        self.write(share, Command::ShareRelay, Model::share_relay).await
    }

    async fn share_limit(&self, share: ShareLimit) -> Result<SharedLimit> {
        self.write(share, Command::ShareLimit, Model::share_limit).await
    }

    async fn rooms(&self, limits: &Limits) -> Result<Vec<Room>> {
        let now = self.world().now();
        self.read(|model| model.rooms(now, limits)).await
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>> {
        self.read(Model::workers).await
    }

    async fn drain_worker(&self, name_or_instance: &str) -> Result<usize> {
        self.write_and_wake(name_or_instance.to_owned(), Command::DrainWorker, Model::drain_worker).await
    }

    async fn lanes(&self, lanes: &[LaneName]) -> Result<Vec<LaneRecord>> {
        self.read(|model| model.lanes(lanes)).await
    }

    async fn set_lane_paused(&self, lane: &LaneName, paused: bool) -> Result<()> {
        self.write_and_wake((lane.clone(), paused), Command::SetLanePaused, Model::set_lane_paused).await
    }

    async fn retry_run(&self, retry: RetryRun) -> Result<RetriedRun> {
        self.write_and_wake(retry, Command::RetryRun, once_compared!(retry_run)).await?
    }

    async fn dead_letters(&self, run: Option<&RunId>, after: Option<&DeadId>, limit: usize) -> Result<Vec<DeadLetter>> {
        self.read(|model| model.dead_letters(run, after, limit)).await
    }

    async fn replay_dead(&self, replay: ReplayDead) -> Result<DeadAnswer> {
        self.write_and_wake(replay, Command::ReplayDead, once_compared!(replay_dead)).await?
    }

    async fn purge_dead(&self, id: &DeadId) -> Result<DeadAnswer> {
        self.write(id.clone(), Command::PurgeDead, once_compared!(purge_dead)).await?
    }

    async fn forget_run(&self, forget: ForgetRun) -> Result<ForgottenRun> {
        self.carry(|world| {
            let before = world.model.run(&forget.run);
            let answer = world.apply(&forget, Command::ForgetRun, Model::forget_run)?;
            if let Some(run) = before.filter(|run| world.model.run(&run.id).is_none()) {
                let (now, at_ms) = (world.now(), world.time.now_ms());
                world.rules.forgot(now, at_ms, run, forget.keep_ms);
            }
            Ok(answer)
        })
        .await
    }

    async fn runs_to_forget(&self, limit: usize) -> Result<Vec<RunId>> {
        self.read(|model| model.runs_to_forget(limit)).await
    }

    async fn left_segments(&self, limit: usize) -> Result<Vec<LeftSegment>> {
        self.read(|model| model.left_segments(limit)).await
    }

    async fn forget_segments(&self, segments: Vec<LeftSegment>) -> Result<()> {
        self.write(segments, Command::ForgetSegments, Model::forget_segments).await
    }

    async fn keep(&self, shared: Vec<Shared>) -> Result<()> {
        self.write(shared, Command::Keep, Model::keep).await
    }

    async fn kept(&self, before_ms: i64, skip: usize, limit: usize) -> Result<Vec<Kept>> {
        self.read(|model| model.kept(before_ms, skip, limit)).await
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
        self.read(|model| model.erasure(id)).await
    }

    async fn open_erasures(&self, limit: usize) -> Result<Vec<ErasureRecord>> {
        self.read(|model| model.open_erasures(limit)).await
    }

    async fn suppress(&self, suppress: Suppress) -> Result<Suppressing> {
        self.write(suppress, Command::Suppress, Model::suppress).await
    }

    async fn suppression_set(&self) -> Result<SuppressionSet> {
        self.read(Model::suppression_set).await
    }

    async fn suppressions_of(&self, keys: &[SuppressionKey]) -> Result<Vec<Option<SuppressionRecord>>> {
        self.read(|model| model.suppressions_of(keys)).await
    }

    async fn suppressions_after(&self, after: Option<SuppressionKey>, limit: usize) -> Result<Vec<SuppressionRecord>> {
        self.read(|model| model.suppressions_after(after, limit)).await
    }

    async fn suppress_recipients(&self, found: SuppressRecipients) -> Result<SuppressedRecipients> {
        self.write_and_wake(found, Command::SuppressRecipients, once_compared!(suppress_recipients)).await?
    }
}
