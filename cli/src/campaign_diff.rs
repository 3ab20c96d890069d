//! What differs between two definitions of a campaign. Pure: two definitions in, text or a list of changes out.
//!
//! Both are written as TOML with the names of the contract, and compared line by line: a field that a later version adds
//! is compared without being named here.

use crate::failure::{Failure, Result};
use crate::output::clean;
use postrider_common::campaign::Campaign;
use serde::Serialize;
use serde_json::Value;
use similar::TextDiff;
use std::collections::BTreeMap;

/// Unchanged lines shown around a change.
const CONTEXT_LINES: usize = 3;

/// One field that differs. Null: it is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Such as `message.subject`.
    pub path: String,
    pub before: Value,
    pub after: Value,
}

/// A unified diff; empty: they are the same.
pub fn text(before: (&str, &Campaign), after: (&str, &Campaign)) -> Result<String> {
    let (one, other) = (toml_of(before.1)?, toml_of(after.1)?);
    let diff = TextDiff::from_lines(&one, &other);
    let unified = diff.unified_diff().context_radius(CONTEXT_LINES).header(before.0, after.0).to_string();
    Ok(unified.lines().map(clean).collect::<Vec<_>>().join("\n"))
}

/// By path, in order.
pub fn changes(before: &Campaign, after: &Campaign) -> Result<Vec<Change>> {
    let (mut one, mut other) = (BTreeMap::new(), BTreeMap::new());
    flatten(String::new(), value_of(before)?, &mut one);
    flatten(String::new(), value_of(after)?, &mut other);
    let gone = one.iter().filter(|(path, _)| !other.contains_key(*path));
    let gone = gone.map(|(path, value)| Change { path: path.clone(), before: value.clone(), after: Value::Null });
    let differ = other.iter().filter(|(path, value)| one.get(*path) != Some(*value)).map(|(path, value)| Change {
        path: path.clone(),
        before: one.get(path).cloned().unwrap_or_default(),
        after: value.clone(),
    });
    let mut changes: Vec<Change> = gone.chain(differ).collect();
    changes.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(changes)
}

fn toml_of(campaign: &Campaign) -> Result<String> {
    toml::to_string_pretty(campaign).map_err(|error| Failure::failed(format!("the campaign cannot be shown: {error}")))
}

fn value_of(campaign: &Campaign) -> Result<Value> {
    serde_json::to_value(campaign).map_err(|error| Failure::failed(format!("the campaign cannot be shown: {error}")))
}

/// Tables by path; lists are values. What is not given is not there.
fn flatten(path: String, value: Value, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name } else { format!("{path}.{name}") };
                flatten(path, value, into);
            }
        }
        Value::Null => {}
        value @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            into.insert(path, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_common::campaign::{Audience, AudienceFormat, OnBadRow, OnUnknown, Schedule, Source};
    use postrider_common::message::MessageSpec;
    use serde_json::json;

    fn campaign() -> Campaign {
        let stored = Source::Stored { sha256: "ab".repeat(32), format: AudienceFormat::Csv };
        Campaign {
            name: "daily".parse().expect("a name"),
            lane: "bulk".parse().expect("a lane"),
            on_unknown: OnUnknown::Resend,
            on_bad_row: OnBadRow::Skip,
            schedule: Some(Schedule::cron("0 8 * * *", "Europe/Berlin")),
            audience: Some(Audience::of(stored, "email")),
            message: MessageSpec {
                from: "a@example.com".into(),
                subject: "Hello".into(),
                text: "one\ntwo\nthree\n".into(),
                ..MessageSpec::default()
            },
            notify_url: String::new(),
        }
    }

    #[test]
    fn the_same_has_no_difference() {
        assert_eq!(text(("a", &campaign()), ("b", &campaign())).expect("toml"), "");
        assert_eq!(changes(&campaign(), &campaign()).expect("json"), []);
    }

    #[test]
    fn lines_of_templates_and_policies_are_compared() {
        let mut after = campaign();
        after.message.text = "one\n2\u{1b}[31m\nthree\n".into();
        after.on_unknown = OnUnknown::Hold;
        let text = text(("version 1", &campaign()), ("version 2", &after)).expect("toml");
        for line in [
            "--- version 1",
            "+++ version 2",
            "-two",
            "+2\\u001B[31m",
            " three",
            "-on_unknown = \"Resend\"",
            "+on_unknown = \"Hold\"",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} in\n{text}");
        }
        assert!(!text.contains("one\n-one"), "{text}");
    }

    #[test]
    fn changes_have_a_path_and_both_values() {
        let mut after = campaign();
        after.message.subject = "Hello again".into();
        after.schedule = None;
        let changes = changes(&campaign(), &after).expect("json");
        let find = |path: &str| changes.iter().find(|change| change.path == path).cloned();
        let subject = Change { path: "message.subject".into(), before: json!("Hello"), after: json!("Hello again") };
        assert_eq!(find("message.subject"), Some(subject));
        let zone = find("schedule.time_zone").expect("it went away");
        assert_eq!((zone.before, zone.after), (json!("Europe/Berlin"), Value::Null));
        assert!(changes.iter().all(|change| change.path == "message.subject" || change.path.starts_with("schedule.")));
    }
}
