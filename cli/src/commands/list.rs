//! `list …`: recipients that campaigns share.

use crate::campaign_file::AudienceFile;
use crate::client::{self, Client};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::output::{self, clean, count};
use crate::shapes::{ListChanged, SavedList};
use crate::upload::upload;
use clap::{Args, Subcommand, ValueEnum};
use postrider_common::Address;
use postrider_common::campaign::{Audience, Source, TextForm};
use postrider_common::ids::ListName;
use postrider_common::limits::INLINE_ROWS_MAX;
use postrider_proto::v1;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// Column of the address in a new list.
const ADDRESS_FIELD: &str = "email";
/// What a master takes for a change at most, and a little.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(3_660);
const PAGE: u32 = 500;
/// Rows that were not taken, shown to people.
const REFUSED_SHOWN_MAX: usize = 20;

#[derive(Debug, Clone, Subcommand)]
pub enum ListCommand {
    /// Make a list of a file, or replace one: its next version
    Import(RowsArgs),
    /// Add the rows of a file; a row takes the place of one with the same key
    Append(RowsArgs),
    /// Take addresses out
    Remove(RemoveArgs),
    /// List the lists
    List,
    /// Show a list: rows, columns, versions
    Show {
        name: ListName,
        /// One of before; the newest 20 are kept
        #[arg(long, value_name = "N")]
        version: Option<u64>,
    },
    /// Write the rows to stdout as NDJSON
    Export {
        name: ListName,
        /// One of before; the newest 20 are kept
        #[arg(long, value_name = "N")]
        version: Option<u64>,
    },
    /// Remove a list and its versions; refused while a campaign names it
    Delete { name: ListName },
}

#[derive(Debug, Clone, Args)]
pub struct RowsArgs {
    pub name: ListName,
    /// .csv, .ndjson or .jsonl, compressed or not (.gz, .zst)
    pub file: PathBuf,
    #[command(flatten)]
    pub reading: ReadingArgs,
    /// Column that says who is who [default: that of the list, or the address]
    #[arg(long, value_name = "COLUMN")]
    pub key: Option<String>,
    /// A bad row is left out and told, or nothing is changed
    #[arg(long, value_enum, default_value_t)]
    pub on_bad_row: OnBadRow,
}

#[derive(Debug, Clone, Args)]
pub struct RemoveArgs {
    pub name: ListName,
    /// Addresses, however they are spelled
    #[arg(value_name = "ADDRESS", required_unless_present = "file", conflicts_with = "file")]
    pub addresses: Vec<String>,
    /// A file of them: .csv, .ndjson or .jsonl, compressed or not (.gz, .zst)
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub reading: ReadingArgs,
}

/// How a file is read.
#[derive(Debug, Clone, Args)]
pub struct ReadingArgs {
    /// Column with the address [default: that of the list, or email]
    #[arg(long, value_name = "COLUMN")]
    pub address: Option<String>,
    /// Such as windows-1252 [default: what a byte order mark says, or utf-8]
    #[arg(long, value_name = "LABEL")]
    pub encoding: Option<String>,
    /// What separates the columns of CSV [default: a comma]
    #[arg(long, value_name = "CHARACTER")]
    pub delimiter: Option<char>,
    /// Another name for a column, such as E-Mail=email
    #[arg(long = "column", value_name = "FROM=TO", value_parser = renaming)]
    pub columns: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum OnBadRow {
    #[default]
    Skip,
    Fail,
}

fn renaming(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => Ok((from.to_owned(), to.to_owned())),
        Some(_) | None => Err("write FROM=TO, such as E-Mail=email".to_owned()),
    }
}

pub async fn perform(context: &Context, command: ListCommand) -> Result<()> {
    match command {
        ListCommand::Import(args) => rows(context, v1::ListChange::Import, args).await,
        ListCommand::Append(args) => rows(context, v1::ListChange::Append, args).await,
        ListCommand::Remove(args) => remove(context, args).await,
        ListCommand::List => list(context).await,
        ListCommand::Show { name, version } => show(context, &name, version.unwrap_or_default()).await,
        ListCommand::Export { name, version } => export(context, &name, version.unwrap_or_default()).await,
        ListCommand::Delete { name } => delete(context, &name).await,
    }
}

async fn rows(context: &Context, change: v1::ListChange, args: RowsArgs) -> Result<()> {
    let RowsArgs { name, file, reading, key, on_bad_row } = args;
    AudienceFile::exists(&file)?;
    let (mut client, bytes_max) = context.client()?;
    let known = match get(&mut client, &name, 0).await {
        Ok(answer) => answer.list,
        // A new one.
        Err(_) if change == v1::ListChange::Import => None,
        Err(failure) => return Err(failure),
    };
    let own = reading.audience(known, key, change == v1::ListChange::Append);
    let rows = upload(&mut client, &AudienceFile::of_path(&file, own)?, bytes_max).await?;
    let on_bad_row = match on_bad_row {
        OnBadRow::Skip => v1::OnBadRow::Skip,
        OnBadRow::Fail => v1::OnBadRow::Fail,
    };
    changed(context, &mut client, request(&name, change, rows, on_bad_row)).await
}

