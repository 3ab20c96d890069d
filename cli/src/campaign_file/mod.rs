//! The campaign file: TOML in, a checked campaign out, before anything is sent to a master.
//!
//! Unknown keys, missing keys, wrong values, unreadable templates and missing columns are all told at
//! once with file and line. Does not talk to anybody.

mod audience;
mod data_sql;
mod data_url;
mod elsewhere;
mod fields;
mod local_time;
mod message;
mod schedule;
mod windows;

pub use audience::AudienceFile;

use crate::failure::{Failure, Result};
use crate::toml_text;
use fields::{Complaints, Fields};
use message::MessagePart;
use postrider_common::campaign::{Campaign, OnBadRow, OnUnknown};
use postrider_common::ids::{CampaignName, LaneName};
use postrider_common::message::MessageSpec;
use postrider_mail::template::Template;
use std::path::Path;

/// Larger than any campaign file; templates and audiences are files of their own.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
const KEYS: &[&str] = &[
    "name",
    "from",
    "lane",
    "on_unknown",
    "on_bad_row",
    "schedule",
    "send_at_local",
    "send_window",
    "quiet_hours",
    "recipient_clock",
    "audience",
    "template",
    "data_url",
    "data_sql",
    "reply_to",
    "return_path",
    "headers",
    "tags",
    "notify_url",
];
/// For `send`: the template keys may also stand at the top.
const BARE_KEYS: &[&str] = &[
    "from",
    "subject",
    "html",
    "html_inline",
    "text",
    "text_inline",
    "reply_to",
    "return_path",
    "headers",
    "tags",
    "lane",
];
/// A campaign that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct CampaignFile {
    /// Without the audience if that is to be uploaded: it has a name only then.
    pub campaign: Campaign,
    /// To upload.
    pub audience: Option<AudienceFile>,
    /// What is kept and not yet acted upon.
    pub notices: Vec<String>,
}

/// What `send --template` sends.
#[derive(Debug, Clone, PartialEq)]
pub struct MessageFile {
    pub message: MessageSpec,
    pub lane: Option<LaneName>,
}

/// Reads and checks a campaign file.
pub fn read_campaign(path: &Path) -> Result<CampaignFile> {
    let (name, text) = read_file(path)?;
    parse_campaign(&name, folder_of(path), &text)
}

