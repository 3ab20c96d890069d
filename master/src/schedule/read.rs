//! From a campaign's schedule to its timetable.

use super::{OnGap, OnOverlap, Pattern, Timetable, UnknownZone, What, WrongPattern, Zones};
use postrider_common::campaign::Schedule;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrongSchedule {
    #[error(transparent)]
    Pattern(#[from] WrongPattern),
    #[error(transparent)]
    Zone(#[from] UnknownZone),
}

impl WrongSchedule {
    /// The key of the campaign file that is wrong.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Pattern(_) => "schedule.cron",
            Self::Zone(_) => "schedule.time_zone",
        }
    }
}

pub fn read(schedule: &Schedule, zones: &Zones) -> Result<Timetable, WrongSchedule> {
    let what = What::Pattern(Pattern::parse(&schedule.cron)?);
    let zone = zones.get(&schedule.time_zone)?;
    let (on_gap, on_overlap) = (OnGap::default(), OnOverlap::default());
    Ok(Timetable { what, zone, on_gap, on_overlap, starts_at: None, ends_at: None })
}
