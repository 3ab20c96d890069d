//! Until when a lease may be used, shared by the loop that learns it and the senders that ask.

use postrider_common::sabotage::{Fault, planted};
use std::sync::atomic::{AtomicU64, Ordering};

/// Of one lease. Begins untrusted.
#[derive(Debug, Default)]
pub struct Trust {
    /// Boot time from which on no final dot is written.
    until_ms: AtomicU64,
}

impl Trust {
    pub fn set(&self, until_ms: u64) {
        self.until_ms.store(until_ms, Ordering::SeqCst);
    }

    /// A send may begin, and a final dot may be written.
    pub fn holds(&self, now_boot_ms: u64) -> bool {
        now_boot_ms < self.until_ms.load(Ordering::SeqCst) || planted(Fault::IgnoreDeadline)
    }
}
