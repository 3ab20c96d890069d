//! Where the database is. What is found is a URL with a password: nothing of it is told.

use super::super::root::find as find_file;
use super::super::{FetchError, FilesRoot};
use super::fetcher::APPLICATION_NAME;
use postrider_common::campaign::DatabaseAt;
use sqlx::ConnectOptions as _;
use sqlx::mysql::MySqlConnectOptions;
use sqlx::postgres::PgConnectOptions;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

/// Bytes of a file that holds a URL.
const URL_FILE_BYTES_MAX: u64 = 4096;

#[derive(Debug)]
pub(super) enum Database {
    Postgres(Box<PgConnectOptions>),
    MySql(Box<MySqlConnectOptions>),
    Sqlite(PathBuf),
}

/// Blocking.
pub(super) fn find(root: Option<&FilesRoot>, at: &DatabaseAt) -> Result<Database, FetchError> {
    const SETTING: &str = "audience.sql.url";
    let wrong = |why: &str| {
        let mend = "give it such as postgres://USER:PASSWORD@HOST/DATABASE or mysql://…, the same for every master, then \
                    resume the run";
        FetchError::lasting("source_url", format!("{SETTING} ({at}): {why}"), mend)
    };
    let url = match at {
        DatabaseAt::Sqlite(path) => return Ok(Database::Sqlite(find_file(root, SETTING, path)?)),
        DatabaseAt::Env(name) => match std::env::var(name) {
            Ok(url) => url,
            Err(std::env::VarError::NotPresent) => return Err(wrong("the master has no such variable")),
            Err(std::env::VarError::NotUnicode(_)) => return Err(wrong("the variable is not UTF-8")),
        },
        DatabaseAt::File(path) => {
            let path = find_file(root, SETTING, path)?;
            read(&path).map_err(|error| wrong(&format!("the file cannot be read: {error}")))?
        }
    };
    let url = url.trim();
    let Some((scheme, rest)) = url.split_once(':') else { return Err(wrong("what is there is no URL")) };
    match scheme {
        "postgres" | "postgresql" => {
            let options = PgConnectOptions::from_str(url).map_err(|_| wrong("what is there is no URL of Postgres"))?;
            // Without statements that the server keeps: poolers in between may give each to another server.
            let options =
                options.application_name(APPLICATION_NAME).statement_cache_capacity(0).extra_float_digits(None);
            Ok(Database::Postgres(Box::new(options.disable_statement_logging())))
        }
        "mysql" | "mariadb" => {
            let url = format!("mysql:{rest}");
            let options = MySqlConnectOptions::from_str(&url).map_err(|_| wrong("what is there is no URL of MySQL"))?;
            Ok(Database::MySql(Box::new(options.disable_statement_logging())))
        }
        "sqlite" => Ok(Database::Sqlite(find_file(root, SETTING, rest.trim_start_matches("//"))?)),
        _ => Err(wrong("what is there is no URL of Postgres, MySQL, MariaDB or SQLite")),
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(URL_FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}
