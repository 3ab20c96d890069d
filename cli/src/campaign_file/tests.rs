//! Good files become campaigns; every wrong one says what, where and what to write instead.

use super::*;
use crate::failure::Exit;
use postrider_common::campaign::{
    Audience, AudienceFormat, CatchUp, HttpSource, OnGap, OnOverlap, Overlap, Schedule, Source, SqlSource, When,
};
use postrider_common::local_time::{Passed, SendAtLocal, UnknownZone};
use postrider_common::windows::{RecipientClock, Window, Windows};

const GOOD: &str = r#"
name = "daily-digest"
from = "Acme Digest <digest@acme.example>"
reply_to = "support@acme.example"
lane = "bulk"
on_unknown = "hold"
schedule = { cron = "0 8 * * *", time_zone = "Europe/Berlin" }
[audience]
csv = "recipients.csv"
address = "email"
[template]
subject = "Your digest, {{ name }}"
html = "digest.html"
text_inline = "Hello {{ name }}"
headers = { X-Team = "news" }
tags = ["digest"]
"#;

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("recipients.csv"), "email,name\nada@example.com,Ada\n").expect("written");
    std::fs::write(folder.path().join("digest.html"), "<p>Hello {{ name }}</p>\n").expect("written");
    std::fs::write(folder.path().join("broken.html"), "<p>\n  {{ name \n</p>\n").expect("written");
    std::fs::write(folder.path().join("latin1.txt"), b"caf\xe9").expect("written");
    std::fs::write(folder.path().join("big.html"), vec![b'x'; 1024 * 1024 + 1]).expect("written");
    std::fs::write(folder.path().join("empty.csv"), "").expect("written");
    folder
}

