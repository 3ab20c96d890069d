//! Brings the layers together: built-in defaults, file, environment, flags.

use super::settings::{Origin, Settings};
use crate::failure::{Failure, Result};
use crate::toml_text::{self, nearest};
use std::path::{Path, PathBuf};

/// The first layer; also the documentation.
pub const DEFAULTS: &str = include_str!("default.toml");
const ENV_PREFIX: &str = "POSTRIDER__";
/// Short names of two keys that client commands and scripts set often.
const ENV_ALIASES: &[(&str, &str, &str)] =
    &[("POSTRIDER_STORE", "store", "url"), ("POSTRIDER_MASTER", "worker", "master")];
/// Larger than any configuration; keeps a wrong path (`--config audience.csv`) from being read whole.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// Where settings may come from, taken once at the edge.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `--config`; otherwise `./postrider.toml` if it is there.
    pub file: Option<PathBuf>,
    pub env: Vec<(String, String)>,
    /// Section, key, text, and the flag it was given with.
    pub flags: Vec<(&'static str, &'static str, String, &'static str)>,
    /// `worker --relay`: replaces the configured relays.
    pub relays: Vec<String>,
}

/// The merged layers and the file that was read.
#[derive(Debug, Clone)]
pub struct Gathered {
    pub settings: Settings,
    pub file: Option<PathBuf>,
}

/// Reads every layer. All that is wrong with names and types is told at once.
pub fn gather(sources: &Sources) -> Result<Gathered> {
    let mut settings = Settings::default();
    let mut problems = Vec::new();
    let defaults = toml_text::parse("default.toml", DEFAULTS)?;
    settings.lay_file(&defaults, &|_| Origin::Default, &mut problems);
    let file = find_file(sources)?;
    if let Some(path) = &file {
        let name = path.display().to_string();
        let text = read(path)?;
        let document = toml_text::parse(&name, &text)?;
        settings.lay_file(&document, &|line| Origin::File { name: name.clone(), line }, &mut problems);
    }
    lay_environment(&mut settings, &sources.env, &mut problems);
    for (section, key, text, flag) in &sources.flags {
        settings.lay_text(section, key, text, &Origin::Flag((*flag).to_owned()), &mut problems);
    }
    lay_relays(&mut settings, &sources.relays, &mut problems);
    if problems.is_empty() { Ok(Gathered { settings, file }) } else { Err(Failure::usage(problems.join("\n       "))) }
}

/// The settings of one text over the defaults, and nothing from the machine.
pub fn from_text(text: &str) -> Result<Settings> {
    let mut settings = Settings::default();
    let mut problems = Vec::new();
    settings.lay_file(&toml_text::parse("default.toml", DEFAULTS)?, &|_| Origin::Default, &mut problems);
    let file = |line| Origin::File { name: "configuration".to_owned(), line };
    settings.lay_file(&toml_text::parse("configuration", text)?, &file, &mut problems);
    if problems.is_empty() { Ok(settings) } else { Err(Failure::usage(problems.join("\n       "))) }
}

fn find_file(sources: &Sources) -> Result<Option<PathBuf>> {
    match &sources.file {
        Some(path) => Ok(Some(path.clone())),
        None => {
            let usual = PathBuf::from("postrider.toml");
            Ok(usual.is_file().then_some(usual))
        }
    }
}

fn read(path: &Path) -> Result<String> {
    let wrong = |why: String| Failure::usage(format!("cannot read the configuration {}: {why}", path.display()));
    let size = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if size > CONFIG_BYTES_MAX {
        return Err(wrong(format!("it has {size} bytes and a configuration has at most {CONFIG_BYTES_MAX}")));
    }
    std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))
}

fn lay_environment(settings: &mut Settings, env: &[(String, String)], problems: &mut Vec<String>) {
    let value = |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    for (alias, section, key) in ENV_ALIASES {
        let Some(text) = value(alias).filter(|text| !text.is_empty()) else { continue };
        let long = format!("{ENV_PREFIX}{}__{}", section.to_uppercase(), key.to_uppercase());
        if value(&long).is_some_and(|other| other != text) {
            problems.push(format!("environment: {alias} and {long} differ: they are the same key, set only one"));
        }
        settings.lay_text(section, key, text, &Origin::Env((*alias).to_owned()), problems);
    }
    let mut names: Vec<&(String, String)> = env.iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)).collect();
    names.sort();
    for (name, text) in names {
        let path = name[ENV_PREFIX.len()..].to_lowercase().replace("__", ".");
        let origin = Origin::Env(name.clone());
        match path.split_once('.') {
            Some((section, key)) => settings.lay_text(section, key, text, &origin, problems),
            None => lay_section(settings, &path, text, &origin, problems),
        }
    }
    let tokens: Vec<&str> = ["POSTRIDER_TOKEN", "POSTRIDER_TOKEN_FILE"]
        .into_iter()
        .filter(|name| value(name).is_some_and(|text| !text.is_empty()))
        .collect();
    if !tokens.is_empty() {
        let why = "tokens are not part of this version, and a call that looks authenticated would not be; unset it";
        problems.push(format!("environment {} is refused: {why}", tokens.join(", ")));
    }
}

/// `POSTRIDER__RELAY='[{ name = "a", url = "smtp://…" }]'`: a whole section as TOML.
fn lay_section(settings: &mut Settings, name: &str, text: &str, origin: &Origin, problems: &mut Vec<String>) {
    if super::keys::section(name).is_none() {
        let known = super::keys::SECTIONS.iter().map(|section| section.name);
        let near = nearest(name, known).unwrap_or_default();
        problems.push(format!("{origin}: there is no section {name}; the nearest is {near}"));
        return;
    }
    match toml_text::parse("value", &format!("{name} = {text}\n")) {
        Ok(document) => settings.lay_file(&document, &|_| origin.clone(), problems),
        Err(failure) => problems.push(format!("{origin}: it is not TOML: {failure}")),
    }
}

fn lay_relays(settings: &mut Settings, relays: &[String], problems: &mut Vec<String>) {
    if relays.is_empty() {
        return;
    }
    settings.lists.remove("relay");
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let one = |(index, url): (usize, &String)| format!("{{ name = \"relay-{}\", url = {} }}", index + 1, quoted(url));
    let all: Vec<String> = relays.iter().enumerate().map(one).collect();
    lay_section(settings, "relay", &format!("[{}]", all.join(", ")), &Origin::Flag("--relay".into()), problems);
}
