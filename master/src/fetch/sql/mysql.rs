//! MySQL and MariaDB: the query in a transaction that may only read and sees one instant. Values come as text, as the server
//! writes them, and rows as they are asked for: the result is held nowhere (but for what a sort needs at the server).

use super::super::{FetchError, Pieces};
use super::fault::{self, When};
use super::fetcher::{Query, close, connect, count, unreadable_column};
use super::line::{Column as Member, Kind, Line};
use futures::TryStreamExt as _;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, Column as _, Executor as _, Row as _, SqlSafeStr as _};
use sqlx::{Statement as _, TypeInfo as _};

/// How long the server waits for us while the storage is slow.
const WRITE_TIMEOUT_SECONDS: u32 = 600;

pub(super) async fn fetch(
    options: &MySqlConnectOptions,
    query: &Query<'_>,
    pieces: &mut Pieces,
) -> Result<(), FetchError> {
    let mut connection = connect(options, query).await?;
    read(&mut connection, query, pieces).await?;
    close(connection).await;
    Ok(())
}

async fn read(connection: &mut MySqlConnection, query: &Query<'_>, pieces: &mut Pieces) -> Result<(), FetchError> {
    let fault = |error: sqlx::Error| fault::of(&error, When::Reading, query.timeout);
    let (seconds, ms) = (query.timeout.as_secs_f64(), query.timeout.as_millis());
    let limit_of_mariadb = format!("SET SESSION max_statement_time = {seconds}");
    let limit_of_mysql = format!("SET SESSION max_execution_time = {ms}");
    // Each knows one of the two; where neither is known, our own limit ends the connection.
    for limit in [limit_of_mariadb, limit_of_mysql] {
        match connection.execute(sqlx::raw_sql(AssertSqlSafe(limit))).await {
            Ok(_) | Err(sqlx::Error::Database(_)) => {}
            Err(error) => return Err(fault(error)),
        }
    }
    let write = format!("SET SESSION net_write_timeout = {WRITE_TIMEOUT_SECONDS}, time_zone = '+00:00'");
    connection.execute(sqlx::raw_sql(AssertSqlSafe(write))).await.map_err(fault)?;
    for begin in [
        "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
    ] {
        connection.execute(sqlx::raw_sql(begin)).await.map_err(fault)?;
    }
    // What a campaign says is run as it is: as one statement, since only one can be prepared, in a transaction that may only
    // read, by a user who should have no right but that.
    let statement = connection.prepare(AssertSqlSafe(query.text).into_sql_str()).await.map_err(fault)?;
    let names: Vec<String> = statement.columns().iter().map(|column| column.name().to_owned()).collect();
    query.check(&names, count(statement.parameters()))?;
    drop(statement);
    let mut rows = connection.fetch(sqlx::raw_sql(AssertSqlSafe(query.text)));
    let (mut members, mut line) = (Vec::new(), Line::default());
    while let Some(row) = rows.try_next().await.map_err(fault)? {
        if members.is_empty() {
            for column in row.columns() {
                let kind = kind(column.type_info().name());
                let kind = kind.ok_or_else(|| unreadable_column(column.name(), "bytes"))?;
                members.push(Member::new(column.name(), kind));
            }
        }
        line.begin();
        for (at, member) in members.iter().enumerate() {
            let bytes = row.try_get_unchecked::<Option<&[u8]>, _>(at).map_err(fault)?;
            let text = bytes.map(std::str::from_utf8).transpose();
            line.member(member, text.map_err(|_| unreadable_column(row.column(at).name(), "bytes"))?);
        }
        pieces.line(line.end()).await?;
    }
    Ok(())
}

/// None: it cannot be written.
fn kind(name: &str) -> Option<Kind> {
    match name.trim_end_matches(" UNSIGNED") {
        "BOOLEAN" => Some(Kind::Flag),
        "TINYINT" | "SMALLINT" | "MEDIUMINT" | "INT" | "BIGINT" | "JSON" => Some(Kind::Json),
        // It may have zeros in front.
        "YEAR" => Some(Kind::Text),
        "FLOAT" | "DOUBLE" => Some(Kind::Float),
        "DATETIME" | "TIMESTAMP" => Some(Kind::Instant),
        "BIT" | "GEOMETRY" => None,
        // Decimals stay exact: 12.10 stays 12.10. Texts with a binary collation, as JSON of MariaDB, cannot be told from
        // bytes: those that are UTF-8 are texts.
        _ => Some(Kind::Text),
    }
}
