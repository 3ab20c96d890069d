//! `doctor`: what of this configuration works from here, each with what to do about it. Starts nothing and sends nothing.

use crate::client::{self, Client};
use crate::config::Config;
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::node;
use crate::node::master::store_failure;
use crate::output;
use postrider_master::schedule::{SYSTEM_FOLDER, Zones};
use postrider_proto::v1;
use postrider_store::StoreUrl;
use postrider_worker::{RelayConfig, Security, WorkerConfig};
use serde::Serialize;
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

/// For one thing that is asked.
const PATIENCE: Duration = Duration::from_secs(10);
/// A clock further off than this is told: dates in reports and logs do not agree, and schedules go by the store's.
const CLOCK_OFF_MS_MAX: u64 = 2_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// Looked at by somebody else, or not needed.
    Skipped,
    Warning,
    Failed,
}

#[derive(Debug, Clone, Serialize)]
struct Check {
    check: String,
    state: State,
    detail: String,
    /// Empty: nothing is to be done.
    mend: String,
    #[serde(skip)]
    exit: Exit,
}

impl Check {
    fn new(check: impl Into<String>, state: State, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check: check.into(), state, detail: detail.into(), mend: mend.into(), exit: Exit::Failed }
    }

    fn ok(check: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(check, State::Ok, detail, "")
    }

    fn failed(check: impl Into<String>, failure: Failure, mend: impl Into<String>) -> Self {
        Self { exit: failure.exit, ..Self::new(check, State::Failed, failure.message, mend) }
    }
}

pub async fn perform(context: &Context) -> Result<()> {
    let gathered = context.gather(Vec::new())?;
    let config = match context.config(&gathered) {
        Ok(config) => config,
        Err(failure) => {
            let exit = failure.exit;
            tell(context, &[Check::failed("configuration", failure, "postrider config show says where it is from")])?;
            return Err(Failure { exit, message: String::new() });
        }
    };
    let mut checks = vec![Check::ok("configuration", "complete and without contradictions"), zones()];
    checks.extend(store(context, &config).await);
    checks.push(storage(&config));
    for master in &config.worker.masters {
        checks.push(master_at(context, master).await);
    }
    checks.extend(relays(context, &config).await);
    tell(context, &checks)?;
    let failed = checks.iter().filter(|check| check.state == State::Failed).map(|check| check.exit);
    // An unsafe store is the graver news.
    match failed.max_by_key(|exit| *exit as u8) {
        Some(exit) => Err(Failure { exit, message: String::new() }),
        None => Ok(()),
    }
}

fn tell(context: &Context, checks: &[Check]) -> Result<()> {
    if context.json() {
        return checks.iter().try_for_each(output::json);
    }
    let width = checks.iter().map(|check| check.check.chars().count()).max().unwrap_or_default();
    for check in checks {
        let state = match check.state {
            State::Ok => "ok",
            State::Skipped => "skipped",
            State::Warning => "warning",
            State::Failed => "FAILED",
        };
        output::line(format!("{:<width$} {state:<8} {}", output::clean(&check.check), output::clean(&check.detail)))?;
        if !check.mend.is_empty() {
            output::line(format!("{:<width$} {:<8} {}", "", "mend:", output::clean(&check.mend)))?;
        }
    }
    Ok(())
}

fn zones() -> Check {
    let zones = Zones::newest(Path::new(SYSTEM_FOLDER));
    Check::ok("time zone database", format!("{}, the newer of the bundled one and the system's", zones.version()))
}

