//! `erase`: one address, everywhere.

use crate::client::{self, Client};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::output::{self, clean, count};
use crate::shapes::{Erasure, instant};
use clap::Args;
use postrider_common::Address;
use postrider_proto::v1;
use std::time::Duration;

/// How often `--wait` looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, Args)]
pub struct EraseArgs {
    /// The address, however it is spelled
    #[arg(required_unless_present = "list", conflicts_with = "list")]
    pub address: Option<String>,
    /// End when it is done
    #[arg(long, conflicts_with = "list")]
    pub wait: bool,
    /// List those that are not done
    #[arg(long)]
    pub list: bool,
}

pub async fn perform(context: &Context, args: EraseArgs) -> Result<()> {
    let Some(address) = args.address else { return list(context).await };
    if let Err(why) = address.parse::<Address>() {
        return Err(Failure::usage(format!("'{}': {why}", clean(&address))));
    }
    let (mut client, _) = context.client()?;
    let request = v1::EraseRequest { address };
    let call = |channel| {
        let request = request.clone();
        async move { client::admin(channel).erase(request).await }
    };
    let mut erasure = client.call(call).await?.erasure.unwrap_or_default();
    while args.wait && !erasure.done {
        tokio::time::sleep(LOOK_EVERY).await;
        erasure = look(&mut client, erasure.id).await?;
    }
    show(context, erasure)
}

async fn look(client: &mut Client, id: String) -> Result<v1::Erasure> {
    let request = v1::GetErasureRequest { id };
    let call = |channel| {
        let request = request.clone();
        async move { client::admin(channel).get_erasure(request).await }
    };
    Ok(client.call(call).await?.erasure.unwrap_or_default())
}

async fn list(context: &Context) -> Result<()> {
    let (mut client, _) = context.client()?;
    let call = |channel| async move { client::admin(channel).list_erasures(v1::ListErasuresRequest {}).await };
    let answer = client.call(call).await?;
    if context.json() {
        return answer.erasures.into_iter().try_for_each(|erasure| output::json(&shape(erasure)));
    }
    let row = |wire| {
        let erasure = shape(wire);
        let numbers = [erasure.recipients, erasure.rows, erasure.mentions].map(count);
        [vec![erasure.id, erasure.asked_at.unwrap_or_default()], numbers.to_vec()].concat()
    };
    let rows = answer.erasures.into_iter().map(row).collect();
    output::table(&["ERASURE", "ASKED AT", "RECIPIENTS", "ROWS", "MENTIONS"], rows)
}

fn shape(wire: v1::Erasure) -> Erasure {
    let v1::Erasure { id, done, asked_at_ms, done_at_ms, recipients, ended, rows, mentions, unreadable, left } = wire;
    let (asked_at, done_at) = (instant(asked_at_ms), instant(done_at_ms));
    Erasure { id, done, asked_at, done_at, recipients, ended, rows, mentions, unreadable, left }
}

fn show(context: &Context, wire: v1::Erasure) -> Result<()> {
    let erasure = shape(wire);
    if context.json() {
        return output::json(&erasure);
    }
    let Erasure { id, done, recipients, ended, rows, mentions, unreadable, left, .. } = erasure;
    if !done {
        return output::line(format!("erasure {id} is under way: run it again with --wait to see its end"));
    }
    if recipients + rows + mentions == 0 {
        output::line(format!("erasure {id} is done: nothing found"))?;
    } else {
        output::line(format!(
            "erasure {id} is done: {} recipients of runs ({} were pending), {} rows of audiences, {} mentions",
            count(recipients),
            count(ended),
            count(rows),
            count(mentions)
        ))?;
    }
    if unreadable > 0 {
        output::line(format!("{} batches, segments or audiences cannot be read and may have it", count(unreadable)))?;
    }
    left.iter().try_for_each(|what| output::line(format!("still in {}: take it out there", clean(what))))
}
