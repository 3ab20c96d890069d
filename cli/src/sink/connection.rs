//! One client of a sink.
//!
//! What the client read of us is known without asking it: bytes that it sends after a reply show that it read
//! the reply, since it never writes ahead of one. And when its process ends, its system says whether all was
//! read: an orderly end (FIN) if so, a reset (RST) if bytes were left (RFC 2525 section 2.17; Linux does so),
//! or if ours came too late.

use super::ledger::{Decided, Decision, Entry, Ledger};
use super::rules::{Effect, Rules, Stage};
use postrider_mail::smtp::server::{Action, Answer, Received, ServerSession};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// The name in greetings.
const HOST: &str = "sink.postrider.example";
/// The largest message taken.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
const READ_BYTES: usize = 16 * 1024;
/// RFC 5321 4.5.3.2.7.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// How long a client may take to read a reply.
const WRITE_MAX: Duration = Duration::from_secs(60);

pub struct Connection {
    stream: TcpStream,
    peer: String,
    number: u64,
    latency: Duration,
    rules: Arc<Rules>,
    ledger: Ledger,
    session: ServerSession,
    output: Vec<u8>,
    /// Written, and nothing came from the client since.
    unproven: Vec<Decided>,
    /// The ledger was told that it is over.
    has_left: bool,
}

/// Whether the connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    GoOn,
    End,
}

impl Connection {
    pub fn new(stream: TcpStream, peer: SocketAddr, latency: Duration, rules: Arc<Rules>, ledger: Ledger) -> Self {
        let number = ledger.connected();
        let session = ServerSession::new(HOST, MESSAGE_BYTES_MAX);
        Self {
            stream,
            peer: peer.to_string(),
            number,
            latency,
            rules,
            ledger,
            session,
            output: Vec::new(),
            unproven: Vec::new(),
            has_left: false,
        }
    }

    /// Serves until the client leaves or `stopped` turns true.
    pub async fn run(mut self, stopped: watch::Receiver<bool>) {
        let ended = self.converse(stopped).await;
        self.close_account(&ended);
        self.leave();
        match ended {
            Ok(()) => tracing::debug!(connection = self.number, "client left"),
            Err(error) => tracing::debug!(connection = self.number, %error, "client was lost"),
        }
    }

    fn leave(&mut self) {
        if !std::mem::replace(&mut self.has_left, true) {
            self.ledger.left();
        }
    }

    /// The last reply was not read if the connection was reset rather than ended.
    fn close_account(&mut self, ended: &io::Result<()>) {
        let is_reset = match ended {
            Ok(()) => !matches!(self.stream.take_error(), Ok(None)),
            // We lost patience; the client may have read everything.
            Err(error) => error.kind() != io::ErrorKind::TimedOut,
        };
        let unproven = std::mem::take(&mut self.unproven);
        if is_reset {
            unproven.iter().for_each(|decided| self.ledger.reply_failed(decided));
        }
    }

