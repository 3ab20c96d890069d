//! `suppress …`: who is not sent to.

use crate::client::{self, Client};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::output::{self, clean, count};
use crate::shapes::instant;
use chrono::DateTime;
use clap::{Args, Subcommand};
use postrider_common::suppression::{SuppressionReason, SuppressionScope, SuppressionSubject};
use postrider_proto::v1;
use serde::Serialize;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Of one call; the master takes no more.
const PER_CALL_MAX: usize = 1000;
/// Bad rows of an import that are shown.
const BAD_ROWS_SHOWN_MAX: usize = 50;
const LIMIT: u32 = 50;

#[derive(Debug, Clone, Subcommand)]
pub enum SuppressCommand {
    /// Send nothing to these any more, not in runs that are under way either
    Add {
        /// Addresses, or @example.com for every address of a domain
        #[arg(required = true)]
        subjects: Vec<String>,
        #[command(flatten)]
        hold: Hold,
    },
    /// Send to these again, in what is split from now on
    Remove {
        /// Addresses, or @example.com
        #[arg(required = true)]
        subjects: Vec<String>,
        /// Only this scope; otherwise all of them
        #[arg(long, value_name = "all|lane:NAME|campaign:NAME")]
        scope: Option<SuppressionScope>,
    },
    /// List them, or what holds for one
    List {
        /// Only this address or @example.com
        subject: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = LIMIT, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Add those of a CSV file: address, and if there is a header, reason, scope and at
    Import {
        /// `-`: from standard input
        file: PathBuf,
        #[command(flatten)]
        hold: Hold,
    },
    /// Write all of them as a CSV file that import reads
    Export {
        /// Standard output if none is given
        file: Option<PathBuf>,
    },
}

/// Where a row says nothing else.
#[derive(Debug, Clone, Args)]
pub struct Hold {
    /// legal, complaint, hard_bounce, unsubscribe, inactive or manual
    #[arg(long, default_value = "manual")]
    reason: SuppressionReason,
    /// Which mail; lane:bulk for complaint and unsubscribe unless this says otherwise, all for the others
    #[arg(long, value_name = "all|lane:NAME|campaign:NAME")]
    scope: Option<SuppressionScope>,
}

pub async fn perform(context: &Context, command: SuppressCommand) -> Result<()> {
    match command {
        SuppressCommand::Add { subjects, hold } => add(context, &subjects, &hold).await,
        SuppressCommand::Remove { subjects, scope } => remove(context, &subjects, scope.as_ref()).await,
        SuppressCommand::List { subject, limit } => list(context, subject.as_deref(), limit).await,
        SuppressCommand::Import { file, hold } => import(context, &file, &hold).await,
        SuppressCommand::Export { file } => export(context, file.as_deref()).await,
    }
}

fn subject(text: &str) -> std::result::Result<SuppressionSubject, String> {
    text.parse().map_err(|error: postrider_common::suppression::InvalidSuppression| clean(&error.to_string()))
}

/// A line of `add`, `remove` and `import`.
#[derive(Debug, Serialize)]
struct Changed {
    given: u64,
    changed: u64,
}

fn changed(context: &Context, done: &str, given: usize, changed: u64) -> Result<()> {
    if context.json() {
        return output::json(&Changed { given: given as u64, changed });
    }
    let rest = (given as u64).saturating_sub(changed);
    let already = if rest == 0 { String::new() } else { format!(", {} changed nothing", count(rest)) };
    output::line(format!("{} {done}{already}", count(changed)))
}

async fn add(context: &Context, subjects: &[String], hold: &Hold) -> Result<()> {
    let one = |text: &String| subject(text).map(|subject| new(&subject, hold, None)).map_err(Failure::usage);
    let all = subjects.iter().map(one).collect::<Result<Vec<_>>>()?;
    let (mut client, _) = context.client()?;
    let mut done = 0;
    for some in all.chunks(PER_CALL_MAX) {
        done += send(&mut client, some.to_vec()).await?;
    }
    changed(context, "suppressed", all.len(), done)
}

fn new(subject: &SuppressionSubject, hold: &Hold, at_ms: Option<i64>) -> v1::NewSuppression {
    v1::NewSuppression {
        subject: subject.to_string(),
        reason: wire_reason(hold.reason).into(),
        scope: hold.scope.as_ref().map_or(String::new(), ToString::to_string),
        at_ms: at_ms.unwrap_or(0),
    }
}

async fn send(client: &mut Client, suppressions: Vec<v1::NewSuppression>) -> Result<u64> {
    let request = v1::SuppressRequest { suppressions };
    let call = |channel| {
        let request = request.clone();
        async move { client::admin(channel).suppress(request).await }
    };
    Ok(client.call(call).await?.changed)
}

async fn remove(context: &Context, subjects: &[String], scope: Option<&SuppressionScope>) -> Result<()> {
    let scope = scope.map_or(String::new(), ToString::to_string);
    let one = |text: &String| {
        let subject = subject(text).map_err(Failure::usage)?.to_string();
        Ok(v1::Unsuppression { subject, scope: scope.clone() })
    };
    let all = subjects.iter().map(one).collect::<Result<Vec<_>>>()?;
    let (mut client, _) = context.client()?;
    let mut done = 0;
    for some in all.chunks(PER_CALL_MAX) {
        let request = v1::UnsuppressRequest { suppressions: some.to_vec() };
        let call = |channel| {
            let request = request.clone();
            async move { client::admin(channel).unsuppress(request).await }
        };
        done += client.call(call).await?.changed;
    }
    changed(context, "sent to again", all.len(), done)
}

/// One line of `list`.
#[derive(Debug, Serialize)]
struct Line {
    subject: String,
    reason: String,
    scope: String,
    at: Option<String>,
    /// Of an address that was erased, this is what is left.
    key: String,
}

fn lines(wire: v1::Suppression) -> Vec<Line> {
    let v1::Suppression { subject, holds, key } = wire;
    let line = |hold: v1::SuppressionHold| Line {
        subject: subject.clone(),
        reason: reason_name(hold.reason()).to_owned(),
        scope: hold.scope,
        at: instant(hold.at_ms),
        key: key.clone(),
    };
    holds.into_iter().map(line).collect()
}

async fn page(client: &mut Client, request: v1::ListSuppressionsRequest) -> Result<v1::ListSuppressionsResponse> {
    let call = |channel| {
        let request = request.clone();
        async move { client::admin(channel).list_suppressions(request).await }
    };
    client.call(call).await
}

async fn list(context: &Context, one: Option<&str>, limit: u32) -> Result<()> {
    let only = one.map_or(Ok(String::new()), |text| subject(text).map(|subject| subject.to_string()));
    let only = only.map_err(Failure::usage)?;
    let (mut client, _) = context.client()?;
    let (mut after, mut left, mut rows, mut total) = (String::new(), limit, Vec::new(), 0);
    while left > 0 {
        let request = v1::ListSuppressionsRequest { subject: only.clone(), after, limit: left.min(1000) };
        let page = page(&mut client, request).await?;
        left = left.saturating_sub(u32::try_from(page.suppressions.len()).unwrap_or(u32::MAX));
        total = page.total;
        for line in page.suppressions.into_iter().flat_map(lines) {
            if context.json() {
                output::json(&line)?;
            } else {
                let name = if line.subject.is_empty() { format!("(erased, {})", line.key) } else { line.subject };
                rows.push(vec![clean(&name), line.reason, line.scope, line.at.unwrap_or_default()]);
            }
        }
        if page.next.is_empty() {
            break;
        }
        after = page.next;
    }
    if context.json() {
        return Ok(());
    }
    output::table(&["SUBJECT", "REASON", "SCOPE", "SINCE"], rows)?;
    match one {
        Some(_) => Ok(()),
        None => output::line(format!("{} in all", count(total))),
    }
}

/// What `import` says.
#[derive(Debug, Default, Serialize)]
struct Imported {
    rows: u64,
    changed: u64,
    bad_rows: u64,
    /// The first of them.
    bad: Vec<BadRow>,
}

#[derive(Debug, Serialize)]
struct BadRow {
    row: u64,
    why: String,
}

async fn import(context: &Context, path: &Path, hold: &Hold) -> Result<()> {
    let unreadable = |error: std::io::Error| Failure::usage(format!("{}: {error}", path.display()));
    let reader: Box<dyn Read> = match path.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(File::open(path).map_err(unreadable)?),
    };
    let mut rows = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(reader);
    let (mut client, _) = context.client()?;
    let mut columns: Option<Columns> = None;
    let (mut imported, mut some) = (Imported::default(), Vec::new());
    for (number, record) in (1u64..).zip(rows.byte_records()) {
        let record = record.map_err(|error| Failure::failed(format!("{}: row {number}: {error}", path.display())))?;
        let fields: Vec<String> = record.iter().map(|field| String::from_utf8_lossy(field).trim().to_owned()).collect();
        let Some(known) = &columns else {
            let (found, is_header) =
                Columns::of(&fields).map_err(|why| Failure::usage(format!("{}: {why}", path.display())))?;
            let first = (!is_header).then(|| found.read(&fields, hold));
            columns = Some(found);
            first.into_iter().for_each(|read| imported.take(number, read, &mut some));
            continue;
        };
        imported.take(number, known.read(&fields, hold), &mut some);
        if some.len() == PER_CALL_MAX {
            imported.changed += send(&mut client, std::mem::take(&mut some)).await?;
        }
    }
    if !some.is_empty() {
        imported.changed += send(&mut client, some).await?;
    }
    imported.report(context)
}

