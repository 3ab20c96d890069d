//! `send_at_local = "08:00"`, or a table that says more.

use super::fields::{Complaints, Fields};
use crate::toml_text::Value;
use postrider_common::local_time::{Passed, SendAtLocal, TimeOfDay, UnknownZone};

const KEYS: &[&str] = &["at", "zone", "country", "default_zone", "passed", "unknown_zone"];

pub(super) fn read(top: &Fields<'_>, complaints: &mut Complaints) -> Option<SendAtLocal> {
    let entry = top.entry("send_at_local")?;
    let table = match &entry.node.value {
        Value::Table(table) => table,
        Value::Text(text) => return time("send_at_local", text, entry.line, complaints).map(SendAtLocal::new),
        other => {
            let why = "write send_at_local = \"08:00\", or { at = \"08:00\", zone = \"time_zone\" }";
            complaints.at(
                entry.line,
                format!("send_at_local must be a time of the day in quotes, not {}: {why}", other.kind()),
            );
            return None;
        }
    };
    let fields = Fields::new("send_at_local.", table, KEYS, complaints);
    let at = match fields.text("at", complaints) {
        Some((text, line)) => time("send_at_local.at", &text, line, complaints),
        None => {
            if fields.entry("at").is_none() {
                complaints.at(entry.line, "send_at_local.at is missing: write at = \"08:00\"");
            }
            None
        }
    };
    let mut name = |key: &str| {
        let (text, line) = fields.text(key, complaints)?;
        if text.is_empty() {
            complaints.at(line, format!("send_at_local.{key} is empty: give a name, or leave it out"));
        }
        Some(text).filter(|text| !text.is_empty())
    };
    let (zone, country, default_zone) = (name("zone"), name("country"), name("default_zone").unwrap_or_default());
    let passed = match fields.choice("passed", Passed::WORDS, complaints).as_deref() {
        Some("at_once") => Passed::AtOnce,
        Some("skip") => Passed::Skip,
        _ => Passed::NextDay,
    };
    let unknown_zone = match fields.choice("unknown_zone", UnknownZone::WORDS, complaints).as_deref() {
        Some("default") => UnknownZone::Default,
        _ => UnknownZone::BadRow,
    };
    Some(SendAtLocal { at: at?, zone, country, default_zone, passed, unknown_zone })
}

fn time(key: &str, text: &str, line: usize, complaints: &mut Complaints) -> Option<TimeOfDay> {
    text.parse().map_err(|error| complaints.at(line, format!("{key}: {error}"))).ok()
}
