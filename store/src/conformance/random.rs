//! Random calls, each given to a store and to the model, and every answer compared.
//!
//! The two cannot read the same clock at the same instant, so the model runs a call at the store's time
//! before it and, if the answers differ, at the store's time after it: a difference that only the instant makes
//! is no divergence.
//!
//! Some answers are lost: the call is made, what it answered is thrown away, and the very same call is made again, at
//! once or after others.

use super::Fixture;
pub use super::reached::Reached;
use super::reconcile::reconcile_all;
use super::scene::{lane, new_run, outcome, worker};
use super::{
    pinned, random_dead, random_erasure, random_fire, random_history, random_reconcile, random_retention,
    random_rollback, random_share, random_suppression,
};
use crate::api::{
    AddBatches, BadRow, Checkpoint, Claim, ClaimSplit, Compare, Finish, Found, GrantSpan, NewBatch, Reclaim, Release,
    ReleaseSplit, SplitLease, SplitStatus,
};
use crate::embedded::model::Model;
use postrider_common::backoff::RetryPolicy;
use postrider_common::campaign::OnUnknown;
use postrider_common::ids::{BatchId, Fence, RunId};
use postrider_common::lease::{Fact, LeaseReport, Outcome, OutcomeKind, RefusalReason};
use postrider_common::mark::Marks;
use postrider_common::pace::{Limit, Limits, Pace};
use postrider_common::run::{BatchCounts, RecipientCounts, RunError};
use std::sync::atomic::AtomicI64;

pub(super) const RUNS: u64 = 4;
/// Beyond these, runs that schedules begin.
pub(super) const FIRED: u64 = 2;
const SITES: [&str; 3] = ["google", "other", "other"];
pub(super) const TTL_MS: u64 = 100;
pub(super) const SLACK_MS: i64 = 10;
/// How long the longest call took so far, on a machine with much else to do: the slack is never below it.
pub(super) static LONGEST_MS: AtomicI64 = AtomicI64::new(SLACK_MS);
const KINDS: [OutcomeKind; 5] = [
    OutcomeKind::Accepted,
    OutcomeKind::Deferred,
    OutcomeKind::Rejected,
    OutcomeKind::Unknown,
    OutcomeKind::NotWritten,
];

/// What the driver remembers in order to make calls that mean something, and some that do not.
#[derive(Clone, Default)]
pub(super) struct Driver {
    pub(super) random: fastrand::Rng,
    pub(super) requests: u64,
    pub(super) leases: Vec<(BatchId, Fence, u32)>,
    pub(super) splits: Vec<SplitLease>,
    last: Option<LeaseReport>,
    /// Batches that were claimed for history, with the stamps of the store and of the model.
    pub(super) settled: Vec<(BatchId, u64, u64)>,
    throttled: u64,
    pub(super) rollbacks: u64,
    pub(super) suspect: u64,
    pub(super) dead: u64,
    pub(super) replayed: u64,
    pub(super) purged: u64,
    pub(super) reopened: u64,
    retried: u64,
    pub(super) shared: u64,
    pub(super) fired: u64,
    waited: u64,
    pub(super) erased: u64,
    pub(super) pinned: u64,
    pub(super) suppressed: u64,
    unchecked: u64,
    /// As they were before they were forgotten.
    pub(super) forgotten: Vec<(crate::RunRecord, Vec<crate::BatchRecord>)>,
}

/// In the year 2096.
const FAR_MS: i64 = 4_000_000_000_000;

/// Low enough that they are often met.
fn limits() -> Limits {
    let mut limits = Limits::default();
    let pace = Some(Pace { rate: "50/s".parse().unwrap(), burst: 5 });
    limits.lane(lane("bulk"), Limit { pace, concurrency: Some(6) });
    limits.site("google".parse().unwrap(), Limit { pace: None, concurrency: Some(3) });
    limits
}

impl Driver {
    /// Seldom none: configured late, or taken away.
    fn limits(&mut self) -> Limits {
        if self.random.u8(0..20) == 0 { Limits::default() } else { limits() }
    }

    /// Mostly at any time. Ends far away: no case lasts so long.
    fn grants(&mut self) -> Option<GrantSpan> {
        match self.random.u8(0..16) {
            0 => Some(GrantSpan::NEVER),
            1 => Some(GrantSpan { from_ms: 0, until_ms: FAR_MS }),
            2 => Some(GrantSpan { from_ms: FAR_MS, until_ms: FAR_MS + 1 }),
            _ => None,
        }
    }

