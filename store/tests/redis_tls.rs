//! TLS to a real server: what is trusted, what is not, and that nothing goes in the clear. Always redis-server, because
//! the packaged Valkey is built without TLS.

#![expect(clippy::unwrap_used, reason = "a case that cannot reach its server has failed")]
#![cfg(feature = "tls")]

use postrider_common::clock::SystemClock;
use postrider_store::conformance::scene::new_run;
use postrider_store::redis::Redis;
use postrider_store::{Durability, Options, Store, StoreError, TlsFiles};
use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const BOUND: Duration = Duration::from_secs(20);

/// Certificates made for this test: a CA, a server at 127.0.0.1, a client; and a CA that signed nobody.
struct Papers {
    folder: tempfile::TempDir,
}

impl Papers {
    fn make() -> Self {
        let papers = Self { folder: tempfile::tempdir().unwrap() };
        for ca in ["ca", "stranger"] {
            papers.openssl(&format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={ca} -keyout {ca}.key -out {ca}.pem"
            ));
        }
        std::fs::write(papers.path("san"), "subjectAltName=IP:127.0.0.1\n").unwrap();
        for name in ["server", "client"] {
            papers.openssl(&format!(
                "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
            ));
            papers.openssl(&format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out {name}.pem"
            ));
        }
        papers
    }

    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        command.args(arguments.split(' ')).current_dir(self.folder.path());
        let output = command.output().unwrap_or_else(|error| panic!("failed to start openssl: {error}; install it"));
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

struct Running {
    port: u16,
    child: Child,
}

impl Running {
    fn start(papers: &Papers, asks_for_certificate: bool) -> Self {
        let auth = if asks_for_certificate { "yes" } else { "no" };
        let port = free_port();
        let folder = papers.path(&format!("server-{port}"));
        std::fs::create_dir(&folder).unwrap();
        let arguments = ["--port", "0", "--appendonly", "yes", "--appendfsync", "always", "--save", ""];
        let mut command = server(papers, &folder, port);
        command.args(arguments).args(["--tls-auth-clients", auth]);
        Self::spawn(command, port)
    }

    fn sentinel(papers: &Papers, primary: u16) -> Self {
        let port = free_port();
        let text = format!(
            "port 0\ntls-port {port}\nbind 127.0.0.1\ntls-cert-file server.pem\ntls-key-file server.key\n\
             tls-ca-cert-file ca.pem\ntls-auth-clients no\ntls-replication yes\n\
             sentinel monitor mail 127.0.0.1 {primary} 1\n"
        );
        let file = format!("sentinel-{port}.conf");
        std::fs::write(papers.path(&file), text).unwrap();
        let mut command = Command::new("redis-server");
        command.args([&file, "--sentinel"]).current_dir(papers.folder.path());
        Self::spawn(command, port)
    }

    fn spawn(mut command: Command, port: u16) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| panic!("failed to start redis-server: {error}; install it"));
        let deadline = Instant::now() + BOUND;
        while std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(Instant::now() < deadline, "redis-server does not listen: is it built with TLS?");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { port, child }
    }

    fn url(&self) -> String {
        format!("rediss://127.0.0.1:{}", self.port)
    }
}

