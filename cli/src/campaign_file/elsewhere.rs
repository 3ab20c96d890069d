//! Sources that a master reads: a query, pages, a saved list, and files of its own. Nothing of them is here to be checked but how they are written.

use super::audience::{ENDINGS, format_of};
use super::fields::{Complaints, Fields};
use crate::toml_text::Value;
use postrider_common::campaign::{DatabaseAt, HttpSource, InvalidDatabaseAt, Source, SqlSource};
use postrider_common::duration;
use postrider_common::limits::{HTTP_TIMEOUT_MS, SQL_TIMEOUT_MS};
use postrider_outgoing::Target;
use std::collections::BTreeMap;
use std::path::Path;

const HTTP_KEYS: &[&str] = &["url", "headers", "timeout"];
const SQL_KEYS: &[&str] = &["url", "query", "key", "timeout"];

/// A source, and the key that stands beside it.
#[derive(Debug)]
pub struct Elsewhere {
    pub source: Source,
    pub key: Option<String>,
}

/// `has_key`: `audience.key` is given.
pub fn read(fields: &Fields<'_>, has_key: bool, complaints: &mut Complaints) -> Option<Elsewhere> {
    sql(fields, has_key, complaints)
        .or_else(|| http(fields, complaints))
        .or_else(|| file(fields, complaints))
        .or_else(|| list(fields, complaints))
}

fn sql(fields: &Fields<'_>, has_key: bool, complaints: &mut Complaints) -> Option<Elsewhere> {
    let entry = fields.entry("sql")?;
    let Value::Table(table) = &entry.node.value else {
        complaints
            .at(entry.line, "audience.sql must be a table, such as { url = \"env:DIGEST_DB\", query = \"SELECT …\" }");
        return None;
    };
    let inner = Fields::new("audience.sql.", table, SQL_KEYS, complaints);
    for unread in ["encoding", "delimiter"] {
        if let Some(entry) = fields.entry(unread) {
            complaints.at(entry.line, format!("audience.{unread} says nothing of a query: leave it out"));
        }
    }
    let key = inner.text("key", complaints);
    if let (true, Some((_, line))) = (has_key, &key) {
        complaints.at(*line, "audience.key and audience.sql.key are both there: keep one");
    }
    let mut timeout_ms = SQL_TIMEOUT_MS;
    if let Some((text, line)) = inner.text("timeout", complaints) {
        match duration::parse(&text) {
            Ok(timeout) => timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            Err(why) => complaints.at(line, format!("audience.sql.timeout: {why}")),
        }
    }
    for wanted in ["url", "query"] {
        if inner.entry(wanted).is_none() {
            complaints.at(entry.line, format!("audience.sql.{wanted} is missing"));
        }
    }
    let (url, line) = inner.text("url", complaints)?;
    // What was written there is not repeated: it may be a password.
    let told = |why: InvalidDatabaseAt| complaints.at(line, format!("audience.sql.url: {why}"));
    let database = url.parse::<DatabaseAt>().map_err(told).ok()?;
    let (query, _) = inner.text("query", complaints)?;
    let key = key.map(|(name, _)| name).filter(|name| !name.is_empty());
    Some(Elsewhere { source: Source::Sql(SqlSource { database, query, timeout_ms }), key })
}

/// A URL, or a table that says how it is read.
fn http(fields: &Fields<'_>, complaints: &mut Complaints) -> Option<Elsewhere> {
    let entry = fields.entry("http")?;
    for unread in ["encoding", "delimiter"] {
        if let Some(entry) = fields.entry(unread) {
            complaints.at(entry.line, format!("audience.{unread} says nothing of pages of NDJSON: leave it out"));
        }
    }
    let (mut timeout_ms, mut headers) = (HTTP_TIMEOUT_MS, BTreeMap::new());
    let (field, url) = match &entry.node.value {
        Value::Text(url) => ("audience.http", Some((url.clone(), entry.line))),
        Value::Table(table) => {
            let inner = Fields::new("audience.http.", table, HTTP_KEYS, complaints);
            headers = inner.text_table("headers", complaints);
            if let Some((text, line)) = inner.text("timeout", complaints) {
                match duration::parse(&text) {
                    Ok(timeout) => timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
                    Err(why) => complaints.at(line, format!("audience.http.timeout: {why}")),
                }
            }
            if inner.entry("url").is_none() {
                complaints.at(entry.line, "audience.http.url is missing");
            }
            ("audience.http.url", inner.text("url", complaints))
        }
        other => {
            let what = other.kind();
            complaints.at(entry.line, format!("audience.http must be a URL or a table {{ url = \"…\" }}, not {what}"));
            return None;
        }
    };
    let (url, line) = url?;
    if let Err(why) = url.parse::<Target>() {
        complaints.at(line, format!("{field}: {why}"));
        return None;
    }
    Some(Elsewhere { source: Source::Http(HttpSource { url, headers, timeout_ms }), key: None })
}

/// A saved list, by its name.
fn list(fields: &Fields<'_>, complaints: &mut Complaints) -> Option<Elsewhere> {
    let (name, line) = fields.text("list", complaints)?;
    for unread in ["encoding", "delimiter"] {
        if let Some(entry) = fields.entry(unread) {
            complaints.at(entry.line, format!("audience.{unread} says nothing of a list: leave it out"));
        }
    }
    match name.parse() {
        Ok(name) => Some(Elsewhere { source: Source::List { name }, key: None }),
        Err(why) => {
            complaints.at(line, format!("audience.list: {why}"));
            None
        }
    }
}

fn file(fields: &Fields<'_>, complaints: &mut Complaints) -> Option<Elsewhere> {
    let (path, line) = fields.text("file", complaints)?;
    let Some(format) = format_of(Path::new(&path)) else {
        complaints.at(line, format!("audience.file: {ENDINGS}"));
        return None;
    };
    Some(Elsewhere { source: Source::File { path, format }, key: None })
}
