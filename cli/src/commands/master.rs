//! `master`: the process that schedules, splits and leases.

use crate::context::Context;
use crate::failure::Result;
use crate::node::{self, stop};
use crate::output;
use clap::Args;

#[derive(Debug, Clone, Args)]
pub struct MasterArgs {
    /// Address for workers and clients [default: 127.0.0.1:7400]
    #[arg(long, value_name = "ADDRESS")]
    pub grpc_listen: Option<String>,
    /// Address for health and metrics; "" for none [default: 127.0.0.1:7401]
    #[arg(long, value_name = "ADDRESS")]
    pub http_listen: Option<String>,
}

impl MasterArgs {
    fn flags(self) -> Vec<(&'static str, &'static str, String, &'static str)> {
        let grpc = self.grpc_listen.map(|text| ("master", "grpc_listen", text, "--grpc-listen"));
        let http = self.http_listen.map(|text| ("master", "http_listen", text, "--http-listen"));
        grpc.into_iter().chain(http).collect()
    }
}

pub async fn perform(context: &Context, args: MasterArgs) -> Result<()> {
    context.start_logging();
    let gathered = context.gather(args.flags())?;
    let config = context.config(&gathered)?;
    let stop = stop::requested()?;
    tokio::pin!(stop);
    let opening = node::master::open_store(&config.store, config.store_options(&context.clock));
    let store = tokio::select! {
        store = opening => store?,
        () = &mut stop => return Ok(()),
    };
    let master = node::master::start(&config, store, context.clock.clone()).await?;
    // Nobody reads it: not a reason to stop.
    let _ = output::line(node::master::ready_line(&master));
    stop.await;
    master.stop().await;
    Ok(())
}
