//! A server that speaks S3, with its objects in a folder: it can be killed and started again on what it had.

use crate::process::Process;
use crate::wait;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// The s3rver of npm, given by `scripts/test`; without it the one that `scripts/test` installed before.
pub const SERVER: &str = "POSTRIDER_S3RVER";
const BUCKET: &str = "acme";
/// Of every s3rver; it checks the signatures that are made with them.
const CREDENTIAL: &str = "S3RVER";
const READY_BOUND: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Bucket {
    process: Option<Process>,
    port: u16,
    starts: u32,
    folder: TempDir,
}

impl Bucket {
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("postrider-s3-").tempdir().expect("a temporary folder");
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let mut bucket = Self { process: None, port: free.expect("a free port").port(), starts: 0, folder };
        bucket.restart();
        bucket
    }

    /// For `[storage] url`.
    pub fn url(&self) -> String {
        format!("s3://{BUCKET}/postrider/tests")
    }

    /// What a master needs beside the URL.
    pub fn environment(&self) -> Vec<(String, String)> {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        let set = [
            ("AWS_ENDPOINT_URL", endpoint.as_str()),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", CREDENTIAL),
            ("AWS_SECRET_ACCESS_KEY", CREDENTIAL),
        ];
        set.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts it on the same port and folder.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "the bucket is served");
        self.starts += 1;
        let objects = self.folder.path().join("objects");
        fs::create_dir_all(&objects).expect("a folder for objects");
        let mut command = Command::new(server());
        command.args(["--address", "127.0.0.1", "--silent", "--no-vhost-buckets", "--configure-bucket", BUCKET]);
        command.arg("--port").arg(self.port.to_string()).arg("--directory").arg(objects);
        let mut process = Process::start(&format!("s3rver-{}", self.starts), &mut command, self.folder.path());
        wait::until("the bucket to be served", READY_BOUND, || {
            if let Some(status) = process.exited() {
                panic!("s3rver ended: {status}\n{}", process.tail());
            }
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()
        });
        self.process = Some(process);
    }

    /// The objects with this in their name.
    pub fn objects(&self, part: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.folder.path().join("objects"), &mut found);
        found.retain(|path| path.to_string_lossy().contains(part) && path.to_string_lossy().ends_with("_object"));
        found
    }
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { walk(&path, found) } else { found.push(path) }
    }
}

fn server() -> PathBuf {
    let installed = || {
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
        target.join("tools/s3rver/node_modules/.bin/s3rver")
    };
    std::env::var_os(SERVER).filter(|value| !value.is_empty()).map_or_else(installed, PathBuf::from)
}
