//! The command line as an operator uses it, with its JSON forms.

use crate::binary;
use crate::wait;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A client call retries connection trouble for 10 s; after this one it hangs.
const CALL_BOUND: Duration = Duration::from_secs(30);
/// A million recipients are a list of 200 MB.
const LIST_BOUND: Duration = Duration::from_mins(4);

#[derive(Debug, Clone)]
pub struct Client {
    binary: PathBuf,
    masters: String,
    folder: PathBuf,
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Run {
    pub run: String,
    pub state: String,
    pub error: Option<RunError>,
    pub paused: bool,
    pub split_complete: bool,
    pub recipients: Counts,
    pub bad_rows: u64,
    pub batches: Batches,
    pub leases_expired: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct RunError {
    pub code: String,
    pub message: String,
    pub mend: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Counts {
    pub total: u64,
    pub pending: u64,
    pub accepted: u64,
    pub rejected: u64,
    pub exhausted: u64,
    pub suppressed: u64,
    pub cancelled: u64,
    pub unknown: u64,
}

impl Counts {
    pub fn sum(&self) -> u64 {
        self.pending + self.accepted + self.rejected + self.exhausted + self.suppressed + self.cancelled + self.unknown
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Batches {
    pub ready: u64,
    pub leased: u64,
    pub delayed: u64,
    pub dead: u64,
    pub settled: u64,
}

impl Run {
    pub fn has_ended(&self) -> bool {
        matches!(self.state.as_str(), "finished" | "cancelled" | "failed")
    }
}

#[derive(Debug, Clone, Deserialize)]
pub struct RecipientLine {
    pub key: String,
    pub address: String,
    pub state: String,
    pub attempts: u32,
    pub code: String,
    pub message_id: String,
    pub unknown_reason: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct WorkerLine {
    pub name: String,
    /// RFC 3339, so that texts compare like instants.
    pub seen_at: Option<String>,
    pub slots: u32,
    pub leases: u32,
    pub in_intent: u32,
}

#[derive(Deserialize)]
struct Started {
    run: String,
}

impl Client {
    pub fn new(masters: &[String], folder: &Path) -> Self {
        let urls: Vec<String> = masters.iter().map(|address| format!("http://{address}")).collect();
        Self { binary: binary::postrider(), masters: urls.join(","), folder: folder.to_owned() }
    }

    pub fn masters(&self) -> &str {
        &self.masters
    }

    pub fn call(&self, arguments: &[&str]) -> Answer {
        self.call_within(arguments, CALL_BOUND)
    }

    /// # Panics
    /// When it does not end within the bound: no command may hang.
    pub fn call_within(&self, arguments: &[&str], bound: Duration) -> Answer {
        let begun = Instant::now();
        let mut command = Command::new(&self.binary);
        command.current_dir(&self.folder).args(["--master", &self.masters]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("start {command:?}: {e}"));
        let mut out = child.stdout.take().expect("stdout is piped");
        let mut err = child.stderr.take().expect("stderr is piped");
        let out = std::thread::spawn(move || read_all(&mut out));
        let err = std::thread::spawn(move || read_all(&mut err));
        let status = wait::within(bound, || child.try_wait().expect("a child can be waited for"));
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let stdout = out.join().expect("the reader of stdout ends");
        let stderr = err.join().expect("the reader of stderr ends");
        let Some(status) = status else {
            panic!("postrider {arguments:?} did not end within {bound:?}\n{stdout}{stderr}");
        };
        Answer { code: status.code().unwrap_or(-1), stdout, stderr, took: begun.elapsed() }
    }

    /// The stdout of a call that must succeed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let answer = self.call(arguments);
        assert_eq!(answer.code, 0, "postrider {arguments:?}\n{}{}", answer.stdout, answer.stderr);
        answer.stdout
    }

    pub fn apply(&self, file: &Path) {
        self.ok(&["campaign", "apply", &file.display().to_string()]);
    }

    /// Starts a run and gives its id.
    pub fn run(&self, campaign: &str, idempotency_key: &str) -> String {
        let text = self.ok(&["--output", "json", "campaign", "run", campaign, "--idempotency-key", idempotency_key]);
        parse::<Started>(&text).run
    }

    pub fn show(&self, run: &str) -> Run {
        parse(&self.ok(&["--output", "json", "run", "show", run]))
    }

    /// None when no master could answer.
    pub fn try_show(&self, run: &str) -> Option<Run> {
        let answer = self.call(&["--output", "json", "run", "show", run]);
        (answer.code == 0).then(|| parse(&answer.stdout))
    }

    pub fn recipients(&self, run: &str) -> Vec<RecipientLine> {
        let answer = self.call_within(&["--output", "json", "run", "recipients", run], LIST_BOUND);
        assert_eq!(answer.code, 0, "run recipients\n{}", answer.stderr);
        lines(&answer.stdout)
    }

    /// Ids of all runs there are.
    pub fn all_runs(&self) -> Vec<String> {
        lines::<Run>(&self.ok(&["--output", "json", "run", "list"])).into_iter().map(|run| run.run).collect()
    }

    /// Every instance, also those that ended a short while ago. Empty when no master could answer.
    pub fn workers(&self) -> Vec<WorkerLine> {
        let answer = self.call(&["--output", "json", "workers", "list"]);
        if answer.code == 0 { lines(&answer.stdout) } else { Vec::new() }
    }

    /// The newest instance of that name.
    pub fn worker(&self, name: &str) -> Option<WorkerLine> {
        let instances = self.workers().into_iter().filter(|worker| worker.name == name);
        instances.max_by(|one, other| one.seen_at.cmp(&other.seen_at))
    }
}

fn read_all(from: &mut impl std::io::Read) -> String {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn parse<T: for<'a> Deserialize<'a>>(text: &str) -> T {
    serde_json::from_str(text.trim()).unwrap_or_else(|e| panic!("not the JSON that is pinned: {e}: {text}"))
}

fn lines<T: for<'a> Deserialize<'a>>(text: &str) -> Vec<T> {
    text.lines().filter(|line| !line.trim().is_empty()).map(parse).collect()
}