    async fn converse(&mut self, mut stopped: watch::Receiver<bool>) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        let mut buffer = vec![0; READ_BYTES];
        let greeting = self.session.greeting();
        self.gather(greeting);
        loop {
            if self.act(&mut stopped).await? == Then::End {
                // Before the goodbye: whoever reads that may open another one.
                self.leave();
                return self.write().await;
            }
            self.write().await?;
            if self.session.is_closed() {
                return Ok(());
            }
            self.ledger.room().await;
            let read = tokio::select! {
                read = tokio::time::timeout(IDLE_MAX, self.stream.read(&mut buffer)) => read?,
                () = end(&mut stopped) => {
                    let goodbye = self.session.shut_down();
                    self.gather(goodbye);
                    return self.write().await;
                }
            };
            match read? {
                0 => return Ok(()),
                length => {
                    self.unproven.clear();
                    self.session.receive(&buffer[..length]);
                }
            }
        }
    }

    async fn act(&mut self, stopped: &mut watch::Receiver<bool>) -> io::Result<Then> {
        while let Some(action) = self.session.next_action() {
            match action {
                Action::Write(bytes) => self.output.extend_from_slice(&bytes),
                Action::Close => return Ok(Then::End),
                Action::Recipient { rcpt_to, .. } => {
                    if self.recipient(&rcpt_to) == Then::End {
                        return Ok(Then::End);
                    }
                }
                Action::Message(message) => {
                    if self.message(&message, stopped).await? == Then::End {
                        return Ok(Then::End);
                    }
                }
            }
        }
        Ok(Then::GoOn)
    }

    fn recipient(&mut self, address: &str) -> Then {
        let effect = self.rules.decide(Stage::Recipient, address);
        let answer = match effect {
            None | Some(Effect::RefuseMessage(_) | Effect::Drop | Effect::Slow(_)) => Answer::Accept,
            Some(Effect::RefuseRecipient(code)) => Answer::Refuse(refusal(code)),
            Some(Effect::Close) => Answer::Hang,
        };
        if answer != Answer::Accept {
            self.ledger.recipient_refused();
        }
        let action = self.session.answer(answer);
        self.gather(action)
    }

    async fn message(&mut self, message: &Received, stopped: &mut watch::Receiver<bool>) -> io::Result<Then> {
        let effect = message.rcpt_to.iter().find_map(|address| self.rules.decide(Stage::FinalDot, address));
        let (decision, code, answer, slower) = match effect {
            None | Some(Effect::RefuseRecipient(_) | Effect::Close) => {
                (Decision::Accept, 250, Answer::Accept, Duration::ZERO)
            }
            Some(Effect::Slow(slower)) => (Decision::Accept, 250, Answer::Accept, slower),
            Some(Effect::Drop) => (Decision::Lost, 250, Answer::Hang, Duration::ZERO),
            Some(Effect::RefuseMessage(code)) => {
                let decision = if code >= 500 { Decision::Reject } else { Decision::Defer };
                (decision, code, Answer::Refuse(refusal(code)), Duration::ZERO)
            }
        };
        let recorded = self.record(message, decision, code);
        let latency = self.latency + slower;
        if !latency.is_zero() {
            self.write().await?;
            tokio::select! {
                () = tokio::time::sleep(latency) => {}
                () = end(stopped) => {}
            }
        }
        let gone = self.client_is_gone();
        let action = self.session.answer(answer);
        let then = self.gather(action);
        if decision == Decision::Lost {
            return Ok(then);
        }
        // Written even to a client that seems gone: it may have closed only its own side.
        let written = self.write().await;
        if gone || written.is_err() {
            recorded.iter().for_each(|decided| self.ledger.reply_failed(decided));
        } else {
            self.unproven = recorded;
        }
        written.map(|()| then)
    }

    fn record(&self, message: &Received, decision: Decision, code: u16) -> Vec<Decided> {
        let (message_id, reference, subject) =
            (message.header("Message-ID"), message.header("X-Postrider-Ref"), message.header("Subject"));
        let record = |rcpt_to: &String| {
            self.ledger.record(&Entry {
                connection: self.number,
                peer: &self.peer,
                mail_from: &message.mail_from,
                rcpt_to,
                message_id: &message_id,
                decision,
                code,
                size_bytes: message.size,
                reference: &reference,
                subject: &subject,
            })
        };
        message.rcpt_to.iter().map(record).collect()
    }

    /// Takes what the client sent meanwhile; true when it closed its side.
    fn client_is_gone(&mut self) -> bool {
        let mut buffer = [0; 1024];
        match self.stream.try_read(&mut buffer) {
            Ok(0) => true,
            Ok(length) => {
                self.session.receive(&buffer[..length]);
                false
            }
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    fn gather(&mut self, action: Action) -> Then {
        match action {
            Action::Write(bytes) => {
                self.output.extend_from_slice(&bytes);
                Then::GoOn
            }
            Action::Close => Then::End,
            // Only `next_action` asks.
            Action::Recipient { .. } | Action::Message(_) => Then::GoOn,
        }
    }

    async fn write(&mut self) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        tokio::time::timeout(WRITE_MAX, self.stream.write_all(&self.output)).await??;
        self.output.clear();
        Ok(())
    }
}

/// Until the sink ends, or whoever runs it is gone.
async fn end(stopped: &mut watch::Receiver<bool>) {
    drop(stopped.wait_for(|stopped| *stopped).await);
}

/// The reply line of a rule.
fn refusal(code: u16) -> String {
    match code {
        421 => "421 4.3.2 closing, by rule".into(),
        450 => "450 4.2.1 mailbox busy, by rule".into(),
        550 => "550 5.1.1 no such user, by rule".into(),
        code => format!("{code} {}.0.0 refused by rule", code / 100),
    }
}
