//! When sending may begin, as one function of an instant: open until when, or closed until when. Pure.
//!
//! Whether it is open follows from what the wall clocks show at an instant and from nothing else: a time that a clock skips
//! is in no window, and one that it shows twice is in it twice.

use super::{UnknownZone, Zones};
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};
use postrider_common::LaneName;
use postrider_common::lane::Lane;
use postrider_common::local_time::TimeOfDay;
use postrider_common::windows::{Span, WINDOWS_MAX, Window, Windows};

use std::collections::BTreeMap;

/// How far is looked ahead. Windows come again each week, and a clock may skip one of a few weeks.
pub const AHEAD: SignedDuration = SignedDuration::from_hours(24 * 32);
/// Runs end before; of one that does not, each batch is looked at by all of its clocks.
const CLOCK_SPAN: SignedDuration = SignedDuration::from_hours(24 * 400);
/// A wall clock differs by less than this much from any other.
const DAYS_AROUND: [i64; 4] = [-1, 0, 1, 2];
/// Instants from which a window must open again, one in each half of the year.
const PROBES_MS: [i64; 2] = [1_767_571_200_000, 1_783_296_000_000];

/// Sending may begin while every rule is open by every clock.
#[derive(Debug, Clone, Default)]
pub struct Hours {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    /// Any of them. None: at any time.
    send: Vec<Opening>,
    /// None of them.
    quiet: Vec<Opening>,
}

#[derive(Debug, Clone)]
struct Opening {
    span: Span,
    /// None: the recipient's own.
    zone: Option<TimeZone>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Until before that instant, or longer.
    Open { until_ms: i64 },
    /// Until that instant. If it does not open within `AHEAD`: until the end of that.
    Closed { until_ms: i64 },
}

/// The hours of a lane.
#[derive(Debug, Clone, Default)]
pub struct LaneHours {
    pub hours: Hours,
    /// Of recipients whose clock is not told.
    pub default_clock: Option<TimeZone>,
}

/// What is wrong with a window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct WrongWindow {
    /// Such as `quiet_hours.from`, or `send_window[1].days`.
    pub field: String,
    pub why: String,
}

impl State {
    pub fn is_open(self) -> bool {
        matches!(self, Self::Open { .. })
    }
}

impl Hours {
    pub fn new(windows: &Windows, zones: &Zones) -> Result<Self, WrongWindow> {
        let send = read("send_window", &windows.send, zones)?;
        let quiet = read("quiet_hours", &windows.quiet, zones)?;
        let is_empty = send.is_empty() && quiet.is_empty();
        Ok(Self { rules: if is_empty { Vec::new() } else { vec![Rule { send, quiet }] } })
    }

    /// Both must be open.
    pub fn and(&self, other: &Self) -> Self {
        Self { rules: self.rules.iter().chain(&other.rules).cloned().collect() }
    }

