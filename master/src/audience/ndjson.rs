//! Cuts NDJSON (one JSON object a line) into rows. Also the rows given inline.

use super::row::{Roles, Row, RowReason, admit, renamed};
use super::{ReadError, column_missing, text};
use postrider_common::Recipient;
use postrider_common::limits::RECIPIENT_BYTES_MAX;
use serde_json::{Map, Value};
use std::io::{self, BufRead};

/// Bytes of one line; escapes can make a line several times as long as what it says.
const LINE_BYTES_MAX: usize = 4 * RECIPIENT_BYTES_MAX;

/// The rows of an NDJSON text. Blank lines are not rows.
pub struct NdjsonRows<R: BufRead> {
    source: R,
    roles: Roles,
    unseen: Unseen,
    number: u64,
    line: Vec<u8>,
    ended: bool,
}

/// Which of the wanted members no object had so far, to tell a wrong column from a bad row.
#[derive(Debug)]
struct Unseen {
    wanted: Vec<(&'static str, String)>,
    /// Members of the first object.
    members: Option<Vec<String>>,
}

impl Unseen {
    fn of(roles: &Roles) -> Self {
        Self { wanted: roles.wanted().map(|(setting, name)| (setting, name.to_owned())).collect(), members: None }
    }

    fn note(&mut self, object: &Map<String, Value>) {
        self.wanted.retain(|(_, name)| !object.contains_key(name));
        self.members.get_or_insert_with(|| object.keys().cloned().collect());
    }

    /// At the end: a member that no object had is a wrong definition, not as many bad rows.
    fn missing(&self) -> Option<ReadError> {
        let members = self.members.as_ref()?;
        self.wanted.first().map(|(setting, name)| column_missing(setting, name, members))
    }
}

/// What a line turned out to be.
enum Line {
    Text,
    TooLong,
    End,
}

impl<R: BufRead> NdjsonRows<R> {
    pub fn new(source: R, roles: Roles) -> Self {
        let unseen = Unseen::of(&roles);
        Self { source, roles, unseen, number: 0, line: Vec::new(), ended: false }
    }

    /// Reads one line into `line` without its end; the rest of one that is too long is skipped.
    fn read_line(&mut self) -> io::Result<Line> {
        self.line.clear();
        let mut too_long = false;
        let mut any = false;
        loop {
            let buffer = match self.source.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if buffer.is_empty() {
                return Ok(match (any, too_long) {
                    (false, _) => Line::End,
                    (true, true) => Line::TooLong,
                    (true, false) => Line::Text,
                });
            }
            any = true;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let part = &buffer[..end.unwrap_or(buffer.len())];
            too_long |= self.line.len() + part.len() > LINE_BYTES_MAX;
            if !too_long {
                self.line.extend_from_slice(part);
            }
            let used = end.map_or(buffer.len(), |at| at + 1);
            self.source.consume(used);
            if end.is_some() {
                return Ok(if too_long { Line::TooLong } else { Line::Text });
            }
        }
    }

    fn admit_line(&mut self) -> Result<Recipient, RowReason> {
        let object = parse_object(&self.line)?;
        self.unseen.note(&object);
        admit(renamed(object, &self.roles)?, &self.roles)
    }
}

/// A JSON object, or why the bytes are none.
pub fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>, RowReason> {
    if std::str::from_utf8(bytes).is_err() {
        return Err(RowReason::new("it is not UTF-8"));
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            Err(RowReason::new("it is JSON, but not an object"))
        }
        // The text of serde_json may quote a value; the place may not.
        Err(error) => Err(RowReason::new(format!("it is not JSON (at byte {})", error.column()))),
    }
}

