//! A store in memory under a clock that the test moves.

use super::Fixture;
use crate::Store;
use crate::embedded::Embedded;
use async_trait::async_trait;
use postrider_common::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Stands still until it is moved.
#[derive(Debug)]
pub struct TestClock {
    now_ms: AtomicI64,
    drawn: AtomicU64,
}

impl Default for TestClock {
    fn default() -> Self {
        Self { now_ms: AtomicI64::new(1_790_000_000_000), drawn: AtomicU64::new(7) }
    }
}

impl TestClock {
    pub fn pass(&self, ms: u64) {
        self.now_ms.fetch_add(ms as i64, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn wall_ms(&self) -> i64 {
        self.now_ms.load(Ordering::SeqCst)
    }
    fn boot_ms(&self) -> u64 {
        self.wall_ms().unsigned_abs()
    }
    /// Never the same twice: it tells one life of a store from the next.
    fn random(&self) -> u64 {
        self.drawn.fetch_add(1, Ordering::SeqCst)
    }
}

/// The embedded store, or what stands around it.
pub struct InMemory {
    store: Arc<dyn Store>,
    clock: Arc<TestClock>,
}

impl InMemory {
    /// `around` gets the embedded store.
    pub fn new(around: impl FnOnce(Arc<Embedded>) -> Arc<dyn Store>) -> Self {
        let clock = Arc::new(TestClock::default());
        Self { store: around(Arc::new(Embedded::in_memory(clock.clone()))), clock }
    }
}

#[async_trait]
impl Fixture for InMemory {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }
    async fn pass(&self, ms: u64) {
        self.clock.pass(ms);
    }
}