impl Imported {
    fn take(
        &mut self,
        row: u64,
        read: std::result::Result<v1::NewSuppression, String>,
        into: &mut Vec<v1::NewSuppression>,
    ) {
        self.rows += 1;
        match read {
            Ok(new) => into.push(new),
            Err(why) => {
                self.bad_rows += 1;
                if self.bad.len() < BAD_ROWS_SHOWN_MAX {
                    self.bad.push(BadRow { row, why });
                }
            }
        }
    }

    /// With bad rows it fails: those are sent to as before. The others are in.
    fn report(self, context: &Context) -> Result<()> {
        if context.json() {
            output::json(&self)?;
        } else {
            let (rows, changed) = (count(self.rows), count(self.changed));
            output::line(format!(
                "{rows} rows read, {changed} suppressed that were not, {} bad",
                count(self.bad_rows)
            ))?;
            for bad in &self.bad {
                output::line(format!("  row {}: {}", bad.row, bad.why))?;
            }
        }
        if self.bad_rows == 0 { Ok(()) } else { Err(Failure::told()) }
    }
}

/// Where in a row what stands.
#[derive(Debug, Default, PartialEq, Eq)]
struct Columns {
    subject: usize,
    reason: Option<usize>,
    scope: Option<usize>,
    at: Option<usize>,
}

