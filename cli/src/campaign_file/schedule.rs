//! `schedule = { … }`: when a campaign runs by itself.

use super::fields::{Complaints, Fields};
use crate::toml_text::Value;
use postrider_common::campaign::{CatchUp, OnGap, OnOverlap, Overlap, Schedule, When};
use postrider_common::duration;
use postrider_common::limits::{CATCH_UP_RUNS, CATCH_UP_WINDOW_MS};

const KEYS: &[&str] = &[
    "cron",
    "at",
    "time_zone",
    "on_gap",
    "on_overlap",
    "catch_up",
    "catch_up_limit",
    "catch_up_window",
    "start_deadline",
    "overlap",
    "jitter",
    "start",
    "end",
    "send_at_local",
];

/// With waves a run goes on for a day, so then the next one does not wait for it by default.
pub(super) fn read(top: &Fields<'_>, has_waves: bool, complaints: &mut Complaints) -> Option<Schedule> {
    let (table, line) = top.table("schedule", complaints)?;
    let fields = Fields::new("schedule.", table, KEYS, complaints);
    if let Some(entry) = fields.entry("send_at_local") {
        let why = "it stands at the top of the file, beside schedule: write send_at_local = \"08:00\" there";
        complaints.at(entry.line, format!("schedule.send_at_local: {why}"));
    }
    let when = when(&fields, line, complaints);
    let time_zone = fields.text("time_zone", complaints).map(|(text, _)| text);
    let has_offset = matches!(&when, Some(When::At(at)) if chrono::DateTime::parse_from_rfc3339(at).is_ok());
    if fields.entry("time_zone").is_none() && !has_offset {
        complaints.at(line, "schedule.time_zone is missing: write time_zone = \"Europe/Berlin\"");
    }
    let on_gap = fields.choice("on_gap", &["run_after", "skip"], complaints);
    let on_overlap = fields.choice("on_overlap", &["once", "twice"], complaints);
    let overlap = fields.choice("overlap", &["skip", "allow", "cancel_previous"], complaints);
    let catch_up = catch_up(&fields, complaints);
    let start_deadline_ms = milliseconds(&fields, "start_deadline", complaints);
    let jitter_ms = milliseconds(&fields, "jitter", complaints).unwrap_or(0);
    let (start, end) = (date(&fields, "start", complaints), date(&fields, "end", complaints));
    Some(Schedule {
        when: when?,
        time_zone: time_zone.unwrap_or_default(),
        on_gap: if on_gap.as_deref() == Some("skip") { OnGap::Skip } else { OnGap::RunAfter },
        on_overlap: if on_overlap.as_deref() == Some("twice") { OnOverlap::Twice } else { OnOverlap::Once },
        catch_up,
        start_deadline_ms,
        overlap: match overlap.as_deref() {
            Some("allow") => Overlap::Allow,
            Some("cancel_previous") => Overlap::CancelPrevious,
            None if has_waves => Overlap::Allow,
            _ => Overlap::Skip,
        },
        jitter_ms,
        start: start.unwrap_or_default(),
        end: end.unwrap_or_default(),
    })
}

fn when(fields: &Fields<'_>, line: usize, complaints: &mut Complaints) -> Option<When> {
    match (fields.entry("cron"), fields.entry("at")) {
        (Some(_), None) => fields.text("cron", complaints).map(|(text, _)| When::Cron(text)),
        (None, Some(_)) => date(fields, "at", complaints).map(When::At),
        (Some(_), Some(at)) => {
            complaints.at(at.line, "schedule.cron and schedule.at are both there: keep one of them");
            None
        }
        (None, None) => {
            let why = "schedule.cron is missing: write cron = \"0 8 * * *\", or at = \"2026-12-24T08:00\"";
            complaints.at(line, why);
            None
        }
    }
}

fn catch_up(fields: &Fields<'_>, complaints: &mut Complaints) -> CatchUp {
    let word = fields.choice("catch_up", &["none", "latest", "all"], complaints);
    let max = fields.entry("catch_up_limit").map(|entry| match entry.node.value {
        Value::Integer(number) if number > 0 => u32::try_from(number).unwrap_or(u32::MAX),
        _ => {
            complaints.at(entry.line, "schedule.catch_up_limit must be a whole number above 0");
            0
        }
    });
    let window_ms = milliseconds(fields, "catch_up_window", complaints);
    match word.as_deref() {
        Some("all") => {
            CatchUp::All { max: max.unwrap_or(CATCH_UP_RUNS), window_ms: window_ms.unwrap_or(CATCH_UP_WINDOW_MS) }
        }
        other => {
            for key in ["catch_up_limit", "catch_up_window"] {
                if let Some(entry) = fields.entry(key) {
                    let why = "goes with catch_up = \"all\" only: write that, or leave it out";
                    complaints.at(entry.line, format!("schedule.{key} {why}"));
                }
            }
            if other == Some("none") { CatchUp::None } else { CatchUp::Latest }
        }
    }
}

/// A duration, more than none.
fn milliseconds(fields: &Fields<'_>, key: &str, complaints: &mut Complaints) -> Option<u64> {
    let (text, line) = fields.text(key, complaints)?;
    let ms = duration::parse(&text).map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    match ms {
        Ok(0) => complaints.at(line, format!("schedule.{key} is nothing: leave it out")),
        Err(why) => complaints.at(line, format!("schedule.{key}: {why}")),
        Ok(ms) => return Some(ms),
    }
    None
}

/// A date or a time, in quotes or as TOML has it.
fn date(fields: &Fields<'_>, key: &str, complaints: &mut Complaints) -> Option<String> {
    match &fields.entry(key)?.node.value {
        Value::Instant(text) => Some(text.clone()),
        _ => fields.text(key, complaints).map(|(text, _)| text),
    }
}
