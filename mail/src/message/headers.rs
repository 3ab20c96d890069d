//! Header fields: which may be set, how a value is encoded and folded.
//!
//! A value with a control character (CR, LF and NUL among them) is refused, never repaired: somebody
//! tried to write a header, or a row is broken.

use lettre::message::Mailbox;

/// RFC 5322 2.1.1, without the CRLF.
const LINE_BYTES_MAX: usize = 998;
/// Where folding begins.
const LINE_BYTES_WANTED: usize = 76;
/// RFC 2047 2.
const ENCODED_WORD_BYTES_MAX: usize = 75;
const NAME_BYTES_MAX: usize = 76;
const WORD_START: &str = "=?utf-8?";

/// Why a value cannot be in a header field. Reads after the field's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderError(pub &'static str);

/// Fields that a definition may set beside `X-…` and `List-…`.
const ALLOWED: [&str; 13] = [
    "Archived-At",
    "Auto-Submitted",
    "Comments",
    "Feedback-ID",
    "Importance",
    "In-Reply-To",
    "Keywords",
    "Organization",
    "Precedence",
    "Priority",
    "References",
    "Require-Recipient-Valid-Since",
    "Sensitivity",
];
/// Fields whose values are free text, which alone may hold encoded words.
const FREE_TEXT: [&str; 4] = ["Comments", "Keywords", "Organization", "Subject"];

/// Whether a definition may set the field `name`.
pub fn check_name(name: &str) -> Result<(), String> {
    let token = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if !token || name.len() > NAME_BYTES_MAX {
        return Err(format!("a header name has 1 to {NAME_BYTES_MAX} of A-Z, a-z, 0-9, '-' and '_'"));
    }
    let lower = name.to_ascii_lowercase();
    if lower.starts_with("x-postrider-") || lower == "x-correlation-id" {
        return Err("it is set by Postrider; use tags or the correlation id".into());
    }
    if (lower.starts_with("x-") && lower.len() > 2) || (lower.starts_with("list-") && lower.len() > 5) {
        return Ok(());
    }
    if ALLOWED.iter().any(|allowed| allowed.eq_ignore_ascii_case(name)) {
        return Ok(());
    }
    Err(format!("it may not be set; allowed are X-…, List-…, {}", ALLOWED.join(", ")))
}

fn check_value(value: &str) -> Result<(), HeaderError> {
    if value.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        return Err(HeaderError("the value has a line break or a NUL character"));
    }
    // A tab is white space; every other one is a mistake.
    if value.chars().any(|c| c != '\t' && c.is_control()) {
        return Err(HeaderError("the value has a control character"));
    }
    Ok(())
}

/// A field that a definition set.
pub fn custom(output: &mut Vec<u8>, name: &str, value: &str) -> Result<(), HeaderError> {
    if check_name(name).is_err() {
        return Err(HeaderError("it is not on the list of headers that may be set"));
    }
    let free = FREE_TEXT.iter().any(|field| field.eq_ignore_ascii_case(name))
        || name.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("x-"));
    if free { text(output, name, value) } else { structured(output, name, value) }
}

/// A field of free text (RFC 5322 2.2.1): encoded words where it is not plain ASCII (RFC 2047 5).
pub fn text(output: &mut Vec<u8>, name: &str, value: &str) -> Result<(), HeaderError> {
    check_value(value)?;
    let value = value.trim();
    let longest = value.split([' ', '\t']).map(str::len).max().unwrap_or_default();
    // What looks like an encoded word is encoded, so that it arrives as the text that it is.
    if value.is_ascii() && !value.contains("=?") && longest + name.len() + 2 <= LINE_BYTES_MAX {
        folded(output, name, value);
        return Ok(());
    }
    start(output, name);
    encoded_words(output, name.len() + 2, value);
    output.extend_from_slice(b"\r\n");
    Ok(())
}

/// A field with a syntax of its own: ASCII, folded at white space, otherwise as it is.
pub fn structured(output: &mut Vec<u8>, name: &str, value: &str) -> Result<(), HeaderError> {
    check_value(value)?;
    if !value.is_ascii() {
        return Err(HeaderError("the value must be ASCII"));
    }
    let value = value.trim();
    if value.split([' ', '\t']).any(|word| word.len() + name.len() + 2 > LINE_BYTES_MAX) {
        return Err(HeaderError("the value has a word that is longer than a line may be"));
    }
    folded(output, name, value);
    Ok(())
}

