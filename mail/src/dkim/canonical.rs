//! What a signature is made over: the relaxed forms of header and body (RFC 6376 3.4.2 and 3.4.4).

/// One header field of a message, as it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field<'a> {
    /// As it is written.
    pub name: &'a str,
    /// After the colon, its folds included, without the line end after it.
    pub value: &'a [u8],
}

/// Header fields and body. None: the message has no blank line, or a line of its header has no colon.
pub(super) fn split(message: &[u8]) -> Option<(Vec<Field<'_>>, &[u8])> {
    let end = message.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let (header, body) = (&message[..end + 2], &message[end + 4..]);
    let mut fields = Vec::new();
    let mut rest = header;
    while !rest.is_empty() {
        let (field, after) = rest.split_at(end_of_field(rest));
        let colon = field.iter().position(|byte| *byte == b':')?;
        let name = std::str::from_utf8(&field[..colon]).ok()?.trim_end();
        fields.push(Field { name, value: &field[colon + 1..field.len() - 2] });
        rest = after;
    }
    Some((fields, body))
}

/// Behind the CRLF that no white space follows.
fn end_of_field(bytes: &[u8]) -> usize {
    let mut from = 0;
    while let Some(at) = bytes[from..].windows(2).position(|pair| pair == b"\r\n") {
        let end = from + at + 2;
        if !matches!(bytes.get(end), Some(b' ' | b'\t')) {
            return end;
        }
        from = end;
    }
    bytes.len()
}

/// Lower-case name, unfolded, white space as single spaces and none at the ends. Without the line end.
pub(super) fn relaxed_field(output: &mut Vec<u8>, name: &str, value: &[u8]) {
    output.extend(name.bytes().map(|byte| byte.to_ascii_lowercase()));
    output.push(b':');
    let begun = output.len();
    let mut is_apart = false;
    for byte in value {
        if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            is_apart = true;
            continue;
        }
        if is_apart && output.len() > begun {
            output.push(b' ');
        }
        is_apart = false;
        output.push(*byte);
    }
}

/// No white space at the ends of lines, single spaces elsewhere, no empty lines at the end, and a line end
/// after everything that is not empty.
pub(super) fn relaxed_body(body: &[u8]) -> Vec<u8> {
    let mut output = Vec::with_capacity(body.len());
    let mut end = 0;
    for line in lines(body) {
        let begun = output.len();
        let mut is_apart = false;
        for byte in line {
            if matches!(byte, b' ' | b'\t') {
                is_apart = true;
                continue;
            }
            if is_apart {
                output.push(b' ');
            }
            is_apart = false;
            output.push(*byte);
        }
        let is_blank = output.len() == begun;
        output.extend_from_slice(b"\r\n");
        if !is_blank {
            end = output.len();
        }
    }
    output.truncate(end);
    output
}

/// The lines of a body that ends them with CRLF. What is after the last one is a line too, if there is something.
fn lines(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = body;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = rest.windows(2).position(|pair| pair == b"\r\n");
        let (line, after) = at.map_or((rest, &rest[rest.len()..]), |at| (&rest[..at], &rest[at + 2..]));
        rest = after;
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_standard_is_relaxed() {
        // RFC 6376 3.4.5.
        let message = b"A: X\r\nB : Y\t\r\n\tZ  \r\n\r\n C \r\nD \t E\r\n\r\n\r\n";
        let (fields, body) = split(message).unwrap();
        let relaxed = |field: &Field<'_>| {
            let mut output = Vec::new();
            relaxed_field(&mut output, field.name, field.value);
            String::from_utf8(output).unwrap()
        };
        assert_eq!(fields.iter().map(relaxed).collect::<Vec<_>>(), ["a:X", "b:Y Z"]);
        assert_eq!(relaxed_body(body), b" C\r\nD E\r\n");
    }

    #[test]
    fn ends_of_bodies_are_alike() {
        for (body, expected) in [
            ("", ""),
            ("\r\n", ""),
            (" \t\r\n\r\n", ""),
            ("a", "a\r\n"),
            ("a \r\n\r\n \r\n", "a\r\n"),
            ("\r\na", "\r\na\r\n"),
        ] {
            assert_eq!(relaxed_body(body.as_bytes()), expected.as_bytes(), "{body:?}");
        }
    }

    #[test]
    fn what_has_no_header_is_not_split() {
        for message in ["", "a: b", "a: b\r\n", "a\r\n\r\n", "\r\n\r\n"] {
            assert!(split(message.as_bytes()).is_none_or(|(fields, _)| fields.is_empty()), "{message:?}");
        }
    }
}
