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
mod effects;
mod erasure;
mod failure;
mod global;
mod history;
mod keys;
mod leases;
mod lineage;
mod link;
mod locate;
mod looking;
mod permissions;
mod preflight;
mod quota;
mod reconcile;
mod relays;
mod replicas;
mod reply;
mod reports;
mod retention;
mod route;
mod runs;
mod schedules;
mod scripts;
mod shard;
mod splits;
mod suppression;
mod wake;

use crate::api::{
    AddBatches, AppliedCampaign, ApplyCampaign, BadRow, BatchRecord, CampaignRecord, CancelledBatches, Checkpoint,
    Claim, ClaimHistory, ClaimSplit, Claimed, ClaimedHistory, Compare, Compared, CreatedRun, DeadAnswer, DeadLetter,
    DueSchedules, EraseRecipients, EraseRun, ErasedRecipients, ErasedRun, ErasureRecord, Finish, Fire, Fired,
    ForgetRun, ForgottenRun, Kept, LaneRecord, LeftSegment, NewRun, PinAudience, Reclaim, Reclaimed, Reconcile,
    Reconciled, Release, ReleaseSplit, ReplayDead, Result, RetireBatches, RetriedRun, RetryRun, Room, RunRecord,
    ShareRelay, Shared, SplitLease, SplitStatus, Steered, Store, Suppress, SuppressRecipients, SuppressedRecipients,
    Suppressing, SuppressionRecord, SuppressionSet, WorkerRecord, WriteErasure,
};
use crate::open::Options;
use crate::quota::{QUOTA_TTL_MS, ShareLimit, SharedLimit};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use global::Global;
use keys::{Keys, Tags};
use link::Link;
use locate::{Locator, Servers};
use postrider_common::ids::{CampaignName, DeadId, DefinitionHash, ErasureId, LaneName, RunId};
use postrider_common::lease::{Fact, FactStatus, LeaseAnswer, LeaseReport, LeaseStatus};
use postrider_common::limits::LEASES_PER_CALL_MAX;
use postrider_common::mark::Marks;
use postrider_common::pace::Limits;
use postrider_common::relay::RelayShare;
use postrider_common::sabotage::{Fault, planted};
use postrider_common::suppression::SuppressionKey;
use preflight::Topology;
use quota::{Mover, Quotas};
use scripts::{Scripts, Transition};
use shard::{Links, Shard};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use wake::Wake;

/// A shard that is away keeps reclaiming in the others waiting no longer than this.
const EFFECTS_MAX: Duration = Duration::from_secs(2);

/// A store on a server, or on the nodes of a cluster.
#[derive(Debug)]
pub struct Redis {
    place: String,
    /// By number. Never empty.
    shards: Arc<[Shard]>,
    global: Arc<Global>,
    wake: Arc<Wake>,
    /// None: one shard has all of every limit.
    quotas: Option<Quotas>,
    /// Of effects, before this master ends, in a test.
    #[cfg(feature = "conformance")]
    steps_left: std::sync::atomic::AtomicUsize,
}

