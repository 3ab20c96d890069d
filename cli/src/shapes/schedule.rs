//! Schedules as they are printed.

use super::instant;
use crate::failure::{Failure, Result};
use postrider_common::campaign::{self, CatchUp, OnGap, OnOverlap, Overlap, When};
use postrider_common::duration;
use postrider_proto::v1;
use serde::Serialize;
use std::time::Duration;

/// What was applied, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Schedule {
    pub cron: Option<String>,
    pub at: Option<String>,
    pub time_zone: String,
    pub on_gap: &'static str,
    pub on_overlap: &'static str,
    pub catch_up: &'static str,
    pub catch_up_limit: Option<u32>,
    pub catch_up_window: Option<String>,
    pub start_deadline: Option<String>,
    pub overlap: &'static str,
    pub jitter: Option<String>,
    pub start: Option<String>,
    pub end: Option<String>,
    /// Its jitter included; null while paused, until it was calculated, and when nothing is due any more.
    pub next_due_at: Option<String>,
    pub fired: u64,
    pub last_fired: Option<LastFired>,
    pub skipped: SkippedCounts,
    pub last_skipped: Option<LastSkipped>,
    /// Version that this was calculated with; empty: it was not yet.
    pub time_zone_database: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastFired {
    pub run: String,
    pub nominal_at: Option<String>,
    pub at: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SkippedCounts {
    pub missed: u64,
    pub overlap: u64,
    pub cannot_run: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastSkipped {
    pub reason: &'static str,
    pub count: u64,
    pub nominal_at: Option<String>,
    pub why: String,
}

impl Schedule {
    pub fn from_wire(wire: v1::Schedule, state: Option<v1::ScheduleState>, paused: bool) -> Result<Self> {
        let known = campaign::Schedule::try_from(wire)
            .map_err(|error| Failure::failed(format!("the master answered with a schedule that is wrong: {error}")))?;
        let state = state.unwrap_or_default();
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let of_ms = |ms: u64| duration::print(Duration::from_millis(ms));
        let (cron, at) = match known.when {
            When::Cron(cron) => (Some(cron), None),
            When::At(at) => (None, Some(at)),
        };
        let (catch_up, catch_up_limit, catch_up_window) = match known.catch_up {
            CatchUp::None => ("none", None, None),
            CatchUp::Latest => ("latest", None, None),
            CatchUp::All { max, window_ms } => ("all", Some(max), Some(of_ms(window_ms))),
        };
        let last_fired = some(state.last_run_id).map(|run| LastFired {
            run,
            nominal_at: instant(state.last_nominal_at_ms),
            at: instant(state.last_fired_at_ms),
        });
        Ok(Self {
            cron,
            at,
            time_zone: known.time_zone,
            on_gap: match known.on_gap {
                OnGap::RunAfter => "run_after",
                OnGap::Skip => "skip",
            },
            on_overlap: match known.on_overlap {
                OnOverlap::Once => "once",
                OnOverlap::Twice => "twice",
            },
            catch_up,
            catch_up_limit,
            catch_up_window,
            start_deadline: known.start_deadline_ms.map(of_ms),
            overlap: match known.overlap {
                Overlap::Skip => "skip",
                Overlap::Allow => "allow",
                Overlap::CancelPrevious => "cancel_previous",
            },
            jitter: Some(known.jitter_ms).filter(|ms| *ms > 0).map(of_ms),
            start: some(known.start),
            end: some(known.end),
            next_due_at: instant(state.due_at_ms).filter(|_| !paused),
            fired: state.fired,
            last_fired,
            skipped: SkippedCounts { missed: state.missed, overlap: state.overlapped, cannot_run: state.refused },
            last_skipped: state.last_skipped.map(last_skipped).transpose()?,
            time_zone_database: state.time_zone_version,
        })
    }

    /// In one line: when.
    pub fn when(&self) -> String {
        let when = match (&self.cron, &self.at) {
            (Some(cron), _) => cron.clone(),
            (None, at) => format!("at {}", at.as_deref().unwrap_or_default()),
        };
        format!("{when} {}", self.time_zone).trim_end().to_owned()
    }

    pub fn policies(&self) -> String {
        let mut parts = vec![format!("catch_up {}, overlap {}", self.catch_up, self.overlap)];
        let limit = self.catch_up_limit.map(|limit| limit.to_string());
        let others = [
            ("catch_up_limit", &limit),
            ("catch_up_window", &self.catch_up_window),
            ("start_deadline", &self.start_deadline),
            ("jitter", &self.jitter),
            ("start", &self.start),
            ("end", &self.end),
        ];
        parts.extend(others.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value.as_ref()?))));
        parts.push(format!("on_gap {}, on_overlap {}", self.on_gap, self.on_overlap));
        parts.join(", ")
    }

    /// The last run, for people.
    pub fn fired(&self) -> String {
        let Some(last) = &self.last_fired else { return "none yet".to_owned() };
        let (nominal, at) = (last.nominal_at.as_deref().unwrap_or_default(), last.at.as_deref().unwrap_or_default());
        format!("{} due {nominal}, begun {at}; {} in all", last.run, self.fired)
    }

    /// What was passed over, for people.
    pub fn skipped(&self) -> String {
        let Some(last) = &self.last_skipped else { return "none".to_owned() };
        let SkippedCounts { missed, overlap, cannot_run } = &self.skipped;
        let nominal = last.nominal_at.as_deref().unwrap_or_default();
        let why = if last.why.is_empty() { String::new() } else { format!(", {}", last.why) };
        format!("missed {missed}, overlap {overlap}, cannot_run {cannot_run}; last due {nominal}: {}{why}", last.reason)
    }
}

fn last_skipped(wire: v1::SkippedOccurrences) -> Result<LastSkipped> {
    let reason = match wire.reason() {
        v1::SkipReason::Missed => "missed",
        v1::SkipReason::Overlap => "overlap",
        v1::SkipReason::CannotRun => "cannot_run",
        v1::SkipReason::Unspecified => {
            return Err(Failure::failed("the master sent what was passed over without a reason: update postrider"));
        }
    };
    Ok(LastSkipped { reason, count: wire.count, nominal_at: instant(wire.nominal_at_ms), why: wire.why })
}
