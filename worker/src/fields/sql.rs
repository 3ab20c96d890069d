//! Merge fields from a database: one query for a batch, whose rows are the fields of one recipient each.

use super::Refusal;
use super::answer::Found;
use super::rows::Answers;
use async_trait::async_trait;
use postrider_common::message::DataSql;
use postrider_outgoing::{Secret, Settings};
use postrider_sql::{Asked, Database, Fault, Found as Parsed, Query, Rows, fetch, parse};
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
        Ok(answers.end())
    }
}

#[async_trait]
impl Rows for Answers<'_> {
    fn begin(&mut self, columns: &[String]) -> Result<(), Fault> {
        let mend = "select the key, then apply the campaign and run it again";
        self.begin_rows(columns).map_err(|why| Fault::lasting("source_query", why, mend))
    }

    async fn row(&mut self, line: &[u8]) -> Result<(), Fault> {
        let mend = "select less, apply the campaign and run it again";
        self.take(line).map_err(|why| Fault::lasting("data_sql", why, mend))
    }
}