impl Redis {
    /// Connects once and checks every server. `StoreError::Unavailable` when one is not there (yet).
    pub async fn connect(url: &str, options: Options) -> Result<Self> {
        let servers = Servers::new(url, &options.tls)?;
        let scripts = Arc::new(Scripts::new(planted(Fault::IgnoreFences)));
        let shards: Vec<Keys> = (0..options.shards.get()).map(Keys::of_shard).collect();
        let links = |tags: Tags| {
            let (locator, tags) = (Locator::new(&servers, tags.tag()), Arc::new(tags));
            let link = || {
                let (locator, scripts, tags) = (Arc::clone(&locator), Arc::clone(&scripts), Arc::clone(&tags));
                Arc::new(Link::new(locator, scripts, tags, options.durability, options.clock.clone()))
            };
            Links { swift: link(), bulk: link() }
        };
        // On one server all share two connections; in a cluster each tag may move to another node.
        let heard = Locator::new(&servers, shards[0].tag());
        let is_cluster = heard.topology() == Topology::Cluster;
        let (global, shard_links) = if is_cluster {
            let global = links(Tags { global: Some(options.shards), shards: Vec::new() });
            (global, shards.iter().map(|keys| links(Tags { global: None, shards: vec![keys.clone()] })).collect())
        } else {
            let all = links(Tags { global: Some(options.shards), shards: shards.clone() });
            (all.clone(), vec![all; shards.len()])
        };
        let mut opened: Vec<&Links> = vec![&global];
        if is_cluster {
            opened.extend(&shard_links);
        }
        for links in opened {
            links.swift.open().await?;
            links.bulk.open().await?;
        }
        let place = crate::StoreUrl::Redis(url.to_owned()).to_string();
        // Every node of a cluster passes messages on, so that one listener hears all shards.
        let wake = Arc::new(Wake::start(heard));
        let count = options.shards.get();
        let shard = |(number, (keys, links)): (u16, (Keys, Links))| {
            let (scripts, wake) = (Arc::clone(&scripts), Arc::clone(&wake));
            Shard {
                number,
                shards: count,
                keys,
                scripts,
                links,
                wake,
                is_away: Arc::default(),
                set_aside: AtomicU32::new(0),
                seen: Mutex::default(),
                is_limited: Default::default(),
            }
        };
        let shards: Arc<[Shard]> = (0..count).zip(shards.into_iter().zip(shard_links)).map(shard).collect();
        let global = Arc::new(Global { scripts, links: global });
        let mover = || Mover {
            shards: Arc::clone(&shards),
            global: Arc::clone(&global),
            ttl_ms: QUOTA_TTL_MS,
            turns: BTreeMap::new(),
        };
        let quotas = (count > 1).then(|| Quotas::start(mover()));
        #[cfg(feature = "conformance")]
        let steps_left = usize::MAX.into();
        Ok(Self {
            place,
            shards,
            global,
            wake,
            quotas,
            #[cfg(feature = "conformance")]
            steps_left,
        })
    }

    async fn want_quotas(&self, limits: &Limits) {
        if let Some(quotas) = &self.quotas {
            quotas.want(limits).await;
        }
    }

    /// For tests: moves quotas once, as is done about twice a second where there are several shards.
    #[cfg(feature = "conformance")]
    pub async fn move_quotas(&self, limits: &Limits) -> Result<()> {
        self.move_quotas_for(limits, QUOTA_TTL_MS).await
    }

    /// For tests: with another time to live.
    #[cfg(feature = "conformance")]
    pub async fn move_quotas_for(&self, limits: &Limits, ttl_ms: u64) -> Result<()> {
        let (shards, global) = (Arc::clone(&self.shards), Arc::clone(&self.global));
        Mover { shards, global, ttl_ms, turns: BTreeMap::new() }.move_quotas(limits).await
    }

    /// Where a run lives.
    fn shard(&self, run: &RunId) -> &Shard {
        &self.shards[route::shard_of(run, self.shards.len())]
    }

    /// In the order in which this request asks them.
    fn turn(&self, request: &str) -> impl Iterator<Item = &Shard> {
        route::turn(request, self.shards.len()).map(|number| &self.shards[number])
    }

    /// Asks all shards at once.
    async fn each<'a, A, F: Future<Output = Result<A>>>(&'a self, ask: impl Fn(&'a Shard) -> F) -> Vec<Result<A>> {
        join_all(self.shards.iter().map(ask)).await
    }

    /// Asks all shards at once; all must answer.
    async fn all<'a, A, F: Future<Output = Result<A>>>(&'a self, ask: impl Fn(&'a Shard) -> F) -> Result<Vec<A>> {
        self.each(ask).await.into_iter().collect()
    }

