//! What stands between a master and the rest of the world when it is stopped or cut off.

use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// What holds a line up.
#[derive(Debug, Default)]
pub struct Gate {
    is_stopped: AtomicBool,
    pub goes_on: Notify,
    /// Nothing gets through.
    pub is_cut: AtomicBool,
}

impl Gate {
    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    pub fn stop(&self, is_stopped: bool) {
        self.is_stopped.store(is_stopped, Ordering::Relaxed);
        if !is_stopped {
            self.goes_on.notify_waiters();
        }
    }
}
