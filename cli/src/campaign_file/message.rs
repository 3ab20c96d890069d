//! The part of a file that says what is sent: sender, headers and templates.
//!
//! Templates are read here, relative to the file, and compiled once, so that a mistake is found before
//! anything is uploaded and is told with its own file, line and column.

use super::fields::{Complaints, Fields};
use crate::toml_text::Table;
use postrider_common::limits::TEMPLATE_BYTES_MAX;
use postrider_common::message::MessageSpec;
use std::path::{Path, PathBuf};

/// Those after `text_inline` may also stand at the top of the file.
const TEMPLATE_KEYS: &[&str] = &[
    "subject",
    "html",
    "html_inline",
    "text",
    "text_inline",
    "reply_to",
    "return_path",
    "headers",
    "tags",
    "notify_url",
    "from",
];

/// What was read, and where each template came from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MessagePart {
    pub spec: MessageSpec,
    pub notify_url: String,
    /// Files of `html` and `text`; `None` when inline or not given.
    pub html_file: Option<PathBuf>,
    pub text_file: Option<PathBuf>,
}

/// Reads `from`, the shared keys and `[template]`. `template` is the top of the file itself when the
/// template keys stand there. `from` from elsewhere (a flag) makes the key optional.
pub fn read(
    folder: &Path,
    top: &Fields<'_>,
    template: Option<(&Table, usize)>,
    from_flag: Option<&str>,
    complaints: &mut Complaints,
) -> MessagePart {
    let mut part = MessagePart::default();
    let empty = Table::default();
    let inner = Fields::new("template.", template.map_or(&empty, |(table, _)| table), TEMPLATE_KEYS, complaints);
    let fields = [top, &inner];
    part.spec.reply_to = one_text(fields, "reply_to", complaints).unwrap_or_default();
    part.spec.return_path = one_text(fields, "return_path", complaints).unwrap_or_default();
    part.notify_url = one_text(fields, "notify_url", complaints).unwrap_or_default();
    part.spec.headers = top.text_table("headers", complaints);
    part.spec.headers.extend(inner.text_table("headers", complaints));
    part.spec.tags = top.texts("tags", complaints);
    part.spec.tags.extend(inner.texts("tags", complaints));
    read_from(fields, from_flag, &mut part.spec, complaints);
    match template {
        Some((_, line)) => templates(folder, &inner, line, &mut part, complaints),
        None => complaints.missing("[template] is missing: it holds subject, html and text"),
    }
    part
}

/// From one of the two places; from both is a contradiction.
fn one_text(fields: [&Fields<'_>; 2], key: &str, complaints: &mut Complaints) -> Option<String> {
    let [top, inner] = fields;
    match (top.text(key, complaints), inner.text(key, complaints)) {
        (Some(_), Some((_, line))) => {
            complaints.at(line, format!("{key} is there twice, at the top and under [template]: keep one"));
            None
        }
        (one, other) => one.or(other).map(|(text, _)| text.trim().to_owned()),
    }
}

fn read_from(fields: [&Fields<'_>; 2], flag: Option<&str>, spec: &mut MessageSpec, complaints: &mut Complaints) {
    let usage = "write it like \"Acme Digest <digest@acme.example>\"";
    if let Some(from) = flag {
        spec.from = from.to_owned();
        if spec.from_address().is_none() {
            complaints.missing(format!("--from '{from}' is not a sender: {usage}"));
        }
        return;
    }
    let given = fields[0].entry("from").or_else(|| fields[1].entry("from")).map(|entry| entry.line);
    match (one_text(fields, "from", complaints), given) {
        (Some(from), line) => {
            spec.from = from;
            if spec.from_address().is_none() {
                complaints.at(line.unwrap_or(1), format!("from: '{}' is not a sender: {usage}", spec.from));
            }
        }
        (None, None) => complaints.missing(format!("from is missing: {usage}")),
        // Of another type, or there twice: told already.
        (None, Some(_)) => {}
    }
}

fn templates(folder: &Path, inner: &Fields<'_>, line: usize, part: &mut MessagePart, complaints: &mut Complaints) {
    match inner.text("subject", complaints) {
        Some((subject, _)) => part.spec.subject = subject,
        None if inner.entry("subject").is_none() => {
            complaints.at(line, "template.subject is missing: write subject = \"…\"");
        }
        None => {}
    }
    let html = body(folder, inner, "html", "html_inline", complaints);
    let text = body(folder, inner, "text", "text_inline", complaints);
    if html.is_none() && text.is_none() && complaints.list.is_empty() {
        complaints.at(line, "template.html and template.text are both missing: give at least one");
    }
    (part.spec.html, part.html_file) = html.unwrap_or_default();
    (part.spec.text, part.text_file) = text.unwrap_or_default();
}

/// The template and the file it came from.
fn body(
    folder: &Path,
    inner: &Fields<'_>,
    file_key: &str,
    inline_key: &str,
    complaints: &mut Complaints,
) -> Option<(String, Option<PathBuf>)> {
    let (file, inline) = (inner.text(file_key, complaints), inner.text(inline_key, complaints));
    match (file, inline) {
        (Some(_), Some((_, line))) => {
            complaints.at(line, format!("template.{file_key} and template.{inline_key} are both there: keep one"));
            None
        }
        (Some((name, line)), None) => {
            let path = folder.join(&name);
            match read_template(&path) {
                Ok(text) => Some((text, Some(path))),
                Err(why) => {
                    complaints.at(line, format!("template.{file_key}: {}: {why}", path.display()));
                    None
                }
            }
        }
        (None, Some((text, _))) => Some((text, None)),
        (None, None) => None,
    }
}

fn read_template(path: &Path) -> Result<String, String> {
    let size = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > TEMPLATE_BYTES_MAX as u64 {
        return Err(format!("it has {size} bytes, more than template_bytes_max ({TEMPLATE_BYTES_MAX})"));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|error| format!("it is not UTF-8 at byte {}", error.utf8_error().valid_up_to()))
}
