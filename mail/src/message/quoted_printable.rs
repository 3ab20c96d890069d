//! Quoted-printable bodies, RFC 2045 6.7.

const LINE_CHARS_MAX: usize = 76;
const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Appends `text` encoded: CRLF, CR and LF each end a line; every other byte that is not printable ASCII
/// is escaped. A dot or `From ` at the start of a line is escaped as well, so that nothing on the way
/// mistakes it for an end of data or of a mailbox entry (RFC 2049 3).
pub fn encode(output: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    loop {
        let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
        line(output, &rest[..end.unwrap_or(rest.len())]);
        let Some(end) = end else { return };
        output.extend_from_slice(b"\r\n");
        let skip = if rest[end..].starts_with(b"\r\n") { 2 } else { 1 };
        rest = &rest[end + skip..];
        if rest.is_empty() {
            return;
        }
    }
}

fn line(output: &mut Vec<u8>, line: &[u8]) {
    let mut column = 0;
    let mut index = 0;
    while index < line.len() {
        // No further than a line can hold: a whole mail may be one line.
        let plain = plain_run(&line[index..line.len().min(index + LINE_CHARS_MAX + 1)]);
        if plain == 0 || must_escape(line, index, column) {
            escape(output, &mut column, line[index], index + 1 == line.len());
            index += 1;
            continue;
        }
        // The last column is kept for the `=` of a soft break, unless the line ends there.
        let mut take = plain.min(LINE_CHARS_MAX - 1 - column.min(LINE_CHARS_MAX - 1));
        if index + plain == line.len() && column + plain <= LINE_CHARS_MAX {
            take = plain;
        }
        if take == 0 {
            soft_break(output, &mut column);
            continue;
        }
        // White space must not end a line (6.7 rule 3).
        if index + take == line.len() && matches!(line[line.len() - 1], b' ' | b'\t') {
            take -= 1;
        }
        output.extend_from_slice(&line[index..index + take]);
        column += take;
        index += take;
        if take == 0 {
            escape(output, &mut column, line[index], true);
            index += 1;
        }
    }
}

fn plain_run(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| !matches!(byte, b' '..=b'<' | b'>'..=b'~' | b'\t')).unwrap_or(bytes.len())
}

/// At the start of a line on the wire, which is also what follows a soft break.
fn must_escape(line: &[u8], index: usize, column: usize) -> bool {
    column == 0 && (line[index] == b'.' || line[index..].starts_with(b"From "))
}

fn escape(output: &mut Vec<u8>, column: &mut usize, byte: u8, last: bool) {
    let room = if last { LINE_CHARS_MAX } else { LINE_CHARS_MAX - 1 };
    if *column + 3 > room {
        soft_break(output, column);
    }
    output.extend_from_slice(&[b'=', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    *column += 3;
}

fn soft_break(output: &mut Vec<u8>, column: &mut usize) {
    output.extend_from_slice(b"=\r\n");
    *column = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str) -> String {
        let mut output = Vec::new();
        encode(&mut output, text.as_bytes());
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn the_rules_of_rfc_2045() {
        let rows = [
            ("", ""),
            ("a=b", "a=3Db"),
            ("é", "=C3=A9"),
            ("a \nb\t\r\nc", "a=20\r\nb=09\r\nc"),
            ("a\rb", "a\r\nb"),
            (".x\n..\nFrom me", "=2Ex\r\n=2E.\r\n=46rom me"),
            (" ", "=20"),
            ("\n\n", "\r\n\r\n"),
        ];
        for (text, expected) in rows {
            assert_eq!(encoded(text), expected, "{text:?}");
        }
        let (fits, long) = ("x".repeat(76), "x".repeat(77));
        assert_eq!(encoded(&fits), fits);
        assert_eq!(encoded(&long), format!("{}=\r\nxx", "x".repeat(75)));
        assert_eq!(encoded(&format!("{}.", "x".repeat(76))), format!("{}=\r\nx.", "x".repeat(75)));
        assert_eq!(encoded(&format!("{}.y", "x".repeat(75))), format!("{}=\r\n=2Ey", "x".repeat(75)));
    }
}
