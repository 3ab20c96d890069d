//! Checks a campaign or a single message before it is kept. Pure; every error names field and mend.

use super::{calls, submit};
use crate::audience::text;
use crate::fetch;
use crate::schedule::{self, Hours, TimeZone, Zones};
use postrider_common::campaign::{Audience, Campaign, CatchUp, Schedule, Source, SqlSource, When};
use postrider_common::lane::Lane;
use postrider_common::limits::{
    CATCH_UP_RUNS_MAX, FIELD_BYTES_MAX, FIELDS_MAX, JITTER_MS_MAX, SQL_QUERY_BYTES_MAX, SQL_TIMEOUT_MS_MAX,
    SQL_TIMEOUT_MS_MIN, TEMPLATE_BYTES_MAX,
};
use postrider_common::message::MessageSpec;
use postrider_common::wire::InvalidField;
use postrider_common::{LaneName, ids::InvalidId};
use postrider_mail::Template;
use std::collections::BTreeSet;

/// Extra header fields of one message.
pub const HEADERS_MAX: usize = 50;
/// Bytes of the template of one header field.
pub const HEADER_BYTES_MAX: usize = 4096;
/// Tags of one message.
pub const TAGS_MAX: usize = 20;
/// Characters of one tag.
pub const TAG_CHARS_MAX: usize = 64;
/// Bytes of a subject's template. Lines of a header are far shorter; templates may be longer than what they say.
pub const SUBJECT_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a field that holds an address with its display name.
pub const MAILBOX_BYTES_MAX: usize = 1024;
/// Bytes of a column's name.
pub const COLUMN_BYTES_MAX: usize = 256;
/// Bytes of a path.
pub const PATH_BYTES_MAX: usize = 1024;
/// Bytes of a URL.
pub const URL_BYTES_MAX: usize = 2048;
/// Bytes of a cron expression or of a time zone's name.
pub const SCHEDULE_BYTES_MAX: usize = 256;
/// Masters look for what is due a few times a second.
pub const START_DEADLINE_MS_MIN: u64 = 1_000;
/// Bytes of a correlation id.
pub const CORRELATION_ID_BYTES_MAX: usize = 128;

/// Why a definition is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("{field}: {why}")]
    Field { field: String, why: String },
    /// A named limit is passed.
    #[error("{field}: {size} is over the limit of {max} ({limit}); make it smaller")]
    Limit { field: String, limit: &'static str, size: u64, max: u64 },
}

impl Invalid {
    pub fn field(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Field { field: field.into(), why: why.into() }
    }

    pub fn id(field: &str) -> impl Fn(InvalidId) -> Self {
        let field = field.to_owned();
        move |error| Self::field(field.clone(), error.to_string())
    }
}

impl From<InvalidField> for Invalid {
    fn from(error: InvalidField) -> Self {
        Self::field(error.field, error.why)
    }
}

/// The lane of that name, or an error that lists the lanes there are.
pub fn lane<'a>(name: &LaneName, lanes: &'a [Lane]) -> Result<&'a Lane, Invalid> {
    lanes.iter().find(|lane| lane.name == *name).ok_or_else(|| {
        let known = lanes.iter().map(|lane| lane.name.as_str()).collect::<Vec<_>>().join(", ");
        Invalid::field(
            "lane",
            format!("there is no lane '{name}'; known lanes: {known}; use one of them or add [[lane]] to the config"),
        )
    })
}

/// All of a campaign but whether its audience is in the storage.
pub fn campaign(campaign: &Campaign, lanes: &[Lane], zones: &Zones) -> Result<(), Invalid> {
    let lane = lane(&campaign.lane, lanes)?;
    if let Some(schedule) = &campaign.schedule {
        self::schedule(schedule, campaign.name.as_str(), zones)?;
        if campaign.audience.is_none() {
            let why = "a campaign with a schedule needs one: add [audience], or leave the schedule out";
            return Err(Invalid::field("audience", why));
        }
    }
    send_at_local(campaign, lane, zones)?;
    windows(campaign, lane, zones)?;
    if let Some(audience) = &campaign.audience {
        self::audience(audience)?;
    }
    within("notify_url", &campaign.notify_url, "url_bytes_max", URL_BYTES_MAX)?;
    no_controls("notify_url", &campaign.notify_url)?;
    message(&campaign.message)
}