    pub(super) fn run(&mut self) -> RunId {
        new_run(&format!("random {}", self.random.u64(0..RUNS))).id
    }

    /// Seldom the number before again, which makes a repeated call.
    fn request(&mut self) -> (String, u32) {
        if self.random.u8(0..8) != 0 {
            self.requests += 1;
        }
        (format!("r{}", self.requests), self.requests as u32)
    }

    fn outcomes(&mut self, count: u32) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for index in 0..count {
            if self.random.u8(0..3) == 0 {
                let mut outcome = outcome(index, KINDS[self.random.usize(0..KINDS.len())]);
                let texts = ["", "one", "another"];
                outcome.detail = texts[self.random.usize(0..texts.len())].to_owned();
                if self.random.u8(0..4) == 0 {
                    outcome.retry_after_ms = self.random.u64(0..60);
                }
                outcomes.push(outcome);
            }
        }
        outcomes
    }

    fn report(&mut self) -> Option<LeaseReport> {
        if let Some(last) = self.last.clone().filter(|_| self.random.u8(0..10) == 0) {
            return Some(last);
        }
        // Recent leases mostly, so that the current fence is common and stale ones occur.
        let back = 1 + self.random.usize(0..self.leases.len().clamp(1, 6));
        let at = self.leases.len().checked_sub(back)?;
        let (batch, fence, count) = self.leases.get(at).cloned()?;
        self.requests += 1;
        let outcomes = self.outcomes(count);
        let intents = (0..count + 1).filter(|_| self.random.bool()).collect();
        let report = LeaseReport { batch, fence, sequence: self.requests, outcomes, intents, progress: self.requests };
        self.last = Some(report.clone());
        Some(report)
    }

    /// Some of the batches have to wait until a time around `now`.
    fn add(&mut self, seed: u64, now: i64) -> Option<AddBatches> {
        let at = self.random.usize(0..self.splits.len().max(1));
        let lease = self.splits.get_mut(at)?;
        let count = self.random.u64(0..4);
        let rows = self.random.u64(0..50);
        let wait = self.random.i64(-10..60);
        let batch = |at: u64| NewBatch {
            sequence: lease.sequence_max + 1 + at,
            site: SITES[(at + seed) as usize % SITES.len()].parse().unwrap(),
            count: if (at + seed).is_multiple_of(11) { 70 } else { 1 + ((at * 7 + seed) % 5) as u32 },
            payload: format!("payload {at}").into_bytes(),
            not_before_ms: if (at + seed).is_multiple_of(4) { now + wait } else { 0 },
            checked: if (at + seed) % 4 == 1 { 0 } else { random_suppression::LATER },
        };
        let add = AddBatches {
            run: lease.run.clone(),
            fence: lease.fence.clone(),
            cursor: lease.cursor,
            cursor_next: lease.cursor + rows,
            batches: (0..count).map(batch).collect(),
            open: vec![at as u8; 3],
            bad_rows: lease.bad_rows + 1,
            repeated_rows: lease.repeated_rows,
            bad_row_samples: vec![BadRow { row: lease.cursor + 1, reason: "bad".to_owned() }],
            complete: self.random.u8(0..4) == 0,
            ttl_ms: TTL_MS,
        };
        if self.random.u8(0..6) != 0 {
            lease.cursor = add.cursor_next;
            lease.sequence_max += count;
            lease.bad_rows = add.bad_rows;
        }
        Some(add)
    }
}

/// A call whose answer was lost: what it was made from, so that the same is made again.
struct Unanswered {
    before: Driver,
    pick: u8,
    salt: u64,
}

impl Driver {
    /// Goes on after a call whose answer was lost: no call is numbered like it, and nothing is known of what it did.
    fn forget(&mut self, after: Self) {
        (self.random, self.requests) = (after.random, after.requests);
    }

    /// What the call made again has answered.
    fn learn(&mut self, before: &Self, after: Self) {
        self.leases.extend(after.leases.into_iter().skip(before.leases.len()));
        self.splits.extend(after.splits.into_iter().skip(before.splits.len()));
        self.settled.extend(after.settled.into_iter().skip(before.settled.len()));
        self.throttled += after.throttled - before.throttled;
        self.suspect += after.suspect - before.suspect;
        self.dead += after.dead - before.dead;
        self.replayed += after.replayed - before.replayed;
        self.purged += after.purged - before.purged;
        self.reopened += after.reopened - before.reopened;
        self.erased += after.erased - before.erased;
        self.pinned += after.pinned - before.pinned;
        self.suppressed += after.suppressed - before.suppressed;
        self.unchecked += after.unchecked - before.unchecked;
        self.forgotten.extend(after.forgotten.into_iter().skip(before.forgotten.len()));
        self.waited += after.waited - before.waited;
        self.retried += 1;
    }
}

