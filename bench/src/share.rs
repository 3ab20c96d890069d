//! The share of one core that Redis takes at a steady pace, with every write on disk before it is answered.
//!
//! Workers report as real ones do: what is due within a few milliseconds goes in one call, each report with the
//! outcomes of one window and the intents of the next. Splitting and history are not part of it.

use crate::calls::{self, COUNT, Held, WINDOW, batches_of};
use crate::people;
use crate::server::Server;
use futures::future::join_all;
use postrider_common::lease::LeaseStatus;
use postrider_common::pace::Limits;
use postrider_store::conformance::scene::new_run;
use postrider_store::{Durability, Store};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Leases of a worker: each reports so often that a window takes about 100 ms at the default pace.
const LEASES: usize = 25;
/// Checkpoints and the finish of one batch.
const REPORTS: u32 = COUNT / WINDOW + 1;

#[derive(Debug, Default, Clone, Copy)]
struct Done {
    batches: u64,
    reports: u64,
    calls: u64,
}

/// A worker gathers reports for so long.
pub fn measure(rate: u32, seconds: u32, workers: u8, gather: Duration) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(paced(rate, seconds, workers, gather));
}

async fn paced(rate: u32, seconds: u32, workers: u8, gather: Duration) {
    let mut server = Server::start("always");
    let store = server.store(Durability::Always).await;
    let people =
        people::recipients((rate * (seconds + 2)) as usize + usize::from(workers) * LEASES * COUNT as usize, 1);
    calls::queue(&*store, new_run("measured"), &batches_of(&people)).await;
    let phase = server.begin("script", "fcall");
    let (begun, cpu_before, kernel_before) = (Instant::now(), server.cpu_seconds(), server.kernel_seconds());
    let share = f64::from(rate) / f64::from(workers);
    let span = Duration::from_secs(u64::from(seconds));
    let done = join_all((0..workers).map(|_| work(&*store, share, gather, begun, span))).await;
    let (cpu, elapsed) = (server.cpu_seconds() - cpu_before, begun.elapsed().as_secs_f64());
    let cost = server.end(phase);
    let sum = |of: fn(&Done) -> u64| done.iter().map(of).sum::<u64>() as f64;
    let (reports, calls) = (sum(|done| done.reports), sum(|done| done.calls));
    let recipients = reports / f64::from(REPORTS) * f64::from(COUNT);
    println!("appendfsync always, {workers} workers, windows of {WINDOW}, {elapsed:.1} s");
    println!("recipients a second               {:10.0}   (asked: {rate})", recipients / elapsed);
    println!("batches settled                   {:10.0}", sum(|done| done.batches));
    println!("reports a second, a call          {:10.0}   {:.1}", reports / elapsed, reports / calls);
    println!("scripts a second, us each         {:10.0}   {:.1}", cost.calls / elapsed, cost.command_us);
    if let Some(instructions) = cost.instructions {
        println!("instructions of Redis, a script   {instructions:10.0}");
    }
    println!("Redis processor, us a recipient   {:10.2}", cpu * 1e6 / recipients);
    println!("Redis processor, of one core      {:10.1} %", cpu / elapsed * 100.0);
    println!(
        "  of that, in the kernel          {:10.1} %",
        (server.kernel_seconds() - kernel_before) / elapsed * 100.0
    );
}

/// One worker at its share of the pace, in recipients a second.
async fn work(store: &dyn Store, share: f64, gather: Duration, begun: Instant, span: Duration) -> Done {
    let limits = Limits::default();
    let reports_per_second = share / f64::from(COUNT) * f64::from(REPORTS);
    let mut held: VecDeque<(Held, u32)> = VecDeque::new();
    let mut done = Done::default();
    let mut ticks = tokio::time::interval(gather);
    while begun.elapsed() < span {
        ticks.tick().await;
        let due = (begun.elapsed().as_secs_f64() * reports_per_second) as u64 - done.reports;
        if held.len() < LEASES {
            held.extend(
                calls::claim(store, (LEASES - held.len()).min(4) as u32, &limits).await.into_iter().map(|h| (h, 0)),
            );
        }
        let mut steps = Vec::new();
        let mut last = Vec::new();
        for _ in 0..due.min(held.len() as u64) {
            let Some((lease, step)) = held.pop_front() else { break };
            if step < COUNT / WINDOW { steps.push((lease, step)) } else { last.push(lease) }
        }
        if !steps.is_empty() {
            let reports = steps.iter().map(|(lease, step)| calls::step_report(lease, *step)).collect();
            let answers = calls::checkpoint(store, reports).await;
            assert!(answers.iter().all(|answer| answer.granted.len() == WINDOW as usize), "{answers:?}");
            done.calls += 1;
        }
        if !last.is_empty() {
            let answers = calls::finish(store, &last).await;
            assert!(answers.iter().all(|answer| answer.status == LeaseStatus::Settled), "{answers:?}");
            done.calls += 1;
        }
        done.reports += (steps.len() + last.len()) as u64;
        done.batches += last.len() as u64;
        held.extend(steps.into_iter().map(|(lease, step)| (lease, step + 1)));
    }
    done
}