fn schedule(schedule: &Schedule, campaign: &str, zones: &Zones) -> Result<(), Invalid> {
    let (when, field) = match &schedule.when {
        When::Cron(pattern) => (pattern, "schedule.cron"),
        When::At(at) => (at, "schedule.at"),
    };
    let texts = [
        (field, when),
        ("schedule.time_zone", &schedule.time_zone),
        ("schedule.start", &schedule.start),
        ("schedule.end", &schedule.end),
    ];
    for (field, text) in texts {
        within(field, text, "schedule_bytes_max", SCHEDULE_BYTES_MAX)?;
        no_controls(field, text)?;
    }
    let may_lack_zone = matches!(schedule.when, When::At(_));
    for (field, text) in [(field, when), ("schedule.time_zone", &schedule.time_zone)] {
        if text.trim().is_empty() && !(may_lack_zone && text.is_empty() && field == "schedule.time_zone") {
            return Err(Invalid::field(field, "it is empty: give it, or leave the schedule out"));
        }
    }
    if let CatchUp::All { max, window_ms } = schedule.catch_up {
        counted("schedule.catch_up_limit", max as usize, "catch_up_runs_max", CATCH_UP_RUNS_MAX as usize)?;
        if max == 0 || window_ms == 0 {
            return Err(Invalid::field("schedule.catch_up", "nothing would be caught up with: write \"none\""));
        }
    }
    if schedule.start_deadline_ms.is_some_and(|ms| ms < START_DEADLINE_MS_MIN) {
        let why = "nothing begins so exactly: give at least 1s, or leave it out";
        return Err(Invalid::field("schedule.start_deadline", why));
    }
    if schedule.jitter_ms > JITTER_MS_MAX {
        return Err(Invalid::field("schedule.jitter", "it is at most one day (jitter_ms_max)"));
    }
    schedule::read(schedule, campaign, zones)
        .map(|_| ())
        .map_err(|error| Invalid::field(error.field(), error.to_string()))
}

fn send_at_local(campaign: &Campaign, lane: &Lane, zones: &Zones) -> Result<(), Invalid> {
    let Some(local) = submit::local(campaign, lane) else { return Ok(()) };
    let key = if local.windows_only { "recipient_clock" } else { "send_at_local" };
    let columns = [(format!("{key}.zone"), &local.rule.zone), (format!("{key}.country"), &local.rule.country)];
    for (field, name) in columns.iter().map(|(field, name)| (field.as_str(), *name)) {
        let Some(name) = name else { continue };
        within(field, name, "column_bytes_max", COLUMN_BYTES_MAX)?;
        no_controls(field, name)?;
    }
    let field = &*format!("{key}.default_zone");
    if local.rule.default_zone.is_empty() {
        let why = "it is missing, and there is no schedule with a time zone: write default_zone = \"Europe/Berlin\"";
        return Err(Invalid::field(field, why));
    }
    within(field, &local.rule.default_zone, "schedule_bytes_max", SCHEDULE_BYTES_MAX)?;
    no_controls(field, &local.rule.default_zone)?;
    zones.get(&local.rule.default_zone).map(drop).map_err(|error| Invalid::field(field, error.to_string()))
}

/// Those of the campaign, and that they and those of its lane are open at the same time now and then.
fn windows(campaign: &Campaign, lane: &Lane, zones: &Zones) -> Result<(), Invalid> {
    let windows = submit::windows(campaign, lane);
    for window in windows.send.iter().chain(&windows.quiet) {
        within("send_window.days", &window.days, "schedule_bytes_max", SCHEDULE_BYTES_MAX)?;
        within("send_window.time_zone", &window.time_zone, "schedule_bytes_max", SCHEDULE_BYTES_MAX)?;
    }
    let hours = Hours::new(&windows, zones).map_err(|error| Invalid::field(error.field, error.why))?;
    let clock = windows.clock.as_ref().and_then(|clock| zones.find(&clock.default_zone)).unwrap_or(TimeZone::UTC);
    let field = if windows.send.is_empty() { "quiet_hours" } else { "send_window" };
    if !hours.ever_opens(&clock) {
        return Err(Invalid::field(field, schedule::NEVER));
    }
    let of_lane = Hours::new(&lane.windows, zones).unwrap_or_default();
    if !hours.is_empty() && !hours.and(&of_lane).ever_opens(&clock) {
        let why =
            format!("they are never open at the same time as those of the lane '{}': change one of them", lane.name);
        return Err(Invalid::field(field, why));
    }
    Ok(())
}

