//! What an endpoint answers: `{"recipients": {"KEY": {"field": value, …}, …}}`.

use postrider_common::limits::{FIELD_BYTES_MAX, FIELDS_MAX, RECIPIENT_BYTES_MAX};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The fetched fields of one recipient, or why there are none.
pub(crate) type Found = Result<Map<String, Value>, Absent>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Absent {
    #[error("what was fetched does not name this recipient")]
    Missing,
    #[error("what was fetched for this recipient is not an object of fields")]
    Shape,
    #[error("what was fetched for this recipient is over the limit of fields or of their size")]
    Size,
    #[error("the query of data_sql gives several rows for this recipient")]
    #[cfg_attr(not(any(feature = "sql", test)), expect(dead_code, reason = "only queries give several"))]
    Several,
}

#[derive(Debug, Deserialize)]
struct Answer {
    recipients: BTreeMap<String, Value>,
}

/// Errors: an answer that cannot be read; they repeat nothing of it.
pub(super) fn read(body: &[u8], keys: &[(u32, &str)]) -> Result<BTreeMap<u32, Found>, String> {
    let mut answer: Answer = serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        format!("its answer is not {{\"recipients\": {{KEY: {{…}}}}}} (line {line}, column {column})")
    })?;
    Ok(keys.iter().map(|(index, key)| (*index, checked(answer.recipients.remove(*key)))).collect())
}

/// The limits of a row of an audience hold for what is fetched.
pub(super) fn checked(value: Option<Value>) -> Found {
    let fields = match value {
        None | Some(Value::Null) => return Err(Absent::Missing),
        Some(Value::Object(fields)) => fields,
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => return Err(Absent::Shape),
    };
    let size = |(name, value): (&String, &Value)| {
        name.len() + value.as_str().map_or_else(|| value.to_string().len(), str::len)
    };
    let mut total = 0;
    for field in &fields {
        let bytes = size(field);
        total += bytes;
        if bytes > FIELD_BYTES_MAX {
            return Err(Absent::Size);
        }
    }
    if fields.len() > FIELDS_MAX || total > RECIPIENT_BYTES_MAX {
        return Err(Absent::Size);
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_recipient_gets_what_is_said_of_it() {
        let long = "x".repeat(FIELD_BYTES_MAX + 1);
        let many: Map<String, Value> = (0..=FIELDS_MAX).map(|n| (n.to_string(), json!(1))).collect();
        let body = json!({
            "recipients": {
                "ada": {"name": "Ada", "points": 7}, "none": null, "list": [1], "long": {"text": long}, "many": many,
                "stranger": {"name": "somebody else"},
            },
            "other": "is ignored",
        });
        let keys = [(0, "ada"), (2, "none"), (3, "list"), (4, "long"), (5, "many"), (6, "nobody")];
        let found = read(body.to_string().as_bytes(), &keys).unwrap();
        assert_eq!(found[&0], Ok(json!({"name": "Ada", "points": 7}).as_object().unwrap().clone()));
        assert_eq!(found[&2], Err(Absent::Missing));
        assert_eq!(found[&3], Err(Absent::Shape));
        assert_eq!((&found[&4], &found[&5]), (&Err(Absent::Size), &Err(Absent::Size)));
        assert_eq!(found[&6], Err(Absent::Missing));
        assert_eq!(found.len(), keys.len());
    }

    #[test]
    fn what_is_no_answer_is_not_repeated() {
        for body in ["", "secret", "[]", "{}", "{\"recipients\": []}", "{\"recipients\": {\"secret\": "] {
            let why = read(body.as_bytes(), &[(0, "a")]).unwrap_err();
            assert!(why.contains("is not {\"recipients\"") && !why.contains("secret"), "{why}");
        }
    }
}
