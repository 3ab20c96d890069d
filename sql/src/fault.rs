//! What went wrong at a database, as an error of the run: what it is, whether it may pass, and what to do.
//!
//! A server's message is told where it speaks of the query (names of tables and columns, syntax), and not where it may
//! quote a row: what a recipient is called is in no error.

use postrider_common::duration;
use postrider_common::run::RunError;
use std::time::Duration;

/// Why a query was not read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Neither it nor anything in it tells a password or a recipient.
    pub error: RunError,
    /// It may go better in a moment.
    pub passes: bool,
}

impl Fault {
    /// The query, or what is said of it, must be mended.
    pub fn lasting(code: &str, message: impl Into<String>, mend: impl Into<String>) -> Self {
        let error = RunError { code: code.to_owned(), message: message.into(), mend: mend.into() };
        Self { error, passes: false }
    }

    /// Such as a server that cannot be reached.
    pub fn passing(code: &str, message: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { passes: true, ..Self::lasting(code, message, mend) }
    }
}

/// What a query was asked as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The query and its rows may take this long.
    pub timeout: Duration,
    /// Of the campaign, which errors name: `audience.sql`, or `data_sql`.
    pub setting: &'static str,
}

/// Characters of a server's message.
const MESSAGE_CHARS_MAX: usize = 500;

/// When it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Connecting,
    Reading,
}

/// What a server said: its code, and the SQLSTATE if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said<'a> {
    pub code: Option<u32>,
    pub state: &'a str,
    pub message: &'a str,
}

pub(crate) fn timeout(Asked { timeout, setting }: Asked) -> Fault {
    let message = format!("the query and its rows took more than {} ({setting}.timeout)", duration::print(timeout));
    let mend = format!("make the query quicker, or raise {setting}.timeout, apply the campaign and run it again");
    Fault::lasting("source_timeout", message, mend)
}

const RESUME: &str = "see that the database can be reached from every master, then resume the run";

#[cfg(feature = "drivers")]
pub(crate) fn of(error: &sqlx::Error, when: When, asked: Asked) -> Fault {
    match error {
        sqlx::Error::Database(said) => {
            let number =
                said.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>().map(|error| u32::from(error.number()));
            let state = said.code().unwrap_or_default();
            // SQLite numbers its errors and has no SQLSTATE.
            let is_sqlite = said.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some();
            let said = Said { code: number, state: if is_sqlite { "" } else { &state }, message: said.message() };
            if is_sqlite { sqlite(&said, &state, asked) } else { server(&said, when, asked) }
        }
        sqlx::Error::Io(error) => match when {
            When::Connecting => unreachable(&error.to_string()),
            When::Reading => lost(&error.to_string()),
        },
        sqlx::Error::ColumnDecode { index, source } => {
            let message = format!("the column {} of the query has a value that is no text: {source}", clean(index));
            Fault::lasting("source_column_type", message, "leave it out of the query, or encode it as text there")
        }
        sqlx::Error::Tls(error) => unreachable(&format!("TLS: {error}")),
        other => match when {
            When::Connecting => unreachable(&other.to_string()),
            When::Reading => lost(&other.to_string()),
        },
    }
}

pub(crate) fn unreachable(why: &str) -> Fault {
    Fault::passing("source_unreachable", format!("the database cannot be reached: {}", clean(why)), RESUME)
}

fn lost(why: &str) -> Fault {
    Fault::passing("source_lost", format!("the connection to the database ended early: {}", clean(why)), RESUME)
}