    /// It is open at any time.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    pub fn go_by_recipient(&self) -> bool {
        self.openings().any(|opening| opening.zone.is_none())
    }

    /// Of recipients with these clocks: it is open when it is for all of them. None given: theirs is UTC.
    pub fn at(&self, now_ms: i64, clocks: &[TimeZone]) -> State {
        let Ok(now) = Timestamp::from_millisecond(now_ms) else { return State::Open { until_ms: i64::MAX } };
        let utc = [TimeZone::UTC];
        let clocks = if clocks.is_empty() { &utc } else { clocks };
        let is_open = self.is_open(now, clocks);
        let end = now.saturating_add(AHEAD).unwrap_or(Timestamp::MAX);
        let mut at = now;
        while let Some(next) = self.next_change(at, clocks).filter(|next| *next < end) {
            at = next;
            if self.is_open(at, clocks) != is_open {
                break;
            }
        }
        let changed = self.is_open(at, clocks) != is_open;
        let until_ms = if changed { ceil_ms(at) } else { ceil_ms(end) };
        if is_open { State::Open { until_ms } } else { State::Closed { until_ms } }
    }

    /// The first instant from this one on at which it is open. None: not within `AHEAD`.
    pub fn opens(&self, from_ms: i64, clocks: &[TimeZone]) -> Option<i64> {
        match self.at(from_ms, clocks) {
            State::Open { .. } => Some(from_ms),
            State::Closed { until_ms } => self.at(until_ms, clocks).is_open().then_some(until_ms),
        }
    }

    /// It opens again and again by this clock.
    pub fn ever_opens(&self, clock: &TimeZone) -> bool {
        PROBES_MS.iter().all(|probe| self.opens(*probe, std::slice::from_ref(clock)).is_some())
    }

    fn openings(&self) -> impl Iterator<Item = &Opening> {
        self.rules.iter().flat_map(|rule| rule.send.iter().chain(&rule.quiet))
    }

    fn is_open(&self, at: Timestamp, clocks: &[TimeZone]) -> bool {
        clocks.iter().all(|clock| {
            self.rules.iter().all(|rule| {
                let has = |opening: &Opening| opening.has(at, clock);
                (rule.send.is_empty() || rule.send.iter().any(has)) && !rule.quiet.iter().any(has)
            })
        })
    }

    /// The next instant at which anything may be otherwise.
    fn next_change(&self, after: Timestamp, clocks: &[TimeZone]) -> Option<Timestamp> {
        self.openings().flat_map(|opening| opening.zones(clocks).map(move |zone| (opening, zone))).fold(
            None,
            |soonest: Option<Timestamp>, (opening, zone)| {
                let next = opening.next_edge(after, zone);
                soonest.into_iter().chain(next).min()
            },
        )
    }
}

impl Opening {
    fn zones<'a>(&'a self, clocks: &'a [TimeZone]) -> impl Iterator<Item = &'a TimeZone> {
        let own = self.zone.iter();
        let theirs = if self.zone.is_none() { clocks.iter() } else { [].iter() };
        own.chain(theirs)
    }

    fn has(&self, at: Timestamp, clock: &TimeZone) -> bool {
        let shown = self.zone.as_ref().unwrap_or(clock).to_datetime(at);
        let day = |date: Date| usize::try_from(date.weekday().to_monday_zero_offset()).unwrap_or(0);
        let today = self.span.days.has(day(shown.date()));
        let Some((from, to)) = self.span.day_part else { return today };
        let yesterday = shown.date().yesterday().is_ok_and(|date| self.span.days.has(day(date)));
        let (from, to, time) = (civil(from), civil(to), shown.time());
        if from < to {
            return today && from <= time && time < to;
        }
        (today && from <= time) || (yesterday && time < to)
    }

    /// The next instant at which the clock shows a border of it, or is changed.
    fn next_edge(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let change = zone.following(after).next().map(|change| change.timestamp());
        let (from, to) = match self.span.day_part {
            Some((from, to)) => (civil(from), civil(to)),
            None => (Time::midnight(), Time::midnight()),
        };
        let date = zone.to_datetime(after).date();
        let days = DAYS_AROUND.iter().filter_map(|days| date.checked_add(SignedDuration::from_hours(24 * days)).ok());
        let edges = days.flat_map(|date| [date.to_datetime(from), date.to_datetime(to)]);
        let edges = edges.flat_map(|edge| instants(zone, edge));
        edges.chain(change).filter(|edge| *edge > after).min()
    }
}

/// When the clock shows it: not at all, once, or twice.
fn instants(zone: &TimeZone, shown: DateTime) -> impl Iterator<Item = Timestamp> {
    let (one, other) = match zone.to_ambiguous_timestamp(shown).offset() {
        AmbiguousOffset::Unambiguous { offset } => (Some(offset), None),
        AmbiguousOffset::Gap { .. } => (None, None),
        AmbiguousOffset::Fold { before, after } => (Some(before), Some(after)),
    };
    [one, other].into_iter().flatten().filter_map(move |offset| offset.to_timestamp(shown).ok())
}

fn civil(time: TimeOfDay) -> Time {
    let [hour, minute, second] = [time.hour(), time.minute(), time.second()].map(|part| part as i8);
    Time::constant(hour, minute, second, 0)
}

