//! Finds the database and has the query read within its time.

use super::super::{FetchError, Fetcher, FilesRoot, Pieces, Wanted};
use super::fault::When;
use super::locate::{self, Database};
use super::{fault, mysql, postgres, sqlite};
use async_trait::async_trait;
use postrider_common::campaign::SqlSource;
use postrider_common::limits::FIELDS_MAX;
use sqlx::{ConnectOptions, Connection, Either};
use std::collections::BTreeSet;
use std::time::Duration;

/// To reach the server and to be let in.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// After the server should have ended the query by itself.
const TIMEOUT_GRACE: Duration = Duration::from_secs(5);
/// How the server knows us.
pub(super) const APPLICATION_NAME: &str = "postrider";

#[derive(Debug)]
pub struct SqlFetcher {
    pub root: Option<FilesRoot>,
    pub source: SqlSource,
    pub wanted: Wanted,
}

/// One query, and how long it may take.
pub(super) struct Query<'a> {
    pub text: &'a str,
    pub timeout: Duration,
    wanted: &'a Wanted,
}

#[async_trait]
impl Fetcher for SqlFetcher {
    async fn fetch(&self, pieces: &mut Pieces) -> Result<(), FetchError> {
        let (root, at) = (self.root.clone(), self.source.database.clone());
        let database = tokio::task::spawn_blocking(move || locate::find(root.as_ref(), &at)).await;
        let database = database.map_err(|error| fault::ended(&error.to_string()))??;
        let timeout = Duration::from_millis(self.source.timeout_ms);
        // A semicolon at the end is what people are used to.
        let text = self.source.query.trim().trim_end_matches(';').trim_end();
        let query = Query { text, timeout, wanted: &self.wanted };
        let reading = async {
            match database {
                Database::Postgres(options) => postgres::fetch(&options, &query, pieces).await,
                Database::MySql(options) => mysql::fetch(&options, &query, pieces).await,
                Database::Sqlite(path) => sqlite::fetch(&path, &query, pieces).await,
            }
        };
        let within = CONNECT_TIMEOUT + timeout + TIMEOUT_GRACE;
        tokio::time::timeout(within, reading).await.unwrap_or_else(|_| Err(fault::timeout(timeout)))
    }
}

/// To a server, in time.
pub(super) async fn connect<O>(options: &O, query: &Query<'_>) -> Result<O::Connection, FetchError>
where
    O: ConnectOptions<Connection: Sized>,
{
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await;
    let connected = connected.map_err(|_| fault::unreachable("it does not answer"))?;
    connected.map_err(|error| fault::of(&error, When::Connecting, query.timeout))
}

/// All is read: how the connection ends does not matter.
pub(super) async fn close(connection: impl Connection) {
    let _ = tokio::time::timeout(CONNECT_TIMEOUT, connection.close()).await;
}

impl Query<'_> {
    /// Checked before the first row.
    pub fn check(&self, columns: &[String], parameters: usize) -> Result<(), FetchError> {
        let mend = "mend audience.sql.query, apply the campaign and run it again";
        if columns.is_empty() {
            return Err(FetchError::lasting("source_query", "the query gives no columns: it is no SELECT", mend));
        }
        if parameters > 0 {
            return Err(FetchError::lasting(
                "source_query",
                "the query has parameters, and nothing is given for them",
                mend,
            ));
        }
        if columns.len() > FIELDS_MAX {
            let message =
                format!("the query gives {} columns, and a recipient has at most {FIELDS_MAX} fields", columns.len());
            return Err(FetchError::lasting("source_query", message, mend));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = columns.iter().find(|name| !names.insert(*name)) {
            let message = format!("two columns of the query have the name '{}'", crate::audience::shorten(twice));
            return Err(FetchError::lasting("audience_header", message, "give one of them another name: AS …"));
        }
        self.wanted.check(columns)
    }
}

pub(super) fn count<T>(parameters: Option<Either<&[T], usize>>) -> usize {
    match parameters {
        Some(Either::Left(types)) => types.len(),
        Some(Either::Right(number)) => number,
        None => 0,
    }
}

/// What is no text, number, date or JSON.
pub(super) fn unreadable_column(name: &str, kind: &str) -> FetchError {
    let message =
        format!("the column '{}' of the query is {kind}, which no message can hold", crate::audience::shorten(name));
    FetchError::lasting(
        "source_column_type",
        message,
        "leave it out of the query, or encode it as text there (hex, base64)",
    )
}
