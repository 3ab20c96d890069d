//! The conformance suite of the store, through the seal: callers must not notice it.

#![cfg(feature = "encryption")]
#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

use async_trait::async_trait;
use postrider_common::Clock;
use postrider_master::seal::{Sealed, Vault, new_line};
use postrider_store::Store;
use postrider_store::conformance::Fixture;
use postrider_store::embedded::Embedded;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// A clock that the test moves.
#[derive(Debug)]
struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn wall_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
    fn boot_ms(&self) -> u64 {
        self.wall_ms().unsigned_abs()
    }
    fn random(&self) -> u64 {
        7
    }
}

struct SealedFixture {
    store: Arc<dyn Store>,
    clock: Arc<TestClock>,
}

#[async_trait]
impl Fixture for SealedFixture {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }
    async fn pass(&self, ms: u64) {
        self.clock.0.fetch_add(ms as i64, Ordering::SeqCst);
    }
}

async fn sealed() -> SealedFixture {
    let clock = Arc::new(TestClock(AtomicI64::new(1_790_000_000_000)));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), new_line(&"k".parse().unwrap()).unwrap()).unwrap();
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
    let vault = Vault::read(file.path()).unwrap();
    let inner = Arc::new(Embedded::in_memory(clock.clone()));
    SealedFixture { store: Arc::new(Sealed::new(inner, vault)), clock }
}

postrider_store::conformance_tests!(sealed);
