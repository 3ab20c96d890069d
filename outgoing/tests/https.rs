//! TLS to a real server: a certificate of an authority that the system trusts is taken, and one of a stranger, or for
//! another name, is not. What is trusted is read once by a process, so each case asks from a process of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]
#![cfg(feature = "tls")]

use postrider_outgoing::{Outgoing, Request, Settings};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);
/// The URL that the asking process asks for.
const URL: &str = "POSTRIDER_TEST_HTTPS_URL";
const ASKS: &str = "the_process_that_asks";

/// Certificates made for this test: an authority, a server at 127.0.0.1 that it signed, and an authority that signed nobody.
fn make_papers(folder: &Path) {
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        command.args(arguments.split(' ')).current_dir(folder);
        let output = command.output().unwrap_or_else(|error| panic!("failed to start openssl: {error}; install it"));
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    for ca in ["ca", "stranger"] {
        openssl(&format!("req -x509 {key} -days 2 -subj /CN={ca} -keyout {ca}.key -out {ca}.pem"));
    }
    std::fs::write(folder.join("san"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(&format!("req -new {key} -subj /CN=server -keyout server.key -out server.csr"));
    openssl("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out server.pem");
}

/// Serves the files of the folder, each a whole answer.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(folder: &Path) -> Self {
        let mut command = Command::new("openssl");
        command.args(["s_server", "-accept", "127.0.0.1:0", "-cert", "server.pem", "-key", "server.key", "-HTTP"]);
        command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port =
            lines.find_map(|line| line.unwrap().strip_prefix("ACCEPT ")?.rsplit(':').next()?.trim().parse().ok());
        let server = Self { child, port: port.expect("openssl tells the port that it listens on") };
        // It writes on, and nobody may stop it by not reading.
        std::thread::spawn(move || lines.for_each(drop));
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process that trusts this authority alone is answered.
fn asked_by_another(trusts: &Path, url: &str) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", ASKS, "--nocapture"])
        .env(URL, url)
        .env("SSL_CERT_FILE", trusts)
        .env_remove("SSL_CERT_DIR");
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let answer = text.lines().find_map(|line| line.split_once("ANSWER ").map(|(_, answer)| answer.to_owned()));
    answer.unwrap_or_else(|| panic!("no answer in {text}"))
}

/// Of the other test; by itself it asks nobody.
#[tokio::test]
async fn the_process_that_asks() {
    let Ok(url) = std::env::var(URL) else { return };
    let allow = vec!["127.0.0.0/8".parse().unwrap()];
    let client = Outgoing::new(&Settings { allow, ..Settings::default() }).unwrap();
    let answer = match client.send(Request::get(url.parse().unwrap(), LONG)).await {
        Ok(answer) => answer.whole(1024).await.map(|body| String::from_utf8_lossy(&body).into_owned()),
        Err(failure) => Err(failure),
    };
    println!("\nANSWER {answer:?}");
}

#[test]
fn only_a_certificate_that_the_system_trusts_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    make_papers(folder.path());
    let body = "over TLS";
    let whole = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    std::fs::write(folder.path().join("hello"), whole).unwrap();
    let server = Server::start(folder.path());
    let url = format!("https://127.0.0.1:{}/hello", server.port);
    let (ca, stranger) = (folder.path().join("ca.pem"), folder.path().join("stranger.pem"));
    assert_eq!(asked_by_another(&ca, &url), format!("Ok({body:?})"));
    let refused = asked_by_another(&stranger, &url);
    assert!(refused.starts_with("Err(Connection(") && refused.contains("certificate"), "{refused}");
    // The same server under a name that its certificate does not have.
    let other = asked_by_another(&ca, &url.replace("127.0.0.1", "localhost"));
    assert!(other.starts_with("Err(Connection(") && other.contains("certificate"), "{other}");
}