/// An address as it is, UTF-8 included (RFC 6532); `Address` has no control characters.
pub fn address(output: &mut Vec<u8>, name: &str, address: &str) {
    start(output, name);
    output.extend_from_slice(address.as_bytes());
    output.extend_from_slice(b"\r\n");
}

/// One Message-ID in angle brackets (RFC 5322 3.6.4), UTF-8 in its domain included (RFC 6532).
pub fn message_id(output: &mut Vec<u8>, id: &str) -> Result<(), HeaderError> {
    let inner = id.strip_prefix('<').and_then(|id| id.strip_suffix('>')).unwrap_or_default();
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && !"<>".contains(c);
    if !inner.contains('@') || !inner.chars().all(plain) || id.len() > LINE_BYTES_MAX / 2 {
        return Err(HeaderError("the value is not one <id@domain>"));
    }
    address(output, "Message-ID", id);
    Ok(())
}

/// From or Reply-To. The display name is atoms, a quoted string or encoded words.
pub fn mailbox(output: &mut Vec<u8>, name: &str, mailbox: &Mailbox) {
    start(output, name);
    let mut column = name.len() + 2;
    let shown = mailbox.name.as_deref().map(str::trim).filter(|shown| !shown.is_empty());
    let Some(shown) = shown else {
        output.extend_from_slice(mailbox.email.to_string().as_bytes());
        output.extend_from_slice(b"\r\n");
        return;
    };
    let before = output.len();
    let atom = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~ ".contains(c);
    let printable = shown.chars().all(|c| c == ' ' || c.is_ascii_graphic());
    if !printable || shown.contains("=?") || shown.len() > 200 {
        encoded_words(output, column, shown);
    } else if shown.chars().all(atom) && !shown.contains("  ") {
        output.extend_from_slice(shown.as_bytes());
    } else {
        output.push(b'"');
        for byte in shown.bytes() {
            if matches!(byte, b'"' | b'\\') {
                output.push(b'\\');
            }
            output.push(byte);
        }
        output.push(b'"');
    }
    let line = output[before..].rsplit(|byte| *byte == b'\n').next().unwrap_or_default().len();
    column = if output[before..].contains(&b'\n') { line } else { column + line };
    let address = format!("<{}>", mailbox.email);
    let fits = column + 1 + address.len() <= LINE_BYTES_WANTED;
    output.extend_from_slice(if fits { b" " } else { b"\r\n " });
    output.extend_from_slice(address.as_bytes());
    output.extend_from_slice(b"\r\n");
}

fn start(output: &mut Vec<u8>, name: &str) {
    output.extend_from_slice(name.as_bytes());
    output.extend_from_slice(b": ");
}

/// Folds before white space that a word follows, so that no line is blank, and not before the first word.
fn folded(output: &mut Vec<u8>, name: &str, value: &str) {
    start(output, name);
    let mut column = name.len() + 2;
    let mut rest = value;
    let mut first = true;
    while !rest.is_empty() {
        let gap = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        let word = rest[gap..].find([' ', '\t']).map_or(rest.len(), |end| gap + end);
        if !first && gap > 0 && column + word > LINE_BYTES_WANTED {
            output.extend_from_slice(b"\r\n");
            column = 0;
        }
        output.extend_from_slice(&rest.as_bytes()[..word]);
        column += word;
        rest = &rest[word..];
        first = false;
    }
    output.extend_from_slice(b"\r\n");
}

/// Writes `text` as encoded words, each of whole characters, with folds between them. Q where most of it
/// is ASCII, B otherwise.
fn encoded_words(output: &mut Vec<u8>, column: usize, text: &str) {
    let plain = text.bytes().filter(|byte| q_plain(*byte)).count();
    let quoted = plain * 2 >= text.len();
    let overhead = WORD_START.len() + 4;
    let mut room = ENCODED_WORD_BYTES_MAX.min(LINE_BYTES_WANTED.saturating_sub(column)).saturating_sub(overhead);
    let mut rest = text;
    let mut first = true;
    loop {
        let take = fitting(rest, quoted, if first { room.max(12) } else { room });
        let (word, tail) = rest.split_at(take);
        if !first {
            output.extend_from_slice(b"\r\n ");
        }
        output.extend_from_slice(WORD_START.as_bytes());
        if quoted {
            output.extend_from_slice(b"Q?");
            word.bytes().for_each(|byte| push_q(output, byte));
        } else {
            output.extend_from_slice(b"B?");
            push_base64(output, word.as_bytes());
        }
        output.extend_from_slice(b"?=");
        if tail.is_empty() {
            return;
        }
        (rest, first) = (tail, false);
        room = ENCODED_WORD_BYTES_MAX - overhead;
    }
}

