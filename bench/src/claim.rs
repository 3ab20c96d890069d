//! What a claim costs the server, by how much is ready and by how much is not to be looked at.
//!
//! Commands that the script calls do not depend on how busy the machine is; each of them is O(log n) at most.

use crate::calls::{self, HOUR_MS, Held};
use crate::server::Server;
use postrider_common::ids::LaneName;
use postrider_common::lease::{LeaseReport, LeaseStatus};
use postrider_common::pace::{Limit, Limits, Pace};
use postrider_store::conformance::scene::worker;
use postrider_store::{Checkpoint, Durability, Release, Store};

const CLAIMS: usize = 400;
const QUEUES: usize = 10_000;
/// With the lane of the runs, fewer than `LIMITED_MAX`.
const SITES: usize = 190;

/// What a claim cost: medians, which a machine that is busy with something else moves least.
struct Cost {
    /// Commands that the first claims called at most: what had no room leaves the choices once.
    first_commands: u64,
    commands: u64,
    us: f64,
}

/// What there is besides the one batch that is leased again and again.
enum Beside {
    /// So many batches of its run.
    Ready(usize),
    /// So many runs with a batch each.
    Runs(usize),
    PausedRuns(usize),
    RunsInPausedLane(usize),
    RunsInThrottledLane(usize),
    RunsAtThrottledSites(usize),
}

impl Beside {
    fn name(&self) -> String {
        match self {
            Self::Ready(number) => format!("ready batches: {}", number + 1),
            Self::Runs(number) => format!("runs with a ready batch: {}", number + 1),
            Self::PausedRuns(number) => format!("paused runs: {number}"),
            Self::RunsInPausedLane(number) => format!("runs in a paused lane: {number}"),
            Self::RunsInThrottledLane(number) => format!("runs in a lane without room: {number}"),
            Self::RunsAtThrottledSites(number) => format!("runs at {SITES} sites without room: {number}"),
        }
    }

    /// Puts it there. Limits of the claims.
    async fn prepare(&self, store: &dyn Store) -> Limits {
        let (bulk, transactional) = ("bulk", "transactional");
        let mut limits = Limits::default();
        match self {
            Self::Ready(number) => {
                calls::queue(store, calls::run_in(transactional, "open"), &calls::small_batches(number + 1, "other"))
                    .await;
                return limits;
            }
            Self::Runs(number) => runs(store, *number, transactional, |_| "other".to_owned(), false).await,
            Self::PausedRuns(number) => runs(store, *number, transactional, |_| "other".to_owned(), true).await,
            Self::RunsInPausedLane(number) => {
                runs(store, *number, bulk, |_| "other".to_owned(), false).await;
                store.set_lane_paused(&LaneName::bulk(), true).await.expect("a paused lane");
            }
            Self::RunsInThrottledLane(number) => {
                runs(store, *number, bulk, |_| "other".to_owned(), false).await;
                limits.lane(LaneName::bulk(), one_an_hour());
                exhaust(store, 1, &limits).await;
            }
            Self::RunsAtThrottledSites(number) => {
                // In the lane of the open run: its site is reached past all that have no room.
                runs(store, *number, transactional, |n| format!("site-{}", n % SITES), false).await;
                for site in 0..SITES {
                    limits.site(format!("site-{site}").parse().expect("a site"), one_an_hour());
                }
                exhaust(store, SITES, &limits).await;
            }
        }
        calls::queue(store, calls::run_in(transactional, "open"), &calls::small_batches(1, "other")).await;
        limits
    }
}

pub fn measure() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    println!("{CLAIMS} claims of one batch each; the batch is given back after each");
    println!("{:46} first claims    commands    in call     ratio", "");
    let all = [
        Beside::Ready(0),
        Beside::Ready(999),
        Beside::Ready(99_999),
        Beside::Runs(QUEUES),
        Beside::PausedRuns(QUEUES),
        Beside::RunsInPausedLane(QUEUES),
        Beside::RunsInThrottledLane(QUEUES),
        Beside::RunsAtThrottledSites(QUEUES),
    ];
    let mut least = None;
    for beside in all {
        let cost = runtime.block_on(one(&beside));
        let smallest = *least.get_or_insert(cost.us);
        println!(
            "{:46} {:12} {:11} {:7.1} us {:8.2}x",
            beside.name(),
            cost.first_commands,
            cost.commands,
            cost.us,
            cost.us / smallest
        );
    }
}