fn server(papers: &Papers, folder: &Path, port: u16) -> Command {
    let mut command = Command::new("redis-server");
    command.args(["--tls-port", &port.to_string(), "--bind", "127.0.0.1"]).current_dir(folder);
    for (key, name) in
        [("--tls-cert-file", "server.pem"), ("--tls-key-file", "server.key"), ("--tls-ca-cert-file", "ca.pem")]
    {
        command.arg(key).arg(papers.path(name));
    }
    command
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

async fn connect(url: &str, tls: TlsFiles, durability: Durability) -> Result<Redis, StoreError> {
    let options = Options { tls, ..Options::new(durability, Arc::new(SystemClock::default())) };
    Redis::connect(url, options).await
}

#[tokio::test]
async fn a_server_whose_certificate_is_signed_by_our_ca_is_used() {
    let papers = Papers::make();
    let server = Running::start(&papers, false);
    let tls = TlsFiles { ca: Some(papers.path("ca.pem")), ..TlsFiles::default() };
    let store = connect(&server.url(), tls.clone(), Durability::Always).await.unwrap();
    // The listener for hints comes with TLS as well: it moves the counter once it has subscribed.
    let mut wake = store.wake();
    tokio::time::timeout(BOUND, wake.changed()).await.unwrap().unwrap();
    store.create_run(new_run("over tls")).await.unwrap();
    assert!(store.run(&new_run("over tls").id).await.unwrap().is_some());
    // A certificate for another name than the one we called.
    let other = server.url().replace("127.0.0.1", "localhost");
    let error = connect(&other, tls, Durability::Always).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unsafe { message, .. } if message.contains("certificate")), "{error}");
}

#[tokio::test]
async fn a_server_that_nobody_we_trust_signed_is_refused() {
    let papers = Papers::make();
    let server = Running::start(&papers, false);
    for ca in [None, Some(papers.path("stranger.pem"))] {
        let tls = TlsFiles { ca, ..TlsFiles::default() };
        let error = connect(&server.url(), tls, Durability::Always).await.unwrap_err();
        let StoreError::Unsafe { message, mend } = &error else { panic!("{error}") };
        assert!(message.contains("certificate") && mend.contains("tls_ca"), "{error}");
    }
    let ca = Some(papers.path("none.pem"));
    let error = connect(&server.url(), TlsFiles { ca, ..TlsFiles::default() }, Durability::Always).await.unwrap_err();
    assert!(matches!(&error, StoreError::Url(why) if why.contains("tls_ca: cannot read")), "{error}");
    let ca = Some(papers.path("san"));
    let error = connect(&server.url(), TlsFiles { ca, ..TlsFiles::default() }, Durability::Always).await.unwrap_err();
    assert!(matches!(&error, StoreError::Url(why) if why.contains("holds no certificate")), "{error}");
}

#[tokio::test]
async fn a_server_that_asks_for_our_certificate_gets_it() {
    let papers = Papers::make();
    let server = Running::start(&papers, true);
    let without = TlsFiles { ca: Some(papers.path("ca.pem")), ..TlsFiles::default() };
    let (certificate, key) = (Some(papers.path("client.pem")), Some(papers.path("client.key")));
    let with = TlsFiles { certificate, key, ..without.clone() };
    connect(&server.url(), with, Durability::Always).await.unwrap().now_ms().await.unwrap();
    let error = connect(&server.url(), without, Durability::Always).await.unwrap_err();
    assert!(error.to_string().contains("tls_certificate"), "{error}");
}

#[tokio::test]
async fn sentinels_and_what_they_name_are_reached_with_tls() {
    let papers = Papers::make();
    let server = Running::start(&papers, false);
    let sentinel = Running::sentinel(&papers, server.port);
    let tls = TlsFiles { ca: Some(papers.path("ca.pem")), ..TlsFiles::default() };
    let url = format!("rediss+sentinel://127.0.0.1:{}/mail", sentinel.port);
    let store = connect(&url, tls, Durability::Relaxed).await.unwrap();
    store.create_run(new_run("over tls")).await.unwrap();
}

/// What is sent to a server that speaks no TLS is a greeting of TLS and nothing else: no login.
#[tokio::test]
async fn nothing_goes_in_the_clear() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("rediss://me:secret@127.0.0.1:{}", listener.local_addr().unwrap().port());
    let heard = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut first = [0; 4096];
        let length = stream.read(&mut first).unwrap();
        first[..length].to_vec()
    });
    let error = connect(&url, TlsFiles::default(), Durability::Always).await.unwrap_err();
    assert!(!error.to_string().contains("secret"), "{error}");
    let heard = heard.join().unwrap();
    assert_eq!(heard[..2], [0x16, 0x03], "a handshake record of TLS");
    assert!(!heard.windows(6).any(|bytes| bytes == b"secret"));
}
