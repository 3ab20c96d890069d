//! Built messages are read back by a reader of their own, written from the RFCs.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

use postrider_common::message::message_id;
use postrider_common::{MessageSpec, Recipient, RunId};
use postrider_mail::{BuildError, Built, Envelope, Rendered, Sender, Template, build};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const DATE_MS: i64 = 1_700_000_000_123;

fn spec() -> MessageSpec {
    MessageSpec {
        from: "Acme Digest <digest@acme.example>".into(),
        subject: "{{ subject }}".into(),
        html: "<p>Hello {{ name }}</p>".into(),
        text: "Hello {{ name }}".into(),
        campaign: "daily".into(),
        ..MessageSpec::default()
    }
}

fn recipient(fields: Value) -> Recipient {
    let Value::Object(fields) = fields else { panic!("fields are an object") };
    Recipient { address: "ada@example.com".parse().unwrap(), key: "ada@example.com".into(), fields }
}

fn built(spec: &MessageSpec, rendered: &Rendered, bulk: bool) -> Result<Built, BuildError> {
    let sender = Sender::new(spec, bulk)?;
    let run = RunId::derive("daily", "1");
    let recipient = recipient(json!({}));
    let id = message_id(&run, &recipient.key, sender.domain());
    build(rendered, &Envelope { sender: &sender, run: &run, recipient: &recipient, message_id: &id, date_ms: DATE_MS })
}

fn rendered(subject: &str, html: &str, text: &str) -> Rendered {
    Rendered { subject: subject.into(), html: html.into(), text: text.into(), headers: Vec::new() }
}

/// Header fields, unfolded, and the body.
fn split(message: &[u8]) -> (Vec<(String, String)>, String) {
    let text = std::str::from_utf8(message).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in head.split("\r\n") {
        if line.starts_with([' ', '\t']) {
            assert!(!line.trim().is_empty(), "a blank folded line");
            fields.last_mut().unwrap().1.push_str(line);
        } else {
            let (name, value) = line.split_once(':').unwrap();
            fields.push((name.to_owned(), value.strip_prefix(' ').unwrap_or(value).to_owned()));
        }
    }
    (fields, body.to_owned())
}

fn field<'a>(fields: &'a [(String, String)], name: &str) -> &'a str {
    let mut found = fields.iter().filter(|(field, _)| field == name);
    let value = &found.next().unwrap_or_else(|| panic!("no {name}")).1;
    assert!(found.next().is_none(), "two {name}");
    value
}

fn unhex(digits: &[u8]) -> u8 {
    u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
}

