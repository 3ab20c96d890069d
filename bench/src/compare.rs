//! Claim and finish of batches beside one job per recipient, on servers of the same kind in the same run.
//!
//! The store of single jobs does what asynq does, by its own scripts (`enqueueCmd`, `dequeueCmd` and `doneCmd` of
//! `internal/rdb/rdb.go`, hibiken/asynq): a hash for each job, lists of pending and active ones, leases in a sorted set,
//! counts of those processed, today and ever. It is driven at least as well as asynq drives it: one job a call, as there,
//! but each of the callers takes jobs at the same time, where `processor.go` takes them one after the other in each
//! process. Left out is what asynq does beside these calls: the heartbeat that extends leases (`heartbeat.go`), and
//! decoding a job. It does less than ours: no fences, no intents, no counters of a run, no history.

use crate::calls::{self, COUNT, batches_of};
use crate::people;
use crate::server::{Cost, Server};
use crate::transitions::{checkpoint_all, claim_all, finish_all};
use futures::stream::{self, StreamExt};
use postrider_common::message::Recipient;
use postrider_store::Durability;
use postrider_store::conformance::scene::new_run;
use redis::Script;
use redis::aio::MultiplexedConnection;
use std::sync::atomic::{AtomicUsize, Ordering};

const ENQUEUE: &str = "
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'msg', ARGV[1], 'state', 'pending', 'pending_since', ARGV[3])
redis.call('LPUSH', KEYS[2], ARGV[2])
return 1";
const DEQUEUE: &str = "
if redis.call('EXISTS', KEYS[2]) == 1 then return nil end
local id = redis.call('RPOPLPUSH', KEYS[1], KEYS[3])
if not id then return nil end
local key = ARGV[2] .. id
redis.call('HSET', key, 'state', 'active')
redis.call('HDEL', key, 'pending_since')
redis.call('ZADD', KEYS[4], ARGV[1], id)
return { id, redis.call('HGET', key, 'msg') }";
const DONE: &str = "
if redis.call('LREM', KEYS[1], 0, ARGV[1]) == 0 then return redis.error_reply('NOT FOUND') end
if redis.call('ZREM', KEYS[2], ARGV[1]) == 0 then return redis.error_reply('NOT FOUND') end
if redis.call('DEL', KEYS[3]) == 0 then return redis.error_reply('NOT FOUND') end
local n = redis.call('INCR', KEYS[4])
if tonumber(n) == 1 then redis.call('EXPIREAT', KEYS[4], ARGV[2]) end
local total = redis.call('GET', KEYS[5])
if tonumber(total) == tonumber(ARGV[3]) then redis.call('SET', KEYS[5], 1) else redis.call('INCR', KEYS[5]) end
return redis.status_reply('OK')";
const LEASE_UNTIL: u64 = 4_000_000_000;
const PREFIX: &str = "asynq:{default}:";

/// A phase of both: how long it took, and the processor time of the server, for each recipient.
struct Spent {
    seconds: f64,
    cpu_us: f64,
}

impl Spent {
    fn of(costs: &[Cost], recipients: f64) -> Self {
        let seconds = costs.iter().map(|cost| cost.seconds).sum();
        let cpu_us = costs.iter().map(|cost| cost.cpu_us * cost.calls).sum::<f64>() / recipients;
        Self { seconds, cpu_us }
    }
}

pub fn measure(recipients: usize, jobs: usize, callers: usize, batches_per_call: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    println!("{recipients} recipients in batches of {COUNT}, {batches_per_call} leases in a call; {jobs} single jobs;");
    println!("{callers} calls under way, of the single jobs each on a connection of its own");
    for appendfsync in ["always", "everysec"] {
        runtime.block_on(one_setting(appendfsync, recipients, jobs, callers, batches_per_call));
    }
}

async fn one_setting(appendfsync: &str, recipients: usize, jobs: usize, callers: usize, batches_per_call: usize) {
    let (single_bytes, single) = single_jobs(appendfsync, jobs, callers).await;
    let (batch_bytes, costs) = batches(appendfsync, recipients, callers, batches_per_call).await;
    let all = recipients as f64;
    let single = Spent::of(&single, jobs as f64);
    let leased = Spent::of(&[costs[0].clone(), costs[2].clone()], all);
    let whole = Spent::of(&costs, all);
    let single_rate = jobs as f64 / single.seconds;
    println!("\nappendfsync {appendfsync:30} recipients/s     ratio   server cpu, us a recipient     ratio");
    let line = |name: &str, rate: f64, spent: &Spent| {
        println!(
            "{name:42} {rate:12.0} {:8.1}x {:28.2} {:8.1}x",
            rate / single_rate,
            spent.cpu_us,
            single.cpu_us / spent.cpu_us
        );
    };
    line("one job a recipient: dequeue, done", single_rate, &single);
    line("batches: claim, finish", all / leased.seconds, &leased);
    line("batches: claim, 10 checkpoints, finish", all / whole.seconds, &whole);
    println!(
        "queued, bytes a recipient: one job each {single_bytes:.0}, batches {batch_bytes:.1}, ratio {:.1}",
        single_bytes / batch_bytes
    );
}

