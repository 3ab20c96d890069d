//! What is configured, by whom: four layers merged key by key, each value with its origin.
//!
//! Knows which keys there are and what type they have; what they may be is `read.rs`.

use super::keys::{Kind, Section, Shape, nearest_path, section};
use crate::toml_text::{Node, Table, Value};
use std::collections::BTreeMap;
use std::fmt;

/// Who said it. The later wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File { name: String, line: usize },
    Env(String),
    Flag(String),
}

impl Origin {
    /// `default`, `file`, `env` or `flag`.
    pub fn layer(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File { .. } => "file",
            Self::Env(_) => "env",
            Self::Flag(_) => "flag",
        }
    }
}

/// Reads before a colon and a complaint.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { name, line } => write!(f, "{name}:{line}"),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    pub value: Value,
    pub origin: Origin,
}

/// The keys of one section, or of one element of a list section.
pub type Keys = BTreeMap<String, Setting>;

#[derive(Debug, Clone, PartialEq)]
pub struct Element {
    pub name: String,
    pub origin: Origin,
    pub keys: Keys,
}

/// All layers merged.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    pub tables: BTreeMap<&'static str, Keys>,
    pub lists: BTreeMap<&'static str, Vec<Element>>,
    /// Sections that are refused whatever is in them.
    pub refused: Vec<(&'static str, Origin)>,
}

/// One layer: the sections it has, and how it names a place.
struct Layer<'a> {
    origin: &'a dyn Fn(usize) -> Origin,
    problems: &'a mut Vec<String>,
}

impl Settings {
    /// Lays a document over what is there. Complaints are collected, so that all can be told at once.
    pub fn lay_file(&mut self, document: &Table, origin: &dyn Fn(usize) -> Origin, problems: &mut Vec<String>) {
        let mut layer = Layer { origin, problems };
        for entry in &document.entries {
            match section(&entry.key) {
                Some(known) => layer.section(self, known, &entry.node),
                None => layer.unknown(entry.line, &entry.key),
            }
        }
    }

    /// Lays one value over what is there, given as text in the environment or as a flag.
    pub fn lay_text(
        &mut self,
        section_name: &str,
        key_name: &str,
        text: &str,
        origin: &Origin,
        problems: &mut Vec<String>,
    ) {
        let path = format!("{section_name}.{key_name}");
        let known = section(section_name).filter(|s| s.shape == Shape::Table).and_then(|s| Some((s, s.key(key_name)?)));
        let Some((section, key)) = known else {
            problems.push(format!("{origin}: there is no key {path}; the nearest is {}", nearest_path(&path)));
            return;
        };
        match value_of_text(key.kind, text) {
            Ok(value) => {
                let setting = Setting { value, origin: origin.clone() };
                self.tables.entry(section.name).or_default().insert(key_name.to_owned(), setting);
            }
            Err(why) => problems.push(format!("{origin}: {path} {why}")),
        }
    }

    pub fn get(&self, section: &str, key: &str) -> Option<&Setting> {
        self.tables.get(section)?.get(key)
    }

    pub fn elements(&self, section: &str) -> &[Element] {
        self.lists.get(section).map(Vec::as_slice).unwrap_or_default()
    }

    /// Every key that is given (not a default) with its path.
    pub fn given(&self) -> Vec<(String, &'static Section, &str, &Setting)> {
        let mut all = Vec::new();
        for known in super::keys::SECTIONS {
            for (key, setting) in self.tables.get(known.name).into_iter().flatten() {
                all.push((format!("{}.{key}", known.name), known, key.as_str(), setting));
            }
            for element in self.elements(known.name) {
                for (key, setting) in &element.keys {
                    all.push((format!("{}.{}.{key}", known.name, element.name), known, key.as_str(), setting));
                }
            }
        }
        all.retain(|(_, _, _, setting)| setting.origin != Origin::Default);
        all
    }

    /// Sections that this version does not work with, and why.
    pub fn refusals(&self) -> Vec<String> {
        let mut refused = Vec::new();
        for (name, origin) in &self.refused {
            if let Some(Shape::Refused(why)) = section(name).map(|s| s.shape) {
                refused.push(format!("{origin}: [{name}] is refused: {why}"));
            }
        }
        refused
    }
}

