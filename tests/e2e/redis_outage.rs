//! All of Redis is away for two lease lengths while workers are in mid-send. What the workers learnt
//! meanwhile is not thrown away: nothing is reclaimed before ttl + grace after service returned.

use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings, wait};
use std::time::{Duration, Instant};

#[test]
fn an_outage_longer_than_the_leases_loses_nothing() {
    let settings = Settings { sink_latency_ms: 100, lease_ttl_ms: 3_000, doubt_grace_ms: 2_000, ..Settings::default() };
    let hold = Duration::from_millis(settings.lease_ttl_ms + settings.doubt_grace_ms);
    let outage = Duration::from_millis(2 * settings.lease_ttl_ms);
    let mut fleet = Fleet::start(settings);
    let audience = Audience::of(4_000);
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    fleet.kill_redis_in_intent(true);
    wait::while_nothing("Redis is away", outage, || None);
    let back = Instant::now();
    fleet.redis.restart();
    let client = fleet.client();
    wait::while_nothing("no lease may expire before ttl + grace", hold.saturating_sub(back.elapsed()), || {
        let seen = client.try_show(&run)?;
        let expired = seen.leases_expired.expect("run show tells leases_expired");
        // The answer may be older than this instant, never newer.
        (expired > 0 && back.elapsed() < hold).then(|| format!("{expired} did after {:?}", back.elapsed()))
    });
    println!("SCENARIO redis_outage: away for {outage:?}, no lease expired within {hold:?} after it was back");
    let ended = fleet.wait_ended(&run, Duration::from_secs(120));
    assert_eq!(ended.state, "finished", "{ended:?}");
    // The whole fleet was cut off, so nobody's copies stand out; each must still be marked.
    let rules = Rules { excuses: false, unanswered_polls: true, ..Rules::FAULTS };
    fleet.judge("redis_outage", &run, audience.addresses(), rules, &watcher.stop());
}
