//! Where the store is: `--store` / `POSTRIDER_STORE`.

mod nodes;

pub use nodes::{Group, Login, Node, NodesUrl};

use std::{fmt, path::PathBuf, str::FromStr};

/// A parsed store URL. Prints without password.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// `redis://[user:password@]host:port[/db]`, `rediss://…` with TLS, `unix:///path` (`redis+unix:///path`), or
    /// what `NodesUrl` reads.
    Redis(String),
    /// `embedded:PATH`: durable in that folder.
    EmbeddedFile(PathBuf),
    /// `embedded:`: in memory, gone with the process.
    EmbeddedMemory,
}

impl FromStr for StoreUrl {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("embedded:") {
            return Ok(if path.is_empty() { Self::EmbeddedMemory } else { Self::EmbeddedFile(path.into()) });
        }
        let scheme = text.split(':').next().unwrap_or_default();
        match scheme {
            "redis" | "rediss" | "unix" | "redis+unix" => Ok(Self::Redis(text.to_owned())),
            "redis+sentinel" | "rediss+sentinel" | "redis+cluster" | "rediss+cluster" => {
                text.parse::<NodesUrl>().map(|_| Self::Redis(text.to_owned()))
            }
            _ => {
                Err("it must begin with redis://, rediss://, redis+sentinel://, redis+cluster://, unix:// or embedded:"
                    .to_owned())
            }
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmbeddedMemory => f.write_str("embedded:"),
            Self::EmbeddedFile(path) => write!(f, "embedded:{}", path.display()),
            Self::Redis(url) => {
                // The query of a unix URL carries user and password.
                let (url, query) = url.split_once('?').map_or((url.as_str(), ""), |(url, _)| (url, "?…"));
                match url.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1))) {
                    Some((scheme, rest)) => write!(f, "{scheme}://…@{rest}{query}"),
                    None => write!(f, "{url}{query}"),
                }
            }
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_parse_and_hide_passwords() {
        assert_eq!("embedded:".parse(), Ok(StoreUrl::EmbeddedMemory));
        assert_eq!("embedded:./data".parse(), Ok(StoreUrl::EmbeddedFile("./data".into())));
        let url: StoreUrl = "redis://me:secret@127.0.0.1:6379/0".parse().unwrap();
        assert_eq!(url.to_string(), "redis://…@127.0.0.1:6379/0");
        let url: StoreUrl = "unix:///run/redis.sock?user=me&pass=secret".parse().unwrap();
        assert_eq!(url.to_string(), "unix:///run/redis.sock?…");
        let url: StoreUrl = "redis+sentinel://me:secret@a:1,b:2/mail?sentinel_password=secret".parse().unwrap();
        assert_eq!(url.to_string(), "redis+sentinel://…@a:1,b:2/mail?…");
        assert!("rediss://x".parse::<StoreUrl>().is_ok());
        assert!("redis+sentinel://x".parse::<StoreUrl>().unwrap_err().contains("service is missing"));
        assert!("mysql://x".parse::<StoreUrl>().is_err());
    }
}