pub fn audience(audience: &Audience) -> Result<(), Invalid> {
    let columns = [("audience.address", Some(&audience.address_field)), ("audience.key", audience.key_field.as_ref())];
    for (field, name) in columns {
        let Some(name) = name else { continue };
        within(field, name, "column_bytes_max", COLUMN_BYTES_MAX)?;
        no_controls(field, name)?;
    }
    counted("audience.columns", audience.columns.len(), "fields_max", FIELDS_MAX)?;
    let mut names = BTreeSet::new();
    for (source, name) in &audience.columns {
        let field = format!("audience.columns.{}", shown(source));
        within(&field, source, "column_bytes_max", COLUMN_BYTES_MAX)?;
        within(&field, name, "column_bytes_max", COLUMN_BYTES_MAX)?;
        no_controls(&field, source)?;
        no_controls(&field, name)?;
        if source.is_empty() || name.is_empty() {
            return Err(Invalid::field(
                field,
                "a name is empty: give the column of the source and the name it is to have",
            ));
        }
        if !names.insert(name) {
            return Err(Invalid::field(field, format!("another column has the name '{}' as well", shown(name))));
        }
    }
    if let Some(label) = audience.text.encoding.as_ref().filter(|label| text::encoding(label).is_none()) {
        let why = format!("there is no encoding '{}'; {}", shown(label), text::ENCODING_MEND);
        return Err(Invalid::field("audience.encoding", why));
    }
    if let Some(delimiter) = audience.text.delimiter.filter(|c| !c.is_ascii() || matches!(c, '"' | '\r' | '\n' | '\0'))
    {
        let why = format!("{delimiter:?} cannot separate columns: give one ASCII character, such as \";\"");
        return Err(Invalid::field("audience.delimiter", why));
    }
    source(audience)
}

fn source(audience: &Audience) -> Result<(), Invalid> {
    match &audience.source {
        Source::Stored { .. } => {}
        Source::List { .. } => {
            if audience.text != Default::default() {
                let why =
                    "a list has neither encoding nor delimiter: leave audience.encoding and audience.delimiter out";
                return Err(Invalid::field("audience.list", why));
            }
        }
        Source::Inline { rows } => {
            for (index, row) in rows.iter().enumerate() {
                within(&format!("audience.inline[{index}]"), row, "row_bytes_max", 4 * FIELD_BYTES_MAX)?;
            }
        }
        Source::File { path, format: _ } => {
            within("audience.file", path, "path_bytes_max", PATH_BYTES_MAX)?;
            no_controls("audience.file", path)?;
            if path.is_empty() {
                return Err(Invalid::field("audience.file", "it is empty: name a file below master.files_root"));
            }
        }
        Source::Http(http) => calls::http(http, &audience.text)?,
        Source::Sql(SqlSource { database, query, timeout_ms }) => {
            within("audience.sql.url", &database.to_string(), "path_bytes_max", PATH_BYTES_MAX)?;
            within("audience.sql.query", query, "sql_query_bytes_max", SQL_QUERY_BYTES_MAX)?;
            if query.trim().is_empty() || query.contains('\0') {
                return Err(Invalid::field("audience.sql.query", "it is empty, or has a NUL: write one SELECT"));
            }
            if !(SQL_TIMEOUT_MS_MIN..=SQL_TIMEOUT_MS_MAX).contains(timeout_ms) {
                return Err(Invalid::field("audience.sql.timeout", "it must be from 1s to 12h"));
            }
            if audience.text != Default::default() {
                let why =
                    "a query has neither encoding nor delimiter: leave audience.encoding and audience.delimiter out";
                return Err(Invalid::field("audience.sql", why));
            }
        }
    }
    fetch::supports(&audience.source).map_err(|why| Invalid::field("audience", why))
}

