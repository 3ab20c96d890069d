//! `lane …`: bulkheads.

use crate::client;
use crate::context::Context;
use crate::failure::Result;
use crate::output;
use crate::shapes::Lane;
use clap::Subcommand;
use postrider_proto::v1;

#[derive(Debug, Clone, Subcommand)]
pub enum LaneCommand {
    /// List lanes
    List,
    /// Lease no batches of this lane; what is in flight ends by its outcome
    Pause { lane: String },
    /// Lease them again
    Resume { lane: String },
}

pub async fn perform(context: &Context, command: LaneCommand) -> Result<()> {
    let (mut client, _) = context.client()?;
    match command {
        LaneCommand::List => {
            let call = |channel| async move { client::admin(channel).list_lanes(v1::ListLanesRequest {}).await };
            list(context, client.call(call).await?)
        }
        LaneCommand::Pause { lane } => {
            let request = v1::PauseLaneRequest { lane: lane.clone() };
            let call = |channel| {
                let request = request.clone();
                async move { client::admin(channel).pause_lane(request).await }
            };
            client.call(call).await?;
            done(context, &lane, "paused")
        }
        LaneCommand::Resume { lane } => {
            let request = v1::ResumeLaneRequest { lane: lane.clone() };
            let call = |channel| {
                let request = request.clone();
                async move { client::admin(channel).resume_lane(request).await }
            };
            client.call(call).await?;
            done(context, &lane, "resumed")
        }
    }
}

fn list(context: &Context, answer: v1::ListLanesResponse) -> Result<()> {
    let mut rows = Vec::new();
    for wire in answer.lanes {
        let v1::Lane { name, weight, paused, batches_ready, rate, burst, concurrency, in_intent } = wire;
        let given = |number: u32| (number > 0).then_some(number);
        let (rate, burst) = (Some(rate).filter(|rate| !rate.is_empty()), given(burst));
        let concurrency = given(concurrency);
        let lane = Lane { lane: name, weight, paused, batches_ready, rate, burst, concurrency, in_intent };
        if context.json() {
            output::json(&lane)?;
            continue;
        }
        let state = if lane.paused { "paused" } else { "active" };
        let concurrency = lane.concurrency.map_or("-".into(), |cap| format!("{} of {cap}", lane.in_intent));
        let (weight, ready) = (lane.weight.to_string(), output::count(lane.batches_ready));
        rows.push(vec![lane.lane, state.into(), weight, ready, lane.rate.unwrap_or("-".into()), concurrency]);
    }
    if context.json() {
        Ok(())
    } else {
        output::table(&["LANE", "STATE", "WEIGHT", "READY BATCHES", "RATE", "IN FLIGHT"], rows)
    }
}

fn done(context: &Context, lane: &str, what: &str) -> Result<()> {
    if context.json() {
        output::json(&serde_json::json!({ "lane": lane, "done": what }))
    } else {
        output::line(format!("lane {lane} {what}"))
    }
}