/// As a master does at its start, and how far its clock is from ours.
async fn store(context: &Context, config: &Config) -> Vec<Check> {
    let name = format!("store {}", config.store);
    if !matches!(config.store, StoreUrl::Redis(_)) {
        let why = "embedded: the one master that uses it looks at it";
        return vec![Check::new(name, State::Skipped, why, "")];
    }
    let opening = postrider_store::open(&config.store, config.store_options(&context.clock));
    let hangs = || Failure::failed(format!("it does not answer within {} s", PATIENCE.as_secs()));
    let store = match timeout(PATIENCE, opening).await {
        Ok(Ok(store)) => store,
        Ok(Err(error)) => return vec![Check::failed(name, store_failure(&config.store, &error), "")],
        Err(_) => return vec![Check::failed(name, hangs(), "look at the server's log")],
    };
    let now_ms = match timeout(PATIENCE, store.now_ms()).await {
        Ok(Ok(now_ms)) => now_ms,
        Ok(Err(error)) => return vec![Check::failed(name, store_failure(&config.store, &error), "")],
        Err(_) => return vec![Check::failed(name, hangs(), "look at the server's log")],
    };
    let safe = Check::ok(name, "reachable, and its settings carry what durability promises");
    let off_ms = context.clock.wall_ms().abs_diff(now_ms);
    let clock = match off_ms {
        0..=CLOCK_OFF_MS_MAX => Check::ok("clock", "agrees with the store's"),
        _ => {
            let mend = "have both machines follow a time server (chrony, systemd-timesyncd)";
            let off = format!("{:.1} s off the store's, which leases and schedules go by", off_ms as f64 / 1000.0);
            Check::new("clock", State::Warning, off, mend)
        }
    };
    vec![safe, clock]
}

fn storage(config: &Config) -> Check {
    let name = format!("storage {}", config.storage);
    let folder = match config.storage.split_once("://") {
        Some(("file", path)) => Path::new(path),
        None => Path::new(&config.storage),
        Some(_) => return Check::new(name, State::Skipped, "a bucket: masters look at it when they start", ""),
    };
    if !folder.exists() {
        return Check::new(name, State::Warning, "not there yet", "the first master makes it; share it among all");
    }
    match tempfile_in(folder) {
        Ok(()) => Check::ok(name, "can be written from here"),
        Err(error) => {
            let mend = "give masters a folder that they may write, the same for all";
            Check::failed(name, Failure::failed(format!("cannot be written: {error}")), mend)
        }
    }
}

fn tempfile_in(folder: &Path) -> std::io::Result<()> {
    let path = folder.join(format!("doctor.{}#0", std::process::id()));
    std::fs::write(&path, b"")?;
    std::fs::remove_file(&path)
}

async fn master_at(context: &Context, url: &str) -> Check {
    let name = format!("master {url}");
    let patience = context.globals.connect_timeout.unwrap_or(Duration::ZERO);
    let mut client = Client::new(vec![url.to_owned()], patience, context.clock.clone());
    let call = |channel| async move { client::admin(channel).list_workers(v1::ListWorkersRequest {}).await };
    match client.call(call).await {
        Ok(answer) => {
            let active = answer.workers.iter().filter(|worker| !worker.draining).count();
            Check::ok(name, format!("answers; {active} workers take leases"))
        }
        Err(failure) => Check::failed(name, failure, ""),
    }
}

async fn relays(context: &Context, config: &Config) -> Vec<Check> {
    if config.relays.is_empty() {
        let mend = "add [[relay]] to the configuration of the workers";
        return vec![Check::new("relays", State::Warning, "none is configured: workers here would send nothing", mend)];
    }
    let settings = match node::worker::settings(config) {
        Ok(settings) => settings,
        Err(failure) => return vec![Check::failed("keys that sign", failure, "workers would not start here")],
    };
    let mut checks = Vec::new();
    for relay in &settings.relays {
        checks.push(answers(&settings, relay, context).await);
    }
    checks
}

/// Connects and logs in as a worker would, and leaves.
async fn answers(settings: &WorkerConfig, relay: &RelayConfig, context: &Context) -> Check {
    let name = format!("relay {} ({}:{})", relay.name, relay.host, relay.port);
    let mend = "workers may stand elsewhere: ask from there, or mend [[relay]]";
    let failed = |why: String| Check::failed(name.clone(), Failure::failed(why), mend);
    match timeout(PATIENCE, postrider_worker::try_relay(settings, relay, context.clock.clone())).await {
        Ok(Ok(Ok(()))) => {
            let tls = if relay.security == Security::None { "without TLS" } else { "with TLS" };
            let login = relay.login.as_ref().map_or(String::new(), |login| format!(", logged in as {}", login.user));
            Check::ok(name, format!("takes mail, {tls}{login}"))
        }
        Ok(Ok(Err((code, detail)))) => failed(format!("takes no mail from here: {code} {detail}")),
        Ok(Err(error)) => failed(error.to_string()),
        Err(_) => failed(format!("is not ready within {} s", PATIENCE.as_secs())),
    }
}
