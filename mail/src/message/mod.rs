//! Builds the bytes of one message: RFC 5322 header, RFC 2045 body.
//!
//! Same inputs, same bytes: boundary and Message-ID are hashes, the date is given. Every line ends in
//! CRLF; bodies are quoted-printable with lines of at most 76 characters; no value can end its header
//! field, since one that holds a control character is refused.

pub mod headers;
pub mod html_text;
pub mod quoted_printable;

use crate::template::Rendered;
use chrono::{DateTime, Datelike, Timelike, Utc};
use headers::HeaderError;
use lettre::message::Mailbox;
use postrider_common::ids::to_hex;
use postrider_common::{Address, MessageSpec, Recipient, RunId};
use sha2::{Digest, Sha256};

/// Why a message cannot be built. Its outcome is rejected with the code `message`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A field of the definition, such as `from` or `tags`.
    #[error("{name}: {why}")]
    Field { name: &'static str, why: String },
    /// A header field, by its name; `Subject` is one.
    #[error("header {name}: {why}")]
    Header { name: String, why: String },
    /// `template.html` or `template.text`.
    #[error("{part}: {why}")]
    Body { part: &'static str, why: String },
}

impl BuildError {
    /// The word in the place of a reply code.
    pub const CODE: &'static str = "message";
}

/// What is the same in every message of a definition, checked and encoded once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// The encoded fields From, Reply-To, List-Id, X-Postrider-Tags and X-Correlation-Id.
    fields: Vec<u8>,
    mail_from: String,
    domain: String,
    list_id: Vec<u8>,
}

impl Sender {
    /// `bulk`: the message belongs to a list (RFC 2919), so it gets a List-Id.
    pub fn new(spec: &MessageSpec, bulk: bool) -> Result<Self, BuildError> {
        let from = mailbox("from", &spec.from)?;
        let domain = from.email.domain().to_lowercase();
        let mut fields = Vec::new();
        headers::mailbox(&mut fields, "From", &from);
        if !spec.reply_to.is_empty() {
            headers::mailbox(&mut fields, "Reply-To", &mailbox("reply_to", &spec.reply_to)?);
        }
        if !spec.correlation_id.is_empty() {
            headers::text(&mut fields, "X-Correlation-Id", &spec.correlation_id)
                .map_err(|HeaderError(why)| BuildError::Field { name: "correlation_id", why: why.into() })?;
        }
        if !spec.tags.is_empty() {
            headers::text(&mut fields, "X-Postrider-Tags", &spec.tags.join(", "))
                .map_err(|HeaderError(why)| BuildError::Field { name: "tags", why: why.into() })?;
        }
        let mut list_id = Vec::new();
        if bulk && !spec.campaign.is_empty() {
            headers::structured(&mut list_id, "List-Id", &format!("<{}.{domain}>", spec.campaign))
                .map_err(|HeaderError(why)| BuildError::Field { name: "campaign", why: why.into() })?;
        }
        let mail_from = match spec.return_path.trim() {
            "" => from.email.to_string(),
            "<>" => String::new(),
            address => address
                .parse::<Address>()
                .map_err(|error| BuildError::Field { name: "return_path", why: error.to_string() })?
                .to_string(),
        };
        Ok(Self { fields, mail_from, domain, list_id })
    }

    /// The domain that message ids are made at.
    pub fn domain(&self) -> &str {
        &self.domain
    }
}

fn mailbox(name: &'static str, text: &str) -> Result<Mailbox, BuildError> {
    let wrong = |why: &str| BuildError::Field { name, why: format!("'{}' {why}", text.escape_debug()) };
    if text.chars().any(char::is_control) {
        return Err(wrong("has a control character"));
    }
    // The parser stops after the first mailbox and would ignore a second one.
    let one = match text.trim().strip_suffix('>') {
        Some(rest) => !rest.contains('>'),
        None => !text.contains(['<', '>', ',', ';']),
    };
    match text.trim().parse::<Mailbox>() {
        Ok(mailbox) if one && mailbox.email.to_string().parse::<Address>().is_ok() => Ok(mailbox),
        Ok(_) | Err(_) => Err(wrong(
            "is not one mailbox: write Acme Digest <digest@acme.example>, a name with punctuation in double quotes",
        )),
    }
}

/// What belongs to one recipient of one run.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    pub sender: &'a Sender,
    pub run: &'a RunId,
    pub recipient: &'a Recipient,
    /// With its angle brackets, see `postrider_common::message::message_id`.
    pub message_id: &'a str,
    /// The Date field, in milliseconds since 1970. The same at every attempt.
    pub date_ms: i64,
}

/// A message ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// Not dot-stuffed; ends with CRLF and holds neither a bare CR nor a bare LF.
    pub bytes: Vec<u8>,
    /// Empty: the null reverse-path.
    pub mail_from: String,
    pub rcpt_to: String,
}

