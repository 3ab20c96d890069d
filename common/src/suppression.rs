//! Who must not be sent to: of whom, by what right, and of which mail. Pure.

use crate::address::Address;
use crate::ids::{CampaignName, LaneName, to_hex};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Why a text is no part of a suppression. Reads after the name of the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' {why}")]
pub struct InvalidSuppression {
    pub text: String,
    pub why: String,
}

fn invalid(text: &str, why: impl Into<String>) -> InvalidSuppression {
    InvalidSuppression { text: text.chars().take(80).collect(), why: why.into() }
}

/// By what right somebody is not sent to, the gravest first: of several it is the one that is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuppressionReason {
    /// A court, a contract, a request by letter.
    Legal,
    /// Said to be spam by who got it.
    Complaint,
    /// There is no such mailbox.
    HardBounce,
    Unsubscribe,
    /// The mailbox is there and nobody reads it.
    Inactive,
    /// By somebody's decision.
    Manual,
}

impl SuppressionReason {
    pub const ALL: [Self; 6] =
        [Self::Legal, Self::Complaint, Self::HardBounce, Self::Unsubscribe, Self::Inactive, Self::Manual];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Legal => "legal",
            Self::Complaint => "complaint",
            Self::HardBounce => "hard_bounce",
            Self::Unsubscribe => "unsubscribe",
            Self::Inactive => "inactive",
            Self::Manual => "manual",
        }
    }

    /// The digit that stands for it where every byte counts: the gravest has the lowest.
    pub fn digit(self) -> u8 {
        match self {
            Self::Legal => b'1',
            Self::Complaint => b'2',
            Self::HardBounce => b'3',
            Self::Unsubscribe => b'4',
            Self::Inactive => b'5',
            Self::Manual => b'6',
        }
    }

    pub fn from_digit(digit: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.digit() == digit)
    }

    /// What it holds for unless something else is said: who unsubscribes or complains means the mail that goes to many, not
    /// the answer to what he asks for himself.
    pub fn scope(self) -> SuppressionScope {
        match self {
            Self::Complaint | Self::Unsubscribe => SuppressionScope::Lane(LaneName::bulk()),
            Self::Legal | Self::HardBounce | Self::Inactive | Self::Manual => SuppressionScope::All,
        }
    }
}

impl fmt::Display for SuppressionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SuppressionReason {
    type Err = InvalidSuppression;
    fn from_str(text: &str) -> Result<Self, InvalidSuppression> {
        let known = Self::ALL.into_iter().find(|reason| reason.as_str() == text);
        known.ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|reason| reason.as_str()).collect();
            invalid(text, format!("is no reason; known: {}", names.join(", ")))
        })
    }
}

/// Which mail is not sent. Prints as `all`, `lane:NAME` or `campaign:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SuppressionScope {
    All,
    Lane(LaneName),
    Campaign(CampaignName),
}

impl SuppressionScope {
    /// Mail of this lane and this campaign ("": of none) is meant.
    pub fn holds_for(&self, lane: &LaneName, campaign: &str) -> bool {
        match self {
            Self::All => true,
            Self::Lane(name) => name == lane,
            Self::Campaign(name) => name.as_str() == campaign,
        }
    }
}

impl fmt::Display for SuppressionScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Lane(name) => write!(f, "lane:{name}"),
            Self::Campaign(name) => write!(f, "campaign:{name}"),
        }
    }
}

impl FromStr for SuppressionScope {
    type Err = InvalidSuppression;
    fn from_str(text: &str) -> Result<Self, InvalidSuppression> {
        let wrong = |error: crate::ids::InvalidId| invalid(text, format!("is no scope: {error}"));
        match text.split_once(':') {
            None if text == "all" => Ok(Self::All),
            Some(("lane", name)) => name.parse().map(Self::Lane).map_err(wrong),
            Some(("campaign", name)) => name.parse().map(Self::Campaign).map_err(wrong),
            None | Some(_) => Err(invalid(text, "is no scope; it is all, lane:NAME or campaign:NAME")),
        }
    }
}

impl TryFrom<String> for SuppressionScope {
    type Error = InvalidSuppression;
    fn try_from(text: String) -> Result<Self, InvalidSuppression> {
        text.parse()
    }
}

impl From<SuppressionScope> for String {
    fn from(scope: SuppressionScope) -> Self {
        scope.to_string()
    }
}

/// Who is not sent to: one address, or (`@example.com`) every address of a domain, but not of those below it. Normalised.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SuppressionSubject(String);

impl SuppressionSubject {
    pub fn of(address: &Address) -> Self {
        Self(address.normalised())
    }

