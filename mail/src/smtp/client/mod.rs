//! One SMTP connection as a client: which bytes to write next, and how each message ended.
//!
//! The point of it: at every instant the session knows whether the final dot of the message in flight may
//! have reached the server. Content and final dot leave in one chunk of their own, so that the caller can
//! look at its lease right before writing it. Every message given to `send` ends in exactly one
//! `Event::Done`, and every session in exactly one `Event::Closed`.
//!
//! The caller writes what `take_output` gives, in order; hands what it reads to `receive`; takes `event`s;
//! and says `connection_lost` when connecting, reading or writing failed or `timeout` has passed without a
//! reply. After `Event::Closed` it drops the connection.

mod login;
mod transaction;
mod words;

pub use login::{InvalidMethod, Login, Method};
pub use words::{Event, Lost, Outgoing, Phase, SendError, Write};

use super::classify::{Command, Verdict, classify};
use super::reply::{Reply, ReplyReader};
use postrider_common::OutcomeKind;
use postrider_common::sabotage::{Fault, planted};
use std::collections::VecDeque;
use std::time::Duration;
use transaction::{Extensions, Transaction};

/// How long one write of a part of the content may take (RFC 5321 4.5.3.2.5).
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(180);
const COMMAND_TIMEOUT: Duration = Duration::from_secs(300);
const DATA_TIMEOUT: Duration = Duration::from_secs(120);
const FINAL_DOT_TIMEOUT: Duration = Duration::from_secs(600);
/// Nothing depends on the answer to QUIT.
const QUIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Which reply comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Reply(Command),
    /// To the dot that ends a message without recipients: it says nothing (RFC 2920 3.1).
    EmptyMessage,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    ehlo_name: String,
    reader: ReplyReader,
    expected: VecDeque<Expect>,
    /// With the replies that each chunk asks for, which count only once it is taken: what comes before is
    /// an answer to nothing.
    output: VecDeque<(Write, Vec<Expect>)>,
    events: VecDeque<Event>,
    extensions: Extensions,
    transaction: Option<Transaction>,
    waiting: Option<Outgoing>,
    /// The server must offer STARTTLS, and it was not yet asked for.
    wants_tls: bool,
    /// The server waits for a TLS handshake.
    is_securing: bool,
    login: Option<Login>,
    /// What answers the next requests of the server's AUTH.
    answers: VecDeque<String>,
    greeted: bool,
    quitting: bool,
    closed: bool,
    stale: bool,
    messages: u64,
    phase_counter: u64,
}

