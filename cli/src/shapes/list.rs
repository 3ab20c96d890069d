//! Saved lists, for JSON readers.

use super::instant;
use crate::failure::{Failure, Result};
use postrider_proto::v1;
use serde::Serialize;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SavedList {
    pub list: String,
    pub version: u64,
    pub rows: u64,
    pub address: String,
    pub key: Option<String>,
    pub columns: Vec<String>,
    pub more_columns: bool,
    pub changed_at: Option<String>,
    pub change: &'static str,
    pub counts: ListCounts,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ListCounts {
    pub added: u64,
    pub replaced: u64,
    pub removed: u64,
    pub absent: u64,
    pub repeated_rows: u64,
    pub bad_rows: u64,
}

/// What a change came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListChanged {
    pub list: String,
    pub version: u64,
    pub changed: bool,
    pub rows: u64,
    pub counts: ListCounts,
    pub refused: Vec<RefusedRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusedRow {
    pub row: u64,
    pub reason: String,
}

impl From<v1::ListCounts> for ListCounts {
    fn from(wire: v1::ListCounts) -> Self {
        let v1::ListCounts { added, replaced, removed, absent, repeated_rows, bad_rows } = wire;
        Self { added, replaced, removed, absent, repeated_rows, bad_rows }
    }
}

impl ListCounts {
    /// Those that are not zero, for people.
    pub fn told(&self) -> String {
        let all = [
            ("added", self.added),
            ("replaced", self.replaced),
            ("removed", self.removed),
            ("not in the list", self.absent),
            ("repeated", self.repeated_rows),
            ("bad", self.bad_rows),
        ];
        let parts: Vec<String> = all
            .into_iter()
            .filter(|(_, number)| *number > 0)
            .map(|(name, number)| format!("{} {name}", crate::output::count(number)))
            .collect();
        if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
    }
}

impl SavedList {
    pub fn from_wire(wire: v1::SavedList) -> Result<Self> {
        let change = match wire.change() {
            v1::ListChange::Import => "import",
            v1::ListChange::Append => "append",
            v1::ListChange::Remove => "remove",
            v1::ListChange::Unspecified => {
                return Err(Failure::failed("the master sent a list that nothing made: update postrider"));
            }
        };
        Ok(Self {
            list: wire.name,
            version: wire.version,
            rows: wire.rows,
            address: wire.address_field,
            key: Some(wire.key_field).filter(|key| !key.is_empty()),
            columns: wire.columns,
            more_columns: wire.more_columns,
            changed_at: instant(wire.changed_at_ms),
            change,
            counts: wire.counts.unwrap_or_default().into(),
        })
    }
}

impl ListChanged {
    pub fn from_wire(list: String, wire: v1::ChangeListResponse) -> Self {
        let refused = wire.refused.into_iter().map(|one| RefusedRow { row: one.row, reason: one.reason }).collect();
        let counts = wire.counts.unwrap_or_default().into();
        Self { list, version: wire.version, changed: wire.changed, rows: wire.rows, counts, refused }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_prints_as_pinned() {
        let counts = v1::ListCounts { added: 2, bad_rows: 1, ..Default::default() };
        let wire = v1::SavedList {
            name: "customers".into(),
            version: 3,
            rows: 5,
            address_field: "email".into(),
            columns: vec!["email".into(), "name".into()],
            changed_at_ms: 1_732_147_200_123,
            change: v1::ListChange::Append.into(),
            counts: Some(counts),
            ..Default::default()
        };
        let list = SavedList::from_wire(wire).expect("good");
        assert_eq!(list.counts.told(), "2 added, 1 bad");
        let pinned = concat!(
            r#"{"list":"customers","version":3,"rows":5,"address":"email","key":null,"columns":["email","name"],"#,
            r#""more_columns":false,"changed_at":"2024-11-21T00:00:00.123Z","change":"append","#,
            r#""counts":{"added":2,"replaced":0,"removed":0,"absent":0,"repeated_rows":0,"bad_rows":1}}"#,
        );
        assert_eq!(serde_json::to_string(&list).expect("json"), pinned);
        assert!(SavedList::from_wire(v1::SavedList::default()).is_err());
    }
}
