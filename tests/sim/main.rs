//! The whole system in seeded virtual time: real masters, real worker engines and journals, real SMTP sessions on both
//! ends, and the store's model, in one loop; with whatever can go wrong, and every promise checked after every event.
//!
//! `POSTRIDER_SEED` runs one seed, and with `POSTRIDER_TRACE` says all that happens; `POSTRIDER_SEEDS` runs that many,
//! from `POSTRIDER_SEED_FIRST` on.

mod coverage;
mod endpoint;
mod fate;
mod forgotten;
mod gate;
mod judge;
mod master;
mod mix;
mod network;
mod people;
mod pool;
mod random;
mod relay;
mod report;
mod rollback;
mod rules;
#[cfg(feature = "sabotage")]
mod sabotage;
mod store;
mod time;
mod worker;
mod world;

use report::{Report, Seed};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use world::World;

/// Seeds of a plain run; `scripts/test` asks for more.
const SEEDS: u64 = 200;
/// One in so many is run twice.
const REPEAT_EVERY: u64 = 50;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// One seed from its beginning to its verdict.
fn run(seed: u64) -> Seed {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without input and output");
    let ran = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let mut world = World::new(seed);
            world.run().await;
            let verdict = if world.broken.is_none() { world.judge().await } else { Default::default() };
            Seed::of(world, verdict)
        })
    }));
    ran.unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<String>().cloned();
        let why = why.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Seed::broken(seed, why.unwrap_or_default())
    })
}

/// Many seeds, on every processor.
fn run_all(first: u64, count: u64) -> Report {
    let report = Mutex::new(Report::default());
    let next = AtomicU64::new(first);
    let begun = std::time::Instant::now();
    // One that fails is all that a planted fault is asked for.
    let stops = std::env::var_os("POSTRIDER_SABOTAGE").is_some();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let is_shown = stops && !report.lock().expect("nobody panics with it").failed.is_empty();
                    if seed >= first + count || is_shown {
                        return;
                    }
                    let mut ran = run(seed);
                    if ran.broken.is_none() && seed.is_multiple_of(REPEAT_EVERY) {
                        let again = run(seed);
                        if (again.print, again.events) != (ran.print, ran.events) {
                            let (one, two) = (ran.print, again.print);
                            ran.broken = Some(format!("not the same twice: {one:016x} and {two:016x}"));
                        }
                    }
                    report.lock().expect("nobody panics with it").add(ran);
                }
            });
        }
    });
    let mut report = report.into_inner().expect("nobody panics with it");
    report.took = begun.elapsed();
    report
}

#[test]
fn every_promise_holds_in_every_seed() {
    let (first, count) = match number("POSTRIDER_SEED") {
        Some(seed) => (seed, 1),
        None => (number("POSTRIDER_SEED_FIRST").unwrap_or(1), number("POSTRIDER_SEEDS").unwrap_or(SEEDS)),
    };
    let report = run_all(first, count);
    print!("{report}");
    assert!(report.failed.is_empty(), "{}", report.failures());
    // A few seeds do not get everywhere.
    if count >= 5_000 {
        assert!(report.coverage.missed().is_empty(), "never reached: {:?}", report.coverage.missed());
        let medians = report.medians();
        assert!(medians.events >= 500 && medians.recipients >= 200 && medians.faults >= 3, "{medians:?}");
    }
}
