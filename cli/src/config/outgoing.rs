//! `[outgoing]`: what masters and workers may call on behalf of campaigns.

use super::settings::{Setting, Settings};
use crate::toml_text::Value;

/// What is wrong is added to the problems and left out.
pub fn read(settings: &Settings, problems: &mut Vec<String>) -> postrider_outgoing::Settings {
    let mut read = postrider_outgoing::Settings::default();
    for (text, setting) in texts(settings, "allow") {
        // A single address stands for itself.
        let network = text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(Into::into));
        match network {
            Ok(network) => read.allow.push(network),
            Err(_) => problems.push(format!(
                "{}: outgoing.allow: '{text}' is not a network: write one such as \"10.1.0.0/16\" or \"fd00::/8\"",
                setting.origin
            )),
        }
    }
    for (name, setting) in texts(settings, "env") {
        match format!("env:{name}").parse::<postrider_outgoing::Secret>() {
            Ok(_) => drop(read.env.insert(name)),
            Err(_) => problems.push(format!(
                "{}: outgoing.env: this is not the name of an environment variable: write the name alone, such as \
                 \"DATA_SECRET\"",
                setting.origin
            )),
        }
    }
    read
}

fn texts<'a>(settings: &'a Settings, key: &str) -> Vec<(String, &'a Setting)> {
    let Some(setting) = settings.get("outgoing", key) else { return Vec::new() };
    let Value::List(items) = &setting.value else { return Vec::new() };
    let text = |value: &Value| if let Value::Text(text) = value { Some(text.trim().to_owned()) } else { None };
    items.iter().filter_map(|item| Some((text(&item.value)?, setting))).collect()
}
