//! Everything the demo runs on: a folder, a store, a master, a sink and the worker process.

use super::people;
use crate::config::{Config, read};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::node;
use crate::sink::{self, FailRule, Ledger, SinkConfig, Summary};
use postrider_common::Clock;
use postrider_master::RunningMaster;
use postrider_store::{Durability, Options, Store, StoreUrl};
use rustix::process::{Pid, Signal, kill_process};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Short, so that the demo is quick; everything else is as in production.
const LEASE_TTL: &str = "2s";
const DOUBT_GRACE: &str = "1s";
const RETRY: &str = "{ base = \"500ms\", cap = \"2s\", ttl = \"10m\" }";
/// What a nearby relay takes to answer a final dot: long enough for intents to be really in flight.
const SINK_LATENCY: Duration = Duration::from_millis(8);
/// Some refusals, so that the report has something to show.
const SINK_RULES: [&str; 2] = ["reject:550@*777@*", "defer:451@*55@*#1"];
const SLOTS_MAX: usize = 64;
/// A worker that drains has `drain_timeout`; beyond this it hangs.
const WORKER_STOP: Duration = Duration::from_secs(25);

pub struct Stage {
    folder: tempfile::TempDir,
    pub store: Arc<dyn Store>,
    pub master: RunningMaster,
    pub ledger: Ledger,
    pub sink_address: SocketAddr,
    sink: JoinHandle<anyhow::Result<Summary>>,
    stop_sink: oneshot::Sender<()>,
    pub worker: WorkerProcess,
}

/// The child process, and how to start it again.
#[derive(Debug)]
pub struct WorkerProcess {
    binary: PathBuf,
    folder: PathBuf,
    pub slots: u32,
    child: Child,
}

impl Stage {
    /// Starts everything but the run.
    pub async fn set(context: &Context, rows: usize) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("postrider-demo-")
            .tempdir()
            .map_err(|error| Failure::failed(format!("cannot make a temporary folder: {error}")))?;
        write(folder.path(), "recipients.csv", &people::recipients_csv(rows))?;
        write(folder.path(), "campaign.toml", people::CAMPAIGN)?;
        write(folder.path(), "digest.html", people::HTML)?;
        write(folder.path(), "digest.txt", people::TEXT)?;

        let (ledger, sink_address, sink, stop_sink) = start_sink().await?;
        let store = node::master::open_store(
            &StoreUrl::EmbeddedMemory,
            Options::new(Durability::Always, context.clock.clone()),
        )
        .await?;
        let slots = (rows / 8).clamp(8, SLOTS_MAX);
        let config = |master: &str| configuration(folder.path(), master, sink_address, slots);
        let settings = checked(&config("http://127.0.0.1:7400"))?;
        let clock: Arc<dyn Clock> = context.clock.clone();
        let master = node::master::start(&settings, store.clone(), clock).await?;
        write(folder.path(), "postrider.toml", &config(&format!("http://{}", master.grpc_addr())))?;
        let binary = std::env::current_exe()
            .map_err(|error| Failure::failed(format!("cannot find the program that is running: {error}")))?;
        let slots = u32::try_from(slots).unwrap_or(u32::MAX);
        let worker = WorkerProcess::start(binary, folder.path().to_owned(), slots)?;
        Ok(Self { folder, store, master, ledger, sink_address, sink, stop_sink, worker })
    }

    pub fn describe(&self) -> String {
        format!(
            "store in memory, master {} and mail sink {} in this process; worker with {} slots as process {}",
            self.master.grpc_addr(),
            self.sink_address,
            self.worker.slots,
            self.worker.id()
        )
    }

    pub fn campaign_file(&self) -> PathBuf {
        self.folder.path().join("campaign.toml")
    }

    /// Stops in the order in which work flows: worker, master, sink.
    pub async fn strike(mut self) -> Result<()> {
        let stopped = self.worker.stop().await;
        self.master.stop().await;
        let _ = self.stop_sink.send(());
        let sink = self.sink.await.map_err(|error| Failure::failed(format!("the sink broke: {error}")))?;
        sink.map_err(Failure::from)?;
        stopped
    }
}

fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    std::fs::write(&path, text).map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))
}

