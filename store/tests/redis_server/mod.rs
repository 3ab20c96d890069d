//! A private server in a temporary folder, on a unix socket, with the durability the store asks for:
//! redis-server from PATH, or the program that POSTRIDER_TEST_SERVER names (`scripts/test` runs all of this
//! on Valkey as well).

#![allow(dead_code, reason = "each test file uses a part of it")]

use async_trait::async_trait;
use postrider_common::clock::SystemClock;
use postrider_store::Store;
use postrider_store::conformance::Fixture;
use postrider_store::redis::Redis;
use postrider_store::{Durability, Options, StoreError};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A server may take this long to answer after its start.
const START_MAX: Duration = Duration::from_secs(20);
/// The commands an administrator types are read from here, so that what is written is what is tested.
const OPERATIONS: &str = include_str!("../../../docs/operations.md");
const LEAST_PASSWORD: &str = "a-long-password";

pub fn program() -> String {
    std::env::var("POSTRIDER_TEST_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
}

pub struct Server {
    folder: tempfile::TempDir,
    child: Option<Child>,
    arguments: Vec<String>,
}

/// A store on a server of its own.
pub struct Served {
    pub store: Arc<Redis>,
    pub server: Server,
}

impl Served {
    pub async fn of_shards(shards: u16) -> Self {
        let server = Server::start();
        Self { store: Arc::new(server.store_of_shards(shards).await.unwrap()), server }
    }
}

#[async_trait]
impl Fixture for Served {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }
}

impl Server {
    /// With `appendfsync always`.
    pub fn start() -> Self {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    pub fn start_with(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let arguments = arguments.iter().map(|argument| argument.to_string()).collect();
        let mut server = Self { folder, child: None, arguments };
        server.start_again();
        server
    }

    pub fn start_again(&mut self) {
        let folder = self.folder.path();
        let program = program();
        let mut command = Command::new(&program);
        command.args(["--port", "0", "--save", "", "--dir"]).arg(folder);
        command.arg("--unixsocket").arg(folder.join("s")).args(&self.arguments);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.child = Some(child.unwrap_or_else(|error| panic!("failed to start {program}: {error}; install it")));
        let deadline = Instant::now() + START_MAX;
        while self.try_connection().is_none() {
            assert!(Instant::now() < deadline, "{program} does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL: what it had not made durable is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        // A socket file without a server would refuse connections all the same; it only slows the restart.
        let _ = std::fs::remove_file(self.folder.path().join("s"));
    }

    /// Copies the append-only files as they are, while the server goes on: a backup that was not asked for.
    pub fn copy_files(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(&self.folder.path().join("appendonlydir"), copy.path());
        copy
    }

    /// Puts a copy in the place of the files of a server that was killed.
    pub fn put_back(&self, copy: &tempfile::TempDir) {
        let files = self.folder.path().join("appendonlydir");
        std::fs::remove_dir_all(&files).unwrap();
        std::fs::create_dir(&files).unwrap();
        copy_folder(copy.path(), &files);
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn url(&self) -> String {
        format!("unix://{}", self.folder.path().join("s").display())
    }

    fn try_connection(&self) -> Option<redis::Connection> {
        let mut connection = redis::Client::open(self.url()).ok()?.get_connection().ok()?;
        redis::cmd("PING").query::<String>(&mut connection).ok().map(|_| connection)
    }

    /// A connection beside the store, to look and to do harm.
    pub fn connection(&self) -> redis::Connection {
        self.try_connection().unwrap()
    }

    pub fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(word);
        }
        command.query(&mut self.connection()).unwrap()
    }

    pub async fn store_with(&self, durability: Durability) -> Result<Redis, StoreError> {
        let options = Options::new(durability, Arc::new(SystemClock::default()));
        Redis::connect(&self.url(), options).await
    }

    pub async fn store_of_shards(&self, shards: u16) -> Result<Redis, StoreError> {
        let options = Options::new(Durability::Always, Arc::new(SystemClock::default()));
        Redis::connect(&self.url(), Options { shards: shards.try_into().unwrap(), ..options }).await
    }

    pub async fn store(&self) -> Redis {
        self.store_with(Durability::Always).await.unwrap()
    }

    /// The command of docs/operations.md that makes the user with the fewest permissions.
    pub fn least_user_line(&self) -> String {
        let line = OPERATIONS.lines().find(|line| line.starts_with("ACL SETUSER postrider ")).expect("the user's line");
        line.replace("PASSWORD", LEAST_PASSWORD)
    }

    /// Makes that user, and then changes it.
    pub fn allow_least_user(&self, change: &[&str]) {
        let line = self.least_user_line();
        self.command::<()>(&line.split(' ').chain(change.iter().copied()).collect::<Vec<_>>());
    }

    fn least_user_url(&self) -> String {
        format!("{}?user=postrider&pass={LEAST_PASSWORD}", self.url())
    }

    pub fn connection_of_least_user(&self) -> redis::Connection {
        redis::Client::open(self.least_user_url()).unwrap().get_connection().unwrap()
    }

    pub async fn store_of_least_user(&self) -> Result<Redis, StoreError> {
        self.store_of_least_user_with(Durability::Always).await
    }

    pub async fn store_of_least_user_with(&self, durability: Durability) -> Result<Redis, StoreError> {
        let options = Options::new(durability, Arc::new(SystemClock::default()));
        Redis::connect(&self.least_user_url(), options).await
    }
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
