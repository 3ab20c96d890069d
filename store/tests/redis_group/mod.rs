//! A primary, two replicas and three sentinels on private ports of the loopback, each a process of its own.

use crate::redis_server::program;
use postrider_common::clock::SystemClock;
use postrider_store::redis::Redis;
use postrider_store::{Durability, Options, StoreError};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Until processes are up, replicas in step, or a failover is over.
const BOUND: Duration = Duration::from_secs(60);
/// A primary that says nothing for this long is down.
const DOWN_AFTER_MS: u32 = 500;
const SERVICE: &str = "mail";

/// Waits for what must happen, looking every few milliseconds.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + BOUND;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited {BOUND:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// One process, SIGKILLed when dropped.
pub struct Running {
    pub port: u16,
    child: Child,
}

impl Running {
    pub fn start(folder: &Path, port: u16, arguments: &[&str]) -> Self {
        let mut command = Command::new(program());
        command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let running = Self { port, child: command.spawn().unwrap() };
        until("a server to answer", || running.ask::<String>(&["PING"]));
        running
    }

    /// What the server says, if it does.
    pub fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> Option<T> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap();
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(1)).ok()?;
        connection.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        redis::cmd(words[0]).arg(&words[1..]).query(&mut connection).ok()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn says(&self, section: &str, line: &str) -> bool {
        self.ask::<String>(&["INFO", section]).is_some_and(|info| info.lines().any(|said| said.trim() == line))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct RedisGroup {
    // Sentinels go first: they would fail over while the rest ends.
    sentinels: Vec<Running>,
    /// The first one is the primary at the start.
    pub servers: Vec<Running>,
    _folder: tempfile::TempDir,
}

impl RedisGroup {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut servers: Vec<Running> = Vec::new();
        for _ in 0..3 {
            let primary = servers.first().map(|primary| primary.port);
            servers.push(server(folder.path(), primary));
        }
        until("two replicas in step", || {
            let info: String = servers[0].ask(&["INFO", "replication"])?;
            (info.matches("state=online").count() == 2).then_some(())
        });
        let sentinels: Vec<Running> = (0..3).map(|_| sentinel(folder.path(), servers[0].port)).collect();
        for sentinel in &sentinels {
            until("a sentinel to know the others", || {
                let state: Vec<String> = sentinel.ask(&["SENTINEL", "MASTER", SERVICE])?;
                let value = |name: &str| state.iter().position(|word| word == name).map(|at| state[at + 1].as_str());
                (value("num-other-sentinels") == Some("2") && value("num-slaves") == Some("2")).then_some(())
            });
        }
        Self { sentinels, servers, _folder: folder }
    }

    pub fn url(&self) -> String {
        let nodes: Vec<String> = self.sentinels.iter().map(|one| format!("127.0.0.1:{}", one.port)).collect();
        format!("redis+sentinel://{}/{SERVICE}", nodes.join(","))
    }

    pub async fn store_with(&self, durability: Durability) -> Result<Redis, StoreError> {
        Redis::connect(&self.url(), Options::new(durability, Arc::new(SystemClock::default()))).await
    }

    /// The replicas follow nobody from now on, and keep what they have. Sentinels set that right after 8 s.
    pub fn cut_replicas_off(&self) {
        for replica in &self.servers[1..] {
            replica.ask::<String>(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
        }
        until("the primary to lose its replicas", || {
            self.servers[0].says("replication", "connected_slaves:0").then_some(())
        });
    }

    /// Waits until one of the replicas is primary and the other follows it.
    pub fn wait_failed_over(&self) {
        until("a replica to be promoted and followed", || {
            let is_primary = |one: &&Running| one.says("replication", "role:master");
            let promoted = self.servers[1..].iter().find(is_primary)?;
            let info: String = promoted.ask(&["INFO", "replication"])?;
            info.contains("state=online").then_some(())
        });
    }
}

fn server(folder: &Path, primary: Option<u16>) -> Running {
    let port = free_port();
    let own = folder.join(port.to_string());
    std::fs::create_dir(&own).unwrap();
    let (port_text, primary) = (port.to_string(), primary.map(|port| port.to_string()));
    let mut arguments = vec!["--port", &port_text, "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"];
    arguments.extend(["--appendfsync", "always", "--repl-diskless-sync-delay", "0", "--repl-timeout", "5"]);
    if let Some(primary) = &primary {
        arguments.extend(["--replicaof", "127.0.0.1", primary]);
    }
    Running::start(&own, port, &arguments)
}

fn sentinel(folder: &Path, primary: u16) -> Running {
    let port = free_port();
    let file = format!("sentinel-{port}.conf");
    let text = format!(
        "port {port}\nbind 127.0.0.1\nsentinel monitor {SERVICE} 127.0.0.1 {primary} 2\n\
         sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}\nsentinel failover-timeout {SERVICE} 3000\n"
    );
    std::fs::write(folder.join(&file), text).unwrap();
    Running::start(folder, port, &[&file, "--sentinel"])
}
