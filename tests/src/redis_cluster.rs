//! A cluster of our own: three primaries on ports of the loopback, every write on disk before it is answered.

use crate::process::Process;
use crate::wait;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const READY_BOUND: Duration = Duration::from_secs(60);
const REPLY_BOUND: Duration = Duration::from_secs(5);
const NODES: usize = 3;
/// Slots of every cluster.
const SLOTS: usize = 16384;

#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Node>,
    logs: PathBuf,
}

#[derive(Debug)]
struct Node {
    dir: PathBuf,
    port: u16,
    bus: u16,
    starts: u32,
    process: Option<Process>,
}

impl RedisCluster {
    /// Returns when all nodes say that the cluster is up.
    pub fn start(dir: &Path) -> Self {
        let logs = dir.join("logs");
        std::fs::create_dir_all(&logs).expect("a folder for logs");
        let nodes = (0..NODES).map(|number| Node::start(&dir.join(format!("node-{number}")), &logs)).collect();
        let cluster = Self { nodes, logs };
        for (at, node) in cluster.nodes.iter().enumerate() {
            let (first, last) = (SLOTS * at / NODES, SLOTS * (at + 1) / NODES - 1);
            node.expect_ok(&format!("CLUSTER ADDSLOTSRANGE {first} {last}"));
            node.expect_ok(&format!("CLUSTER SET-CONFIG-EPOCH {}", at + 1));
        }
        for node in &cluster.nodes[1..] {
            cluster.nodes[0].expect_ok(&format!("CLUSTER MEET 127.0.0.1 {} {}", node.port, node.bus));
        }
        cluster.wait_up();
        cluster
    }

    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// SIGKILL: no last save, no goodbye.
    pub fn kill(&mut self, node: usize) {
        if let Some(mut process) = self.nodes[node].process.take() {
            process.kill();
        }
    }

    /// Starts it on the same folder and waits until the cluster is whole again.
    pub fn restart(&mut self, node: usize) {
        assert!(self.nodes[node].launch(&self.logs), "the node ended at its start");
        self.wait_up();
    }

    /// Keys of a pattern, by node.
    pub fn count_keys(&self, pattern: &str) -> Vec<usize> {
        let count = |node: &Node| {
            let answer = node.ask(&format!("KEYS {pattern}"), 1).and_then(|lines| lines.into_iter().next());
            let answer = answer.expect("the node answers KEYS");
            answer.strip_prefix('*').and_then(|count| count.parse().ok()).expect("KEYS answers a list")
        };
        self.nodes.iter().map(count).collect()
    }

    fn wait_up(&self) {
        let knows = |node: &Node| {
            let lines = node.ask("CLUSTER INFO", usize::MAX).unwrap_or_default();
            let wanted = ["cluster_state:ok".to_owned(), format!("cluster_known_nodes:{NODES}")];
            wanted.iter().all(|line| lines.contains(line))
        };
        wait::until("the cluster to be up", READY_BOUND, || self.nodes.iter().all(knows).then_some(()));
    }
}

impl Node {
    fn start(dir: &Path, logs: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("a folder for a node");
        // Somebody else may take a port before the server does.
        wait::until("two free ports", READY_BOUND, || {
            let held = [0, 0].map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port"));
            let [port, bus] = held.each_ref().map(|held| held.local_addr().expect("an address").port());
            drop(held);
            let mut node = Self { dir: dir.to_owned(), port, bus, starts: 0, process: None };
            node.launch(logs).then_some(node)
        })
    }

    /// False: it ended at once.
    fn launch(&mut self, logs: &Path) -> bool {
        self.starts += 1;
        let mut command = Command::new("redis-server");
        command.current_dir(&self.dir).args(["--bind", "127.0.0.1", "--port", &self.port.to_string()]);
        command.args(["--cluster-enabled", "yes", "--cluster-port", &self.bus.to_string()]);
        command.args(["--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no"]);
        command.args(["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
        command.args(["--maxmemory-policy", "noeviction", "--daemonize", "no", "--dir"]).arg(&self.dir);
        let mut process = Process::start(&format!("node-{}-{}", self.port, self.starts), &mut command, logs);
        let is_up = wait::until("a node to answer PONG", READY_BOUND, || match process.exited() {
            Some(_) => Some(false),
            None => (self.ask("PING", 1)?.first()? == "+PONG").then_some(true),
        });
        self.process = Some(process);
        is_up
    }

    fn expect_ok(&self, command: &str) {
        let answer = self.ask(command, 1);
        assert_eq!(answer, Some(vec!["+OK".to_owned()]), "{command}");
    }

    /// Up to `lines_max` lines of the answer; the server says goodbye after the last.
    fn ask(&self, command: &str, lines_max: usize) -> Option<Vec<String>> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        stream.set_read_timeout(Some(REPLY_BOUND)).ok()?;
        stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).ok()?;
        BufReader::new(stream).lines().take(lines_max).collect::<Result<_, _>>().ok()
    }
}
