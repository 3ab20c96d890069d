//! SQLite: a file that the master reads by itself, in a transaction, opened so that nothing can be written.

use crate::fault::{self, Fault, When};
use crate::fetch::{Query, Rows, count, unreadable_column};
use crate::line::{Column as Member, Kind, Line};
use crate::statement;
use futures::TryStreamExt as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{
    AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _, Executor as _, Row as _, SqlSafeStr as _,
};
use sqlx::{Statement as _, TypeInfo as _, ValueRef as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long others may keep the file locked.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Steps of its machine between two looks at the clock.
const STEPS_PER_LOOK: i32 = 10_000;

pub(crate) async fn fetch(path: &Path, query: &Query<'_>, sink: &mut dyn Rows) -> Result<(), Fault> {
    if !statement::is_one(query.text) {
        let mend =
            format!("keep one SELECT in {}.query, then apply the campaign and run it again", query.asked.setting);
        return Err(Fault::lasting("source_query", "the query has more than one statement", mend));
    }
    let options = SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("query_only", "1")
        .pragma("trusted_schema", "0")
        .disable_statement_logging();
    let connected = options.connect().await;
    let mut connection = connected.map_err(|error| fault::of(&error, When::Connecting, query.asked))?;
    // A query that gives no row for long does not look whether anybody still waits.
    let is_left = Arc::new(AtomicBool::new(false));
    let _leaving = Leaving(Arc::clone(&is_left));
    let until = Instant::now() + query.asked.timeout;
    let fault = |error: sqlx::Error| fault::of(&error, When::Reading, query.asked);
    let goes_on = move || !is_left.load(Ordering::Relaxed) && Instant::now() < until;
    connection.lock_handle().await.map_err(fault)?.set_progress_handler(STEPS_PER_LOOK, goes_on);
    read(&mut connection, query, sink).await?;
    let _ = connection.close().await;
    Ok(())
}

/// Says at its end that nobody waits any more.
struct Leaving(Arc<AtomicBool>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn read(connection: &mut SqliteConnection, query: &Query<'_>, sink: &mut dyn Rows) -> Result<(), Fault> {
    let fault = |error: sqlx::Error| fault::of(&error, When::Reading, query.asked);
    connection.execute(sqlx::raw_sql("BEGIN")).await.map_err(fault)?;
    // What a campaign says is run as it is: one statement, on a file that is open for reading only.
    let (text, wanted) = query.listed();
    let statement = connection.prepare(AssertSqlSafe(text.as_str()).into_sql_str()).await.map_err(fault)?;
    let names: Vec<String> = statement.columns().iter().map(|column| column.name().to_owned()).collect();
    query.check(&names, count(statement.parameters()), wanted, sink)?;
    // Values have types of their own there; a column only says what is meant by 0 and 1.
    let is_flag = |kind: &str| matches!(kind, "BOOLEAN" | "BOOL");
    let kinds: Vec<Kind> = statement
        .columns()
        .iter()
        .map(|c| if is_flag(c.type_info().name()) { Kind::Flag } else { Kind::Json })
        .collect();
    drop(statement);
    let texts: Vec<Member> = names.iter().map(|name| Member::new(name, Kind::Text)).collect();
    let numbers: Vec<Member> = names.iter().zip(kinds).map(|(name, kind)| Member::new(name, kind)).collect();
    let floats: Vec<Member> = names.iter().map(|name| Member::new(name, Kind::Float)).collect();
    let mut asking = sqlx::query(AssertSqlSafe(text)).persistent(false);
    for key in query.bound(wanted) {
        asking = asking.bind(key.to_owned());
    }
    let mut rows = connection.fetch(asking);
    let mut line = Line::default();
    while let Some(row) = rows.try_next().await.map_err(fault)? {
        line.begin();
        for (at, name) in names.iter().enumerate() {
            let value = row.try_get_raw(at).map_err(fault)?;
            if value.is_null() {
                line.member(&texts[at], None);
                continue;
            }
            match value.type_info().name() {
                "INTEGER" | "BOOLEAN" | "INT4" => {
                    let number: i64 = row.try_get_unchecked(at).map_err(fault)?;
                    line.member(&numbers[at], Some(&number.to_string()));
                }
                "REAL" => {
                    let number: f64 = row.try_get_unchecked(at).map_err(fault)?;
                    let text = serde_json::Number::from_f64(number).map_or(number.to_string(), |n| n.to_string());
                    line.member(&floats[at], Some(&text));
                }
                "BLOB" => return Err(unreadable_column(name, "bytes")),
                _ => line.member(&texts[at], Some(row.try_get_unchecked(at).map_err(fault)?)),
            }
        }
        sink.row(line.end()).await?;
    }
    Ok(())
}
