//! What the calls of the store cost a server, beside the plainest calls there are on the same server in the
//! same run: redis-benchmark's SET of 100 bytes, and a script that does that SET.

use crate::calls::{self, COUNT, Held, WINDOW, batches_of};
use crate::people;
use crate::server::{Cost, Server};
use futures::stream::{self, StreamExt};
use postrider_common::lease::LeaseStatus;
use postrider_common::pace::Limits;
use postrider_store::conformance::scene::new_run;
use postrider_store::{Durability, Store};

const BASELINE_BYTES: usize = 100;
const BASELINE_SCRIPT: &str = "return redis.call('SET', KEYS[1], ARGV[1])";
/// The first costs are those of redis-benchmark.
const BASELINES: usize = 2;
/// The flow that the share of a core is told for.
const PACE_RECIPIENTS_PER_SECOND: f64 = 10_000.0;

pub fn measure(batches: usize, callers: usize, in_a_call: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    println!(
        "{batches} batches of {COUNT}, windows of {WINDOW}, {callers} calls under way, {in_a_call} leases in each"
    );
    let load = Load { batches, callers, in_a_call };
    let always = runtime.block_on(one_server("always", Durability::Always, load));
    let everysec = runtime.block_on(one_server("everysec", Durability::Relaxed, load));
    let one_replica = Durability::Replicated { replicas: 1 };
    let replicated = runtime.block_on(one_server("always", one_replica, load));
    println!("\nalways against everysec, calls per second");
    for (always, everysec) in always.iter().zip(&everysec) {
        println!("{:42} {:6.2}", always.name, always.per_second() / everysec.per_second());
    }
    println!("\nreplicated (one replica on this machine) against always, calls per second");
    for (replicated, always) in replicated.iter().zip(&always).skip(BASELINES) {
        println!("{:42} {:6.2}", always.name, replicated.per_second() / always.per_second());
    }
}

#[derive(Debug, Clone, Copy)]
struct Load {
    batches: usize,
    callers: usize,
    /// Leases of a claim, of a checkpoint and of a finish.
    in_a_call: usize,
}

async fn one_server(appendfsync: &str, durability: Durability, load: Load) -> Vec<Cost> {
    let Load { batches, callers, in_a_call } = load;
    let mut server = Server::start(appendfsync);
    let value = "x".repeat(BASELINE_BYTES);
    let sha: String =
        redis::cmd("SCRIPT").arg("LOAD").arg(BASELINE_SCRIPT).query(&mut server.connection).expect("SCRIPT LOAD");
    let mut costs = vec![
        server.baseline("SET (redis-benchmark)", "set", &["SET", "bench:key", &value], callers),
        server.baseline(
            "script of one SET (redis-benchmark)",
            "evalsha",
            &["EVALSHA", &sha, "1", "bench:key", &value],
            callers,
        ),
    ];
    assert_eq!(costs.len(), BASELINES);
    if matches!(durability, Durability::Replicated { .. }) {
        server.attach_replica();
    }
    let store = server.store(durability).await;
    let all = (batches * COUNT as usize) as f64;
    let empty = server.used_bytes();
    let payload_bytes = add(&mut server, &*store, batches, &mut costs).await;
    let queued = server.used_bytes() - empty;

    let phase = server.begin("claim", "fcall");
    let held = claim_all(&*store, batches, callers, in_a_call).await;
    costs.push(server.end(phase));
    assert_eq!(held.len(), batches, "each batch is leased once");
    let phase = server.begin("checkpoint of 10 outcomes, 10 intents", "fcall");
    checkpoint_all(&*store, &held, callers, in_a_call).await;
    costs.push(server.end(phase));
    let phase = server.begin("finish with 10 outcomes", "fcall");
    finish_all(&*store, &held, callers, in_a_call).await;
    costs.push(server.end(phase));

    let label = match durability {
        Durability::Replicated { .. } => "replicated",
        Durability::Always | Durability::Relaxed => appendfsync,
    };
    print(label, &costs, load);
    println!("queued, bytes a recipient                  {:6.1}  (payload {:.1})", queued / all, payload_bytes / all);
    println!("settled, bytes a recipient                 {:6.1}", (server.used_bytes() - empty) / all);
    println!("append-only file, bytes a recipient        {:6.1}", server.process.info_number("aof_current_size") / all);
    costs
}

