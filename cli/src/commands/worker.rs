//! `worker`: the process that sends.

use crate::context::Context;
use crate::failure::Result;
use crate::node::{self, stop};
use clap::Args;

#[derive(Debug, Clone, Args)]
pub struct WorkerArgs {
    /// Name for people [default: host name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Recipients in flight at once [default: 256]
    #[arg(long, value_name = "N")]
    pub slots: Option<String>,
    /// Lanes to work for, comma-separated [default: all]
    #[arg(long, value_name = "LANES")]
    pub lanes: Option<String>,
    /// Where to send, instead of the configured relays: smtp://HOST:PORT
    #[arg(long, value_name = "URL")]
    pub relay: Vec<String>,
}

pub async fn perform(context: &Context, args: WorkerArgs) -> Result<()> {
    context.start_logging();
    let flags = [
        args.name.map(|text| ("worker", "name", text, "--name")),
        args.slots.map(|text| ("worker", "slots", text, "--slots")),
        args.lanes.map(|text| ("worker", "lanes", text, "--lanes")),
    ];
    let flags: Vec<_> = flags.into_iter().flatten().collect();
    let config = || context.config(&context.gather_with_relays(flags.clone(), args.relay.clone())?);
    let settings = node::worker::settings(&config()?)?;
    let watch = node::signing::watch(settings.signing.clone(), || Ok(config()?.dkim))?;
    let work = node::worker::run(settings, context.clock.clone(), stop::requested()?);
    tokio::select! {
        worked = work => worked,
        () = watch => Ok(()),
    }
}
