//! Random calls on a server and on the pure model, compared after every step.
//!
//! Both get the same time: the model is given the server's, read just before the call. Durations are
//! either a millisecond (over at the next step) or an hour (never over), so a small difference in time
//! does not matter; times in answers are compared to the second.

#![expect(clippy::unwrap_used, reason = "a comparison that cannot reach its server has failed")]

mod redis_server;

use postrider_common::backoff::RetryPolicy;
use postrider_common::campaign::OnUnknown;
use postrider_common::ids::{BatchId, DefinitionHash, Fence, LaneName, RunId, SiteName, WorkerId};
use postrider_common::lease::{Fact, LeaseAnswer, LeaseReport, Outcome, OutcomeKind};
use postrider_store::embedded::model::Model;
use postrider_store::redis::Redis;
use postrider_store::*;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

const HOUR_MS: u64 = 3_600_000;

#[derive(Clone)]
struct Held {
    batch: BatchId,
    fence: Fence,
    sequence: u64,
    count: u32,
    granted: Vec<u32>,
}

struct Pair {
    model: Model,
    redis: Redis,
    random: fastrand::Rng,
    steps: u32,
    workers: Vec<WorkerId>,
    runs: Vec<RunId>,
    splits: BTreeMap<RunId, SplitLease>,
    leases: Vec<Held>,
    old: Vec<(BatchId, Fence)>,
    last_report: Option<(u8, LeaseReport)>,
    last_claim: Option<Claim>,
    requests: u64,
}

/// Times as text would differ by a millisecond: cut them to what must agree.
fn about(ms: u64) -> u64 {
    (ms + 30_000) / 60_000
}

fn lanes() -> Vec<(LaneName, u32)> {
    vec![("bulk".parse().unwrap(), 10), ("transactional".parse().unwrap(), 100), ("idle".parse().unwrap(), 1)]
}

fn same<T: PartialEq + Debug>(step: u32, what: &str, redis: T, model: T) {
    assert_eq!(redis, model, "step {step}: {what}: left is the server, right the model");
}

impl Pair {
    fn new(redis: Redis, seed: u64) -> Self {
        let worker = |n: u128| WorkerId::try_new("w", &uuid::Uuid::from_u128(n).to_string()).unwrap();
        Self {
            model: Model::default(),
            redis,
            random: fastrand::Rng::with_seed(seed),
            steps: 0,
            workers: (1..=3).map(worker).collect(),
            runs: Vec::new(),
            splits: BTreeMap::new(),
            leases: Vec::new(),
            old: Vec::new(),
            last_report: None,
            last_claim: None,
            requests: 0,
        }
    }

