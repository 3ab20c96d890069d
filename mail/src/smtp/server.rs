//! One SMTP connection as a server: for the sink, which takes mail for tests.
//!
//! Commands are answered here; whether a recipient and a message are taken is the caller's decision.
//! `next` stops at each such question until `answer`, so that the caller can record what it decided before
//! the client can see it.

use super::dots::{Content, Unstuffer};

/// RFC 5321 4.5.3.1.4 says 512 bytes; extensions add to it (SMTPUTF8, SIZE).
const COMMAND_BYTES_MAX: usize = 2048;
/// RFC 5321 4.5.3.1.6, with the CRLF.
const TEXT_LINE_BYTES_MAX: usize = 1000;
/// RFC 5321 4.5.3.1.8.
const RECIPIENTS_MAX: usize = 100;
/// Wrong commands after which the connection is closed.
const ERRORS_MAX: u32 = 20;

/// What the caller does next, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send these bytes; they may be gathered until `next` gives `None`.
    Write(Vec<u8>),
    /// Is mail for this address taken? Go on with `answer`.
    Recipient { mail_from: String, rcpt_to: String },
    /// The final dot came. Go on with `answer`.
    Message(Received),
    /// Close the connection after what was written.
    Close,
}

/// A message whose final dot came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received {
    pub mail_from: String,
    /// At least one.
    pub rcpt_to: Vec<String>,
    pub content: Vec<u8>,
    pub size: usize,
}

impl Received {
    /// The unfolded, not decoded value of the first header field `name`; empty when there is none.
    pub fn header(&self, name: &str) -> String {
        let end = self.content.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(self.content.len());
        let text = String::from_utf8_lossy(&self.content[..end]);
        let mut value: Option<String> = None;
        for line in text.split("\r\n").take_while(|line| !line.is_empty()) {
            match &mut value {
                Some(value) if line.starts_with([' ', '\t']) => value.push_str(line),
                Some(_) => break,
                None => {
                    let field = line.split_once(':').filter(|(found, _)| found.eq_ignore_ascii_case(name));
                    value = field.map(|(_, rest)| rest.to_owned());
                }
            }
        }
        value.unwrap_or_default().trim().to_owned()
    }
}

/// What the caller decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Accept,
    /// A whole reply line without CRLF; one that begins with 421 also closes.
    Refuse(String),
    /// Close without a reply.
    Hang,
}

#[derive(Debug, PartialEq, Eq)]
enum Mode {
    Commands,
    Content,
    /// Asked and not answered.
    AskedRecipient(String),
    AskedMessage,
    Closed,
}

/// See the module.
#[derive(Debug)]
pub struct ServerSession {
    host: String,
    size_max: usize,
    mode: Mode,
    buffer: Vec<u8>,
    start: usize,
    greeted: bool,
    mail_from: Option<String>,
    rcpt_to: Vec<String>,
    unstuffer: Unstuffer,
    errors: u32,
}

impl ServerSession {
    /// `size_max`: bytes of the largest message taken.
    pub fn new(host: &str, size_max: usize) -> Self {
        Self {
            host: host.to_owned(),
            size_max,
            mode: Mode::Commands,
            buffer: Vec::new(),
            start: 0,
            greeted: false,
            mail_from: None,
            rcpt_to: Vec::new(),
            unstuffer: Unstuffer::new(size_max),
            errors: 0,
        }
    }

    /// What to send before anything is received.
    pub fn greeting(&self) -> Action {
        reply(&format!("220 {} ESMTP", self.host))
    }

    /// What to send when the server stops; nothing follows it.
    pub fn shut_down(&mut self) -> Action {
        self.mode = Mode::Closed;
        reply("421 4.3.2 shutting down")
    }

    /// Takes bytes that the client sent, in any pieces.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next thing to do; `None`: receive more, or answer first.
    pub fn next_action(&mut self) -> Option<Action> {
        match self.mode {
            Mode::AskedRecipient(_) | Mode::AskedMessage | Mode::Closed => None,
            Mode::Content => self.content(),
            Mode::Commands => self.line(),
        }
    }

    /// Answers `Action::Recipient` or `Action::Message`.
    pub fn answer(&mut self, answer: Answer) -> Action {
        let mode = std::mem::replace(&mut self.mode, Mode::Commands);
        let accepted = match mode {
            Mode::AskedRecipient(address) => {
                if answer == Answer::Accept {
                    self.rcpt_to.push(address);
                }
                "250 2.1.5 recipient ok"
            }
            Mode::AskedMessage => "250 2.0.0 accepted",
            Mode::Commands | Mode::Content | Mode::Closed => {
                self.mode = mode;
                return Action::Write(Vec::new());
            }
        };
        match answer {
            Answer::Accept => reply(accepted),
            Answer::Refuse(line) => {
                if line.starts_with("421") {
                    self.mode = Mode::Closed;
                }
                reply(&line)
            }
            Answer::Hang => {
                self.mode = Mode::Closed;
                Action::Close
            }
        }
    }

    /// No reply follows: the connection is to be closed after what was written.
    pub fn is_closed(&self) -> bool {
        self.mode == Mode::Closed
    }

