//! Reaches the database and has the query read within its time.

use crate::fault::{self, Asked, Fault, When};
use crate::{keys, mysql, postgres, shorten, sqlite};
use async_trait::async_trait;
use postrider_common::limits::FIELDS_MAX;
use sqlx::mysql::MySqlConnectOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Either};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

/// To reach the server and to be let in.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// After the server should have ended the query by itself.
const TIMEOUT_GRACE: Duration = Duration::from_secs(5);
/// How the server knows us.
const APPLICATION_NAME: &str = "postrider";

#[derive(Debug)]
pub enum Database {
    Postgres(Box<PgConnectOptions>),
    MySql(Box<MySqlConnectOptions>),
    Sqlite(PathBuf),
}

/// What a URL says.
#[derive(Debug)]
pub enum Found {
    Server(Database),
    /// A file, by the path in the URL: the caller knows which may be read.
    File(String),
}

/// Errors repeat nothing of it.
pub fn parse(url: &str) -> Result<Found, &'static str> {
    let url = url.trim();
    let Some((scheme, rest)) = url.split_once(':') else { return Err("what is there is no URL") };
    match scheme {
        "postgres" | "postgresql" => {
            let options = PgConnectOptions::from_str(url).map_err(|_| "what is there is no URL of Postgres")?;
            // Without statements that the server keeps: poolers in between may give each to another server.
            let options =
                options.application_name(APPLICATION_NAME).statement_cache_capacity(0).extra_float_digits(None);
            Ok(Found::Server(Database::Postgres(Box::new(options.disable_statement_logging()))))
        }
        "mysql" | "mariadb" => {
            let url = format!("mysql:{rest}");
            let options = MySqlConnectOptions::from_str(&url).map_err(|_| "what is there is no URL of MySQL")?;
            Ok(Found::Server(Database::MySql(Box::new(options.disable_statement_logging()))))
        }
        "sqlite" => Ok(Found::File(rest.trim_start_matches("//").to_owned())),
        _ => Err("what is there is no URL of Postgres, MySQL, MariaDB or SQLite"),
    }
}

/// Takes the rows.
#[async_trait]
pub trait Rows: Send {
    /// Before the first row: the names of the columns.
    fn begin(&mut self, columns: &[String]) -> Result<(), Fault>;

    /// A row as a JSON object, without the end of its line.
    async fn row(&mut self, line: &[u8]) -> Result<(), Fault>;
}

/// One query.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    pub text: &'a str,
    /// What stands for `PLACEHOLDER`. None: it has no place for them.
    pub keys: Option<&'a [&'a str]>,
    pub asked: Asked,
}

/// All rows, in the order in which the server sends them.
pub async fn fetch(database: &Database, query: &Query<'_>, rows: &mut dyn Rows) -> Result<(), Fault> {
    // A semicolon at the end is what people are used to.
    let query = &Query { text: query.text.trim().trim_end_matches(';').trim_end(), ..*query };
    let reading = async {
        match database {
            Database::Postgres(options) => postgres::fetch(options, query, rows).await,
            Database::MySql(options) => mysql::fetch(options, query, rows).await,
            Database::Sqlite(path) => sqlite::fetch(path, query, rows).await,
        }
    };
    let within = CONNECT_TIMEOUT + query.asked.timeout + TIMEOUT_GRACE;
    tokio::time::timeout(within, reading).await.unwrap_or_else(|_| Err(fault::timeout(query.asked)))
}

/// To a server, in time.
pub(crate) async fn connect<O>(options: &O, query: &Query<'_>) -> Result<O::Connection, Fault>
where
    O: ConnectOptions<Connection: Sized>,
{
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await;
    let connected = connected.map_err(|_| fault::unreachable("it does not answer"))?;
    connected.map_err(|error| fault::of(&error, When::Connecting, query.asked))
}

/// All is read: how the connection ends does not matter.
pub(crate) async fn close(connection: impl Connection) {
    let _ = tokio::time::timeout(CONNECT_TIMEOUT, connection.close()).await;
}

impl Query<'_> {
    /// With a parameter for each key at each place, as MySQL and SQLite write them; and how many these are.
    pub(crate) fn listed(&self) -> (String, usize) {
        let Some(keys) = self.keys else { return (self.text.to_owned(), 0) };
        let mut places = 0;
        let one = vec!["?"; keys.len()].join(", ");
        let text = keys::with(self.text, |_| {
            places += 1;
            one.clone()
        });
        (text, places * keys.len())
    }

    /// The keys once for each place, as `listed` wants them bound.
    pub(crate) fn bound(&self, parameters: usize) -> impl Iterator<Item = &str> {
        self.keys.unwrap_or_default().iter().copied().cycle().take(parameters)
    }

    /// Checked before the first row. `wanted`: parameters that are bound.
    pub(crate) fn check(
        &self,
        columns: &[String],
        parameters: usize,
        wanted: usize,
        rows: &mut dyn Rows,
    ) -> Result<(), Fault> {
        let Asked { setting, timeout: _ } = self.asked;
        let wrong = |message: String| {
            let mend = format!("mend {setting}.query, apply the campaign and run it again");
            Fault::lasting("source_query", message, mend)
        };
        if columns.is_empty() {
            return Err(wrong("the query gives no columns: it is no SELECT".to_owned()));
        }
        if parameters != wanted {
            return Err(wrong("the query has parameters, and nothing is given for them".to_owned()));
        }
        if columns.len() > FIELDS_MAX {
            let count = columns.len();
            return Err(wrong(format!(
                "the query gives {count} columns, and a recipient has at most {FIELDS_MAX} fields"
            )));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = columns.iter().find(|name| !names.insert(*name)) {
            let message = format!("two columns of the query have the name '{}'", shorten(twice));
            return Err(Fault::lasting("audience_header", message, "give one of them another name: AS …"));
        }
        rows.begin(columns)
    }
}

pub(crate) fn count<T>(parameters: Option<Either<&[T], usize>>) -> usize {
    match parameters {
        Some(Either::Left(types)) => types.len(),
        Some(Either::Right(number)) => number,
        None => 0,
    }
}

/// What is no text, number, date or JSON.
pub(crate) fn unreadable_column(name: &str, kind: &str) -> Fault {
    let message = format!("the column '{}' of the query is {kind}, which no message can hold", shorten(name));
    Fault::lasting("source_column_type", message, "leave it out of the query, or encode it as text there (hex, base64)")
}