async fn start_sink() -> Result<(Ledger, SocketAddr, JoinHandle<anyhow::Result<Summary>>, oneshot::Sender<()>)> {
    let rules = SINK_RULES.iter().map(|rule| rule.parse::<FailRule>()).collect::<std::result::Result<_, _>>();
    let config = SinkConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        latency: SINK_LATENCY,
        rules: rules.map_err(|error| Failure::failed(error.to_string()))?,
        capture: None,
    };
    let ledger = Ledger::default();
    let (stop, stopped) = oneshot::channel();
    let (ready, address) = oneshot::channel();
    let shutdown = async {
        // Dropping the sender stops it too.
        let _ = stopped.await;
    };
    let task = tokio::spawn(sink::serve(config, ledger.clone(), shutdown, ready));
    match address.await {
        Ok(address) => Ok((ledger, address, task, stop)),
        Err(_) => Err(match task.await {
            Ok(Err(error)) => Failure::from(error),
            Ok(Ok(_)) | Err(_) => Failure::failed("the sink ended before it listened"),
        }),
    }
}

/// One file for both, as an operator would write it.
fn configuration(folder: &Path, master: &str, sink: SocketAddr, slots: usize) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let storage = quoted(&folder.join("storage").display().to_string());
    let journal = quoted(&folder.join("journal").display().to_string());
    let reserve = slots / 16;
    format!(
        "[master]\ngrpc_listen = \"127.0.0.1:0\"\nhttp_listen = \"127.0.0.1:0\"\n\
         [store]\nurl = \"embedded:\"\n\
         [storage]\nurl = {storage}\n\
         [lease]\nttl = \"{LEASE_TTL}\"\ndoubt_grace = \"{DOUBT_GRACE}\"\n\
         [[lane]]\nname = \"bulk\"\nretry = {RETRY}\n\
         [worker]\nmaster = {}\nname = \"demo-worker\"\nslots = {slots}\nreserve = {{ transactional = {reserve} }}\n\
         ehlo = \"localhost\"\njournal = {journal}\n\
         [[relay]]\nname = \"sink\"\nurl = \"smtp://{sink}\"\nconnections = {slots}\n",
        quoted(master)
    )
}

fn checked(text: &str) -> Result<Config> {
    read::read(&crate::config::gather::from_text(text)?, "localhost")
}

impl WorkerProcess {
    fn start(binary: PathBuf, folder: PathBuf, slots: u32) -> Result<Self> {
        let child = spawn(&binary, &folder)?;
        Ok(Self { binary, folder, slots, child })
    }

    pub fn id(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let Some(pid) = pid else { return Err(self.ended()) };
        kill_process(pid, signal).map_err(|error| Failure::failed(format!("cannot signal the worker: {error}")))
    }

    /// SIGKILL, and wait until it is gone.
    pub async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.map_err(|error| Failure::failed(format!("cannot kill the worker: {error}")))
    }

    pub fn restart(&mut self) -> Result<()> {
        self.child = spawn(&self.binary, &self.folder)?;
        Ok(())
    }

    /// An error when it ended by itself.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(_)) | Err(_) => Err(self.ended()),
        }
    }

    fn ended(&self) -> Failure {
        Failure::failed(format!("the worker ended by itself; its last lines:\n{}", self.log_tail()))
    }

    pub fn log_tail(&self) -> String {
        let log = std::fs::read(self.folder.join("worker.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// SIGTERM: it drains and ends well.
    async fn stop(&mut self) -> Result<()> {
        self.check()?;
        self.signal(Signal::TERM)?;
        match tokio::time::timeout(WORKER_STOP, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => {
                Err(Failure::failed(format!("the worker did not end well: {status}\n{}", self.log_tail())))
            }
            Ok(Err(error)) => Err(Failure::failed(format!("cannot wait for the worker: {error}"))),
            Err(_) => Err(Failure::failed("the worker did not end after SIGTERM")),
        }
    }
}

fn spawn(binary: &Path, folder: &Path) -> Result<Child> {
    let wrong = |what: &str, error: std::io::Error| Failure::failed(format!("cannot {what} the worker: {error}"));
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("worker.log"));
    let log = log.map_err(|error| wrong("open the log of", error))?;
    let mut command = Command::new(binary);
    command.arg("--no-color").arg("--config").arg(folder.join("postrider.toml")).arg("worker");
    // Settings of the person's own environment are not part of the demo.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("POSTRIDER") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
    command.spawn().map_err(|error| wrong("start", error))
}
