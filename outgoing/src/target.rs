//! What a URL may be: http or https, a host, nothing secret in it.

use crate::URL_BYTES_MAX;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use url::{Host, Url};

/// Why a URL is not asked. Does not repeat it: a part of it may be secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    #[error("it is not a URL ({0}): write https://HOST/PATH")]
    Syntax(String),
    #[error("{0}:// is refused: write http:// or https://")]
    Scheme(String),
    #[error("it has a user or a password in it, which would be shown and stored: give them in a header, by env:NAME")]
    Credentials,
    #[error("it has no host: write https://HOST/PATH")]
    NoHost,
    #[error("it is longer than {URL_BYTES_MAX} bytes")]
    TooLong,
    #[error("https:// needs TLS, which this build does not have: build with the feature tls")]
    NoTls,
}

/// A URL that may be asked, once its host was checked.
#[derive(Clone, PartialEq, Eq)]
pub struct Target(Url);

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        if text.len() > URL_BYTES_MAX {
            return Err(InvalidTarget::TooLong);
        }
        Self::of(Url::parse(text).map_err(|error| InvalidTarget::Syntax(error.to_string()))?)
    }
}

impl Target {
    fn of(mut url: Url) -> Result<Self, InvalidTarget> {
        match url.scheme() {
            "http" | "https" => {}
            other => return Err(InvalidTarget::Scheme(other.chars().take(20).collect())),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidTarget::Credentials);
        }
        if url.host().is_none() {
            return Err(InvalidTarget::NoHost);
        }
        // Last: whoever only stores a URL is content when nothing else is wrong with it.
        if url.scheme() == "https" && cfg!(not(feature = "tls")) {
            return Err(InvalidTarget::NoTls);
        }
        url.set_fragment(None);
        Ok(Self(url))
    }

    /// Where a reference in an answer leads: `Location`, `Link`.
    pub fn join(&self, reference: &str) -> Result<Self, InvalidTarget> {
        if reference.len() > URL_BYTES_MAX {
            return Err(InvalidTarget::TooLong);
        }
        Self::of(self.0.join(reference).map_err(|error| InvalidTarget::Syntax(error.to_string()))?)
    }

    /// With one more pair in its query; one of that name is replaced.
    #[must_use]
    pub fn with_query(&self, name: &str, value: &str) -> Self {
        let others: Vec<(String, String)> = self.0.query_pairs().into_owned().filter(|(key, _)| key != name).collect();
        let mut url = self.0.clone();
        url.query_pairs_mut().clear().extend_pairs(others).append_pair(name, value);
        Self(url)
    }

    pub fn has_same_origin(&self, other: &Self) -> bool {
        self.0.origin() == other.0.origin()
    }

    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// For people and logs: without the query.
    pub fn shown(&self) -> String {
        let mut url = self.0.clone();
        url.set_query(None);
        url.to_string()
    }

    /// All of it, its query too. Not to be shown.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub(crate) fn url(&self) -> Url {
        self.0.clone()
    }

    pub(crate) fn host(&self) -> String {
        self.0.host_str().unwrap_or_default().to_owned()
    }

    /// The address, when the host is one, in whatever way it is written.
    pub(crate) fn literal(&self) -> Option<IpAddr> {
        match self.0.host()? {
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
            Host::Domain(_) => None,
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({})", self.shown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_target_says_why_and_repeats_nothing() {
        let rows = [
            ("ftp://secret.example/", "ftp:// is refused"),
            ("file:///etc/secret", "file:// is refused"),
            ("unix:/run/secret", "unix:// is refused"),
            ("http://secret@example.com/", "a user or a password"),
            ("http://u:secret@example.com/", "a user or a password"),
            ("http://:secret@example.com/", "a user or a password"),
            ("https://u:secret@example.com/", "a user or a password"),
            ("secret", "not a URL"),
            ("http://", "not a URL"),
            ("http://exa mple/secret", "not a URL"),
        ];
        for (text, part) in rows {
            let why = text.parse::<Target>().expect_err(text).to_string();
            assert!(why.contains(part) && !why.contains("secret"), "{text}: {why}");
        }
        let long = format!("http://example.com/{}", "x".repeat(URL_BYTES_MAX));
        assert_eq!(long.parse::<Target>(), Err(InvalidTarget::TooLong));
    }

    #[test]
    fn an_address_is_known_as_one_however_it_is_written() {
        for text in ["http://127.0.0.1/", "http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/", "http://127.1/"]
        {
            assert_eq!(text.parse::<Target>().unwrap().literal(), Some("127.0.0.1".parse().unwrap()), "{text}");
        }
        let mapped: Target = "http://[::ffff:127.0.0.1]/".parse().unwrap();
        assert_eq!(mapped.literal(), Some("::ffff:127.0.0.1".parse().unwrap()));
        assert_eq!("http://example.com/".parse::<Target>().unwrap().literal(), None);
    }

    #[test]
    fn a_query_is_not_shown() {
        let target: Target = "http://example.com/feed?token=secret#part".parse().unwrap();
        assert_eq!(target.shown(), "http://example.com/feed");
        assert_eq!(format!("{target:?}"), "Target(http://example.com/feed)");
        assert_eq!(target.as_str(), "http://example.com/feed?token=secret");
        assert_eq!(target.with_query("token", "a b").as_str(), "http://example.com/feed?token=a+b");
        assert_eq!(target.join("?page=2").unwrap().as_str(), "http://example.com/feed?page=2");
        assert_eq!(target.join("//u:p@example.com/"), Err(InvalidTarget::Credentials));
    }
}