    pub fn of_domain_of(address: &Address) -> Self {
        Self(format!("@{}", address.domain()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SuppressionSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SuppressionSubject {
    type Err = InvalidSuppression;
    fn from_str(text: &str) -> Result<Self, InvalidSuppression> {
        let text = text.trim_matches([' ', '\t']);
        let is_domain = text.starts_with('@');
        let whole = if is_domain { format!("x{text}") } else { text.to_owned() };
        let address: Address = whole.parse().map_err(|error| invalid(text, format!("is {error}")))?;
        Ok(if is_domain { Self::of_domain_of(&address) } else { Self::of(&address) })
    }
}

/// The keyed hash of a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SuppressionKey(pub [u8; SuppressionKey::BYTES]);

impl SuppressionKey {
    /// Among a thousand million subjects, that somebody has the key of another one is less likely than 1 in 10^19 for each look.
    pub const BYTES: usize = 12;
}

impl fmt::Display for SuppressionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl FromStr for SuppressionKey {
    type Err = InvalidSuppression;
    fn from_str(text: &str) -> Result<Self, InvalidSuppression> {
        let mut key = [0; Self::BYTES];
        let is_hex = text.len() == Self::BYTES * 2 && text.bytes().all(|c| c.is_ascii_hexdigit());
        for (at, byte) in key.iter_mut().enumerate().filter(|_| is_hex) {
            let digits = text.get(at * 2..at * 2 + 2).unwrap_or_default();
            *byte = u8::from_str_radix(digits, 16).map_err(|_| invalid(text, "is no place in the list"))?;
        }
        if is_hex { Ok(Self(key)) } else { Err(invalid(text, "is no place in the list")) }
    }
}

/// Why a subject is not sent to, since when, and of which mail.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SuppressionHold {
    pub scope: SuppressionScope,
    pub reason: SuppressionReason,
    pub at_ms: i64,
}

/// The gravest of what holds for mail of this lane and campaign.
pub fn gravest<'a>(
    holds: impl IntoIterator<Item = &'a SuppressionHold>,
    lane: &LaneName,
    campaign: &str,
) -> Option<SuppressionReason> {
    let meant = holds.into_iter().filter(|hold| hold.scope.holds_for(lane, campaign));
    meant.map(|hold| hold.reason).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_again() {
        for text in ["all", "lane:bulk", "campaign:daily-digest"] {
            assert_eq!(text.parse::<SuppressionScope>().expect(text).to_string(), text);
        }
        for text in ["", "lane", "lane:", "lane:No", "bulk", "campaign:a b", "all:x"] {
            assert!(text.parse::<SuppressionScope>().is_err(), "{text}");
        }
        for reason in SuppressionReason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(reason));
            assert_eq!(SuppressionReason::from_digit(reason.digit()), Some(reason));
        }
        assert!("spam".parse::<SuppressionReason>().is_err());
        let key = SuppressionKey([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0xfe, 0xff]);
        assert_eq!(key.to_string().parse(), Ok(key));
        assert!("00".parse::<SuppressionKey>().is_err());
        assert!("é".repeat(12).parse::<SuppressionKey>().is_err());
    }

    #[test]
    fn a_subject_is_an_address_or_a_domain_in_its_normal_form() {
        for (text, normal) in
            [(" Ada@Example.com", "ada@example.com"), ("@Example.COM", "@example.com"), ("É@x.de", "é@x.de")]
        {
            assert_eq!(text.parse::<SuppressionSubject>().expect(text).as_str(), normal);
        }
        for text in ["", "@", "example.com", "a@b@", "@a b", "<a@example.com>", "@x@example.com"] {
            assert!(text.parse::<SuppressionSubject>().is_err(), "{text}");
        }
        let address: Address = "Ada@Example.com".parse().expect("an address");
        assert_eq!(SuppressionSubject::of(&address).as_str(), "ada@example.com");
        assert_eq!(SuppressionSubject::of_domain_of(&address).as_str(), "@example.com");
    }

    #[test]
    fn the_gravest_of_what_holds_is_told() {
        let hold = |scope: &str, reason| SuppressionHold { scope: scope.parse().expect(scope), reason, at_ms: 0 };
        let holds = [
            hold("all", SuppressionReason::Manual),
            hold("lane:bulk", SuppressionReason::Complaint),
            hold("campaign:news", SuppressionReason::Legal),
        ];
        for (lane, campaign, expected) in [
            ("bulk", "news", Some(SuppressionReason::Legal)),
            ("bulk", "", Some(SuppressionReason::Complaint)),
            ("transactional", "other", Some(SuppressionReason::Manual)),
        ] {
            assert_eq!(gravest(&holds, &lane.parse().expect("a lane"), campaign), expected);
        }
        assert_eq!(gravest(&holds[1..], &LaneName::transactional(), "other"), None);
    }
}
