//! The rows of a query, by `postrider_sql`, into pieces.
//!
//! The URL of the database is found when the run begins, by whoever fetches, and is in no error: what it says is told by
//! what the server and the system say, never by what was given.

use super::root::find as find_file;
use super::{FetchError, Fetcher, FilesRoot, Pieces, Wanted};
use async_trait::async_trait;
use postrider_common::campaign::{DatabaseAt, SqlSource};
use postrider_sql::{Asked, Database, Fault, Found, Query, Rows, fetch, parse};
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

/// Bytes of a file that holds a URL.
const URL_FILE_BYTES_MAX: u64 = 4096;
/// Where it stands in a campaign.
const SETTING: &str = "audience.sql";

#[derive(Debug)]
pub struct SqlFetcher {
    pub root: Option<FilesRoot>,
    pub source: SqlSource,
    pub wanted: Wanted,
}

impl From<Fault> for FetchError {
    fn from(Fault { error, passes }: Fault) -> Self {
        Self { error, passes }
    }
}

impl From<FetchError> for Fault {
    fn from(FetchError { error, passes }: FetchError) -> Self {
        Self { error, passes }
    }
}

struct Lines<'a> {
    wanted: &'a Wanted,
    pieces: &'a mut Pieces,
}

#[async_trait]
impl Rows for Lines<'_> {
    fn begin(&mut self, columns: &[String]) -> Result<(), Fault> {
        Ok(self.wanted.check(columns)?)
    }

    async fn row(&mut self, line: &[u8]) -> Result<(), Fault> {
        Ok(self.pieces.line(line).await?)
    }
}

#[async_trait]
impl Fetcher for SqlFetcher {
    async fn fetch(&self, pieces: &mut Pieces) -> Result<(), FetchError> {
        let (root, at) = (self.root.clone(), self.source.database.clone());
        let database = tokio::task::spawn_blocking(move || find(root.as_ref(), &at)).await;
        let ended = |error: tokio::task::JoinError| {
            let message = format!("looking for the database ended early: {error}");
            FetchError::passing("source_lost", message, "resume the run")
        };
        let database = database.map_err(ended)??;
        let asked = Asked { timeout: Duration::from_millis(self.source.timeout_ms), setting: SETTING };
        let query = Query { text: &self.source.query, keys: None, asked };
        Ok(fetch(&database, &query, &mut Lines { wanted: &self.wanted, pieces }).await?)
    }
}

/// Blocking.
fn find(root: Option<&FilesRoot>, at: &DatabaseAt) -> Result<Database, FetchError> {
    const URL: &str = "audience.sql.url";
    let wrong = |why: &str| {
        let mend = "give it such as postgres://USER:PASSWORD@HOST/DATABASE or mysql://…, the same for every master, then \
                    resume the run";
        FetchError::lasting("source_url", format!("{URL} ({at}): {why}"), mend)
    };
    let url = match at {
        DatabaseAt::Sqlite(path) => return Ok(Database::Sqlite(find_file(root, URL, path)?)),
        DatabaseAt::Env(name) => match std::env::var(name) {
            Ok(url) => url,
            Err(std::env::VarError::NotPresent) => return Err(wrong("the master has no such variable")),
            Err(std::env::VarError::NotUnicode(_)) => return Err(wrong("the variable is not UTF-8")),
        },
        DatabaseAt::File(path) => {
            let path = find_file(root, URL, path)?;
            read(&path).map_err(|error| wrong(&format!("the file cannot be read: {error}")))?
        }
    };
    match parse(&url).map_err(wrong)? {
        Found::Server(database) => Ok(database),
        Found::File(path) => Ok(Database::Sqlite(find_file(root, URL, &path)?)),
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(URL_FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}
