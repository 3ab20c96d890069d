//! When a time of the day comes by the wall clocks of recipients.

use super::timetable::{OnGap, OnOverlap, Timetable, What};
use super::{UnknownZone, Zones};
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use postrider_common::local_time::{Passed, SendAtLocal, TimeOfDay};

/// No wall clock is further from UTC, with room to spare.
const OFFSET_MAX: SignedDuration = SignedDuration::from_hours(48);
/// Days after which a time of the day has come by every wall clock.
const DAYS_MAX: usize = 4;

/// One time of the day, on the date of one run.
#[derive(Debug, Clone)]
pub struct LocalTimes {
    date: Date,
    time: Time,
    /// When the run was due.
    nominal: Timestamp,
    passed: Passed,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoLocalTimes {
    #[error(transparent)]
    Zone(#[from] UnknownZone),
    #[error("the run was due at {0} ms, which is no instant of the years 1 to 9999")]
    Nominal(i64),
}

impl LocalTimes {
    /// `zone`: the one by which the run has its date.
    pub fn new(rule: &SendAtLocal, zone: &str, nominal_at_ms: i64, zones: &Zones) -> Result<Self, NoLocalTimes> {
        let zone = zones.get(zone)?;
        let nominal = Timestamp::from_millisecond(nominal_at_ms).map_err(|_| NoLocalTimes::Nominal(nominal_at_ms))?;
        let date = zone.to_datetime(nominal).date();
        Ok(Self { date, time: civil(rule.at), nominal, passed: rule.passed })
    }

    /// When it comes in that zone, in ms. None: it had passed, and then nothing is sent.
    pub fn in_zone(&self, zone: &TimeZone) -> Option<i64> {
        let days = std::iter::successors(Some(self.date), |date| date.tomorrow().ok()).take(DAYS_MAX);
        let mut instants = days.filter_map(|date| first_instant(zone, date.to_datetime(self.time)));
        let is_to_come = |at: &Timestamp| *at >= self.nominal;
        let today = instants.next().filter(is_to_come);
        let at = match self.passed {
            Passed::Skip => return today.map(Timestamp::as_millisecond),
            Passed::NextDay => today.or_else(|| instants.find(is_to_come)),
            Passed::AtOnce => today,
        };
        Some(at.unwrap_or(self.nominal).as_millisecond())
    }
}

fn civil(time: TimeOfDay) -> Time {
    let [hour, minute, second] = [time.hour(), time.minute(), time.second()].map(|part| part as i8);
    Time::constant(hour, minute, second, 0)
}

/// When a wall clock shows this, the first time; if it skips it, the first instant after.
fn first_instant(zone: &TimeZone, clock: DateTime) -> Option<Timestamp> {
    let from = TimeZone::UTC.to_timestamp(clock).ok()?.checked_sub(OFFSET_MAX).ok()?;
    let timetable = Timetable {
        what: What::At(clock),
        zone: zone.clone(),
        on_gap: OnGap::RunAfter,
        on_overlap: OnOverlap::Once,
        starts_at: None,
        ends_at: None,
    };
    timetable.after(from).map(|found| found.at)
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
