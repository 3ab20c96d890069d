//! One process under test: started with its output in files, signalled by pid, gone when dropped.

use crate::wait;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Lines of each output shown when a test fails.
const TAIL_LINES: usize = 25;
/// A SIGKILLed process is gone when the kernel has torn it down.
const KILL_BOUND: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts it with its output in `logs/NAME.out` and `logs/NAME.err`.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub fn start(name: &str, command: &mut Command, logs: &Path) -> Self {
        let stdout = logs.join(format!("{name}.out"));
        let stderr = logs.join(format!("{name}.err"));
        let open = |path: &Path| File::create(path).unwrap_or_else(|e| panic!("create {}: {e}", path.display()));
        command.stdin(Stdio::null()).stdout(open(&stdout)).stderr(open(&stderr));
        let child = command.spawn().unwrap_or_else(|e| panic!("start {name} ({command:?}): {e}"));
        Self { name: name.to_owned(), child, stdout, stderr, ended: None }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// # Panics
    /// When the process ended before: a test that signals a dead process does not test what it says.
    pub fn signal(&mut self, signal: Signal) {
        if let Some(status) = self.exited() {
            panic!("{} ended by itself before it was sent {signal:?}: {status}\n{}", self.name, self.tail());
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a child has a pid");
        kill_process(pid, signal).unwrap_or_else(|e| panic!("send {signal:?} to {}: {e}", self.name));
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait_exit(KILL_BOUND);
    }

    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("a child can be waited for");
        }
        self.ended
    }

    pub fn wait_exit(&mut self, bound: Duration) -> ExitStatus {
        let name = self.name.clone();
        wait::within(bound, || self.exited()).unwrap_or_else(|| {
            panic!("{name} did not end within {bound:?}\n{}", self.tail());
        })
    }

    /// The first line on stdout for which `pick` gives something.
    ///
    /// # Panics
    /// When the process ends or the bound is over before.
    pub fn wait_line<T>(&mut self, what: &str, bound: Duration, pick: impl Fn(&str) -> Option<T>) -> T {
        let found = wait::within(bound, || {
            let text = read(&self.stdout);
            let complete = text.rfind('\n').map_or("", |end| &text[..end]);
            let found = complete.lines().find_map(&pick);
            if found.is_none() && self.exited().is_some() {
                return Some(None);
            }
            found.map(Some)
        });
        match found.flatten() {
            Some(found) => found,
            None => panic!("{} did not print {what} within {bound:?}\n{}", self.name, self.tail()),
        }
    }

    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    pub fn tail(&self) -> String {
        let mut text = String::new();
        for (kind, path) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            let all = read(path);
            let lines: Vec<&str> = all.lines().collect();
            let from = lines.len().saturating_sub(TAIL_LINES);
            if !lines.is_empty() {
                text.push_str(&format!("--- {} {kind}, last {} lines\n", self.name, lines.len() - from));
                text.push_str(&lines[from..].join("\n"));
                text.push('\n');
            }
        }
        text
    }
}

fn read(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            // Nothing can be done about a failure here, and the process is ours alone.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprint!("{}", self.tail());
        }
    }
}