fn decode_quoted_printable(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        match first {
            b'=' if tail.starts_with(b"\r\n") => rest = &tail[2..],
            b'=' => {
                bytes.push(unhex(&tail[..2]));
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn decode_base64(text: &str) -> Vec<u8> {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: Vec<u8> = text
        .trim_end_matches('=')
        .chars()
        .flat_map(|c| {
            let value = alphabet.find(c).unwrap();
            (0..6).rev().map(move |bit| u8::from(value >> bit & 1 == 1))
        })
        .collect();
    bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |value, bit| value << 1 | bit)).collect()
}

/// RFC 2047, white space between encoded words left out.
fn decode_words(value: &str) -> String {
    let mut output = String::new();
    let mut rest = value;
    let mut after_word = false;
    while let Some(at) = rest.find("=?utf-8?") {
        let between = &rest[..at];
        if !(after_word && between.trim().is_empty()) {
            output.push_str(between);
        }
        let word = &rest[at + 8..];
        let (encoding, word) = word.split_at(2);
        let end = word.find("?=").unwrap();
        assert!(end + 12 <= 75, "an encoded word of {} characters", end + 12);
        let bytes = match encoding {
            "B?" => decode_base64(&word[..end]),
            "Q?" => decode_quoted_printable(&word[..end].replace('_', " ")).into_bytes(),
            other => panic!("encoding {other}"),
        };
        output.push_str(std::str::from_utf8(&bytes).expect("whole characters in each word"));
        rest = &word[end + 2..];
        after_word = true;
    }
    output + rest
}

/// The parts of a multipart body: header fields and decoded content.
fn parts(fields: &[(String, String)], body: &str) -> Vec<(String, String)> {
    let boundary = field(fields, "Content-Type").split("boundary=\"").nth(1).unwrap().trim_end_matches('"');
    let delimiter = format!("\r\n--{boundary}");
    let body = format!("\r\n{body}");
    let mut pieces = body.split(&delimiter);
    assert_eq!(pieces.next(), Some(""), "nothing before the first part");
    let mut found = Vec::new();
    for piece in pieces {
        if piece == "--\r\n" {
            return found;
        }
        let (fields, content) = split(piece.strip_prefix("\r\n").unwrap().as_bytes());
        assert_eq!(field(&fields, "Content-Transfer-Encoding"), "quoted-printable");
        found.push((field(&fields, "Content-Type").to_owned(), decode_quoted_printable(content.as_str())));
    }
    panic!("no last delimiter");
}

fn check_lines(message: &[u8]) {
    assert!(message.ends_with(b"\r\n"));
    let text = std::str::from_utf8(message).unwrap();
    assert!(!text.replace("\r\n", "").contains(['\r', '\n', '\0']), "a bare line end or a NUL");
    assert!(text.is_ascii());
    let body_at = text.find("\r\n\r\n").unwrap();
    for line in text[..body_at].split("\r\n") {
        assert!(line.len() <= 998, "a header line of {} bytes", line.len());
    }
    for line in text[body_at..].split("\r\n") {
        assert!(line.len() <= 76, "a body line of {} bytes: {line}", line.len());
    }
}

fn normalised(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n").replace('\n', "\r\n")
}

const NAMES: [&str; 8] =
    ["Date", "From", "To", "Subject", "Message-ID", "X-Postrider-Ref", "MIME-Version", "Content-Type"];

#[test]
fn a_whole_message() {
    let spec = MessageSpec {
        reply_to: "help@acme.example".into(),
        return_path: "bounce@mail.acme.example".into(),
        tags: vec!["a".into(), "b c".into()],
        correlation_id: "order-1".into(),
        ..spec()
    };
    let mut input = rendered("Grüße an dich", "<p>ä</p>", "ä");
    input.headers = vec![("List-Unsubscribe".into(), "<https://acme.example/u>".into()), ("X-Kind".into(), "é".into())];
    let built = built(&spec, &input, true).unwrap();
    assert_eq!((built.mail_from.as_str(), built.rcpt_to.as_str()), ("bounce@mail.acme.example", "ada@example.com"));
    check_lines(&built.bytes);
    let (fields, body) = split(&built.bytes);
    let run = RunId::derive("daily", "1");
    for (name, value) in [
        ("Date", "Tue, 14 Nov 2023 22:13:20 +0000"),
        ("From", "Acme Digest <digest@acme.example>"),
        ("Reply-To", "help@acme.example"),
        ("To", "ada@example.com"),
        ("List-Id", "<daily.acme.example>"),
        ("List-Unsubscribe", "<https://acme.example/u>"),
        ("X-Correlation-Id", "order-1"),
        ("X-Postrider-Tags", "a, b c"),
        ("MIME-Version", "1.0"),
        ("Message-ID", message_id(&run, "ada@example.com", "acme.example").as_str()),
    ] {
        assert_eq!(field(&fields, name), value);
    }
    assert_eq!(decode_words(field(&fields, "Subject")), "Grüße an dich");
    assert_eq!(decode_words(field(&fields, "X-Kind")), "é");
    let reference = field(&fields, "X-Postrider-Ref");
    assert!(reference.starts_with(&format!("{run}.")) && !reference.contains("ada"), "{reference}");
    let parts = parts(&fields, &body);
    let expected = [("text/plain; charset=utf-8", "ä"), ("text/html; charset=utf-8", "<p>ä</p>")];
    assert_eq!(parts, expected.map(|(kind, content)| (kind.to_owned(), content.to_owned())));
}

#[test]
fn text_alone_is_one_part_and_html_alone_gets_its_text() {
    let plain = built(&spec(), &rendered("s", "", "a\nb"), false).unwrap();
    let (fields, body) = split(&plain.bytes);
    assert_eq!(field(&fields, "Content-Type"), "text/plain; charset=utf-8");
    assert_eq!(body, "a\r\nb\r\n");
    let html = built(&spec(), &rendered("s", "<p>a <a href='https://x.example'>b</a>", ""), false).unwrap();
    let (fields, body) = split(&html.bytes);
    assert_eq!(parts(&fields, &body)[0].1, "a b <https://x.example>");
}

#[test]
fn an_empty_part_keeps_the_blank_line_that_ends_its_header() {
    for html in ["\r\n", "<p>", " "] {
        let message = built(&spec(), &rendered("s", html, ""), false).unwrap();
        let (fields, body) = split(&message.bytes);
        assert_eq!(parts(&fields, &body).len(), 2, "{html:?}");
    }
}

#[test]
fn the_same_inputs_give_the_same_bytes_and_others_do_not() {
    let one = built(&spec(), &rendered("s", "<p>x", "x"), true).unwrap();
    assert_eq!(one, built(&spec(), &rendered("s", "<p>x", "x"), true).unwrap());
    assert_ne!(one, built(&spec(), &rendered("t", "<p>x", "x"), true).unwrap());
}

#[test]
fn a_header_that_a_value_would_break_is_named() {
    for bad in ["a\r\nBcc: b@example.com", "a\nb", "a\rb", "a\0b", "\r\n\r\nbody", "trailing\n"] {
        let error = built(&spec(), &rendered(bad, "", "x"), false).unwrap_err();
        assert!(matches!(&error, BuildError::Header { name, .. } if name == "Subject"), "{error}");
        let mut input = rendered("s", "", "x");
        input.headers = vec![("X-Kind".into(), bad.into())];
        let error = built(&spec(), &input, false).unwrap_err();
        assert!(matches!(&error, BuildError::Header { name, .. } if name == "X-Kind"), "{error}");
        assert!(built(&MessageSpec { tags: vec![bad.into()], ..spec() }, &rendered("s", "", "x"), false).is_err());
        assert!(built(&MessageSpec { from: format!("{bad} <a@b.example>"), ..spec() }, &input, false).is_err());
    }
    for name in ["Bcc", "From", "Content-Type", "X-A\r\nBcc", "X A", "X-Postrider-Ref"] {
        let mut input = rendered("s", "", "x");
        input.headers = vec![(name.into(), "x".into())];
        let error = built(&spec(), &input, false).unwrap_err();
        assert!(matches!(&error, BuildError::Header { name: found, .. } if found == name), "{error}");
    }
    let error = built(&spec(), &rendered("s", "", "a\0b"), false).unwrap_err();
    assert!(matches!(error, BuildError::Body { part: "template.text", .. }), "{error}");
}

/// Text that tries: line ends, controls, encoded words, boundaries, dots, other scripts.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("\r\n".to_owned()),
        Just("\n".to_owned()),
        Just("\r".to_owned()),
        Just("\0".to_owned()),
        Just("\r\n.\r\n".to_owned()),
        Just("\r\nBcc: x@example.com\r\n".to_owned()),
        Just("\r\n\r\n--".to_owned()),
        Just("=?utf-8?Q?x?=".to_owned()),
        Just("\nFrom x".to_owned()),
        Just(" \t ".to_owned()),
        Just("{{ x }}<b>&amp;".to_owned()),
        "[ -~]{0,90}",
        "\\PC{0,30}",
        any::<String>(),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

/// The same without control characters.
fn printable() -> impl Strategy<Value = String> {
    hostile().prop_map(|text| text.chars().filter(|c| *c == '\t' || !c.is_control()).collect())
}

proptest! {
    #[test]
    fn nothing_adds_a_header_or_a_part(subject in hostile(), html in hostile(), text in hostile(), extra in hostile()) {
        let mut input = rendered(&subject, &html, &text);
        input.headers = vec![("X-Extra".into(), extra.clone())];
        let header_safe = |value: &str| value.chars().all(|c| c == '\t' || !c.is_control());
        let possible = header_safe(&subject) && header_safe(&extra) && !html.contains('\0') && !text.contains('\0');
        let result = built(&spec(), &input, false);
        prop_assert_eq!(result.is_ok(), possible, "{:?}", result);
        let Ok(built) = result else { return Ok(()) };
        check_lines(&built.bytes);
        let (fields, body) = split(&built.bytes);
        let mut names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        let mut expected: Vec<&str> = NAMES.into_iter().chain(["X-Extra"]).collect();
        if html.is_empty() {
            expected.push("Content-Transfer-Encoding");
        }
        names.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(names, expected);
        prop_assert_eq!(decode_words(field(&fields, "Subject")), subject.trim());
        prop_assert_eq!(decode_words(field(&fields, "X-Extra")), extra.trim());
        if html.is_empty() {
            let decoded = decode_quoted_printable(&body);
            let text = normalised(&text);
            prop_assert!(decoded == text || decoded.strip_suffix("\r\n") == Some(text.as_str()));
        } else {
            let parts = parts(&fields, &body);
            prop_assert_eq!(parts.len(), 2);
            let (found, wanted) = (&parts[1].1, normalised(&html));
            prop_assert!(found == &wanted || format!("{found}\r\n") == wanted, "{found:?} {wanted:?}");
            if !text.is_empty() {
                let (found, wanted) = (&parts[0].1, normalised(&text));
                prop_assert!(found == &wanted || format!("{found}\r\n") == wanted, "{found:?} {wanted:?}");
            }
        }
    }

    #[test]
    fn long_subjects_and_names_arrive_whole(words in prop::collection::vec(printable(), 1..8), name in printable()) {
        let subject = words.concat();
        let quoted = name.replace(['\\', '"'], "");
        let spec = MessageSpec { from: format!("\"{quoted}\" <digest@acme.example>"), ..spec() };
        let Ok(built) = built(&spec, &rendered(&subject, "", "x"), true) else { return Ok(()) };
        check_lines(&built.bytes);
        let (fields, _) = split(&built.bytes);
        prop_assert_eq!(decode_words(field(&fields, "Subject")), subject.trim());
        prop_assert!(field(&fields, "From").ends_with("digest@acme.example") || field(&fields, "From").ends_with("<digest@acme.example>"));
    }

    #[test]
    fn fields_pass_through_templates_without_harm(name in hostile(), subject in hostile()) {
        let template = Template::compile(&spec()).unwrap();
        let mut fields = Map::new();
        fields.insert("name".into(), name.clone().into());
        fields.insert("subject".into(), subject.into());
        let rendered = template.render(&recipient(Value::Object(fields))).unwrap();
        prop_assert_eq!(&rendered.text, &format!("Hello {name}"));
        let inner = rendered.html.strip_prefix("<p>Hello ").and_then(|html| html.strip_suffix("</p>")).unwrap();
        prop_assert!(!inner.contains(['<', '>', '"', '\'']));
        if let Ok(built) = built(&spec(), &rendered, false) {
            check_lines(&built.bytes);
            prop_assert_eq!(split(&built.bytes).0.len(), NAMES.len());
        }
    }

    #[test]
    fn any_html_becomes_some_text(html in hostile()) {
        let text = postrider_mail::message::html_text::from_html(&html);
        prop_assert!(!text.contains(['\r', '\0']));
    }
}
