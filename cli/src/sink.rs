//! `postrider sink`: an SMTP server for tests. It takes mail, delays, refuses by rule, and keeps a ledger
//! of what it accepted, which is the judge of what was lost or sent twice.
//!
//! What it decides about a message is in the ledger before the client can see the reply.

mod connection;
mod ledger;
mod rules;

pub use ledger::{Delivery, Ledger, Summary};
pub use rules::{FailRule, InvalidRule, RULE_SYNTAX};

use anyhow::Context as _;
use clap::Args;
use connection::Connection;
use ledger::FLUSH_INTERVAL;
use rules::Rules;
use std::future::Future;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

/// How long connections may take to notice the end of the sink.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// After a failed accept, most often for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a sink does.
#[derive(Debug, Clone)]
pub struct SinkConfig {
    /// Port 0: any free one, see `ready` of `serve`.
    pub listen: SocketAddr,
    /// Waited before the reply to each final dot, and only there.
    pub latency: Duration,
    /// The first that matches wins.
    pub rules: Vec<FailRule>,
    /// Appended to: one JSON line for each recipient of each message whose final dot came. Lines are
    /// written at latest 50 ms after the decision, and at the end.
    pub capture: Option<PathBuf>,
}

/// Arguments of `postrider sink`.
#[derive(Debug, Clone, Args)]
pub struct SinkArgs {
    /// Where to listen; port 0 takes any free port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:2525")]
    pub listen: SocketAddr,
    /// Delay before the reply to each final dot
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub latency_ms: u64,
    /// What to refuse, such as 'reject@*@bad.example' or 'defer:450@*@slow.example#1'; may be repeated
    #[arg(long = "fail", value_name = "RULE", num_args = 1.., long_help = RULE_SYNTAX)]
    pub fail: Vec<FailRule>,
    /// File to append one JSON line to for each message
    #[arg(long, value_name = "FILE")]
    pub capture: Option<PathBuf>,
    /// Allow an address that other machines can reach: the sink takes mail from anyone
    #[arg(long)]
    pub insecure: bool,
}

/// `postrider sink`: serves until SIGINT or SIGTERM.
pub async fn run(args: SinkArgs) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.listen.ip().is_loopback() || args.insecure,
        "{} can be reached from other machines and the sink takes mail from anyone: listen on 127.0.0.1, or say --insecure",
        args.listen
    );
    let config = SinkConfig {
        listen: args.listen,
        latency: Duration::from_millis(args.latency_ms),
        rules: args.fail,
        capture: args.capture,
    };
    let (ready, address) = oneshot::channel();
    let stop = stop_signal()?;
    let announce = async {
        if let Ok(address) = address.await {
            let mut output = std::io::stdout();
            // Nobody reads it: not a reason to stop.
            let _ = writeln!(output, "listening on {address}").and_then(|()| output.flush());
        }
    };
    let (summary, ()) = tokio::join!(serve(config, Ledger::default(), stop, ready), announce);
    let Summary { accepted, rejected, deferred, lost, .. } = summary?;
    tracing::info!(accepted, rejected, deferred, lost, "sink stopped");
    Ok(())
}

fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Takes mail until `shutdown`. Tells `ready` the address it listens on. `ledger` can be read by others
/// meanwhile. Ends with an error when it cannot listen or when the capture file cannot be written.
pub async fn serve(
    config: SinkConfig,
    ledger: Ledger,
    shutdown: impl Future<Output = ()>,
    ready: oneshot::Sender<SocketAddr>,
) -> anyhow::Result<Summary> {
    let SinkConfig { listen, latency, rules, capture } = config;
    let capture = match capture {
        None => None,
        Some(path) => {
            let file = tokio::fs::OpenOptions::new().create(true).append(true).open(&path).await;
            Some(file.with_context(|| format!("failed to open the capture file {}", path.display()))?)
        }
    };
    ledger.capture(capture.is_some());
    let listener = TcpListener::bind(listen).await.with_context(|| format!("failed to listen on {listen}"))?;
    let address = listener.local_addr().context("failed to read the address of the listener")?;
    tracing::info!(%address, "sink listens");
    // Whoever waited may be gone.
    let _ = ready.send(address);

    let (stop, stopped) = watch::channel(false);
    let rules = Arc::new(Rules::new(rules));
    let connect = |stream, peer| {
        let connection = Connection::new(stream, peer, latency, rules.clone(), ledger.clone());
        connection.run(stopped.clone())
    };
    let mut connections = JoinSet::new();
    let (end_flushing, flushing_ends) = oneshot::channel();
    let flusher = flush(ledger.clone(), capture, flushing_ends);
    tokio::pin!(flusher);
    let failed = tokio::select! {
        () = accept(&listener, &mut connections, connect) => None,
        () = shutdown => None,
        result = &mut flusher => Some(result),
    };
    let _ = stop.send(true);
    match failed {
        Some(result) => {
            connections.shutdown().await;
            result?;
        }
        None => {
            // The flusher goes on, since a full buffer holds connections back.
            let result = {
                let all = async { while connections.join_next().await.is_some() {} };
                tokio::select! {
                    _ = tokio::time::timeout(STOP_GRACE, all) => None,
                    result = &mut flusher => Some(result),
                }
            };
            connections.shutdown().await;
            let _ = end_flushing.send(());
            match result {
                Some(result) => result?,
                None => flusher.await?,
            }
        }
    }
    Ok(ledger.summary())
}

/// Takes connections for ever.
async fn accept<F>(listener: &TcpListener, connections: &mut JoinSet<()>, connect: impl Fn(TcpStream, SocketAddr) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => drop(connections.spawn(connect(stream, peer))),
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Writes captured lines to the file until it is told to end, then what is left.
async fn flush(
    ledger: Ledger,
    mut capture: Option<tokio::fs::File>,
    mut ends: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    loop {
        let last = tokio::select! {
            _ = &mut ends => true,
            () = tokio::time::sleep(FLUSH_INTERVAL) => false,
        };
        let lines = ledger.take_lines();
        if let Some(file) = &mut capture
            && !lines.is_empty()
        {
            file.write_all(&lines).await.context("failed to write the capture file")?;
            file.flush().await.context("failed to write the capture file")?;
        }
        if last {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests;
