//! `run …`: executions.

use crate::client::{self, Client};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::follow::{self, INTERVAL, INTERVAL_JSON};
use crate::output::{self, clean, count};
use crate::progress::Progress;
use crate::report::report;
use crate::shapes::{BadRow, FoundRecipient, Recipient, Run};
use clap::{Subcommand, ValueEnum};
use postrider_common::ids::RunId;
use postrider_proto::v1;
use postrider_proto::v1::find_recipient_response::Part;

const LIMIT: u32 = 50;
const PAGE_MAX: u32 = 1000;

#[derive(Debug, Clone, Subcommand)]
pub enum RunCommand {
    /// List runs, newest first
    List {
        /// Only runs of this campaign
        #[arg(long, value_name = "NAME")]
        campaign: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = LIMIT, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show one run
    Show { run: String },
    /// Show progress until the run ends
    Watch { run: String },
    /// Start nothing new; what is in flight ends by its outcome
    Pause { run: String },
    /// Go on; also with a failed run after the mend
    Resume { run: String },
    /// Stop for good: pending recipients end as cancelled
    Cancel { run: String },
    /// Recipients that were rejected, exhausted or are unknown, and bad rows
    Failures { run: String },
    /// Every recipient and what became of it
    Recipients {
        run: String,
        /// Only these states
        #[arg(long, value_enum, value_name = "STATE")]
        state: Vec<State>,
    },
    /// Begin again with the exhausted recipients, in a new generation
    Retry {
        run: String,
        /// Also with the unknown ones: they may get the mail twice
        #[arg(long)]
        unknown: bool,
        /// A repeat with the same key goes on with what the first call began
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
        /// Show progress until the run ends, then the report
        #[arg(long)]
        wait: bool,
    },
    /// What became of one address, in the newest runs
    Find { address: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum State {
    Pending,
    Accepted,
    Rejected,
    Exhausted,
    Suppressed,
    Cancelled,
    Unknown,
}

impl State {
    fn to_wire(self) -> v1::RecipientState {
        match self {
            Self::Pending => v1::RecipientState::Pending,
            Self::Accepted => v1::RecipientState::Accepted,
            Self::Rejected => v1::RecipientState::Rejected,
            Self::Exhausted => v1::RecipientState::Exhausted,
            Self::Suppressed => v1::RecipientState::Suppressed,
            Self::Cancelled => v1::RecipientState::Cancelled,
            Self::Unknown => v1::RecipientState::Unknown,
        }
    }
}

pub async fn perform(context: &Context, command: RunCommand) -> Result<()> {
    match command {
        RunCommand::List { campaign, limit } => list(context, campaign, limit).await,
        RunCommand::Show { run } => {
            let (mut client, _) = context.client()?;
            let run = get(&mut client, &checked(&run)?).await?;
            if context.json() { output::json(&run) } else { output::line(report(&run, context.clock.wall_ms())) }
        }
        RunCommand::Watch { run } => watch(context, &checked(&run)?).await,
        RunCommand::Pause { run } => steer(context, &checked(&run)?, Steer::Pause).await,
        RunCommand::Resume { run } => steer(context, &checked(&run)?, Steer::Resume).await,
        RunCommand::Cancel { run } => steer(context, &checked(&run)?, Steer::Cancel).await,
        RunCommand::Failures { run } => failures(context, &checked(&run)?).await,
        RunCommand::Recipients { run, state } => {
            let (mut client, _) = context.client()?;
            let states: Vec<v1::RecipientState> = state.into_iter().map(State::to_wire).collect();
            recipients(context, &mut client, &checked(&run)?, &states).await
        }
        RunCommand::Retry { run, unknown, idempotency_key, wait } => {
            retry(context, &checked(&run)?, unknown, idempotency_key, wait).await
        }
        RunCommand::Find { address } => find(context, &address).await,
    }
}

/// A text that cannot be a run id names no run; a master need not be asked.
fn checked(run: &str) -> Result<String> {
    match run.parse::<RunId>() {
        Ok(_) => Ok(run.to_owned()),
        Err(why) => Err(Failure::failed(format!("no such run: {why}; see: postrider run list"))),
    }
}

async fn get(client: &mut Client, run: &str) -> Result<Run> {
    let request = v1::GetRunRequest { run_id: run.to_owned() };
    let call = |channel| {
        let request = request.clone();
        async move { client::admin(channel).get_run(request).await }
    };
    Run::from_wire(client.call(call).await?.run)
}

async fn list(context: &Context, campaign: Option<String>, limit: u32) -> Result<()> {
    let (mut client, _) = context.client()?;
    let campaign = campaign.unwrap_or_default();
    let (mut after, mut left, mut rows) = (String::new(), limit, Vec::new());
    while left > 0 {
        let request = v1::ListRunsRequest { campaign: campaign.clone(), after, limit: left.min(PAGE_MAX) };
        let call = |channel| {
            let request = request.clone();
            async move { client::admin(channel).list_runs(request).await }
        };
        let page = client.call(call).await?;
        left = left.saturating_sub(u32::try_from(page.runs.len()).unwrap_or(u32::MAX));
        for wire in page.runs {
            let run = Run::from_wire(Some(wire))?;
            if context.json() { output::json(&run)? } else { rows.push(row(&run)) }
        }
        if page.next.is_empty() {
            break;
        }
        after = page.next;
    }
    if context.json() {
        return Ok(());
    }
    let header = ["RUN", "CAMPAIGN", "STATE", "TOTAL", "PENDING", "ACCEPTED", "REJECTED", "UNKNOWN", "STARTED"];
    output::table(&header, rows)
}

fn row(run: &Run) -> Vec<String> {
    let r = &run.recipients;
    let state = if run.paused { format!("{}, paused", run.state) } else { run.state.to_owned() };
    let campaign = if run.campaign.is_empty() { "-" } else { &run.campaign };
    let counts = [r.total, r.pending, r.accepted, r.rejected, r.unknown].map(count);
    let mut row = vec![run.run.clone(), campaign.to_owned(), state];
    row.extend(counts);
    row.push(run.started_at.clone().unwrap_or_default());
    row
}

async fn watch(context: &Context, run: &str) -> Result<()> {
    let (mut client, _) = context.client()?;
    if context.json() {
        let ended = follow::follow(&mut client, run, INTERVAL_JSON, output::json).await?;
        return follow::outcome(&ended);
    }
    let mut progress = Progress::as_result();
    let ended = follow::follow(&mut client, run, INTERVAL, |now| progress.show(now)).await;
    progress.end();
    let ended = ended?;
    output::line(report(&ended, context.clock.wall_ms()))?;
    follow::outcome(&ended)
}

#[derive(Debug, Clone, Copy)]
enum Steer {
    Pause,
    Resume,
    Cancel,
}

async fn steer(context: &Context, run: &str, steer: Steer) -> Result<()> {
    let (mut client, _) = context.client()?;
    let run_id = run.to_owned();
    let call = |channel| {
        let run_id = run_id.clone();
        let mut admin = client::admin(channel);
        async move {
            let done = |_| tonic::Response::new(());
            match steer {
                Steer::Pause => admin.pause_run(v1::PauseRunRequest { run_id }).await.map(done_of(done)),
                Steer::Resume => admin.resume_run(v1::ResumeRunRequest { run_id }).await.map(done_of(done)),
                Steer::Cancel => admin.cancel_run(v1::CancelRunRequest { run_id }).await.map(done_of(done)),
            }
        }
    };
    client.call(call).await?;
    let what = match steer {
        Steer::Pause => "paused",
        Steer::Resume => "resumed",
        Steer::Cancel => "cancelled: what is in flight ends by its outcome",
    };
    if context.json() { output::json(&get(&mut client, run).await?) } else { output::line(format!("{run} {what}")) }
}

/// In steps, each with the same key.
async fn retry(context: &Context, run: &str, unknown: bool, key: Option<String>, wait: bool) -> Result<()> {
    let (mut client, _) = context.client()?;
    let key = key.unwrap_or_else(|| client.idempotency_key());
    let (mut after, mut recipients) = (0, 0);
    let generation = loop {
        let request = v1::RetryRunRequest {
            run_id: run.to_owned(),
            include_unknown: unknown,
            idempotency_key: key.clone(),
            after,
        };
        let call = |channel| {
            let request = request.clone();
            async move { client::admin(channel).retry_run(request).await }
        };
        let step = client.call(call).await?;
        recipients += step.recipients;
        after = step.next;
        if after == 0 {
            break step.generation;
        }
    };
    match (context.json(), wait) {
        (true, true) => (),
        (true, false) => {
            output::json(&serde_json::json!({ "run": run, "generation": generation, "recipients": recipients }))?
        }
        (false, _) => output::line(format!("{run} begins again with {} recipients", count(recipients)))?,
    }
    if wait { follow::wait(&mut client, &*context.clock, run, context.json()).await } else { Ok(()) }
}

/// The answers of the three calls are empty and of three types.
fn done_of<T>(done: fn(()) -> tonic::Response<()>) -> impl FnOnce(tonic::Response<T>) -> tonic::Response<()> {
    move |_| done(())
}

async fn recipients(context: &Context, client: &mut Client, run: &str, states: &[v1::RecipientState]) -> Result<()> {
    let states = states.iter().map(|state| (*state).into()).collect();
    let request = v1::ListRecipientsRequest { run_id: run.to_owned(), states };
    let call = |channel| {
        let request = request.clone();
        async move { client::admin(channel).list_recipients(request).await }
    };
    let mut stream = client.call(call).await?;
    let mut printed: u64 = 0;
    if !context.json() {
        output::line(format!("{:<11} {:>8} {:<14} {:<21} {}", "STATE", "ATTEMPTS", "CODE", "REASON", "ADDRESS"))?;
    }
    loop {
        let page = match stream.message().await {
            Ok(Some(page)) => page,
            Ok(None) => return Ok(()),
            Err(status) => {
                let why = status.message();
                return Err(Failure::failed(format!(
                    "the list broke off after {printed} recipients: {why}; try again"
                )));
            }
        };
        let mut lines = Vec::with_capacity(page.recipients.len());
        for wire in page.recipients {
            let one = Recipient::from_wire(wire)?;
            printed += 1;
            lines.push(if context.json() {
                serde_json::to_string(&one).map_err(|error| Failure::failed(error.to_string()))?
            } else {
                recipient_line(&one)
            });
        }
        if !lines.is_empty() {
            output::line(lines.join("\n"))?;
        }
    }
}

async fn find(context: &Context, address: &str) -> Result<()> {
    let (mut client, _) = context.client()?;
    let request = v1::FindRecipientRequest { address: address.to_owned() };
    let call = |channel| {
        let request = request.clone();
        async move { client::admin(channel).find_recipient(request).await }
    };
    let mut stream = client.call(call).await?;
    let mut found = 0;
    let broken = |why: &str| Failure::failed(format!("the search broke off: {why}; try again"));
    let end = loop {
        let answer = stream.message().await.map_err(|status| broken(status.message()))?;
        match answer.and_then(|answer| answer.part) {
            Some(Part::Found(wire)) => {
                let one = FoundRecipient::from_wire(wire)?;
                found += 1;
                let shown = if one.campaign.is_empty() { "-" } else { &one.campaign };
                if context.json() {
                    output::json(&one)?;
                } else {
                    output::line(format!("{} {:<24} {}", one.run, clean(shown), recipient_line(&one.recipient)))?;
                }
            }
            Some(Part::End(end)) => break end,
            None => return Err(broken("the master ended it early")),
        }
    };
    let runs = count(u64::from(end.runs_looked_at));
    if found == 0 && !context.json() {
        output::line(format!("nobody with that address in {runs} runs"))?;
    }
    if end.more_runs {
        // Not a result: a reader of JSON lines must not stumble over it.
        eprintln!("only the newest {runs} runs were searched, there are older ones");
    }
    Ok(())
}

fn recipient_line(one: &Recipient) -> String {
    let reason = one.unknown_reason.as_deref().unwrap_or("-");
    let code = if one.code.is_empty() { "-" } else { &one.code };
    let mut line = format!("{:<11} {:>8} {:<14} {reason:<21} {}", one.state, one.attempts, code, clean(&one.address));
    if !one.detail.is_empty() && one.state != "accepted" {
        line.push_str("  ");
        line.push_str(&clean(&one.detail));
    }
    line
}

async fn failures(context: &Context, run: &str) -> Result<()> {
    let (mut client, _) = context.client()?;
    let states = [v1::RecipientState::Rejected, v1::RecipientState::Exhausted, v1::RecipientState::Unknown];
    recipients(context, &mut client, run, &states).await?;
    let request = v1::ListBadRowsRequest { run_id: run.to_owned() };
    let call = |channel| {
        let request = request.clone();
        async move { client::admin(channel).list_bad_rows(request).await }
    };
    let answer = client.call(call).await?;
    let kept = answer.rows.len() as u64;
    for row in answer.rows {
        if context.json() {
            output::json(&BadRow { state: "bad_row", row: row.row, reason: row.reason })?;
        } else {
            output::line(format!("bad row {}: {}", row.row, clean(&row.reason)))?;
        }
    }
    if answer.total > kept && !context.json() {
        output::line(format!("… and {} more bad rows that were counted and not kept", count(answer.total - kept)))?;
    }
    Ok(())
}
