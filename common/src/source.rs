//! Where recipients come from.

use crate::campaign::AudienceFormat;
use crate::ids::ListName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Where the rows of an audience are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// An uploaded audience, named by the hex SHA-256 of its contents.
    Stored { sha256: String, format: AudienceFormat },
    /// Rows given with the request, each a JSON object.
    Inline { rows: Vec<String> },
    /// The rows of a query.
    Sql(SqlSource),
    /// Pages of NDJSON.
    Http(HttpSource),
    /// A file that the masters can read, relative to their `master.files_root`.
    File { path: String, format: AudienceFormat },
    /// A saved list: what its newest version is when a run begins. With it an empty address field means the list's own,
    /// and no key field that of the list.
    List { name: ListName },
}

impl Source {
    /// It cannot be read twice the same: it is read once, into the storage, and a run reads what is there.
    pub fn is_fetched(&self) -> bool {
        match self {
            // Of a list a run has what is stored of a version.
            Self::Stored { .. } | Self::Inline { .. } | Self::List { .. } => false,
            Self::Sql(_) | Self::Http(_) | Self::File { .. } => true,
        }
    }
}

/// Pages of NDJSON over HTTP, each but the last with a link to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpSource {
    /// Of the first page; http or https, without credentials.
    pub url: String,
    /// Values may be `env:NAME`, of the master that reads.
    pub headers: BTreeMap<String, String>,
    /// Of one page. Milliseconds.
    pub timeout_ms: u64,
}

/// A query, and the database that answers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlSource {
    pub database: DatabaseAt,
    /// One statement, without a semicolon between two.
    pub query: String,
    /// It and the reading of its rows may take this long. Milliseconds.
    pub timeout_ms: u64,
}

/// Where a master finds the URL of a database. The URL itself may hold a password, so it is in no campaign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum DatabaseAt {
    /// In a variable of the master's environment.
    Env(String),
    /// In a file under `master.files_root`.
    File(String),
    /// It is a file of SQLite under `master.files_root`.
    Sqlite(String),
}

/// Does not repeat what was given: that may be a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it must say where the master finds the database, and never hold the URL itself, which may have a password: \
     \"env:NAME\" (a variable of the master), \"file:PATH\" (a file with the URL) or \"sqlite:PATH\" (a database of \
     SQLite), paths under the master's files_root"
)]
pub struct InvalidDatabaseAt;

impl FromStr for DatabaseAt {
    type Err = InvalidDatabaseAt;

    fn from_str(text: &str) -> Result<Self, InvalidDatabaseAt> {
        let (kind, rest) = text.split_once(':').ok_or(InvalidDatabaseAt)?;
        let is_path = !rest.is_empty() && !rest.contains(['\0', '\n', '\r']) && !rest.starts_with("//");
        let is_path = is_path && !rest.contains("://");
        match kind {
            "env" => {
                let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let begins = rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
                if begins && rest.chars().all(is_name) {
                    Ok(Self::Env(rest.to_owned()))
                } else {
                    Err(InvalidDatabaseAt)
                }
            }
            "file" if is_path => Ok(Self::File(rest.to_owned())),
            "sqlite" if is_path => Ok(Self::Sqlite(rest.to_owned())),
            _ => Err(InvalidDatabaseAt),
        }
    }
}

impl fmt::Display for DatabaseAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{path}"),
            Self::Sqlite(path) => write!(f, "sqlite:{path}"),
        }
    }
}

impl From<DatabaseAt> for String {
    fn from(at: DatabaseAt) -> Self {
        at.to_string()
    }
}

impl TryFrom<String> for DatabaseAt {
    type Error = InvalidDatabaseAt;

    fn try_from(text: String) -> Result<Self, InvalidDatabaseAt> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_never_a_place() {
        for good in ["env:DIGEST_DB", "env:_x1", "file:db/url", "file:/etc/postrider/url", "sqlite:people.db"] {
            assert_eq!(good.parse::<DatabaseAt>().map(|at| at.to_string()).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "DIGEST_DB",
            "env:",
            "env:1X",
            "env:A B",
            "file:",
            "file:a\nb",
            "postgres://ada:secret@localhost/people",
            "mysql://localhost/people",
            "sqlite://people.db",
            "file://people",
            "file:postgres://ada:secret@localhost/people",
            "postgres:secret",
        ] {
            let error = bad.parse::<DatabaseAt>().expect_err(bad).to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
