//! `workers …`: the fleet.

use crate::client;
use crate::context::Context;
use crate::failure::Result;
use crate::output;
use crate::shapes::{Worker, instant};
use clap::Subcommand;
use postrider_proto::v1;

#[derive(Debug, Clone, Subcommand)]
pub enum WorkersCommand {
    /// List workers
    List,
    /// Let a worker finish what it holds and stop
    Drain {
        /// Name (all its instances) or instance
        worker: String,
    },
}

pub async fn perform(context: &Context, command: WorkersCommand) -> Result<()> {
    let (mut client, _) = context.client()?;
    match command {
        WorkersCommand::List => {
            let call = |channel| async move { client::admin(channel).list_workers(v1::ListWorkersRequest {}).await };
            list(context, client.call(call).await?)
        }
        WorkersCommand::Drain { worker } => {
            let request = v1::DrainWorkerRequest { worker: worker.clone() };
            let call = |channel| {
                let request = request.clone();
                async move { client::admin(channel).drain_worker(request).await }
            };
            let answer = client.call(call).await?;
            if context.json() {
                output::json(&serde_json::json!({ "worker": worker, "draining": answer.workers }))
            } else {
                output::line(format!("{worker}: {} draining", answer.workers))
            }
        }
    }
}

fn list(context: &Context, answer: v1::ListWorkersResponse) -> Result<()> {
    let mut rows = Vec::new();
    for wire in answer.workers {
        let v1::Worker { name, instance, seen: _ } = wire.worker.unwrap_or_default();
        let worker = Worker {
            name,
            instance,
            seen_at: instant(wire.seen_at_ms),
            slots: wire.slots,
            leases: wire.leases,
            in_intent: wire.in_intent,
            draining: wire.draining,
        };
        if context.json() {
            output::json(&worker)?;
            continue;
        }
        let state = if worker.draining { "draining" } else { "active" };
        let numbers = [worker.slots, worker.leases, worker.in_intent].map(|number| number.to_string());
        let mut row = vec![output::clean(&worker.name), worker.instance, state.to_owned()];
        row.extend(numbers);
        row.push(worker.seen_at.unwrap_or_default());
        rows.push(row);
    }
    let header = ["WORKER", "INSTANCE", "STATE", "SLOTS", "LEASES", "IN INTENT", "SEEN"];
    if context.json() { Ok(()) } else { output::table(&header, rows) }
}
