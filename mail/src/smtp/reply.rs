//! Replies (RFC 5321 4.2): out of bytes that come in any pieces.

/// RFC 5321 4.5.3.1.5 says 512 bytes; servers with long explanations exist.
const LINE_BYTES_MAX: usize = 4096;
/// The longest EHLO answers have some twenty lines.
const LINES_MAX: usize = 100;

/// One whole reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// 200 to 599.
    pub code: u16,
    /// RFC 3463, such as `5.1.1`; empty: none.
    pub enhanced: String,
    /// Without codes; printable ASCII. At least one, which may be empty.
    pub lines: Vec<String>,
}

impl Reply {
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// `550 5.1.1`, or `550`.
    pub fn code_text(&self) -> String {
        if self.enhanced.is_empty() { self.code.to_string() } else { format!("{} {}", self.code, self.enhanced) }
    }

    pub fn first_line(&self) -> &str {
        self.lines.first().map_or("", String::as_str)
    }
}

/// What came is no SMTP. The connection cannot be used any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReply {
    #[error("a reply line does not begin with a code")]
    Code,
    #[error("the lines of one reply have different codes")]
    Mixed,
    #[error("a reply line is longer than {LINE_BYTES_MAX} bytes")]
    LineTooLong,
    #[error("a reply has more than {LINES_MAX} lines")]
    TooManyLines,
}

/// Collects bytes until a reply is whole. After an error it is of no more use.
#[derive(Debug, Default)]
pub struct ReplyReader {
    buffer: Vec<u8>,
    start: usize,
    partial: Option<Reply>,
}

impl ReplyReader {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// All that came was taken.
    pub fn is_empty(&self) -> bool {
        self.start == self.buffer.len() && self.partial.is_none()
    }

    /// The next whole reply, if it is there.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, InvalidReply> {
        loop {
            let rest = &self.buffer[self.start..];
            let Some(end) = rest.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') else {
                return if rest.len() >= LINE_BYTES_MAX { Err(InvalidReply::LineTooLong) } else { Ok(None) };
            };
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            let (code, last, text) = parse_line(line)?;
            self.start += end + 1;
            match &mut self.partial {
                None => {
                    let enhanced = enhanced_code(code, &text).unwrap_or_default().to_owned();
                    self.partial = Some(Reply { code, enhanced, lines: Vec::new() });
                }
                Some(partial) if partial.code != code => return Err(InvalidReply::Mixed),
                Some(partial) if partial.lines.len() >= LINES_MAX => return Err(InvalidReply::TooManyLines),
                Some(_) => {}
            }
            if let Some(partial) = &mut self.partial {
                let text = enhanced_code(code, &text).map_or(text.as_str(), |found| text[found.len()..].trim_start());
                partial.lines.push(text.to_owned());
            }
            if last {
                return Ok(self.partial.take());
            }
        }
    }
}

fn parse_line(line: &[u8]) -> Result<(u16, bool, String), InvalidReply> {
    let [a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] = line else {
        return Err(InvalidReply::Code);
    };
    let digit = |byte: &u8| u16::from(byte - b'0');
    let code = digit(a) * 100 + digit(b) * 10 + digit(c);
    let (last, text) = match rest {
        [] => (true, rest),
        [b' ' | b'\t', text @ ..] => (true, text),
        [b'-', text @ ..] => (false, text),
        _ => return Err(InvalidReply::Code),
    };
    let text: String = text.iter().map(|byte| printable(*byte)).collect();
    Ok((code, last, text.trim().to_owned()))
}

fn printable(byte: u8) -> char {
    match byte {
        b' '..=b'~' => char::from(byte),
        b'\t' => ' ',
        _ => '?',
    }
}

/// `5.1.1` at the start of `text`, when its class is the code's (RFC 2034 4).
fn enhanced_code(code: u16, text: &str) -> Option<&str> {
    let word = text.split([' ', ':', ';']).next()?;
    let mut parts = word.split('.');
    let class: u16 = parts.next()?.parse().ok()?;
    let number = |part: Option<&str>| {
        part.is_some_and(|part| (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let shaped = number(parts.next()) && number(parts.next()) && parts.next().is_none();
    (shaped && class == code / 100).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(wire: &[u8], step: usize) -> Result<Vec<Reply>, InvalidReply> {
        let mut reader = ReplyReader::default();
        let mut replies = Vec::new();
        for chunk in wire.chunks(step) {
            reader.push(chunk);
            while let Some(reply) = reader.next_reply()? {
                replies.push(reply);
            }
        }
        Ok(replies)
    }

    #[test]
    fn replies_come_in_any_pieces() {
        let wire = b"250-mx\r\n250-SIZE 10\r\n250 OK\r\n550 5.1.1 no such user\r\n354\n451 4.x.1 h\xc3\xa9\r\n";
        let expected = read(wire, wire.len()).unwrap();
        let shown: Vec<_> = expected.iter().map(|reply| (reply.code_text(), reply.lines.join("|"))).collect();
        let rows = [("250", "mx|SIZE 10|OK"), ("550 5.1.1", "no such user"), ("354", ""), ("451", "4.x.1 h??")];
        assert_eq!(shown, rows.map(|(code, lines)| (code.to_owned(), lines.to_owned())));
        for step in 1..wire.len() {
            assert_eq!(read(wire, step).as_ref(), Ok(&expected), "{step}");
        }
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        let long = [b"250 ".to_vec(), vec![b'x'; 5000], b"\r\n".to_vec()].concat();
        let flood = b"250-x\r\n".repeat(1000);
        let rows: [(&[u8], InvalidReply); 9] = [
            (b"\r\n", InvalidReply::Code),
            (b"HTTP/1.1 200 OK\r\n", InvalidReply::Code),
            (b"25 ok\r\n", InvalidReply::Code),
            (b"150 ok\r\n", InvalidReply::Code),
            (b"600 ok\r\n", InvalidReply::Code),
            (b"2500 ok\r\n", InvalidReply::Code),
            (b"250-a\r\n550 b\r\n", InvalidReply::Mixed),
            (&long, InvalidReply::LineTooLong),
            (&flood, InvalidReply::TooManyLines),
        ];
        for (wire, error) in rows {
            assert_eq!(read(wire, 64), Err(error));
        }
    }

    #[test]
    fn an_enhanced_code_has_the_class_of_the_code() {
        for (line, code) in [
            ("550 5.7.515 x\r\n", "550 5.7.515"),
            ("550 4.1.1 x\r\n", "550"),
            ("550 5.1 x\r\n", "550"),
            ("550 5.1.1: x\r\n", "550 5.1.1"),
            ("250 2.0.0\r\n", "250 2.0.0"),
        ] {
            assert_eq!(read(line.as_bytes(), 100).unwrap()[0].code_text(), code);
        }
    }
}
