//! `config show`: what is in force and who said it; secrets hidden.

use super::settings::{Element, Keys, Origin, Setting, Settings};
use crate::toml_text::Value;
use serde_json::{Map, json};

/// Hides the credentials of a URL: what stands before `@`, and what follows `?`.
fn hide(key: &str, value: &Value) -> Value {
    let one = |url: &str| {
        let (url, query) = url.split_once('?').map_or((url, ""), |(url, _)| (url, "?…"));
        match (url.split_once("://"), url.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, place))) => format!("{scheme}://…@{place}{query}"),
            _ => format!("{url}{query}"),
        }
    };
    match value {
        Value::Text(text) if key == "url" => Value::Text(one(text)),
        Value::Text(text) if key == "master" => Value::Text(text.split(',').map(one).collect::<Vec<_>>().join(",")),
        other => other.clone(),
    }
}

/// TOML with the origin behind each value.
pub fn as_text(settings: &Settings) -> String {
    let mut lines = Vec::new();
    let mut keys = |title: String, keys: &Keys| {
        lines.push(title);
        for (key, setting) in keys {
            let assignment = format!("{key} = {}", hide(key, &setting.value));
            lines.push(format!("{assignment:<58} # {}", origin_text(&setting.origin)));
        }
        lines.push(String::new());
    };
    for section in super::keys::SECTIONS {
        if let Some(table) = settings.tables.get(section.name) {
            keys(format!("[{}]", section.name), table);
        }
        for element in settings.elements(section.name) {
            keys(format!("[[{}]]", section.name), &element.keys);
        }
    }
    for (name, origin) in &settings.refused {
        keys(format!("[{name}] # hidden; {}", origin_text(origin)), &Keys::new());
    }
    lines.join("\n").trim_end().to_owned()
}

fn origin_text(origin: &Origin) -> String {
    match origin {
        Origin::Default => "default".to_owned(),
        Origin::File { .. } => format!("file {origin}"),
        Origin::Env(name) => format!("env {name}"),
        Origin::Flag(name) => format!("flag {name}"),
    }
}

/// `{"lease":{"ttl":{"value":"60s","origin":"default"}}, "lane":[{…}]}`.
pub fn as_json(settings: &Settings) -> serde_json::Value {
    let setting = |key: &str, setting: &Setting| {
        let value = hide(key, &setting.value).to_json();
        match &setting.origin {
            Origin::Default => json!({ "value": value, "origin": "default" }),
            origin @ Origin::File { .. } => {
                json!({ "value": value, "origin": "file", "at": origin.to_string() })
            }
            Origin::Env(at) | Origin::Flag(at) => {
                json!({ "value": value, "origin": setting.origin.layer(), "at": at })
            }
        }
    };
    let keys = |keys: &Keys| -> serde_json::Value {
        let pairs = keys.iter().map(|(key, one)| (key.clone(), setting(key, one)));
        serde_json::Value::Object(pairs.collect())
    };
    let mut all = Map::new();
    for (name, table) in &settings.tables {
        all.insert((*name).to_owned(), keys(table));
    }
    for (name, list) in &settings.lists {
        let list: Vec<serde_json::Value> = list.iter().map(|element: &Element| keys(&element.keys)).collect();
        all.insert((*name).to_owned(), list.into());
    }
    for (name, origin) in &settings.refused {
        all.insert((*name).to_owned(), json!({ "hidden": true, "origin": origin.layer() }));
    }
    all.into()
}
