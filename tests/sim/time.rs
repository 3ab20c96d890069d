//! Virtual time.

use std::time::Duration;
use tokio::time::Instant;

/// The store's clock at the start of the world.
pub const EPOCH_MS: i64 = 1_800_000_000_000;

/// Virtual time, the same for all; everybody's clock is made from it.
#[derive(Debug, Clone, Copy)]
pub struct Time(Instant);

impl Time {
    pub fn begin() -> Self {
        Self(Instant::now())
    }

    pub fn now_ms(self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub fn at(self, ms: u64) -> Instant {
        self.0 + Duration::from_millis(ms)
    }
}