async fn one(beside: &Beside) -> Cost {
    let mut server = Server::start("everysec");
    let store = server.store(Durability::Relaxed).await;
    let limits = beside.prepare(&*store).await;
    // Any claim may be the one that takes what has no room out of the choices.
    let mut first_commands = 0;
    for _ in 0..3 {
        first_commands = first_commands.max(claim_and_release(&mut server, &*store, &limits).await.0);
    }
    let (mut commands, mut us) = (Vec::with_capacity(CLAIMS), Vec::with_capacity(CLAIMS));
    for _ in 0..CLAIMS {
        let (called, took) = claim_and_release(&mut server, &*store, &limits).await;
        commands.push(called);
        us.push(took);
    }
    commands.sort_unstable();
    us.sort_unstable_by(f64::total_cmp);
    Cost { first_commands, commands: commands[CLAIMS / 2], us: us[CLAIMS / 2] }
}

/// Commands called within one claim, and its time.
async fn claim_and_release(server: &mut Server, store: &dyn Store, limits: &Limits) -> (u64, f64) {
    let (before, (calls_before, us_before)) = (server.calls(), server.command("fcall"));
    let held = calls::claim(store, 1, limits).await;
    let (after, (calls_after, us_after)) = (server.calls(), server.command("fcall"));
    assert_eq!(held.len(), 1, "one batch is to be had");
    assert!((calls_after - calls_before - 1.0).abs() < 0.5, "nothing else runs on the server");
    let all = |calls: &std::collections::BTreeMap<String, u64>| calls.values().sum::<u64>();
    let info = |calls: &std::collections::BTreeMap<String, u64>| calls.get("info").copied().unwrap_or_default();
    let called = all(&after) - all(&before) - (info(&after) - info(&before));
    release(store, &held).await;
    (called, us_after - us_before)
}

async fn release(store: &dyn Store, held: &[Held]) {
    let reports = held.iter().map(|held| calls::report(held, 1, None, None)).collect();
    let release =
        Release { worker: worker(1), reports, retry_fraction: 0, abandon: false, doubt_grace_ms: 0, delay_ms: 0 };
    let answers = store.release(release).await.expect("a release");
    assert!(answers.iter().all(|answer| answer.status == LeaseStatus::Returned), "{answers:?}");
}

async fn runs(store: &dyn Store, number: usize, lane: &str, site: impl Fn(usize) -> String, paused: bool) {
    for n in 0..number {
        let run = calls::run_in(lane, &format!("beside-{n}"));
        let run = calls::queue(store, run, &calls::small_batches(1, &site(n))).await;
        if paused {
            store.pause_run(&run).await.expect("a paused run");
        }
    }
}

fn one_an_hour() -> Limit {
    Limit { pace: Some(Pace { rate: "1/h".parse().expect("a rate"), burst: 1 }), concurrency: None }
}

/// Begins so many recipients, one at each lane or site with a limit: none of these has room then.
async fn exhaust(store: &dyn Store, number: usize, limits: &Limits) {
    for _ in 0..number {
        let held = calls::claim(store, 1, limits).await;
        let reports: Vec<LeaseReport> =
            held.iter().map(|held| LeaseReport { intents: vec![0], ..calls::report(held, 1, None, None) }).collect();
        let checkpoint = Checkpoint {
            worker: worker(1),
            reports,
            ttl_ms: HOUR_MS,
            window: 1,
            retry_fraction: 0,
            limits: limits.clone(),
            grants: None,
        };
        let answers = store.checkpoint(checkpoint).await.expect("a checkpoint");
        assert!(answers.len() == 1 && answers[0].granted == [0], "{answers:?}");
    }
}
