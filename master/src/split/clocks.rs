//! Which wall clock a recipient lives by, as its row says.

use postrider_common::local_time::{SendAtLocal, UnknownZone};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Bytes of the longest name of a zone that is looked for.
const ZONE_BYTES_MAX: usize = 64;
/// ISO 3166-1 alpha-2.
const COUNTRY_BYTES: usize = 2;

/// Something known of each clock that rows name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks<T> {
    /// By the name of the zone in lower case.
    pub zones: BTreeMap<String, T>,
    /// By code in lower case.
    pub countries: BTreeMap<String, T>,
    /// For who has neither.
    pub default: T,
}

/// What a row names that nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    Zone,
    Country,
}

/// What a row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    Nothing,
    /// In lower case.
    Name(String),
    /// Nothing that could be a name.
    Other,
}

impl Named {
    pub fn zone(rule: &SendAtLocal, fields: &Map<String, Value>) -> Self {
        Self::of(fields.get(rule.zone_column()), |length| length <= ZONE_BYTES_MAX)
    }

    pub fn country(rule: &SendAtLocal, fields: &Map<String, Value>) -> Self {
        Self::of(fields.get(rule.country_column()), |length| length == COUNTRY_BYTES)
    }

    /// If it is a name.
    pub fn name(self) -> Option<String> {
        match self {
            Self::Name(name) => Some(name),
            Self::Nothing | Self::Other => None,
        }
    }

    fn of(value: Option<&Value>, fits: impl Fn(usize) -> bool) -> Self {
        match value {
            None | Some(Value::Null) => Self::Nothing,
            Some(Value::String(text)) => match text.trim() {
                "" => Self::Nothing,
                name if fits(name.len()) => Self::Name(name.to_ascii_lowercase()),
                _ => Self::Other,
            },
            Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => Self::Other,
        }
    }
}

impl<T> Clocks<T> {
    /// By the zone, or the country, or else the default.
    pub fn of(&self, rule: &SendAtLocal, fields: &Map<String, Value>) -> Result<&T, Unknown> {
        let named = [
            (Named::zone(rule, fields), &self.zones, Unknown::Zone),
            (Named::country(rule, fields), &self.countries, Unknown::Country),
        ];
        for (named, known, unknown) in named {
            let found = match &named {
                Named::Nothing => continue,
                Named::Name(name) => known.get(name),
                Named::Other => None,
            };
            match (found, rule.unknown_zone) {
                (Some(found), _) => return Ok(found),
                (None, UnknownZone::BadRow) => return Err(unknown),
                (None, UnknownZone::Default) => {}
            }
        }
        Ok(&self.default)
    }

    /// The same clocks with something else known of them.
    pub fn map<U>(self, known: impl Fn(T) -> U) -> Clocks<U> {
        let all = |map: BTreeMap<String, T>| map.into_iter().map(|(name, value)| (name, known(value))).collect();
        Clocks { zones: all(self.zones), countries: all(self.countries), default: known(self.default) }
    }
}
