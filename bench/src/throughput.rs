//! Messages per second from submit to sink.

use crate::people;
use postrider_tests::{Campaign, Fleet, Settings, wait};
use std::time::{Duration, Instant};

/// Beyond this something hangs.
const RUN_BOUND: Duration = Duration::from_secs(1_800);

const LEDGER_BOUND: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Load {
    pub recipients: usize,
    pub masters: usize,
    pub workers: usize,
    pub connections: u32,
    pub latency_ms: u64,
}

pub fn measure(load: &Load) {
    let fleet = Fleet::start(Settings {
        masters: load.masters,
        workers: load.workers,
        connections: load.connections,
        sink_latency_ms: load.latency_ms,
        slots: 256,
        lease_ttl_ms: 60_000,
        ..Settings::default()
    });
    let audience = people::audience(load.recipients, 1);
    let mut campaign = Campaign::named("throughput");
    campaign.text = "Hello {{ name }},\nwe thought of you: {{ offer }}. {{ coupon }} {{ token }}\n".to_owned();
    let redis_before = redis_cpu_seconds(&fleet);
    let begun = Instant::now();
    let run = fleet.launch(&campaign, &audience);
    let ended = fleet.wait_ended(&run, RUN_BOUND);
    let took = begun.elapsed().as_secs_f64();
    let redis = redis_cpu_seconds(&fleet) - redis_before;
    assert_eq!(ended.state, "finished", "{ended:?}");
    // The sink writes its ledger a moment later.
    let ledger = wait::until("one message each in the ledger", LEDGER_BOUND, || {
        Some(fleet.ledger()).filter(|ledger| ledger.len() >= audience.len())
    });
    assert_eq!(ledger.len(), audience.len(), "one message each");
    let first = ledger.iter().map(|line| line.at_ms).min().unwrap_or_default();
    let last = ledger.iter().map(|line| line.at_ms).max().unwrap_or_default();
    let flowing = (last - first).max(1) as f64 / 1000.0;
    let count = audience.len() as f64;
    println!("recipients                        {}", audience.len());
    println!("masters, workers, connections     {}, {}, {}", load.masters, load.workers, load.connections);
    println!("submit to finished, s             {took:.2}");
    println!("messages per second, end to end   {:.0}", count / took);
    println!("first to last message, s          {flowing:.2}");
    println!("messages per second, flowing      {:.0}", count / flowing);
    println!("Redis CPU, share of one core      {:.1} %", redis / took * 100.0);
    println!("Redis CPU, us per recipient       {:.1}", redis / count * 1e6);
}

fn redis_cpu_seconds(fleet: &Fleet) -> f64 {
    fleet.redis.info_number("used_cpu_user_main_thread") + fleet.redis.info_number("used_cpu_sys_main_thread")
}
