//! Schedules begin runs: each occurrence at most once, however many masters there are and whoever is killed.

use postrider_tests::{Audience, Campaign, Fleet, Settings, wait};
use serde_json::Value;
use std::time::Duration;

const BOUND: Duration = Duration::from_secs(90);
const EVERY_SECOND: &str = "cron = \"* * * * * *\", time_zone = \"UTC\"";

/// A campaign with two recipients and this schedule.
fn apply(fleet: &Fleet, name: &str, schedule: &str) {
    let file = Campaign::named(name).write(fleet.folder(), &Audience::of(2));
    let text = std::fs::read_to_string(&file).expect("the campaign file");
    std::fs::write(&file, format!("schedule = {{ {schedule} }}\n{text}")).expect("written");
    fleet.client().apply(&file);
}

fn json(text: &str) -> Value {
    serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("not JSON: {error}: {text}"))
}

/// What `campaign show` says of a schedule.
struct Schedule(Value);

impl Schedule {
    fn of(fleet: &Fleet, name: &str) -> Self {
        Self(json(&fleet.client().ok(&["--output", "json", "campaign", "show", name]))["schedule"].clone())
    }

    fn fired(&self) -> u64 {
        self.0["fired"].as_u64().unwrap_or_else(|| panic!("{}", self.0))
    }

    fn skipped(&self, why: &str) -> u64 {
        self.0["skipped"][why].as_u64().unwrap_or_else(|| panic!("{}", self.0))
    }

    fn decided(&self) -> u64 {
        self.fired() + self.skipped("missed") + self.skipped("overlap") + self.skipped("cannot_run")
    }
}

fn until_fired(fleet: &Fleet, name: &str, least: u64) {
    let what = format!("{least} runs of {name}");
    wait::until(&what, BOUND, || (Schedule::of(fleet, name).fired() >= least).then_some(()));
}

/// The runs of a campaign, the oldest first.
fn runs(fleet: &Fleet, name: &str) -> Vec<Value> {
    let list = fleet.client().ok(&["--output", "json", "run", "list", "--campaign", name, "--limit", "1000"]);
    let mut all: Vec<Value> = list.lines().map(json).collect();
    all.sort_by_key(|run| run["nominal_at"].to_string());
    all
}

/// `2026-11-22T08:00:05.000Z` as a second of its day.
fn second(run: &Value) -> u32 {
    let text = run["nominal_at"].as_str().unwrap_or_default();
    let clock = text.split_once('T').map_or("", |(_, clock)| clock);
    let parts: Vec<u32> = clock.trim_end_matches('Z').split([':', '.']).filter_map(|part| part.parse().ok()).collect();
    let [hours, minutes, seconds, 0] = parts[..] else { panic!("not on a second: {run}") };
    (hours * 60 + minutes) * 60 + seconds
}

/// How long after each run the next one was due. No second has two.
fn distances(fleet: &Fleet, name: &str) -> Vec<u32> {
    let runs = runs(fleet, name);
    let distances: Vec<u32> =
        runs.windows(2).map(|pair| (86_400 + second(&pair[1]) - second(&pair[0])) % 86_400).collect();
    assert!(!distances.contains(&0), "an occurrence of {name} has two runs: {runs:#?}");
    assert_eq!(Schedule::of(fleet, name).fired(), runs.len() as u64, "{name}");
    distances
}

