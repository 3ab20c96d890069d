use super::*;
use proptest::prelude::*;

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;

fn window(from: &str, to: &str, days: &str, time_zone: &str) -> Window {
    Window { from: from.into(), to: to.into(), days: days.into(), time_zone: time_zone.into() }
}

fn hours(send: &[Window], quiet: &[Window]) -> Hours {
    let windows = Windows { send: send.to_vec(), quiet: quiet.to_vec(), clock: None };
    Hours::new(&windows, &Zones::bundled()).expect("good windows")
}

fn ms(text: &str) -> i64 {
    text.parse::<Timestamp>().expect("an instant").as_millisecond()
}

fn zone(name: &str) -> TimeZone {
    Zones::bundled().get(name).expect("a zone")
}

/// What a person would say who looks at the clock: the oracle.
fn shows_open(windows: &Windows, at_ms: i64, clocks: &[TimeZone]) -> bool {
    let at = Timestamp::from_millisecond(at_ms).expect("an instant");
    let names = ["MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"];
    let inside = |window: &Window, clock: &TimeZone| {
        let zone = if window.goes_by_recipient() { clock.clone() } else { zone(&window.time_zone) };
        let shown = at.to_zoned(zone);
        let minutes = |text: &str| -> i32 {
            text.get(0..2).expect("hours").parse::<i32>().expect("hours") * 60
                + text.get(3..5).expect("minutes").parse::<i32>().expect("minutes")
        };
        let has = |days_ago: i64| {
            let date = shown.date().checked_sub(SignedDuration::from_hours(24 * days_ago)).expect("a date");
            let name = names[usize::try_from(date.weekday().to_monday_zero_offset()).expect("a day")];
            window.days.is_empty() || window.days.split(',').any(|day| day == name)
        };
        if window.from.is_empty() {
            return has(0);
        }
        let (from, to) = (minutes(&window.from), minutes(&window.to));
        // Minutes since the midnight that the window's day began with.
        let time = i32::from(shown.hour()) * 60 + i32::from(shown.minute());
        let length = (to - from).rem_euclid(1440);
        (has(0) && (from..from + length).contains(&time)) || (has(1) && (from..from + length).contains(&(time + 1440)))
    };
    let open = |clock: &TimeZone| {
        (windows.send.is_empty() || windows.send.iter().any(|window| inside(window, clock)))
            && !windows.quiet.iter().any(|window| inside(window, clock))
    };
    if clocks.is_empty() { open(&TimeZone::UTC) } else { clocks.iter().all(open) }
}

#[test]
fn windows_open_and_close_by_the_clock_of_their_zone() {
    let working = hours(&[window("08:00", "20:00", "MON-FRI", "Europe/Berlin")], &[]);
    // A Friday in winter, the weekend after it, and the Monday.
    let rows = [
        ("2026-11-20T06:59:59.999Z", State::Closed { until_ms: ms("2026-11-20T07:00:00Z") }),
        ("2026-11-20T07:00:00Z", State::Open { until_ms: ms("2026-11-20T19:00:00Z") }),
        ("2026-11-20T18:59:59.999Z", State::Open { until_ms: ms("2026-11-20T19:00:00Z") }),
        ("2026-11-20T19:00:00Z", State::Closed { until_ms: ms("2026-11-23T07:00:00Z") }),
        ("2026-11-22T12:00:00Z", State::Closed { until_ms: ms("2026-11-23T07:00:00Z") }),
    ];
    for (at, state) in rows {
        assert_eq!(working.at(ms(at), &[]), state, "{at}");
    }
    let quiet = hours(&[], &[window("21:00", "08:00", "", "Asia/Kathmandu")]);
    assert_eq!(quiet.at(ms("2026-06-01T15:14:59Z"), &[]), State::Open { until_ms: ms("2026-06-01T15:15:00Z") });
    assert_eq!(quiet.at(ms("2026-06-01T15:15:00Z"), &[]), State::Closed { until_ms: ms("2026-06-02T02:15:00Z") });
    assert!(hours(&[], &[]).is_empty() && hours(&[], &[]).at(0, &[]).is_open());
}

