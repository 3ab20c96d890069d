//! A run that is sent to in waves, each by the clock of its recipients: nobody early, and nobody forgotten by a master that dies.

use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings, ledger, wait};
use std::collections::BTreeSet;
use std::time::Duration;

/// The wave that is waited for is so far ahead when the run is submitted.
const AHEAD_MS: i64 = 20_000;
const BOUND: Duration = Duration::from_secs(90);
const HOUR_MS: i64 = 3_600_000;
const EACH: usize = 330;

/// The zone in which it is about noon, so many hours further east: far from the midnight that would be another date.
/// (Names of the zones with fixed offsets have their sign the other way round.)
fn zone(now_ms: i64, east: i64) -> String {
    let hour = now_ms / HOUR_MS % 24;
    match 12 - hour + east {
        0 => "Etc/GMT".to_owned(),
        offset if offset > 0 => format!("Etc/GMT-{offset}"),
        offset => format!("Etc/GMT+{}", -offset),
    }
}

/// What the clock in the zone of noon shows then.
fn clock(now_ms: i64, at_ms: i64) -> String {
    let noon = 12 - now_ms / HOUR_MS % 24;
    let second = (at_ms / 1000 + noon * 3600).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

struct People {
    audience: Audience,
    /// By wave: at once, in a moment, in two hours.
    waves: [BTreeSet<String>; 3],
}

/// Of three zones in turn, so that a split that goes by the order of the file would have all of them at once.
fn people(now_ms: i64) -> People {
    let mut audience = Audience::with_header("email,name,city,coupon,tz");
    let mut waves = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
    // Where it has passed, here, and where it is still to come. Who has no zone is here as well.
    let zones =
        [[zone(now_ms, 1), zone(now_ms, 1)], [zone(now_ms, 0), String::new()], [zone(now_ms, -2), zone(now_ms, -2)]];
    for index in 0..EACH * 3 {
        let (wave, odd) = (index % 3, index / 3 % 2);
        let address = format!("w{wave}x{index}@s{}.example", index % 2);
        audience.add_row(&address, &format!("Person,Here,K1,{}", zones[wave][odd]));
        waves[wave].insert(address);
    }
    audience.add_bad_row("nowhere@s0.example,Person,Here,K1,Middle-earth/Shire");
    People { audience, waves }
}

fn copies(fleet: &Fleet, of: &BTreeSet<String>) -> Vec<ledger::Line> {
    fleet.ledger().into_iter().filter(|line| of.contains(&line.rcpt_to)).collect()
}

#[test]
fn each_zone_is_sent_to_at_its_own_time_while_masters_die() {
    let sites = vec!["s0".to_owned(), "s1".to_owned()];
    // Room for less than one wave, so that a later one does not wait in the store before the one that is next is over.
    let extra = "[master]\nsplit_ahead_batches = 2\n".to_owned();
    let mut fleet = Fleet::start(Settings { masters: 2, workers: 2, sites, extra, ..Settings::default() });
    let now_ms = wait::now_ms();
    let at_ms = (now_ms + AHEAD_MS) / 1000 * 1000;
    let people = people(now_ms);
    let campaign = Campaign {
        headers: format!(
            "send_at_local = {{ at = \"{}\", zone = \"tz\", default_zone = \"{}\", passed = \"at_once\" }}",
            clock(now_ms, at_ms),
            zone(now_ms, 0)
        ),
        ..Campaign::named("waves")
    };
    let run = fleet.launch(&campaign, &people.audience);
    let watcher = fleet.watch(&run);

    wait::until("those whose time has passed", BOUND, || {
        (copies(&fleet, &people.waves[0]).len() >= EACH).then_some(())
    });
    // Whoever splits waits for the wave by now, or is gone until shortly before it.
    fleet.kill_master(0);
    fleet.start_master(0);
    fleet.kill_master(1);
    fleet.start_master(1);
    wait::until("those whose time comes now", BOUND, || (copies(&fleet, &people.waves[1]).len() >= EACH).then_some(()));
    let early = copies(&fleet, &people.waves[1]).iter().map(|line| line.at_ms).min();
    assert!(early.is_some_and(|early| early >= at_ms), "sent at {early:?}, and due at {at_ms}");

    // The last wave is hours away: it waits in the store, and nothing of it is sent.
    let shown = wait::until("the last wave to wait", BOUND, || {
        let shown = fleet.client().show(&run);
        (shown.split_complete && shown.recipients.accepted == 2 * EACH as u64).then_some(shown)
    });
    assert_eq!(
        (shown.state.as_str(), shown.bad_rows, shown.recipients.pending),
        ("sending", 1, EACH as u64),
        "{shown:?}"
    );
    assert_eq!((shown.batches.delayed, shown.batches.ready, shown.batches.leased), (4, 0, 0), "{shown:?}");
    let told = fleet.client().ok(&["campaign", "show", "waves"]);
    assert!(told.contains("by column tz") && told.contains("passed at_once"), "{told}");
    assert_eq!(copies(&fleet, &people.waves[2]).len(), 0);
    fleet.client().ok(&["run", "cancel", &run]);
    let ended = fleet.wait_ended(&run, BOUND);
    let counts = (ended.recipients.accepted, ended.recipients.cancelled);
    assert_eq!((ended.state.as_str(), counts), ("cancelled", (2 * EACH as u64, EACH as u64)), "{ended:?}");

    let rules = Rules { all_accepted: false, unanswered_polls: true, ..Rules::CLEAN };
    fleet.judge("waves", &run, people.audience.addresses(), rules, &watcher.stop());
}
