//! A server of our own to measure on, and what calls cost it.

use crate::instructions::Counter;
use postrider_common::SystemClock;
use postrider_common::mark::Marks;
use postrider_store::{Compare, Durability, Options, Store};
use postrider_tests::redis_server::RedisServer;
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const BASELINE_CALLS: usize = 100_000;
const REPLICA_BOUND: Duration = Duration::from_secs(60);

/// What a kind of call cost.
#[derive(Debug, Clone)]
pub struct Cost {
    pub name: &'static str,
    pub calls: f64,
    pub seconds: f64,
    /// Server time within the command itself. The server counts whole microseconds, so short ones come out too short.
    pub command_us: f64,
    /// Processor time of the whole server, the log included.
    pub cpu_us: f64,
    /// Of the server, outside of the kernel, for one call. None: nothing here can count them.
    pub instructions: Option<f64>,
}

impl Cost {
    pub fn per_second(&self) -> f64 {
        self.calls / self.seconds
    }
}

pub struct Server {
    pub process: RedisServer,
    pub connection: redis::Connection,
    replica: Option<RedisServer>,
    folder: tempfile::TempDir,
}

impl Server {
    pub fn start(appendfsync: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let process = RedisServer::start_with(&folder.path().join("redis"), folder.path(), appendfsync);
        let client = redis::Client::open(process.url()).expect("the server's URL");
        let connection = client.get_connection().expect("a connection");
        Self { process, connection, replica: None, folder }
    }

    /// Has a second server follow, with the same settings, and waits until it is in step.
    pub fn attach_replica(&mut self) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("some port is free");
        let port = listener.local_addr().expect("it is bound").port();
        drop(listener);
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg("port").arg(port).arg("repl-diskless-sync-delay").arg(0);
        set.query::<()>(&mut self.connection).expect("a port");
        let replica = RedisServer::start_with(&self.folder.path().join("replica"), self.folder.path(), "always");
        let client = redis::Client::open(replica.url()).expect("the replica's URL");
        let mut connection = client.get_connection().expect("a connection");
        redis::cmd("REPLICAOF").arg("127.0.0.1").arg(port).query::<()>(&mut connection).expect("REPLICAOF");
        let begun = Instant::now();
        let info = |connection: &mut redis::Connection| {
            redis::cmd("INFO").arg("replication").query::<String>(connection).expect("INFO")
        };
        while !info(&mut self.connection).contains("state=online") {
            assert!(begun.elapsed() < REPLICA_BOUND, "the replica does not get in step");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.replica = Some(replica);
    }

    /// A store on it.
    pub async fn store(&self, durability: Durability) -> Arc<dyn Store> {
        let options = Options::new(durability, Arc::new(SystemClock::default()));
        let url = self.process.url().parse().expect("a store URL");
        let store = postrider_store::open(&url, options).await.expect("a store");
        let compare = Compare { marks: Marks::default(), confirm: true };
        store.compare(compare).await.expect("a server that is known");
        store
    }

    /// Kills the server and starts it again. From its start to its first answer that is not "loading".
    pub fn restart(&mut self) -> Duration {
        self.process.kill();
        let begun = Instant::now();
        self.process.restart();
        let took = begun.elapsed();
        let client = redis::Client::open(self.process.url()).expect("the server's URL");
        self.connection = client.get_connection().expect("a connection");
        took
    }

    /// Calls of each command so far, those of scripts included.
    pub fn calls(&mut self) -> BTreeMap<String, u64> {
        let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut self.connection).expect("INFO");
        let call = |line: &str| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
        };
        stats.lines().filter_map(call).collect()
    }

    /// Calls and microseconds of a command so far.
    pub fn command(&mut self, name: &str) -> (f64, f64) {
        let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut self.connection).expect("INFO");
        let prefix = format!("cmdstat_{name}:");
        let line = stats.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or("calls=0,usec=0");
        let number = |name: &str| {
            let part = line.split(',').find_map(|part| part.strip_prefix(name)).expect("a number of commandstats");
            part.parse::<f64>().expect("a number of commandstats")
        };
        (number("calls="), number("usec="))
    }

    pub fn cpu_seconds(&self) -> f64 {
        self.process.info_number("used_cpu_user") + self.process.info_number("used_cpu_sys")
    }

    /// Of that, in the kernel: sockets and the append-only file.
    pub fn kernel_seconds(&self) -> f64 {
        self.process.info_number("used_cpu_sys")
    }

    /// Begins to count the calls of one command.
    pub fn begin(&mut self, name: &'static str, command: &'static str) -> Phase {
        let (calls, usec) = self.command(command);
        let counter = self.process.pid().and_then(Counter::start);
        Phase { counter, name, command, calls, usec, cpu: self.cpu_seconds(), begun: Instant::now() }
    }

    pub fn end(&mut self, phase: Phase) -> Cost {
        let seconds = phase.begun.elapsed().as_secs_f64();
        let counted = phase.counter.and_then(Counter::end);
        let cpu = self.cpu_seconds() - phase.cpu;
        let (calls, usec) = self.command(phase.command);
        let calls = calls - phase.calls;
        let (command_us, cpu_us) = ((usec - phase.usec) / calls, cpu * 1e6 / calls);
        Cost { name: phase.name, calls, seconds, command_us, cpu_us, instructions: counted.map(|all| all / calls) }
    }

    /// What redis-benchmark reaches with a command of its own.
    pub fn baseline(&mut self, name: &'static str, command: &'static str, words: &[&str], callers: usize) -> Cost {
        let url = self.process.url();
        let socket = url.trim_start_matches("unix://");
        let phase = self.begin(name, command);
        let mut benchmark = Command::new("redis-benchmark");
        benchmark.args(["-s", socket, "-q", "-n", &BASELINE_CALLS.to_string(), "-c", &callers.to_string()]).args(words);
        let output = benchmark.output().expect("failed to run redis-benchmark: it comes with redis-server's tools");
        assert!(output.status.success(), "redis-benchmark: {}", String::from_utf8_lossy(&output.stderr));
        let cost = self.end(phase);
        assert!(cost.calls >= BASELINE_CALLS as f64, "redis-benchmark made only {} calls", cost.calls);
        cost
    }

    pub fn used_bytes(&self) -> f64 {
        self.process.info_number("used_memory") - self.process.info_number("mem_clients_normal")
    }
}

pub struct Phase {
    counter: Option<Counter>,
    name: &'static str,
    command: &'static str,
    calls: f64,
    usec: f64,
    cpu: f64,
    begun: Instant,
}