/// Sizes first, then what the templates say.
pub fn message(message: &MessageSpec) -> Result<(), Invalid> {
    if message.from.trim().is_empty() {
        return Err(Invalid::field("from", "it is missing: give a mailbox such as Acme <digest@acme.example>"));
    }
    for (field, text) in
        [("from", &message.from), ("reply_to", &message.reply_to), ("return_path", &message.return_path)]
    {
        within(field, text, "mailbox_bytes_max", MAILBOX_BYTES_MAX)?;
    }
    if message.subject.trim().is_empty() {
        return Err(Invalid::field("template.subject", "it is empty: give the message a subject"));
    }
    within("template.subject", &message.subject, "subject_bytes_max", SUBJECT_BYTES_MAX)?;
    within("template.html", &message.html, "template_bytes_max", TEMPLATE_BYTES_MAX)?;
    within("template.text", &message.text, "template_bytes_max", TEMPLATE_BYTES_MAX)?;
    counted("headers", message.headers.len(), "headers_max", HEADERS_MAX)?;
    for (name, value) in &message.headers {
        within(&format!("headers.{}", shown(name)), value, "header_bytes_max", HEADER_BYTES_MAX)?;
    }
    counted("tags", message.tags.len(), "tags_max", TAGS_MAX)?;
    for tag in &message.tags {
        let printable = tag.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && byte != b',');
        if tag.is_empty() || tag.len() > TAG_CHARS_MAX || !printable {
            let why = format!("'{}': a tag is 1 to {TAG_CHARS_MAX} printable characters without spaces", shown(tag));
            return Err(Invalid::field("tags", why));
        }
    }
    correlation_id(&message.correlation_id)?;
    message.data_url.as_ref().map_or(Ok(()), calls::data_url)?;
    message.data_sql.as_ref().map_or(Ok(()), calls::data_sql)?;
    if message.data_sql.is_some() && cfg!(not(feature = "sql")) {
        // Nor can the workers, most likely.
        let why = "this build cannot read databases: use one with the feature sql (cargo build --features sql), for masters \
                   and workers";
        return Err(Invalid::field("data_sql", why));
    }
    if message.data_url.is_some() && message.data_sql.is_some() {
        return Err(Invalid::field("data_sql", "data_url is there as well: keep one of them"));
    }
    Template::compile(message).map(|_| ()).map_err(|error| {
        let place = match (error.line, error.column) {
            (0, _) => String::new(),
            (line, 0) => format!("line {line}: "),
            (line, column) => format!("line {line}, column {column}: "),
        };
        Invalid::field(error.part.clone(), format!("{place}{}", error.message))
    })
}

pub fn correlation_id(text: &str) -> Result<(), Invalid> {
    if text.len() <= CORRELATION_ID_BYTES_MAX && text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) {
        return Ok(());
    }
    let why = format!("it must be at most {CORRELATION_ID_BYTES_MAX} printable ASCII characters");
    Err(Invalid::field("correlation_id", why))
}

fn within(field: &str, text: &str, limit: &'static str, max: usize) -> Result<(), Invalid> {
    counted(field, text.len(), limit, max)
}

fn counted(field: &str, size: usize, limit: &'static str, max: usize) -> Result<(), Invalid> {
    if size <= max {
        return Ok(());
    }
    Err(Invalid::Limit { field: field.to_owned(), limit, size: size as u64, max: max as u64 })
}

fn no_controls(field: &str, text: &str) -> Result<(), Invalid> {
    if text.chars().any(char::is_control) {
        return Err(Invalid::field(field, "it has a control character: remove it"));
    }
    Ok(())
}