/// The runs differ in their policies.
pub(super) fn numbered(number: u64) -> crate::NewRun {
    let retry = RetryPolicy { base_ms: 10, cap_ms: 30, ttl_ms: if number == 0 { 60 } else { 3_600_000 } };
    let on_unknown = if number.is_multiple_of(2) { OnUnknown::Resend } else { OnUnknown::Hold };
    let lane = lane(if number == 3 { "transactional" } else { "bulk" });
    crate::NewRun { retry, on_unknown, lane, ..new_run(&format!("random {number}")) }
}

pub(super) type Counts = Vec<Option<(BatchCounts, RecipientCounts)>>;

pub(super) async fn counts(store: &dyn crate::Store) -> Counts {
    let mut all = Vec::new();
    for number in 0..RUNS + FIRED {
        let run = store.run(&new_run(&format!("random {number}")).id).await.unwrap();
        all.push(run.map(|run| (run.batches, run.recipients)));
    }
    all
}

pub(super) fn model_counts(model: &Model) -> Counts {
    let run = |number| model.run(&new_run(&format!("random {number}")).id);
    (0..RUNS + FIRED).map(|number| run(number).map(|run| (run.batches, run.recipients))).collect()
}

/// Runs a call on both and compares what it answers.
macro_rules! both {
    ($fixture:expr, $model:expr, $call:literal, $store:expr, $apply:expr, $same:expr) => {{
        let before = $fixture.store().now_ms().await.unwrap();
        let answer = $store.await.unwrap();
        let after = $fixture.store().now_ms().await.unwrap();
        let counted = counts(&*$fixture.store()).await;
        let mut agreed = None;
        // Instants kept by the two differ by as much as these did at earlier calls: hence the slack.
        let slack = $crate::conformance::random::LONGEST_MS.fetch_max(after - before, std::sync::atomic::Ordering::Relaxed).max(after - before);
        for now in (before..=after).chain(before - slack..before).chain(after + 1..=after + slack) {
            let mut tried = $model.clone();
            let expected = $apply(&mut tried, now);
            // An answer alone does not always tell the instants apart: a claim that may give out nothing still promotes.
            if $same(&expected) == $same(&answer) && model_counts(&tried) == counted {
                agreed = Some(tried);
                break;
            }
        }
        if agreed.is_none() {
            let expected = $apply(&mut $model.clone(), after);
            assert_eq!($same(&answer), $same(&expected), "{} answers something else than the model", $call);
        }
        $model = agreed.unwrap();
        // The next call is in another millisecond, for both: what is due first is due first for both.
        $fixture.pass(1).await;
        answer
    }};
}
pub(super) use both;

