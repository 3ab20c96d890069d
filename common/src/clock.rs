//! The only way to the time and to randomness.

use std::fmt;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

/// Time and randomness, so that a simulation can give its own.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Milliseconds since 1970-01-01T00:00:00Z. May step.
    fn wall_ms(&self) -> i64;
    /// Milliseconds since some fixed instant; never steps, and counts while the machine sleeps.
    fn boot_ms(&self) -> u64;
    /// Uniform 64 random bits. Not for secrets.
    fn random(&self) -> u64;
}

/// The machine's clocks: `CLOCK_REALTIME`, `CLOCK_BOOTTIME`, and a generator seeded by the system.
#[derive(Debug)]
pub struct SystemClock {
    random: Mutex<fastrand::Rng>,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { random: Mutex::new(fastrand::Rng::new()) }
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn wall_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn boot_ms(&self) -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000
    }

    fn random(&self) -> u64 {
        self.random.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).u64(..)
    }
}
