//! `data_url`: where the merge fields of each batch are fetched, as a URL or as a table that says how.

use super::fields::{Complaints, Fields};
use crate::toml_text::{Table, Value};
use postrider_common::duration;
use postrider_common::limits::DATA_TIMEOUT_MS;
use postrider_common::message::{DataUrl, OnMissingData};
use postrider_outgoing::{Secret, Target};
use std::collections::BTreeMap;

const KEYS: &[&str] = &["url", "timeout", "secret", "headers", "on_missing_data"];

/// What is out of range is told by the master.
pub(super) fn read(top: &Fields<'_>, complaints: &mut Complaints) -> Option<DataUrl> {
    let entry = top.entry("data_url")?;
    match &entry.node.value {
        Value::Text(url) => {
            let headers = BTreeMap::new();
            let (secret, on_missing) = (String::new(), OnMissingData::default());
            let url = checked("data_url", url, entry.line, complaints)?;
            Some(DataUrl { url, timeout_ms: DATA_TIMEOUT_MS, secret, on_missing, headers })
        }
        Value::Table(table) => of_table(table, entry.line, complaints),
        other => {
            let why =
                format!("data_url must be a URL in quotes or a table {{ url = \"https://…\" }}, not {}", other.kind());
            complaints.at(entry.line, why);
            None
        }
    }
}

fn of_table(table: &Table, line: usize, complaints: &mut Complaints) -> Option<DataUrl> {
    let fields = Fields::new("data_url.", table, KEYS, complaints);
    if fields.entry("url").is_none() {
        complaints.at(line, "data_url.url is missing: write url = \"https://HOST/PATH\"");
    }
    let timeout_ms = timeout("data_url", &fields, complaints);
    let secret = fields.text("secret", complaints);
    if let Some((Err(why), line)) = secret.as_ref().map(|(text, line)| (text.parse::<Secret>(), line)) {
        complaints.at(*line, format!("data_url.secret: {why}"));
    }
    let on_missing = on_missing(&fields, complaints);
    let headers = fields.text_table("headers", complaints);
    let (url, line) = fields.text("url", complaints)?;
    let url = checked("data_url.url", &url, line, complaints)?;
    let secret = secret.map(|(text, _)| text).unwrap_or_default();
    Some(DataUrl { url, timeout_ms, secret, on_missing, headers })
}

/// Of one try, in milliseconds.
pub(super) fn timeout(setting: &str, fields: &Fields<'_>, complaints: &mut Complaints) -> u64 {
    let Some((text, line)) = fields.text("timeout", complaints) else { return DATA_TIMEOUT_MS };
    match duration::parse(&text) {
        Ok(timeout) => u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        Err(why) => {
            complaints.at(line, format!("{setting}.timeout: {why}"));
            DATA_TIMEOUT_MS
        }
    }
}

pub(super) fn on_missing(fields: &Fields<'_>, complaints: &mut Complaints) -> OnMissingData {
    match fields.choice("on_missing_data", &["reject", "send", "defer"], complaints).as_deref() {
        Some("send") => OnMissingData::Send,
        Some("defer") => OnMissingData::Defer,
        _ => OnMissingData::Reject,
    }
}

fn checked(field: &str, url: &str, line: usize, complaints: &mut Complaints) -> Option<String> {
    match url.parse::<Target>() {
        Ok(_) => Some(url.to_owned()),
        Err(why) => {
            complaints.at(line, format!("{field}: {why}"));
            None
        }
    }
}
