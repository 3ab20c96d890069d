//! A Postgres and a MariaDB of our own: files in a temporary folder, a port on loopback, and a user that may only read.

use crate::process::Process;
use crate::wait;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const READY_BOUND: Duration = Duration::from_secs(60);
/// Of the user that campaigns read with. It is looked for wherever nobody may show it.
pub const PASSWORD: &str = "sesame-0pen/#";
/// The same in a URL.
const PASSWORD_IN_URL: &str = "sesame-0pen%2F%23";
const READER: &str = "digest_reader";
const DATABASE: &str = "people";

#[derive(Debug)]
pub struct Postgres {
    process: Process,
    port: u16,
    folder: TempDir,
}

impl Postgres {
    pub fn start() -> Self {
        let folder = folder("postgres");
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("a folder for the data");
        // The server refuses to run as root.
        let owner = owner("postgres");
        if let Some((user, group)) = owner {
            chown(&data, Some(user), Some(group)).expect("the folder can be given away");
        }
        let mut init = program("initdb", owner);
        init.current_dir("/").args(["--auth=trust", "--encoding=UTF8", "--no-locale", "--username=postgres"]);
        run(init.args(["--no-sync", "-D"]).arg(&data));
        std::fs::write(data.join("pg_hba.conf"), "local all postgres trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
            .expect("who may come in");
        let port = free_port();
        let mut command = program("postgres", owner);
        command.current_dir("/").arg("-D").arg(&data).arg("-k").arg(&data).arg("-p").arg(port.to_string());
        // What is lost with the machine is not what is tested here.
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_wal_size=4GB"]);
        let process = Process::start("postgres", &mut command, folder.path());
        let mut server = Self { process, port, folder };
        wait::until("Postgres to answer", READY_BOUND, || {
            if let Some(status) = server.process.exited() {
                panic!("postgres ended: {status}\n{}", server.process.tail());
            }
            server.psql("postgres", "SELECT 1").ok()
        });
        server.tell_in("postgres", &format!("CREATE DATABASE {DATABASE}"));
        server.tell(&format!(
            "CREATE USER {READER} PASSWORD '{PASSWORD}'; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {READER}"
        ));
        server
    }

    /// For a reader, with the password.
    pub fn url(&self) -> String {
        format!("postgres://{READER}:{PASSWORD_IN_URL}@127.0.0.1:{}/{DATABASE}?sslmode=disable", self.port)
    }

    /// # Panics
    /// When the server refuses.
    pub fn tell(&self, sql: &str) {
        self.tell_in(DATABASE, sql);
    }

    fn tell_in(&self, database: &str, sql: &str) {
        self.psql(database, sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// What an administrator's query answers, a line a row.
    pub fn ask(&self, sql: &str) -> String {
        self.psql(DATABASE, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    fn psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut command = Command::new("psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database]);
        command.arg("-h").arg(self.folder.path().join("data")).arg("-p").arg(self.port.to_string()).args(["-c", sql]);
        output(&mut command)
    }
}

#[derive(Debug)]
pub struct MariaDb {
    process: Process,
    port: u16,
    folder: TempDir,
}

impl MariaDb {
    pub fn start() -> Self {
        let folder = folder("mariadb");
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("a folder for the data");
        let owner = owner("mysql");
        if let Some((user, group)) = owner {
            chown(&data, Some(user), Some(group)).expect("the folder can be given away");
        }
        let mut init = program("mariadb-install-db", owner);
        init.current_dir("/").args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal"]);
        run(init.arg(format!("--datadir={}", data.display())));
        let port = free_port();
        let mut command = program("mariadbd", owner);
        command.current_dir("/").args([
            "--no-defaults",
            "--bind-address=127.0.0.1",
            "--innodb-flush-log-at-trx-commit=0",
        ]);
        command.arg(format!("--datadir={}", data.display())).arg(format!("--port={port}"));
        command.arg(format!("--socket={}", data.join("socket").display())).arg("--character-set-server=utf8mb4");
        let process = Process::start("mariadb", &mut command, folder.path());
        let mut server = Self { process, port, folder };
        wait::until("MariaDB to answer", READY_BOUND, || {
            if let Some(status) = server.process.exited() {
                panic!("mariadbd ended: {status}\n{}", server.process.tail());
            }
            server.client("mysql", "SELECT 1").ok()
        });
        for sql in [
            format!("CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4"),
            format!("CREATE USER {READER}@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'"),
            format!("GRANT SELECT ON {DATABASE}.* TO {READER}@'127.0.0.1'"),
        ] {
            server.client("mysql", &sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        server
    }

    /// For a reader, with the password.
    pub fn url(&self) -> String {
        format!("mysql://{READER}:{PASSWORD_IN_URL}@127.0.0.1:{}/{DATABASE}?ssl-mode=DISABLED", self.port)
    }

    /// # Panics
    /// When the server refuses.
    pub fn tell(&self, sql: &str) {
        self.client(DATABASE, sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    fn client(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut command = Command::new("mariadb");
        command.args(["--no-defaults", "--user=root", "--batch", "--default-character-set=utf8mb4"]);
        command.arg(format!("--socket={}", self.folder.path().join("data/socket").display()));
        output(command.args(["-e", sql, database]))
    }
}

/// Writes a database of SQLite by a script.
///
/// # Panics
/// When Python cannot.
pub fn write_sqlite(path: &Path, script: &str) {
    let program = "import sqlite3, sys\nsqlite3.connect(sys.argv[1]).executescript(sys.argv[2])\n";
    run(Command::new("python3").args(["-c", program]).arg(path).arg(script));
}

/// One that the server's user can look into.
fn folder(name: &str) -> TempDir {
    let folder = tempfile::Builder::new().prefix(&format!("postrider-{name}-")).tempdir().expect("a temporary folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("it can be opened");
    folder
}

/// User and group to run a server as; none: as we are.
fn owner(name: &str) -> Option<(u32, u32)> {
    if !rustix::process::getuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("the users of this machine");
    let fields: Vec<&str> =
        users.lines().map(|line| line.split(':').collect()).find(|user: &Vec<&str>| user[0] == name)?;
    Some((fields[2].parse().ok()?, fields[3].parse().ok()?))
}

fn program(name: &str, owner: Option<(u32, u32)>) -> Command {
    let path = find(name);
    let Some((user, group)) = owner else { return Command::new(path) };
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={user}")).arg(format!("--regid={group}")).arg("--clear-groups").arg("--").arg(path);
    command
}

/// Distributions keep several versions of Postgres beside each other, none of them on the path: the newest.
fn find(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|version| version.path().join("bin").join(name)).collect();
    found.retain(|path| path.exists());
    found.sort_by_key(|path| path.components().nth(4).and_then(|part| part.as_os_str().to_str()?.parse::<u32>().ok()));
    found.pop().unwrap_or_else(|| PathBuf::from(name))
}

fn free_port() -> u16 {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    free.expect("a free port").port()
}

fn run(command: &mut Command) {
    output(command).unwrap_or_else(|error| panic!("{command:?}: {error}"));
}

fn output(command: &mut Command) -> Result<String, String> {
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| format!("{error} (scripts/test installs it)"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr) + &text(&output.stdout)) }
}
