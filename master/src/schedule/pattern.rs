//! Cron patterns: which wall clock times are due, without a zone.

use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use jiff::civil::DateTime;

/// Characters of a pattern.
pub const PATTERN_CHARS_MAX: usize = 200;
/// A pattern must be due once at least within this time from 2000 on, or it never is: 29 February on one
/// weekday comes back after 40 years at most (1900 to 2100 left out by the four-century rule).
const SEARCH_FROM: DateTime = DateTime::constant(2000, 1, 1, 0, 0, 0, 0);

/// Five fields (minute, hour, day of month, month, day of week) or six with seconds first; names, `L`, `W`, `#`
/// and the nicknames `@daily`, `@hourly`, … Day of month and day of week are alternatives when both are
/// given, as in cron(8) of Vixie and POSIX.
#[derive(Debug, Clone)]
pub struct Pattern {
    cron: Box<Cron>,
    is_interval: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrongPattern {
    #[error("'{pattern}' is not a cron pattern: {why}")]
    Syntax { pattern: String, why: String },
    #[error("'{pattern}' is never due: no date matches it")]
    NeverDue { pattern: String },
}

impl Pattern {
    pub fn parse(text: &str) -> Result<Self, WrongPattern> {
        let shown: String = text.chars().take(PATTERN_CHARS_MAX).collect();
        let wrong = |why: String| WrongPattern::Syntax { pattern: shown.clone(), why };
        if text.len() > PATTERN_CHARS_MAX {
            return Err(wrong(format!("it is longer than {PATTERN_CHARS_MAX} characters")));
        }
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let cron = parser.parse(text).map_err(|error| wrong(explained(&error)))?;
        let pattern = Self { cron: Box::new(cron), is_interval: is_interval(text) };
        match pattern.next(SEARCH_FROM, true) {
            Some(_) => Ok(pattern),
            None => Err(WrongPattern::NeverDue { pattern: shown }),
        }
    }

    /// Due many times a day, by a star in its hour or minute: it follows elapsed time through a change of the
    /// clock. Any other is due at times of the day.
    pub fn is_interval(&self) -> bool {
        self.is_interval
    }

    /// The first match after `from`, or at it.
    pub fn next(&self, from: DateTime, inclusive: bool) -> Option<DateTime> {
        self.cron.find_next_occurrence(&from, inclusive).ok()
    }
}

fn is_interval(text: &str) -> bool {
    let text = text.trim().to_lowercase();
    let fields: Vec<&str> = text.split_whitespace().collect();
    match fields.as_slice() {
        [nickname] => *nickname == "@hourly",
        [minute, hour, _, _, _] | [_, minute, hour, _, _, _] => minute.starts_with('*') || hour.starts_with('*'),
        _ => false,
    }
}

fn explained(error: &CronError) -> String {
    match error {
        CronError::EmptyPattern => "it is empty; write five fields such as 0 8 * * *".to_owned(),
        CronError::InvalidPattern(why) | CronError::IllegalCharacters(why) | CronError::ComponentError(why) => {
            why.trim_end_matches('.').to_owned()
        }
        CronError::InvalidDate | CronError::InvalidTime | CronError::TimeSearchLimitExceeded => {
            "no date matches it".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    #[test]
    fn patterns_are_read() {
        let friday = date(2026, 11, 20).at(0, 0, 0, 0);
        for (text, expected) in [
            ("0 8 * * *", "2026-11-20T08:00:00"),
            ("30 0 8 * * *", "2026-11-20T08:00:30"),
            ("0 8 * * MON-FRI", "2026-11-20T08:00:00"),
            ("0 8 * * sat", "2026-11-21T08:00:00"),
            ("0 8 L * *", "2026-11-30T08:00:00"),
            ("0 8 15W * *", "2026-12-15T08:00:00"),
            ("0 8 * * FRI#2", "2026-12-11T08:00:00"),
            ("0 8 * * FRIL", "2026-11-27T08:00:00"),
            ("0 8 29 2 *", "2028-02-29T08:00:00"),
            ("0 8 1 * SAT", "2026-11-21T08:00:00"),
            ("@daily", "2026-11-20T00:00:00"),
            ("@monthly", "2026-12-01T00:00:00"),
        ] {
            let pattern = Pattern::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(pattern.next(friday, true).map(|at| at.to_string()).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn wrong_patterns_say_why() {
        for text in ["", "8", "0 8 * *", "61 8 * * *", "0 25 * * *", "0 8 * * FUNDAY", "0 0 8 * * * 2027", "a b c d e"]
        {
            let error = Pattern::parse(text).unwrap_err();
            assert!(matches!(error, WrongPattern::Syntax { .. }), "{text}: {error}");
        }
        assert!(matches!(Pattern::parse("0 8 31 2 *"), Err(WrongPattern::NeverDue { .. })));
        assert!(Pattern::parse(&"*".repeat(300)).unwrap_err().to_string().contains("200 characters"));
    }

    #[test]
    fn intervals_have_a_star_in_hour_or_minute() {
        for (text, expected) in [
            ("* * * * *", true),
            ("*/15 * * * *", true),
            ("0 * * * *", true),
            ("0 */2 * * *", true),
            ("* 2 * * *", true),
            ("@hourly", true),
            ("0 8 * * *", false),
            ("0,30 2 * * *", false),
            ("0 8-18 * * *", false),
            ("*/10 0 8 * * *", false),
            ("@daily", false),
        ] {
            assert_eq!(Pattern::parse(text).unwrap().is_interval(), expected, "{text}");
        }
    }
}