/// The first whole millisecond that is not before.
fn ceil_ms(at: Timestamp) -> i64 {
    let whole = at.as_millisecond();
    whole + i64::from(Timestamp::from_millisecond(whole).is_ok_and(|whole| whole < at))
}

/// What a clock shows from an instant on, for longer than any run lasts: the same text for clocks that show the same.
pub fn clock_of(zone: &TimeZone, from_ms: i64) -> String {
    let Ok(from) = Timestamp::from_millisecond(from_ms) else { return String::new() };
    let end = from.saturating_add(CLOCK_SPAN).unwrap_or(Timestamp::MAX);
    let mut offset = zone.to_offset(from);
    let mut text = offset.seconds().to_string();
    for change in zone.following(from).take_while(|change| change.timestamp() < end) {
        if change.offset() != offset {
            offset = change.offset();
            text.push_str(&format!(";{}:{}", change.timestamp().as_second(), offset.seconds()));
        }
    }
    text
}

/// Of the lanes that have windows. Errors: a window is wrong, or they never open.
pub fn lane_hours(lanes: &[Lane], zones: &Zones) -> Result<BTreeMap<LaneName, LaneHours>, WrongWindow> {
    let mut all = BTreeMap::new();
    for lane in lanes.iter().filter(|lane| !lane.windows.is_empty()) {
        let of_lane =
            |error: WrongWindow| WrongWindow { field: format!("lane.{}.{}", lane.name, error.field), ..error };
        let hours = Hours::new(&lane.windows, zones).map_err(of_lane)?;
        let zone = lane.windows.clock.as_ref().map_or("", |clock| clock.default_zone.as_str());
        let default_clock =
            match zone {
                "" if hours.go_by_recipient() => {
                    let why =
                        "it is missing: write default_zone = \"Europe/Berlin\", for recipients whose clock is not told";
                    return Err(of_lane(WrongWindow { field: "default_zone".to_owned(), why: why.to_owned() }));
                }
                "" => None,
                zone => Some(zones.get(zone).map_err(|error| {
                    of_lane(WrongWindow { field: "default_zone".to_owned(), why: error.to_string() })
                })?),
            };
        if !hours.ever_opens(default_clock.as_ref().unwrap_or(&TimeZone::UTC)) {
            let field = if lane.windows.send.is_empty() { "quiet_hours" } else { "send_window" };
            return Err(of_lane(WrongWindow { field: field.to_owned(), why: NEVER.to_owned() }));
        }
        all.insert(lane.name.clone(), LaneHours { hours, default_clock });
    }
    Ok(all)
}

/// Of windows that are never open.
pub const NEVER: &str =
    "sending could never begin: quiet hours leave nothing of the windows; make them shorter, or a window longer";

fn read(key: &str, windows: &[Window], zones: &Zones) -> Result<Vec<Opening>, WrongWindow> {
    if windows.len() > WINDOWS_MAX {
        let why = format!("there are {}, and at most {WINDOWS_MAX} may be (windows_max)", windows.len());
        return Err(WrongWindow { field: key.to_owned(), why });
    }
    let several = windows.len() > 1;
    let one = |(index, window): (usize, &Window)| {
        let place = if several { format!("{key}[{index}]") } else { key.to_owned() };
        let wrong = |name: &str, why: String| WrongWindow { field: format!("{place}.{name}"), why };
        let span = window.span().map_err(|(name, why)| wrong(name, why))?;
        if window.goes_by_recipient() {
            return Ok(Opening { span, zone: None });
        }
        if window.time_zone.is_empty() {
            let why = "it is missing: write time_zone = \"Europe/Berlin\", or \"recipient\" for each recipient's own";
            return Err(wrong("time_zone", why.to_owned()));
        }
        let zone = zones.get(&window.time_zone).map_err(|error: UnknownZone| wrong("time_zone", error.to_string()))?;
        Ok(Opening { span, zone: Some(zone) })
    };
    windows.iter().enumerate().map(one).collect()
}

#[cfg(test)]
#[path = "hours_tests.rs"]
mod tests;