/// Makes `steps` random calls and adds what they got to. Panics, naming the seed, at the first answer that
/// differs.
pub async fn compare(fixture: &impl Fixture, seed: u64, steps: usize, reached: &mut Reached) {
    let random = fastrand::Rng::with_seed(seed);
    let mut driver = Driver { random, ..Driver::default() };
    let mut unanswered: Vec<Unanswered> = Vec::new();
    let mut model = Model::default();
    // Both begin on a server that is known.
    let known = fixture.store().compare(Compare { marks: Marks::default(), confirm: true }).await.unwrap();
    if known[0].found == Found::Confirmed {
        model.meet_server(0, "server".to_owned());
        model.compare(0, (Vec::new(), true));
    }
    for number in 0..RUNS {
        let new = numbered(number);
        let store = fixture.store();
        let call = store.create_run(new.clone());
        both!(fixture, model, "create_run", call, |m: &mut Model, now| m.create_run(now, new.clone()), |a: &_| *a);
    }
    for step in 0..steps {
        let pick = driver.random.u8(0..124);
        let salt = seed + step as u64;
        if driver.random.u8(0..8) == 0 {
            let before = driver.clone();
            let mut deaf = driver.clone();
            one(fixture, &mut model, &mut deaf, pick, salt).await;
            driver.forget(deaf);
            unanswered.push(Unanswered { before, pick, salt });
        } else {
            one(fixture, &mut model, &mut driver, pick, salt).await;
        }
        if !unanswered.is_empty() && driver.random.u8(0..3) == 0 {
            let at = driver.random.usize(0..unanswered.len());
            let Unanswered { before, pick, salt } = unanswered.swap_remove(at);
            let mut again = before.clone();
            one(fixture, &mut model, &mut again, pick, salt).await;
            driver.learn(&before, again);
        }
        if step % 8 == 0 {
            random_share::share(fixture, &mut model, &mut driver).await;
        }
        if step % 16 == 9 {
            pinned::random(fixture, &mut model, &mut driver, salt).await;
        }
        if step % 4 == 0 {
            random_fire::step(fixture, &mut model, &mut driver).await;
        }
        for number in 0..RUNS + FIRED {
            let id = new_run(&format!("random {number}")).id;
            let (ours, theirs) = (fixture.store().run(&id).await.unwrap(), model.run(&id));
            let plain = |record: &Option<crate::RunRecord>| {
                record.clone().map(|record| crate::RunRecord {
                    settled_at_ms: record.settled_at_ms.map(|_| 0),
                    started_at_ms: record.started_at_ms.map(|_| 0),
                    created_at_ms: 0,
                    nominal_at_ms: 0,
                    ..record
                })
            };
            assert_eq!(plain(&ours), plain(&theirs), "seed {seed} step {step} pick {pick}");
            assert!(ours.is_none_or(|run| run.recipients.adds_up()));
        }
    }
    assert_eq!(reconcile_all(&*fixture.store()).await, [], "seed {seed}");
    for number in 0..RUNS + FIRED {
        let id = new_run(&format!("random {number}")).id;
        let plain = |mut batches: Vec<crate::BatchRecord>| {
            for delivery in batches.iter_mut().flat_map(|batch| &mut batch.recipients) {
                delivery.settled_at_ms = delivery.settled_at_ms.map(|_| 0);
            }
            batches
        };
        let ours = plain(fixture.store().batches(&id, 0, 100_000).await.unwrap());
        assert_eq!(ours, plain(model.batches(&id, 0, 100_000)), "seed {seed}");
        model.run(&id).iter().for_each(|run| reached.add(run));
        reached.add_batches(&model.batches(&id, 0, 100_000));
    }
    reached.throttled += driver.throttled;
    reached.rollbacks += driver.rollbacks;
    reached.suspect += driver.suspect;
    reached.dead += driver.dead;
    reached.replayed += driver.replayed;
    reached.purged += driver.purged;
    reached.reopened += driver.reopened;
    reached.retried += driver.retried;
    reached.shared += driver.shared;
    reached.fired += driver.fired;
    reached.waited += driver.waited;
    reached.erased += driver.erased;
    reached.pinned += driver.pinned;
    reached.suppressed += driver.suppressed;
    reached.unchecked += driver.unchecked;
    reached.forgotten += driver.forgotten.len() as u64;
    for (run, batches) in &driver.forgotten {
        reached.add(run);
        reached.add_batches(batches);
    }
}