fn complaint(text: &str) -> String {
    let folder = folder();
    let failure = parse_campaign("c.toml", folder.path(), text).expect_err("it must be refused");
    assert_eq!(failure.exit, Exit::Usage);
    failure.message.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn a_good_file_becomes_a_campaign() {
    let folder = folder();
    let file = parse_campaign("c.toml", folder.path(), GOOD).expect("good");
    let campaign = &file.campaign;
    assert_eq!((campaign.name.as_str(), campaign.lane.as_str()), ("daily-digest", "bulk"));
    assert_eq!((campaign.on_unknown, campaign.on_bad_row), (OnUnknown::Hold, OnBadRow::Skip));
    assert_eq!(campaign.schedule, Some(Schedule::cron("0 8 * * *", "Europe/Berlin")));
    assert_eq!(campaign.message.html, "<p>Hello {{ name }}</p>\n");
    assert_eq!(campaign.message.text, "Hello {{ name }}");
    assert_eq!(campaign.message.reply_to, "support@acme.example");
    assert_eq!(campaign.message.headers.get("X-Team").map(String::as_str), Some("news"));
    assert_eq!(campaign.message.tags, ["digest"]);
    let audience = file.audience.expect("an audience");
    assert_eq!((audience.format, audience.address_field.as_str()), (AudienceFormat::Csv, "email"));
    assert_eq!(audience.path, folder.path().join("recipients.csv"));
    assert_eq!(file.notices, Vec::<String>::new());
}

#[test]
fn a_schedule_is_read_with_every_policy() {
    let folder = folder();
    let read = |schedule: &str| {
        let text = GOOD.replace("schedule = { cron = \"0 8 * * *\", time_zone = \"Europe/Berlin\" }", schedule);
        parse_campaign("c.toml", folder.path(), &text).expect("good").campaign.schedule.expect("a schedule")
    };
    let all = "schedule = { cron = \"0 8 * * *\", time_zone = \"UTC\", on_gap = \"skip\", on_overlap = \"twice\", \
        catch_up = \"all\", catch_up_limit = 3, catch_up_window = \"2d\", start_deadline = \"15m\", overlap = \"allow\", \
        jitter = \"5m\", start = 2026-11-01, end = \"2026-12-31T12:00\" }";
    let expected = Schedule {
        on_gap: OnGap::Skip,
        on_overlap: OnOverlap::Twice,
        catch_up: CatchUp::All { max: 3, window_ms: 172_800_000 },
        start_deadline_ms: Some(900_000),
        overlap: Overlap::Allow,
        jitter_ms: 300_000,
        start: "2026-11-01".into(),
        end: "2026-12-31T12:00".into(),
        ..Schedule::cron("0 8 * * *", "UTC")
    };
    assert_eq!(read(all), expected);
    let once = |at: &str, zone: &str| Schedule::new(When::At(at.into()), zone);
    for at in ["2026-12-24T08:00:00", "\"2026-12-24T08:00:00\""] {
        let text = format!("schedule = {{ at = {at}, time_zone = \"Europe/Berlin\", catch_up = \"none\" }}");
        assert_eq!(read(&text), Schedule { catch_up: CatchUp::None, ..once("2026-12-24T08:00:00", "Europe/Berlin") });
    }
    let instant = read("schedule = { at = 2026-12-24T08:00:00+01:00, overlap = \"cancel_previous\" }");
    assert_eq!(instant, Schedule { overlap: Overlap::CancelPrevious, ..once("2026-12-24T08:00:00+01:00", "") });
}

#[test]
fn the_time_of_each_recipient_is_read() {
    let folder = folder();
    let read =
        |text: &str| parse_campaign("c.toml", folder.path(), &GOOD.replace("lane = \"bulk\"", text)).expect("good");
    let file = read("send_at_local = \"08:00\"");
    assert_eq!(file.campaign.send_at_local, Some(SendAtLocal::new("08:00".parse().expect("a time"))));
    assert_eq!(file.campaign.schedule.expect("one").overlap, Overlap::Allow, "a run goes on for a day");
    let all = "send_at_local = { at = \"18:30\", zone = \"tz\", country = \"land\", default_zone = \"UTC\", \
        passed = \"at_once\", unknown_zone = \"default\" }";
    let expected = SendAtLocal {
        at: "18:30".parse().expect("a time"),
        zone: Some("tz".into()),
        country: Some("land".into()),
        default_zone: "UTC".into(),
        passed: Passed::AtOnce,
        unknown_zone: UnknownZone::Default,
    };
    let campaign = read(all).campaign;
    assert_eq!(campaign.send_at_local.as_ref(), Some(&expected));
    let wire = postrider_proto::v1::Campaign::from(campaign.clone());
    assert_eq!(Campaign::try_from(wire).expect("reads"), campaign);
}

#[test]
fn windows_are_a_table_or_several() {
    let folder = folder();
    let read =
        |text: &str| parse_campaign("c.toml", folder.path(), &GOOD.replace("lane = \"bulk\"", text)).expect("good");
    let window = |from: &str, to: &str, days: &str, time_zone: &str| Window {
        from: from.into(),
        to: to.into(),
        days: days.into(),
        time_zone: time_zone.into(),
    };
    let text = "send_window = [{ from = \"08:00\", to = \"12:00\", days = \"MON-FRI\" }, { from = \"14:00\", to = \"18:00\" }]\n\
        quiet_hours = { days = \"SUN\", time_zone = \"recipient\" }\n\
        recipient_clock = { zone = \"tz\", default_zone = \"Europe/Berlin\", unknown_zone = \"default\" }";
    let campaign = read(text).campaign;
    let clock = RecipientClock {
        zone: Some("tz".into()),
        country: None,
        default_zone: "Europe/Berlin".into(),
        unknown_zone: UnknownZone::Default,
    };
    let expected = Windows {
        send: vec![window("08:00", "12:00", "MON-FRI", ""), window("14:00", "18:00", "", "")],
        quiet: vec![window("", "", "SUN", "recipient")],
        clock: Some(clock),
    };
    assert_eq!(campaign.message.windows, expected);
    let wire = postrider_proto::v1::Campaign::from(campaign.clone());
    assert_eq!(Campaign::try_from(wire).expect("reads"), campaign);
    assert!(read("lane = \"bulk\"").campaign.message.windows.is_empty());
}

#[test]
fn everything_wrong_is_told_at_once_with_its_line() {
    let text = "nam = \"x\"\nfrom = \"nobody\"\n[template]\nhtml = \"none.html\"\n";
    let expected = [
        "c.toml:1: there is no key nam; the nearest is name",
        "c.toml: name is missing: write name = \"daily-digest\"",
        "c.toml:2: from: 'nobody' is not a sender: write it like \"Acme Digest <digest@acme.example>\"",
        "c.toml:3: template.subject is missing: write subject = \"…\"",
        "c.toml:4: template.html: none.html: No such file or directory (os error 2)",
    ];
    let given = complaint(text);
    let lines: Vec<&str> = given.lines().map(str::trim).collect();
    assert_eq!(lines, expected);
}

#[test]
fn wrong_files_say_what_to_write() {
    // What to replace in the good file, by what, and what is said then.
    let rows = [
        ("name = \"daily-digest\"", "name = \"Daily Digest\"", "c.toml:2: name: 'Daily Digest' is not a campaign name"),
        ("name = \"daily-digest\"", "name = 3", "c.toml:2: name must be a text in quotes, not a whole number"),
        ("lane = \"bulk\"", "lane = \"Bulk\"", "c.toml:5: lane: 'Bulk' is not a lane name"),
        ("on_unknown = \"hold\"", "on_unknown = \"drop\"", "on_unknown must be one of resend, hold, not 'drop'"),
        ("time_zone", "timezone", "c.toml:7: there is no key schedule.timezone; the nearest is schedule.time_zone"),
        ("cron = \"0 8 * * *\", ", "", "c.toml:7: schedule.cron is missing"),
        (
            "cron = \"0 8 * * *\"",
            "cron = \"0 8 * * *\", overlap = \"queue\"",
            "c.toml:7: schedule.overlap must be one of skip, allow, cancel_previous, not 'queue'",
        ),
        (
            "cron = \"0 8 * * *\"",
            "cron = \"0 8 * * *\", send_at_local = \"08:00\"",
            "c.toml:7: schedule.send_at_local: it stands at the top of the file, beside schedule",
        ),
        (
            "lane = \"bulk\"",
            "send_at_local = \"8\"",
            "c.toml:5: send_at_local: '8' is not a time of the day: write one",
        ),
        ("lane = \"bulk\"", "send_at_local = 8", "send_at_local must be a time of the day in quotes, not a whole"),
        (
            "lane = \"bulk\"",
            "send_window = { from = \"8\", to = \"20:00\" }",
            "c.toml:5: send_window.from: '8' is not a time of the day: write one",
        ),
        (
            "lane = \"bulk\"",
            "quiet_hours = [{ from = \"21:00\", to = \"08:00\" }, { form = \"21:00\" }]",
            "c.toml:5: there is no key quiet_hours[1].form; the nearest is quiet_hours[1].from",
        ),
        (
            "lane = \"bulk\"",
            "send_window = \"08:00\"",
            "c.toml:5: send_window must be a table such as { from = \"08:00\"",
        ),
        (
            "lane = \"bulk\"",
            "send_at_local = \"08:00\"\nrecipient_clock = { zone = \"tz\" }",
            "c.toml:6: recipient_clock: send_at_local says by which columns recipients live",
        ),
        ("lane = \"bulk\"", "send_at_local = {}", "c.toml:5: send_at_local.at is missing: write at = \"08:00\""),
        (
            "lane = \"bulk\"",
            "send_at_local = { at = \"08:00\", passed = \"later\" }",
            "send_at_local.passed must be one of next_day, at_once, skip, not 'later'",
        ),
        (
            "lane = \"bulk\"",
            "send_at_local = { at = \"08:00\", time_zone = \"x\" }",
            "there is no key send_at_local.time_zone; the nearest is",
        ),
        (
            "lane = \"bulk\"",
            "send_at_local = { at = \"08:00\", zone = \"\" }",
            "send_at_local.zone is empty: give a name",
        ),
        (
            "cron = \"0 8 * * *\"",
            "cron = \"0 8 * * *\", at = 2026-12-24T08:00:00",
            "schedule.cron and schedule.at are both there",
        ),
        (
            "cron = \"0 8 * * *\"",
            "cron = \"0 8 * * *\", catch_up_limit = 3",
            "schedule.catch_up_limit goes with catch_up = \"all\" only",
        ),
        (
            "cron = \"0 8 * * *\"",
            "cron = \"0 8 * * *\", catch_up = \"all\", catch_up_limit = 0",
            "schedule.catch_up_limit must be a whole number above 0",
        ),
        ("cron = \"0 8 * * *\"", "cron = \"0 8 * * *\", jitter = \"5\"", "schedule.jitter: '5' is not a duration"),
        (
            "cron = \"0 8 * * *\"",
            "cron = \"0 8 * * *\", start_deadline = \"0s\"",
            "schedule.start_deadline is nothing: leave it out",
        ),
        (", time_zone = \"Europe/Berlin\"", "", "c.toml:7: schedule.time_zone is missing"),
        ("csv = \"recipients.csv\"", "csv = \"none.csv\"", "c.toml:9: audience none.csv: No such file"),
        ("csv = \"recipients.csv\"", "csv = \"empty.csv\"", "audience empty.csv: it is empty"),
        ("csv = \"recipients.csv\"", "", "[audience] names no source"),
        ("csv = \"recipients.csv\"", "sql = { url = \"env:X\" }", "audience.sql.query is missing"),
        (
            "csv = \"recipients.csv\"",
            "sql = { url = \"postgres://u:secret@db/x\", query = \"q\" }",
            "audience.sql.url: it must say where the master finds the database",
        ),
        ("csv = \"recipients.csv\"", "sql = { url = \"env:X\", query = 3 }", "audience.sql.query must be a text"),
        (
            "csv = \"recipients.csv\"",
            "sql = { url = \"env:X\", query = \"q\", timeout = \"5\" }",
            "audience.sql.timeout: '5' is not a duration",
        ),
        (
            "csv = \"recipients.csv\"",
            "sql = { url = \"env:X\", query = \"q\", key = \"id\" }\nkey = \"id\"",
            "audience.key and audience.sql.key are both there",
        ),
        (
            "csv = \"recipients.csv\"",
            "sql = { url = \"env:X\", query = \"q\" }\nencoding = \"latin1\"",
            "audience.encoding says nothing of a query",
        ),
        ("csv = \"recipients.csv\"", "file = \"people.txt\"", "audience.file: its name must end in .csv"),
        ("csv = \"recipients.csv\"", "http = \"ftp://x\"", "audience.http: ftp:// is refused"),
        (
            "csv = \"recipients.csv\"",
            "csv = \"recipients.csv\"\nndjson = \"a\"",
            "csv and audience.ndjson are both there",
        ),
        ("csv = \"recipients.csv\"", "csv = \"recipients.csv\"\non_bad_row = \"stop\"", "must be one of skip, fail"),
        (
            "address = \"email\"",
            "address = \"mail\"",
            "the audience has no column 'mail' (audience.address); it has 'email', 'name'; did you mean 'email'?",
        ),
        ("address = \"email\"", "address = \"email\"\nkey = \"id\"", "the audience has no column 'id' (audience.key)"),
        ("address = \"email\"", "address = \"email\"\nencoding = \"latin-x\"", "there is no encoding 'latin-x'"),
        ("address = \"email\"", "address = \"email\"\ndelimiter = \";;\"", "audience.delimiter must be one character"),
        ("address = \"email\"", "address = \"email\"\ncolumns = \"x\"", "audience.columns must be a table"),
        (
            "address = \"email\"",
            "address = \"email\"\ncolumns = { Vorname = \"first\" }",
            "the audience has no column 'Vorname' (audience.columns)",
        ),
        ("address = \"email\"", "", "audience.address is missing"),
        ("html = \"digest.html\"", "html = \"latin1.txt\"", "template.html: latin1.txt: it is not UTF-8 at byte 3"),
        ("html = \"digest.html\"", "html = \"big.html\"", "more than template_bytes_max (1048576)"),
        ("text_inline", "txt_inline", "there is no key template.txt_inline; the nearest is template.text_inline"),
        ("tags = [\"digest\"]", "tags = \"digest\"", "template.tags must be a list of texts"),
        ("tags = [\"digest\"]", "reply_to = \"a@b.example\"", "reply_to is there twice"),
        ("tags = [\"digest\"]", "html_inline = \"x\"", "template.html and template.html_inline are both there"),
        ("X-Team = \"news\"", "X-Team = 3", "template.headers.X-Team must be a text, not a whole number"),
        ("html = \"digest.html\"", "html = \"broken.html\"", "broken.html:3:2: syntax error"),
        ("Hello {{ name }}", "Hello {% if %}", "c.toml: template.text line 1"),
        ("{{ name }}\"", "{{ name\"", "c.toml: template.subject line 1"),
        ("X-Team", "Bcc", "headers.Bcc"),
        ("[template]", "[templates]", "there is no key templates; the nearest is template"),
    ];
    for (from, to, expected) in rows {
        assert!(GOOD.contains(from), "{from}");
        let text = complaint(&GOOD.replacen(from, to, 1));
        assert!(text.contains(expected), "{to}\n{text}");
        assert!(!text.contains("secret"), "{text}");
    }
}

#[test]
fn a_source_that_a_master_reads_is_not_looked_at_here() {
    let with = |source: &str| {
        let text = GOOD.replacen("csv = \"recipients.csv\"", source, 1);
        let file = parse_campaign("c.toml", folder().path(), &text).expect("a campaign");
        assert_eq!(file.audience, None);
        file.campaign.audience.expect("an audience")
    };
    let audience = with("sql = { url = \"env:DIGEST_DB\", query = \"SELECT 1\", key = \"id\", timeout = \"90s\" }");
    let database = "env:DIGEST_DB".parse().expect("a place");
    let sql = SqlSource { database, query: "SELECT 1".into(), timeout_ms: 90_000 };
    assert_eq!((audience.source, audience.key_field.as_deref()), (Source::Sql(sql), Some("id")));
    let audience = with("file = \"daily/people.ndjson.gz\"\nencoding = \"utf-8\"");
    let file = Source::File { path: "daily/people.ndjson.gz".into(), format: AudienceFormat::Ndjson };
    assert_eq!((audience.source, audience.key_field), (file, None));
    let http = |timeout_ms, headers: &[(&str, &str)]| {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Source::Http(HttpSource { url: "http://crm.example/people".into(), headers, timeout_ms })
    };
    assert_eq!(with("http = \"http://crm.example/people\"").source, http(300_000, &[]));
    let whole = "http = { url = \"http://crm.example/people\", timeout = \"9s\", headers = { X-Of = \"env:A\" } }";
    assert_eq!(with(whole).source, http(9_000, &[("X-Of", "env:A")]));
    let list = Source::List { name: "customers".parse().expect("a name") };
    assert_eq!(with("list = \"customers\"").source, list);
    let address = GOOD.lines().find(|line| line.starts_with("address")).expect("a line");
    let text = GOOD.replacen("csv = \"recipients.csv\"", "list = \"customers\"", 1).replacen(address, "", 1);
    let file = parse_campaign("c.toml", folder().path(), &text).expect("a campaign");
    let audience = file.campaign.audience.expect("an audience");
    assert_eq!((audience.source, audience.address_field.as_str()), (list, ""), "the list has its own");
}

#[test]
fn a_message_file_is_short_or_a_campaign() {
    let folder = folder();
    let parse = |text: &str, from| parse_message("m.toml", folder.path(), text, from);
    let bare = "from = \"a@acme.example\"\nsubject = \"Hi\"\nhtml = \"digest.html\"\nlane = \"bulk\"\n";
    let file = parse(bare, None).expect("good");
    assert_eq!((file.message.subject.as_str(), file.lane.as_ref().map(LaneName::as_str)), ("Hi", Some("bulk")));
    let file = parse(GOOD, None).expect("a campaign file will do");
    assert_eq!(file.message.from, "Acme Digest <digest@acme.example>");
    let without = "subject = \"Hi\"\ntext_inline = \"x\"\n";
    assert!(parse(without, None).expect_err("no sender").message.contains("from is missing"));
    assert_eq!(parse(without, Some("b@acme.example")).expect("good").message.from, "b@acme.example");
    assert!(parse(without, Some("b")).expect_err("wrong").message.contains("--from 'b' is not a sender"));
    let text = parse("subjekt = \"Hi\"\n", None).expect_err("unknown").message;
    assert!(text.contains("m.toml:1: there is no key subjekt; the nearest is subject"), "{text}");
}

#[test]
fn an_audience_given_apart_is_told_by_its_ending() {
    let folder = folder();
    let own = || Audience::of(Source::Inline { rows: Vec::new() }, "email");
    let of = |name: &str| AudienceFile::of_path(&folder.path().join(name), own());
    assert_eq!(of("recipients.csv").expect("good").format, AudienceFormat::Csv);
    assert!(of("digest.html").expect_err("no ending").message.contains("must end in .csv, .ndjson or .jsonl"));
    assert!(of("none.csv").expect_err("none").message.contains("No such file"));
}

#[test]
fn fields_may_be_fetched_from_a_url() {
    use postrider_common::message::{DataSql, DataUrl, OnMissingData};
    let folder = folder();
    let with = |line: &str| format!("{line}\n{GOOD}");
    let read = |line: &str| {
        let file = parse_campaign("c.toml", folder.path(), &with(line)).expect("good");
        file.campaign.message.data_url.expect("it is there")
    };
    let plain = DataUrl {
        url: "http://fields.example/batch".into(),
        timeout_ms: 10_000,
        secret: String::new(),
        on_missing: OnMissingData::Reject,
        headers: Default::default(),
    };
    assert_eq!(read("data_url = \"http://fields.example/batch\""), plain);
    let whole = read(
        "data_url = { url = \"http://fields.example/batch\", timeout = \"3s\", secret = \"env:DATA_SECRET\", \
         on_missing_data = \"send\", headers = { Authorization = \"env:TOKEN\" } }",
    );
    let (secret, headers) = ("env:DATA_SECRET".to_owned(), [("Authorization".into(), "env:TOKEN".into())].into());
    let on_missing = OnMissingData::Send;
    assert_eq!(whole, DataUrl { timeout_ms: 3_000, secret, on_missing, headers, ..plain });
    let text =
        "data_sql = { url = \"env:DATA_DB\", query = \"SELECT 1 WHERE 1 IN (:keys)\", key = \"id\", timeout = \"3s\" }";
    let file = parse_campaign("c.toml", folder.path(), &format!("{text}\n{GOOD}")).expect("a campaign");
    let query = "SELECT 1 WHERE 1 IN (:keys)".to_owned();
    let (url, key, on_missing) = ("env:DATA_DB".to_owned(), "id".to_owned(), OnMissingData::Reject);
    assert_eq!(file.campaign.message.data_sql, Some(DataSql { url, query, key, timeout_ms: 3_000, on_missing }));
    for (line, parts) in [
        ("data_url = 7", &["c.toml:1: data_url must be a URL in quotes"][..]),
        ("data_sql = 7", &["c.toml:1: data_sql must be a table"]),
        ("data_sql = { url = \"mysql://ada:hunter2@x\", query = \"q\" }", &["data_sql.key is missing", "env:NAME"]),
        ("data_sql = { url = \"env:A\", query = \"q\", key = \"k\", timeout = \"x\" }", &["data_sql.timeout: 'x'"]),
        (
            "data_url = \"http://x.example\"\ndata_sql = { url = \"env:A\", query = \"q\", key = \"k\" }",
            &["c.toml:1: data_url and data_sql are both there"],
        ),
        ("data_url = \"ftp://fields.example\"", &["c.toml:1: data_url: ftp:// is refused"]),
        ("data_url = \"http://ada:hunter2@fields.example\"", &["data_url: it has a user or a password"]),
        ("data_url = { timeout = \"3s\" }", &["data_url.url is missing"]),
        ("data_url = { url = \"http://x.example\", timeout = \"3\" }", &["data_url.timeout: '3' is not a duration"]),
        ("data_url = { url = \"http://x.example\", secret = \"hunter2\" }", &["data_url.secret: ", "env:NAME"]),
        ("data_url = { url = \"http://x.example\", on_missing_data = \"skip\" }", &["reject, send, defer, not 'skip'"]),
        ("data_url = { url = \"http://x.example\", secrets = \"\" }", &["no key data_url.secrets; the nearest is"]),
    ] {
        let why = complaint(&with(line));
        for part in parts {
            assert!(why.contains(part), "{why}");
        }
        assert!(!why.contains("hunter2"), "{why}");
    }
}
