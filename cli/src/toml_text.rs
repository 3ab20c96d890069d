//! TOML as a tree in which every key and value knows its line, so that every complaint can name it.

use crate::failure::{Failure, Result};
use std::fmt;
use toml::de::{DeTable, DeValue};

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub value: Value,
    /// 1-based.
    pub line: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    Instant(String),
    List(Vec<Node>),
    Table(Table),
}

/// Entries in order of their lines.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    pub entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub key: String,
    /// Line of the key, 1-based.
    pub line: usize,
    pub node: Node,
}

impl Value {
    /// For people: "a text", "a list", …
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number with a fraction",
            Self::Bool(_) => "true or false",
            Self::Instant(_) => "a date",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }

    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Text(text) | Self::Instant(text) => text.as_str().into(),
            Self::Integer(number) => (*number).into(),
            Self::Float(number) => (*number).into(),
            Self::Bool(flag) => (*flag).into(),
            Self::List(nodes) => nodes.iter().map(|node| node.value.to_json()).collect::<Vec<_>>().into(),
            Self::Table(table) => {
                let pairs = table.entries.iter().map(|e| (e.key.clone(), e.node.value.to_json()));
                serde_json::Value::Object(pairs.collect())
            }
        }
    }
}

/// As TOML writes it.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{}", serde_json::Value::from(text.as_str())),
            Self::Instant(text) => f.write_str(text),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number}"),
            Self::Bool(flag) => write!(f, "{flag}"),
            Self::List(nodes) => {
                let parts: Vec<String> = nodes.iter().map(|node| node.value.to_string()).collect();
                write!(f, "[{}]", parts.join(", "))
            }
            Self::Table(table) => {
                let pairs: Vec<String> =
                    table.entries.iter().map(|e| format!("{} = {}", e.key, e.node.value)).collect();
                write!(f, "{{ {} }}", pairs.join(", "))
            }
        }
    }
}

impl Table {
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }
}

/// Parses a document. `name` is what the file is called in messages.
pub fn parse(name: &str, text: &str) -> Result<Table> {
    let document = DeTable::parse(text).map_err(|error| {
        let (line, column) = error.span().map_or((1, 1), |span| position(text, span.start));
        Failure::usage(format!("{name}:{line}:{column}: {}", error.message().trim().replace('\n', "; ")))
    })?;
    Ok(table(text, document.get_ref()))
}

/// 1-based line and column (in characters) of a byte offset.
pub fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

fn table(text: &str, from: &DeTable<'_>) -> Table {
    let entry = |key: &toml::Spanned<toml::de::DeString<'_>>, value: &toml::Spanned<DeValue<'_>>| {
        let line = position(text, key.span().start).0;
        Entry { key: key.get_ref().to_string(), line, node: node(text, value, line) }
    };
    let mut entries: Vec<Entry> = from.iter().map(|(key, value)| entry(key, value)).collect();
    entries.sort_by_key(|entry| entry.line);
    Table { entries }
}

fn node(text: &str, from: &toml::Spanned<DeValue<'_>>, key_line: usize) -> Node {
    // An implicit table (`[a.b]` gives `a`) has no place of its own: its key has.
    let line = if from.span().is_empty() { key_line } else { position(text, from.span().start).0 };
    let value = match from.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| Value::Text(number.as_str().to_owned()), Value::Integer),
        DeValue::Float(number) => number.as_str().parse().map_or(Value::Float(f64::NAN), Value::Float),
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Datetime(instant) => Value::Instant(instant.to_string()),
        DeValue::Array(items) => Value::List(items.iter().map(|item| node(text, item, key_line)).collect()),
        DeValue::Table(inner) => Value::Table(table(text, inner)),
    };
    Node { value, line }
}

/// The known word that is most like the one given.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |word: &str| {
        let word = word.to_lowercase();
        strsim::normalized_damerau_levenshtein(&given.to_lowercase(), &word)
    };
    known.into_iter().map(|word| (likeness(word), word)).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_knows_its_line() {
        let table = parse("x.toml", "a = 1\n[b]\nc = \"d\"\n[[e]]\nf = [1, 2]\n[[e]]\nf = 0x10\n").expect("good");
        let lines: Vec<(&str, usize)> = table.entries.iter().map(|e| (e.key.as_str(), e.line)).collect();
        assert_eq!(lines, [("a", 1), ("b", 2), ("e", 4)]);
        let Some(Value::Table(b)) = table.entry("b").map(|e| &e.node.value) else { panic!("b is a table") };
        assert_eq!((b.entries[0].line, &b.entries[0].node.value), (3, &Value::Text("d".into())));
        let Some(Value::List(e)) = table.entry("e").map(|e| &e.node.value) else { panic!("e is a list") };
        let lines: Vec<usize> = e.iter().map(|node| node.line).collect();
        assert_eq!(lines, [4, 6]);
        assert_eq!(e[1].value.to_string(), "{ f = 16 }");
    }

    #[test]
    fn wrong_toml_names_file_line_and_column() {
        let failure = parse("x.toml", "a = 1\nb = = 2\n").expect_err("wrong");
        assert!(failure.message.starts_with("x.toml:2:5: "), "{failure}");
        assert!(!failure.message.contains('\n'), "{failure}");
    }

    #[test]
    fn the_nearest_word_is_found() {
        assert_eq!(nearest("tll", ["window", "ttl", "hard_cap"]), Some("ttl"));
        assert_eq!(nearest("x", []), None);
    }
}
