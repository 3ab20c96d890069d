//! The store on a Redis or Valkey server: every transition is one Lua script.
//!
//! The scripts decide; this side checks the server, spells keys, passes arguments and reads answers.
//! docs/redis-keys.md lists the keys, docs/state-machines.md says what each transition does.
//!
//! What is stored in one script and read in another call (payload and states after a claim) is read by the
//! ids the script answered; a lease taken away in between shows as a fence that is refused later.

mod asking;
mod campaigns;
mod dead;
mod failure;
mod history;
mod keys;
mod leases;
mod link;
mod locate;
mod looking;
mod permissions;
mod preflight;
mod relays;
mod replicas;
mod reply;
mod reports;
mod runs;
mod scripts;
mod splits;
mod wake;

use crate::api::{
    AddBatches, AppliedCampaign, ApplyCampaign, BadRow, BatchRecord, CampaignRecord, CancelledBatches, Checkpoint,
    Claim, ClaimHistory, ClaimSplit, Claimed, ClaimedHistory, CreatedRun, DeadAnswer, DeadLetter, Finish, LaneRecord,
    NewRun, Reclaim, Reclaimed, Release, ReleaseSplit, ReplayDead, Result, RetireBatches, RetriedRun, RetryRun, Room,
    RunRecord, ShareRelay, SplitLease, SplitStatus, Steered, Store, WorkerRecord,
};
use crate::open::Options;
use ::redis::{Cmd, Pipeline, Value};
use async_trait::async_trait;
use bytes::Bytes;
use keys::Keys;
use link::Link;
use locate::{Locator, Servers};
use postrider_common::ids::{CampaignName, DeadId, DefinitionHash, LaneName, RunId};
use postrider_common::lease::{Fact, FactStatus, LeaseAnswer};
use postrider_common::pace::Limits;
use postrider_common::relay::RelayShare;
use postrider_common::sabotage::{Fault, planted};
use scripts::{Args, Scripts, Transition};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use tokio::sync::watch;
use wake::Wake;

/// A store on a server.
#[derive(Debug)]
pub struct Redis {
    place: String,
    scripts: Arc<Scripts>,
    keys: Keys,
    /// For transitions.
    swift: Link,
    /// For what is large (payloads in, listings out), so that transitions do not queue behind it.
    bulk: Link,
    wake: Wake,
    /// Batches set aside since the last reclaim reported them.
    set_aside: AtomicU32,
}

impl Redis {
    /// Connects once and checks the server. `StoreError::Unavailable` when it is not there (yet).
    pub async fn connect(url: &str, options: Options) -> Result<Self> {
        let keys = Keys::of_shard(0);
        let locator = Locator::new(&Servers::new(url, &options.tls)?, keys.tag());
        let scripts = Arc::new(Scripts::new(planted(Fault::IgnoreFences)));
        let (durability, clock) = (options.durability, options.clock);
        let link = || Link::new(Arc::clone(&locator), Arc::clone(&scripts), keys.clone(), durability, clock.clone());
        let (swift, bulk) = (link(), link());
        swift.open().await?;
        bulk.open().await?;
        let place = crate::StoreUrl::Redis(url.to_owned()).to_string();
        Ok(Self { place, scripts, keys, swift, bulk, wake: Wake::start(locator), set_aside: AtomicU32::new(0) })
    }

    fn script(&self, transition: Transition, own_keys: &[String], args: Args) -> Cmd {
        self.scripts.call(&self.keys, transition, own_keys, &args.0)
    }

    /// One transition.
    async fn run_script(&self, transition: Transition, own_keys: &[String], args: Args) -> Result<Value> {
        let mut pipe = ::redis::pipe();
        pipe.add_command(self.script(transition, own_keys, args));
        self.only(self.swift.call(pipe).await?)
    }

    /// The answer of the last command, when none failed.
    fn only(&self, answers: link::Answers) -> Result<Value> {
        let mut last = Err(reply::corrupt("no answer"));
        for answer in answers {
            last = Ok(answer?);
        }
        last
    }

    /// Reads; the answers are elements of one list. (Not as one: MULTI is refused when memory is used up.)
    async fn read_bulk(&self, pipe: Pipeline, what: &'static str) -> Result<reply::Elements> {
        let answers = self.bulk.call(pipe).await?;
        let values = answers.into_iter().collect::<Result<Vec<_>>>()?;
        reply::Elements::of(Value::Array(values), what)
    }
}

#[async_trait]
impl Store for Redis {
    fn describe(&self) -> String {
        self.place.clone()
    }

    fn wake(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
    }

    async fn now_ms(&self) -> Result<i64> {
        self.clock_ms().await
    }

    async fn apply_campaign(&self, apply: ApplyCampaign) -> Result<AppliedCampaign> {
        self.campaign_apply(apply).await
    }

    async fn campaign(&self, name: &CampaignName) -> Result<Option<CampaignRecord>> {
        self.campaign_named(name).await
    }