fn shown(text: &str) -> String {
    text.escape_debug().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_common::campaign::{OnBadRow, OnGap, OnUnknown};
    use postrider_common::lane;
    use postrider_common::windows::Window;

    fn good() -> Campaign {
        Campaign {
            name: "digest".parse().unwrap(),
            lane: LaneName::bulk(),
            on_unknown: OnUnknown::Resend,
            on_bad_row: OnBadRow::Skip,
            schedule: Some(Schedule::cron("0 8 * * *", "Europe/Berlin")),
            send_at_local: None,
            audience: Some(Audience::of(Source::Inline { rows: vec!["{}".into()] }, "email")),
            message: MessageSpec {
                from: "Acme Digest <digest@acme.example>".into(),
                subject: "Hello {{ name }}".into(),
                text: "Hello {{ name }}".into(),
                ..MessageSpec::default()
            },
            notify_url: String::new(),
        }
    }

    fn check(change: impl FnOnce(&mut Campaign), parts: &[&str]) {
        let mut changed = good();
        change(&mut changed);
        let error = campaign(&changed, &lane::defaults(), &Zones::bundled()).expect_err("refused").to_string();
        for part in parts {
            assert!(error.contains(part), "'{error}' has no '{part}'");
        }
    }

    #[test]
    fn a_good_campaign_passes() {
        assert_eq!(campaign(&good(), &lane::defaults(), &Zones::bundled()), Ok(()));
    }

    #[test]
    fn errors_name_the_field_and_the_mend() {
        check(|c| c.lane = "fast".parse().unwrap(), &["lane: ", "'fast'", "transactional, bulk", "[[lane]]"]);
        check(|c| c.message.from = String::new(), &["from: ", "missing"]);
        check(|c| c.message.from = "nobody".into(), &["from: "]);
        check(|c| c.message.reply_to = "a@".into(), &["reply_to: "]);
        check(|c| c.message.return_path = "@b".into(), &["return_path: "]);
        check(|c| c.message.subject = " ".into(), &["template.subject: ", "empty"]);
        check(|c| c.message.text = String::new(), &["html", "text"]);
        check(|c| c.message.text = "a\n{{ name".into(), &["template.text: line 2"]);
        check(|c| c.message.html = "<p>{% if %}</p>".into(), &["template.html: line 1, column"]);
        check(|c| c.message.html = "x".repeat(TEMPLATE_BYTES_MAX + 1), &["template.html", "template_bytes_max"]);
        check(|c| drop(c.message.headers.insert("Bcc".into(), "x".into())), &["headers.Bcc"]);
        check(|c| drop(c.message.headers.insert("X-A".into(), "y".repeat(5000))), &["headers.X-A", "header_bytes_max"]);
        check(|c| c.message.tags = vec!["a b".into()], &["tags: ", "'a b'"]);
        check(|c| c.message.tags = vec!["a".into(); 21], &["tags: ", "tags_max"]);
        check(|c| c.schedule = Some(Schedule::cron(" ", "UTC")), &["schedule.cron: "]);
        check(|c| c.schedule = Some(Schedule::cron("* * * * *", "")), &["schedule.time_zone"]);
        let schedule = |cron: &str, zone: &str| Some(Schedule::cron(cron, zone));
        check(|c| c.schedule = schedule("0 25 * * *", "UTC"), &["schedule.cron: ", "'0 25 * * *' is not"]);
        check(|c| c.schedule = schedule("0 8 30 2 *", "UTC"), &["schedule.cron: ", "never due"]);
        check(
            |c| c.schedule = schedule("0 8 * * *", "Europe/Berln"),
            &["schedule.time_zone: ", "the nearest is Europe/Berlin"],
        );
        let with = |change: fn(&mut Schedule)| move |c: &mut Campaign| change(c.schedule.as_mut().unwrap());
        let at = |schedule: &mut Schedule, text: &str| schedule.when = When::At(text.to_owned());
        check(with(|s| s.when = When::At("tomorrow".into())), &["schedule.at: ", "'tomorrow'", "2026-12-24T08:00"]);
        check(with(|s| s.when = When::At("2026-12-24".into())), &["schedule.at: "]);
        check(with(|s| s.when = When::At("2026-12-24T08:00:00Z".into())), &["schedule.at: ", "offset"]);
        check(
            move |c| {
                let schedule = c.schedule.as_mut().unwrap();
                at(schedule, "2026-03-29T02:30");
                schedule.on_gap = OnGap::Skip;
            },
            &["schedule.at: ", "Europe/Berlin skips 2026-03-29T02:30"],
        );
        check(with(|s| s.start = "soon".into()), &["schedule.start: ", "'soon'"]);
        check(with(|s| s.end = "2026-13-01".into()), &["schedule.end: ", "'2026-13-01'"]);
        check(
            with(|s| (s.start, s.end) = ("2026-12-24".into(), "2026-12-23".into())),
            &["schedule.end: ", "nothing is due between"],
        );
        check(with(|s| s.jitter_ms = 86_400_001), &["schedule.jitter: ", "jitter_ms_max"]);
        check(with(|s| s.start_deadline_ms = Some(999)), &["schedule.start_deadline: ", "1s"]);
        check(
            with(|s| s.catch_up = CatchUp::All { max: 1001, window_ms: 1 }),
            &["schedule.catch_up_limit: ", "catch_up_runs_max"],
        );
        let window = |from: &str, to: &str, zone: &str| Window {
            from: from.into(),
            to: to.into(),
            days: String::new(),
            time_zone: zone.into(),
        };
        check(|c| c.message.windows.send = vec![window("8", "20:00", "")], &["send_window.from: ", "08:00"]);
        check(
            |c| c.message.windows.quiet = vec![window("21:00", "08:00", "Europe/Berln")],
            &["quiet_hours.time_zone: ", "the nearest is Europe/Berlin"],
        );
        check(
            |c| {
                (c.message.windows.send, c.message.windows.quiet) =
                    (vec![window("08:00", "20:00", "")], vec![window("07:00", "21:00", "")])
            },
            &["send_window: ", "could never begin"],
        );
        check(
            |c| (c.schedule, c.message.windows.send) = (None, vec![window("08:00", "20:00", "")]),
            &["send_window.time_zone: ", "missing"],
        );
        check(
            |c| (c.schedule, c.message.windows.send) = (None, vec![window("08:00", "20:00", "recipient")]),
            &["recipient_clock.default_zone: ", "missing"],
        );
        check(|c| c.audience = None, &["audience: ", "schedule"]);
        check(|c| c.notify_url = "http://x\r\n".into(), &["notify_url: ", "control"]);
        check(
            |c| c.audience.as_mut().unwrap().key_field = Some("x".repeat(300)),
            &["audience.key: ", "column_bytes_max"],
        );
    }
}
