//! When a deferred recipient is tried again: exponential with full jitter, capped, until a time to live.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A lane's retry policy, frozen into a run when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Bound of the first delay; doubles with each attempt. 1 ms to 7 days.
    pub base_ms: u64,
    /// Bound of every delay. At least `base_ms`, at most 7 days.
    pub cap_ms: u64,
    /// Counted from the first attempt: after it nothing is tried again. At most 30 days.
    pub ttl_ms: u64,
}

impl RetryPolicy {
    pub const BULK: Self = Self { base_ms: 300_000, cap_ms: 14_400_000, ttl_ms: 259_200_000 };
    pub const TRANSACTIONAL: Self = Self { base_ms: 300_000, cap_ms: 14_400_000, ttl_ms: 86_400_000 };

    pub fn try_new(base: Duration, cap: Duration, ttl: Duration) -> Result<Self, &'static str> {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let week = 7 * 86_400_000;
        let policy = Self { base_ms: ms(base), cap_ms: ms(cap), ttl_ms: ms(ttl) };
        if policy.base_ms == 0 || policy.base_ms > week {
            return Err("retry.base must be from 1ms to 7d");
        }
        if policy.cap_ms < policy.base_ms || policy.cap_ms > week {
            return Err("retry.cap must be from retry.base to 7d");
        }
        if policy.ttl_ms > 30 * 86_400_000 {
            return Err("retry.ttl must be at most 30d");
        }
        Ok(policy)
    }
}

/// When the next attempt is due, in milliseconds from now, or `None` when the time to live is over.
///
/// `attempts` is how many ended, this one included (from 1). `fraction` is uniform in 0..=1_000_000
/// millionths. `elapsed_ms` is since the first attempt. `retry_after_ms` is what the server asked for
/// and is never cut short; half of the bound is fixed and half is jitter, so that a retry is neither at
/// once nor in step with the others.
pub fn retry_in_ms(
    policy: &RetryPolicy,
    attempts: u32,
    fraction: u32,
    elapsed_ms: u64,
    retry_after_ms: u64,
) -> Option<u64> {
    let doublings = attempts.saturating_sub(1).min(30);
    let bound = policy.base_ms.saturating_mul(1 << doublings).min(policy.cap_ms);
    let half = bound / 2;
    let jitter = (bound - half) * u64::from(fraction.min(1_000_000)) / 1_000_000;
    let delay = (half + jitter).max(retry_after_ms).max(1);
    (elapsed_ms.saturating_add(delay) <= policy.ttl_ms).then_some(delay)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_the_cap_and_end_with_the_time_to_live() {
        let policy = RetryPolicy { base_ms: 1000, cap_ms: 4000, ttl_ms: 10_000 };
        let rows = [
            (1, 0, 0, 0, Some(500)),
            (1, 1_000_000, 0, 0, Some(1000)),
            (2, 1_000_000, 0, 0, Some(2000)),
            (9, 1_000_000, 0, 0, Some(4000)),
            (200, 1_000_000, 0, 0, Some(4000)),
            (1, 0, 0, 7000, Some(7000)),
            (1, 0, 0, 10_001, None),
            (1, 0, 9500, 0, Some(500)),
            (1, 0, 9501, 0, None),
        ];
        for (attempts, fraction, elapsed, after, expected) in rows {
            assert_eq!(retry_in_ms(&policy, attempts, fraction, elapsed, after), expected);
        }
    }
}