impl ReadingArgs {
    /// What is said of the rows of a file. With `keeps_names` address and key get the names that the list has for them.
    fn audience(self, known: Option<v1::SavedList>, key: Option<String>, keeps_names: bool) -> Audience {
        let Self { address, encoding, delimiter, columns } = self;
        let mut columns: BTreeMap<String, String> = columns.into_iter().collect();
        let (known_address, known_key) = match known {
            Some(list) => (list.address_field, Some(list.key_field).filter(|key| !key.is_empty())),
            None => (ADDRESS_FIELD.to_owned(), None),
        };
        let mut named = |given: Option<String>, known: Option<&String>| match (given, known) {
            (Some(given), Some(known)) if keeps_names && given != *known => {
                columns.insert(given, known.clone());
                Some(known.clone())
            }
            (given, known) => given.or_else(|| known.cloned()),
        };
        let address_field = named(address, Some(&known_address)).unwrap_or_default();
        let key_field = named(key, known_key.as_ref());
        let source = Source::Inline { rows: Vec::new() };
        Audience { source, text: TextForm { encoding, delimiter }, columns, address_field, key_field }
    }
}

async fn remove(context: &Context, args: RemoveArgs) -> Result<()> {
    let RemoveArgs { name, addresses, file, reading } = args;
    // What is wrong is told before anything is asked of a master.
    let given = inline(&addresses)?;
    if let Some(file) = &file {
        AudienceFile::exists(file)?;
    }
    let (mut client, bytes_max) = context.client()?;
    let rows = match file {
        None => given,
        Some(file) => {
            let known = get(&mut client, &name, 0).await?.list;
            let own = Audience { key_field: None, ..reading.audience(known, None, false) };
            upload(&mut client, &AudienceFile::of_path(&file, own)?, bytes_max).await?
        }
    };
    changed(context, &mut client, request(&name, v1::ListChange::Remove, rows, v1::OnBadRow::Skip)).await
}

/// Rows with nothing but an address.
fn inline(addresses: &[String]) -> Result<Audience> {
    if addresses.len() > INLINE_ROWS_MAX {
        let many =
            format!("{} addresses are more than {INLINE_ROWS_MAX}: give them in a file (--file)", addresses.len());
        return Err(Failure::usage(many));
    }
    let row = |address: &String| match address.parse::<Address>() {
        Ok(_) => Ok(serde_json::json!({ ADDRESS_FIELD: address }).to_string()),
        Err(why) => Err(Failure::usage(format!("'{}': {why}", clean(address)))),
    };
    let rows = addresses.iter().map(row).collect::<Result<Vec<_>>>()?;
    Ok(Audience::of(Source::Inline { rows }, ADDRESS_FIELD))
}

fn request(name: &ListName, change: v1::ListChange, rows: Audience, on_bad_row: v1::OnBadRow) -> v1::ChangeListRequest {
    v1::ChangeListRequest {
        name: name.to_string(),
        change: change.into(),
        rows: Some(rows.into()),
        on_bad_row: on_bad_row.into(),
    }
}

/// The same change again changes nothing, so it may be repeated as every call.
async fn changed(context: &Context, client: &mut Client, request: v1::ChangeListRequest) -> Result<()> {
    let call = |channel| {
        let request = request.clone();
        async move { client::campaigns(channel).change_list(request).await }
    };
    let answer = client.call_within(CHANGE_TIMEOUT, call).await?;
    let changed = ListChanged::from_wire(request.name.clone(), answer);
    if context.json() {
        return output::json(&changed);
    }
    let ListChanged { list, version, changed: is_new, rows, counts, refused } = changed;
    let what = if is_new { format!("is at version {version}") } else { format!("stays at version {version}") };
    output::line(format!("list {list} {what}: {} rows ({})", count(rows), counts.told()))?;
    for one in refused.iter().take(REFUSED_SHOWN_MAX) {
        output::line(format!("row {}: {}", one.row, clean(&one.reason)))?;
    }
    if refused.len() > REFUSED_SHOWN_MAX {
        output::line("… more with --output json")?;
    }
    Ok(())
}

async fn get(client: &mut Client, name: &ListName, version: u64) -> Result<v1::GetListResponse> {
    let request = v1::GetListRequest { name: name.to_string(), version };
    let call = |channel| {
        let request = request.clone();
        async move { client::campaigns(channel).get_list(request).await }
    };
    client.call(call).await
}

