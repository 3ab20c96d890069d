//! Durations and rates as people write them: `60s`, `5m`, `1h30m`, `500/s`.

use std::time::Duration;

/// Parses `250ms`, `60s`, `5m`, `4h`, `3d` or a sum such as `1h30m`. A unit is required.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is not a duration: write a number and a unit, such as 250ms, 60s, 5m, 4h or 3d");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total_ms: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let unit_ms = match &rest[..letters] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        rest = &rest[letters..];
        let part = number.checked_mul(unit_ms).ok_or_else(wrong)?;
        total_ms = total_ms.checked_add(part).ok_or_else(wrong)?;
    }
    Ok(Duration::from_millis(total_ms))
}

/// The shortest exact way to write it with one unit.
pub fn print(duration: Duration) -> String {
    let ms = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    for (unit_ms, name) in units {
        if ms != 0 && ms.is_multiple_of(unit_ms) {
            return format!("{}{name}", ms / unit_ms);
        }
    }
    format!("{ms}ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        let rows = [("60s", 60_000), ("250ms", 250), ("1h30m", 5_400_000), ("3d", 259_200_000), ("0s", 0)];
        for (text, ms) in rows {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "60", "s", "60 s", "1w", "-1s", "99999999999999999999s"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(print(Duration::from_secs(5400)), "90m");
        assert_eq!(print(Duration::from_millis(1)), "1ms");
    }
}
