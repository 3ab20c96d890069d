//! `dev`: master, worker and a mail catcher in one process, for trying things out.

use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::node::{self, stop};
use crate::output;
use crate::sink::{self, Ledger, SinkConfig};
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    /// Where the mail catcher listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:2525")]
    pub sink_listen: SocketAddr,
    /// File that caught mail is noted in
    #[arg(long, value_name = "FILE", default_value = "./postrider-data/mail.ndjson")]
    pub capture: PathBuf,
}

pub async fn perform(context: &Context, args: DevArgs) -> Result<()> {
    context.start_logging_at("warn");
    if !args.sink_listen.ip().is_loopback() {
        return Err(Failure::usage(format!(
            "--sink-listen {}: other machines could reach it, and the catcher takes mail from anyone; use 127.0.0.1",
            args.sink_listen
        )));
    }
    // Wrong settings are told before anything starts; the real relay is known when the catcher listens.
    context.config(&context.gather(Vec::new())?)?;
    let stop = stop::requested()?;
    let stopping = CancellationToken::new();
    let (ready, address) = oneshot::channel();
    let catcher =
        tokio::spawn(sink::serve(catcher(&args)?, Ledger::default(), stopping.clone().cancelled_owned(), ready));
    let result = match address.await {
        Ok(address) => serve(context, &args, address, stop).await,
        // It says why when it is waited for.
        Err(_) => Ok(()),
    };
    stopping.cancel();
    let caught = catcher.await.map_err(|error| Failure::failed(format!("the mail catcher broke: {error}")))?;
    caught.map_err(Failure::from)?;
    result
}

fn catcher(args: &DevArgs) -> Result<SinkConfig> {
    if let Some(folder) = args.capture.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|error| Failure::failed(format!("cannot create {}: {error}", folder.display())))?;
    }
    let capture = Some(args.capture.clone());
    Ok(SinkConfig { listen: args.sink_listen, latency: Duration::ZERO, rules: Vec::new(), capture })
}

/// Master and worker until the signal; the worker drains before the master stops.
async fn serve(
    context: &Context,
    args: &DevArgs,
    sink: SocketAddr,
    stop: impl Future<Output = ()> + Send,
) -> Result<()> {
    let gathered = context.gather_with_relays(Vec::new(), vec![format!("smtp://{sink}")])?;
    let config = context.config(&gathered)?;
    tokio::pin!(stop);
    let store = tokio::select! {
        store = node::master::open_store(&config.store, config.store_options(&context.clock)) => store?,
        () = &mut stop => return Ok(()),
    };
    let place = store.describe();
    let master = node::master::start(&config, store, context.clock.clone()).await?;
    let url = format!("http://{}", master.grpc_addr());
    let mut settings = node::worker::settings(&config)?;
    settings.masters = vec![url.clone()];
    let _ = output::line(node::master::ready_line(&master));
    let metrics = master.http_addr().map(|address| format!("http://{address}/metrics")).unwrap_or_default();
    eprintln!(
        "postrider dev: master {url}, worker, and a mail catcher on {sink}; Ctrl-C stops all\n\
         \x20 store    {place}\n\
         \x20 mail     {}\n\
         \x20 metrics  {metrics}\n\
         next, in another terminal:\n\
         \x20 postrider --master {url} campaign apply examples/daily-digest/campaign.toml\n\
         \x20 postrider --master {url} campaign run daily-digest --wait",
        args.capture.display()
    );
    let worked = node::worker::run(settings, context.clock.clone(), stop).await;
    master.stop().await;
    worked
}