fn print(appendfsync: &str, costs: &[Cost], load: Load) {
    let Load { batches, in_a_call, .. } = load;
    let script = &costs[1];
    let head = format!("appendfsync {appendfsync}");
    println!("\n{head:42}      calls/s   of script  in call   server cpu  of script  instructions");
    for cost in costs {
        println!(
            "{:42} {:12.0} {:9.1} % {:6.1} us {:9.1} us {:9.1}x {:>13}",
            cost.name,
            cost.per_second(),
            cost.per_second() / script.per_second() * 100.0,
            cost.command_us,
            cost.cpu_us,
            cost.cpu_us / script.cpu_us,
            cost.instructions.map_or_else(|| "no perf".to_owned(), |number| format!("{number:.0}"))
        );
    }
    let each = costs[3..].iter().filter_map(|cost| Some((cost.name, cost.instructions? / in_a_call as f64)));
    each.for_each(|(name, number)| println!("{name:42} instructions for each lease {number:9.0}"));
    let cpu_us: f64 = costs[3..].iter().map(|cost| cost.cpu_us * cost.calls).sum();
    let recipients = (batches * COUNT as usize) as f64;
    let share = cpu_us / recipients * PACE_RECIPIENTS_PER_SECOND / 1e6;
    println!("claim, checkpoints, finish: {:.2} us a recipient;", cpu_us / recipients);
    println!("at {PACE_RECIPIENTS_PER_SECOND} recipients a second {:.1} % of one core", share * 100.0);
}

/// Queues the batches. Bytes of all payloads.
async fn add(server: &mut Server, store: &dyn Store, batches: usize, costs: &mut Vec<Cost>) -> f64 {
    let all = batches_of(&people::recipients(batches * COUNT as usize, 1));
    let bytes: usize = all.iter().map(|batch| batch.payload.len()).sum();
    let phase = server.begin("add_batches of 20 (one caller)", "fcall");
    calls::queue(store, new_run("measured"), &all).await;
    costs.push(server.end(phase));
    bytes as f64
}

/// Claims all batches, so many in each call.
pub async fn claim_all(store: &dyn Store, batches: usize, callers: usize, in_a_call: usize) -> Vec<Held> {
    let limits = Limits::default();
    let claims = stream::iter(0..batches.div_ceil(in_a_call));
    let claims = claims.map(|_| calls::claim(store, in_a_call as u32, &limits)).buffer_unordered(callers);
    claims.collect::<Vec<_>>().await.into_iter().flatten().collect()
}

/// Window by window; the calls of one batch follow each other, those of several batches are under way at once.
pub async fn checkpoint_all(store: &dyn Store, held: &[Held], callers: usize, in_a_call: usize) {
    let some_batches = |held: &[Held]| {
        let held = held.to_vec();
        async move {
            for step in 0..COUNT / WINDOW {
                let reports = held.iter().map(|held| calls::step_report(held, step)).collect();
                let answers = calls::checkpoint(store, reports).await;
                assert!(answers.iter().all(|answer| answer.granted.len() == WINDOW as usize), "{answers:?}");
            }
        }
    };
    stream::iter(held.chunks(in_a_call)).map(some_batches).buffer_unordered(callers).collect::<Vec<()>>().await;
}

pub async fn finish_all(store: &dyn Store, held: &[Held], callers: usize, in_a_call: usize) {
    let some_batches = |held: &[Held]| {
        let held = held.to_vec();
        async move {
            let answers = calls::finish(store, &held).await;
            assert!(answers.iter().all(|answer| answer.status == LeaseStatus::Settled), "{answers:?}");
        }
    };
    stream::iter(held.chunks(in_a_call)).map(some_batches).buffer_unordered(callers).collect::<Vec<()>>().await;
}