#[test]
fn every_second_begins_a_run_once_while_masters_are_killed() {
    let mut fleet = Fleet::start(Settings { masters: 2, workers: 1, ..Settings::default() });
    for (name, catch_up) in [("all", "all"), ("latest", "latest"), ("none", "none")] {
        apply(&fleet, name, &format!("{EVERY_SECOND}, overlap = \"allow\", catch_up = \"{catch_up}\""));
    }
    for name in ["all", "latest", "none"] {
        until_fired(&fleet, name, 3);
    }
    fleet.kill_master(0);
    until_fired(&fleet, "all", 8);
    // Nobody is there for a while, and then both at the same time.
    fleet.kill_master(1);
    wait::while_nothing("nobody is there", Duration::from_secs(4), || None);
    fleet.start_master(0);
    fleet.start_master(1);
    let client = fleet.client();
    until_fired(&fleet, "all", 16);
    client.ok(&["campaign", "pause", "none"]);
    let paused = Schedule::of(&fleet, "none");
    wait::while_nothing("a paused campaign begins a run", Duration::from_secs(4), || {
        let now = Schedule::of(&fleet, "none");
        (now.fired() != paused.fired()).then(|| now.0.to_string())
    });
    client.ok(&["campaign", "resume", "none"]);
    until_fired(&fleet, "none", paused.fired() + 2);
    for name in ["all", "latest", "none"] {
        client.ok(&["campaign", "pause", name]);
    }

    let (all, latest, none) = (distances(&fleet, "all"), distances(&fleet, "latest"), distances(&fleet, "none"));
    assert!(all.iter().all(|distance| *distance == 1), "each was caught up with: {all:?}");
    assert_eq!(Schedule::of(&fleet, "all").skipped("missed"), 0);
    let sum = |distances: &[u32]| distances.iter().map(|distance| u64::from(distance - 1)).sum::<u64>();
    for (name, distances) in [("latest", &latest), ("none", &none)] {
        let missed = Schedule::of(&fleet, name).skipped("missed");
        assert!(missed >= 2 && missed >= sum(distances), "{name}: {missed}, {distances:?}");
    }
    assert!(none.iter().filter(|distance| **distance > 3).count() >= 2, "the outage and the pause: {none:?}");
    let mut count = 0;
    for run in ["all", "latest", "none"].into_iter().flat_map(|name| runs(&fleet, name)) {
        let ended = fleet.wait_ended(run["run"].as_str().expect("an id"), BOUND);
        assert_eq!((ended.state.as_str(), ended.recipients.accepted), ("finished", 2));
        count += 1;
    }
    fleet.wait_copies(2 * count, BOUND);
    let copies = fleet.ledger().iter().filter(|line| line.decision.is_a_copy()).count();
    assert_eq!(copies, 2 * count);
    println!("schedule_fires: runs={count} copies={copies} twice=0");
}

#[test]
fn a_run_that_is_still_going_is_met_by_policy() {
    // Nobody sends, so that no run ends.
    let fleet = Fleet::start(Settings { masters: 2, workers: 0, ..Settings::default() });
    for overlap in ["skip", "allow", "cancel_previous"] {
        let name = overlap.replace('_', "-");
        apply(&fleet, &name, &format!("{EVERY_SECOND}, overlap = \"{overlap}\""));
        wait::until("some occurrences", BOUND, || (Schedule::of(&fleet, &name).decided() >= 4).then_some(()));
        fleet.client().ok(&["campaign", "pause", &name]);
        let (schedule, runs) = (Schedule::of(&fleet, &name), runs(&fleet, &name));
        let cancelled = |run: &&Value| {
            let run = fleet.client().show(run["run"].as_str().expect("an id"));
            run.state == "cancelled" || run.recipients.cancelled > 0
        };
        match overlap {
            "skip" => {
                assert_eq!(runs.len(), 1, "{}", schedule.0);
                assert!(schedule.skipped("overlap") >= 3, "{}", schedule.0);
                assert_eq!(schedule.0["last_skipped"]["why"], runs[0]["run"]);
                let shown = fleet.client().ok(&["campaign", "show", &name]);
                assert!(shown.contains("passed over") && shown.contains("none while paused"), "{shown}");
            }
            "allow" => {
                assert!(runs.len() >= 3 && schedule.skipped("overlap") == 0, "{}", schedule.0);
                assert_eq!(runs.iter().filter(cancelled).count(), 0);
            }
            _ => {
                assert!(runs.len() >= 3 && schedule.skipped("overlap") == 0, "{}", schedule.0);
                let (last, before) = runs.split_last().expect("some");
                wait::until("those before are cancelled", BOUND, || {
                    before.iter().all(|run| cancelled(&run)).then_some(())
                });
                assert!(!cancelled(&last), "{last}");
            }
        }
    }
    let metrics = fleet.http(0, "/metrics").expect("it answers").1;
    for name in ["schedule_runs_fired_total", "schedule_occurrences_skipped_total", "schedule_lateness_seconds_count"] {
        assert!(metrics.contains(&format!("postrider_{name}")), "{name}: {metrics}");
    }
    assert!(metrics.contains("postrider_time_zone_database_info{version=\"20"), "{metrics}");
}
