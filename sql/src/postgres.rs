//! Postgres: the query in a repeatable read transaction that may only read. The server writes the values as text, which is
//! exact for every type it has; rows come as the server sends them, so neither side holds the whole result (but for what a
//! sort or a hash needs at the server).

use crate::fault::{self, Fault, When};
use crate::fetch::{Query, Rows, close, connect, count, unreadable_column};
use crate::keys;
use crate::line::{Column as Member, Kind, Line};
use futures::TryStreamExt as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Column as _, Executor as _, Row as _, SqlSafeStr as _};
use sqlx::{Statement as _, TypeInfo as _};

pub(crate) async fn fetch(options: &PgConnectOptions, query: &Query<'_>, sink: &mut dyn Rows) -> Result<(), Fault> {
    let mut connection = connect(options, query).await?;
    read(&mut connection, query, sink).await?;
    close(connection).await;
    Ok(())
}

async fn read(connection: &mut PgConnection, query: &Query<'_>, sink: &mut dyn Rows) -> Result<(), Fault> {
    let fault = |error: sqlx::Error| fault::of(&error, When::Reading, query.asked);
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL statement_timeout = {}; \
         SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'iso_8601'",
        query.asked.timeout.as_millis()
    );
    // Nothing of a campaign is in it.
    connection.execute(sqlx::raw_sql(AssertSqlSafe(begin))).await.map_err(fault)?;
    // What a campaign says is run as it is: as one statement (the extended protocol takes no other), in a transaction that
    // may only read, by a user who should have no right but that.
    // Keys are one parameter: a list of texts.
    let text = keys::with(query.text, |_| "$1".to_owned());
    let wanted = usize::from(query.keys.is_some());
    let statement = connection.prepare(AssertSqlSafe(text.as_str()).into_sql_str()).await.map_err(fault)?;
    let names: Vec<String> = statement.columns().iter().map(|column| column.name().to_owned()).collect();
    query.check(&names, count(statement.parameters()), wanted, sink)?;
    let (mut members, mut selected) = (Vec::new(), Vec::new());
    for (at, column) in statement.columns().iter().enumerate() {
        let (kind, written) = written(column.type_info().name());
        let written = written.ok_or_else(|| unreadable_column(column.name(), "bytes"))?;
        members.push(Member::new(column.name(), kind));
        selected.push(written.replace('#', &format!("q.c{at}")));
    }
    let given: Vec<String> = (0..members.len()).map(|at| format!("c{at}")).collect();
    // A line of its own: the query may end with a comment.
    let wrapped = format!("SELECT {} FROM (\n{}\n) AS q({})", selected.join(", "), text, given.join(", "));
    let mut wrapped = sqlx::query(AssertSqlSafe(wrapped)).persistent(false);
    if let Some(keys) = query.keys {
        wrapped = wrapped.bind(keys.iter().map(|key| (*key).to_owned()).collect::<Vec<String>>());
    }
    let mut rows = connection.fetch(wrapped);
    let mut line = Line::default();
    while let Some(row) = rows.try_next().await.map_err(fault)? {
        line.begin();
        for (at, member) in members.iter().enumerate() {
            line.member(member, row.try_get_unchecked::<Option<&str>, _>(at).map_err(fault)?);
        }
        sink.row(line.end()).await?;
    }
    Ok(())
}

/// How values of a type are written, and what makes the server write them so (`#`: the column). None: it cannot be.
fn written(kind: &str) -> (Kind, Option<&'static str>) {
    match kind.to_ascii_uppercase().as_str() {
        "BYTEA" | "BYTEA[]" => (Kind::Text, None),
        "BOOL" | "INT2" | "INT4" | "INT8" | "OID" => (Kind::Json, Some("#::text")),
        // Exact: 12.10 stays 12.10.
        "NUMERIC" | "MONEY" => (Kind::Text, Some("#::text")),
        "TEXT" | "VARCHAR" | "CHAR" | "NAME" | "UUID" => (Kind::Text, Some("#::text")),
        // Dates by ISO 8601, floats that are none as texts, JSON as it is, lists and records as theirs, all else as text.
        _ => (Kind::Json, Some("to_json(#)::text")),
    }
}
