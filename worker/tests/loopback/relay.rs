//! An SMTP server for one test: counts what it took, and is slow or silent on demand.

use postrider_mail::smtp::server::{Action, Answer, ServerSession};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[derive(Debug, Clone, Copy, Default)]
pub struct Script {
    /// Before the reply to the final dot.
    pub reply_delay_ms: u64,
    /// Before the reply to DATA.
    pub data_delay_ms: u64,
}

#[derive(Debug, Default)]
struct State {
    script: Script,
    /// Final dots seen, by recipient.
    ledger: BTreeMap<String, u32>,
    connections: u32,
    data_commands: u32,
}

#[derive(Clone)]
pub struct Relay {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    witness: Arc<OnceLock<Witness>>,
}

/// Called with the recipient when the final dot is read.
type Witness = Box<dyn Fn(&str) + Send + Sync>;

impl Relay {
    pub async fn start(script: Script) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), script).await
    }

    pub async fn start_at(address: SocketAddr, script: Script) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let state = Arc::new(Mutex::new(State { script, ..State::default() }));
        let relay = Self { address: listener.local_addr().unwrap(), state, witness: Arc::default() };
        let server = relay.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                server.state.lock().unwrap().connections += 1;
                let server = server.clone();
                tokio::spawn(async move { server.serve(stream).await });
            }
        });
        relay
    }

    pub fn wish(&self, script: Script) {
        self.state.lock().unwrap().script = script;
    }

    /// Once at most.
    pub fn witness(&self, witness: impl Fn(&str) + Send + Sync + 'static) {
        assert!(self.witness.set(Box::new(witness)).is_ok());
    }

    pub fn ledger(&self) -> BTreeMap<String, u32> {
        self.state.lock().unwrap().ledger.clone()
    }

    pub fn connections(&self) -> u32 {
        self.state.lock().unwrap().connections
    }

    pub fn data_commands(&self) -> u32 {
        self.state.lock().unwrap().data_commands
    }

    fn script(&self) -> Script {
        self.state.lock().unwrap().script
    }

    async fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let mut session = ServerSession::new("relay.example", 1024 * 1024);
        let mut next = Some(session.greeting());
        let mut buffer = [0; 8192];
        loop {
            while let Some(action) = next.take().or_else(|| session.next_action()) {
                match action {
                    Action::Write(bytes) => {
                        if bytes.starts_with(b"354") {
                            self.state.lock().unwrap().data_commands += 1;
                            tokio::time::sleep(Duration::from_millis(self.script().data_delay_ms)).await;
                        }
                        stream.write_all(&bytes).await.ok()?;
                    }
                    Action::Recipient { rcpt_to, .. } => {
                        let is_refused = rcpt_to.starts_with("reject");
                        let refusal = Answer::Refuse("550 5.1.1 no such user".into());
                        next = Some(session.answer(if is_refused { refusal } else { Answer::Accept }));
                    }
                    Action::Message(received) => {
                        let rcpt_to = received.rcpt_to[0].clone();
                        self.witness.get().inspect(|witness| witness(&rcpt_to));
                        let is_silent = rcpt_to.starts_with("silent");
                        let is_stuck = rcpt_to.starts_with("stuck");
                        *self.state.lock().unwrap().ledger.entry(rcpt_to).or_default() += 1;
                        if is_silent {
                            return None;
                        }
                        if is_stuck {
                            std::future::pending::<()>().await;
                        }
                        tokio::time::sleep(Duration::from_millis(self.script().reply_delay_ms)).await;
                        next = Some(session.answer(Answer::Accept));
                    }
                    Action::Close => return None,
                }
            }
            let count = stream.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
            session.receive(&buffer[..count]);
        }
    }
}
