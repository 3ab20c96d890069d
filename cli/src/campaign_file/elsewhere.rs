//! Sources that a master reads: a query, and files of its own. Nothing of them is here to be checked but how they are written.

use super::audience::{ENDINGS, format_of};
use super::fields::{Complaints, Fields};
use crate::toml_text::Value;
use postrider_common::campaign::{DatabaseAt, InvalidDatabaseAt, Source, SqlSource};
use postrider_common::duration;
use postrider_common::limits::SQL_TIMEOUT_MS;
use std::path::Path;

const SQL_KEYS: &[&str] = &["url", "query", "key", "timeout"];

/// A source, and the key that stands beside it.
#[derive(Debug)]
pub struct Elsewhere {
    pub source: Source,
    pub key: Option<String>,
}

/// `has_key`: `audience.key` is given.
pub fn read(fields: &Fields<'_>, has_key: bool, complaints: &mut Complaints) -> Option<Elsewhere> {
    sql(fields, has_key, complaints).or_else(|| file(fields, complaints))
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

fn file(fields: &Fields<'_>, complaints: &mut Complaints) -> Option<Elsewhere> {
    let (path, line) = fields.text("file", complaints)?;
    let Some(format) = format_of(Path::new(&path)) else {
        complaints.at(line, format!("audience.file: {ENDINGS}"));
        return None;
    };
    Some(Elsewhere { source: Source::File { path, format }, key: None })
}
