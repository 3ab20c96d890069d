//! `demo`: the main job on this machine with nothing installed, and a worker killed in the middle of it.
//!
//! Store, master and mail sink run in this process; the worker is a child process that is SIGKILLed
//! while at least half its slots are in intent, and restarted with the crash journal that it left. The
//! sink's own ledger is the judge of what was lost or sent twice (`verdict`), never Postrider's counters: a
//! message may come twice only if the sink knows that the reply to the first was not read.

mod kill;
pub mod people;
mod stage;
mod verdict;

use crate::client::Client;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::follow::{self, INTERVAL};
use crate::node::stop;
use crate::output::{self, count};
use crate::progress::Progress;
use crate::report::report;
use crate::shapes::{Recipient, Run};
use crate::{campaign_file, client, upload};
use clap::Args;
use postrider_common::ids::RunId;
use postrider_common::limits::AUDIENCE_BYTES_MAX;
use postrider_proto::v1;
use stage::Stage;
use std::time::Duration;
use verdict::{Findings, Verdict};

/// Fewer and there is no middle to kill a worker in.
const RECIPIENTS_MIN: u64 = 200;
/// What the judge holds in memory, with room for the audience.
const RECIPIENTS_MAX: u64 = 1_000_000;

/// Notes on their way to the screen: there is one for each kill.
const NOTES_MAX: usize = 8;

#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Rows of the audience, some of them invalid
    #[arg(long, value_name = "N", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(RECIPIENTS_MIN..=RECIPIENTS_MAX))]
    pub recipients: u64,
    /// Keep everything running afterwards, until Ctrl-C
    #[arg(long)]
    pub stay: bool,
    /// Chooses when the worker is killed [default: another each time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

pub async fn perform(context: &Context, args: DemoArgs) -> Result<()> {
    // The kill makes warnings by intention; they would be in the way of the progress.
    context.start_logging_at("error");
    let stop = stop::requested()?;
    tokio::pin!(stop);
    let played = tokio::select! {
        played = play(context, &args) => played?,
        () = &mut stop => return Err(Failure::failed("stopped before the end")),
    };
    if args.stay {
        say(context, &played.invitation());
        stop.await;
    }
    played.stage.strike().await?;
    match played.verdict.is_good() {
        true => Ok(()),
        false => Err(Failure::failed(played.verdict.problems().join("; "))),
    }
}

/// What is left on the stage after the last act.
struct Played {
    stage: Stage,
    run: String,
    verdict: Verdict,
}

async fn play(context: &Context, args: &DemoArgs) -> Result<Played> {
    let seed = args.seed.unwrap_or_else(|| context.clock.random() % 1_000_000);
    let rows = usize::try_from(args.recipients).unwrap_or(usize::MAX);
    let mut stage = Stage::set(context, rows).await?;
    say(context, &format!("{}; seed {seed}", stage.describe()));

    let master = format!("http://{}", stage.master.grpc_addr());
    let mut client = Client::new(vec![master], Duration::from_secs(10), context.clock.clone());
    let run = start_run(&mut client, &stage).await?;
    let run_id: RunId = run.parse().map_err(|error| Failure::failed(format!("the master answered: {error}")))?;

    let mut progress = Progress::beside(context.json());
    let (notes, mut noted) = tokio::sync::mpsc::channel::<String>(NOTES_MAX);
    let plan = kill::Plan::new(seed, args.recipients);
    let killing = kill::kill_once(&stage.store, &mut stage.worker, &run_id, &plan, |note| {
        // The screen is gone when the demo is; there is nobody to tell then.
        let _ = notes.try_send(note);
    });
    let following = follow::follow(&mut client, &run, INTERVAL, |now| {
        while let Ok(note) = noted.try_recv() {
            progress.note(&note);
        }
        progress.show(now)
    });
    let (killed, ended) = tokio::try_join!(killing, following)?;
    progress.end();

    let recipients = recipients(&mut client, &run).await?;
    let verdict = verdict::judge(&Findings {
        run: &ended,
        recipients: &recipients,
        copies: &stage.ledger.deliveries(),
        unread: &stage.ledger.unread(),
        in_intent_at_kill: killed.as_ref().map(|killed| u64::from(killed.in_intent)),
        invalid_rows: people::invalid_rows(rows) as u64,
        repeated_rows: people::repeated_rows(rows) as u64,
    });
    tell(context, &ended, &verdict, killed.as_ref())?;
    Ok(Played { stage, run, verdict })
}

