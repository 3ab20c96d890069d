//! `send_window`, `quiet_hours`, and `recipient_clock`, by which both may go.

use super::fields::{Complaints, Fields};
use crate::windows::read as read_windows;
use postrider_common::local_time::UnknownZone;
use postrider_common::windows::{RecipientClock, Window, Windows};

const KEYS: &[&str] = &["zone", "country", "default_zone", "unknown_zone"];

pub(super) fn read(top: &Fields<'_>, complaints: &mut Complaints) -> Windows {
    let mut all = |key: &str| -> Vec<Window> {
        let Some(entry) = top.entry(key) else { return Vec::new() };
        read_windows(key, &entry.node).map_err(|(line, why)| complaints.at(line, why)).unwrap_or_default()
    };
    let (send, quiet) = (all("send_window"), all("quiet_hours"));
    let clock = clock(top, complaints);
    let windows = Windows { send, quiet, clock };
    if let Some(entry) = top.entry("recipient_clock").filter(|_| windows.clock.is_some())
        && top.entry("send_at_local").is_some()
    {
        let why = "recipient_clock: send_at_local says by which columns recipients live: keep one of the two";
        complaints.at(entry.line, why);
    }
    windows
}

fn clock(top: &Fields<'_>, complaints: &mut Complaints) -> Option<RecipientClock> {
    let (table, _) = top.table("recipient_clock", complaints)?;
    let fields = Fields::new("recipient_clock.", table, KEYS, complaints);
    let mut name = |key: &str| {
        let (text, line) = fields.text(key, complaints)?;
        if text.is_empty() {
            complaints.at(line, format!("recipient_clock.{key} is empty: give a name, or leave it out"));
        }
        Some(text).filter(|text| !text.is_empty())
    };
    let (zone, country, default_zone) = (name("zone"), name("country"), name("default_zone").unwrap_or_default());
    let unknown_zone = match fields.choice("unknown_zone", UnknownZone::WORDS, complaints).as_deref() {
        Some("default") => UnknownZone::Default,
        _ => UnknownZone::BadRow,
    };
    Some(RecipientClock { zone, country, default_zone, unknown_zone })
}
