//! A private cluster in temporary folders: nodes on ports of their own, on the loopback, with the durability the store
//! asks for and a short node timeout.

#![allow(dead_code, reason = "each test file uses a part of it")]

use postrider_common::clock::SystemClock;
use postrider_store::redis::Redis;
use postrider_store::{Durability, Options, StoreError};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bound of every wait for the cluster to agree on something.
const AGREE_MAX: Duration = Duration::from_secs(60);
/// Slots of every cluster.
const SLOTS: u16 = 16384;
const OPERATIONS: &str = include_str!("../../../docs/operations.md");
const LEAST_PASSWORD: &str = "a-long-password";

pub fn program() -> String {
    std::env::var("POSTRIDER_TEST_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
}

/// Calls until there is an answer.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + AGREE_MAX;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ports that are free now; all at once, so that they differ.
fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

/// The user of docs/operations.md, as a line of the configuration: it must be there after a restart.
fn least_user() -> Vec<String> {
    let line = OPERATIONS.lines().find_map(|line| line.strip_prefix("ACL SETUSER ")).expect("the user's line");
    line.replace("PASSWORD", LEAST_PASSWORD).split(' ').filter(|word| *word != "reset").map(str::to_owned).collect()
}

pub struct Node {
    folder: tempfile::TempDir,
    child: Option<Child>,
    pub port: u16,
    bus: u16,
}

impl Node {
    fn start() -> Self {
        // Somebody else may have taken a port by the time the server asks for it.
        wait_for("two free ports", || {
            let [port, bus] = free_ports(2)[..] else { unreachable!("two were asked for") };
            let mut node = Self { folder: tempfile::tempdir().unwrap(), child: None, port, bus };
            node.start_again().then_some(node)
        })
    }

    /// With what it had written to its file. False: it ended at once.
    pub fn start_again(&mut self) -> bool {
        let program = program();
        let mut command = Command::new(&program);
        command.arg("--port").arg(self.port.to_string()).arg("--cluster-port").arg(self.bus.to_string());
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
        command.args(["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]);
        command.args([
            "--cluster-replica-validity-factor",
            "0",
            "--cluster-require-full-coverage",
            "no",
            "--cluster-config-file",
            "nodes.conf",
        ]);
        command.arg("--user").args(least_user());
        command.arg("--dir").arg(self.folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("failed to start {program}: {error}; install it"));
        self.child = Some(child);
        wait_for("a node answers", || match self.child.as_mut().unwrap().try_wait().unwrap() {
            Some(_) => Some(false),
            None => self.try_connection().map(|_| true),
        })
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn try_connection(&self) -> Option<redis::Connection> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).ok()?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(1)).ok()?;
        redis::cmd("PING").query::<String>(&mut connection).ok().map(|_| connection)
    }

    pub fn try_command<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let mut connection = self.try_connection().ok_or_else(|| std::io::Error::other("no connection"))?;
        redis::cmd(words[0]).arg(&words[1..]).query(&mut connection)
    }

    pub fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_command(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    pub fn id(&self) -> String {
        self.command(&["CLUSTER", "MYID"])
    }

    fn knows(&self, nodes: usize) -> bool {
        let info: String = self.try_command(&["CLUSTER", "INFO"]).unwrap_or_default();
        let wanted = ["cluster_state:ok".to_owned(), format!("cluster_known_nodes:{nodes}")];
        wanted.iter().all(|line| info.lines().any(|told| told.trim() == line))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

pub struct Cluster {
    pub nodes: Vec<Node>,
}

impl Cluster {
    /// Three primaries with a third of the slots each, that know each other.
    pub fn start() -> Self {
        Self::of_nodes(3)
    }

    /// As `start`, and each primary has a replica that takes over when it dies: that of node n is node n + 3.
    pub fn with_replicas() -> Self {
        let cluster = Self::of_nodes(6);
        for (at, node) in cluster.nodes[3..].iter().enumerate() {
            let primary = cluster.nodes[at].id();
            node.command::<()>(&["CLUSTER", "REPLICATE", &primary]);
        }
        for node in &cluster.nodes[..3] {
            wait_for("a replica is in step", || {
                let info: String = node.try_command(&["INFO", "replication"]).unwrap_or_default();
                info.lines().any(|line| line.starts_with("slave0:") && line.contains("state=online")).then_some(())
            });
        }
        cluster.agree();
        cluster
    }

    fn of_nodes(count: usize) -> Self {
        let cluster = Self { nodes: (0..count).map(|_| Node::start()).collect() };
        let first_of = |at: usize| SLOTS as usize * at / 3;
        for (at, node) in cluster.nodes[..3].iter().enumerate() {
            let (first, last) = (first_of(at).to_string(), (first_of(at + 1) - 1).to_string());
            node.command::<()>(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
            node.command::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]);
        }
        for node in &cluster.nodes[1..] {
            cluster.meet(node);
        }
        cluster.agree();
        cluster
    }

    fn meet(&self, node: &Node) {
        let (port, bus) = (node.port.to_string(), node.bus.to_string());
        self.nodes[0].command::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    }

    /// All nodes know all nodes, and say that the cluster is up.
    pub fn agree(&self) {
        wait_for("the cluster is up", || self.nodes.iter().all(|node| node.knows(self.nodes.len())).then_some(()));
    }

    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+cluster://postrider:{LEAST_PASSWORD}@{}", hosts.join(","))
    }

    pub async fn store(&self, shards: u16) -> Result<Redis, StoreError> {
        let replicas = u32::from(self.nodes.len() > 3);
        let durability = if replicas > 0 { Durability::Replicated { replicas } } else { Durability::Always };
        let options = Options::new(durability, Arc::new(SystemClock::default()));
        Redis::connect(&self.url(), Options { shards: shards.try_into().unwrap(), ..options }).await
    }

    /// Forgets everything but the cluster itself.
    pub fn flush(&self) {
        for node in &self.nodes {
            node.command::<()>(&["FLUSHALL"]);
        }
    }

    pub fn slot(&self, tag: &str) -> u16 {
        self.nodes[0].command(&["CLUSTER", "KEYSLOT", tag])
    }

    /// Who owns the slot of a tag, as the first node sees it.
    pub fn owner(&self, tag: &str) -> usize {
        let slot = self.slot(tag);
        wait_for("the slot has an owner", || {
            let is_mine = |node: &&Node| {
                let lines: String = node.try_command(&["CLUSTER", "NODES"]).unwrap_or_default();
                let mine = lines.lines().find(|line| line.contains("myself")).unwrap_or_default().to_owned();
                mine.split(' ').skip(8).any(|range| match range.split_once('-') {
                    Some((first, last)) => {
                        matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if (first..=last).contains(&slot))
                    }
                    None => range.parse() == Ok(slot),
                })
            };
            self.nodes.iter().position(|node| is_mine(&node))
        })
    }

    /// Moves all keys of a slot, some at a time, as an administrator does while clients go on.
    pub fn move_slot(&self, tag: &str, to: usize) {
        let (slot, from) = (self.slot(tag).to_string(), self.owner(tag));
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        let (source_id, target_id) = (source.id(), target.id());
        target.command::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id]);
        source.command::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id]);
        loop {
            let keys: Vec<String> = source.command(&["CLUSTER", "GETKEYSINSLOT", &slot, "20"]);
            if keys.is_empty() {
                break;
            }
            let port = target.port.to_string();
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            words.extend(keys.iter().map(String::as_str));
            source.command::<()>(&words);
        }
        target.command::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]);
        source.command::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]);
        for node in &self.nodes {
            node.command::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]);
        }
    }

    /// The replica of a dead primary has its slots.
    pub fn wait_until_taken_over(&self, dead: usize) {
        let replica = &self.nodes[dead + 3];
        wait_for("the replica takes over", || {
            let info: String = replica.try_command(&["INFO", "replication"]).unwrap_or_default();
            info.lines().any(|line| line.trim() == "role:master").then_some(())
        });
    }

    /// The other nodes agree that this one is away.
    pub fn wait_until_failed(&self, dead: usize) {
        let port = format!(":{}@", self.nodes[dead].port);
        let says_so = |node: &Node| {
            let nodes: String = node.try_command(&["CLUSTER", "NODES"]).unwrap_or_default();
            nodes.lines().any(|line| line.contains(&port) && line.split(' ').nth(2) == Some("master,fail"))
        };
        let others = || self.nodes.iter().enumerate().filter(|(at, _)| *at != dead).map(|(_, node)| node);
        wait_for("the others miss the node", || others().all(says_so).then_some(()));
    }
}
