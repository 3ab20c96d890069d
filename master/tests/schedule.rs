//! Schedule arithmetic against an oracle that walks minute by minute, and a table of known changes of clocks.
//!
//! `POSTRIDER_SCHEDULE_DRAWS=N` tries N patterns at each change of each zone (CI: at every so many changes).

#![expect(clippy::unwrap_used, reason = "a table that cannot be read has failed")]

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use postrider_master::schedule::{CatchUp, Note, OnGap, OnOverlap, Pattern, Timetable, What, Zones, due};
use std::collections::{BTreeMap, BTreeSet};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const DAY: SignedDuration = SignedDuration::from_hours(24);

fn timetable(cron: &str, zone: TimeZone, on_gap: OnGap, on_overlap: OnOverlap) -> Timetable {
    let what = What::Pattern(Pattern::parse(cron).unwrap());
    Timetable { what, zone, on_gap, on_overlap, starts_at: None, ends_at: None }
}

/// A pattern whose meaning the oracle knows without reading it. None: every value.
#[derive(Debug, Default)]
struct Drawn {
    minutes: Option<Vec<i8>>,
    minute_step: i8,
    hours: Option<Vec<i8>>,
    hour_step: i8,
    day: Option<i8>,
    weekdays: Option<(i8, i8)>,
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    fn some(&mut self, count: u64, end: u64) -> Vec<i8> {
        (0..count).map(|_| self.below(end) as i8).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

impl Drawn {
    fn draw(random: &mut Random) -> Self {
        let mut drawn = Self { minute_step: 1, hour_step: 1, ..Self::default() };
        match random.below(6) {
            0 => drawn.minute_step = [1, 7, 15, 30][random.below(4) as usize],
            1 => drawn.minutes = Some(random.some(3, 60)),
            _ => drawn.minutes = Some(random.some(1, 60)),
        }
        // The hours in which clocks change, more often than others.
        match random.below(6) {
            0 => drawn.hour_step = [1, 2, 5][random.below(3) as usize],
            1 => drawn.hours = Some(random.some(3, 24)),
            2 => drawn.hours = Some(random.some(1, 24)),
            _ => drawn.hours = Some(random.some(1, 4)),
        }
        if random.below(5) == 0 {
            drawn.day = Some(1 + random.below(28) as i8);
        }
        if random.below(4) == 0 {
            let first = random.below(6) as i8;
            drawn.weekdays = Some((first, first + random.below(6 - first as u64 + 1) as i8));
        }
        drawn
    }

    fn text(&self) -> String {
        let list = |values: &Option<Vec<i8>>, step: i8| match values {
            Some(values) => values.iter().map(i8::to_string).collect::<Vec<_>>().join(","),
            None if step > 1 => format!("*/{step}"),
            None => "*".to_owned(),
        };
        let day = self.day.map_or("*".to_owned(), |day| day.to_string());
        let weekdays = self.weekdays.map_or("*".to_owned(), |(first, last)| format!("{first}-{last}"));
        format!("{} {} {day} * {weekdays}", list(&self.minutes, self.minute_step), list(&self.hours, self.hour_step))
    }

    fn is_interval(&self) -> bool {
        self.minutes.is_none() || self.hours.is_none()
    }

    fn matches(&self, at: DateTime) -> bool {
        let one = |values: &Option<Vec<i8>>, step: i8, value: i8| match values {
            Some(values) => values.contains(&value),
            None => value % step == 0,
        };
        let weekday = at.weekday().to_sunday_zero_offset();
        let by_weekday = self.weekdays.is_some_and(|(first, last)| (first..=last).contains(&weekday));
        let by_day = self.day == Some(at.day());
        let day = match (self.day, self.weekdays) {
            (None, None) => true,
            (Some(_), None) => by_day,
            (None, Some(_)) => by_weekday,
            (Some(_), Some(_)) => by_day || by_weekday,
        };
        one(&self.minutes, self.minute_step, at.minute()) && one(&self.hours, self.hour_step, at.hour()) && day
    }

    /// Every instant within a day around `middle` at which it is due, by walking through all minutes of four days.
    fn walked(&self, zone: &TimeZone, middle: Timestamp, on_gap: OnGap, on_overlap: OnOverlap) -> Vec<Timestamp> {
        let (begin, end) = (middle - DAY * 2, middle + DAY * 2);
        let minutes: Vec<(Timestamp, DateTime)> = std::iter::successors(Some(begin), |at| Some(*at + MINUTE))
            .take_while(|at| *at <= end)
            .map(|at| (at, zone.to_datetime(at)))
            .collect();
        let mut found = BTreeSet::new();
        if self.is_interval() {
            found.extend(minutes.iter().filter(|(_, clock)| self.matches(*clock)).map(|(at, _)| *at));
        } else {
            let mut by_clock: BTreeMap<DateTime, Vec<Timestamp>> = BTreeMap::new();
            for (at, clock) in &minutes {
                by_clock.entry(*clock).or_default().push(*at);
            }
            let last = *by_clock.keys().next_back().unwrap();
            let mut clock = *by_clock.keys().next().unwrap();
            while clock <= last {
                if self.matches(clock) {
                    match (by_clock.get(&clock), on_overlap, on_gap) {
                        (Some(instants), OnOverlap::Once, _) => found.extend(instants.first()),
                        (Some(instants), OnOverlap::Twice, _) => found.extend(instants),
                        (None, _, OnGap::RunAfter) => {
                            let jump = minutes.windows(2).find(|pair| pair[0].1 < clock && pair[1].1 > clock);
                            found.extend(jump.map(|pair| pair[1].0));
                        }
                        (None, _, OnGap::Skip) => (),
                    }
                }
                clock = clock.saturating_add(MINUTE);
            }
        }
        found.into_iter().filter(|at| *at > middle - DAY && *at <= middle + DAY).collect()
    }
}

fn compare(name: &str, zone: &TimeZone, middle: Timestamp, random: &mut Random) -> usize {
    let drawn = Drawn::draw(random);
    let on_gap = [OnGap::RunAfter, OnGap::Skip][random.below(2) as usize];
    let on_overlap = [OnOverlap::Once, OnOverlap::Twice][random.below(2) as usize];
    let expected = drawn.walked(zone, middle, on_gap, on_overlap);
    let table = timetable(&drawn.text(), zone.clone(), on_gap, on_overlap);
    let mut found = Vec::new();
    let mut at = middle - DAY;
    while let Some(next) = table.after(at) {
        if next.at > middle + DAY {
            break;
        }
        found.push(next.at);
        at = next.at;
    }
    assert_eq!(found, expected, "{name} '{}' {on_gap:?} {on_overlap:?} around {middle}", drawn.text());
    found.len()
}

/// Where the clock of a zone changes in thirty years, by whole minutes.
fn changes(zone: &TimeZone) -> Vec<Timestamp> {
    let (begin, end): (Timestamp, Timestamp) =
        ("2005-01-01T00:00Z".parse().unwrap(), "2035-01-01T00:00Z".parse().unwrap());
    let changes = zone.following(begin).map(|change| (change.timestamp(), change.offset().seconds()));
    changes.take_while(|(at, _)| *at < end).filter(|(_, offset)| offset % 60 == 0).map(|(at, _)| at).collect()
}

#[test]
fn every_zone_agrees_with_a_walk_through_its_minutes() {
    let all: Option<u64> = std::env::var("POSTRIDER_SCHEDULE_DRAWS").ok().map(|draws| draws.parse().unwrap());
    let zones = Zones::bundled();
    let mut random = Random(20_261_122);
    let (mut places, mut occurrences) = (0, 0);
    for name in zones.names() {
        let zone = zones.get(&name).unwrap();
        let changes = changes(&zone);
        for (number, at) in changes.iter().enumerate() {
            // In CI one change of each zone, another one each; the walk is slow by intent.
            let chosen = all.is_some() || number == places % changes.len();
            for _ in 0..if chosen { all.unwrap_or(1) } else { 0 } {
                occurrences += compare(&name, &zone, *at, &mut random);
            }
        }
        places += 1;
        let anywhere = Timestamp::from_second(1_104_537_600 + random.below(946_000_000) as i64 / 60 * 60).unwrap();
        occurrences += compare(&name, &zone, anywhere, &mut random);
    }
    println!("{places} zones, {occurrences} occurrences compared");
    assert!(places > 400 && occurrences > 1000);
}

type Case = (&'static str, &'static str, &'static str, &'static [(&'static str, Note)]);

/// Zone, pattern, from, then each occurrence with its note: what people ask about when clocks change.
const CASES: &[Case] = &[
    (
        "Europe/Berlin",
        "30 2 * * *",
        "2026-03-28T00:00Z",
        &[
            ("2026-03-28T01:30:00Z", Note::Plain),
            ("2026-03-29T01:00:00Z", Note::AfterGap),
            ("2026-03-30T00:30:00Z", Note::Plain),
        ],
    ),
    (
        "Europe/Berlin",
        "30 2 * * *",
        "2026-10-24T00:00Z",
        &[
            ("2026-10-24T00:30:00Z", Note::Plain),
            ("2026-10-25T00:30:00Z", Note::First),
            ("2026-10-26T01:30:00Z", Note::Plain),
        ],
    ),
    (
        "America/New_York",
        "30 2 * * *",
        "2026-03-08T00:00Z",
        &[("2026-03-08T07:00:00Z", Note::AfterGap), ("2026-03-09T06:30:00Z", Note::Plain)],
    ),
    (
        "America/New_York",
        "30 1 * * *",
        "2026-11-01T00:00Z",
        &[("2026-11-01T05:30:00Z", Note::First), ("2026-11-02T06:30:00Z", Note::Plain)],
    ),
    (
        "America/New_York",
        "0 * * * *",
        "2026-11-01T04:30Z",
        &[
            ("2026-11-01T05:00:00Z", Note::First),
            ("2026-11-01T06:00:00Z", Note::Second),
            ("2026-11-01T07:00:00Z", Note::Plain),
        ],
    ),
    // Half an hour forward at 02:00, and back.
    (
        "Australia/Lord_Howe",
        "15 2 * * *",
        "2026-10-03T12:00Z",
        &[("2026-10-03T15:30:00Z", Note::AfterGap), ("2026-10-04T15:15:00Z", Note::Plain)],
    ),
    (
        "Australia/Lord_Howe",
        "45 1 * * *",
        "2026-04-04T12:00Z",
        &[("2026-04-04T14:45:00Z", Note::First), ("2026-04-05T15:15:00Z", Note::Plain)],
    ),
    // Standard time since September 2026: no more change around Ramadan.
    ("Africa/Casablanca", "0 8 * * *", "2026-12-01T00:00Z", &[("2026-12-01T08:00:00Z", Note::Plain)]),
    // Daylight time for good since 2026: eight o'clock stays where it was in summer.
    (
        "America/Vancouver",
        "0 8 * * *",
        "2026-10-31T00:00Z",
        &[
            ("2026-10-31T15:00:00Z", Note::Plain),
            ("2026-11-01T15:00:00Z", Note::Plain),
            ("2026-11-02T15:00:00Z", Note::Plain),
        ],
    ),
    ("Asia/Kathmandu", "0 8 * * *", "2026-11-22T00:00Z", &[("2026-11-22T02:15:00Z", Note::Plain)]),
    // A whole day that was left out.
    (
        "Pacific/Apia",
        "0 8 * * *",
        "2011-12-29T00:00Z",
        &[
            ("2011-12-29T18:00:00Z", Note::Plain),
            ("2011-12-30T10:00:00Z", Note::AfterGap),
            ("2011-12-30T18:00:00Z", Note::Plain),
        ],
    ),
];

#[test]
fn known_gaps_and_overlaps() {
    let zones = Zones::bundled();
    for (zone, cron, from, expected) in CASES {
        let table = timetable(cron, zones.get(zone).unwrap(), OnGap::default(), OnOverlap::default());
        let mut at: Timestamp = from.parse().unwrap();
        for (wanted, note) in *expected {
            let next = table.after(at).unwrap();
            assert_eq!((next.at.to_string().as_str(), next.note), (*wanted, *note), "{zone} '{cron}' after {at}");
            at = next.at;
        }
    }
}

#[test]
fn one_wall_clock_time_is_due_once() {
    let zones = Zones::bundled();
    let cases = [
        ("Europe/Berlin", "2026-12-24T18:00", Some("2026-12-24T17:00:00Z")),
        ("Europe/Berlin", "2026-03-29T02:30", Some("2026-03-29T01:00:00Z")),
        ("Europe/Berlin", "2026-10-25T02:30", Some("2026-10-25T00:30:00Z")),
        ("Europe/Berlin", "2025-12-24T18:00", None),
    ];
    for (zone, at, expected) in cases {
        let what = What::At(at.parse().unwrap());
        let zone = zones.get(zone).unwrap();
        let (on_gap, on_overlap) = (OnGap::RunAfter, OnOverlap::Once);
        let table = Timetable { what, zone, on_gap, on_overlap, starts_at: None, ends_at: None };
        let found = table.after("2026-01-01T00:00Z".parse().unwrap());
        assert_eq!(found.map(|found| found.at.to_string()).as_deref(), expected, "{at}");
        assert!(found.is_none_or(|found| table.after(found.at).is_none()), "{at}");
    }
}

#[test]
fn nothing_is_due_outside_start_and_end() {
    let zone = Zones::bundled().get("UTC").unwrap();
    let mut table = timetable("0 8 * * *", zone, OnGap::default(), OnOverlap::default());
    table.starts_at = Some("2026-11-03T08:00Z".parse().unwrap());
    table.ends_at = Some("2026-11-04T08:00Z".parse().unwrap());
    let first = table.after("2026-10-01T00:00Z".parse().unwrap()).unwrap();
    assert_eq!(first.at.to_string(), "2026-11-03T08:00:00Z");
    let second = table.after(first.at).unwrap();
    assert_eq!(second.at.to_string(), "2026-11-04T08:00:00Z");
    assert_eq!(table.after(second.at), None);
}

#[test]
fn what_was_missed_follows_catch_up() {
    let table = timetable("0 8 * * *", Zones::bundled().get("UTC").unwrap(), OnGap::default(), OnOverlap::default());
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let (since, now) = (at("2026-11-10T08:00Z"), at("2026-11-15T09:00Z"));
    let on_time = SignedDuration::from_mins(5);
    let decide = |now, catch_up, deadline| {
        let decided = due(&table, since, now, catch_up, deadline, on_time);
        assert_eq!(decided.decided_until, now);
        assert!(decided.next.unwrap().at > now);
        (decided.start.iter().map(|found| zone_day(found.at)).collect::<Vec<_>>(), decided.missed)
    };
    let hours = |hours| Some(SignedDuration::from_hours(hours));
    assert_eq!(decide(now, CatchUp::Latest, None), (vec![15], 4));
    assert_eq!(decide(now, CatchUp::None, None), (vec![], 5));
    assert_eq!(decide(at("2026-11-15T08:04Z"), CatchUp::None, None), (vec![15], 4));
    let all = |max, days: u64| CatchUp::All { max, window_ms: 86_400_000 * days };
    assert_eq!(decide(now, all(10, 30), None), (vec![11, 12, 13, 14, 15], 0));
    assert_eq!(decide(now, all(2, 30), None), (vec![14, 15], 3));
    assert_eq!(decide(now, all(10, 2), None), (vec![14, 15], 3));
    assert_eq!(decide(now, CatchUp::Latest, hours(2)), (vec![15], 4));
    assert_eq!(decide(at("2026-11-15T12:00Z"), CatchUp::Latest, hours(2)), (vec![], 5));
    assert_eq!(decide(at("2026-11-10T08:00Z"), CatchUp::Latest, None), (vec![], 0));
}

fn zone_day(at: Timestamp) -> i8 {
    TimeZone::UTC.to_datetime(at).day()
}

#[test]
fn a_year_of_missed_seconds_is_decided_at_once() {
    let zone = Zones::bundled().get("UTC").unwrap();
    let table = timetable("* * * * * *", zone, OnGap::default(), OnOverlap::default());
    let (since, now): (Timestamp, Timestamp) =
        ("2025-01-01T00:00Z".parse().unwrap(), "2026-01-01T00:00Z".parse().unwrap());
    let decided = due(&table, since, now, CatchUp::Latest, None, SignedDuration::from_secs(60));
    assert_eq!((decided.start.len(), decided.start[0].at), (1, now));
    assert_eq!(decided.missed, 1_000, "at least");
}
