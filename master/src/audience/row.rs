//! Decides whether a record is a recipient. Pure; reasons never carry the address or a value.

use postrider_common::Address;
use postrider_common::campaign::Audience;
use postrider_common::limits::{FIELD_BYTES_MAX, FIELDS_MAX, KEY_BYTES_MAX, RECIPIENT_BYTES_MAX};
use postrider_common::message::Recipient;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// One record of an audience.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// 1-based record number, the header not counted.
    pub number: u64,
    pub recipient: Result<Recipient, RowReason>,
}

/// Why a row is not admitted. For people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RowReason(pub String);

/// What is left of a row that was erased.
const ERASED: &str = "it was erased";

impl RowReason {
    pub fn erased() -> Self {
        Self::new(ERASED)
    }

    /// No fault of the audience: it fails no run.
    pub fn is_erased(&self) -> bool {
        self.0 == ERASED
    }

    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// Which members of a record are its address and its key, and which have another name in the source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roles {
    pub address_field: String,
    /// None: the normalised address.
    pub key_field: Option<String>,
    /// By their name in the source.
    pub columns: BTreeMap<String, String>,
}

impl Roles {
    pub fn of(audience: &Audience) -> Self {
        Self {
            address_field: audience.address_field.clone(),
            key_field: audience.key_field.clone(),
            columns: audience.columns.clone(),
        }
    }

    /// The columns that must be there, under the names of the source, with the setting that names each.
    pub fn wanted(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let renamed = self.columns.keys().map(|source| ("columns", source.as_str()));
        let named = [("address", Some(&self.address_field)), ("key", self.key_field.as_ref())];
        let named = named.into_iter().filter_map(|(setting, name)| Some((setting, name?.as_str())));
        renamed.chain(named.filter(|(_, name)| !self.columns.values().any(|column| column == name)))
    }

    /// The name that a column of the source has from here on.
    pub fn name_of<'a>(&'a self, column: &'a str) -> &'a str {
        self.columns.get(column).map_or(column, String::as_str)
    }
}

/// Gives the members of a record the names they are to have.
pub fn renamed(mut fields: Map<String, Value>, roles: &Roles) -> Result<Map<String, Value>, RowReason> {
    let moved: Vec<_> =
        roles.columns.iter().filter_map(|(source, name)| Some((name, fields.remove(source)?))).collect();
    for (name, value) in moved {
        if fields.insert(name.clone(), value).is_some() {
            return Err(RowReason::new(format!("two members have the name '{}'", super::shorten(name))));
        }
    }
    Ok(fields)
}

/// Checks a record and takes it apart: the address leaves the fields, the rest are merge fields.
pub fn admit(mut fields: Map<String, Value>, roles: &Roles) -> Result<Recipient, RowReason> {
    check_sizes(&fields)?;
    let address = match fields.remove(&roles.address_field) {
        Some(Value::String(text)) => text,
        None | Some(Value::Null) => return Err(missing("address", &roles.address_field)),
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            return Err(RowReason::new(format!(
                "the address in '{}' is not a text",
                super::shorten(&roles.address_field)
            )));
        }
    };
    let address: Address = address.parse().map_err(|error| RowReason::new(format!("{error}")))?;
    if address.is_erased() {
        return Err(RowReason::erased());
    }
    let key = match &roles.key_field {
        None => address.normalised(),
        Some(name) if *name == roles.address_field => address.normalised(),
        Some(name) => key_of(fields.get(name), name)?,
    };
    Ok(Recipient { address, key, fields })
}

fn missing(what: &str, name: &str) -> RowReason {
    RowReason::new(format!("the {what} in '{}' is missing", super::shorten(name)))
}

fn key_of(value: Option<&Value>, name: &str) -> Result<String, RowReason> {
    let key = match value {
        Some(Value::String(text)) => text.trim().to_owned(),
        Some(Value::Number(number)) => number.to_string(),
        None | Some(Value::Null) => return Err(missing("key", name)),
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
            return Err(RowReason::new(format!("the key in '{}' is neither text nor number", super::shorten(name))));
        }
    };
    if key.is_empty() {
        return Err(RowReason::new(format!("the key in '{}' is empty", super::shorten(name))));
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(RowReason::new(format!("the key is longer than {KEY_BYTES_MAX} bytes (key_bytes_max)")));
    }
    if key.chars().any(char::is_control) {
        return Err(RowReason::new("the key has a control character"));
    }
    Ok(key)
}