impl Columns {
    /// Of the first row, and whether it is a header: then nothing in it has an @.
    fn of(first: &[String]) -> std::result::Result<(Self, bool), String> {
        if first.iter().any(|field| field.contains('@')) {
            return Ok((Self::default(), false));
        }
        // A mark of the byte order may stand before the first name.
        let names: Vec<String> =
            first.iter().map(|name| name.trim_start_matches('\u{feff}').trim().to_lowercase()).collect();
        let at = |wanted: &[&str]| names.iter().position(|name| wanted.contains(&name.as_str()));
        let subject = at(&["subject", "address", "email"]);
        let subject = subject.ok_or_else(|| "the header has no column subject, address or email".to_owned())?;
        Ok((Self { subject, reason: at(&["reason"]), scope: at(&["scope"]), at: at(&["at", "since"]) }, true))
    }

    fn read(&self, fields: &[String], hold: &Hold) -> std::result::Result<v1::NewSuppression, String> {
        let field = |at: Option<usize>| at.and_then(|at| fields.get(at)).filter(|field| !field.is_empty());
        let subject = subject(field(Some(self.subject)).map_or("", String::as_str))?;
        let mut hold = hold.clone();
        if let Some(text) = field(self.reason) {
            hold.reason = text.parse::<SuppressionReason>().map_err(|error| format!("reason: {error}"))?;
        }
        if let Some(text) = field(self.scope) {
            hold.scope = Some(text.parse::<SuppressionScope>().map_err(|error| format!("scope: {error}"))?);
        }
        let instant = |text: &String| match DateTime::parse_from_rfc3339(text) {
            Ok(at) if at.timestamp_millis() >= 0 => Ok(at.timestamp_millis()),
            Ok(_) | Err(_) => Err(format!("at: '{}' is no instant like 2026-11-22T15:04:05Z", clean(text))),
        };
        let at_ms = field(self.at).map(instant).transpose()?;
        Ok(new(&subject, &hold, at_ms))
    }
}

