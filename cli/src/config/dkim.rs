//! `[[dkim]]`: the keys that workers sign with.

use super::settings::{Element, Settings};
use crate::toml_text::Value;
use postrider_worker::SecretSource;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DkimConfig {
    pub domain: String,
    pub selector: String,
    pub key: SecretSource,
    /// For messages: who said so.
    pub place: String,
}

/// What is wrong is added to the problems and left out. Domain, selector and key are checked when the key is read.
pub fn read(settings: &Settings, problems: &mut Vec<String>) -> Vec<DkimConfig> {
    let one = |element: &Element| {
        let text = |key: &str| match element.keys.get(key).map(|setting| &setting.value) {
            Some(Value::Text(text)) if !text.trim().is_empty() => Some(text.trim().to_owned()),
            _ => None,
        };
        let place = format!("{}: dkim.{}", element.origin, element.name);
        let Some(key) = text("key") else {
            problems.push(format!("{place}.key is missing: write the file of the private key in PEM, or \"env:NAME\""));
            return None;
        };
        Some(DkimConfig { domain: text("domain")?, selector: text("selector")?, key: key.as_str().into(), place })
    };
    settings.elements("dkim").iter().filter_map(one).collect()
}
