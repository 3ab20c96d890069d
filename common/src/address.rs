//! A mail address, checked once (RFC 5321 4.1.2 through lettre) and normalised for comparison.

use crate::ids::ErasureId;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Where erased addresses are: no mail ever gets there (RFC 2606 2).
const ERASED_DOMAIN: &str = "erased.invalid";

/// `local@domain`. Never holds CR, LF, NUL, spaces or angle brackets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a mail address: {0}")]
pub struct InvalidAddress(pub &'static str);

impl Address {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What comes after the last `@`, lower-case.
    pub fn domain(&self) -> String {
        self.0.rsplit('@').next().unwrap_or_default().to_lowercase()
    }

    /// What stands where an address was that is erased.
    pub fn erased(id: &ErasureId) -> Self {
        Self(format!("{id}@{ERASED_DOMAIN}"))
    }

    /// It stands for one that was erased: nothing is ever sent to it.
    pub fn is_erased(&self) -> bool {
        let id = self.0.strip_suffix(ERASED_DOMAIN).and_then(|rest| rest.strip_suffix('@'));
        id.is_some_and(|id| id.parse::<ErasureId>().is_ok())
    }

    /// The default key of a recipient: the whole address in lower case. The local part is case-sensitive
    /// by RFC 5321 2.4, but no large receiver treats it so, and two spellings of one address in one list
    /// are one person.
    pub fn normalised(&self) -> String {
        self.0.to_lowercase()
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;
    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let text = text.trim_matches([' ', '\t']);
        if text.is_empty() {
            return Err(InvalidAddress("it is empty"));
        }
        if text.chars().any(|c| c.is_control() || c == '<' || c == '>') {
            return Err(InvalidAddress("it has a control character or an angle bracket"));
        }
        let Some((local, domain)) = text.rsplit_once('@') else {
            return Err(InvalidAddress("it has no @"));
        };
        if local.len() > 64 {
            return Err(InvalidAddress("the part before @ is longer than 64 bytes"));
        }
        if domain.len() > 255 {
            return Err(InvalidAddress("the domain is longer than 255 bytes"));
        }
        text.parse::<lettre::Address>()
            .map(|_| Self(text.to_owned()))
            .map_err(|_| InvalidAddress("its syntax is wrong"))
    }
}

impl TryFrom<String> for Address {
    type Error = InvalidAddress;
    fn try_from(text: String) -> Result<Self, InvalidAddress> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_and_normalised() {
        let good: Address = " Ada.Lovelace@Example.COM ".parse().expect("good");
        assert_eq!((good.domain().as_str(), good.normalised().as_str()), ("example.com", "ada.lovelace@example.com"));
        for bad in [
            "",
            "a",
            "@example.com",
            "a@",
            "a b@example.com",
            "a@example.com\r\nRCPT TO:<b@example.com>",
            "<a@example.com>",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
        assert!(format!("{}@example.com", "x".repeat(65)).parse::<Address>().is_err());
    }
}
