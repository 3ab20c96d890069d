//! `dead …`: what was set aside for a person.

use crate::client::{self, Client};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::output::{self, clean, count};
use crate::shapes::{DeadLetter, Recipient, instant};
use clap::Subcommand;
use postrider_common::ids::DeadId;
use postrider_proto::v1;

const LIMIT: u32 = 50;
const PAGE_MAX: u32 = 1000;

#[derive(Debug, Clone, Subcommand)]
pub enum DeadCommand {
    /// List dead letters
    List {
        /// Only those of this run
        #[arg(long, value_name = "RUN")]
        run: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = LIMIT, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show one dead letter
    Show { id: String },
    /// Make it pending again
    Replay {
        #[command(flatten)]
        which: Which,
        /// Even if it may have been sent: it may be sent twice
        #[arg(long)]
        unknown: bool,
    },
    /// Give it up for good
    Purge {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// As `dead list` shows it
    pub id: Option<String>,
    /// All dead letters of this run
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
}

#[derive(Debug, Clone, Copy)]
enum Decision {
    Replay { unknown: bool },
    Purge,
}

pub async fn perform(context: &Context, command: DeadCommand) -> Result<()> {
    let (mut client, _) = context.client()?;
    match command {
        DeadCommand::List { run, limit } => list(context, &mut client, run.unwrap_or_default(), limit).await,
        DeadCommand::Show { id } => show(context, &mut client, &checked(&id)?).await,
        DeadCommand::Replay { which, unknown } => {
            decide(context, &mut client, which, Decision::Replay { unknown }).await
        }
        DeadCommand::Purge { which } => decide(context, &mut client, which, Decision::Purge).await,
    }
}

/// A text that cannot be a dead letter names none; a master need not be asked.
fn checked(id: &str) -> Result<String> {
    match id.parse::<DeadId>() {
        Ok(_) => Ok(id.to_owned()),
        Err(why) => Err(Failure::failed(format!("no such dead letter: {why}; see: postrider dead list"))),
    }
}

async fn page(client: &mut Client, run: &str, after: String, limit: u32) -> Result<v1::ListDeadLettersResponse> {
    let request = v1::ListDeadLettersRequest { run_id: run.to_owned(), after, limit: limit.min(PAGE_MAX) };
    let call = |channel| {
        let request = request.clone();
        async move { client::admin(channel).list_dead_letters(request).await }
    };
    client.call(call).await
}

async fn list(context: &Context, client: &mut Client, run: String, limit: u32) -> Result<()> {
    let (mut after, mut left, mut rows) = (String::new(), limit, Vec::new());
    while left > 0 {
        let page = page(client, &run, after, left).await?;
        left = left.saturating_sub(u32::try_from(page.letters.len()).unwrap_or(u32::MAX));
        for wire in page.letters {
            let letter = shape(wire)?;
            if context.json() { output::json(&letter)? } else { rows.push(row(&letter)) }
        }
        if page.next.is_empty() {
            break;
        }
        after = page.next;
    }
    if context.json() { Ok(()) } else { output::table(&["DEAD LETTER", "SINCE", "REASON", "STATE", "OF"], rows) }
}

fn shape(wire: v1::DeadLetter) -> Result<DeadLetter> {
    Ok(DeadLetter {
        id: wire.id,
        run: wire.run_id,
        campaign: wire.campaign,
        batch: wire.batch_id,
        reason: wire.reason,
        at: instant(wire.at_ms),
        pending: wire.pending,
        recipient: wire.recipient.map(Recipient::from_wire).transpose()?,
    })
}

fn row(letter: &DeadLetter) -> Vec<String> {
    let (state, of) = match &letter.recipient {
        Some(recipient) => (recipient.state.to_owned(), clean(&recipient.address)),
        None => ("set aside".to_owned(), format!("a batch with {} pending", count(u64::from(letter.pending)))),
    };
    vec![letter.id.clone(), letter.at.clone().unwrap_or_default(), clean(&letter.reason), state, of]
}

async fn show(context: &Context, client: &mut Client, id: &str) -> Result<()> {
    let request = v1::GetDeadLetterRequest { id: id.to_owned() };
    let call = |channel| {
        let request = request.clone();
        async move { client::admin(channel).get_dead_letter(request).await }
    };
    let wire = client.call(call).await?.letter;
    let wire =
        wire.ok_or_else(|| Failure::failed("the master answered without a dead letter: is it of another version?"))?;
    let letter = shape(wire)?;
    if context.json() {
        return output::json(&letter);
    }
    let mut lines = vec![
        format!("{:<12} {}", "dead letter", letter.id),
        format!(
            "{:<12} {} ({})",
            "run",
            letter.run,
            if letter.campaign.is_empty() { "single message" } else { &letter.campaign }
        ),
        format!("{:<12} {}", "since", letter.at.clone().unwrap_or_default()),
        format!("{:<12} {}", "reason", clean(&letter.reason)),
    ];
    let unknown = match &letter.recipient {
        Some(recipient) => {
            lines.push(format!("{:<12} {}", "address", clean(&recipient.address)));
            lines.push(format!("{:<12} {}", "key", clean(&recipient.key)));
            lines.push(format!("{:<12} {} after {} attempts", "state", recipient.state, recipient.attempts));
            let reason = recipient.unknown_reason.as_deref().unwrap_or("-");
            lines.push(format!("{:<12} {reason}", "doubt"));
            recipient.state == "unknown"
        }
        None => {
            lines.push(format!("{:<12} {} recipients of the batch", "pending", count(u64::from(letter.pending))));
            false
        }
    };
    let flag = if unknown { " --unknown" } else { "" };
    lines.push(format!("{:<12} postrider dead replay {id}{flag}, or postrider dead purge {id}", "next"));
    output::line(lines.join("\n"))
}

async fn decide(context: &Context, client: &mut Client, which: Which, decision: Decision) -> Result<()> {
    if let Some(id) = which.id {
        let id = checked(&id)?;
        let recipients = one(client, &id, decision).await?;
        return told(context, &id, decision, 1, recipients, 0);
    }
    let run = which.run.unwrap_or_default();
    let (mut after, mut letters, mut recipients, mut in_doubt) = (String::new(), 0, 0, 0);
    loop {
        let page = page(client, &run, after, PAGE_MAX).await?;
        for letter in &page.letters {
            let unknown = letter.recipient.as_ref().is_some_and(|r| r.state() == v1::RecipientState::Unknown);
            // Not an error: the others can go on.
            if unknown && matches!(decision, Decision::Replay { unknown: false }) {
                in_doubt += 1;
                continue;
            }
            recipients += one(client, &letter.id, decision).await?;
            letters += 1;
        }
        if page.next.is_empty() {
            return told(context, &run, decision, letters, recipients, in_doubt);
        }
        after = page.next;
    }
}

/// A repeated call that finds the letter gone was done by the one before it.
async fn one(client: &mut Client, id: &str, decision: Decision) -> Result<u64> {
    let id = id.to_owned();
    let call = |channel| {
        let id = id.clone();
        let mut admin = client::admin(channel);
        async move {
            match decision {
                Decision::Replay { unknown: include_unknown } => {
                    let request = v1::ReplayDeadLetterRequest { id, include_unknown };
                    admin.replay_dead_letter(request).await.map(|answer| answer.map(|answer| answer.recipients))
                }
                Decision::Purge => {
                    let request = v1::PurgeDeadLetterRequest { id };
                    admin.purge_dead_letter(request).await.map(|answer| answer.map(|answer| answer.recipients))
                }
            }
        }
    };
    client.call(call).await
}

fn told(context: &Context, of: &str, decision: Decision, letters: u64, recipients: u64, in_doubt: u64) -> Result<()> {
    let word = match decision {
        Decision::Replay { .. } => "replayed",
        Decision::Purge => "purged",
    };
    if context.json() {
        return output::json(&serde_json::json!({ word: letters, "recipients": recipients, "in_doubt": in_doubt }));
    }
    output::line(format!("{of}: {} {word}", count(letters)))?;
    if in_doubt > 0 {
        output::line(format!(
            "{} may have been sent and were left: say --unknown to send them again",
            count(in_doubt)
        ))?;
    }
    Ok(())
}