fn say(context: &Context, text: &str) {
    if !context.json() {
        eprintln!("{text}");
    }
}

/// As `campaign apply` and `campaign run` do it.
async fn start_run(client: &mut Client, stage: &Stage) -> Result<String> {
    let file = campaign_file::read_campaign(&stage.campaign_file())?;
    let mut campaign = file.campaign;
    if let Some(audience) = &file.audience {
        campaign.audience = Some(upload::upload(client, audience, AUDIENCE_BYTES_MAX).await?);
    }
    let name = campaign.name.to_string();
    let apply = v1::ApplyCampaignRequest { campaign: Some(campaign.into()), idempotency_key: String::new() };
    let call = |channel| {
        let apply = apply.clone();
        async move { client::campaigns(channel).apply_campaign(apply).await }
    };
    client.call(call).await?;
    let run = v1::RunCampaignRequest { campaign: name, idempotency_key: "demo".into(), audience: None };
    let call = |channel| {
        let run = run.clone();
        async move { client::campaigns(channel).run_campaign(run).await }
    };
    Ok(client.call(call).await?.run_id)
}

async fn recipients(client: &mut Client, run: &str) -> Result<Vec<Recipient>> {
    let request = v1::ListRecipientsRequest { run_id: run.to_owned(), states: Vec::new() };
    let call = |channel| {
        let request = request.clone();
        async move { client::admin(channel).list_recipients(request).await }
    };
    let mut stream = client.call(call).await?;
    let mut all = Vec::new();
    let broke = |status: tonic::Status| Failure::failed(format!("the list of recipients broke off: {status}"));
    while let Some(page) = stream.message().await.map_err(broke)? {
        for wire in page.recipients {
            all.push(Recipient::from_wire(wire)?);
        }
    }
    Ok(all)
}

fn tell(context: &Context, run: &Run, verdict: &Verdict, killed: Option<&kill::Killed>) -> Result<()> {
    let in_intent = killed.map(|killed| killed.in_intent);
    if context.json() {
        return output::json(&serde_json::json!({ "run": run, "verdict": verdict, "in_intent_at_kill": in_intent }));
    }
    let kill = killed.map_or("none: the run was over before the worker was caught in flight".to_owned(), |killed| {
        format!(
            "SIGKILL after {} recipients with {} of {} slots in intent, then restarted",
            count(killed.done),
            killed.in_intent,
            killed.slots
        )
    });
    let line = "-".repeat(78);
    let mut lines = vec![line.clone(), report(run, context.clock.wall_ms()), format!("{:<12} {kill}", "worker")];
    lines.push(format!("{:<12} {}", "sink", verdict.sink_line()));
    lines.push(format!("{:<12} {}", "lost", count(verdict.lost)));
    let marked = match verdict.unmarked {
        0 => "each marked with its reason".to_owned(),
        unmarked => format!("{} of them NOT marked with a reason", count(unmarked)),
    };
    lines.push(format!(
        "{:<12} {}, {marked}; {} replies were unread at the kill, of {} in intent",
        "duplicates",
        count(verdict.duplicates),
        count(verdict.unread),
        in_intent.unwrap_or(0)
    ));
    lines.push(line);
    lines.push(if verdict.is_good() {
        "ok: nothing lost, nothing sent twice but where a reply was unread at the kill".to_owned()
    } else {
        format!("FAILED: {}", verdict.problems().join("; "))
    });
    output::line(lines.join("\n"))
}

impl Played {
    /// For `--stay`.
    fn invitation(&self) -> String {
        let (stage, run) = (&self.stage, &self.run);
        let master = format!("http://{}", stage.master.grpc_addr());
        let metrics = stage.master.http_addr().map(|address| format!("http://{address}/metrics")).unwrap_or_default();
        format!(
            "\nstill running until Ctrl-C: master {master}, metrics {metrics}, sink {}\n  \
             postrider --master {master} run recipients {run} | head\n  \
             postrider --master {master} run failures {run}\n  \
             postrider --master {master} workers list",
            stage.sink_address
        )
    }
}
