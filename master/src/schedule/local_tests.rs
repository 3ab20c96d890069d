use super::*;
use std::collections::BTreeSet;

fn at(text: &str) -> i64 {
    text.parse::<Timestamp>().expect("an instant").as_millisecond()
}

fn rule(time: &str, passed: Passed) -> SendAtLocal {
    SendAtLocal { passed, ..SendAtLocal::new(time.parse().expect("a time")) }
}

/// When the mail leaves in a zone, of a run that is due then by the clock of Berlin.
fn leaves(time: &str, passed: Passed, nominal: &str, zone: &str) -> Option<String> {
    let zones = Zones::bundled();
    let times = LocalTimes::new(&rule(time, passed), "Europe/Berlin", at(nominal), &zones).expect("a good rule");
    let zone = zones.get(zone).expect("a zone");
    let instant = times.in_zone(&zone).map(|ms| Timestamp::from_millisecond(ms).expect("an instant"));
    instant.map(|at| at.display_with_offset(zone.to_offset(at)).to_string())
}

#[test]
fn each_zone_has_its_own_instant() {
    use Passed::{AtOnce, NextDay, Skip};
    for (zone, expected) in [
        // There it had passed by then.
        ("Pacific/Kiritimati", "2026-11-21T08:00:00+14:00"),
        ("Asia/Kathmandu", "2026-11-20T08:00:00+05:45"),
        ("Europe/Berlin", "2026-11-20T08:00:00+01:00"),
        ("America/New_York", "2026-11-20T08:00:00-05:00"),
        ("Pacific/Pago_Pago", "2026-11-20T08:00:00-11:00"),
    ] {
        assert_eq!(leaves("08:00", NextDay, "2026-11-20T00:00:00+01:00", zone).as_deref(), Some(expected));
    }
    let eight = "2026-11-20T08:00:00+01:00";
    for (passed, zone, expected) in [
        (NextDay, "Europe/Berlin", Some("2026-11-20T08:00:00+01:00")),
        (Skip, "Europe/Berlin", Some("2026-11-20T08:00:00+01:00")),
        (NextDay, "Europe/Helsinki", Some("2026-11-21T08:00:00+02:00")),
        (AtOnce, "Europe/Helsinki", Some("2026-11-20T09:00:00+02:00")),
        (Skip, "Europe/Helsinki", None),
        (AtOnce, "America/New_York", Some("2026-11-20T08:00:00-05:00")),
        (Skip, "America/New_York", Some("2026-11-20T08:00:00-05:00")),
    ] {
        assert_eq!(leaves("08:00", passed, eight, zone).as_deref(), expected, "{passed:?} {zone}");
    }
    // Where it is the day after tomorrow already.
    let late = leaves("08:00", NextDay, "2026-11-20T23:30:00+01:00", "Pacific/Kiritimati");
    assert_eq!(late.as_deref(), Some("2026-11-22T08:00:00+14:00"));
}

/// When the wall clock of a zone shows a time of a date.
fn on(date: &str, time: &str, zone: &TimeZone) -> Timestamp {
    let date: Date = date.parse().expect("a date");
    let clock = date.to_datetime(civil(time.parse().expect("a time")));
    first_instant(zone, clock).expect("there is one")
}

#[test]
fn after_a_gap_at_once_and_of_an_overlap_the_first_time() {
    for (zone, date, time, expected) in [
        ("Europe/Berlin", "2026-03-29", "02:30", "2026-03-29T03:00:00+02:00"),
        ("Europe/Berlin", "2026-10-25", "02:30", "2026-10-25T02:30:00+02:00"),
        ("Australia/Lord_Howe", "2026-10-04", "02:15", "2026-10-04T02:30:00+11:00"),
        ("Australia/Lord_Howe", "2026-04-05", "01:45", "2026-04-05T01:45:00+11:00"),
        ("America/Santiago", "2026-09-06", "00:30", "2026-09-06T01:00:00-03:00"),
        // A day that was left out.
        ("Pacific/Apia", "2011-12-30", "08:00", "2011-12-31T00:00:00+14:00"),
    ] {
        let zone_of = Zones::bundled().get(zone).expect("a zone");
        let at = on(date, time, &zone_of);
        assert_eq!(at.display_with_offset(zone_of.to_offset(at)).to_string(), expected, "{zone} {date} {time}");
    }
}

/// The first minute at which the wall clock shows the time or a later one, found by looking at each.
fn first_minute(zone: &TimeZone, clock: DateTime) -> Timestamp {
    let from = TimeZone::UTC.to_timestamp(clock).expect("an instant") - SignedDuration::from_hours(26);
    let minutes = (0..60 * 52).map(|minute| from + SignedDuration::from_mins(minute));
    let mut late = minutes.filter(|at| zone.to_offset(*at).to_datetime(*at) >= clock);
    late.next().expect("it comes within two days")
}

/// Around changes of all zones: some by default, all with `POSTRIDER_ZONES=all`.
#[test]
fn instants_are_those_of_the_wall_clock_around_every_change() {
    let is_all = std::env::var("POSTRIDER_ZONES").is_ok_and(|which| which == "all");
    let seed = std::env::var("POSTRIDER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    println!("POSTRIDER_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let zones = Zones::bundled();
    let (from, until) = if is_all { (2000, 2030) } else { (2025, 2027) };
    let (mut checked, mut places) = (0, 0);
    for name in zones.names() {
        if !is_all && random.u8(0..4) != 0 {
            continue;
        }
        places += 1;
        let zone = zones.get(&name).expect("a zone that is listed");
        let begin = jiff::civil::date(from, 1, 1).to_datetime(Time::midnight());
        let begin = TimeZone::UTC.to_timestamp(begin).expect("an instant");
        let changes = zone.following(begin).map(|change| change.timestamp());
        let changes = changes.take_while(|at| TimeZone::UTC.to_datetime(*at).year() < until);
        let dates: BTreeSet<Date> = changes
            .flat_map(|at| [-1, 0, 1].map(|days| zone.to_datetime(at).date() + jiff::Span::new().days(days)))
            .collect();
        for date in dates {
            let hour = random.i8(0..24);
            for time in [Time::constant(hour, random.i8(0..60), 0, 0), Time::constant(random.i8(0..4), 30, 0, 0)] {
                let clock = date.to_datetime(time);
                let found = first_instant(&zone, clock).expect("there is one");
                assert_eq!(found, first_minute(&zone, clock), "{name} {clock}");
                checked += 1;
            }
        }
    }
    println!("{places} zones, {checked} instants compared");
    assert!(checked > 500, "{checked} is not much");
}
