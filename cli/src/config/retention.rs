//! How long something is kept: a duration, or `forever`.

use postrider_common::duration;
use std::ops::RangeInclusive;
use std::time::Duration;

const FOREVER: &str = "forever";
const KEPT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(36_500 * 24);

/// None: for ever. The error reads after a colon.
pub fn parse(text: &str) -> Result<Option<Duration>, String> {
    if text == FOREVER {
        return Ok(None);
    }
    match duration::parse(text) {
        Ok(kept) if KEPT.contains(&kept) => Ok(Some(kept)),
        Ok(_) => {
            let (low, high) = (duration::print(*KEPT.start()), duration::print(*KEPT.end()));
            Err(format!("it must be from {low} to {high}, or \"{FOREVER}\", not {text}"))
        }
        Err(why) => Err(format!("{why}, or \"{FOREVER}\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_for_no_time() {
        assert_eq!(parse("forever"), Ok(None));
        assert_eq!(parse("90d"), Ok(Some(Duration::from_hours(90 * 24))));
        assert!(parse("0s").unwrap_err().contains("from 1s to 36500d, or \"forever\", not 0s"));
        assert!(parse("40000d").is_err());
        for text in ["90", "never", ""] {
            assert!(parse(text).unwrap_err().contains("or \"forever\""), "{text}");
        }
    }
}