#[test]
fn a_clock_that_is_changed_is_taken_as_it_shows() {
    let rows = [
        // What a clock skips is in no window: 02:15 to 02:45 does not come on that Sunday.
        (
            "Europe/Berlin",
            "02:15",
            "02:45",
            "2026-03-29T00:00:00Z",
            State::Closed { until_ms: ms("2026-03-30T00:15:00Z") },
        ),
        // One that begins in what is skipped begins after it, one that ends there ends there.
        (
            "Europe/Berlin",
            "02:30",
            "05:00",
            "2026-03-29T00:59:59Z",
            State::Closed { until_ms: ms("2026-03-29T01:00:00Z") },
        ),
        (
            "Europe/Berlin",
            "01:00",
            "02:30",
            "2026-03-29T00:30:00Z",
            State::Open { until_ms: ms("2026-03-29T01:00:00Z") },
        ),
        // What it shows twice comes twice.
        (
            "Europe/Berlin",
            "02:15",
            "02:45",
            "2026-10-25T00:45:00Z",
            State::Closed { until_ms: ms("2026-10-25T01:15:00Z") },
        ),
        (
            "Europe/Berlin",
            "01:00",
            "02:30",
            "2026-10-25T00:30:00Z",
            State::Closed { until_ms: ms("2026-10-25T01:00:00Z") },
        ),
        (
            "Europe/Berlin",
            "01:00",
            "02:30",
            "2026-10-25T01:00:00Z",
            State::Open { until_ms: ms("2026-10-25T01:30:00Z") },
        ),
        // Half an hour.
        (
            "Australia/Lord_Howe",
            "02:10",
            "02:20",
            "2026-10-03T15:00:00Z",
            State::Closed { until_ms: ms("2026-10-04T15:10:00Z") },
        ),
        // Over midnight and the change.
        (
            "America/New_York",
            "22:00",
            "02:30",
            "2026-11-01T03:00:00Z",
            State::Open { until_ms: ms("2026-11-01T07:30:00Z") },
        ),
    ];
    for (name, from, to, at, state) in rows {
        let hours = hours(&[window(from, to, "", name)], &[]);
        assert_eq!(hours.at(ms(at), &[]), state, "{name} {from} {to} at {at}");
    }
}

#[test]
fn recipients_have_their_own_hours_and_several_must_all_be_open() {
    let day = hours(&[window("09:00", "18:00", "", "recipient")], &[]);
    let (berlin, tokyo, lisbon) = (zone("Europe/Berlin"), zone("Asia/Tokyo"), zone("Europe/Lisbon"));
    let at = ms("2026-01-15T03:00:00Z");
    assert!(day.go_by_recipient());
    assert_eq!(day.at(at, std::slice::from_ref(&tokyo)), State::Open { until_ms: ms("2026-01-15T09:00:00Z") });
    assert_eq!(day.at(at, std::slice::from_ref(&berlin)), State::Closed { until_ms: ms("2026-01-15T08:00:00Z") });
    assert_eq!(day.opens(at, &[berlin.clone(), lisbon]), Some(ms("2026-01-15T09:00:00Z")));
    assert_eq!(day.opens(at, &[berlin.clone(), tokyo.clone()]), Some(ms("2026-01-15T08:00:00Z")), "one hour in common");
    assert_eq!(day.opens(at, &[tokyo, zone("Pacific/Honolulu"), berlin]), None, "never");
}

#[test]
fn what_never_opens_is_noticed() {
    let utc = TimeZone::UTC;
    let always = hours(&[window("08:00", "20:00", "", "Europe/Berlin")], &[]);
    assert!(always.ever_opens(&utc));
    for never in [
        hours(&[window("08:00", "20:00", "", "Europe/Berlin")], &[window("07:00", "21:00", "", "Europe/Berlin")]),
        hours(&[window("", "", "SAT,SUN", "UTC")], &[window("", "", "SAT-SUN", "UTC")]),
        hours(&[], &[window("", "", "", "UTC")]),
        hours(&[], &[window("08:00", "20:00", "", "UTC"), window("19:59", "08:00", "", "UTC")]),
    ] {
        assert!(!never.ever_opens(&utc));
        let state = never.at(ms("2026-01-01T00:00:00Z"), &[]);
        assert_eq!(state, State::Closed { until_ms: ms("2026-02-02T00:00:00Z") }, "to be looked at again");
    }
    let lane = hours(&[window("08:00", "12:00", "", "UTC")], &[]);
    let campaign = hours(&[window("14:00", "18:00", "", "UTC")], &[]);
    assert!(lane.ever_opens(&utc) && campaign.ever_opens(&utc) && !lane.and(&campaign).ever_opens(&utc));
}