    fn request(&mut self) -> postrider_common::ids::RequestId {
        self.requests += 1;
        format!("r{}", self.requests).parse().unwrap()
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.random.usize(..from.len())].clone()) }
    }

    /// The server's time, some milliseconds after anything before: so the order in time is the same for both.
    async fn tick(&self) -> i64 {
        tokio::time::sleep(Duration::from_millis(4)).await;
        self.redis.now_ms().await.unwrap()
    }

    async fn step(&mut self) {
        self.steps += 1;
        let now = self.tick().await;
        match self.random.u32(..100) {
            0..=5 => self.create(now).await,
            6..=17 => self.split(now).await,
            18..=20 => self.steer(now).await,
            21..=24 => self.lane(now).await,
            25..=44 => self.claim(now).await,
            45..=74 => self.report(now).await,
            75..=82 => self.facts(now).await,
            83..=88 => self.reclaim(now).await,
            89..=90 => self.cancel_step(now).await,
            91 => self.campaign(now).await,
            92..=93 => self.repeat_claim(now).await,
            94..=97 => self.repeat_report(now).await,
            _ => self.drain(now).await,
        }
        if self.steps.is_multiple_of(5) {
            self.compare(now).await;
        }
    }

    async fn campaign(&mut self, now: i64) {
        let name: postrider_common::ids::CampaignName =
            if self.random.bool() { "daily".parse().unwrap() } else { "weekly".parse().unwrap() };
        match self.random.u32(..4) {
            0 => {
                let paused = self.random.bool();
                let ours = self.redis.set_campaign_paused(&name, paused).await.unwrap();
                same(self.steps, "pause", ours, self.model.set_campaign_paused(now, (name, paused)));
            }
            1 => {
                let ours = self.redis.delete_campaign(&name).await.unwrap();
                same(self.steps, "delete", ours, self.model.delete_campaign(now, name));
            }
            _ => {
                let spec = vec![self.random.u8(..3), 0, 255];
                let definition_bytes = vec![self.random.u8(..), 1];
                let definition = DefinitionHash::of(&definition_bytes);
                let apply = ApplyCampaign { name, spec, definition: definition.clone(), definition_bytes };
                let ours = self.redis.apply_campaign(apply.clone()).await.unwrap();
                same(self.steps, "apply", ours, self.model.apply_campaign(now, apply));
                let ours = self.redis.definition(&definition).await.unwrap().map(|b| b.to_vec());
                same(self.steps, "definition", ours, self.model.definition(&definition));
            }
        }
    }

    async fn create(&mut self, now: i64) {
        if self.runs.len() >= 8 {
            return;
        }
        let key = self.random.u32(..12).to_string();
        let new = NewRun {
            id: RunId::derive("t", &key),
            fingerprint: if self.random.u32(..10) == 0 { "x".into() } else { "f".into() },
            campaign: "daily".into(),
            requires_campaign: self.random.u32(..4) == 0,
            lane: if self.random.bool() { LaneName::bulk() } else { LaneName::transactional() },
            on_unknown: if self.random.u32(..3) == 0 { OnUnknown::Hold } else { OnUnknown::Resend },
            retry: if self.random.bool() {
                RetryPolicy { base_ms: 2, cap_ms: 2, ttl_ms: 20 * HOUR_MS }
            } else {
                RetryPolicy { base_ms: HOUR_MS, cap_ms: 4 * HOUR_MS, ttl_ms: 4 * HOUR_MS }
            },
            definition: DefinitionHash::of(b"d"),
            definition_bytes: b"d".to_vec(),
            sender_domain: "example.com".into(),
            audience: vec![0, 200, 13, 10],
            nominal_at_ms: Some(5),
        };
        let ours = self.redis.create_run(new.clone()).await.unwrap();
        if ours == CreatedRun::Created {
            self.runs.push(new.id.clone());
        }
        same(self.steps, "create_run", ours, self.model.create_run(now, new));
    }

    async fn split(&mut self, now: i64) {
        if self.splits.is_empty() || self.random.u32(..3) == 0 {
            let ttl_ms = if self.random.u32(..4) == 0 { 1 } else { HOUR_MS };
            let claim = ClaimSplit { request: self.request(), nonce: self.random.u32(..), ttl_ms };
            let mut ours = self.redis.claim_split(claim.clone()).await.unwrap();
            let mut theirs = self.model.claim_split(now, claim.clone());
            for lease in [&mut ours, &mut theirs].into_iter().flatten() {
                lease.ttl_ms = about(lease.ttl_ms);
            }
            same(self.steps, "claim_split", ours.clone(), theirs);
            let mut again = self.redis.claim_split(claim).await.unwrap();
            if let Some(lease) = &mut again {
                lease.ttl_ms = about(lease.ttl_ms);
            }
            same(self.steps, "claim_split repeated", again, ours.clone());
            if let Some(lease) = ours {
                self.splits.insert(lease.run.clone(), lease);
            }
            return;
        }
        let held: Vec<_> = self.splits.values().cloned().collect();
        let Some(lease) = self.pick(&held) else { return };
        if self.random.u32(..6) == 0 {
            let error = postrider_common::run::RunError { code: "c".into(), message: "m".into(), mend: "x".into() };
            let error = (self.random.bool()).then_some(error);
            let release = ReleaseSplit { run: lease.run.clone(), fence: lease.fence, delay_ms: 1, error };
            let ours = self.redis.release_split(release.clone()).await.unwrap();
            same(self.steps, "release_split", ours, self.model.release_split(now, release));
            self.splits.remove(&lease.run);
            return;
        }
        let batches: Vec<NewBatch> = (0..self.random.u64(..4))
            .map(|n| NewBatch {
                sequence: lease.sequence_max + 1 + n,
                site: ["google", "microsoft", "other"][self.random.usize(..3)].parse::<SiteName>().unwrap(),
                count: [1, 2, 4, 5, 60, 100][self.random.usize(..6)],
                payload: vec![n as u8, 7, 0, 255],
            })
            .collect();
        let add = AddBatches {
            run: lease.run.clone(),
            fence: lease.fence.clone(),
            cursor: lease.cursor,
            cursor_next: lease.cursor + self.random.u64(..3),
            batches: batches.clone(),
            open: vec![9, 0, 8],
            bad_rows: lease.bad_rows + 1,
            repeated_rows: 2,
            bad_row_samples: vec![BadRow { row: lease.cursor, reason: "a|b".into() }],
            complete: self.random.u32(..6) == 0,
            ttl_ms: HOUR_MS,
        };
        let ours = self.redis.add_batches(add.clone()).await.unwrap();
        same(self.steps, "add_batches", ours, self.model.add_batches(now, add.clone()));
        let again = self.redis.add_batches(add.clone()).await.unwrap();
        same(self.steps, "add_batches repeated", again, self.model.add_batches(now, add.clone()));
        if ours == SplitStatus::Done && again == SplitStatus::Done {
            let held = self.splits.get_mut(&lease.run).unwrap();
            held.sequence_max += batches.len() as u64;
            held.cursor = add.cursor_next;
            held.bad_rows += 1;
        } else {
            self.splits.remove(&lease.run);
        }
        let ours = self.redis.bad_rows(&lease.run).await.unwrap();
        same(self.steps, "bad_rows", ours, self.model.bad_rows(&lease.run));
    }

    async fn steer(&mut self, now: i64) {
        let all = self.runs.clone();
        let run = self.pick(&all).unwrap_or_else(|| RunId::derive("none", "x"));
        let what = self.random.u32(..9);
        let (ours, theirs) = match what {
            0..=3 => (self.redis.pause_run(&run).await, self.model.pause_run(now, run)),
            4..=7 => (self.redis.resume_run(&run).await, self.model.resume_run(now, run)),
            _ => (self.redis.cancel_run(&run).await, self.model.cancel_run(now, run)),
        };
        same(self.steps, "steer", ours.unwrap(), theirs);
        // Most of the time nothing stays paused for long.
        for run in self.runs.clone() {
            if self.random.u32(..2) == 0 {
                let now = self.tick().await;
                let ours = self.redis.resume_run(&run).await.unwrap();
                same(self.steps, "resume", ours, self.model.resume_run(now, run));
            }
        }
    }

    async fn lane(&mut self, now: i64) {
        let lane = lanes()[self.random.usize(..2)].0.clone();
        let paused = self.random.u32(..4) == 0;
        self.redis.set_lane_paused(&lane, paused).await.unwrap();
        self.model.set_lane_paused(now, (lane, paused));
    }

    fn tidy(mut claimed: Claimed) -> Claimed {
        for lease in &mut claimed.leases {
            lease.ttl_ms = about(lease.ttl_ms);
            lease.hard_cap_ms = about(lease.hard_cap_ms);
            for recipient in &mut lease.recipients {
                recipient.not_before_ms = about(recipient.not_before_ms);
            }
        }
        claimed
    }

    async fn claim(&mut self, now: i64) {
        let workers = self.workers.clone();
        let claim = Claim {
            worker: self.pick(&workers).unwrap(),
            request: self.request(),
            nonce: self.random.u32(..),
            batches_max: self.random.u32(1..4),
            lanes: lanes(),
            ttl_ms: if self.random.u32(..3) == 0 { 1 } else { HOUR_MS },
            hard_cap_ms: if self.random.u32(..8) == 0 { 600_000 } else { 5 * HOUR_MS },
            slots: 8,
        };
        let ours = Self::tidy(self.redis.claim(claim.clone()).await.unwrap());
        same(self.steps, "claim", ours.clone(), Self::tidy(self.model.claim(now, claim.clone())));
        for lease in ours.leases {
            let count = lease.recipients.len() as u32;
            let (batch, fence) = (lease.batch, lease.fence);
            self.leases.push(Held { batch, fence, sequence: 0, count, granted: Vec::new() });
        }
        self.last_claim = Some(claim);
    }

    async fn repeat_claim(&mut self, now: i64) {
        let Some(claim) = self.last_claim.clone() else { return };
        let ours = Self::tidy(self.redis.claim(claim.clone()).await.unwrap());
        same(self.steps, "claim repeated", ours, Self::tidy(self.model.claim(now, claim)));
    }

    fn outcome(&mut self, count: u32) -> Outcome {
        let kind = [
            OutcomeKind::Accepted,
            OutcomeKind::Accepted,
            OutcomeKind::Deferred,
            OutcomeKind::Rejected,
            OutcomeKind::Unknown,
            OutcomeKind::NotWritten,
        ][self.random.usize(..6)];
        Outcome {
            index: self.random.u32(..count),
            kind,
            code: "250 2.0.0".into(),
            detail: ["", "queued|as 1"][self.random.usize(..2)].into(),
            retry_after_ms: if self.random.u32(..6) == 0 { 2 * HOUR_MS } else { 0 },
        }
    }

    async fn report(&mut self, now: i64) {
        if self.leases.is_empty() {
            return;
        }
        // Mostly the newest leases, so that some batches are brought to their end.
        let newest = self.leases.len().saturating_sub(if self.random.u32(..4) == 0 { 1000 } else { 3 });
        let at = self.random.usize(newest..self.leases.len());
        self.leases[at].sequence += u64::from(self.random.u32(..8) != 0);
        let Held { batch, fence, sequence, count, granted } = self.leases[at].clone();
        let mut outcomes: Vec<Outcome> = (0..self.random.u32(..3)).map(|_| self.outcome(count + 1)).collect();
        for index in granted {
            if self.random.u32(..4) != 0 {
                outcomes.push(Outcome { index, ..self.outcome(count) });
                self.leases[at].granted.retain(|other| *other != index);
            }
        }
        let kind = self.random.u8(..10);
        let intents = if kind < 7 {
            (0..self.random.u32(..16)).map(|_| self.random.u32(..count + 1)).collect()
        } else {
            Vec::new()
        };
        let report =
            LeaseReport { batch: batch.clone(), fence: fence.clone(), sequence, outcomes, intents, progress: sequence };
        self.last_report = Some((kind, report.clone()));
        let answers = self.send_report(now, kind, report).await;
        self.leases[at].granted.extend(answers.into_iter().flat_map(|answer| answer.granted));
        if kind >= 7 {
            self.old.push((batch, fence));
            if self.random.bool() {
                self.leases.swap_remove(at);
            }
        }
    }

    async fn repeat_report(&mut self, now: i64) {
        if let Some((kind, report)) = self.last_report.clone() {
            self.send_report(now, kind, report).await;
        }
    }

    async fn send_report(&mut self, now: i64, kind: u8, report: LeaseReport) -> Vec<LeaseAnswer> {
        let worker = self.workers[0].clone();
        let reports = vec![report];
        let retry_fraction = 1_000_000;
        let (ours, theirs) = match kind {
            0..=6 => {
                let window = 5 + u32::from(kind);
                let checkpoint = Checkpoint { worker, reports, ttl_ms: HOUR_MS * 2, window, retry_fraction };
                (self.redis.checkpoint(checkpoint.clone()).await, self.model.checkpoint(now, checkpoint))
            }
            7 => {
                let finish = Finish { worker, reports, retry_fraction };
                (self.redis.finish(finish.clone()).await, self.model.finish(now, finish))
            }
            _ => {
                let abandon = kind == 9;
                let release = Release { worker, reports, retry_fraction, abandon, doubt_grace_ms: 1 };
                (self.redis.release(release.clone()).await, self.model.release(now, release))
            }
        };
        let tidy = |answers: Vec<LeaseAnswer>| {
            let one = |mut answer: LeaseAnswer| {
                answer.ttl_ms = about(answer.ttl_ms);
                answer.due_in_ms = about(answer.due_in_ms);
                answer
            };
            answers.into_iter().map(one).collect::<Vec<_>>()
        };
        let ours = tidy(ours.unwrap());
        same(self.steps, "report", ours.clone(), tidy(theirs));
        ours
    }

    async fn facts(&mut self, now: i64) {
        let mut known: Vec<(BatchId, Fence)> = self.old.clone();
        known.extend(self.leases.iter().map(|held| (held.batch.clone(), held.fence.clone())));
        let mut facts = Vec::new();
        for _ in 0..self.random.u32(..8) {
            let Some((batch, mut fence)) = self.pick(&known) else { return };
            if self.random.u32(..10) == 0 {
                fence.nonce ^= 1;
            }
            facts.push(Fact { batch, fence, outcome: self.outcome(12) });
        }
        facts.sort_by(|a, b| a.batch.cmp(&b.batch));
        let ours = self.redis.facts(facts.clone(), 1_000_000).await.unwrap();
        same(self.steps, "facts", ours, self.model.facts(now, (facts, 1_000_000)));
    }

    async fn reclaim(&mut self, now: i64) {
        // Leases that expire in the same millisecond come back in another order (10 before 9), so take all.
        let reclaim = Reclaim { limit: 100, ttl_ms: 0, doubt_grace_ms: 1, outage_gap_ms: HOUR_MS };
        let mut ours = self.redis.reclaim(reclaim).await.unwrap();
        let mut theirs = self.model.reclaim(now, reclaim);
        (ours.held_ms, theirs.held_ms) = (about(ours.held_ms), about(theirs.held_ms));
        same(self.steps, "reclaim", ours, theirs);
    }

    async fn cancel_step(&mut self, now: i64) {
        let cancelled = self.redis.runs_to_cancel(5).await.unwrap();
        same(self.steps, "runs_to_cancel", cancelled.clone(), self.model.runs_to_cancel(5));
        for run in cancelled {
            let (after, limit) = (self.random.u64(..3), self.random.usize(1..250));
            let ours = self.redis.cancel_batches(&run, after, limit).await.unwrap();
            same(self.steps, "cancel_batches", ours, self.model.cancel_batches(now, (run, after, limit)));
        }
    }

    async fn drain(&mut self, now: i64) {
        let worker = self.workers[2].instance.to_string();
        if self.steps > 300 {
            let ours = self.redis.drain_worker(&worker).await.unwrap();
            same(self.steps, "drain", ours, self.model.drain_worker(now, worker));
        }
    }

    async fn compare(&mut self, _now: i64) {
        let tidy = |runs: Vec<RunRecord>| {
            let one = |mut run: RunRecord| {
                assert!(run.recipients.adds_up(), "{run:?}");
                run.created_at_ms = 0;
                run.started_at_ms = run.started_at_ms.map(|_| 0);
                run.settled_at_ms = run.settled_at_ms.map(|_| 0);
                run
            };
            let mut runs: Vec<_> = runs.into_iter().map(one).collect();
            runs.sort_by(|a, b| a.id.cmp(&b.id));
            runs
        };
        let ours = tidy(self.redis.runs(None, 100).await.unwrap());
        same(self.steps, "runs", ours, tidy(self.model.runs(None, 100)));
        for run in self.runs.clone() {
            let tidy = |batches: Vec<BatchRecord>| {
                let one = |mut batch: BatchRecord| {
                    for recipient in &mut batch.recipients {
                        recipient.settled_at_ms = recipient.settled_at_ms.map(|_| 0);
                    }
                    batch
                };
                batches.into_iter().map(one).collect::<Vec<_>>()
            };
            let ours = tidy(self.redis.batches(&run, 0, 1000).await.unwrap());
            let theirs = tidy(self.model.batches(&run, 0, 1000));
            same(self.steps, "batches", ours.len(), theirs.len());
            for (ours, theirs) in ours.into_iter().zip(theirs) {
                same(self.steps, "batch", ours, theirs);
            }
        }
        let tidy = |mut workers: Vec<WorkerRecord>| {
            workers.iter_mut().for_each(|worker| worker.seen_at_ms = 0);
            workers
        };
        let ours = tidy(self.redis.workers().await.unwrap());
        same(self.steps, "workers", ours, tidy(self.model.workers()));
        let names: Vec<_> = lanes().into_iter().map(|(lane, _)| lane).collect();
        let ours = self.redis.lanes(&names).await.unwrap();
        same(self.steps, "lanes", ours, self.model.lanes(&names));
        let ours = self.redis.campaigns(None, 10).await.unwrap();
        let strip = |all: Vec<CampaignRecord>| {
            all.into_iter().map(|c| (c.name, c.version, c.spec, c.definition, c.paused)).collect::<Vec<_>>()
        };
        same(self.steps, "campaigns", strip(ours), strip(self.model.campaigns(None, 10)));
    }
}

