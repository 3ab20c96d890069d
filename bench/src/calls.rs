//! What a splitter and a worker call, as the measurements need it.

use postrider_common::ids::{BatchId, Fence, LaneName, RunId};
use postrider_common::lease::{LeaseAnswer, LeaseReport, OutcomeKind};
use postrider_common::message::Recipient;
use postrider_common::pace::Limits;
use postrider_common::payload;
use postrider_store::conformance::scene::{new_run, outcomes, request, worker};
use postrider_store::{AddBatches, Checkpoint, Claim, ClaimSplit, Finish, NewBatch, NewRun, SplitStatus, Store};

pub const WINDOW: u32 = 10;
pub const COUNT: u32 = 100;
/// Batches of one add_batches, as a splitter adds them.
pub const STEP: usize = 20;
pub const HOUR_MS: u64 = 3_600_000;
/// As `[lease] ttl` is by default.
const LEASE_MS: u64 = 60_000;
pub const SITES: [&str; 3] = ["google", "microsoft", "other"];

pub type Held = (BatchId, Fence);

/// Batches of these people, `COUNT` of them in each.
pub fn batches_of(people: &[Recipient]) -> Vec<NewBatch> {
    let batch = |(at, people): (usize, &[Recipient])| NewBatch {
        sequence: at as u64 + 1,
        site: SITES[at % SITES.len()].parse().expect("a site"),
        count: people.len() as u32,
        payload: payload::encode(people).to_vec(),
        not_before_ms: 0,
        checked: 0,
    };
    people.chunks(COUNT as usize).enumerate().map(batch).collect()
}

/// Batches of one recipient each, at one site, for where it does not matter what is in them.
pub fn small_batches(number: usize, site: &str) -> Vec<NewBatch> {
    let batch = |sequence| NewBatch {
        sequence,
        site: site.parse().expect("a site"),
        count: 1,
        payload: b"payload".to_vec(),
        not_before_ms: 0,
        checked: 0,
    };
    (1..=number as u64).map(batch).collect()
}

/// A run of that name in that lane.
pub fn run_in(lane: &str, name: &str) -> NewRun {
    NewRun { lane: lane.parse().expect("a lane"), ..new_run(name) }
}

/// Queues the batches as a splitter does, one call after the other.
pub async fn queue(store: &dyn Store, run: NewRun, batches: &[NewBatch]) -> RunId {
    let id = run.id.clone();
    store.create_run(run).await.expect("a run");
    let (request, nonce) = request();
    let split = store.claim_split(ClaimSplit { request, nonce, ttl_ms: HOUR_MS }).await.expect("a split");
    let split = split.expect("the split is due");
    assert_eq!(split.run, id, "one split is due at a time");
    let steps = batches.len().div_ceil(STEP);
    for (step, batches) in batches.chunks(STEP).enumerate() {
        let add = AddBatches {
            run: id.clone(),
            fence: split.fence.clone(),
            cursor: step as u64,
            cursor_next: step as u64 + 1,
            batches: batches.to_vec(),
            open: Vec::new(),
            bad_rows: 0,
            repeated_rows: 0,
            bad_row_samples: Vec::new(),
            complete: step + 1 == steps,
            ttl_ms: HOUR_MS,
        };
        assert_eq!(store.add_batches(add).await.expect("batches are added"), SplitStatus::Done);
    }
    id
}

/// A claim of so many batches of both lanes.
pub fn claim_call(batches_max: u32, limits: &Limits) -> Claim {
    let (request, nonce) = request();
    Claim {
        worker: worker(1),
        request,
        nonce,
        batches_max,
        lanes: vec![(LaneName::bulk(), 10), (LaneName::transactional(), 100)],
        ttl_ms: LEASE_MS,
        hard_cap_ms: HOUR_MS,
        slots: 256,
        limits: limits.clone(),
    }
}

pub async fn claim(store: &dyn Store, batches_max: u32, limits: &Limits) -> Vec<Held> {
    let claimed = store.claim(claim_call(batches_max, limits)).await.expect("a claim");
    claimed.leases.into_iter().map(|lease| (lease.batch, lease.fence)).collect()
}

/// Outcomes of the window that begins here, and intents for the one that begins there.
pub fn report(held: &Held, sequence: u32, outcomes_from: Option<u32>, intents_from: Option<u32>) -> LeaseReport {
    let window = |from: Option<u32>| from.map_or(0..0, |from| from..from + WINDOW);
    let mut accepted = outcomes(window(outcomes_from), OutcomeKind::Accepted);
    accepted.iter_mut().for_each(|outcome| outcome.detail.clear());
    LeaseReport {
        batch: held.0.clone(),
        fence: held.1.clone(),
        sequence: u64::from(sequence),
        outcomes: accepted,
        intents: window(intents_from).collect(),
        progress: 0,
    }
}

/// The report of one step: outcomes of the window before, intents of this one.
pub fn step_report(held: &Held, step: u32) -> LeaseReport {
    report(held, step + 1, step.checked_sub(1).map(|before| before * WINDOW), Some(step * WINDOW))
}

pub async fn checkpoint(store: &dyn Store, reports: Vec<LeaseReport>) -> Vec<LeaseAnswer> {
    let limits = Limits::default();
    let checkpoint = Checkpoint {
        worker: worker(1),
        reports,
        ttl_ms: LEASE_MS,
        window: WINDOW,
        retry_fraction: 0,
        limits,
        grants: None,
    };
    store.checkpoint(checkpoint).await.expect("a checkpoint")
}

pub async fn finish(store: &dyn Store, held: &[Held]) -> Vec<LeaseAnswer> {
    let reports = held.iter().map(|held| report(held, COUNT, Some(COUNT - WINDOW), None)).collect();
    store.finish(Finish { worker: worker(1), reports, retry_fraction: 0 }).await.expect("a finish")
}