/// Bytes of whole characters of `text` whose encoding is at most `room` long; at least one character.
fn fitting(text: &str, quoted: bool, room: usize) -> usize {
    let mut used = 0;
    for (index, character) in text.char_indices() {
        let end = index + character.len_utf8();
        used = if quoted {
            used + text.as_bytes()[index..end].iter().map(|byte| if q_plain(*byte) { 1 } else { 3 }).sum::<usize>()
        } else {
            end.div_ceil(3) * 4
        };
        if used > room && index > 0 {
            return index;
        }
    }
    text.len()
}

/// What may stand for itself in Q, also inside a display name (RFC 2047 5 (3)); a space becomes `_`.
fn q_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!*+-/ ".contains(&byte)
}

fn push_q(output: &mut Vec<u8>, byte: u8) {
    match byte {
        b' ' => output.push(b'_'),
        byte if q_plain(byte) => output.push(byte),
        byte => {
            let hex = b"0123456789ABCDEF";
            output.extend_from_slice(&[b'=', hex[usize::from(byte >> 4)], hex[usize::from(byte & 15)]]);
        }
    }
}

fn push_base64(output: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit) & 63) as usize;
            output.push(if digit <= group.len() { DIGITS[index] } else { b'=' });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut output = Vec::new();
        write(&mut output);
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn only_listed_headers_may_be_set() {
        for name in ["X-Foo", "x-foo", "List-Unsubscribe", "list-help", "Precedence", "feedback-id", "Auto-Submitted"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in [
            "From",
            "to",
            "Bcc",
            "Subject",
            "Date",
            "Message-ID",
            "Content-Type",
            "MIME-Version",
            "Received",
            "Return-Path",
            "DKIM-Signature",
            "Sender",
            "X-",
            "List-",
            "",
            "X-A: b",
            "X-A\r\nBcc",
            "X-Ä",
            "X-Postrider-Ref",
        ] {
            assert!(check_name(name).is_err(), "{name}");
            assert!(custom(&mut Vec::new(), name, "x").is_err(), "{name}");
        }
    }

    #[test]
    fn values_are_encoded_when_they_must() {
        let rows = [
            ("plain  text ", "Subject: plain  text\r\n"),
            ("", "Subject: \r\n"),
            ("Grüße an alle", "Subject: =?utf-8?Q?Gr=C3=BC=C3=9Fe_an_alle?=\r\n"),
            ("日本", "Subject: =?utf-8?B?5pel5pys?=\r\n"),
            ("=?utf-8?Q?x?=", "Subject: =?utf-8?Q?=3D=3Futf-8=3FQ=3Fx=3F=3D?=\r\n"),
        ];
        for (value, expected) in rows {
            assert_eq!(encode(|o| text(o, "Subject", value).unwrap()), expected);
        }
        for bad in ["a\r\nBcc: x", "a\n", "\r", "a\0b", "\u{7f}", "\u{1b}[31m", "\u{85}"] {
            assert!(text(&mut Vec::new(), "Subject", bad).is_err(), "{bad:?}");
            assert!(structured(&mut Vec::new(), "List-Id", bad).is_err(), "{bad:?}");
        }
        assert!(structured(&mut Vec::new(), "List-Unsubscribe", "<https://ä.example>").is_err());
        assert!(structured(&mut Vec::new(), "List-Unsubscribe", &"x".repeat(1000)).is_err());
    }

    #[test]
    fn mailboxes_are_quoted_or_encoded() {
        let rows = [
            ("digest@acme.example", "From: digest@acme.example\r\n"),
            ("Acme Digest <digest@acme.example>", "From: Acme Digest <digest@acme.example>\r\n"),
            ("\"Acme, Inc.\" <a@acme.example>", "From: \"Acme, Inc.\" <a@acme.example>\r\n"),
            ("Zoë <a@acme.example>", "From: =?utf-8?Q?Zo=C3=AB?= <a@acme.example>\r\n"),
        ];
        for (mailbox, expected) in rows {
            let parsed: Mailbox = mailbox.parse().unwrap();
            assert_eq!(encode(|o| super::mailbox(o, "From", &parsed)), expected);
        }
    }
}
