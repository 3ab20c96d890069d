//! MySQL and MariaDB: the query in a transaction that may only read and sees one instant. Values come as text, as the server
//! writes them, and rows as they are asked for: the result is held nowhere (but for what a sort needs at the server).

use crate::fault::{self, Fault, When};
use crate::fetch::{Query, Rows, close, connect, count, unreadable_column};
use crate::line::{Column as Member, Kind, Line};
use futures::TryStreamExt as _;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, Column as _, Executor as _, Row as _, SqlSafeStr as _};
use sqlx::{Statement as _, TypeInfo as _};

/// How long the server waits for us while the storage is slow.
const WRITE_TIMEOUT_SECONDS: u32 = 600;

pub(crate) async fn fetch(options: &MySqlConnectOptions, query: &Query<'_>, sink: &mut dyn Rows) -> Result<(), Fault> {
    let mut connection = connect(options, query).await?;
    read(&mut connection, query, sink).await?;
    close(connection).await;
    Ok(())
}

async fn read(connection: &mut MySqlConnection, query: &Query<'_>, sink: &mut dyn Rows) -> Result<(), Fault> {
    let fault = |error: sqlx::Error| fault::of(&error, When::Reading, query.asked);
    let (seconds, ms) = (query.asked.timeout.as_secs_f64(), query.asked.timeout.as_millis());
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
    let (text, wanted) = query.listed();
    let statement = connection.prepare(AssertSqlSafe(text.as_str()).into_sql_str()).await.map_err(fault)?;
    let names: Vec<String> = statement.columns().iter().map(|column| column.name().to_owned()).collect();
    query.check(&names, count(statement.parameters()), wanted, sink)?;
    drop(statement);
    let asking = if wanted == 0 { text } else { bind(connection, query, &text, wanted).await.map_err(fault)? };
    let mut rows = connection.fetch(sqlx::raw_sql(AssertSqlSafe(asking)));
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
        sink.row(line.end()).await?;
    }
    Ok(())
}

/// Gives the server query and keys as values, and prepares the one there: run by name it answers in text, as a query without
/// keys does. Keys have the collation of what they are compared with, which variables in a query would not. What to run.
async fn bind(
    connection: &mut MySqlConnection,
    query: &Query<'_>,
    text: &str,
    wanted: usize,
) -> Result<String, sqlx::Error> {
    let names: Vec<String> = (0..wanted).map(|at| format!("@postrider_{at}")).collect();
    let set: String = names.iter().map(|name| format!(", {name} = ?")).collect();
    let set = format!("SET @postrider_query = ?{set}");
    let mut setting = sqlx::query(AssertSqlSafe(set)).persistent(false).bind(text.to_owned());
    for key in query.bound(wanted) {
        setting = setting.bind(key.to_owned());
    }
    connection.execute(setting).await?;
    connection.execute(sqlx::raw_sql("PREPARE postrider FROM @postrider_query")).await?;
    Ok(format!("EXECUTE postrider USING {}", names.join(", ")))
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
