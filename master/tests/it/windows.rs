//! Send windows and quiet hours, in the time of a store whose clock the test winds. The clock of the masters is another one.

use crate::harness::{SOON, Worker, World, campaign, outcome, report, stored};
use postrider_common::clock::{Clock, SystemClock};
use postrider_common::lane;
use postrider_common::payload;
use postrider_common::windows::{Window, Windows};
use postrider_master::MasterConfig;
use postrider_proto::v1;
use postrider_store::embedded::Embedded;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

/// A clock that goes on by itself and that the test sets.
#[derive(Debug)]
struct Wound {
    clock: SystemClock,
    off_ms: AtomicI64,
}

impl Clock for Wound {
    fn wall_ms(&self) -> i64 {
        self.clock.wall_ms() + self.off_ms.load(Ordering::SeqCst)
    }
    fn boot_ms(&self) -> u64 {
        self.clock.boot_ms()
    }
    fn random(&self) -> u64 {
        self.clock.random()
    }
}

impl Wound {
    fn set(&self, at: &str) {
        self.set_ms(ms(at));
    }

    fn set_ms(&self, at_ms: i64) {
        self.off_ms.store(at_ms - self.clock.wall_ms(), Ordering::SeqCst);
    }
}

fn ms(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

/// What is wound on while something is leased must not take the lease.
fn patient(config: &mut MasterConfig) {
    config.lease.ttl = Duration::from_mins(18);
}

async fn world(at: &str, change: impl FnOnce(&mut MasterConfig)) -> (World, Arc<Wound>) {
    let clock = Arc::new(Wound { clock: SystemClock::default(), off_ms: AtomicI64::new(0) });
    clock.set(at);
    let store = Arc::new(Embedded::in_memory(Arc::clone(&clock) as Arc<dyn Clock>));
    let change = |config: &mut MasterConfig| {
        patient(config);
        change(config);
    };
    (World::on(store, Arc::new(tempfile::tempdir().unwrap()), change).await, clock)
}

fn window(from: &str, to: &str, days: &str, time_zone: &str) -> v1::SendWindow {
    v1::SendWindow { from: from.into(), to: to.into(), days: days.into(), time_zone: time_zone.into() }
}

async fn digest(world: &World, csv: &str, windows: v1::SendWindows) -> v1::Campaign {
    let id = world.upload(csv, v1::AudienceFormat::Csv).await;
    let mut digest = campaign("digest", Some(stored(&id, v1::AudienceFormat::Csv)));
    digest.message.as_mut().unwrap().windows = Some(windows);
    digest
}

/// All of one site.
fn csv(count: usize) -> String {
    let rows: String = (0..count).map(|n| format!("user{n}@example.com,Name {n}\n")).collect();
    format!("email,name\n{rows}")
}

fn sent(send: v1::SendWindow) -> v1::SendWindows {
    v1::SendWindows { send: vec![send], ..Default::default() }
}

/// Leases until there is something.
async fn lease(worker: &mut Worker, batches_max: u32) -> Vec<v1::Lease> {
    let deadline = Instant::now() + SOON;
    loop {
        let leases = worker.lease(batches_max, 50).await.leases;
        if !leases.is_empty() {
            return leases;
        }
        assert!(Instant::now() < deadline, "nothing is leased in time");
    }
}

fn paused(answer: &v1::LeaseAnswer) -> usize {
    let reasons = answer.refused.iter().map(v1::RefusedIntent::reason);
    reasons.filter(|reason| *reason == v1::RefusalReason::Paused).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_closes_while_a_run_is_sent_and_opens_again() {
    // Friday evening.
    let (world, clock) = world("2026-11-20T18:50:00Z", |_| {}).await;
    let hours = sent(window("08:00", "20:00", "MON-FRI", "Europe/Berlin"));
    world.apply(digest(&world, &csv(250), hours).await).await;
    let run = world.run("digest", "").await;
    let shown = world.until(&run, "split", |run| run.split_complete).await;
    assert_eq!((shown.held_until_ms, shown.recipients.unwrap().total), (0, 250));
    let mut worker = Worker::new(&world, "w");
    let held = lease(&mut worker, 1).await.remove(0);
    let answer = worker.checkpoint(report(&held, 1, Vec::new(), vec![0, 1])).await;
    assert_eq!(answer.granted, [0, 1]);

    // It closes with two in flight: these end, and nobody else is begun, by this lease or another.
    clock.set("2026-11-20T19:00:00Z");
    let done = vec![outcome(0, v1::OutcomeKind::Accepted), outcome(1, v1::OutcomeKind::Deferred)];
    let answer = worker.checkpoint(report(&held, 2, done, vec![2, 3, 4])).await;
    assert_eq!((answer.status(), answer.granted.len(), paused(&answer)), (v1::LeaseStatus::Held, 0, 3));
    // Another master knows nothing of the lease but what the store tells it.
    let other = world.again_with(patient).await;
    let mut there = Worker { client: other.dispatch(), ..worker };
    let answer = there.checkpoint(report(&held, 3, Vec::new(), vec![2])).await;
    assert_eq!((answer.granted.len(), paused(&answer)), (0, 1));
    world.master.stop().await;
    let release = v1::ReleaseRequest {
        worker: Some(there.id.clone()),
        leases: vec![report(&held, 4, Vec::new(), Vec::new())],
        ..Default::default()
    };
    there.client.release(release).await.unwrap();
    let mut looks = 0;
    let deadline = Instant::now() + SOON;
    while other.show(&run).await.batches.unwrap().delayed < 3 {
        looks += 1;
        assert!(there.lease(2, 10).await.leases.is_empty(), "at {looks}");
        assert!(Instant::now() < deadline, "not all batches are held in time");
    }
    let shown = other.show(&run).await;
    assert_eq!(shown.held_until_ms, ms("2026-11-23T07:00:00Z"), "until Monday");
    assert_eq!((shown.recipients.unwrap().accepted, shown.leases_expired), (1, 0));

    // The retry was due on Friday evening, and nothing goes out at the weekend.
    clock.set("2026-11-22T12:00:00Z");
    assert!(there.lease(16, 300).await.leases.is_empty());
    clock.set("2026-11-23T06:50:00Z");
    assert!(there.lease(16, 10).await.leases.is_empty());
    clock.set("2026-11-23T07:00:01Z");
    let mut delivered = there.deliver_run(&other, &run).await;
    assert_eq!(delivered.len(), 249);
    assert!(delivered.values().all(|times| *times == 1));
    delivered.clear();
    let shown = other.show(&run).await;
    assert_eq!((shown.recipients.unwrap().accepted, shown.held_until_ms), (250, 0));
    for recipient in other.recipients(&run, &[]).await {
        let attempts = if recipient.key == "user1@example.com" { 2 } else { 1 };
        assert_eq!(recipient.attempts, attempts, "{}: to be held costs no attempt", recipient.key);
    }
    other.master.stop().await;
}

fn quiet_lane(windows: Windows) -> impl FnOnce(&mut MasterConfig) {
    move |config| {
        patient(config);
        let mut lanes = lane::defaults();
        lanes[1].windows = windows;
        config.lanes = lanes;
    }
}

fn quiet(from: &str, to: &str) -> Windows {
    let window = Window { from: from.into(), to: to.into(), days: String::new(), time_zone: "UTC".into() };
    Windows { quiet: vec![window], ..Windows::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hours_of_a_lane_are_edited_while_its_run_is_sent() {
    let (world, clock) = world("2026-11-20T22:00:00Z", quiet_lane(quiet("21:00", "08:00"))).await;
    world.apply(digest(&world, &csv(150), v1::SendWindows::default()).await).await;
    let run = world.run("digest", "").await;
    world.until(&run, "split", |run| run.split_complete).await;
    let mut worker = Worker::new(&world, "w");
    assert!(worker.lease(16, 300).await.leases.is_empty());
    let shown = world.show(&run).await;
    assert_eq!((shown.held_until_ms, shown.batches.unwrap().ready), (ms("2026-11-21T08:00:00Z"), 2));
    // The other lane has none.
    let request = v1::SendMessageRequest {
        message: Some(crate::harness::message()),
        to: "ada@example.com".into(),
        fields_json: r#"{"name":"Ada"}"#.into(),
        idempotency_key: "reset".into(),
        ..Default::default()
    };
    world.messages().send_message(request).await.unwrap();
    let reset = lease(&mut worker, 1).await.remove(0);
    assert_eq!((reset.lane.as_str(), worker.deliver(&reset).await.len()), ("transactional", 1));

    // A master with other hours: what waits leaves at once.
    let open = world.again_with(quiet_lane(quiet("23:00", "08:00"))).await;
    world.master.stop().await;
    let mut worker = Worker::new(&open, "w");
    let held = lease(&mut worker, 1).await.remove(0);
    assert_eq!(worker.checkpoint(report(&held, 1, Vec::new(), vec![0])).await.granted, [0]);
    // And with hours that are closed: the lease that is out gets nobody any more.
    let closed = open.again_with(quiet_lane(quiet("20:00", "09:00"))).await;
    open.master.stop().await;
    let mut worker = Worker { client: closed.dispatch(), ..worker };
    let report_done = report(&held, 2, vec![outcome(0, v1::OutcomeKind::Accepted)], vec![1]);
    let answer = worker.checkpoint(report_done).await;
    assert_eq!((answer.granted.len(), paused(&answer)), (0, 1));
    worker.finish(report(&held, 3, Vec::new(), Vec::new())).await;
    assert!(worker.lease(16, 300).await.leases.is_empty());
    clock.set("2026-11-21T09:00:01Z");
    assert_eq!(worker.deliver_run(&closed, &run).await.len(), 149);
    closed.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_recipient_is_sent_to_within_the_hours_of_the_own_clock() {
    let (world, clock) = world("2026-11-20T00:10:00Z", |_| {}).await;
    let zones = [("Asia/Tokyo", 9), ("Europe/Berlin", 1), ("Europe/Paris", 1), ("Pacific/Honolulu", -10), ("", -5)];
    let mut people = String::from("email,name,time_zone\n");
    for n in 0..60 {
        people.push_str(&format!("user{n}@example.com,Name {n},{}\n", zones[n % zones.len()].0));
    }
    let clock_of = v1::RecipientClock { default_zone: "America/Lima".into(), ..Default::default() };
    let windows = v1::SendWindows {
        send: vec![window("09:00", "18:00", "", "recipient")],
        quiet: vec![window("12:00", "13:00", "", "recipient")],
        clock: Some(clock_of),
    };
    world.apply(digest(&world, &people, windows).await).await;
    let run = world.run("digest", "").await;
    let shown = world.until(&run, "split", |run| run.split_complete).await;
    assert_eq!(
        shown.batches.unwrap(),
        v1::BatchCounts { ready: 2, delayed: 2, ..Default::default() },
        "Tokyo and Honolulu are open; Berlin and Paris are together"
    );
    assert_eq!(shown.next_wave_at_ms, ms("2026-11-20T08:00:00Z"), "Berlin is next");
    let mut worker = Worker::new(&world, "w");
    let mut delivered: BTreeMap<String, i64> = BTreeMap::new();
    // Half an hour at a time. Somebody in each batch answers late, and is sent to a little later.
    let mut at = ms("2026-11-20T00:10:00Z");
    while world.show(&run).await.state() != v1::RunState::Finished {
        assert!(at < ms("2026-11-24T00:00:00Z"), "the run does not end: {:?}", world.show(&run).await);
        clock.set_ms(at);
        // One look makes what is due ready, gives back what is held, or leases: none of them is left for later.
        for _ in 0..4 {
            for lease in worker.lease(16, 1).await.leases {
                let people = payload::decode(&lease.payload).unwrap();
                let count = lease.recipients.len() as u32;
                let answer = worker.checkpoint(report(&lease, 1, Vec::new(), (0..count).collect())).await;
                let is_first = answer.granted.len() > 1;
                let mut outcomes = Vec::new();
                for index in answer.granted {
                    let kind =
                        if is_first && index == 0 { v1::OutcomeKind::Deferred } else { v1::OutcomeKind::Accepted };
                    outcomes.push(outcome(index, kind));
                    let person = &people[index as usize];
                    let zone = person.fields["time_zone"].as_str().unwrap();
                    let offset = zones.iter().find(|(name, _)| *name == zone).unwrap().1;
                    let shown = (at + offset * HOUR_MS).rem_euclid(24 * HOUR_MS) / HOUR_MS;
                    assert!((9..18).contains(&shown) && shown != 12, "{zone}: at {shown} o'clock");
                    delivered.insert(person.key.clone(), at);
                }
                worker.finish(report(&lease, 2, outcomes, Vec::new())).await;
            }
        }
        at += 30 * MINUTE_MS;
    }
    assert_eq!(delivered.len(), 60);
    let shown = world.show(&run).await;
    assert_eq!((shown.recipients.unwrap().accepted, shown.bad_rows, shown.next_wave_at_ms), (60, 0, 0));
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_that_never_open_are_refused() {
    let (world, _) = world("2026-11-20T00:10:00Z", quiet_lane(quiet("21:00", "08:00"))).await;
    let apply = async |windows: v1::SendWindows| {
        let campaign = Some(digest(&world, &csv(1), windows).await);
        let request = v1::ApplyCampaignRequest { campaign, idempotency_key: String::new() };
        world.campaigns().apply_campaign(request).await.expect_err("refused").message().to_owned()
    };
    let always = v1::SendWindows { quiet: vec![window("", "", "", "UTC")], ..Default::default() };
    for (windows, parts) in [
        (always, ["quiet_hours: ", "could never begin"]),
        (sent(window("22:00", "07:00", "", "UTC")), ["send_window: ", "the lane 'bulk'"]),
        (sent(window("8:00", "20:00", "", "UTC")), ["send_window.from: ", "08:00"]),
        (sent(window("08:00", "20:00", "MO-FR", "UTC")), ["send_window.days: ", "MON-FRI"]),
        (sent(window("08:00", "20:00", "", "recipient")), ["recipient_clock.default_zone: ", "missing"]),
    ] {
        let message = apply(windows).await;
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    world.master.stop().await;
}