impl Layer<'_> {
    fn unknown(&mut self, line: usize, path: &str) {
        let origin = (self.origin)(line);
        self.problems.push(format!("{origin}: there is no key {path}; the nearest is {}", nearest_path(path)));
    }

    fn wrong(&mut self, line: usize, why: String) {
        let origin = (self.origin)(line);
        self.problems.push(format!("{origin}: {why}"));
    }

    fn section(&mut self, settings: &mut Settings, known: &'static Section, node: &Node) {
        match (known.shape, &node.value) {
            (Shape::Table, Value::Table(table)) => {
                let keys = self.keys(known, table);
                settings.tables.entry(known.name).or_default().extend(keys);
            }
            (Shape::List(by), Value::List(items)) => self.elements(settings, (known, by), items),
            (Shape::Refused(_), _) => settings.refused.push((known.name, (self.origin)(node.line))),
            (Shape::Table, _) => {
                self.wrong(node.line, format!("{0} must be a section: write [{0}] above its keys", known.name));
            }
            (Shape::List(_), _) => {
                self.wrong(node.line, format!("{0} must be a list: write [[{0}]] above each of them", known.name));
            }
        }
    }

    fn keys(&mut self, known: &'static Section, table: &Table) -> Keys {
        let mut keys = Keys::new();
        for entry in &table.entries {
            let path = format!("{}.{}", known.name, entry.key);
            let Some(key) = known.key(&entry.key) else {
                self.unknown(entry.line, &path);
                continue;
            };
            if let Err((line, why)) = check_kind(key.kind, &path, &entry.node) {
                self.wrong(line, why);
                continue;
            }
            let origin = (self.origin)(entry.line);
            keys.insert(entry.key.clone(), Setting { value: entry.node.value.clone(), origin });
        }
        keys
    }

    fn elements(
        &mut self,
        settings: &mut Settings,
        (known, by): (&'static Section, &'static [&'static str]),
        items: &[Node],
    ) {
        let mut seen: Vec<String> = Vec::new();
        for item in items {
            let Value::Table(table) = &item.value else {
                self.wrong(item.line, format!("{0} must be a list of tables: write [[{0}]] above each", known.name));
                continue;
            };
            let keys = self.keys(known, table);
            let mut names = Vec::new();
            for key in by {
                match keys.get(*key).map(|setting| &setting.value) {
                    Some(Value::Text(name)) => names.push(name.as_str()),
                    Some(_) => {}
                    None if table.entry(key).is_some() => {}
                    None => self.wrong(item.line, format!("{0}.{key} is missing: every [[{0}]] has one", known.name)),
                }
            }
            if names.len() < by.len() {
                continue;
            }
            let name = names.join("/");
            if seen.contains(&name) {
                let what = by.join(" and ");
                self.wrong(item.line, format!("{}.{what} '{name}' is there twice: put the two together", known.name));
                continue;
            }
            seen.push(name.clone());
            let list = settings.lists.entry(known.name).or_default();
            match list.iter_mut().find(|element| element.name == name) {
                Some(element) => {
                    element.origin = (self.origin)(item.line);
                    element.keys.extend(keys);
                }
                None => {
                    let origin = (self.origin)(item.line);
                    list.push(Element { name, origin, keys });
                }
            }
        }
    }
}

/// Whether a value is of the type that its key has; else the line and what is wrong.
fn check_kind(kind: Kind, path: &str, node: &Node) -> Result<(), (usize, String)> {
    let wrong = || Err((node.line, format!("{path} must be {}, not {}", kind.expected(), node.value.kind())));
    match (kind, &node.value) {
        (Kind::Text | Kind::Duration | Kind::Rate, Value::Text(_)) | (Kind::Integer, Value::Integer(_)) => Ok(()),
        (Kind::Texts, Value::List(items)) => {
            if items.iter().all(|item| matches!(item.value, Value::Text(_))) {
                Ok(())
            } else {
                wrong()
            }
        }
        (Kind::Counts, Value::Table(table)) => {
            if table.entries.iter().all(|e| matches!(e.node.value, Value::Integer(_))) { Ok(()) } else { wrong() }
        }
        (Kind::Windows, _) => crate::windows::read(path, node).map(drop),
        (Kind::Retry, Value::Table(table)) => {
            for entry in &table.entries {
                if !["base", "cap", "ttl"].contains(&entry.key.as_str()) {
                    let near = crate::toml_text::nearest(&entry.key, ["base", "cap", "ttl"]).unwrap_or_default();
                    let why = format!("there is no key {path}.{}; the nearest is {path}.{near}", entry.key);
                    return Err((entry.line, why));
                }
                if !matches!(entry.node.value, Value::Text(_)) {
                    return Err((entry.line, format!("{path}.{} must be {}", entry.key, Kind::Duration.expected())));
                }
            }
            Ok(())
        }
        (
            Kind::Text | Kind::Duration | Kind::Rate | Kind::Integer | Kind::Texts | Kind::Counts | Kind::Retry,
            Value::Text(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Bool(_)
            | Value::Instant(_)
            | Value::List(_)
            | Value::Table(_),
        ) => wrong(),
    }
}

/// A value from the environment or a flag, where everything is text. Lists are comma-separated or TOML,
/// tables are `a=1,b=2` or TOML.
fn value_of_text(kind: Kind, text: &str) -> Result<Value, String> {
    let at = |value: Value| Node { value, line: 1 };
    let parts = || text.split(',').map(str::trim).filter(|part| !part.is_empty());
    match kind {
        Kind::Text | Kind::Duration | Kind::Rate => Ok(Value::Text(text.to_owned())),
        Kind::Integer => {
            let digits = text.trim().replace('_', "");
            let number = digits.parse().map_err(|_| format!("must be {}, not '{text}'", kind.expected()))?;
            Ok(Value::Integer(number))
        }
        Kind::Texts if !text.trim_start().starts_with('[') => {
            Ok(Value::List(parts().map(|part| at(Value::Text(part.to_owned()))).collect()))
        }
        Kind::Counts if !text.trim_start().starts_with('{') => {
            let mut table = Table::default();
            for part in parts() {
                let pair = part.split_once('=').and_then(|(k, v)| Some((k.trim(), v.trim().parse().ok()?)));
                let (key, number) = pair.ok_or_else(|| format!("must be like transactional=16, not '{part}'"))?;
                let node = at(Value::Integer(number));
                table.entries.push(crate::toml_text::Entry { key: key.to_owned(), line: 1, node });
            }
            Ok(Value::Table(table))
        }
        Kind::Texts | Kind::Counts | Kind::Retry | Kind::Windows => {
            let document = crate::toml_text::parse("value", &format!("value = {text}\n")).map_err(|f| f.message)?;
            let node =
                document.entries.into_iter().next().map(|entry| entry.node).unwrap_or_else(|| at(Value::Bool(false)));
            check_kind(kind, "it", &node).map_err(|(_, why)| why)?;
            Ok(node.value)
        }
    }
}