async fn list(context: &Context) -> Result<()> {
    let (mut client, _) = context.client()?;
    let (mut after, mut rows) = (String::new(), Vec::new());
    loop {
        let request = v1::ListListsRequest { after, limit: PAGE };
        let call = |channel| {
            let request = request.clone();
            async move { client::campaigns(channel).list_lists(request).await }
        };
        let page = client.call(call).await?;
        for wire in page.lists {
            let one = SavedList::from_wire(wire)?;
            if context.json() {
                output::json(&one)?;
            } else {
                let changed = one.changed_at.unwrap_or_default();
                rows.push(vec![one.list, one.version.to_string(), count(one.rows), changed]);
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
    output::table(&["LIST", "VERSION", "ROWS", "CHANGED"], rows)
}

async fn show(context: &Context, name: &ListName, version: u64) -> Result<()> {
    let (mut client, _) = context.client()?;
    let answer = get(&mut client, name, version).await?;
    let wire = answer.list.ok_or_else(|| Failure::failed("the master answered without a list: update postrider"))?;
    let one = SavedList::from_wire(wire)?;
    let versions = answer.versions.into_iter().map(SavedList::from_wire).collect::<Result<Vec<_>>>()?;
    if context.json() {
        return output::json(&serde_json::json!({ "list": one, "versions": versions }));
    }
    let more = if one.more_columns { ", …" } else { "" };
    let key = one.key.unwrap_or_else(|| "the address".to_owned());
    let lines = [
        ("list", format!("{} (version {})", one.list, one.version)),
        ("rows", count(one.rows)),
        ("address", clean(&one.address)),
        ("key", clean(&key)),
        ("columns", format!("{}{more}", clean(&one.columns.join(", ")))),
    ];
    output::line(lines.map(|(name, value)| format!("{name:<12} {value}")).join("\n"))?;
    output::line("")?;
    let row = |one: SavedList| {
        let (told, changed) = (one.counts.told(), one.changed_at.unwrap_or_default());
        vec![one.version.to_string(), count(one.rows), one.change.to_owned(), told, changed]
    };
    output::table(&["VERSION", "ROWS", "BY", "CHANGE", "AT"], versions.into_iter().map(row).collect())
}

async fn export(context: &Context, name: &ListName, version: u64) -> Result<()> {
    let (mut client, _) = context.client()?;
    let request = v1::ExportListRequest { name: name.to_string(), version };
    let call = |channel| {
        let request = request.clone();
        async move { client::campaigns(channel).export_list(request).await }
    };
    let mut stream = client.call(call).await?;
    let mut out = std::io::stdout().lock();
    loop {
        match stream.message().await {
            Ok(Some(part)) => out.write_all(&part.ndjson)?,
            Ok(None) => break,
            Err(status) => {
                let why = status.message();
                return Err(Failure::failed(format!("the list broke off: {why}; try again")));
            }
        }
    }
    Ok(out.flush()?)
}

async fn delete(context: &Context, name: &ListName) -> Result<()> {
    let (mut client, _) = context.client()?;
    let request = v1::DeleteListRequest { name: name.to_string() };
    let call = |channel| {
        let request = request.clone();
        async move { client::campaigns(channel).delete_list(request).await }
    };
    client.call(call).await?;
    if context.json() {
        output::json(&serde_json::json!({ "list": name.as_str(), "done": "deleted" }))
    } else {
        output::line(format!("list {name} deleted"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_an_append_get_the_names_of_the_list() {
        let reading = |address: Option<&str>| ReadingArgs {
            address: address.map(str::to_owned),
            encoding: None,
            delimiter: None,
            columns: vec![("Vorname".into(), "name".into())],
        };
        let list = || v1::SavedList { address_field: "mail".into(), key_field: "id".into(), ..Default::default() };
        let read = |audience: Audience| (audience.address_field, audience.key_field, audience.columns.len());
        let key = || Some("number".to_owned());
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read(reading(None).audience(None, None, false)), ("email".into(), None, 1));
        assert_eq!(read(reading(None).audience(Some(list()), None, true)), ("mail".into(), some("id"), 1));
        assert_eq!(read(reading(Some("E")).audience(Some(list()), key(), true)), ("mail".into(), some("id"), 3));
        assert_eq!(read(reading(Some("E")).audience(Some(list()), key(), false)), ("E".into(), some("number"), 1));
        assert_eq!(renaming("a=b"), Ok(("a".into(), "b".into())));
        assert!(["a", "=b", "a=", ""].into_iter().all(|text| renaming(text).is_err()));
    }
}
