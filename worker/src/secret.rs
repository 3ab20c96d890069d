//! Where a secret of this host is, such as a password or a private key.

use std::fmt;
use std::path::PathBuf;

const BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    File(PathBuf),
    /// The name of a variable of the environment.
    Env(String),
}

impl From<&str> for SecretSource {
    /// `env:NAME`, or the path of a file.
    fn from(text: &str) -> Self {
        text.strip_prefix("env:").map_or_else(|| Self::File(text.into()), |name| Self::Env(name.to_owned()))
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Env(name) => write!(f, "env:{name}"),
        }
    }
}

impl SecretSource {
    /// What it is now, without white space at its ends. Errors say where and why.
    pub fn read(&self) -> Result<String, String> {
        let text = match self {
            Self::Env(name) => std::env::var(name).unwrap_or_default(),
            Self::File(path) => {
                let wrong = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
                let size = std::fs::metadata(path).map_err(wrong)?.len();
                if size > BYTES_MAX {
                    return Err(format!("{} has {size} bytes, and a secret has at most {BYTES_MAX}", path.display()));
                }
                std::fs::read_to_string(path).map_err(wrong)?
            }
        };
        match (text.trim(), self) {
            ("", Self::Env(name)) => {
                Err(format!("the environment has no variable {name}, or it is empty: set it where this runs"))
            }
            ("", Self::File(path)) => Err(format!("{} is empty", path.display())),
            (text, _) => Ok(text.to_owned()),
        }
    }
}
