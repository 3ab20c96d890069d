//! One MAIL, RCPT, DATA: what the server offers, and whether it can be given a message.

use super::Outgoing;
use crate::smtp::classify::{Command, Verdict};
use crate::smtp::dots;
use crate::smtp::reply::Reply;
use postrider_common::OutcomeKind;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extensions {
    pub pipelining: bool,
    pub eight_bit: bool,
    pub smtp_utf8: bool,
    pub starttls: bool,
    /// Methods of AUTH, in capitals.
    pub auth: Vec<String>,
    pub size: bool,
    /// 0: no limit named.
    pub size_max: u64,
}

#[derive(Debug)]
pub struct Transaction {
    pub rcpt: String,
    /// Content with the final dot, until it is handed out.
    pub content: Vec<u8>,
    /// The verdict was given; what is left is tidying up.
    pub done: bool,
    /// MAIL was accepted, so the server holds a transaction that RSET or a dot must end.
    pub open: bool,
    pub dot_handed_out: bool,
    pub replied: bool,
}

impl Extensions {
    /// What the answer to EHLO offers; nothing after HELO.
    pub fn of(command: Command, reply: &Reply) -> Self {
        let mut extensions = Self::default();
        if command != Command::Ehlo {
            return extensions;
        }
        for line in reply.lines.iter().skip(1) {
            let mut words = line.split_ascii_whitespace();
            match words.next().unwrap_or_default().to_ascii_uppercase().as_str() {
                "PIPELINING" => extensions.pipelining = true,
                "STARTTLS" => extensions.starttls = true,
                "AUTH" => extensions.auth.extend(words.map(str::to_ascii_uppercase)),
                "8BITMIME" => extensions.eight_bit = true,
                "SMTPUTF8" => extensions.smtp_utf8 = true,
                "SIZE" => {
                    extensions.size = true;
                    extensions.size_max = words.next().and_then(|size| size.parse().ok()).unwrap_or_default();
                }
                _ => {}
            }
        }
        extensions
    }
}

impl Transaction {
    /// The MAIL line and the rest of the transaction, or why this server cannot be given the message.
    pub fn begin(extensions: &Extensions, outgoing: &Outgoing) -> Result<(String, Self), Verdict> {
        let refused = |code: &str, why: &str| Verdict::without_reply(OutcomeKind::Rejected, code, why);
        let Outgoing { mail_from, rcpt_to, message } = outgoing;
        let line_safe = |address: &String| !address.chars().any(|c| c.is_control() || c == '<' || c == '>');
        if !line_safe(mail_from) || !line_safe(rcpt_to) || rcpt_to.is_empty() {
            return Err(refused("message", "an envelope address is empty or has a character that no address may have"));
        }
        let content = dots::stuffed(message)
            .map_err(|dots::BareNewline| refused("message", "a line of the message does not end in CRLF"))?;
        let mut mail = format!("MAIL FROM:<{mail_from}>");
        if extensions.size {
            if extensions.size_max > 0 && message.len() as u64 > extensions.size_max {
                let why = format!("the message has {} bytes, the server takes {}", message.len(), extensions.size_max);
                return Err(refused("size", &why));
            }
            mail.push_str(&format!(" SIZE={}", message.len()));
        }
        if !message.is_ascii() {
            if !extensions.eight_bit {
                return Err(refused(
                    "8bitmime",
                    "the message has 8-bit content and the server does not offer 8BITMIME",
                ));
            }
            mail.push_str(" BODY=8BITMIME");
        }
        let header_end = message.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(message.len());
        if !mail_from.is_ascii() || !rcpt_to.is_ascii() || !message[..header_end].is_ascii() {
            if !extensions.smtp_utf8 {
                return Err(refused("smtputf8", "an address is not ASCII and the server does not offer SMTPUTF8"));
            }
            mail.push_str(" SMTPUTF8");
        }
        mail.push_str("\r\n");
        let rcpt = format!("RCPT TO:<{rcpt_to}>\r\n");
        let (done, open, dot_handed_out, replied) = (false, false, false, false);
        Ok((mail, Self { rcpt, content, done, open, dot_handed_out, replied }))
    }
}