    fn content(&mut self) -> Option<Action> {
        let (taken, content) = self.unstuffer.take(&self.buffer[self.start..]);
        self.start += taken;
        let Content { bytes, size, line_bytes } = content?;
        self.mode = Mode::Commands;
        let mail_from = self.mail_from.take().unwrap_or_default();
        let rcpt_to = std::mem::take(&mut self.rcpt_to);
        if size > self.size_max {
            return Some(reply("552 5.3.4 message too big"));
        }
        if line_bytes > TEXT_LINE_BYTES_MAX {
            return Some(reply("554 5.6.0 a line is longer than 1000 bytes"));
        }
        self.mode = Mode::AskedMessage;
        Some(Action::Message(Received { mail_from, rcpt_to, content: bytes, size }))
    }

    fn line(&mut self) -> Option<Action> {
        let rest = &self.buffer[self.start..];
        let Some(end) = rest.iter().take(COMMAND_BYTES_MAX).position(|byte| *byte == b'\n') else {
            if rest.len() >= COMMAND_BYTES_MAX {
                self.mode = Mode::Closed;
                return Some(reply("500 5.5.2 line too long"));
            }
            return None;
        };
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        self.start += end + 1;
        let Some(line) = line.strip_suffix('\r') else {
            return Some(self.wrong("500 5.5.2 a line ends in CRLF"));
        };
        Some(self.perform(line))
    }

    fn perform(&mut self, line: &str) -> Action {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" => {
                self.reset();
                self.greeted = true;
                let Self { host, size_max, .. } = self;
                reply(&format!(
                    "250-{host}\r\n250-PIPELINING\r\n250-SIZE {size_max}\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES"
                ))
            }
            "HELO" => {
                self.reset();
                self.greeted = true;
                reply(&format!("250 {}", self.host))
            }
            "MAIL" => self.mail(rest),
            "RCPT" => self.rcpt(rest),
            "DATA" => self.data(rest),
            "RSET" => {
                self.reset();
                reply("250 2.0.0 ok")
            }
            "NOOP" => reply("250 2.0.0 ok"),
            "VRFY" => reply("252 2.1.5 try RCPT"),
            "QUIT" => {
                self.mode = Mode::Closed;
                reply("221 2.0.0 bye")
            }
            _ => self.wrong("500 5.5.2 unknown command"),
        }
    }

    fn reset(&mut self) {
        self.mail_from = None;
        self.rcpt_to.clear();
    }

    fn wrong(&mut self, line: &str) -> Action {
        self.errors += 1;
        if self.errors >= ERRORS_MAX {
            self.mode = Mode::Closed;
            return reply("421 4.7.0 too many errors");
        }
        reply(line)
    }

    fn mail(&mut self, rest: &str) -> Action {
        if !self.greeted || self.mail_from.is_some() {
            return self.wrong("503 5.5.1 bad sequence of commands");
        }
        let Some((address, parameters)) = path(rest, "FROM:") else {
            return self.wrong("501 5.5.4 write MAIL FROM:<address>");
        };
        for parameter in parameters.split_ascii_whitespace() {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match name.to_ascii_uppercase().as_str() {
                "SIZE" => match value.parse::<usize>() {
                    Ok(size) if size > self.size_max => return reply("552 5.3.4 message too big"),
                    Ok(_) => {}
                    Err(_) => return self.wrong("501 5.5.4 SIZE takes a number"),
                },
                "BODY" if ["7BIT", "8BITMIME"].iter().any(|known| known.eq_ignore_ascii_case(value)) => {}
                "SMTPUTF8" if value.is_empty() => {}
                _ => return self.wrong("555 5.5.4 unknown parameter"),
            }
        }
        self.mail_from = Some(address.to_owned());
        reply("250 2.1.0 sender ok")
    }

    fn rcpt(&mut self, rest: &str) -> Action {
        let Some(mail_from) = self.mail_from.clone() else {
            return self.wrong("503 5.5.1 MAIL first");
        };
        match path(rest, "TO:") {
            Some((address, "")) if !address.is_empty() => {
                if self.rcpt_to.len() >= RECIPIENTS_MAX {
                    return reply("452 4.5.3 too many recipients");
                }
                self.mode = Mode::AskedRecipient(address.to_owned());
                Action::Recipient { mail_from, rcpt_to: address.to_owned() }
            }
            Some((address, _)) if !address.is_empty() => self.wrong("555 5.5.4 unknown parameter"),
            Some(_) | None => self.wrong("501 5.5.4 write RCPT TO:<address>"),
        }
    }

    fn data(&mut self, rest: &str) -> Action {
        if self.mail_from.is_none() {
            return self.wrong("503 5.5.1 MAIL first");
        }
        if self.rcpt_to.is_empty() {
            return self.wrong("554 5.5.1 no valid recipients");
        }
        if !rest.is_empty() {
            return self.wrong("501 5.5.4 DATA takes no parameter");
        }
        self.mode = Mode::Content;
        reply("354 end with a dot on a line of its own")
    }
}

fn reply(line: &str) -> Action {
    Action::Write(format!("{line}\r\n").into_bytes())
}

/// `FROM:<address> parameters`.
fn path<'a>(text: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let start = text.get(..keyword.len()).filter(|start| start.eq_ignore_ascii_case(keyword))?;
    let rest = text[start.len()..].trim_start().strip_prefix('<')?;
    let (address, parameters) = rest.split_once('>')?;
    let plain = !address.contains(|c: char| c.is_control() || c == '<');
    plain.then(|| (address, parameters.trim()))
}