    async fn by_lease<'a, F: Future<Output = Result<Vec<LeaseAnswer>>>>(
        &'a self,
        reports: Vec<LeaseReport>,
        ask: impl Fn(&'a Shard, Vec<LeaseReport>) -> F,
    ) -> Result<Vec<LeaseAnswer>> {
        let unanswered = |report: &LeaseReport| LeaseAnswer::plain(report.batch.clone(), LeaseStatus::Unanswered);
        self.by_run(reports, |report| &report.batch.run, unanswered, ask).await
    }

    /// Takes a call about batches of several runs apart by shard, and puts the answers together. A shard that is away
    /// keeps nobody else from an answer.
    async fn by_run<'a, T, A, F: Future<Output = Result<Vec<A>>>>(
        &'a self,
        items: Vec<T>,
        run: impl Fn(&T) -> &RunId,
        unanswered: impl Fn(&T) -> A,
        ask: impl Fn(&'a Shard, Vec<T>) -> F,
    ) -> Result<Vec<A>> {
        let parts = route::split(items, self.shards.len(), run).into_iter().map(|part| {
            let (shard, places, items) = part.take();
            let unanswered = items.iter().map(&unanswered).collect();
            let answer = ask(&self.shards[shard], items);
            async move { (places, unanswered, answer.await) }
        });
        route::join_those_that_answered(join_all(parts).await)
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

    /// In a cluster that of the node with the global keys. Every shard goes by the clock of its own node.
    async fn now_ms(&self) -> Result<i64> {
        self.global.links.clock_ms().await
    }

    fn seen(&self) -> Marks {
        let mut seen = Marks::default();
        self.shards.iter().for_each(|shard| seen.merge(&shard.marks_seen()));
        seen
    }

    async fn compare(&self, compare: Compare) -> Result<Vec<Compared>> {
        // A shard that went back may have forgotten it, and grants nothing until it is compared.
        self.tell_suppressions().await?;
        self.all(|shard| shard.compare_marks(&compare)).await
    }

    async fn apply_campaign(&self, apply: ApplyCampaign) -> Result<AppliedCampaign> {
        self.global.campaign_apply(apply).await
    }

    async fn campaign(&self, name: &CampaignName) -> Result<Option<CampaignRecord>> {
        self.global.campaign_named(name).await
    }

    async fn campaigns(&self, after: Option<&CampaignName>, limit: usize) -> Result<Vec<CampaignRecord>> {
        self.global.campaigns_after(after, limit).await
    }

    async fn set_campaign_paused(&self, name: &CampaignName, paused: bool) -> Result<bool> {
        self.step()?;
        let Some(effect) = self.global.campaign_set_paused(name, paused).await? else { return Ok(false) };
        self.carry_out(&effect).await?;
        self.end_firing(name).await.map(|()| true)
    }

    async fn delete_campaign(&self, name: &CampaignName) -> Result<bool> {
        self.step()?;
        let Some(effect) = self.global.campaign_delete(name).await? else { return Ok(false) };
        self.carry_out(&effect).await?;
        self.end_firing(name).await.map(|()| true)
    }

    async fn fire(&self, fire: Fire) -> Result<Fired> {
        self.schedule_fire(fire).await
    }

    async fn due_schedules(&self, limit: usize) -> Result<DueSchedules> {
        self.schedules_due(limit).await
    }

    async fn definition(&self, hash: &DefinitionHash) -> Result<Option<Bytes>> {
        self.global.definition_of(hash).await
    }

    async fn create_run(&self, run: NewRun) -> Result<CreatedRun> {
        let campaign = self.global.campaign_of(&run).await?;
        if campaign.word == "ok" {
            self.global.keep_definition(&run.definition, &run.definition_bytes).await?;
        }
        self.shard(&run.id).run_create(run, campaign).await
    }

    async fn run(&self, run: &RunId) -> Result<Option<RunRecord>> {
        Ok(self.shard(run).run_records(std::slice::from_ref(run)).await?.into_iter().next())
    }

    async fn runs(&self, before: Option<(i64, RunId)>, limit: usize) -> Result<Vec<RunRecord>> {
        let runs = self.all(|shard| shard.runs_before(before.clone(), limit)).await?;
        Ok(route::newest(runs, limit))
    }

    async fn pause_run(&self, run: &RunId) -> Result<Steered> {
        self.shard(run).run_steer(Transition::PauseRun, run).await
    }

    async fn resume_run(&self, run: &RunId) -> Result<Steered> {
        self.shard(run).run_steer(Transition::ResumeRun, run).await
    }

    async fn cancel_run(&self, run: &RunId) -> Result<Steered> {
        self.shard(run).run_steer(Transition::CancelRun, run).await
    }

    async fn cancel_batches(&self, run: &RunId, after: u64, limit: usize) -> Result<CancelledBatches> {
        self.shard(run).run_cancel_batches(run, after, limit).await
    }

    async fn runs_to_cancel(&self, limit: usize) -> Result<Vec<RunId>> {
        let runs = route::those_that_answered(self.each(|shard| shard.runs_cancelled(limit)).await)?;
        Ok(runs.into_iter().flatten().take(limit).collect())
    }

    async fn claim_split(&self, claim: ClaimSplit) -> Result<Option<SplitLease>> {
        let mut answers = Vec::new();
        for shard in self.turn(claim.request.as_str()) {
            match shard.split_claim(claim.clone()).await {
                Ok(Some(lease)) => return Ok(Some(lease)),
                answer => answers.push(answer),
            }
        }
        route::those_that_answered(answers).map(|_| None)
    }

    async fn add_batches(&self, add: AddBatches) -> Result<SplitStatus> {
        self.shard(&add.run).split_add_batches(add).await
    }

    async fn pin_audience(&self, pin: PinAudience) -> Result<SplitStatus> {
        self.shard(&pin.run).split_pin_audience(pin).await
    }

    async fn release_split(&self, release: ReleaseSplit) -> Result<SplitStatus> {
        self.shard(&release.run).split_release(release).await
    }

    async fn bad_rows(&self, run: &RunId) -> Result<Vec<BadRow>> {
        self.shard(run).split_bad_rows(run).await
    }

    async fn claim(&self, claim: Claim) -> Result<Claimed> {
        self.want_quotas(&claim.limits).await;
        let most = claim.batches_max.min(LEASES_PER_CALL_MAX as u32);
        let mut all = Claimed { leases: Vec::new(), drain: false };
        let mut answers = Vec::new();
        for shard in self.turn(claim.request.as_str()) {
            let batches_max = most.saturating_sub(all.leases.len() as u32);
            let answer = shard.lease_claim(Claim { batches_max, ..claim.clone() }).await.map(|claimed| {
                all.leases.extend(claimed.leases);
                all.drain |= claimed.drain;
            });
            answers.push(answer);
            if all.drain || all.leases.len() >= most as usize {
                break;
            }
        }
        match route::those_that_answered(answers) {
            // What some gave is not kept from the worker for the error of another one.
            Err(error) if all.leases.is_empty() => Err(error),
            _ => Ok(all),
        }
    }

    async fn checkpoint(&self, checkpoint: Checkpoint) -> Result<Vec<LeaseAnswer>> {
        self.want_quotas(&checkpoint.limits).await;
        let (part, reports) = (Checkpoint { reports: Vec::new(), ..checkpoint.clone() }, checkpoint.reports);
        self.by_lease(reports, |shard, reports| shard.report_checkpoint(Checkpoint { reports, ..part.clone() })).await
    }

    async fn finish(&self, finish: Finish) -> Result<Vec<LeaseAnswer>> {
        let (part, reports) = (Finish { reports: Vec::new(), ..finish.clone() }, finish.reports);
        self.by_lease(reports, |shard, reports| shard.report_finish(Finish { reports, ..part.clone() })).await
    }

    async fn release(&self, release: Release) -> Result<Vec<LeaseAnswer>> {
        let (part, reports) = (Release { reports: Vec::new(), ..release.clone() }, release.reports);
        self.by_lease(reports, |shard, reports| shard.report_release(Release { reports, ..part.clone() })).await
    }

    async fn facts(&self, facts: Vec<Fact>, retry_fraction: u32) -> Result<Vec<FactStatus>> {
        let unanswered = |_: &Fact| FactStatus::Unanswered;
        self.by_run(facts, |fact| &fact.batch.run, unanswered, |shard, facts| shard.report_facts(facts, retry_fraction))
            .await
    }

    async fn reclaim(&self, reclaim: Reclaim) -> Result<Reclaimed> {
        // Reclaiming is what every master does all the time, so this is where effects are carried on.
        let relayed = tokio::time::timeout(EFFECTS_MAX, self.relay_effects());
        let (relayed, shards) = tokio::join!(relayed, self.each(|shard| shard.lease_reclaim(reclaim)));
        match relayed {
            Err(_) => tracing::warn!("effects are not in every shard yet"),
            Ok(Err(error)) if error.is_retryable() => tracing::warn!(%error, "effects are not in every shard yet"),
            Ok(relayed) => drop(relayed?),
        }
        route::those_that_answered(shards).map(route::reclaimed)
    }

    async fn reconcile(&self, reconcile: Reconcile) -> Result<Reconciled> {
        let shards = self.each(|shard| shard.reconcile_step(reconcile)).await;
        route::those_that_answered(shards).map(route::reconciled)
    }

    async fn share_relay(&self, share: ShareRelay) -> Result<RelayShare> {
        self.global.relay_share(share).await
    }

    async fn share_limit(&self, share: ShareLimit) -> Result<SharedLimit> {
        let answer = self.global.limits_share(std::slice::from_ref(&share)).await?.pop();
        answer.ok_or_else(|| reply::corrupt("share_limit answered nothing"))
    }

    async fn rooms(&self, limits: &Limits) -> Result<Vec<Room>> {
        let shards = self.all(|shard| shard.rooms_of(limits)).await?;
        let mut rooms = route::rooms(shards);
        rooms.extend(self.global.relay_rooms().await?);
        Ok(rooms)
    }

    async fn claim_history(&self, claim: ClaimHistory) -> Result<ClaimedHistory> {
        let mut all = ClaimedHistory::default();
        let mut answers = Vec::new();
        for shard in self.turn(claim.request.as_str()) {
            let limit = claim.limit.saturating_sub(all.batches.len());
            answers.push(shard.history_claim(ClaimHistory { limit, ..claim.clone() }).await.map(|claimed| {
                all.backlog += claimed.backlog;
                all.batches.extend(claimed.batches);
            }));
        }
        route::those_that_answered(answers).map(|_| all)
    }

    async fn retire_batches(&self, retire: RetireBatches) -> Result<u64> {
        let RetireBatches { request, segment, batches } = retire;
        let parts = route::split(batches, self.shards.len(), |(batch, _)| &batch.run).into_iter().map(|part| {
            let (shard, _, batches) = part.take();
            self.shards[shard].history_retire(RetireBatches {
                request: request.clone(),
                segment: segment.clone(),
                batches,
            })
        });
        Ok(join_all(parts).await.into_iter().collect::<Result<Vec<u64>>>()?.into_iter().sum())
    }

    async fn batches(&self, run: &RunId, after: u64, limit: usize) -> Result<Vec<BatchRecord>> {
        self.shard(run).batches_after(run, after, limit).await
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>> {
        Ok(route::workers(self.all(Shard::workers_seen).await?))
    }

    async fn drain_worker(&self, name_or_instance: &str) -> Result<usize> {
        self.worker_drain(name_or_instance).await
    }

    async fn lanes(&self, lanes: &[LaneName]) -> Result<Vec<LaneRecord>> {
        Ok(route::lanes(self.all(|shard| shard.lanes_named(lanes)).await?))
    }

    async fn set_lane_paused(&self, lane: &LaneName, paused: bool) -> Result<()> {
        self.lane_set_paused(lane, paused).await
    }

    async fn retry_run(&self, retry: RetryRun) -> Result<RetriedRun> {
        self.shard(&retry.run).run_retry(retry).await
    }

    async fn dead_letters(&self, run: Option<&RunId>, after: Option<&DeadId>, limit: usize) -> Result<Vec<DeadLetter>> {
        let mut all = match run {
            Some(run) => self.shard(run).dead_after(Some(run), after, limit).await?,
            None => self.all(|shard| shard.dead_after(None, after, limit)).await?.concat(),
        };
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all.truncate(limit);
        Ok(all)
    }

    async fn replay_dead(&self, replay: ReplayDead) -> Result<DeadAnswer> {
        self.shard(&replay.id.batch.run).dead_replay(replay).await
    }

    async fn purge_dead(&self, id: &DeadId) -> Result<DeadAnswer> {
        self.shard(&id.batch.run).dead_purge(id).await
    }

    async fn forget_run(&self, forget: ForgetRun) -> Result<ForgottenRun> {
        self.shard(&forget.run).run_forget(forget).await
    }

    async fn runs_to_forget(&self, limit: usize) -> Result<Vec<RunId>> {
        let runs = route::those_that_answered(self.each(|shard| shard.runs_forgotten(limit)).await)?;
        Ok(runs.into_iter().flatten().take(limit).collect())
    }

    async fn left_segments(&self, limit: usize) -> Result<Vec<LeftSegment>> {
        let mut left = self.all(|shard| shard.segments_left(limit)).await?.concat();
        left.sort_by_key(|left| left.at_ms);
        left.truncate(limit);
        Ok(left)
    }

    async fn forget_segments(&self, segments: Vec<LeftSegment>) -> Result<()> {
        self.all(|shard| shard.segments_forget(&segments)).await.map(drop)
    }

    async fn keep(&self, shared: Vec<Shared>) -> Result<()> {
        self.global.shared_keep(&shared).await
    }

    async fn kept(&self, before_ms: i64, skip: usize, limit: usize) -> Result<Vec<Kept>> {
        self.global.shared_kept(before_ms, skip, limit).await
    }

    async fn forget_kept(&self, unnamed: Vec<Kept>) -> Result<Vec<Shared>> {
        self.global.shared_forget(unnamed).await
    }

    async fn erase_recipients(&self, erase: EraseRecipients) -> Result<ErasedRecipients> {
        self.shard(&erase.batch.run).recipients_erase(erase).await
    }

    async fn erase_run(&self, erase: EraseRun) -> Result<ErasedRun> {
        self.shard(&erase.run).run_erase(erase).await
    }

    async fn write_erasure(&self, write: WriteErasure) -> Result<Option<u64>> {
        self.global.erasure_write(write).await
    }

    async fn erasure(&self, id: &ErasureId) -> Result<Option<ErasureRecord>> {
        self.global.erasure_of(id).await
    }

    async fn open_erasures(&self, limit: usize) -> Result<Vec<ErasureRecord>> {
        self.global.erasures_open(limit).await
    }

    async fn suppress(&self, suppress: Suppress) -> Result<Suppressing> {
        self.set_suppress(suppress).await
    }

    async fn suppression_set(&self) -> Result<SuppressionSet> {
        self.global.suppressions_set().await
    }

    async fn suppressions_of(&self, keys: &[SuppressionKey]) -> Result<Vec<Option<SuppressionRecord>>> {
        self.global.suppressions_with(keys).await
    }

    async fn suppressions_after(&self, after: Option<SuppressionKey>, limit: usize) -> Result<Vec<SuppressionRecord>> {
        self.global.suppressions_from(after, limit).await
    }

    async fn suppress_recipients(&self, found: SuppressRecipients) -> Result<SuppressedRecipients> {
        self.shard(&found.batch.run).recipients_suppress(found).await
    }
}
