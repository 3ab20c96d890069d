//! A primary, two replicas and three sentinels of our own, on private ports of the loopback.

use crate::process::Process;
use crate::wait;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Until processes are up, replicas in step, or a failover is over.
const BOUND: Duration = Duration::from_secs(60);
const REPLY_BOUND: Duration = Duration::from_secs(2);
const SERVICE: &str = "mail";

#[derive(Debug)]
pub struct Sentinels {
    // Sentinels go first: they would fail over while the rest ends.
    sentinels: Vec<Node>,
    /// The first one is the primary at the start.
    servers: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    port: u16,
    process: Process,
}

impl Sentinels {
    pub fn start(dir: &Path, logs: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("a folder for the servers");
        let mut servers: Vec<Node> = Vec::new();
        for index in 0..3 {
            let primary = servers.first().map(|node| node.port);
            servers.push(server(dir, logs, index, primary));
        }
        wait::until("two replicas in step", BOUND, || servers[0].says("INFO replication", "state=online", 2));
        let sentinels: Vec<Node> = (0..3).map(|index| sentinel(dir, logs, index, servers[0].port)).collect();
        for node in &sentinels {
            wait::until("a sentinel to know the others", BOUND, || {
                node.says("INFO sentinel", "status=ok,", 1)?;
                node.says("INFO sentinel", "slaves=2,sentinels=3", 1)
            });
        }
        Self { sentinels, servers }
    }

    pub fn url(&self) -> String {
        let nodes: Vec<String> = self.sentinels.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+sentinel://{}/{SERVICE}", nodes.join(","))
    }

    /// The replicas follow nobody from now on, and keep what they have. Sentinels set that right after 8 s, so the
    /// primary must be gone by then.
    pub fn cut_replicas_off(&self) {
        for replica in &self.servers[1..] {
            replica.converse("REPLICAOF 127.0.0.1 1").expect("a replica answers");
        }
        wait::until("the primary to lose its replicas", BOUND, || {
            self.servers[0].says("INFO replication", "connected_slaves:0", 1)
        });
    }

    /// How far the primary is ahead of the replica that has most, in bytes of the stream of writes.
    pub fn lag_bytes(&self) -> Option<u64> {
        let primary = self.servers[0].number("master_repl_offset")?;
        let most = self.servers[1..].iter().filter_map(|node| node.number("slave_repl_offset")).max()?;
        Some(primary.saturating_sub(most))
    }

    /// SIGKILL.
    pub fn kill_primary(&mut self) {
        self.servers[0].process.kill();
    }

    /// Waits until one of the replicas is primary and the other is in step with it.
    pub fn wait_failed_over(&self) {
        wait::until("a replica to be promoted and followed", BOUND, || {
            self.servers[1..].iter().find_map(|node| {
                node.says("INFO replication", "role:master", 1)?;
                node.says("INFO replication", "state=online", 1)
            })
        });
    }
}

impl Node {
    fn start(name: &str, port: u16, command: &mut Command, logs: &Path) -> Self {
        let mut node = Self { port, process: Process::start(name, command, logs) };
        wait::until("a server to answer", BOUND, || {
            if let Some(status) = node.process.exited() {
                panic!("{name} ended: {status}\n{}", node.process.tail());
            }
            node.says("PING", "+PONG", 1)
        });
        node
    }

    /// Something when the answer has the words that often.
    fn says(&self, command: &str, words: &str, times: usize) -> Option<()> {
        (self.converse(command)?.matches(words).count() == times).then_some(())
    }

    fn number(&self, field: &str) -> Option<u64> {
        let info = self.converse("INFO replication")?;
        info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().parse().ok())
    }

    /// The answer to an inline command; the server hangs up after it, because we did. (Sentinels do not know QUIT.)
    fn converse(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        stream.set_read_timeout(Some(REPLY_BOUND)).ok()?;
        stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
        stream.shutdown(Shutdown::Write).ok()?;
        let lines: Vec<String> = BufReader::new(stream).lines().collect::<Result<_, _>>().ok()?;
        Some(lines.join("\n"))
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("some port is free");
    listener.local_addr().expect("it is bound").port()
}

fn server(dir: &Path, logs: &Path, index: usize, primary: Option<u16>) -> Node {
    let (name, port) = (format!("redis-group-{index}"), free_port());
    let own = dir.join(&name);
    std::fs::create_dir_all(&own).expect("a folder for a server");
    let mut command = Command::new("redis-server");
    command.current_dir(&own).args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.args(["--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0"]);
    if let Some(primary) = primary {
        command.args(["--replicaof", "127.0.0.1", &primary.to_string()]);
    }
    Node::start(&name, port, &mut command, logs)
}

fn sentinel(dir: &Path, logs: &Path, index: usize, primary: u16) -> Node {
    let (name, port) = (format!("sentinel-{index}"), free_port());
    let text = format!(
        "port {port}\nbind 127.0.0.1\nsentinel monitor {SERVICE} 127.0.0.1 {primary} 2\n\
         sentinel down-after-milliseconds {SERVICE} 500\nsentinel failover-timeout {SERVICE} 3000\n"
    );
    let file = dir.join(format!("{name}.conf"));
    std::fs::write(&file, text).expect("a file for a sentinel");
    let mut command = Command::new("redis-server");
    command.current_dir(dir).arg(&file).arg("--sentinel");
    Node::start(&name, port, &mut command, logs)
}
