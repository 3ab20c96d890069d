//! Times of the day by a wall clock, and what a campaign says of the wall clocks of its recipients.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

const DAY_SECONDS: u32 = 86_400;

/// A time of the day by a wall clock, to the second: 00:00 to 23:59:59.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay {
    seconds: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a time of the day: write one such as 08:00, from 00:00 to 23:59")]
pub struct InvalidTimeOfDay(String);

impl TimeOfDay {
    pub const MIDNIGHT: Self = Self { seconds: 0 };

    /// Since midnight, 0 to 86,399.
    pub fn seconds(self) -> u32 {
        self.seconds
    }

    pub fn hour(self) -> u32 {
        self.seconds / 3600
    }

    pub fn minute(self) -> u32 {
        self.seconds / 60 % 60
    }

    pub fn second(self) -> u32 {
        self.seconds % 60
    }
}

impl FromStr for TimeOfDay {
    type Err = InvalidTimeOfDay;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || InvalidTimeOfDay(text.chars().take(20).collect());
        let parts: Vec<&str> = text.split(':').collect();
        if !(2..=3).contains(&parts.len()) {
            return Err(wrong());
        }
        let mut seconds = 0;
        for (part, (unit, below)) in parts.iter().zip([(3600, 24), (60, 60), (1, 60)]) {
            let is_number = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
            let number: u32 = part.parse().ok().filter(|n| is_number && *n < below).ok_or_else(wrong)?;
            seconds += number * unit;
        }
        debug_assert!(seconds < DAY_SECONDS);
        Ok(Self { seconds })
    }
}

impl TryFrom<String> for TimeOfDay {
    type Error = InvalidTimeOfDay;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> Self {
        time.to_string()
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.hour(), self.minute())?;
        match self.second() {
            0 => Ok(()),
            second => write!(f, ":{second:02}"),
        }
    }
}

/// Each recipient's mail leaves at this time of the day by the wall clock where the recipient is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendAtLocal {
    pub at: TimeOfDay,
    /// The column with the IANA time zone. None: there is none, or it has its usual name.
    pub zone: Option<String>,
    /// The column with the country, ISO 3166-1 alpha-2, for whoever has no zone. None: likewise.
    pub country: Option<String>,
    /// IANA name, for whoever has neither. "": that of the schedule.
    pub default_zone: String,
    pub passed: Passed,
    pub unknown_zone: UnknownZone,
}

impl SendAtLocal {
    /// What columns are called that the campaign does not name.
    pub const ZONE_COLUMN: &str = "time_zone";
    pub const COUNTRY_COLUMN: &str = "country";

    /// With the default of everything else.
    pub fn new(at: TimeOfDay) -> Self {
        Self {
            at,
            zone: None,
            country: None,
            default_zone: String::new(),
            passed: Passed::default(),
            unknown_zone: UnknownZone::default(),
        }
    }

    pub fn zone_column(&self) -> &str {
        self.zone.as_deref().unwrap_or(Self::ZONE_COLUMN)
    }

    pub fn country_column(&self) -> &str {
        self.country.as_deref().unwrap_or(Self::COUNTRY_COLUMN)
    }
}

/// What becomes of whoever's time had passed when the run was due.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Passed {
    /// The mail leaves when that time comes next: never at another time of the day.
    #[default]
    NextDay,
    /// It leaves when the run begins.
    AtOnce,
    /// They get none; they are counted with the bad rows.
    Skip,
}

impl Passed {
    pub const WORDS: &[&str] = &["next_day", "at_once", "skip"];

    pub fn word(self) -> &'static str {
        match self {
            Self::NextDay => "next_day",
            Self::AtOnce => "at_once",
            Self::Skip => "skip",
        }
    }
}

/// What a zone or a country does that nobody knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnknownZone {
    /// The row is a bad one, and `on_bad_row` decides.
    #[default]
    BadRow,
    /// As if it were not there.
    Default,
}

impl UnknownZone {
    pub const WORDS: &[&str] = &["bad_row", "default"];

    pub fn word(self) -> &'static str {
        match self {
            Self::BadRow => "bad_row",
            Self::Default => "default",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_the_day_is_read_and_printed() {
        for (text, printed) in [("08:00", "08:00"), ("00:00:00", "00:00"), ("23:59:59", "23:59:59")] {
            let time: TimeOfDay = text.parse().expect("a time");
            assert_eq!(time.to_string(), printed);
            assert_eq!(serde_json::from_value::<TimeOfDay>(serde_json::json!(printed)).expect("read"), time);
        }
        for text in ["", "8:00", "8", "08:60", "24:00", "08:00:60", "08:00:00:00", "0800", "+8:00", "08:0é", "noon"] {
            let error = text.parse::<TimeOfDay>().expect_err("wrong").to_string();
            assert!(error.contains("write one such as 08:00"), "{error}");
        }
    }
}
