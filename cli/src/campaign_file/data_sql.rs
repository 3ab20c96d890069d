//! `data_sql`: the query that gives the merge fields of each batch. What it says is checked by the master.

use super::data_url::{on_missing, timeout};
use super::fields::{Complaints, Fields};
use crate::toml_text::Value;
use postrider_common::message::DataSql;

const KEYS: &[&str] = &["url", "query", "key", "timeout", "on_missing_data"];
const SUCH_AS: &str = "{ url = \"env:DATA_DB\", query = \"SELECT … WHERE id IN (:keys)\", key = \"id\" }";

pub(super) fn read(top: &Fields<'_>, complaints: &mut Complaints) -> Option<DataSql> {
    let entry = top.entry("data_sql")?;
    if let Some(other) = top.entry("data_url") {
        complaints.at(other.line, "data_url and data_sql are both there: keep one");
    }
    let Value::Table(table) = &entry.node.value else {
        complaints.at(entry.line, format!("data_sql must be a table, such as {SUCH_AS}"));
        return None;
    };
    let fields = Fields::new("data_sql.", table, KEYS, complaints);
    for wanted in ["url", "query", "key"] {
        if fields.entry(wanted).is_none() {
            complaints.at(entry.line, format!("data_sql.{wanted} is missing: write {SUCH_AS}"));
        }
    }
    let timeout_ms = timeout("data_sql", &fields, complaints);
    let on_missing = on_missing(&fields, complaints);
    let (url, line) = fields.text("url", complaints)?;
    if !url.starts_with("env:") {
        // What was written there is not repeated: it may be a password.
        let why =
            "data_sql.url must be \"env:NAME\", a variable of the workers that holds the URL, and never the URL itself";
        complaints.at(line, why);
    }
    let (query, _) = fields.text("query", complaints)?;
    let (key, _) = fields.text("key", complaints)?;
    Some(DataSql { url, query, key, timeout_ms, on_missing })
}