#[tokio::test]
async fn a_server_and_the_model_never_differ() {
    let from_env = |name: &str, or: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or);
    let (first, seeds, steps) = (from_env("SEED", 1), from_env("SEEDS", 3), from_env("STEPS", 600));
    let mut all = Reached::default();
    for seed in first..first + seeds {
        println!("seed {seed}");
        let server = redis_server::Server::start();
        let mut pair = Pair::new(server.store().await, seed);
        for _ in 0..steps {
            pair.step().await;
        }
        let mut reached = Reached::default();
        for run in pair.model.runs(None, 100) {
            reached.add(&run);
        }
        println!("seed {seed}: {steps} steps without a difference; {reached:?}");
        all.merge(&reached);
    }
    let Reached { batches, accepted, rejected, unknown, settled, delayed, resent, expired, taken_over } = all;
    let each = [batches, accepted, rejected, unknown, settled, delayed, resent, expired, taken_over];
    assert!(steps < 600 || each.iter().all(|count| *count > 0), "the random calls do not reach everything: {all:?}");
}

/// What the calls of a seed led to: a comparison of nothing proves nothing.
#[derive(Debug, Default)]
struct Reached {
    batches: u64,
    accepted: u64,
    rejected: u64,
    unknown: u64,
    settled: u64,
    delayed: u64,
    resent: u64,
    expired: u64,
    taken_over: u64,
}

impl Reached {
    fn add(&mut self, run: &RunRecord) {
        self.batches += run.sequence_max;
        self.accepted += run.recipients.accepted;
        self.rejected += run.recipients.rejected;
        self.unknown += run.recipients.unknown;
        self.settled += run.batches.settled;
        self.delayed += run.batches.delayed;
        self.resent += run.resent_outcome_not_recorded + run.resent_reply_lost;
        self.expired += run.leases_expired;
        self.taken_over += run.leases_taken_over;
    }

    fn merge(&mut self, other: &Self) {
        self.batches += other.batches;
        self.accepted += other.accepted;
        self.rejected += other.rejected;
        self.unknown += other.unknown;
        self.settled += other.settled;
        self.delayed += other.delayed;
        self.resent += other.resent;
        self.expired += other.expired;
        self.taken_over += other.taken_over;
    }
}
