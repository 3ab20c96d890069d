//! A relay of others (aiosmtpd) that speaks TLS and wants a login.

use crate::process::Process;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The interpreter that has aiosmtpd.
const VERIFIERS: &str = "POSTRIDER_VERIFIERS";
const READY: Duration = Duration::from_secs(30);
pub const USER: &str = "mailer@acme.example";
pub const PASSWORD: &str = "päss word/1";
/// Arguments: folder, "starttls" or "tls". Prints its port, then a line for each message: recipient, user, version of TLS.
const SERVER: &str = r#"
import asyncio, ssl, sys
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
folder, mode = sys.argv[1:3]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(f"{folder}/server.pem", f"{folder}/server.key")
wanted = (sys.argv[3].encode(), sys.argv[4].encode())
def check(server, session, envelope, mechanism, data):
    good = isinstance(data, LoginPassword) and (data.login, data.password) == wanted
    session.who = wanted[0].decode() if good else None
    return AuthResult(success=good, handled=False)
class Handler:
    async def handle_DATA(self, server, session, envelope):
        version = server.transport.get_extra_info("ssl_object").version()
        print("message", envelope.rcpt_tos[0], session.who, version, flush=True)
        return "250 2.0.0 taken"
def serve():
    common = dict(authenticator=check, auth_required=True, hostname="relay.example")
    if mode == "starttls":
        return SMTP(Handler(), tls_context=context, require_starttls=True, **common)
    return SMTP(Handler(), auth_require_tls=False, **common)
async def main():
    implicit = None if mode == "starttls" else context
    server = await asyncio.get_running_loop().create_server(serve, "127.0.0.1", 0, ssl=implicit)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"#;

#[derive(Debug)]
pub struct SecureRelay {
    process: Process,
    port: u16,
}

impl SecureRelay {
    /// `folder` has the certificate of `certify`.
    pub fn start(folder: &Path, mode: &str) -> Self {
        let python = std::env::var(VERIFIERS).unwrap_or_else(|_| panic!("{VERIFIERS} is not set: run scripts/test"));
        let mut command = Command::new(python);
        command.args(["-u", "-c", SERVER]).arg(folder).args([mode, USER, PASSWORD]);
        let mut process = Process::start(&format!("relay-{mode}"), &mut command, folder);
        let port = process.wait_line("its port", READY, |line| line.strip_prefix("port ")?.trim().parse().ok());
        Self { process, port }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Recipient, user and version of TLS of each message.
    pub fn messages(&self) -> Vec<(String, String, String)> {
        let text = self.process.stdout();
        let parts = |line: &str| {
            let mut words = line.strip_prefix("message ")?.split(' ').map(str::to_owned);
            Some((words.next()?, words.next()?, words.next()?))
        };
        text.lines().filter_map(parts).collect()
    }
}

/// An authority (`ca.pem`) and a certificate of it for `localhost` and 127.0.0.1 (`server.pem`, `server.key`).
pub fn certify(folder: &Path) -> PathBuf {
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(folder).output().expect("openssl runs");
        assert!(output.status.success(), "{output:?}");
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    openssl(&[&["req", "-x509"], &key[..], &["-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test CA"]].concat());
    let request = ["-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost"];
    openssl(&[&["req"], &key[..5], &request[..]].concat());
    fs::write(folder.join("san"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").expect("written");
    let signed = ["x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
    openssl(&[&signed[..], &["-days", "2", "-extfile", "san", "-out", "server.pem"]].concat());
    folder.join("ca.pem")
}