/// Bytes of a queued recipient, and what claim, checkpoints and finish cost.
async fn batches(appendfsync: &str, recipients: usize, callers: usize, batches_per_call: usize) -> (f64, Vec<Cost>) {
    let mut server = Server::start(appendfsync);
    let durability = if appendfsync == "always" { Durability::Always } else { Durability::Relaxed };
    let store = server.store(durability).await;
    let all = batches_of(&people::recipients(recipients, 1));
    let empty = server.used_bytes();
    calls::queue(&*store, new_run("measured"), &all).await;
    let bytes = (server.used_bytes() - empty) / recipients as f64;
    let mut costs = Vec::new();
    let phase = server.begin("claim", "fcall");
    let held = claim_all(&*store, all.len(), callers, batches_per_call).await;
    costs.push(server.end(phase));
    assert_eq!(held.len(), all.len(), "each batch is leased once");
    let phase = server.begin("checkpoint", "fcall");
    checkpoint_all(&*store, &held, callers, 1).await;
    costs.push(server.end(phase));
    let phase = server.begin("finish", "fcall");
    finish_all(&*store, &held, callers, batches_per_call).await;
    costs.push(server.end(phase));
    (bytes, costs)
}

fn key(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// One job, as a JSON of what a handler needs to send one message.
fn job_text(id: &str, person: &Recipient) -> String {
    let payload = serde_json::json!({ "to": person.address.to_string(), "fields": person.fields });
    serde_json::json!({
        "type": "mail", "id": id, "queue": "default", "retry": 25, "timeout": 1800, "payload": payload,
    })
    .to_string()
}

/// Bytes of a queued job, and what dequeue and done cost.
async fn single_jobs(appendfsync: &str, jobs: usize, callers: usize) -> (f64, Vec<Cost>) {
    let mut server = Server::start(appendfsync);
    let client = redis::Client::open(server.process.url()).expect("the server's URL");
    let mut connections = Vec::new();
    for _ in 0..callers {
        connections.push(client.get_multiplexed_async_connection().await.expect("a connection"));
    }
    let people = people::recipients(jobs, 1);
    let empty = server.used_bytes();
    enqueue(&connections[0], &people, callers).await;
    let bytes = (server.used_bytes() - empty) / jobs as f64;
    let phase = server.begin("dequeue, done", "evalsha");
    let (dequeue, done) = (Script::new(DEQUEUE), Script::new(DONE));
    let left = AtomicUsize::new(jobs);
    let one = |connection: &MultiplexedConnection| {
        let mut connection = connection.clone();
        let (dequeue, done, left) = (&dequeue, &done, &left);
        async move {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                let mut call = dequeue.key(key("pending"));
                call.key(key("paused")).key(key("active")).key(key("lease")).arg(LEASE_UNTIL).arg(key("t:"));
                let (id, _): (String, Vec<u8>) = call.invoke_async(&mut connection).await.expect("a job");
                let mut call = done.key(key("active"));
                call.key(key("lease"))
                    .key(key(&format!("t:{id}")))
                    .key(key("processed:2026-01-01"))
                    .key(key("processed"));
                call.arg(&id).arg(LEASE_UNTIL).arg(i64::MAX);
                let () = call.invoke_async(&mut connection).await.expect("done");
            }
        }
    };
    futures::future::join_all(connections.iter().map(one)).await;
    let cost = server.end(phase);
    assert!(cost.calls as usize >= 2 * jobs, "each job is taken and done");
    (bytes, vec![cost])
}

async fn enqueue(connection: &MultiplexedConnection, people: &[Recipient], callers: usize) {
    let script = Script::new(ENQUEUE);
    let one = |(number, person): (usize, &Recipient)| {
        let mut connection = connection.clone();
        let id = format!("00000000-0000-4000-8000-{number:012x}");
        let text = job_text(&id, person);
        let script = &script;
        async move {
            let mut call = script.key(key(&format!("t:{id}")));
            call.key(key("pending")).arg(text).arg(&id).arg(LEASE_UNTIL);
            let added: u32 = call.invoke_async(&mut connection).await.expect("a job is added");
            assert_eq!(added, 1);
        }
    };
    stream::iter(people.iter().enumerate()).map(one).buffer_unordered(callers).collect::<Vec<()>>().await;
}