fn clean(text: &str) -> String {
    text.chars().take(MESSAGE_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Of Postgres, MySQL and MariaDB.
fn server(said: &Said<'_>, when: When, asked: Asked) -> Fault {
    let class = said.state.get(..2).unwrap_or_default();
    let message = clean(said.message);
    match (said.state, said.code, class) {
        // query_canceled; MySQL's and MariaDB's limits of a statement.
        ("57014", ..) | (_, Some(3024 | 1969), _) => timeout(asked),
        (_, Some(1044 | 1045 | 1698 | 1049), _) | ("3D000", ..) | (.., "28") => {
            let setting = asked.setting;
            let mend =
                format!("mend user, password or database in the URL that {setting}.url names, then resume the run");
            Fault::lasting("source_refused", format!("the database does not let us in: {message}"), mend)
        }
        // Too many connections, starting up or shutting down, a conflict with recovery of a replica, connections.
        (_, Some(1040 | 1053 | 1152..=1161 | 1203 | 1205 | 1213 | 1226), _) | (.., "53" | "57" | "08" | "40") => {
            match when {
                When::Connecting => unreachable(&message),
                When::Reading => lost(&message),
            }
        }
        _ => {
            let setting = asked.setting;
            let mend =
                format!("mend {setting}.query, or what the user may read, then apply the campaign and run it again");
            let code = said.code.map_or(String::new(), |code| format!("{code}, "));
            let message = match tells_of_the_query(said) {
                true => format!("the query fails: {message} ({code}SQLSTATE {})", clean(said.state)),
                false => format!("the query fails over a value ({code}SQLSTATE {})", clean(said.state)),
            };
            Fault::lasting("source_query", message, mend)
        }
    }
}

/// Syntax, names and rights (42), what the server cannot do (0A, 54, 55), writing in a transaction that reads (25).
fn tells_of_the_query(said: &Said<'_>) -> bool {
    let classes = ["42", "0A", "25", "26", "34", "3F", "54", "55"];
    classes.iter().any(|class| said.state.starts_with(class)) || matches!(said.code, Some(1290 | 1792 | 1295))
}

fn sqlite(said: &Said<'_>, code: &str, asked: Asked) -> Fault {
    let message = clean(said.message);
    let primary = code.parse::<u32>().map_or(0, |code| code & 0xff);
    let resume = "see that the file is a database that the master may read, then resume the run";
    match primary {
        // SQLITE_BUSY, SQLITE_LOCKED.
        5 | 6 => Fault::passing("source_lost", format!("the database is in use: {message}"), RESUME),
        // SQLITE_INTERRUPT: by our own limit.
        9 => timeout(asked),
        // SQLITE_PERM, SQLITE_IOERR, SQLITE_CORRUPT, SQLITE_CANTOPEN, SQLITE_NOTADB.
        3 | 10 | 11 | 14 | 26 => {
            Fault::lasting("source_unreachable", format!("the database cannot be read: {message}"), resume)
        }
        _ => {
            let mend = format!("mend {}.query, then apply the campaign and run it again", asked.setting);
            Fault::lasting("source_query", format!("the query fails: {message} (code {code})"), mend)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_becomes_an_error_that_says_what_to_do() {
        let asked = Asked { timeout: Duration::from_mins(30), setting: "audience.sql" };
        let rows = [
            (None, "42703", "column \"emial\" does not exist", When::Reading, "source_query", false, true),
            (
                None,
                "22P02",
                "invalid input syntax for type integer: \"ada@example.com\"",
                When::Reading,
                "source_query",
                false,
                false,
            ),
            (Some(1366), "22007", "Incorrect value: 'ada@example.com'", When::Reading, "source_query", false, false),
            (Some(1054), "42S22", "Unknown column 'emial'", When::Reading, "source_query", false, true),
            (
                None,
                "25006",
                "cannot execute DELETE in a read-only transaction",
                When::Reading,
                "source_query",
                false,
                true,
            ),
            (
                None,
                "57014",
                "canceling statement due to statement timeout",
                When::Reading,
                "source_timeout",
                false,
                false,
            ),
            (Some(1969), "70100", "Query execution was interrupted", When::Reading, "source_timeout", false, false),
            (None, "57P01", "terminating connection", When::Reading, "source_lost", true, true),
            (None, "57P03", "the database system is starting up", When::Connecting, "source_unreachable", true, true),
            (None, "53300", "too many clients already", When::Connecting, "source_unreachable", true, true),
            (
                None,
                "28P01",
                "password authentication failed for user \"x\"",
                When::Connecting,
                "source_refused",
                false,
                true,
            ),
            (
                Some(1045),
                "28000",
                "Access denied for user 'x'@'localhost'",
                When::Connecting,
                "source_refused",
                false,
                true,
            ),
            (Some(1049), "42000", "Unknown database 'x'", When::Connecting, "source_refused", false, true),
            (Some(1040), "08004", "Too many connections", When::Connecting, "source_unreachable", true, true),
        ];
        for (code, state, message, when, expected, passes, told) in rows {
            let found = server(&Said { code, state, message }, when, asked);
            assert_eq!((found.error.code.as_str(), found.passes), (expected, passes), "{message}");
            assert_eq!(found.error.message.contains(message), told, "{found:?}");
            assert!(!found.error.message.contains("ada@"), "{found:?}");
            assert!(!found.error.mend.is_empty());
        }
        assert!(timeout(asked).error.message.contains("30m"));
        let busy = Said { code: None, state: "", message: "database is locked" };
        assert!(sqlite(&busy, "261", asked).passes);
        assert_eq!(sqlite(&busy, "9", asked).error.code, "source_timeout");
        assert_eq!(sqlite(&busy, "1", asked).error.code, "source_query");
    }
}