async fn one(fixture: &impl Fixture, model: &mut Model, driver: &mut Driver, pick: u8, salt: u64) {
    let store = fixture.store();
    let fraction = driver.random.u32(0..=1_000_000);
    match pick {
        0..6 => {
            let (request, nonce) = driver.request();
            let claim = ClaimSplit { request: format!("s{request}").parse().unwrap(), nonce, ttl_ms: TTL_MS };
            let same = |a: &Option<SplitLease>| a.clone().map(|lease| SplitLease { ttl_ms: 0, ..lease });
            let before = store.now_ms().await.unwrap();
            let answer = store.claim_split(claim.clone()).await.unwrap();
            let took = store.now_ms().await.unwrap() - before;
            let slack = LONGEST_MS.fetch_max(took, std::sync::atomic::Ordering::Relaxed).max(took);
            // Which of two is due first is known no better than when the calls were that made them due.
            let apply = |m: &mut Model, now| {
                answer.iter().for_each(|lease| m.prefer_split(&lease.run, slack));
                m.claim_split(now, claim.clone())
            };
            let call = std::future::ready(Ok::<_, crate::StoreError>(answer.clone()));
            let lease = both!(fixture, *model, "claim_split", call, apply, same);
            driver.splits.extend(lease);
        }
        6..20 => {
            let now = store.now_ms().await.unwrap();
            let Some(add) = driver.add(salt, now) else { return };
            let call = store.add_batches(add.clone());
            let added = both!(
                fixture,
                *model,
                "add_batches",
                call,
                |m: &mut Model, now| m.add_batches(now, add.clone()),
                |a: &_| *a
            );
            if added == SplitStatus::Done {
                driver.waited += add.batches.iter().filter(|batch| batch.not_before_ms > now + 5).count() as u64;
            }
        }
        20..22 => {
            let at = driver.random.usize(0..driver.splits.len().max(1));
            let Some(lease) = driver.splits.get(at).cloned() else { return };
            let word = || "word".to_owned();
            let error = (pick == 20).then(|| RunError { code: word(), message: word(), mend: word() });
            let release = ReleaseSplit { run: lease.run, fence: lease.fence, delay_ms: 5, error };
            let call = store.release_split(release.clone());
            both!(
                fixture,
                *model,
                "release_split",
                call,
                |m: &mut Model, now| m.release_split(now, release.clone()),
                |a: &_| *a
            );
        }
        22..36 => claim(fixture, model, driver).await,
        84..86 | 107..110 => random_history::history(fixture, model, driver).await,
        36..84 => report(fixture, model, driver, pick, fraction).await,
        86..90 => {
            let Some(report) = driver.report() else { return };
            let fact = |outcome: Outcome| Fact { batch: report.batch.clone(), fence: report.fence.clone(), outcome };
            let facts: Vec<_> = report.outcomes.iter().cloned().map(fact).collect();
            let call = store.facts(facts.clone(), fraction);
            both!(
                fixture,
                *model,
                "facts",
                call,
                |m: &mut Model, now| m.facts(now, (facts.clone(), fraction)),
                |a: &Vec<_>| a.clone()
            );
        }
        90..94 => {
            fixture.pass(driver.random.u64(0..TTL_MS * 5 / 4)).await;
            // All there are: which of them come first is left to each store.
            let reclaim = Reclaim { limit: 1000, ttl_ms: TTL_MS, doubt_grace_ms: 15, outage_gap_ms: 3_600_000 };
            let same = |a: &crate::Reclaimed| crate::Reclaimed { held_ms: 0, ..*a };
            let call = store.reclaim(reclaim);
            both!(fixture, *model, "reclaim", call, |m: &mut Model, now| m.reclaim(now, reclaim), same);
        }
        94 => {
            let run = driver.run();
            let call = store.pause_run(&run);
            both!(fixture, *model, "pause_run", call, |m: &mut Model, now| m.pause_run(now, run.clone()), |a: &_| *a);
        }
        95 => random_rollback::went_back(fixture, model, driver).await,
        96..98 => {
            let run = driver.run();
            let call = store.resume_run(&run);
            both!(fixture, *model, "resume_run", call, |m: &mut Model, now| m.resume_run(now, run.clone()), |a: &_| *a);
        }
        98 => {
            let paused = driver.random.u8(0..3) == 0;
            let set = (lane("bulk"), paused);
            let call = store.set_lane_paused(&set.0, paused);
            both!(
                fixture,
                *model,
                "set_lane_paused",
                call,
                |m: &mut Model, now| m.set_lane_paused(now, set.clone()),
                |a: &_| *a
            );
        }
        100 => random_dead::die(fixture, model, driver).await,
        101..103 => random_dead::decide(fixture, model, driver).await,
        103..105 => random_dead::retry(fixture, model, driver).await,
        105..107 => {
            let number = driver.random.u64(0..RUNS);
            random_retention::forget(fixture, model, driver, &numbered(number)).await;
        }
        110..113 => random_reconcile::reconcile(fixture, model, driver).await,
        113..116 => random_erasure::erase(fixture, model, driver).await,
        116..118 => random_suppression::suppress(fixture, model, driver).await,
        118..124 => random_suppression::recipients(fixture, model, driver).await,
        _ => cancel(fixture, model, driver).await,
    }
}