/// `<run>.<hash>`: finds run and recipient again, without the address in it.
pub fn reference(run: &RunId, key: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(b"reference\0");
    hash.update(run.as_str());
    hash.update([0]);
    hash.update(key);
    format!("{run}.{}", &to_hex(&hash.finalize())[..16])
}

/// Builds the message of one recipient.
pub fn build(rendered: &Rendered, envelope: &Envelope<'_>) -> Result<Built, BuildError> {
    let made;
    let text = if rendered.text.is_empty() {
        made = html_text::from_html(&rendered.html);
        &made
    } else {
        &rendered.text
    };
    let mut bytes = Vec::with_capacity(1024 + (rendered.html.len() + text.len()) * 5 / 4);
    header(&mut bytes, rendered, envelope)?;
    if rendered.html.is_empty() {
        part(&mut bytes, "text/plain", "template.text", text)?;
    } else {
        let boundary = boundary(envelope.message_id);
        bytes.extend_from_slice(b"Content-Type: multipart/alternative;\r\n boundary=\"");
        bytes.extend_from_slice(boundary.as_bytes());
        bytes.extend_from_slice(b"\"\r\n\r\n");
        for (kind, name, body) in
            [("text/plain", "template.text", text), ("text/html", "template.html", &rendered.html)]
        {
            delimiter(&mut bytes, &boundary, "\r\n");
            part(&mut bytes, kind, name, body)?;
        }
        delimiter(&mut bytes, &boundary, "--\r\n");
    }
    Ok(Built { bytes, mail_from: envelope.sender.mail_from.clone(), rcpt_to: envelope.recipient.address.to_string() })
}

fn header(bytes: &mut Vec<u8>, rendered: &Rendered, envelope: &Envelope<'_>) -> Result<(), BuildError> {
    let failed = |name: &str| {
        let name = name.to_owned();
        move |HeaderError(why): HeaderError| BuildError::Header { name, why: why.into() }
    };
    headers::structured(bytes, "Date", &date(envelope.date_ms)?).map_err(failed("Date"))?;
    bytes.extend_from_slice(&envelope.sender.fields);
    headers::address(bytes, "To", envelope.recipient.address.as_str());
    headers::text(bytes, "Subject", &rendered.subject).map_err(failed("Subject"))?;
    headers::message_id(bytes, envelope.message_id).map_err(failed("Message-ID"))?;
    let reference = reference(envelope.run, &envelope.recipient.key);
    headers::structured(bytes, "X-Postrider-Ref", &reference).map_err(failed("X-Postrider-Ref"))?;
    if !rendered.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("List-Id")) {
        bytes.extend_from_slice(&envelope.sender.list_id);
    }
    for (name, value) in &rendered.headers {
        headers::custom(bytes, name, value).map_err(failed(name))?;
    }
    bytes.extend_from_slice(b"MIME-Version: 1.0\r\n");
    Ok(())
}

fn part(bytes: &mut Vec<u8>, kind: &str, name: &'static str, body: &str) -> Result<(), BuildError> {
    bytes.extend_from_slice(b"Content-Type: ");
    bytes.extend_from_slice(kind.as_bytes());
    bytes.extend_from_slice(b"; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n");
    if body.contains('\0') {
        return Err(BuildError::Body { part: name, why: "it has a NUL character, which no mail may have".into() });
    }
    let start = bytes.len();
    quoted_printable::encode(bytes, body.as_bytes());
    // The line end before a delimiter belongs to the delimiter (RFC 2046 5.1.1): without one of its own
    // an empty body would take the blank line that ends the part's header.
    if !bytes[start..].ends_with(b"\r\n") {
        bytes.extend_from_slice(b"\r\n");
    }
    Ok(())
}

fn delimiter(bytes: &mut Vec<u8>, boundary: &str, end: &str) {
    bytes.extend_from_slice(b"--");
    bytes.extend_from_slice(boundary.as_bytes());
    bytes.extend_from_slice(end.as_bytes());
}

/// `=_` cannot occur in quoted-printable text, so no body can contain the boundary.
fn boundary(message_id: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(b"boundary\0");
    hash.update(message_id);
    format!("=_{}", &to_hex(&hash.finalize())[..32])
}

/// RFC 5322 3.3, in UTC.
fn date(date_ms: i64) -> Result<String, BuildError> {
    let wrong =
        || BuildError::Header { name: "Date".into(), why: "the instant is not in the years 1900 to 9999".into() };
    let at: DateTime<Utc> = DateTime::from_timestamp_millis(date_ms).ok_or_else(wrong)?;
    if !(1900..=9999).contains(&at.year()) {
        return Err(wrong());
    }
    let month = at.month0() as usize;
    let month = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"][month];
    let (year, day, weekday) = (at.year(), at.day(), at.weekday());
    let (hour, minute, second) = (at.hour(), at.minute(), at.second());
    Ok(format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} +0000"))
}