async fn export(context: &Context, path: Option<&Path>) -> Result<()> {
    let wrong = |error: &dyn std::fmt::Display| Failure::failed(format!("failed to write the list: {error}"));
    let (mut client, _) = context.client()?;
    let out: Box<dyn Write> = match path {
        Some(path) => Box::new(std::io::BufWriter::new(File::create(path).map_err(|error| wrong(&error))?)),
        None => Box::new(std::io::stdout()),
    };
    let mut rows = csv::Writer::from_writer(out);
    rows.write_record(["subject", "reason", "scope", "at"]).map_err(|error| wrong(&error))?;
    let (mut after, mut erased) = (String::new(), 0_u64);
    loop {
        let page = page(&mut client, v1::ListSuppressionsRequest { after, ..Default::default() }).await?;
        for wire in page.suppressions {
            if wire.subject.is_empty() {
                erased += 1;
                continue;
            }
            for line in lines(wire) {
                let at = line.at.unwrap_or_default();
                rows.write_record([line.subject, line.reason, line.scope, at]).map_err(|error| wrong(&error))?;
            }
        }
        if page.next.is_empty() {
            break;
        }
        after = page.next;
    }
    rows.flush().map_err(|error| wrong(&error))?;
    if erased > 0 {
        eprintln!("{} more have no name, because their addresses were erased; they are not in the file", count(erased));
    }
    Ok(())
}

fn wire_reason(reason: SuppressionReason) -> v1::SuppressionReason {
    match reason {
        SuppressionReason::Legal => v1::SuppressionReason::Legal,
        SuppressionReason::Complaint => v1::SuppressionReason::Complaint,
        SuppressionReason::HardBounce => v1::SuppressionReason::HardBounce,
        SuppressionReason::Unsubscribe => v1::SuppressionReason::Unsubscribe,
        SuppressionReason::Inactive => v1::SuppressionReason::Inactive,
        SuppressionReason::Manual => v1::SuppressionReason::Manual,
    }
}

fn reason_name(reason: v1::SuppressionReason) -> &'static str {
    match reason {
        v1::SuppressionReason::Unspecified => "unknown",
        v1::SuppressionReason::Legal => SuppressionReason::Legal.as_str(),
        v1::SuppressionReason::Complaint => SuppressionReason::Complaint.as_str(),
        v1::SuppressionReason::HardBounce => SuppressionReason::HardBounce.as_str(),
        v1::SuppressionReason::Unsubscribe => SuppressionReason::Unsubscribe.as_str(),
        v1::SuppressionReason::Inactive => SuppressionReason::Inactive.as_str(),
        v1::SuppressionReason::Manual => SuppressionReason::Manual.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn a_file_has_a_header_unless_its_first_row_has_an_address() {
        let (columns, is_header) = Columns::of(&fields("a@example.com,x")).expect("rows");
        assert_eq!((columns, is_header), (Columns::default(), false));
        let (columns, is_header) = Columns::of(&fields("\u{feff}Reason,EMAIL,at")).expect("a header");
        assert_eq!((columns, is_header), (Columns { subject: 1, reason: Some(0), scope: None, at: Some(2) }, true));
        assert!(Columns::of(&fields("name,reason")).expect_err("no address").contains("no column"));
    }

    #[test]
    fn a_row_says_what_the_command_line_does_not() {
        let hold = Hold { reason: SuppressionReason::Unsubscribe, scope: None };
        let columns = Columns { subject: 0, reason: Some(1), scope: Some(2), at: Some(3) };
        let read = |text: &str| columns.read(&fields(text), &hold);
        let new = read("Ada@example.com,hard_bounce,lane:news,2026-11-22T15:04:05Z").expect("good");
        assert_eq!((new.subject.as_str(), new.scope.as_str()), ("ada@example.com", "lane:news"));
        assert_eq!((new.reason(), new.at_ms), (v1::SuppressionReason::HardBounce, 1_795_359_845_000));
        let new = read("@example.com").expect("a short row");
        assert_eq!((new.reason(), new.scope.as_str(), new.at_ms), (v1::SuppressionReason::Unsubscribe, "", 0));
        for (row, why) in [
            ("", "it is empty"),
            ("nobody", "it has no @"),
            ("a@example.com,spam", "is no reason"),
            ("a@example.com,,bulk", "is no scope"),
            ("a@example.com,,,yesterday", "is no instant"),
        ] {
            let found = read(row).expect_err(row);
            assert!(found.contains(why), "{row}: {found}");
        }
    }
}
