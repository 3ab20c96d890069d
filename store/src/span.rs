//! When a checkpoint may grant intents.

use serde::{Deserialize, Serialize};

/// From an instant until before another, by the store's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantSpan {
    pub from_ms: i64,
    pub until_ms: i64,
}

impl GrantSpan {
    pub const NEVER: Self = Self { from_ms: 0, until_ms: 0 };

    pub fn contains(self, now_ms: i64) -> bool {
        self.from_ms <= now_ms && now_ms < self.until_ms
    }
}
