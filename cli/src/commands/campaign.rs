//! `campaign …`: definitions, and starting runs of them.

use crate::campaign_diff;
use crate::campaign_file::{self, AudienceFile};
use crate::client::{self, Client};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::follow;
use crate::output;
use crate::shapes::{Applied, Campaign, Elsewhere, Started};
use crate::upload::{named_without_upload, upload};
use clap::Subcommand;
use postrider_common::campaign::{self, Audience, Source};
use postrider_proto::v1;
use std::path::{Path, PathBuf};

/// Column of the address in `--audience FILE` when the campaign has no audience of its own.
const ADDRESS_FIELD: &str = "email";
const PAGE: u32 = 500;

#[derive(Debug, Clone, Subcommand)]
pub enum CampaignCommand {
    /// Create or replace a definition; uploads its templates and audience
    Apply {
        /// Campaign file (TOML)
        file: PathBuf,
    },
    /// List definitions
    List,
    /// Show one definition, or what changed in it
    Show(ShowArgs),
    /// Start a run now
    Run(RunArgs),
    /// Start no further runs
    Pause { name: String },
    /// Allow runs again
    Resume { name: String },
    /// Remove the definition; runs and their results stay
    Delete { name: String },
}

#[derive(Debug, Clone, clap::Args)]
pub struct ShowArgs {
    pub name: String,
    /// A version that was applied before; the newest 20 are kept
    #[arg(long, value_name = "N")]
    pub version: Option<u64>,
    /// What changed since the version before, since version N (--diff=3), or would by applying a file (--diff=FILE)
    #[arg(long, value_name = "N|FILE", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub diff: Option<String>,
}

#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    pub name: String,
    /// Show progress, end with the report; fails if the run does not finish
    #[arg(long)]
    pub wait: bool,
    /// Recipients for this run instead of the campaign's own (.csv, .ndjson)
    #[arg(long, value_name = "FILE")]
    pub audience: Option<PathBuf>,
    /// The same key again is the same run
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
}

pub async fn perform(context: &Context, command: CampaignCommand) -> Result<()> {
    match command {
        CampaignCommand::Apply { file } => {
            let file = campaign_file::read_campaign(&file)?;
            let (mut client, bytes_max) = context.client()?;
            apply(context, &mut client, file, bytes_max).await
        }
        CampaignCommand::List => list(context).await,
        CampaignCommand::Show(args) => {
            let (mut client, _) = context.client()?;
            match &args.diff {
                Some(with) => diff(context, &mut client, &args, with).await,
                None => show(context, get(&mut client, &args.name, args.version.unwrap_or_default()).await?),
            }
        }
        CampaignCommand::Run(args) => run(context, args).await,
        CampaignCommand::Pause { name } => {
            let (mut client, _) = context.client()?;
            let request = v1::PauseCampaignRequest { name: name.clone() };
            let call = |channel| {
                let request = request.clone();
                async move { client::campaigns(channel).pause_campaign(request).await }
            };
            client.call(call).await?;
            done(context, &name, "paused")
        }
        CampaignCommand::Resume { name } => {
            let (mut client, _) = context.client()?;
            let request = v1::ResumeCampaignRequest { name: name.clone() };
            let call = |channel| {
                let request = request.clone();
                async move { client::campaigns(channel).resume_campaign(request).await }
            };
            client.call(call).await?;
            done(context, &name, "resumed")
        }
        CampaignCommand::Delete { name } => {
            let (mut client, _) = context.client()?;
            let request = v1::DeleteCampaignRequest { name: name.clone() };
            let call = |channel| {
                let request = request.clone();
                async move { client::campaigns(channel).delete_campaign(request).await }
            };
            client.call(call).await?;
            done(context, &name, "deleted")
        }
    }
}

fn done(context: &Context, name: &str, what: &str) -> Result<()> {
    if context.json() {
        output::json(&serde_json::json!({ "campaign": name, "done": what }))
    } else {
        output::line(format!("campaign {name} {what}"))
    }
}

async fn apply(
    context: &Context,
    client: &mut Client,
    file: campaign_file::CampaignFile,
    bytes_max: u64,
) -> Result<()> {
    let mut campaign = file.campaign;
    if let Some(audience) = &file.audience {
        campaign.audience = Some(upload(client, audience, bytes_max).await?);
    }
    let name = campaign.name.to_string();
    let wire = v1::Campaign::from(campaign);
    let request = v1::ApplyCampaignRequest { campaign: Some(wire), idempotency_key: client.idempotency_key() };
    let call = |channel| {
        let request = request.clone();
        async move { client::campaigns(channel).apply_campaign(request).await }
    };
    let answer = client.call(call).await?;
    for notice in &file.notices {
        eprintln!("note: {notice}");
    }
    if context.json() {
        return output::json(&Applied { campaign: name, version: answer.version, changed: answer.changed });
    }
    let what = if answer.changed { "applied" } else { "is unchanged" };
    output::line(format!("campaign {name} {what} (version {})", answer.version))
}

