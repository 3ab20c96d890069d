//! What the rows of a query say of the recipients of a batch. Pure.

use super::answer::{Absent, Found, checked};
use postrider_common::limits::DATA_ANSWER_BYTES_MAX;
use serde_json::Value;
use std::collections::BTreeMap;

/// What is known of each recipient so far.
pub(super) struct Answers<'a> {
    key: &'a str,
    indexes: BTreeMap<&'a str, u32>,
    found: BTreeMap<u32, Found>,
    bytes: u64,
}

impl<'a> Answers<'a> {
    pub fn of(key: &'a str, keys: &[(u32, &'a str)]) -> Self {
        let indexes = keys.iter().map(|(index, key)| (*key, *index)).collect();
        let found = keys.iter().map(|(index, _)| (*index, Err(Absent::Missing))).collect();
        Self { key, indexes, found, bytes: 0 }
    }

    /// Before the first row: its columns.
    pub fn begin_rows(&self, columns: &[String]) -> Result<(), String> {
        match columns.iter().any(|column| column == self.key) {
            true => Ok(()),
            false => Err(format!("the query has no column '{}' (data_sql.key)", self.key)),
        }
    }

    /// Rows of others say nothing.
    pub fn take(&mut self, line: &[u8]) -> Result<(), String> {
        self.bytes += line.len() as u64;
        if self.bytes > DATA_ANSWER_BYTES_MAX {
            return Err(format!("the rows of a batch have over {DATA_ANSWER_BYTES_MAX} bytes (data_answer_bytes_max)"));
        }
        // What cannot be read is not repeated.
        let row = serde_json::from_slice(line).map_err(|_| "a row is no JSON".to_owned())?;
        let Value::Object(fields) = row else { return Err("a row is no object".to_owned()) };
        let key = match fields.get(self.key) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) | None => return Ok(()),
        };
        let Some(found) = self.indexes.get(key.as_str()).and_then(|index| self.found.get_mut(index)) else {
            return Ok(());
        };
        *found = match found {
            Err(Absent::Missing) => checked(Some(Value::Object(fields))),
            Ok(_) | Err(Absent::Shape | Absent::Size | Absent::Several) => Err(Absent::Several),
        };
        Ok(())
    }

    pub fn end(self) -> BTreeMap<u32, Found> {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_recipient_gets_its_row() {
        let keys = [(0, "ada"), (3, "7"), (4, "twice"), (5, "nobody")];
        let mut answers = Answers::of("id", &keys);
        assert!(answers.begin_rows(&["name".to_owned()]).is_err());
        assert!(answers.begin_rows(&["id".to_owned(), "name".to_owned()]).is_ok());
        for row in [
            json!({"id": "ada", "name": "Ada"}),
            json!({"id": 7, "name": "Seven"}),
            json!({"id": "twice", "name": "1"}),
            json!({"id": "twice", "name": "2"}),
            json!({"id": "stranger", "name": "x"}),
            json!({"id": null, "name": "x"}),
        ] {
            answers.take(row.to_string().as_bytes()).unwrap();
        }
        let found = &answers.found;
        assert_eq!(found[&0], Ok(json!({"id": "ada", "name": "Ada"}).as_object().unwrap().clone()));
        assert_eq!(found[&3].as_ref().map(|fields| fields["name"].clone()), Ok(json!("Seven")));
        assert_eq!((&found[&4], &found[&5]), (&Err(Absent::Several), &Err(Absent::Missing)));
        assert!(answers.take(b"{\"secret").is_err_and(|why| !why.contains("secret")));
        let long = vec![b' '; usize::try_from(DATA_ANSWER_BYTES_MAX).unwrap()];
        assert!(answers.take(&long).is_err_and(|why| why.contains("data_answer_bytes_max")));
        assert_eq!(answers.end().len(), keys.len());
    }
}
