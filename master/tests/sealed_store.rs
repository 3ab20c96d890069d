//! The conformance suite of the store, through the seal: callers must not notice it.

#![cfg(feature = "encryption")]
#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

use postrider_master::seal::{Sealed, Vault, new_line};
use postrider_store::conformance::memory::InMemory;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

async fn sealed() -> InMemory {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), new_line(&"k".parse().unwrap()).unwrap()).unwrap();
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
    let vault = Vault::read(file.path()).unwrap();
    InMemory::new(|store| Arc::new(Sealed::new(store, vault)))
}

postrider_store::conformance_tests!(sealed);
