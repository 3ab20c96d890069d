//! What a campaign may have called: its URL, its headers and the names of its secrets. Where it leads is checked by whoever
//! calls it, at each call.

use super::Invalid;
use super::validate::COLUMN_BYTES_MAX;
use postrider_common::campaign::{HttpSource, TextForm};
use postrider_common::duration;
use postrider_common::limits::SQL_QUERY_BYTES_MAX;
use postrider_common::limits::{CALL_HEADERS_MAX, DATA_TIMEOUT_MS_MAX, DATA_TIMEOUT_MS_MIN, HTTP_TIMEOUT_MS_MAX};
use postrider_common::message::{DataSql, DataUrl};
use postrider_outgoing::{InvalidTarget, Secret, SecretText, Target};
use std::collections::BTreeMap;
use std::time::Duration;

/// Bytes of the value of one header.
const VALUE_BYTES_MAX: usize = 4096;
/// Set by the client, or they say where a message ends.
const OWN_HEADERS: [&str; 9] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "te",
    "transfer-encoding",
];

pub fn data_url(data: &DataUrl) -> Result<(), Invalid> {
    url("data_url", &data.url)?;
    if !(DATA_TIMEOUT_MS_MIN..=DATA_TIMEOUT_MS_MAX).contains(&data.timeout_ms) {
        let print = |ms| duration::print(Duration::from_millis(ms));
        let why = format!("it must be from {} to {}", print(DATA_TIMEOUT_MS_MIN), print(DATA_TIMEOUT_MS_MAX));
        return Err(Invalid::field("data_url.timeout", why));
    }
    if !data.secret.is_empty() {
        let invalid = |error: postrider_outgoing::InvalidSecret| Invalid::field("data_url.secret", error.to_string());
        data.secret.parse::<Secret>().map_err(invalid)?;
    }
    headers("data_url.headers", &data.headers)
}

pub fn data_sql(data: &DataSql) -> Result<(), Invalid> {
    let wrong = |field: &str, why: String| Err(Invalid::field(format!("data_sql.{field}"), why));
    if data.url.parse::<Secret>().is_err() {
        // What was written there is not repeated: it may be a password.
        let why = "it must be \"env:NAME\", a variable of the workers that holds the URL of the database, and never the \
                   URL itself, which may have a password";
        return wrong("url", why.to_owned());
    }
    if data.query.len() > SQL_QUERY_BYTES_MAX {
        let (size, max) = (data.query.len() as u64, SQL_QUERY_BYTES_MAX as u64);
        return Err(Invalid::Limit { field: "data_sql.query".into(), limit: "sql_query_bytes_max", size, max });
    }
    if data.query.contains('\0') || !postrider_sql::wants_keys(&data.query) {
        let why = "it must be one SELECT that says where it wants the keys of the recipients, such as WHERE id IN (:keys), \
                   with Postgres WHERE id = ANY(:keys)";
        return wrong("query", why.to_owned());
    }
    if data.key.is_empty() || data.key.len() > COLUMN_BYTES_MAX || data.key.chars().any(char::is_control) {
        return wrong("key", "it must be the column of the query that holds the key of the recipient".to_owned());
    }
    if !(DATA_TIMEOUT_MS_MIN..=DATA_TIMEOUT_MS_MAX).contains(&data.timeout_ms) {
        let print = |ms| duration::print(Duration::from_millis(ms));
        let why = format!("it must be from {} to {}", print(DATA_TIMEOUT_MS_MIN), print(DATA_TIMEOUT_MS_MAX));
        return wrong("timeout", why);
    }
    Ok(())
}

/// `audience.http`.
pub fn http(source: &HttpSource, text: &TextForm) -> Result<(), Invalid> {
    url("audience.http", &source.url)?;
    if !(1_000..=HTTP_TIMEOUT_MS_MAX).contains(&source.timeout_ms) {
        return Err(Invalid::field("audience.http.timeout", "it must be from 1s to 1h"));
    }
    if *text != TextForm::default() {
        let why = "pages are NDJSON in UTF-8: leave audience.encoding and audience.delimiter out";
        return Err(Invalid::field("audience.http", why));
    }
    headers("audience.http.headers", &source.headers)
}

pub fn url(field: &str, url: &str) -> Result<(), Invalid> {
    match url.parse::<Target>() {
        // Whether it is spoken depends on the build of whoever calls it.
        Ok(_) | Err(InvalidTarget::NoTls) => Ok(()),
        Err(error) => Err(Invalid::field(field, error.to_string())),
    }
}