    async fn campaigns(&self, after: Option<&CampaignName>, limit: usize) -> Result<Vec<CampaignRecord>> {
        self.campaigns_after(after, limit).await
    }

    async fn set_campaign_paused(&self, name: &CampaignName, paused: bool) -> Result<bool> {
        self.campaign_set_paused(name, paused).await
    }

    async fn delete_campaign(&self, name: &CampaignName) -> Result<bool> {
        self.campaign_delete(name).await
    }

    async fn definition(&self, hash: &DefinitionHash) -> Result<Option<Bytes>> {
        self.definition_of(hash).await
    }

    async fn create_run(&self, run: NewRun) -> Result<CreatedRun> {
        self.run_create(run).await
    }

    async fn run(&self, run: &RunId) -> Result<Option<RunRecord>> {
        Ok(self.run_records(std::slice::from_ref(run)).await?.into_iter().next())
    }

    async fn runs(&self, before: Option<(i64, RunId)>, limit: usize) -> Result<Vec<RunRecord>> {
        self.runs_before(before, limit).await
    }

    async fn pause_run(&self, run: &RunId) -> Result<Steered> {
        self.run_steer(Transition::PauseRun, run).await
    }

    async fn resume_run(&self, run: &RunId) -> Result<Steered> {
        self.run_steer(Transition::ResumeRun, run).await
    }

    async fn cancel_run(&self, run: &RunId) -> Result<Steered> {
        self.run_steer(Transition::CancelRun, run).await
    }

    async fn cancel_batches(&self, run: &RunId, after: u64, limit: usize) -> Result<CancelledBatches> {
        self.run_cancel_batches(run, after, limit).await
    }

    async fn runs_to_cancel(&self, limit: usize) -> Result<Vec<RunId>> {
        self.runs_cancelled(limit).await
    }

    async fn claim_split(&self, claim: ClaimSplit) -> Result<Option<SplitLease>> {
        self.split_claim(claim).await
    }

    async fn add_batches(&self, add: AddBatches) -> Result<SplitStatus> {
        self.split_add_batches(add).await
    }

    async fn release_split(&self, release: ReleaseSplit) -> Result<SplitStatus> {
        self.split_release(release).await
    }

    async fn bad_rows(&self, run: &RunId) -> Result<Vec<BadRow>> {
        self.split_bad_rows(run).await
    }

    async fn claim(&self, claim: Claim) -> Result<Claimed> {
        self.lease_claim(claim).await
    }

    async fn checkpoint(&self, checkpoint: Checkpoint) -> Result<Vec<LeaseAnswer>> {
        self.report_checkpoint(checkpoint).await
    }

    async fn finish(&self, finish: Finish) -> Result<Vec<LeaseAnswer>> {
        self.report_finish(finish).await
    }

    async fn release(&self, release: Release) -> Result<Vec<LeaseAnswer>> {
        self.report_release(release).await
    }

    async fn facts(&self, facts: Vec<Fact>, retry_fraction: u32) -> Result<Vec<FactStatus>> {
        self.report_facts(facts, retry_fraction).await
    }

    async fn reclaim(&self, reclaim: Reclaim) -> Result<Reclaimed> {
        self.lease_reclaim(reclaim).await
    }

    async fn share_relay(&self, share: ShareRelay) -> Result<RelayShare> {
        self.relay_share(share).await
    }

    async fn rooms(&self, limits: &Limits) -> Result<Vec<Room>> {
        self.rooms_of(limits).await
    }

    async fn claim_history(&self, claim: ClaimHistory) -> Result<ClaimedHistory> {
        self.history_claim(claim).await
    }

    async fn retire_batches(&self, retire: RetireBatches) -> Result<u64> {
        self.history_retire(retire).await
    }

    async fn batches(&self, run: &RunId, after: u64, limit: usize) -> Result<Vec<BatchRecord>> {
        self.batches_after(run, after, limit).await
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>> {
        self.workers_seen().await
    }

    async fn drain_worker(&self, name_or_instance: &str) -> Result<usize> {
        self.worker_drain(name_or_instance).await
    }

    async fn lanes(&self, lanes: &[LaneName]) -> Result<Vec<LaneRecord>> {
        self.lanes_named(lanes).await
    }

    async fn set_lane_paused(&self, lane: &LaneName, paused: bool) -> Result<()> {
        self.lane_set_paused(lane, paused).await
    }

    async fn retry_run(&self, retry: RetryRun) -> Result<RetriedRun> {
        self.run_retry(retry).await
    }

    async fn dead_letters(&self, run: Option<&RunId>, after: Option<&DeadId>, limit: usize) -> Result<Vec<DeadLetter>> {
        self.dead_after(run, after, limit).await
    }

    async fn replay_dead(&self, replay: ReplayDead) -> Result<DeadAnswer> {
        self.dead_replay(replay).await
    }

    async fn purge_dead(&self, id: &DeadId) -> Result<DeadAnswer> {
        self.dead_purge(id).await
    }
}
