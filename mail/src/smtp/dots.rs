//! Transparency (RFC 5321 4.5.2): the final dot, and the dots that are not it.

/// A message whose lines do not all end in CRLF. It cannot be sent: servers disagree about where it
/// ends, which lets its text become commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BareNewline;

/// The message as it goes over the wire, with the final dot.
pub fn stuffed(message: &[u8]) -> Result<Vec<u8>, BareNewline> {
    let mut output = Vec::with_capacity(message.len() + message.len() / 64 + 8);
    for line in message.split_inclusive(|byte| *byte == b'\n') {
        let text = match line {
            [text @ .., b'\r', b'\n'] => text,
            [.., b'\n'] => return Err(BareNewline),
            text => text,
        };
        if text.contains(&b'\r') {
            return Err(BareNewline);
        }
        if text.starts_with(b".") {
            output.push(b'.');
        }
        output.extend_from_slice(line);
    }
    if !output.is_empty() && !output.ends_with(b"\r\n") {
        output.extend_from_slice(b"\r\n");
    }
    output.extend_from_slice(b".\r\n");
    Ok(output)
}

/// A message as it was received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// Cut when the message was too big.
    pub bytes: Vec<u8>,
    /// How long the whole message was.
    pub size: usize,
    /// The longest line, with its CRLF.
    pub line_bytes: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum At {
    #[default]
    LineStart,
    /// A dot began the line; it is never part of the content.
    Dot,
    DotCr,
    Middle,
}

/// Takes the content of a message back out of the wire, up to the final dot.
#[derive(Debug, Default)]
pub struct Unstuffer {
    at: At,
    content: Content,
    kept_max: usize,
    line_bytes: usize,
    last: u8,
}

impl Unstuffer {
    /// Keeps at most `kept_max` bytes of a message and counts the others.
    pub fn new(kept_max: usize) -> Self {
        Self { kept_max, ..Self::default() }
    }

    /// Takes `bytes` up to the final dot; says how many it took, and the content when it is complete.
    /// Only CRLF ends a line: a bare LF or CR is content.
    pub fn take(&mut self, bytes: &[u8]) -> (usize, Option<Content>) {
        let mut index = 0;
        while index < bytes.len() {
            match (self.at, bytes[index]) {
                (At::LineStart, b'.') => {
                    self.at = At::Dot;
                    index += 1;
                }
                (At::Dot, b'\r') => {
                    self.at = At::DotCr;
                    index += 1;
                }
                (At::DotCr, b'\n') => {
                    let content = std::mem::take(&mut self.content);
                    *self = Self::new(self.kept_max);
                    return (index + 1, Some(content));
                }
                (At::LineStart | At::Dot, _) => self.at = At::Middle,
                (At::DotCr, _) => {
                    self.at = At::Middle;
                    self.keep(b"\r");
                }
                (At::Middle, _) => {
                    let rest = &bytes[index..];
                    let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
                    let before = if end > 1 { rest[end - 2] } else { self.last };
                    self.keep(&rest[..end]);
                    index += end;
                    if self.last == b'\n' && before == b'\r' {
                        self.at = At::LineStart;
                        (self.last, self.line_bytes) = (0, 0);
                    }
                }
            }
        }
        (bytes.len(), None)
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = self.kept_max.saturating_sub(self.content.bytes.len());
        self.content.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.content.size += bytes.len();
        self.line_bytes += bytes.len();
        self.content.line_bytes = self.content.line_bytes.max(self.line_bytes);
        self.last = bytes.last().copied().unwrap_or(self.last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unstuffed(wire: &[u8], step: usize) -> Vec<u8> {
        let mut unstuffer = Unstuffer::new(usize::MAX);
        for (index, chunk) in wire.chunks(step).enumerate() {
            let (taken, content) = unstuffer.take(chunk);
            if let Some(content) = content {
                assert_eq!(index * step + taken, wire.len(), "ended early");
                assert_eq!(content.size, content.bytes.len());
                return content.bytes;
            }
        }
        panic!("never ended");
    }

    #[test]
    fn dots_come_back_as_they_were() {
        for message in ["", "a\r\n", ".\r\n", "..\r\n.a\r\n\r\n.\r\n", "a\r\n.\r\nQUIT\r\n", ".."] {
            let wire = stuffed(message.as_bytes()).unwrap();
            let mut expected = message.to_owned();
            if !expected.is_empty() && !expected.ends_with("\r\n") {
                expected.push_str("\r\n");
            }
            for step in [1, 2, 3, 1000] {
                assert_eq!(unstuffed(&wire, step), expected.as_bytes(), "{message:?} by {step}");
            }
        }
    }

    #[test]
    fn bare_line_ends_are_neither_sent_nor_an_end() {
        for message in ["a\n.\n", "a\r.\r\n", "a\n", "a\r", "\n.\r\n"] {
            assert_eq!(stuffed(message.as_bytes()), Err(BareNewline), "{message:?}");
        }
        for (wire, expected) in
            [("a\n.\nb\r\n.\r\n", "a\n.\nb\r\n"), (".\rx\r\n.\r\n", "\rx\r\n"), ("\n.\r\n\r\n.\r\n", "\n.\r\n\r\n")]
        {
            for step in [1, 2, 100] {
                assert_eq!(unstuffed(wire.as_bytes(), step), expected.as_bytes(), "{wire:?}");
            }
        }
    }

    #[test]
    fn a_big_message_is_counted_and_not_kept() {
        let mut unstuffer = Unstuffer::new(5);
        let (taken, content) = unstuffer.take(b"1234567890\r\nab\r\n.\r\nQUIT");
        let content = content.unwrap();
        assert_eq!((taken, content.size, content.line_bytes), (19, 16, 12));
        assert_eq!(content.bytes, b"12345");
    }
}