/// The wire form of one definition; version 0 is the one in force.
async fn get(client: &mut Client, name: &str, version: u64) -> Result<v1::CampaignRecord> {
    let request = v1::GetCampaignRequest { name: name.to_owned(), version };
    let call = |channel| {
        let request = request.clone();
        async move { client::campaigns(channel).get_campaign(request).await }
    };
    let answer = client.call(call).await?;
    Ok(answer.campaign.unwrap_or_default())
}

async fn list(context: &Context) -> Result<()> {
    let (mut client, _) = context.client()?;
    let (mut after, mut rows) = (String::new(), Vec::new());
    loop {
        let request = v1::ListCampaignsRequest { after, limit: PAGE };
        let call = |channel| {
            let request = request.clone();
            async move { client::campaigns(channel).list_campaigns(request).await }
        };
        let page = client.call(call).await?;
        for record in page.campaigns {
            let one = Campaign::from_wire(record)?;
            if context.json() {
                output::json(&one)?;
            } else {
                let schedule = one.schedule.map_or("on demand".to_owned(), |schedule| schedule.when());
                let state = if one.paused { "paused" } else { "active" };
                let applied = one.applied_at.unwrap_or_default();
                rows.push(vec![one.campaign, state.into(), one.lane, one.version.to_string(), schedule, applied]);
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
    output::table(&["CAMPAIGN", "STATE", "LANE", "VERSION", "SCHEDULE", "APPLIED"], rows)
}

/// A query may have a token in it.
fn without_query(url: &str) -> String {
    output::clean(url.split('?').next().unwrap_or_default())
}

/// Where merge fields are from.
fn fields(data_url: Option<String>, data_sql: Option<String>) -> String {
    match (data_url, data_sql) {
        (Some(url), _) => format!("audience and {}", without_query(&url)),
        (None, Some(at)) => format!("audience and a query of {}", output::clean(&at)),
        (None, None) => "audience".to_owned(),
    }
}

fn show(context: &Context, record: v1::CampaignRecord) -> Result<()> {
    let one = Campaign::from_wire(record)?;
    if context.json() {
        return output::json(&one);
    }
    let audience = one.audience.map_or("none (campaign run NAME --audience FILE)".to_owned(), |audience| {
        let id = match (audience.id, audience.source) {
            (Some(id), _) => format!("upload {}", &id[..id.len().min(12)]),
            (None, Some(Elsewhere::Sql { url, .. })) => format!("a query of {}", output::clean(&url)),
            (None, Some(Elsewhere::File(path))) => format!("the file {} of the master", output::clean(&path)),
            (None, Some(Elsewhere::Http(url))) => format!("pages of {}", without_query(&url)),
            (None, Some(Elsewhere::List(name))) => format!("the list {name}"),
            (None, None) => "inline rows".to_owned(),
        };
        let key = audience.key.map(|key| format!(", key {key}")).unwrap_or_default();
        let address = if audience.address.is_empty() { "that of the list" } else { &audience.address };
        format!("{id}, address {address}{key}")
    });
    let mut rows = vec![
        ("campaign", format!("{} (version {})", one.campaign, one.version)),
        ("state", if one.paused { "paused" } else { "active" }.to_owned()),
        ("from", output::clean(&one.from)),
        ("subject", output::clean(&one.subject)),
        ("fields", fields(one.data_url, one.data_sql)),
        ("templates", format!("html {} bytes, text {} bytes", one.html_bytes, one.text_bytes)),
        ("lane", one.lane),
        ("policies", format!("on_unknown {}, on_bad_row {}", one.on_unknown, one.on_bad_row)),
        ("audience", audience),
        ("applied", one.applied_at.unwrap_or_default()),
    ];
    if let Some(local) = &one.send_at_local {
        rows.push(("at local", output::clean(&local.told())));
    }
    for (title, windows) in [("send window", &one.send_window), ("quiet hours", &one.quiet_hours)] {
        rows.extend(windows.iter().map(|window| (title, output::clean(window))));
    }
    match &one.schedule {
        None => rows.push(("schedule", "none".to_owned())),
        Some(schedule) => {
            let next_due = schedule.next_due_at.clone().unwrap_or_else(|| match one.paused {
                true => "none while paused".to_owned(),
                false if schedule.time_zone_database.is_empty() => "not calculated yet".to_owned(),
                false => "never again".to_owned(),
            });
            rows.extend([
                ("schedule", output::clean(&schedule.when())),
                ("", output::clean(&schedule.policies())),
                ("next due", next_due),
                ("last run", schedule.fired()),
                ("passed over", output::clean(&schedule.skipped())),
            ]);
        }
    }
    let lines: Vec<String> = rows.into_iter().map(|(name, value)| format!("{name:<12} {value}")).collect();
    output::line(lines.join("\n"))
}

/// The definition in force, or the version that is asked for, against an earlier one or a file.
async fn diff(context: &Context, client: &mut Client, args: &ShowArgs, with: &str) -> Result<()> {
    let shown = get(client, &args.name, args.version.unwrap_or_default()).await?;
    let version = shown.version;
    let newer = definition(shown)?;
    let named = |version| format!("version {version}");
    let (before, after) = match with.parse::<u64>() {
        Ok(other) => {
            let older = definition(get(client, &args.name, other).await?)?;
            ((named(other), older), (named(version), newer))
        }
        Err(_) if with.is_empty() && version <= 1 => {
            let name = &args.name;
            return Err(Failure::failed(format!("campaign {name} is at its first version: there is none before")));
        }
        Err(_) if with.is_empty() => {
            let older = definition(get(client, &args.name, version - 1).await?)?;
            ((named(version - 1), older), (named(version), newer))
        }
        Err(_) => {
            let file = campaign_file::read_campaign(Path::new(with))?;
            let mut proposed = file.campaign;
            if let Some(audience) = &file.audience {
                proposed.audience = Some(named_without_upload(audience).await?);
            }
            ((named(version), newer), (with.to_owned(), proposed))
        }
    };
    if context.json() {
        return output::json(&serde_json::json!({
            "campaign": args.name,
            "before": before.0,
            "after": after.0,
            "changes": campaign_diff::changes(&before.1, &after.1)?,
        }));
    }
    let text = campaign_diff::text((&before.0, &before.1), (&after.0, &after.1))?;
    output::line(if text.is_empty() { format!("{} and {} are the same", before.0, after.0) } else { text })
}

fn definition(record: v1::CampaignRecord) -> Result<campaign::Campaign> {
    let wire = record.campaign.unwrap_or_default();
    let read = campaign::Campaign::try_from(wire);
    read.map_err(|error| Failure::failed(format!("the campaign cannot be read: {error}")))
}

async fn run(context: &Context, args: RunArgs) -> Result<()> {
    let (mut client, bytes_max) = context.client()?;
    let audience = match &args.audience {
        None => None,
        Some(path) => {
            // Wrong files are told before anything is asked of a master.
            AudienceFile::exists(path)?;
            let own = get(&mut client, &args.name, 0).await?.campaign.and_then(|c| c.audience);
            let none = || Ok(Audience::of(Source::Inline { rows: Vec::new() }, ADDRESS_FIELD));
            let own = own.map_or_else(none, Audience::try_from);
            let own = own.map_err(|error| Failure::failed(format!("the campaign cannot be read: {error}")))?;
            // A campaign with a list may leave it to that.
            let address_field =
                if own.address_field.is_empty() { ADDRESS_FIELD } else { &own.address_field }.to_owned();
            let file = AudienceFile::of_path(path, Audience { address_field, ..own })?;
            Some(v1::AudienceSource::from(upload(&mut client, &file, bytes_max).await?))
        }
    };
    let idempotency_key = args.idempotency_key.unwrap_or_else(|| client.idempotency_key());
    let request = v1::RunCampaignRequest { campaign: args.name, idempotency_key, audience };
    let call = |channel| {
        let request = request.clone();
        async move { client::campaigns(channel).run_campaign(request).await }
    };
    let answer = client.call(call).await?;
    started(context, &mut client, Started { run: answer.run_id, created: answer.created }, args.wait).await
}

/// Prints the run id; with `wait`, follows it to its end.
pub async fn started(context: &Context, client: &mut Client, started: Started, wait: bool) -> Result<()> {
    match (context.json(), wait) {
        (true, false) => output::json(&started),
        // The last line of `--wait` carries the id, so that there is one object to read.
        (true, true) => follow::wait(client, &*context.clock, &started.run, true).await,
        (false, _) => {
            output::line(&started.run)?;
            if wait { follow::wait(client, &*context.clock, &started.run, false).await } else { Ok(()) }
        }
    }
}