impl<R: BufRead> Iterator for NdjsonRows<R> {
    type Item = Result<Row, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        loop {
            let line = match self.read_line() {
                Ok(line) => line,
                Err(error) => return Some(Err(text::unreadable(&error))),
            };
            let admitted = match line {
                Line::End => {
                    self.ended = true;
                    return self.unseen.missing().map(Err);
                }
                Line::Text if self.line.iter().all(u8::is_ascii_whitespace) => continue,
                Line::Text => self.admit_line(),
                Line::TooLong => {
                    Err(RowReason::new(format!("the line is longer than {LINE_BYTES_MAX} bytes (line_bytes_max)")))
                }
            };
            self.number += 1;
            return Some(Ok(Row { number: self.number, recipient: admitted }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &[u8], key: Option<&str>) -> Vec<Result<Row, ReadError>> {
        let roles = Roles { address_field: "email".into(), key_field: key.map(Into::into), ..Roles::default() };
        // A small buffer, so that lines cross its border.
        NdjsonRows::new(io::BufReader::with_capacity(7, text), roles).collect()
    }

    fn check(text: &[u8], expected: &[Result<&str, &str>]) {
        let got = rows(text, None);
        assert_eq!(got.len(), expected.len(), "{got:?}");
        for (index, (got, expected)) in got.into_iter().zip(expected).enumerate() {
            let row = got.expect("readable");
            assert_eq!(row.number, index as u64 + 1);
            match (row.recipient, expected) {
                (Ok(recipient), Ok(address)) => assert_eq!(recipient.address.as_str(), *address),
                (Err(reason), Err(part)) => assert!(reason.0.contains(part), "{reason} has no '{part}'"),
                (got, expected) => panic!("{got:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn nasty_lines_are_read_or_refused_one_by_one() {
        check(b"", &[]);
        check(b"\n \n\r\n", &[]);
        check(b"{\"email\":\"a@x.io\"}", &[Ok("a@x.io")]);
        check(b"{\"email\":\"a@x.io\"}\r\n\n{\"email\":\"b@x.io\"}\n", &[Ok("a@x.io"), Ok("b@x.io")]);
        check(
            b"{\"email\":\"a@x.io\"}\nnot json\n[1]\n7\n{\"email\":\n{\"email\":\"b@x.io\"} trailing\n",
            &[
                Ok("a@x.io"),
                Err("not JSON"),
                Err("not an object"),
                Err("not an object"),
                Err("not JSON"),
                Err("not JSON"),
            ],
        );
        check(b"{\"email\":\"a@x.io\",\"n\":\"\xff\"}\n{\"email\":\"b@x.io\"}", &[Err("UTF-8"), Ok("b@x.io")]);
        check(b"{\"email\":\"a@x.io\",\"n\":\"\\u0000\"}\n{\"email\":\"b@x.io\"}", &[Err("NUL"), Ok("b@x.io")]);
        check(b"{\"name\":\"x\"}\n{\"email\":\"b@x.io\"}", &[Err("missing"), Ok("b@x.io")]);
        let deep = format!("{{\"email\":{}1{}}}\n{{\"email\":\"b@x.io\"}}", "[".repeat(5000), "]".repeat(5000));
        check(deep.as_bytes(), &[Err("not JSON"), Ok("b@x.io")]);
        let mut long = vec![b'x'; LINE_BYTES_MAX + 1];
        long.extend_from_slice(b"\n{\"email\":\"b@x.io\"}");
        check(&long, &[Err("line_bytes_max"), Ok("b@x.io")]);
    }

    #[test]
    fn a_member_that_no_object_has_fails_the_run() {
        let got = rows(b"{\"mail\":\"a@x.io\"}\n{\"mail\":\"b@x.io\"}\n", None);
        assert_eq!(got.len(), 3);
        let Some(Err(ReadError::Run(error))) = got.last() else { panic!("{got:?}") };
        assert_eq!(error.code, "audience_column_missing");
        assert!(error.mend.contains("did you mean 'mail'?"), "{}", error.mend);
        let got = rows(b"{\"email\":\"a@x.io\"}\n", Some("id"));
        assert!(
            matches!(got.last(), Some(Err(ReadError::Run(error))) if error.message.contains("'id' (audience.key)"))
        );
    }
}
