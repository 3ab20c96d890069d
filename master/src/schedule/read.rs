//! From a campaign's schedule to the rules that it runs by.

use super::decide::Rules;
use super::due::milliseconds;
use super::{Pattern, Timetable, UnknownZone, What, WrongPattern, Zones};
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use postrider_common::campaign::{Schedule, When};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrongSchedule {
    #[error(transparent)]
    Pattern(#[from] WrongPattern),
    #[error(transparent)]
    Zone(#[from] UnknownZone),
    #[error("'{text}' is not a time of the clock: write one such as 2026-12-24T08:00")]
    At { text: String },
    #[error("'{text}' has an offset and the schedule a time zone: leave out one of them")]
    AtWithOffset { text: String },
    #[error("the clock of {zone} skips {text} and on_gap is skip: it is never due")]
    AtInGap { text: String, zone: String },
    #[error("'{text}' is not a date: write one such as 2026-12-24, or 2026-12-24T08:00")]
    Bound { field: &'static str, text: String },
    #[error("nothing is due between start and end")]
    NothingBetween,
}

impl WrongSchedule {
    /// The key of the campaign file that is wrong.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Pattern(_) => "schedule.cron",
            Self::Zone(_) => "schedule.time_zone",
            Self::At { .. } | Self::AtWithOffset { .. } | Self::AtInGap { .. } => "schedule.at",
            Self::Bound { field, .. } => field,
            Self::NothingBetween => "schedule.end",
        }
    }
}

/// `campaign` tells its jitter from that of others.
pub fn read(schedule: &Schedule, campaign: &str, zones: &Zones) -> Result<Rules, WrongSchedule> {
    let is_instant = matches!(&schedule.when, When::At(text) if text.parse::<Timestamp>().is_ok());
    let zone = match schedule.time_zone.as_str() {
        "" if is_instant => TimeZone::UTC,
        name => zones.get(name)?,
    };
    let what = match &schedule.when {
        When::Cron(pattern) => What::Pattern(Pattern::parse(pattern)?),
        When::At(text) => What::At(at(text, schedule, &zone)?),
    };
    let (starts_at, ends_at) = (starts_at(&schedule.start, &zone)?, ends_at(&schedule.end, &zone)?);
    let (on_gap, on_overlap) = (schedule.on_gap, schedule.on_overlap);
    let timetable = Timetable { what, zone, on_gap, on_overlap, starts_at, ends_at };
    if timetable.after(Timestamp::default()).is_none() {
        return Err(match &schedule.when {
            When::At(text) if schedule.start.is_empty() && schedule.end.is_empty() => {
                WrongSchedule::AtInGap { text: text.clone(), zone: schedule.time_zone.clone() }
            }
            When::At(_) | When::Cron(_) => WrongSchedule::NothingBetween,
        });
    }
    Ok(Rules {
        timetable,
        catch_up: schedule.catch_up,
        start_deadline: schedule.start_deadline_ms.map(milliseconds),
        overlap: schedule.overlap,
        jitter: milliseconds(schedule.jitter_ms),
        campaign: campaign.to_owned(),
    })
}

fn at(text: &str, schedule: &Schedule, zone: &TimeZone) -> Result<DateTime, WrongSchedule> {
    let shown = || text.chars().take(64).collect::<String>();
    if let Ok(instant) = text.parse::<Timestamp>() {
        let is_utc = schedule.time_zone.is_empty() || schedule.time_zone.eq_ignore_ascii_case("utc");
        if !is_utc {
            return Err(WrongSchedule::AtWithOffset { text: shown() });
        }
        return Ok(zone.to_datetime(instant));
    }
    if text.len() <= "2026-12-24".len() {
        return Err(WrongSchedule::At { text: shown() });
    }
    text.parse::<DateTime>().map_err(|_| WrongSchedule::At { text: shown() })
}

/// A date is from its first instant on.
fn starts_at(text: &str, zone: &TimeZone) -> Result<Option<Timestamp>, WrongSchedule> {
    let wrong = || WrongSchedule::Bound { field: "schedule.start", text: text.chars().take(64).collect() };
    match text {
        "" => Ok(None),
        text => {
            let clock = match text.parse::<Date>() {
                Ok(date) if text.len() <= "2026-12-24".len() => date.to_datetime(Time::midnight()),
                Ok(_) | Err(_) => text.parse::<DateTime>().map_err(|_| wrong())?,
            };
            zone.to_ambiguous_timestamp(clock).compatible().map(Some).map_err(|_| wrong())
        }
    }
}

/// A date is until its last instant.
fn ends_at(text: &str, zone: &TimeZone) -> Result<Option<Timestamp>, WrongSchedule> {
    let wrong = || WrongSchedule::Bound { field: "schedule.end", text: text.chars().take(64).collect() };
    match text {
        "" => Ok(None),
        text => match text.parse::<Date>() {
            Ok(date) if text.len() <= "2026-12-24".len() => {
                let next = date.tomorrow().map_err(|_| wrong())?.to_datetime(Time::midnight());
                let next = zone.to_ambiguous_timestamp(next).compatible().map_err(|_| wrong())?;
                Ok(next.checked_sub(SignedDuration::from_nanos(1)).ok())
            }
            Ok(_) | Err(_) => {
                let clock = text.parse::<DateTime>().map_err(|_| wrong())?;
                zone.to_ambiguous_timestamp(clock).later().map(Some).map_err(|_| wrong())
            }
        },
    }
}