impl Session {
    /// A session whose connection is being made. `ehlo_name` is this host's name or address literal.
    pub fn new(ehlo_name: &str) -> Self {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte);
        let usable = !ehlo_name.is_empty() && ehlo_name.len() <= 255 && ehlo_name.bytes().all(plain);
        Self {
            ehlo_name: if usable { ehlo_name } else { "localhost" }.to_owned(),
            reader: ReplyReader::default(),
            expected: VecDeque::from([Expect::Reply(Command::Greeting)]),
            output: VecDeque::new(),
            events: VecDeque::new(),
            extensions: Extensions::default(),
            transaction: None,
            waiting: None,
            wants_tls: false,
            is_securing: false,
            login: None,
            answers: VecDeque::new(),
            greeted: false,
            quitting: false,
            closed: false,
            stale: false,
            messages: 0,
            phase_counter: 0,
        }
    }

    /// Nothing but EHLO is said before TLS was begun with STARTTLS (RFC 3207): `Event::StartTls` asks the caller for it. A
    /// server that does not offer it is left.
    #[must_use]
    pub fn with_starttls(self) -> Self {
        Self { wants_tls: true, ..self }
    }

    /// Logs in before the first message. Whether the connection is safe for that is for the caller to know.
    #[must_use]
    pub fn with_login(self, login: Login) -> Self {
        Self { login: Some(login), ..self }
    }

    /// The handshake that `Event::StartTls` asked for was made. What the server said before is forgotten (RFC 3207 4.2).
    pub fn secured(&mut self) {
        if std::mem::take(&mut self.is_securing) {
            self.extensions = Extensions::default();
            self.ehlo();
        }
    }

    /// Gives the session a message: now, or before `Event::Ready`, in which case it goes out as soon as it
    /// can. Not while another one has no verdict.
    pub fn send(&mut self, outgoing: Outgoing) -> Result<(), SendError> {
        let in_flight = self.transaction.as_ref().is_some_and(|transaction| !transaction.done);
        if self.closed || self.quitting {
            return Err(SendError::Closed);
        }
        if in_flight || self.waiting.is_some() {
            return Err(SendError::Busy);
        }
        if self.is_idle() {
            self.begin(outgoing);
        } else {
            self.waiting = Some(outgoing);
        }
        Ok(())
    }

    /// Ends the session when it is idle next.
    pub fn quit(&mut self) {
        if self.quitting || self.closed {
            return;
        }
        self.quitting = true;
        if self.is_idle() {
            self.command("QUIT\r\n", &[Command::Quit]);
        }
    }

    /// What to write next. Taking a chunk that carries the final dot means that it may be written.
    pub fn take_output(&mut self) -> Option<Write> {
        let (write, expect) = self.output.pop_front()?;
        self.phase_counter += 1;
        self.expected.extend(expect);
        if write.carries_final_dot
            && let Some(transaction) = &mut self.transaction
        {
            transaction.dot_handed_out = true;
        }
        Some(write)
    }

    /// Whether the message in flight may already have been accepted.
    pub fn dot_may_be_written(&self) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| transaction.dot_handed_out && !transaction.done)
    }

    /// The chunk with the final dot was taken and nothing of it was written: hands the message back and
    /// ends the session, since the server waits for content.
    pub fn refuse_final_dot(&mut self) {
        if self.dot_may_be_written() {
            let why = "the final dot was not written: the lease is over";
            self.finish(Verdict::without_reply(OutcomeKind::NotWritten, "lease", why));
            self.close("lease", why);
        }
    }

    /// Takes bytes that the server sent, in any pieces.
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.closed {
            return;
        }
        self.reader.push(bytes);
        while !self.closed {
            match self.reader.next_reply() {
                Ok(None) => return,
                Ok(Some(reply)) => self.reply(&reply),
                Err(error) => self.protocol_error(&error.to_string()),
            }
        }
    }

    /// The connection is gone, or is as good as gone.
    pub fn connection_lost(&mut self, lost: Lost) {
        if self.closed {
            return;
        }
        self.stale = self.messages > 0 && self.transaction.as_ref().is_none_or(|transaction| !transaction.replied);
        let unknown = self.dot_may_be_written() && lost != Lost::WriteCut && !planted(Fault::LostReplyIsDeferred);
        let kind = if unknown { OutcomeKind::Unknown } else { OutcomeKind::Deferred };
        self.abort(&Verdict::without_reply(kind, lost.code(), lost.detail()));
    }

    pub fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The connection was lost after it had carried messages and before any reply to the last one: it was
    /// probably closed while idle, so trying at once on a new connection is fair.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Messages that were given a verdict by this connection.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    pub fn phase(&self) -> Phase {
        let asked = self.expected.front();
        let next = self.output.front().map(|(write, expect)| (write.carries_final_dot, expect.first()));
        let expect = match (asked, next) {
            (None, Some((true, _))) if !self.closed => return Phase::Content,
            (None, Some((_, expect))) => expect,
            (asked, _) => asked,
        };
        match expect {
            _ if self.closed => Phase::Closed,
            None if self.is_securing => Phase::StartTls,
            None => Phase::Idle,
            Some(Expect::EmptyMessage) => Phase::Data,
            Some(Expect::Reply(command)) => match command {
                Command::Greeting => Phase::Greeting,
                Command::Ehlo | Command::Helo => Phase::Ehlo,
                Command::StartTls => Phase::StartTls,
                Command::Auth => Phase::Auth,
                Command::Mail => Phase::Mail,
                Command::Rcpt => Phase::Rcpt,
                Command::Data => Phase::Data,
                Command::FinalDot => Phase::FinalDot,
                Command::Rset => Phase::Rset,
                Command::Quit => Phase::Quit,
            },
        }
    }

    /// Grows with every reply and every chunk: a sign of life.
    pub fn phase_counter(&self) -> u64 {
        self.phase_counter
    }

    /// How long to wait for the next reply (RFC 5321 4.5.3.2). For one write, see `WRITE_TIMEOUT`.
    pub fn timeout(&self) -> Duration {
        match self.phase() {
            Phase::Greeting
            | Phase::Ehlo
            | Phase::StartTls
            | Phase::Auth
            | Phase::Idle
            | Phase::Mail
            | Phase::Rcpt
            | Phase::Rset => COMMAND_TIMEOUT,
            Phase::Data => DATA_TIMEOUT,
            Phase::Content => WRITE_TIMEOUT,
            Phase::FinalDot => FINAL_DOT_TIMEOUT,
            Phase::Quit | Phase::Closed => QUIT_TIMEOUT,
        }
    }

    fn command(&mut self, line: &str, expect: &[Command]) {
        self.write(line.into(), false, expect.iter().map(|command| Expect::Reply(*command)).collect());
    }

    fn write(&mut self, bytes: Vec<u8>, carries_final_dot: bool, expect: Vec<Expect>) {
        self.output.push_back((Write { bytes, carries_final_dot }, expect));
    }

    /// Nothing is asked, nothing waits to be written, no message is in flight.
    fn is_idle(&self) -> bool {
        self.greeted && self.transaction.is_none() && self.expected.is_empty() && self.output.is_empty()
    }

    fn reply(&mut self, reply: &Reply) {
        self.phase_counter += 1;
        let Some(expect) = self.expected.pop_front() else {
            return self.unasked(reply);
        };
        if let Some(transaction) = &mut self.transaction {
            transaction.replied = true;
        }
        match expect {
            Expect::Reply(Command::Quit) => self.close(&reply.code_text(), reply.first_line()),
            // 3.8: the server closes the channel after it, whatever it answers.
            Expect::Reply(command) if reply.code == 421 => self.abort(&classify(command, reply)),
            Expect::EmptyMessage if reply.code == 421 || reply.code / 100 == 3 => {
                self.close(&reply.code_text(), reply.first_line())
            }
            Expect::EmptyMessage => self.idle(),
            Expect::Reply(Command::Greeting) if reply.is_positive() => self.ehlo(),
            Expect::Reply(Command::Ehlo) if reply.code / 100 == 5 => {
                let line = format!("HELO {}\r\n", self.ehlo_name);
                self.command(&line, &[Command::Helo]);
            }
            Expect::Reply(command @ (Command::Ehlo | Command::Helo)) if reply.is_positive() => {
                self.extensions = Extensions::of(command, reply);
                self.secure_or_log_in();
            }
            Expect::Reply(Command::StartTls) if reply.code == 220 => {
                if !self.reader.is_empty() {
                    // What came in the clear must not be taken for what comes through TLS.
                    return self.protocol_error("the server said something between STARTTLS and TLS");
                }
                self.wants_tls = false;
                self.is_securing = true;
                self.events.push_back(Event::StartTls);
            }
            Expect::Reply(Command::Auth) if reply.code == 334 && !self.answers.is_empty() => {
                let line = self.answers.pop_front().unwrap_or_default();
                self.command(&format!("{line}\r\n"), &[Command::Auth]);
            }
            Expect::Reply(Command::Auth) if reply.code == 235 => self.greet(),
            Expect::Reply(Command::Rset) if reply.is_positive() => self.idle(),
            Expect::Reply(
                command @ (Command::Greeting
                | Command::Ehlo
                | Command::Helo
                | Command::StartTls
                | Command::Auth
                | Command::Rset),
            ) => self.abort(&classify(command, reply)),
            Expect::Reply(Command::Data) => self.data_reply(reply),
            Expect::Reply(command @ (Command::Mail | Command::Rcpt | Command::FinalDot)) if reply.code / 100 == 3 => {
                self.abort(&classify(command, reply));
            }
            Expect::Reply(Command::Mail) => self.mail_reply(reply),
            Expect::Reply(Command::Rcpt) => self.rcpt_reply(reply),
            Expect::Reply(Command::FinalDot) => {
                self.finish(classify(Command::FinalDot, reply));
                self.idle();
            }
        }
    }

    fn ehlo(&mut self) {
        let line = format!("EHLO {}\r\n", self.ehlo_name);
        self.command(&line, &[Command::Ehlo]);
    }

    /// What comes before messages: TLS, then the login.
    fn secure_or_log_in(&mut self) {
        let failed = |code: &str, why: &str| Verdict::without_reply(OutcomeKind::Deferred, code, why);
        if self.wants_tls {
            if !self.extensions.starttls {
                return self.abort(&failed(
                    "starttls",
                    "the server does not offer STARTTLS, and without TLS it is told nothing",
                ));
            }
            return self.command("STARTTLS\r\n", &[Command::StartTls]);
        }
        let Some(login) = &self.login else { return self.greet() };
        match login.lines(&self.extensions.auth) {
            None => {
                let why = format!(
                    "the server offers no login that can be used; it offers: {}",
                    self.extensions.auth.join(" ")
                );
                self.abort(&failed("auth", &why));
            }
            Some(mut lines) => {
                let first = lines.pop_front().unwrap_or_default();
                self.answers = lines;
                self.command(&format!("{first}\r\n"), &[Command::Auth]);
            }
        }
    }

    /// From here on messages may be sent.
    fn greet(&mut self) {
        self.greeted = true;
        self.login = None;
        self.answers.clear();
        self.idle();
    }

    fn mail_reply(&mut self, reply: &Reply) {
        let accepted = reply.is_positive();
        if !accepted {
            self.finish(classify(Command::Mail, reply));
        }
        let Some(transaction) = &mut self.transaction else { return };
        transaction.open = accepted;
        if self.expected.is_empty() {
            if accepted {
                let line = transaction.rcpt.clone();
                self.command(&line, &[Command::Rcpt]);
            } else {
                self.idle();
            }
        }
    }

    fn rcpt_reply(&mut self, reply: &Reply) {
        let accepted = reply.is_positive();
        if !accepted {
            self.finish(classify(Command::Rcpt, reply));
        }
        if self.expected.is_empty() {
            if accepted {
                self.command("DATA\r\n", &[Command::Data]);
            } else {
                self.tidy();
            }
        }
    }

    fn data_reply(&mut self, reply: &Reply) {
        match reply.code {
            354 => {
                let Some(transaction) = &mut self.transaction else { return };
                if transaction.done {
                    // Pipelined and refused, yet the server waits for content: there is none.
                    self.write(b".\r\n".to_vec(), false, vec![Expect::EmptyMessage]);
                } else {
                    let bytes = std::mem::take(&mut transaction.content);
                    self.write(bytes, true, vec![Expect::Reply(Command::FinalDot)]);
                }
            }
            400..=599 => {
                self.finish(classify(Command::Data, reply));
                self.tidy();
            }
            _ => self.abort(&classify(Command::Data, reply)),
        }
    }

    /// A reply that nothing was asked for: the server says goodbye, or is out of step.
    fn unasked(&mut self, reply: &Reply) {
        if reply.code == 421 {
            self.abort(&classify(Command::Mail, reply));
        } else {
            self.protocol_error("a reply came that answers nothing");
        }
    }

    fn protocol_error(&mut self, why: &str) {
        let unknown = self.dot_may_be_written();
        let kind = if unknown { OutcomeKind::Unknown } else { OutcomeKind::Deferred };
        self.abort(&Verdict::without_reply(kind, "protocol", why));
    }

    /// Ends the server's half-done transaction, if there is one.
    fn tidy(&mut self) {
        if self.transaction.as_ref().is_some_and(|transaction| transaction.open) {
            self.transaction = None;
            self.command("RSET\r\n", &[Command::Rset]);
        } else {
            self.idle();
        }
    }

    fn idle(&mut self) {
        self.transaction = None;
        if let Some(outgoing) = self.waiting.take() {
            self.begin(outgoing);
        } else if self.quitting {
            self.command("QUIT\r\n", &[Command::Quit]);
        } else {
            self.events.push_back(Event::Ready);
        }
    }

    fn begin(&mut self, outgoing: Outgoing) {
        let (mail, transaction) = match Transaction::begin(&self.extensions, &outgoing) {
            Ok(begun) => begun,
            Err(verdict) => {
                self.events.push_back(Event::Done(verdict));
                return self.idle();
            }
        };
        if self.extensions.pipelining {
            let lines = format!("{mail}{}DATA\r\n", transaction.rcpt);
            self.command(&lines, &[Command::Mail, Command::Rcpt, Command::Data]);
        } else {
            self.command(&mail, &[Command::Mail]);
        }
        self.transaction = Some(transaction);
    }

    /// Gives the verdict of the message in flight, once.
    fn finish(&mut self, verdict: Verdict) {
        if let Some(transaction) = &mut self.transaction
            && !transaction.done
        {
            transaction.done = true;
            self.messages += 1;
            self.events.push_back(Event::Done(verdict));
        }
    }

    /// Ends the session; `verdict` is that of the message in flight. One that still waited was not begun.
    fn abort(&mut self, verdict: &Verdict) {
        self.finish(verdict.clone());
        if self.waiting.take().is_some() {
            let kind = OutcomeKind::Deferred;
            self.events.push_back(Event::Done(Verdict { kind, ..verdict.clone() }));
        }
        self.close(&verdict.code, &verdict.detail);
    }

    fn close(&mut self, code: &str, detail: &str) {
        if !self.closed {
            self.closed = true;
            self.output.clear();
            self.expected.clear();
            if self.waiting.take().is_some() {
                self.events.push_back(Event::Done(Verdict::without_reply(OutcomeKind::Deferred, code, detail)));
            }
            self.events.push_back(Event::Closed { code: code.to_owned(), detail: detail.to_owned() });
        }
    }
}
