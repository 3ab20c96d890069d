//! Reading keys of a TOML table with complaints that name file, line and key.

use crate::toml_text::{Entry, Table, Value, nearest};
use std::collections::BTreeMap;

/// Collects what is wrong with one file, so that all of it can be told at once.
#[derive(Debug)]
pub struct Complaints {
    file: String,
    pub list: Vec<String>,
}

impl Complaints {
    pub fn new(file: &str) -> Self {
        Self { file: file.to_owned(), list: Vec::new() }
    }

    pub fn at(&mut self, line: usize, why: impl std::fmt::Display) {
        self.list.push(format!("{}:{line}: {why}", self.file));
    }

    /// About something that is not there.
    pub fn missing(&mut self, what: impl std::fmt::Display) {
        self.list.push(format!("{}: {what}", self.file));
    }

    pub fn into_failure(self) -> crate::failure::Failure {
        crate::failure::Failure::usage(self.list.join("\n       "))
    }
}

/// The keys of one table, each read at most once; what is left over is unknown.
#[derive(Debug)]
pub struct Fields<'a> {
    /// `template.` or empty.
    prefix: &'static str,
    table: &'a Table,
    known: &'static [&'static str],
}

impl<'a> Fields<'a> {
    /// Complains about every key that is not known.
    pub fn new(
        prefix: &'static str,
        table: &'a Table,
        known: &'static [&'static str],
        complaints: &mut Complaints,
    ) -> Self {
        for entry in table.entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            let near = nearest(&entry.key, known.iter().copied()).unwrap_or_default();
            let key = &entry.key;
            complaints.at(entry.line, format!("there is no key {prefix}{key}; the nearest is {prefix}{near}"));
        }
        Self { prefix, table, known }
    }

    pub fn entry(&self, key: &str) -> Option<&'a Entry> {
        debug_assert!(self.known.contains(&key), "{key} is not declared");
        self.table.entry(key)
    }

    /// The text and its line; complains about another type.
    pub fn text(&self, key: &str, complaints: &mut Complaints) -> Option<(String, usize)> {
        let entry = self.entry(key)?;
        match &entry.node.value {
            Value::Text(text) => Some((text.clone(), entry.line)),
            other => {
                let why = format!("{}{key} must be a text in quotes, not {}", self.prefix, other.kind());
                complaints.at(entry.line, why);
                None
            }
        }
    }

    /// One word of a few.
    pub fn choice(&self, key: &str, words: &[&str], complaints: &mut Complaints) -> Option<String> {
        let (text, line) = self.text(key, complaints)?;
        if words.contains(&text.as_str()) {
            return Some(text);
        }
        complaints.at(line, format!("{}{key} must be one of {}, not '{text}'", self.prefix, words.join(", ")));
        None
    }

    /// A list of texts; empty when it is not there.
    pub fn texts(&self, key: &str, complaints: &mut Complaints) -> Vec<String> {
        let Some(entry) = self.entry(key) else { return Vec::new() };
        let text = |value: &Value| if let Value::Text(text) = value { Some(text.clone()) } else { None };
        let all = match &entry.node.value {
            Value::List(items) => items.iter().map(|item| text(&item.value)).collect(),
            _ => None,
        };
        all.unwrap_or_else(|| {
            complaints.at(entry.line, format!("{}{key} must be a list of texts, such as [\"digest\"]", self.prefix));
            Vec::new()
        })
    }

    /// A table of texts; empty when it is not there.
    pub fn text_table(&self, key: &str, complaints: &mut Complaints) -> BTreeMap<String, String> {
        let Some(entry) = self.entry(key) else { return BTreeMap::new() };
        let Value::Table(table) = &entry.node.value else {
            complaints
                .at(entry.line, format!("{}{key} must be a table, such as {{ X-Name = \"value\" }}", self.prefix));
            return BTreeMap::new();
        };
        let mut all = BTreeMap::new();
        for inner in &table.entries {
            match &inner.node.value {
                Value::Text(text) => {
                    all.insert(inner.key.clone(), text.clone());
                }
                other => {
                    let why = format!("{}{key}.{} must be a text, not {}", self.prefix, inner.key, other.kind());
                    complaints.at(inner.line, why);
                }
            }
        }
        all
    }

    /// A section. Complains about another type.
    pub fn table(&self, key: &str, complaints: &mut Complaints) -> Option<(&'a Table, usize)> {
        let entry = self.entry(key)?;
        match &entry.node.value {
            Value::Table(table) => Some((table, entry.line)),
            other => {
                complaints.at(entry.line, format!("{key} must be a section [{key}], not {}", other.kind()));
                None
            }
        }
    }
}
