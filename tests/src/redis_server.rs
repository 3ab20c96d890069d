//! A redis-server of our own: no port, a unix socket in a temporary folder, every write on disk before it
//! is answered.

use crate::process::Process;
use crate::wait;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const READY_BOUND: Duration = Duration::from_secs(20);
const REPLY_BOUND: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct RedisServer {
    dir: PathBuf,
    logs: PathBuf,
    appendfsync: String,
    starts: u32,
    process: Option<Process>,
}

impl RedisServer {
    pub fn start(dir: &Path, logs: &Path) -> Self {
        Self::start_with(dir, logs, "always")
    }

    /// `appendfsync` other than `always` is what the master must refuse.
    pub fn start_with(dir: &Path, logs: &Path, appendfsync: &str) -> Self {
        std::fs::create_dir_all(dir).expect("a folder for redis");
        let mut server = Self {
            dir: dir.to_owned(),
            logs: logs.to_owned(),
            appendfsync: appendfsync.to_owned(),
            starts: 0,
            process: None,
        };
        server.restart();
        server
    }

    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// SIGKILL: no last save, no goodbye.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Copies its files as they are, while it goes on.
    pub fn copy_files(&self, to: &Path) {
        copy_folder(&self.dir.join("appendonlydir"), to);
    }

    /// Puts a copy in the place of its files. It must be down.
    pub fn put_back(&self, copy: &Path) {
        assert!(self.process.is_none(), "redis is running");
        std::fs::remove_dir_all(self.dir.join("appendonlydir")).expect("the files can be removed");
        copy_folder(copy, &self.dir.join("appendonlydir"));
    }

    /// Starts it on the same folder and waits until the append-only file is loaded.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "redis is running");
        self.starts += 1;
        // A socket file that outlived a SIGKILL would look alive to nobody, but bind would fail.
        let _ = std::fs::remove_file(self.socket());
        let mut command = Command::new("redis-server");
        command.current_dir(&self.dir).args(["--port", "0", "--save", "", "--appendonly", "yes"]);
        command.args(["--appendfsync", &self.appendfsync, "--maxmemory-policy", "noeviction"]);
        command.args(["--daemonize", "no", "--dir"]).arg(&self.dir).arg("--unixsocket").arg(self.socket());
        let mut process = Process::start(&format!("redis-{}", self.starts), &mut command, &self.logs);
        wait::until("redis to answer PONG", READY_BOUND, || {
            if let Some(status) = process.exited() {
                panic!("redis-server ended: {status}\n{}", process.tail());
            }
            (self.ask("PING")? == "+PONG").then_some(())
        });
        self.process = Some(process);
    }

    /// The first line of the answer to an inline command.
    fn ask(&self, command: &str) -> Option<String> {
        self.converse(command, 1)?.into_iter().next()
    }

    /// Does what an administrator types.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn tell(&self, command: &str) {
        let answer = self.ask(command).expect("redis answers");
        assert!(!answer.starts_with('-'), "{command}: {answer}");
    }

    /// One number of `INFO`.
    ///
    /// # Panics
    /// When there is no such field, or the server does not answer.
    pub fn info_number(&self, field: &str) -> f64 {
        let lines = self.converse("INFO", usize::MAX).expect("redis answers INFO");
        let value = lines.iter().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let value = value.unwrap_or_else(|| panic!("INFO has no {field}"));
        value.parse().unwrap_or_else(|e| panic!("INFO {field}: {e}: {value}"))
    }

    /// How many keys there are of a pattern.
    ///
    /// # Panics
    /// When the server does not answer.
    pub fn count_keys(&self, pattern: &str) -> usize {
        let answer = self.ask(&format!("KEYS {pattern}")).expect("redis answers KEYS");
        let count = answer.strip_prefix('*').and_then(|count| count.parse().ok());
        count.unwrap_or_else(|| panic!("KEYS {pattern}: {answer}"))
    }

    /// Up to `lines_max` lines of the answer; the server says goodbye after the last.
    fn converse(&self, command: &str, lines_max: usize) -> Option<Vec<String>> {
        let mut stream = UnixStream::connect(self.socket()).ok()?;
        stream.set_read_timeout(Some(REPLY_BOUND)).ok()?;
        stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).ok()?;
        BufReader::new(stream).lines().take(lines_max).collect::<Result<_, _>>().ok()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("redis.sock")
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder of redis") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("a file of redis can be copied");
    }
}
