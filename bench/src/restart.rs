//! How long a server with work queued is away after its death: with the append-only file as it was written, and after
//! a rewrite in each of the forms that Redis can give it.

use crate::calls::{self, COUNT, batches_of};
use crate::people;
use crate::server::Server;
use postrider_common::pace::Limits;
use postrider_store::Durability;
use postrider_store::conformance::scene::new_run;
use std::time::{Duration, Instant};

/// Recipients of one run, so that the people of one at a time are in memory.
const RUN_RECIPIENTS: usize = 100_000;
const REWRITE_BOUND: Duration = Duration::from_secs(120);

/// Name, `aof-use-rdb-preamble`, `rdbcompression`.
const REWRITES: [(&str, &str, &str); 3] = [
    ("rewritten, RDB preamble (default settings)", "yes", "yes"),
    ("rewritten, RDB preamble, rdbcompression no", "yes", "no"),
    ("rewritten, aof-use-rdb-preamble no", "no", "yes"),
];

pub fn measure(recipients: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(restarts(recipients));
}

async fn restarts(recipients: usize) {
    let mut server = Server::start("everysec");
    let store = server.store(Durability::Relaxed).await;
    let mut left = recipients;
    let mut run = 0;
    while left > 0 {
        let count = left.min(RUN_RECIPIENTS);
        let batches = batches_of(&people::recipients(count, run));
        calls::queue(&*store, new_run(&format!("restart-{run}")), &batches).await;
        left -= count;
        run += 1;
    }
    drop(store);
    println!("{recipients} recipients queued in batches of {COUNT}");
    println!("{:46}    file MB   to answer   to claim", "");
    shown(&mut server, "as it was written").await;
    for (name, preamble, compression) in REWRITES {
        rewrite(&mut server, preamble, compression);
        shown(&mut server, name).await;
    }
}

async fn shown(server: &mut Server, name: &str) {
    let megabytes = server.process.info_number("aof_current_size") / (1024.0 * 1024.0);
    let answers = server.restart();
    let begun = Instant::now();
    let store = server.store(Durability::Relaxed).await;
    let held = calls::claim(&*store, 1, &Limits::default()).await;
    assert_eq!(held.len(), 1, "what was queued is there");
    let claims = answers + begun.elapsed();
    println!("{name:46} {megabytes:10.1} {:9.2} s {:8.2} s", answers.as_secs_f64(), claims.as_secs_f64());
}

fn rewrite(server: &mut Server, preamble: &str, compression: &str) {
    for (setting, value) in [("aof-use-rdb-preamble", preamble), ("rdbcompression", compression)] {
        let set = redis::cmd("CONFIG").arg("SET").arg(setting).arg(value).query::<()>(&mut server.connection);
        set.expect("CONFIG SET");
    }
    let before = server.process.info_number("aof_rewrites");
    redis::cmd("BGREWRITEAOF").query::<String>(&mut server.connection).expect("BGREWRITEAOF");
    postrider_tests::wait::until("the rewrite of the append-only file", REWRITE_BOUND, || {
        let rewritten = server.process.info_number("aof_rewrites") > before;
        (rewritten && server.process.info_number("aof_rewrite_in_progress") < 0.5).then_some(())
    });
}
