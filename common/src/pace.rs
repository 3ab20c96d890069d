//! Limits that hold for the whole fleet: how many recipients in a span of time, and how many at once.

use crate::ids::{LaneName, SiteName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Recipients in an hour at most: 100,000 a second.
pub const RATE_PER_HOUR_MAX: u64 = 360_000_000;
/// Recipients at once: the largest burst, and the largest concurrency.
pub const RECIPIENTS_AT_ONCE_MAX: u32 = 1_000_000;
/// Lanes and sites with limits: every report of a worker is checked against them in one script.
pub const LIMITED_MAX: usize = 200;
/// Units of debt that one recipient costs. A rate of n an hour pays n of them in a millisecond, so that every
/// rate is a whole number and nothing is ever rounded in favour of the sender.
pub const COST: u64 = 3_600_000;
/// Who is refused because too many are in flight may ask again after this long; nobody knows when one ends.
pub const CAP_PAUSE_MS: u64 = 100;

/// Recipients in a span of time: `500/s`, `600/m`, `30000/h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    per_hour: u64,
}

impl Rate {
    /// Errors: not from 1 to `RATE_PER_HOUR_MAX`.
    pub fn of_per_hour(per_hour: u64) -> Result<Self, String> {
        let is_in_range = (1..=RATE_PER_HOUR_MAX).contains(&per_hour);
        is_in_range.then_some(Self { per_hour }).ok_or_else(|| format!("a rate of {per_hour}/h is out of range"))
    }

    /// 1 to `RATE_PER_HOUR_MAX`.
    pub fn per_hour(self) -> u64 {
        self.per_hour
    }

    /// One second's worth, at least one recipient.
    pub fn burst(self) -> u32 {
        u32::try_from(self.per_hour / 3600).unwrap_or(RECIPIENTS_AT_ONCE_MAX).max(1)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("'{text}' is not a rate: write a whole number and a span, such as 500/s, 600/m or 30000/h");
        let (number, span) = text.split_once('/').ok_or_else(wrong)?;
        let spans_per_hour = match span {
            "s" => 3600,
            "m" => 60,
            "h" => 1,
            _ => return Err(wrong()),
        };
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let per_hour = number.parse::<u64>().ok().and_then(|number| number.checked_mul(spans_per_hour));
        let in_range = per_hour.filter(|per_hour| (1..=RATE_PER_HOUR_MAX).contains(per_hour));
        let range = || format!("it must be from 1/h to {}/s, not {text}", RATE_PER_HOUR_MAX / 3600);
        in_range.map(|per_hour| Self { per_hour }).ok_or_else(range)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spans = [(3600, "s"), (60, "m")];
        let whole = spans.into_iter().find(|(per_hour, _)| self.per_hour.is_multiple_of(*per_hour));
        let (divisor, name) = whole.unwrap_or((1, "h"));
        write!(f, "{}/{name}", self.per_hour / divisor)
    }
}

/// A rate, and how far it may be run ahead of: in any span of w ms at most `burst` + rate × w are granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    pub rate: Rate,
    /// Recipients, 1 to `RECIPIENTS_AT_ONCE_MAX`.
    pub burst: u32,
}

/// What holds for one lane, or for one site. Nothing given: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    pub pace: Option<Pace>,
    /// Recipients in intent over the whole fleet, 1 to `RECIPIENTS_AT_ONCE_MAX`.
    pub concurrency: Option<u32>,
}

impl Limit {
    pub fn is_none(&self) -> bool {
        self.pace.is_none() && self.concurrency.is_none()
    }
}

/// Every limit there is. One of a site holds for that site over all lanes; a recipient needs room in its lane and
/// in its site.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub lanes: BTreeMap<LaneName, Limit>,
    pub sites: BTreeMap<SiteName, Limit>,
}

impl Limits {
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.sites.is_empty()
    }

    /// Keeps one that limits something.
    pub fn lane(&mut self, name: LaneName, limit: Limit) {
        if !limit.is_none() {
            self.lanes.insert(name, limit);
        }
    }

    /// Keeps one that limits something.
    pub fn site(&mut self, name: SiteName, limit: Limit) {
        if !limit.is_none() {
            self.sites.insert(name, limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_need_a_span_and_print_as_the_shortest() {
        let rows = [
            ("500/s", 1_800_000, 500, "500/s"),
            ("30000/h", 30_000, 8, "500/m"),
            ("90/m", 5400, 1, "90/m"),
            ("1/h", 1, 1, "1/h"),
            ("100000/s", RATE_PER_HOUR_MAX, 100_000, "100000/s"),
        ];
        for (text, per_hour, burst, printed) in rows {
            let rate: Rate = text.parse().expect(text);
            assert_eq!((rate.per_hour(), rate.burst(), rate.to_string().as_str()), (per_hour, burst, printed));
        }
        for text in ["", "500", "/s", "5 /s", "-5/s", "+5/s", "5/d", "5/", "0/s", "100001/s", "99999999999999999999/s"]
        {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