/// Reads and checks a file for `send`: `from`, the template keys (under `[template]` or at the top), or
/// a whole campaign file, of which lane and message are used.
pub fn read_message(path: &Path, from: Option<&str>) -> Result<MessageFile> {
    let (name, text) = read_file(path)?;
    parse_message(&name, folder_of(path), &text, from)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

fn read_file(path: &Path) -> Result<(String, String)> {
    let name = path.display().to_string();
    let wrong = |why: String| Failure::usage(format!("cannot read {name}: {why}"));
    let size = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if size > FILE_BYTES_MAX {
        return Err(wrong(format!("it has {size} bytes and a campaign file has at most {FILE_BYTES_MAX}")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    Ok((name, text))
}

/// `folder` is what relative paths start at.
pub fn parse_campaign(file: &str, folder: &Path, text: &str) -> Result<CampaignFile> {
    let document = toml_text::parse(file, text)?;
    let mut complaints = Complaints::new(file);
    let top = Fields::new("", &document, KEYS, &mut complaints);
    let name = name(&top, &mut complaints);
    let lane = lane(&top, &mut complaints);
    let on_unknown = top.choice("on_unknown", &["resend", "hold"], &mut complaints);
    let send_at_local = local_time::read(&top, &mut complaints);
    let schedule = schedule::read(&top, send_at_local.is_some(), &mut complaints);
    let template = top.table("template", &mut complaints);
    let mut part = message::read(folder, &top, template, None, &mut complaints);
    part.spec.data_url = data_url::read(&top, &mut complaints);
    part.spec.windows = windows::read(&top, &mut complaints);
    part.spec.data_sql = data_sql::read(&top, &mut complaints);
    let (audience, inner_on_bad_row) = match top.table("audience", &mut complaints) {
        Some((table, line)) => audience::read(folder, table, line, &mut complaints),
        None => (audience::Found::Nothing, None),
    };
    let on_bad_row = on_bad_row(&top, inner_on_bad_row, &mut complaints);
    let notices = notices(&part);
    let (Some(name), true) = (name, complaints.list.is_empty()) else { return Err(complaints.into_failure()) };
    compile(file, &part)?;
    let (audience, elsewhere) = match audience {
        audience::Found::Local(file) => (Some(file), None),
        audience::Found::Elsewhere(audience) => (None, Some(audience)),
        audience::Found::Nothing => (None, None),
    };
    let campaign = Campaign {
        name,
        lane: lane.unwrap_or_else(LaneName::bulk),
        on_unknown: if on_unknown.as_deref() == Some("hold") { OnUnknown::Hold } else { OnUnknown::Resend },
        on_bad_row,
        schedule,
        send_at_local,
        audience: elsewhere,
        message: part.spec,
        notify_url: part.notify_url,
    };
    Ok(CampaignFile { campaign, audience, notices })
}

/// As `parse_campaign`, for one message.
pub fn parse_message(file: &str, folder: &Path, text: &str, from: Option<&str>) -> Result<MessageFile> {
    let document = toml_text::parse(file, text)?;
    let mut complaints = Complaints::new(file);
    let is_bare = document.entry("template").is_none();
    let (lane, part) = if is_bare {
        let top = Fields::new("", &document, BARE_KEYS, &mut complaints);
        let lane = lane(&top, &mut complaints);
        // The same table once more, without what is not of the template.
        let mut inner = document.clone();
        inner.entries.retain(|entry| entry.key != "lane" && BARE_KEYS.contains(&entry.key.as_str()));
        let nothing = toml_text::Table::default();
        let outer = Fields::new("", &nothing, KEYS, &mut complaints);
        (lane, message::read(folder, &outer, Some((&inner, 1)), from, &mut complaints))
    } else {
        let top = Fields::new("", &document, KEYS, &mut complaints);
        let template = top.table("template", &mut complaints);
        (lane(&top, &mut complaints), message::read(folder, &top, template, from, &mut complaints))
    };
    if !complaints.list.is_empty() {
        return Err(complaints.into_failure());
    }
    compile(file, &part)?;
    Ok(MessageFile { message: part.spec, lane })
}

fn name(top: &Fields<'_>, complaints: &mut Complaints) -> Option<CampaignName> {
    match top.text("name", complaints) {
        Some((text, line)) => text.parse().map_err(|why| complaints.at(line, format!("name: {why}"))).ok(),
        None => {
            if top.entry("name").is_none() {
                complaints.missing("name is missing: write name = \"daily-digest\"");
            }
            None
        }
    }
}

fn lane(top: &Fields<'_>, complaints: &mut Complaints) -> Option<LaneName> {
    let (text, line) = top.text("lane", complaints)?;
    text.parse().map_err(|why| complaints.at(line, format!("lane: {why}"))).ok()
}

fn on_bad_row(top: &Fields<'_>, inner: Option<(String, usize)>, complaints: &mut Complaints) -> OnBadRow {
    let words = ["skip", "fail"];
    let outer = top.choice("on_bad_row", &words, complaints);
    let word = match (outer, inner) {
        (Some(_), Some((_, line))) => {
            complaints.at(line, "on_bad_row is there twice, at the top and under [audience]: keep one");
            None
        }
        (None, Some((text, line))) if !words.contains(&text.as_str()) => {
            complaints.at(line, format!("audience.on_bad_row must be one of {}, not '{text}'", words.join(", ")));
            None
        }
        (outer, inner) => outer.or(inner.map(|(text, _)| text)),
    };
    if word.as_deref() == Some("fail") { OnBadRow::Fail } else { OnBadRow::Skip }
}

fn notices(part: &MessagePart) -> Vec<String> {
    let mut notices = Vec::new();
    if !part.notify_url.is_empty() {
        notices.push("notify_url: kept; calling it is not part of this version".to_owned());
    }
    notices
}

/// Finds mistakes in the templates, and names the file they are in.
fn compile(file: &str, part: &MessagePart) -> Result<()> {
    let Err(error) = Template::compile(&part.spec) else { return Ok(()) };
    let own_file = match error.part.as_str() {
        "template.html" => part.html_file.as_ref(),
        "template.text" => part.text_file.as_ref(),
        _ => None,
    };
    let message = match own_file {
        // The place is in that file, as editors and compilers write it.
        Some(path) if error.line > 0 => {
            format!("{}:{}:{}: {} ({})", path.display(), error.line, error.column.max(1), error.message, error.part)
        }
        Some(path) => format!("{}: {} ({})", path.display(), error.message, error.part),
        None => format!("{file}: {error}"),
    };
    Err(Failure::usage(message))
}

#[cfg(test)]
mod tests;
