//! The next firings of a schedule, for people.

use super::status::ApiError;
use crate::campaign::Invalid;
use crate::schedule::{self, Note, Occurrence, Timetable, Zones};
use jiff::Timestamp;
use postrider_common::campaign::Campaign;
use postrider_proto::v1;
use postrider_store::{Scheduled, SkipReason, Skipped};

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
    let timetable = schedule::read(schedule, campaign.name.as_str(), zones).map_err(wrong)?.timetable;
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

/// Where a schedule stands.
pub fn state(schedule: Scheduled) -> v1::ScheduleState {
    let last = schedule.last_fired;
    let skipped = |skipped: Skipped| {
        let reason = match skipped.reason {
            SkipReason::Missed => v1::SkipReason::Missed,
            SkipReason::Overlap => v1::SkipReason::Overlap,
            SkipReason::CannotRun => v1::SkipReason::CannotRun,
        };
        let (count, nominal_at_ms, why) = (skipped.count, skipped.nominal_at_ms, skipped.why);
        v1::SkippedOccurrences { reason: reason.into(), count, nominal_at_ms, why }
    };
    v1::ScheduleState {
        due_at_ms: schedule.due_at_ms.unwrap_or(0),
        time_zone_version: schedule.zones,
        decided_until_ms: schedule.decided_until_ms,
        fired: schedule.fired,
        last_nominal_at_ms: last.as_ref().map_or(0, |last| last.nominal_at_ms),
        last_fired_at_ms: last.as_ref().map_or(0, |last| last.at_ms),
        last_run_id: last.map_or(String::new(), |last| last.run.to_string()),
        missed: schedule.missed,
        overlapped: schedule.overlapped,
        refused: schedule.refused,
        last_skipped: schedule.last_skipped.map(skipped),
    }
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
