//! A secret is named in a campaign and read where it is used: `env:NAME`. So it is neither stored nor sent to
//! another process of ours.
//!
//! A campaign may name only variables that the configuration lists. Without that, whoever may define a campaign could
//! have the environment of a master sent to a URL of their own.

use crate::Settings;
use std::fmt;
use std::str::FromStr;

/// Characters of a variable's name.
const NAME_CHARS_MAX: usize = 128;
const PREFIX: &str = "env:";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    #[error("it must be \"env:NAME\", the name of an environment variable: the secret itself would be stored")]
    NotNamed,
    #[error("'{0}' is not among the variables that campaigns may name: add it to [outgoing] env")]
    NotListed(String),
    #[error("the environment has no variable {0}, or it is empty: set it where this process runs, and restart it")]
    NotSet(String),
}

/// The name of a variable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Secret(String);

impl FromStr for Secret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let name = text.strip_prefix(PREFIX).ok_or(InvalidSecret::NotNamed)?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.bytes().all(is_plain) {
            return Err(InvalidSecret::NotNamed);
        }
        Ok(Self(name.to_owned()))
    }
}

impl Secret {
    /// What the variable holds now.
    pub fn read(&self, settings: &Settings) -> Result<SecretText, InvalidSecret> {
        if !settings.env.contains(&self.0) {
            return Err(InvalidSecret::NotListed(self.0.clone()));
        }
        match std::env::var(&self.0) {
            Ok(text) if !text.is_empty() => Ok(SecretText(text)),
            _ => Err(InvalidSecret::NotSet(self.0.clone())),
        }
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.0)
    }
}

/// Shows itself to nobody who does not ask by name.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(String);

impl SecretText {
    pub fn plain(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// A value given as it is, or by `env:NAME`.
    pub fn given(text: &str, settings: &Settings) -> Result<Self, InvalidSecret> {
        match text.starts_with(PREFIX) {
            true => text.parse::<Secret>()?.read(settings),
            false => Ok(Self(text.to_owned())),
        }
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listed_variable_is_read_and_it_is_not_shown() {
        // PATH is the one that is everywhere.
        let path: Secret = "env:PATH".parse().unwrap();
        let mut settings = Settings::default();
        assert_eq!(path.read(&settings), Err(InvalidSecret::NotListed("PATH".into())));
        settings.env.extend(["PATH".to_owned(), "POSTRIDER_NO_SUCH_THING".to_owned()]);
        let text = path.read(&settings).unwrap();
        assert_eq!(text.reveal(), std::env::var("PATH").unwrap());
        assert_eq!(format!("{text:?}"), "SecretText(…)");
        let missing: Secret = "env:POSTRIDER_NO_SUCH_THING".parse().unwrap();
        assert_eq!(missing.read(&settings), Err(InvalidSecret::NotSet("POSTRIDER_NO_SUCH_THING".into())));
        assert_eq!(SecretText::given("as it is", &settings).unwrap().reveal(), "as it is");
    }

    #[test]
    fn a_secret_itself_is_refused() {
        for text in ["hunter2", "env:", "env:A B", "env:A=B", "ENV:A", "env:Ä"] {
            assert_eq!(text.parse::<Secret>(), Err(InvalidSecret::NotNamed), "{text}");
        }
    }
}
