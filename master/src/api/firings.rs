//! The next firings of a schedule, for people.

use super::status::ApiError;
use crate::campaign::Invalid;
use crate::schedule::{self, Note, Occurrence, Timetable, Zones};
use jiff::Timestamp;
use postrider_common::campaign::Campaign;
use postrider_proto::v1;

pub fn next(
    zones: &Zones,
    campaign: &Campaign,
    from_ms: i64,
    limit: usize,
) -> Result<v1::NextFiringsResponse, ApiError> {
    let Some(schedule) = &campaign.schedule else {
        return Err(Invalid::field("campaign", format!("{} has no schedule: it runs on demand", campaign.name)).into());
    };
    let wrong = |error: schedule::WrongSchedule| Invalid::field(error.field(), error.to_string());
    let timetable = schedule::read(schedule, zones).map_err(wrong)?;
    let from = Timestamp::from_millisecond(from_ms)
        .map_err(|_| Invalid::field("from_ms", "it is not an instant in the years 1 to 9999"))?;
    let first = timetable.after(from);
    let found = std::iter::successors(first, |found| timetable.after(found.at)).take(limit);
    Ok(v1::NextFiringsResponse {
        firings: found.map(|found| firing(&timetable, found)).collect(),
        time_zone: schedule.time_zone.clone(),
        time_zone_version: zones.version().to_owned(),
    })
}

fn firing(timetable: &Timetable, found: Occurrence) -> v1::Firing {
    let note = match found.note {
        Note::Plain => v1::FiringNote::Plain,
        Note::AfterGap => v1::FiringNote::AfterGap,
        Note::First => v1::FiringNote::First,
        Note::Second => v1::FiringNote::Second,
    };
    let local = found.at.display_with_offset(timetable.zone.to_offset(found.at)).to_string();
    let (at_ms, nominal) = (found.at.as_millisecond(), found.nominal.to_string());
    v1::Firing { at_ms, local, nominal, note: note.into() }
}
