//! Schedules.

use super::InvalidField;
use crate::campaign::{CatchUp, OnGap, OnOverlap, Overlap, Schedule, When};
use crate::limits::{CATCH_UP_RUNS, CATCH_UP_WINDOW_MS};
use postrider_proto::v1;

impl TryFrom<v1::Schedule> for Schedule {
    type Error = InvalidField;
    fn try_from(wire: v1::Schedule) -> Result<Self, InvalidField> {
        let on_gap = match wire.on_gap() {
            v1::OnGap::Unspecified | v1::OnGap::RunAfter => OnGap::RunAfter,
            v1::OnGap::Skip => OnGap::Skip,
        };
        let on_overlap = match wire.on_overlap() {
            v1::OnOverlap::Unspecified | v1::OnOverlap::Once => OnOverlap::Once,
            v1::OnOverlap::Twice => OnOverlap::Twice,
        };
        let overlap = match wire.overlap() {
            v1::Overlap::Unspecified | v1::Overlap::Skip => Overlap::Skip,
            v1::Overlap::Allow => Overlap::Allow,
            v1::Overlap::CancelPrevious => Overlap::CancelPrevious,
        };
        let is_all = wire.catch_up() == v1::CatchUp::All;
        let (limit, window) = ("schedule.catch_up_limit", "schedule.catch_up_window");
        for (field, given) in [(limit, wire.catch_up_limit != 0), (window, wire.catch_up_window_ms != 0)] {
            if given && !is_all {
                let why = "it goes with catch_up = \"all\" only: write that, or leave it out";
                return Err(InvalidField::new(field, why));
            }
        }
        let catch_up = match wire.catch_up() {
            v1::CatchUp::None => CatchUp::None,
            v1::CatchUp::Unspecified | v1::CatchUp::Latest => CatchUp::Latest,
            v1::CatchUp::All => CatchUp::All {
                max: if wire.catch_up_limit == 0 { CATCH_UP_RUNS } else { wire.catch_up_limit },
                window_ms: if wire.catch_up_window_ms == 0 { CATCH_UP_WINDOW_MS } else { wire.catch_up_window_ms },
            },
        };
        let when = match (wire.cron.is_empty(), wire.at.is_empty()) {
            (_, true) => When::Cron(wire.cron),
            (true, false) => When::At(wire.at),
            (false, false) => {
                let why = "schedule.cron is there as well: keep one of them";
                return Err(InvalidField::new("schedule.at", why));
            }
        };
        let start_deadline_ms = Some(wire.start_deadline_ms).filter(|ms| *ms != 0);
        let (time_zone, jitter_ms, start, end) = (wire.time_zone, wire.jitter_ms, wire.start, wire.end);
        Ok(Self { when, time_zone, on_gap, on_overlap, catch_up, start_deadline_ms, overlap, jitter_ms, start, end })
    }
}

impl From<Schedule> for v1::Schedule {
    fn from(schedule: Schedule) -> Self {
        let on_gap = match schedule.on_gap {
            OnGap::RunAfter => v1::OnGap::RunAfter,
            OnGap::Skip => v1::OnGap::Skip,
        };
        let on_overlap = match schedule.on_overlap {
            OnOverlap::Once => v1::OnOverlap::Once,
            OnOverlap::Twice => v1::OnOverlap::Twice,
        };
        let overlap = match schedule.overlap {
            Overlap::Skip => v1::Overlap::Skip,
            Overlap::Allow => v1::Overlap::Allow,
            Overlap::CancelPrevious => v1::Overlap::CancelPrevious,
        };
        let (catch_up, catch_up_limit, catch_up_window_ms) = match schedule.catch_up {
            CatchUp::None => (v1::CatchUp::None, 0, 0),
            CatchUp::Latest => (v1::CatchUp::Latest, 0, 0),
            CatchUp::All { max, window_ms } => (v1::CatchUp::All, max, window_ms),
        };
        let (cron, at) = match schedule.when {
            When::Cron(cron) => (cron, String::new()),
            When::At(at) => (String::new(), at),
        };
        Self {
            cron,
            time_zone: schedule.time_zone,
            at,
            on_gap: on_gap.into(),
            on_overlap: on_overlap.into(),
            catch_up: catch_up.into(),
            catch_up_limit,
            catch_up_window_ms,
            start_deadline_ms: schedule.start_deadline_ms.unwrap_or(0),
            overlap: overlap.into(),
            jitter_ms: schedule.jitter_ms,
            start: schedule.start,
            end: schedule.end,
        }
    }
}
