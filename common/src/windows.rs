//! When sending may begin: spans of the day by a wall clock, as they are given. `Span` is what one means.

use crate::local_time::{SendAtLocal, TimeOfDay, UnknownZone};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// `time_zone` of a window that goes by the recipient's own clock.
pub const RECIPIENT: &str = "recipient";
/// Windows of one kind that one campaign or lane may have.
pub const WINDOWS_MAX: usize = 16;
const DAYS: [&str; 7] = ["MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"];
const ALL_DAYS: u8 = 0x7f;

/// Sending may begin while any of `send` is open (always, if there is none), and none of `quiet` is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    pub send: Vec<Window>,
    pub quiet: Vec<Window>,
    /// By which columns a row tells its clock. Of a campaign: as it was given. Of what a run froze: it was split by them.
    pub clock: Option<RecipientClock>,
}

/// One window, as it was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Such as 08:00. Both empty: the whole day.
    pub from: String,
    pub to: String,
    /// Such as MON-FRI. Empty: every day.
    pub days: String,
    /// IANA name, or `RECIPIENT`. Empty: that of the schedule.
    pub time_zone: String,
}

/// Where a row says by which clock its recipient lives. The same as in `SendAtLocal`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientClock {
    pub zone: Option<String>,
    pub country: Option<String>,
    /// "": that of the schedule.
    pub default_zone: String,
    pub unknown_zone: UnknownZone,
}

impl Windows {
    pub fn is_empty(&self) -> bool {
        self.send.is_empty() && self.quiet.is_empty() && self.clock.is_none()
    }

    /// Some of them go by the recipient's own clock.
    pub fn go_by_recipient(&self) -> bool {
        self.all().any(Window::goes_by_recipient)
    }

    fn all(&self) -> impl Iterator<Item = &Window> {
        self.send.iter().chain(&self.quiet)
    }

    /// Those without a zone go by this one.
    pub fn with_zone(mut self, zone: &str) -> Self {
        for window in self.send.iter_mut().chain(&mut self.quiet).filter(|window| window.time_zone.is_empty()) {
            zone.clone_into(&mut window.time_zone);
        }
        self
    }
}

impl Window {
    pub fn goes_by_recipient(&self) -> bool {
        self.time_zone == RECIPIENT
    }

    /// Errors: what is wrong, after the key that it is in.
    pub fn span(&self) -> Result<Span, (&'static str, String)> {
        let time = |key, text: &str| text.parse::<TimeOfDay>().map_err(|error| (key, error.to_string()));
        let days =
            if self.days.is_empty() { Days(ALL_DAYS) } else { self.days.parse().map_err(|why| ("days", why))? };
        if self.from.is_empty() && self.to.is_empty() {
            return Ok(Span { day_part: None, days });
        }
        for (key, text) in [("from", &self.from), ("to", &self.to)] {
            if text.is_empty() {
                let why = "it is missing: a window has both from and to, such as from = \"08:00\", to = \"20:00\"; the whole \
                           day has neither";
                return Err((key, why.to_owned()));
            }
        }
        let (from, to) = (time("from", &self.from)?, time("to", &self.to)?);
        if from == to {
            return Err(("to", "it is the same as from: for the whole day leave both out".to_owned()));
        }
        Ok(Span { day_part: Some((from, to)), days })
    }
}

impl RecipientClock {
    /// As what a row is read by.
    pub fn rule(&self) -> SendAtLocal {
        let Self { zone, country, default_zone, unknown_zone } = self.clone();
        let at = TimeOfDay::MIDNIGHT;
        SendAtLocal { zone, country, default_zone, unknown_zone, ..SendAtLocal::new(at) }
    }

    pub fn of(rule: &SendAtLocal) -> Self {
        let SendAtLocal { at: _, zone, country, default_zone, passed: _, unknown_zone } = rule.clone();
        Self { zone, country, default_zone, unknown_zone }
    }
}

/// A part of some days of the week, by a wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// From the first until before the second. The second before the first: over midnight. None: the whole day.
    pub day_part: Option<(TimeOfDay, TimeOfDay)>,
    /// Those on which it begins.
    pub days: Days,
}

/// Days of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Days(u8);

impl Days {
    /// 0 is Monday.
    pub fn has(self, day: usize) -> bool {
        self.0 & (1 << (day % DAYS.len())) != 0
    }
}

impl FromStr for Days {
    type Err = String;

    /// Names and spans of names with commas between: `MON-FRI`, `SAT,SUN`, `FRI-MON`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            let shown: String = text.chars().take(40).collect();
            format!("'{shown}' are no days of the week: write such as MON-FRI or SAT,SUN")
        };
        let day = |name: &str| {
            let name = name.trim().to_ascii_uppercase();
            DAYS.iter().position(|day| *day == name).ok_or_else(wrong)
        };
        let mut days = 0;
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (mut at, last) = (day(first)?, day(last)?);
            days |= 1 << at;
            while at != last {
                at = (at + 1) % DAYS.len();
                days |= 1 << at;
            }
        }
        Ok(Self(days))
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, days, time_zone } = self;
        let mut parts = Vec::new();
        if !from.is_empty() || !to.is_empty() {
            parts.push(format!("{from} to {to}"));
        }
        parts.push(if days.is_empty() { "every day".to_owned() } else { days.clone() });
        match time_zone.as_str() {
            "" => {}
            RECIPIENT => parts.push("by the recipient's clock".to_owned()),
            zone => parts.push(zone.to_owned()),
        }
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(text: &str) -> Vec<usize> {
        let days: Days = text.parse().expect(text);
        (0..7).filter(|day| days.has(*day)).collect()
    }

    #[test]
    fn days_are_names_and_spans_of_names() {
        assert_eq!(days("MON-FRI"), [0, 1, 2, 3, 4]);
        assert_eq!(days("sat, SUN"), [5, 6]);
        assert_eq!(days("FRI-MON,WED"), [0, 2, 4, 5, 6]);
        assert_eq!(days("TUE-TUE"), [1]);
        for text in ["", "MONDAY", "MON-", "-", "1-5", "MON;TUE", "MON-TUE-WED", "é"] {
            let error = text.parse::<Days>().expect_err(text);
            assert!(error.contains("MON-FRI"), "{error}");
        }
    }

    #[test]
    fn a_window_is_read_or_says_what_is_wrong() {
        let window = |from: &str, to: &str, days: &str| Window {
            from: from.into(),
            to: to.into(),
            days: days.into(),
            time_zone: String::new(),
        };
        let whole = window("", "", "SAT,SUN").span().expect("the whole day");
        assert_eq!((whole.day_part, whole.days.has(5), whole.days.has(4)), (None, true, false));
        let night = window("21:00", "08:00", "").span().expect("over midnight");
        assert!(night.day_part.is_some_and(|(from, to)| from > to) && (0..7).all(|day| night.days.has(day)));
        for (from, to, days, key) in [
            ("08:00", "", "", "to"),
            ("", "08:00", "", "from"),
            ("8", "20:00", "", "from"),
            ("08:00", "24:00", "", "to"),
            ("08:00", "08:00:00", "", "to"),
            ("08:00", "20:00", "WEEKEND", "days"),
        ] {
            let (found, why) = window(from, to, days).span().expect_err("refused");
            assert_eq!(found, key, "{why}");
        }
    }
}