/// Bytes of a recipient as limits count them; the same for the same recipient, wherever it was kept.
pub fn weight(recipient: &Recipient) -> usize {
    let fields: usize = recipient.fields.iter().map(|(name, value)| name.len() + size_of(value)).sum();
    recipient.address.as_str().len() + recipient.key.len() + fields
}

fn check_sizes(fields: &Map<String, Value>) -> Result<(), RowReason> {
    if fields.len() > FIELDS_MAX {
        return Err(RowReason::new(format!("it has more than {FIELDS_MAX} fields (fields_max)")));
    }
    let mut total = 0;
    for (name, value) in fields {
        if name.contains('\0') || has_nul(value) {
            return Err(RowReason::new(format!("the field '{}' has a NUL character", super::shorten(name))));
        }
        let bytes = size_of(value);
        if bytes > FIELD_BYTES_MAX {
            let name = super::shorten(name);
            return Err(RowReason::new(format!(
                "the field '{name}' is over {FIELD_BYTES_MAX} bytes (field_bytes_max)"
            )));
        }
        total += bytes + name.len();
    }
    if total > RECIPIENT_BYTES_MAX {
        return Err(RowReason::new(format!("its fields are over {RECIPIENT_BYTES_MAX} bytes (recipient_bytes_max)")));
    }
    Ok(())
}

// Recursion below is bounded: serde_json refuses text nested deeper than 128.

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Object(map) => map.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn size_of(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(|v| size_of(v) + 1).sum(),
        Value::Object(map) => map.iter().map(|(name, v)| name.len() + size_of(v) + 4).sum(),
        // Not its digits: a weight must be the same after a number went through the store.
        Value::Number(_) => 24,
        Value::Null | Value::Bool(_) => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(record: Value, expected: Result<(&str, &str), &str>) {
        let Value::Object(fields) = record.clone() else { panic!("an object") };
        let roles = Roles {
            address_field: "email".into(),
            key_field: record.get("id").map(|_| "id".into()),
            ..Roles::default()
        };
        match (admit(fields, &roles), expected) {
            (Ok(recipient), Ok((address, key))) => {
                assert_eq!((recipient.address.as_str(), recipient.key.as_str()), (address, key));
                assert!(!recipient.fields.contains_key("email"));
            }
            (Err(reason), Err(part)) => assert!(reason.0.contains(part), "{reason} has no '{part}'"),
            (got, expected) => panic!("{record}: got {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn a_record_is_a_recipient_or_says_why_not() {
        check(json!({"email": "Ada@Example.com", "name": "Ada"}), Ok(("Ada@Example.com", "ada@example.com")));
        check(json!({"email": "a@example.com", "id": 7}), Ok(("a@example.com", "7")));
        check(json!({"email": "a@example.com", "id": "x y"}), Ok(("a@example.com", "x y")));
        check(json!({"name": "Ada"}), Err("missing"));
        check(json!({"email": null}), Err("missing"));
        check(json!({"email": 5}), Err("not a text"));
        check(json!({"email": "no-at"}), Err("not a mail address"));
        check(json!({"email": "a@example.com\r\nBcc: b@example.com"}), Err("control character"));
        check(json!({"email": "a@example.com", "id": ""}), Err("is empty"));
        check(json!({"email": "a@example.com", "id": []}), Err("neither text nor number"));
        check(json!({"email": "a@example.com", "id": "k".repeat(257)}), Err("key_bytes_max"));
        check(json!({"email": "a@example.com", "x": ["\0"]}), Err("NUL"));
        check(json!({"email": "a@example.com", "x": {"\0": 1}}), Err("NUL"));
        check(json!({"email": "a@example.com", "x": "y".repeat(FIELD_BYTES_MAX + 1)}), Err("field_bytes_max"));
        let wide: Map<String, Value> = (0..300).map(|n| (n.to_string(), json!(1))).collect();
        check(Value::Object(wide), Err("fields_max"));
        let heavy: Map<String, Value> = (0..5).map(|n| (n.to_string(), json!("z".repeat(60_000)))).collect();
        check(Value::Object(heavy), Err("recipient_bytes_max"));
    }

    #[test]
    fn a_reason_never_carries_the_address() {
        for wrong in ["secret.person", "secret.person@", "secret person@example.com", "<secret.person@example.com>"] {
            let Value::Object(fields) = json!({"email": wrong}) else { panic!("an object") };
            let roles = Roles { address_field: "email".into(), ..Roles::default() };
            let reason = admit(fields, &roles).expect_err("bad").0;
            assert!(!reason.contains("secret"), "{reason}");
        }
    }
}