#[test]
fn errors_name_the_key_and_the_mend() {
    let check = |send: &[Window], quiet: &[Window], field: &str, part: &str| {
        let windows = Windows { send: send.to_vec(), quiet: quiet.to_vec(), clock: None };
        let error = Hours::new(&windows, &Zones::bundled()).expect_err("refused");
        assert_eq!(error.field, field);
        assert!(error.why.contains(part), "{}", error.why);
    };
    let good = window("08:00", "20:00", "", "UTC");
    check(&[window("8", "20:00", "", "UTC")], &[], "send_window.from", "08:00");
    check(&[good.clone(), window("08:00", "20:00", "MO", "UTC")], &[], "send_window[1].days", "MON-FRI");
    check(
        &[],
        &[window("08:00", "20:00", "", "Europe/Berln")],
        "quiet_hours.time_zone",
        "the nearest is Europe/Berlin",
    );
    check(&[], &[window("08:00", "20:00", "", "")], "quiet_hours.time_zone", "recipient");
    check(&vec![good; WINDOWS_MAX + 1], &[], "send_window", "windows_max");
}

fn any_window() -> impl Strategy<Value = Window> {
    let time = || {
        (0_u32..24, proptest::sample::select(vec![0_u32, 1, 15, 30, 59]))
            .prop_map(|(hour, minute)| format!("{hour:02}:{minute:02}"))
    };
    let days = proptest::sample::select(vec!["", "SUN", "SAT,SUN", "MON,TUE,WED,THU,FRI", "WED"]);
    let zones = proptest::sample::select(vec![
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Africa/Casablanca",
        "Asia/Kathmandu",
        "recipient",
        "recipient",
    ]);
    (time(), time(), days, zones, 0_u8..8).prop_map(|(from, to, days, zone, whole)| match whole {
        0 => window("", "", days, zone),
        _ if from == to => window("", "", days, zone),
        _ => window(&from, &to, days, zone),
    })
}

/// Three days around a change of some clock, or around any instant.
fn any_instant() -> impl Strategy<Value = i64> {
    let changes = [
        "2026-03-29T01:00:00Z",
        "2026-10-25T01:00:00Z",
        "2026-03-08T07:00:00Z",
        "2026-11-01T06:00:00Z",
        "2026-10-03T15:30:00Z",
        "2026-04-04T15:00:00Z",
        "2026-02-15T02:00:00Z",
        "2026-03-22T02:00:00Z",
    ];
    let near =
        (proptest::sample::select(changes.to_vec()), -2 * DAY_MS..DAY_MS).prop_map(|(change, away)| ms(change) + away);
    prop_oneof![4 => near, 1 => 1_767_225_600_000_i64..1_830_000_000_000]
}

proptest! {
    /// Minute by minute, what is told is what the clocks show.
    #[test]
    fn what_is_told_is_what_the_clocks_show(
        send in proptest::collection::vec(any_window(), 0..3),
        quiet in proptest::collection::vec(any_window(), 0..3),
        clocks in proptest::collection::vec(proptest::sample::select(vec!["Europe/Berlin", "America/Vancouver", "Australia/Lord_Howe", "Asia/Tokyo", "Africa/Casablanca"]), 0..3),
        from in any_instant(),
    ) {
        let windows = Windows { send, quiet, clock: None };
        let hours = Hours::new(&windows, &Zones::bundled()).expect("good windows");
        let clocks: Vec<TimeZone> = clocks.into_iter().map(zone).collect();
        let state = hours.at(from, &clocks);
        let (is_open, until) = match state {
            State::Open { until_ms } => (true, until_ms),
            State::Closed { until_ms } => (false, until_ms),
        };
        prop_assert!(until > from, "{state:?}");
        prop_assert_eq!(shows_open(&windows, from, &clocks), is_open);
        // Every border of the table is on a whole minute.
        let mut minute = from.div_euclid(MINUTE_MS) * MINUTE_MS + MINUTE_MS;
        let last = until.min(from + 3 * DAY_MS);
        while minute < last {
            prop_assert_eq!(shows_open(&windows, minute, &clocks), is_open, "at {}, and until {}", minute, until);
            minute += MINUTE_MS;
        }
        if until < from + AHEAD.as_secs() * 1000 {
            prop_assert_eq!(shows_open(&windows, until, &clocks), !is_open, "at its end, {}", until);
            prop_assert_eq!(shows_open(&windows, until - 1, &clocks), is_open, "before its end, {}", until);
        }
        match hours.opens(from, &clocks) {
            Some(at) => prop_assert!(at >= from && shows_open(&windows, at, &clocks)),
            None => prop_assert!(!is_open),
        }
    }
}
