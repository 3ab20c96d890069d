//! How fast an audience becomes batches, beside reading and parsing the same file alone; and what a master and Redis hold of a
//! run while it is split and sent, whatever its size.

use crate::calls::{COUNT, Held, claim_call};
use crate::people;
use futures::future::join_all;
use postrider_common::SystemClock;
use postrider_common::ids::RunId;
use postrider_common::lease::{LeaseReport, LeaseStatus, OutcomeKind};
use postrider_common::limits::SPLIT_AHEAD_BATCHES_MAX;
use postrider_common::pace::Limits;
use postrider_store::conformance::scene::{outcomes, worker};
use postrider_store::{Checkpoint, Durability, Finish, Options, RunRecord, Store};
use postrider_tests::{Audience, Campaign, Fleet, Settings};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often the run is looked at.
const LOOK: Duration = Duration::from_millis(5);
const LEASE_MS: u64 = 60_000;
/// Callers that take batches as fast as they come, and leases of each call.
const CALLERS: usize = 4;
const IN_A_CALL: u32 = 16;

struct Measured {
    rows_per_second: f64,
    master_bytes: u64,
    redis_bytes: f64,
}

/// `ahead` is how many batches may wait, as `master.split_ahead_batches`.
struct Plan {
    rows: usize,
    ahead: u64,
    /// Whether batches are taken meanwhile.
    drained: bool,
}

pub fn measure(sizes: &[usize]) {
    let folder = tempfile::tempdir().expect("a folder");
    println!(
        "                  alone, rows/s    split, rows/s    ratio    queued in Redis, MB    peak of the master, MB"
    );
    for rows in sizes.iter().copied().filter(|rows| rows.div_ceil(COUNT as usize) as u64 <= SPLIT_AHEAD_BATCHES_MAX) {
        let csv = folder.path().join("people.csv");
        people::write_csv(&csv, rows, 1);
        let alone = parsed_alone(&csv);
        let split = split(&csv, Plan { rows, ahead: SPLIT_AHEAD_BATCHES_MAX, drained: false });
        println!(
            "{rows:>10} rows {alone:16.0} {:16.0} {:8.2} {:22.1} {:25.1}",
            split.rows_per_second,
            split.rows_per_second / alone,
            megabytes(split.redis_bytes),
            megabytes(split.master_bytes as f64)
        );
    }
    println!("\nsplit and taken at once, 1,000 batches ahead (the default)");
    println!("                       rows/s    peak of Redis, MB    peak of the master, MB");
    for rows in sizes.iter().copied() {
        let csv = folder.path().join("people.csv");
        people::write_csv(&csv, rows, 1);
        let split = split(&csv, Plan { rows, ahead: 1_000, drained: true });
        println!(
            "{rows:>10} rows {:14.0} {:20.1} {:25.1}",
            split.rows_per_second,
            megabytes(split.redis_bytes),
            megabytes(split.master_bytes as f64)
        );
    }
}

fn megabytes(bytes: f64) -> f64 {
    bytes / (1024.0 * 1024.0)
}

/// Rows a second of the reader alone, without looking at what is in them.
fn parsed_alone(csv: &Path) -> f64 {
    let mut reader = csv::Reader::from_path(csv).expect("the file can be read");
    let (mut row, mut rows) = (csv::StringRecord::new(), 0_u64);
    let begun = Instant::now();
    while reader.read_record(&mut row).expect("a row") {
        rows += 1;
    }
    rows as f64 / begun.elapsed().as_secs_f64()
}

fn split(csv: &Path, plan: Plan) -> Measured {
    let Plan { rows, ahead, drained } = plan;
    let extra = format!("[master]\nsplit_ahead_batches = {ahead}\naudience_bytes_max = {}\n", u32::MAX);
    let settings = Settings { masters: 1, workers: 0, lease_ttl_ms: LEASE_MS, extra, ..Settings::default() };
    let fleet = Fleet::start_without_relay(settings);
    // Written first with nobody in it; then the people take their place.
    let file = Campaign::named("split").write(fleet.folder(), &Audience::with_header("email"));
    std::fs::copy(csv, fleet.folder().join("split.csv")).expect("a copy");
    let client = fleet.client();
    client.apply(&file);
    let redis_before = fleet.redis.info_number("used_memory");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let (seconds, redis_bytes) = runtime.block_on(async {
        let url = fleet.redis.url().parse().expect("a store URL");
        let options = Options::new(Durability::Always, Arc::new(SystemClock::default()));
        let store = postrider_store::open(&url, options).await.expect("a store");
        let run: RunId = client.run("split", "once").parse().expect("a run");
        let ended = AtomicBool::new(false);
        let takers = join_all((0..if drained { CALLERS } else { 0 }).map(|_| take(&*store, &ended)));
        let watched = async {
            let record = until(&*store, &run, |run| run.split_complete).await;
            let now_ms = store.now_ms().await.expect("a clock");
            if drained {
                until(&*store, &run, |run| run.recipients.pending == 0).await;
            }
            ended.store(true, Ordering::SeqCst);
            assert_eq!(record.recipients.total as usize, rows, "all of it is in batches");
            (now_ms - record.started_at_ms.expect("it is split")) as f64 / 1000.0
        };
        let (seconds, _) = tokio::join!(watched, takers);
        let field = if drained { "used_memory_peak" } else { "used_memory" };
        (seconds, fleet.redis.info_number(field) - redis_before)
    });
    Measured { rows_per_second: rows as f64 / seconds, master_bytes: fleet.master_peak_bytes(0), redis_bytes }
}

async fn until(store: &dyn Store, run: &RunId, wished: impl Fn(&RunRecord) -> bool) -> RunRecord {
    loop {
        let record = store.run(run).await.expect("a run").expect("it is there");
        assert!(record.error.is_none(), "{record:?}");
        if wished(&record) {
            return record;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Takes batches and tells that everybody in them has the mail, until the run is over.
async fn take(store: &dyn Store, ended: &AtomicBool) {
    let limits = Limits::default();
    while !ended.load(Ordering::SeqCst) {
        let claimed = store.claim(claim_call(IN_A_CALL, &limits)).await.expect("a claim");
        if claimed.leases.is_empty() {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        let leases: Vec<(Held, u32)> = claimed
            .leases
            .into_iter()
            .map(|lease| ((lease.batch, lease.fence), lease.recipients.len() as u32))
            .collect();
        let asked = leases.iter().map(|(held, count)| report(held, 1, 0..0, 0..*count)).collect();
        let ask = Checkpoint {
            worker: worker(1),
            reports: asked,
            ttl_ms: LEASE_MS,
            window: COUNT,
            retry_fraction: 0,
            limits: limits.clone(),
            grants: None,
        };
        store.checkpoint(ask).await.expect("a checkpoint");
        let reports = leases.iter().map(|(held, count)| report(held, 2, 0..*count, 0..0)).collect();
        let finish = Finish { worker: worker(1), reports, retry_fraction: 0 };
        let answers = store.finish(finish).await.expect("a finish");
        assert!(answers.iter().all(|answer| answer.status == LeaseStatus::Settled), "{answers:?}");
    }
}

fn report(held: &Held, sequence: u64, told: std::ops::Range<u32>, intents: std::ops::Range<u32>) -> LeaseReport {
    LeaseReport {
        batch: held.0.clone(),
        fence: held.1.clone(),
        sequence,
        outcomes: outcomes(told, OutcomeKind::Accepted),
        intents: intents.collect(),
        progress: 0,
    }
}
