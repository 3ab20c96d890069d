//! A row of a query as a line of NDJSON, written column by column from what the server says.

use std::io::Write as _;

/// Which of its values are written how: see docs/audiences.md for each type of each database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A text, to be quoted.
    Text,
    /// A number, true, false, or anything else that the server wrote as JSON.
    Json,
    /// 0 and 1 are false and true.
    Flag,
    /// A number of a server that has ones that JSON has not.
    Float,
    /// `2026-11-22 08:00:00`: a T in between, as ISO 8601 writes it.
    Instant,
}

/// A column, with the name of its member as JSON.
#[derive(Debug)]
pub(crate) struct Column {
    member: Vec<u8>,
    pub kind: Kind,
}

impl Column {
    pub fn new(name: &str, kind: Kind) -> Self {
        let mut member = Vec::new();
        quote(&mut member, name);
        member.push(b':');
        Self { member, kind }
    }
}

/// A row that is being written.
#[derive(Debug, Default)]
pub(crate) struct Line(Vec<u8>);

impl Line {
    pub fn begin(&mut self) {
        self.0.clear();
        self.0.push(b'{');
    }

    pub fn member(&mut self, column: &Column, value: Option<&str>) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        self.0.extend_from_slice(&column.member);
        let Some(value) = value else {
            self.0.extend_from_slice(b"null");
            return;
        };
        match column.kind {
            Kind::Text => quote(&mut self.0, value),
            Kind::Json => self.0.extend_from_slice(value.as_bytes()),
            Kind::Flag => self.0.extend_from_slice(match value {
                "0" => b"false",
                "1" => b"true",
                other => other.as_bytes(),
            }),
            // "inf" and "nan" are texts here; no server writes a number that JSON has not otherwise.
            Kind::Float if value.starts_with(|c: char| c.is_ascii_digit() || c == '-') && !value.contains("inf") => {
                self.0.extend_from_slice(value.as_bytes());
            }
            Kind::Float => quote(&mut self.0, value),
            Kind::Instant => {
                let begin = self.0.len();
                quote(&mut self.0, value);
                if let Some(at) = self.0[begin..].iter().position(|byte| *byte == b' ') {
                    self.0[begin + at] = b'T';
                }
            }
        }
    }

    pub fn end(&mut self) -> &[u8] {
        self.0.push(b'}');
        &self.0
    }
}

fn quote(out: &mut Vec<u8>, text: &str) {
    let is_plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    if text.bytes().all(is_plain) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // Into memory: it cannot fail.
        let _ = write!(out, "{}", serde_json::Value::from(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_json_that_is_meant() {
        let rows = [
            ("a \"b\"", Kind::Text, Some("x\n\"\\\u{1}\u{fc}"), r#"{"a \"b\"":"x\n\"\\\u0001ü"}"#),
            ("n", Kind::Json, Some("9223372036854775807"), r#"{"n":9223372036854775807}"#),
            ("n", Kind::Json, None, r#"{"n":null}"#),
            ("f", Kind::Flag, Some("1"), r#"{"f":true}"#),
            ("f", Kind::Flag, Some("-3"), r#"{"f":-3}"#),
            ("d", Kind::Float, Some("-1.5e20"), r#"{"d":-1.5e20}"#),
            ("d", Kind::Float, Some("-inf"), r#"{"d":"-inf"}"#),
            ("d", Kind::Float, Some("nan"), r#"{"d":"nan"}"#),
            ("t", Kind::Instant, Some("2026-11-22 08:00:00.5"), r#"{"t":"2026-11-22T08:00:00.5"}"#),
        ];
        let mut line = Line::default();
        for (name, kind, value, expected) in rows {
            line.begin();
            line.member(&Column::new(name, kind), value);
            let written = std::str::from_utf8(line.end()).expect("UTF-8");
            assert_eq!(written, expected);
            serde_json::from_str::<serde_json::Value>(written).expect("JSON");
        }
        line.begin();
        line.member(&Column::new("a", Kind::Json), Some("1"));
        line.member(&Column::new("b", Kind::Text), Some(""));
        assert_eq!(line.end(), br#"{"a":1,"b":""}"#);
    }
}
