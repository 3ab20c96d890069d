//! Merge fields from a database: one query for a batch, whose rows are the fields of one recipient each.

use super::Refusal;
use super::answer::{Absent, Found, checked};
use async_trait::async_trait;
use postrider_common::limits::DATA_ANSWER_BYTES_MAX;
use postrider_common::message::DataSql;
use postrider_outgoing::{Secret, Settings};
use postrider_sql::{Asked, Database, Fault, Found as Parsed, Query, Rows, fetch, parse};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Where it stands in a campaign.
const SETTING: &str = "data_sql";

/// The query of a campaign.
#[derive(Debug, Clone)]
pub(super) struct Asking {
    url: Secret,
    query: String,
    key: String,
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self { why: fault.error.message, is_passing: fault.passes, retry_after: None }
    }
}

impl Asking {
    pub fn new(data: &DataSql) -> Result<Self, String> {
        let url = data.url.parse().map_err(|error| format!("data_sql.url: {error}"))?;
        Ok(Self { url, query: data.query.clone(), key: data.key.clone() })
    }

    /// The fields of these recipients.
    pub async fn ask(
        &self,
        timeout: Duration,
        settings: &Settings,
        keys: &[(u32, &str)],
    ) -> Result<BTreeMap<u32, Found>, Refusal> {
        let lasting = |why: &dyn std::fmt::Display| Refusal::lasting(format!("data_sql.url: {why}"));
        let url = self.url.read(settings).map_err(|error| lasting(&error))?;
        let database = match parse(url.reveal()).map_err(|why| lasting(&why))? {
            Parsed::Server(database) => database,
            // Whoever set the variable named the file.
            Parsed::File(path) => Database::Sqlite(PathBuf::from(path)),
        };
        let given: Vec<&str> = keys.iter().map(|(_, key)| *key).collect();
        let asked = Asked { timeout, setting: SETTING };
        let query = Query { text: &self.query, keys: Some(&given), asked };
        let mut answers = Answers::of(&self.key, keys);
        fetch(&database, &query, &mut answers).await?;
        Ok(answers.found)
    }
}

/// What is known of each recipient so far.
struct Answers<'a> {
    key: &'a str,
    indexes: BTreeMap<&'a str, u32>,
    found: BTreeMap<u32, Found>,
    bytes: u64,
}

impl<'a> Answers<'a> {
    fn of(key: &'a str, keys: &[(u32, &'a str)]) -> Self {
        let indexes = keys.iter().map(|(index, key)| (*key, *index)).collect();
        let found = keys.iter().map(|(index, _)| (*index, Err(Absent::Missing))).collect();
        Self { key, indexes, found, bytes: 0 }
    }

    /// Rows of others say nothing.
    fn take(&mut self, line: &[u8]) -> Result<(), String> {
        self.bytes += line.len() as u64;
        if self.bytes > DATA_ANSWER_BYTES_MAX {
            return Err(format!("the rows of a batch have over {DATA_ANSWER_BYTES_MAX} bytes (data_answer_bytes_max)"));
        }
        // What cannot be read is not repeated.
        let row = serde_json::from_slice(line).map_err(|_| "a row is no JSON".to_owned())?;
        let Value::Object(fields) = row else { return Err("a row is no object".to_owned()) };
        let key = match fields.get(self.key) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) | None => return Ok(()),
        };
        let Some(found) = self.indexes.get(key.as_str()).and_then(|index| self.found.get_mut(index)) else {
            return Ok(());
        };
        *found = match found {
            Err(Absent::Missing) => checked(Some(Value::Object(fields))),
            Ok(_) | Err(Absent::Shape | Absent::Size | Absent::Several) => Err(Absent::Several),
        };
        Ok(())
    }
}

#[async_trait]
impl Rows for Answers<'_> {
    fn begin(&mut self, columns: &[String]) -> Result<(), Fault> {
        if columns.iter().any(|column| column == self.key) {
            return Ok(());
        }
        let message = format!("the query has no column '{}' (data_sql.key)", self.key);
        Err(Fault::lasting("source_query", message, "select the key, then apply the campaign and run it again"))
    }

    async fn row(&mut self, line: &[u8]) -> Result<(), Fault> {
        let mend = "select less, apply the campaign and run it again";
        self.take(line).map_err(|why| Fault::lasting("data_sql", why, mend))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_recipient_gets_its_row() {
        let keys = [(0, "ada"), (3, "7"), (4, "twice"), (5, "nobody")];
        let mut answers = Answers::of("id", &keys);
        assert!(answers.begin(&["name".to_owned()]).is_err());
        assert!(answers.begin(&["id".to_owned(), "name".to_owned()]).is_ok());
        for row in [
            json!({"id": "ada", "name": "Ada"}),
            json!({"id": 7, "name": "Seven"}),
            json!({"id": "twice", "name": "1"}),
            json!({"id": "twice", "name": "2"}),
            json!({"id": "stranger", "name": "x"}),
            json!({"id": null, "name": "x"}),
        ] {
            answers.take(row.to_string().as_bytes()).unwrap();
        }
        let found = &answers.found;
        assert_eq!(found[&0], Ok(json!({"id": "ada", "name": "Ada"}).as_object().unwrap().clone()));
        assert_eq!(found[&3].as_ref().map(|fields| fields["name"].clone()), Ok(json!("Seven")));
        assert_eq!((&found[&4], &found[&5]), (&Err(Absent::Several), &Err(Absent::Missing)));
        assert!(answers.take(b"{\"secret").is_err_and(|why| !why.contains("secret")));
        let long = vec![b' '; usize::try_from(DATA_ANSWER_BYTES_MAX).unwrap()];
        assert!(answers.take(&long).is_err_and(|why| why.contains("data_answer_bytes_max")));
    }
}
