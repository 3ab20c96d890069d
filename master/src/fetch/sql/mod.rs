//! The rows of a query, in one transaction that only reads and sees one instant.
//!
//! The URL of the database is found when the run begins, by whoever fetches, and is in no error: what it says is told by
//! what the server and the system say, never by what was given. `locate` finds it, `postgres`, `mysql` and `sqlite` read,
//! `line` writes a row as JSON, `fault` turns errors into those of a run, `statement` counts statements.

mod fault;
mod line;
mod statement;

#[cfg(feature = "sql")]
mod fetcher;
#[cfg(feature = "sql")]
mod locate;
#[cfg(feature = "sql")]
mod mysql;
#[cfg(feature = "sql")]
mod postgres;
#[cfg(feature = "sql")]
mod sqlite;

#[cfg(feature = "sql")]
pub(super) use fetcher::SqlFetcher;