pub fn headers(field: &str, headers: &BTreeMap<String, String>) -> Result<(), Invalid> {
    if headers.len() > CALL_HEADERS_MAX {
        let size = headers.len() as u64;
        let (field, limit, max) = (field.to_owned(), "call_headers_max", CALL_HEADERS_MAX as u64);
        return Err(Invalid::Limit { field, limit, size, max });
    }
    for (name, value) in headers {
        let shown: String = name.escape_debug().take(80).collect();
        let wrong = |why: &str| Err(Invalid::field(format!("{field}.{shown}"), why));
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || name.len() > 100 || !name.bytes().all(is_token) {
            return wrong("it is not the name of a header");
        }
        let lower = name.to_ascii_lowercase();
        if OWN_HEADERS.contains(&lower.as_str()) || lower.starts_with("webhook-") {
            return wrong("it is set by Postrider: leave it out");
        }
        if value.len() > VALUE_BYTES_MAX || value.chars().any(char::is_control) {
            return wrong("its value is too long or has a control character");
        }
        if value.starts_with("env:") && value.parse::<Secret>().is_err() {
            return wrong("what follows env: is not the name of a variable");
        }
        let is_secret = ["authorization", "cookie", "proxy-authorization"].contains(&lower.as_str());
        if is_secret && !value.starts_with("env:") {
            return wrong(
                "it would be stored with the campaign: write \"env:NAME\", all of the value in that variable",
            );
        }
    }
    Ok(())
}

/// For whoever calls: the values of headers.
pub fn revealed(
    headers: &BTreeMap<String, String>,
    settings: &postrider_outgoing::Settings,
) -> Result<Vec<(String, SecretText)>, String> {
    let read = |(name, value): (&String, &String)| match SecretText::given(value, settings) {
        Ok(text) => Ok((name.clone(), text)),
        Err(error) => Err(format!("headers.{name}: {error}")),
    };
    headers.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> DataUrl {
        DataUrl {
            url: "https://fields.example/batch?of=all".into(),
            timeout_ms: 5_000,
            secret: "env:DATA_SECRET".into(),
            on_missing: postrider_common::message::OnMissingData::Reject,
            headers: BTreeMap::from([("Authorization".into(), "env:DATA_TOKEN".into()), ("X-Of".into(), "us".into())]),
        }
    }

    #[test]
    fn a_query_for_fields_says_where_it_wants_the_keys() {
        let good = || DataSql {
            url: "env:DATA_DB".into(),
            query: "SELECT id, name FROM people WHERE id IN (:keys)".into(),
            key: "id".into(),
            timeout_ms: 5_000,
            on_missing: postrider_common::message::OnMissingData::Reject,
        };
        assert_eq!(data_sql(&good()), Ok(()));
        let check = |change: fn(&mut DataSql), parts: &[&str]| {
            let mut changed = good();
            change(&mut changed);
            let error = data_sql(&changed).expect_err("refused").to_string();
            for part in parts {
                assert!(error.contains(part), "'{error}' has no '{part}'");
            }
            assert!(!error.contains("hunter2"), "{error}");
        };
        check(|d| d.url = "postgres://ada:hunter2@db/people".into(), &["data_sql.url: ", "env:NAME"]);
        check(|d| d.query = "SELECT id FROM people -- :keys".into(), &["data_sql.query: ", "IN (:keys)", "ANY(:keys)"]);
        check(|d| d.query.push_str(&" ".repeat(70_000)), &["data_sql.query", "sql_query_bytes_max"]);
        check(|d| d.key = String::new(), &["data_sql.key: "]);
        check(|d| d.timeout_ms = 60_001, &["data_sql.timeout: ", "from 1s to 1m"]);
    }

    #[test]
    fn a_good_one_passes_and_the_others_say_why() {
        assert_eq!(data_url(&good()), Ok(()));
        let check = |change: fn(&mut DataUrl), parts: &[&str]| {
            let mut changed = good();
            change(&mut changed);
            let error = data_url(&changed).expect_err("refused").to_string();
            for part in parts {
                assert!(error.contains(part), "'{error}' has no '{part}'");
            }
            assert!(!error.contains("hunter2"), "{error}");
        };
        check(|d| d.url = "ftp://fields.example".into(), &["data_url: ", "ftp:// is refused"]);
        check(|d| d.url = "https://ada:hunter2@fields.example".into(), &["data_url: ", "a user or a password"]);
        check(|d| d.timeout_ms = 999, &["data_url.timeout: ", "from 1s to 1m"]);
        check(|d| d.secret = "hunter2".into(), &["data_url.secret: ", "env:NAME"]);
        check(|d| drop(d.headers.insert("a b".into(), "x".into())), &["data_url.headers.a b: "]);
        check(|d| drop(d.headers.insert("Host".into(), "x".into())), &["data_url.headers.Host: ", "Postrider"]);
        check(|d| drop(d.headers.insert("Webhook-Id".into(), "x".into())), &["data_url.headers.Webhook-Id: "]);
        check(
            |d| drop(d.headers.insert("Cookie".into(), "hunter2".into())),
            &["data_url.headers.Cookie: ", "env:NAME"],
        );
        check(|d| drop(d.headers.insert("X-A".into(), "a\r\nB: c".into())), &["data_url.headers.X-A: "]);
        check(|d| drop(d.headers.insert("X-A".into(), "env:A B".into())), &["data_url.headers.X-A: ", "env:"]);
        check(|d| d.headers.extend((0..20).map(|n| (format!("X-{n}"), String::new()))), &["call_headers_max"]);
    }
}