async fn claim(fixture: &impl Fixture, model: &mut Model, driver: &mut Driver) {
    let (request, nonce) = driver.request();
    let claim = Claim {
        worker: worker(driver.random.u8(1..4)),
        request: format!("c{request}").parse().unwrap(),
        nonce,
        batches_max: driver.random.u32(0..4),
        lanes: vec![(lane("bulk"), 10), (lane("transactional"), 100)],
        ttl_ms: TTL_MS,
        hard_cap_ms: 1_800_000,
        slots: 64,
        limits: driver.limits(),
    };
    let same = |a: &crate::Claimed| {
        let mut plain = a.clone();
        for lease in &mut plain.leases {
            (lease.ttl_ms, lease.hard_cap_ms) = (0, 0);
            lease.recipients.iter_mut().for_each(|progress| progress.not_before_ms = 0);
            // Its number is of the instant.
            lease.unchecked = lease.unchecked.map(|_| 1);
        }
        plain
    };
    let store = fixture.store();
    let call = store.claim(claim.clone());
    let claimed = both!(fixture, *model, "claim", call, |m: &mut Model, now| m.claim(now, claim.clone()), same);
    driver.leases.extend(claimed.leases.into_iter().map(|l| (l.batch, l.fence, l.recipients.len() as u32)));
}

async fn report(fixture: &impl Fixture, model: &mut Model, driver: &mut Driver, pick: u8, retry_fraction: u32) {
    let store = fixture.store();
    let Some(report) = driver.report() else { return };
    let (worker, reports) = (worker(1), vec![report]);
    let same = |answers: &Vec<postrider_common::lease::LeaseAnswer>| {
        let plain = |a: &postrider_common::lease::LeaseAnswer| {
            // How long to wait depends on the instant.
            let word = |(index, reason): &(u32, RefusalReason)| match reason {
                RefusalReason::Throttled { .. } => (*index, RefusalReason::Throttled { retry_in_ms: 0 }),
                other => (*index, *other),
            };
            (a.batch.clone(), a.status, a.granted.clone(), a.refused.iter().map(word).collect::<Vec<_>>())
        };
        answers.iter().map(plain).collect::<Vec<_>>()
    };
    match pick {
        36..66 => {
            let (limits, grants) = (driver.limits(), driver.grants());
            let checkpoint = Checkpoint { worker, reports, ttl_ms: TTL_MS, window: 3, retry_fraction, limits, grants };
            let call = store.checkpoint(checkpoint.clone());
            let answers = both!(
                fixture,
                *model,
                "checkpoint",
                call,
                |m: &mut Model, now| m.checkpoint(now, checkpoint.clone()),
                same
            );
            let refused = answers.iter().flat_map(|answer| &answer.refused);
            let unchecked = |(_, reason): &&(u32, RefusalReason)| *reason == RefusalReason::Unchecked;
            driver.unchecked += refused.clone().filter(unchecked).count() as u64;
            let throttled = |(_, reason): &&(u32, RefusalReason)| matches!(reason, RefusalReason::Throttled { .. });
            driver.throttled += refused.filter(throttled).count() as u64;
        }
        66..78 => {
            let finish = Finish { worker, reports, retry_fraction };
            let call = store.finish(finish.clone());
            both!(fixture, *model, "finish", call, |m: &mut Model, now| m.finish(now, finish.clone()), same);
        }
        _ => {
            let abandon = driver.random.bool();
            let delay_ms = driver.random.u64(0..30).saturating_sub(15);
            let release = Release { worker, reports, retry_fraction, abandon, doubt_grace_ms: 15, delay_ms };
            let call = store.release(release.clone());
            both!(fixture, *model, "release", call, |m: &mut Model, now| m.release(now, release.clone()), same);
        }
    }
}

async fn cancel(fixture: &impl Fixture, model: &mut Model, driver: &mut Driver) {
    let store = fixture.store();
    let run = driver.run();
    if driver.random.u8(0..2) == 0 {
        let call = store.cancel_run(&run);
        both!(fixture, *model, "cancel_run", call, |m: &mut Model, now| m.cancel_run(now, run.clone()), |a: &_| *a);
    }
    let step = (run.clone(), driver.random.u64(0..3), driver.random.usize(1..5));
    let call = store.cancel_batches(&run, step.1, step.2);
    both!(
        fixture,
        *model,
        "cancel_batches",
        call,
        |m: &mut Model, now| m.cancel_batches(now, step.clone()),
        |a: &_| *a
    );
    // Whoever began in the middle takes care of the beginning.
    let step = (run.clone(), 0, step.1 as usize);
    if step.2 > 0 {
        let call = store.cancel_batches(&run, step.1, step.2);
        let act = |m: &mut Model, now| m.cancel_batches(now, step.clone());
        both!(fixture, *model, "cancel_batches", call, act, |a: &_| *a);
    }
}
