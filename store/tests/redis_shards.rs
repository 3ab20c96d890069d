//! A store of several shards, on one server: the same promises, and those that only several shards can break.

#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

mod redis_server;

use async_trait::async_trait;
use postrider_store::conformance::Fixture;
use postrider_store::redis::Redis;
use postrider_store::{Store, StoreError};
use redis_server::Server;
use std::sync::Arc;
use std::time::Duration;

const SHARDS: u16 = 3;

struct Shards {
    store: Arc<Redis>,
    server: Server,
}

#[async_trait]
impl Fixture for Shards {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn pass(&self, ms: u64) {
        let until = self.store.now_ms().await.unwrap() + ms as i64;
        loop {
            let left = until - self.store.now_ms().await.unwrap();
            if left <= 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(left as u64)).await;
        }
    }
}

async fn shards() -> Shards {
    let server = Server::start();
    Shards { store: Arc::new(server.store_of_shards(SHARDS).await.unwrap()), server }
}

postrider_store::conformance_tests!(shards, of_shards);

#[tokio::test]
async fn the_number_of_shards_never_changes() {
    let fixture = shards().await;
    for other in [1, SHARDS + 1] {
        let error = fixture.server.store_of_shards(other).await.unwrap_err();
        let StoreError::Unsafe { message, mend } = error else { panic!("{error}") };
        assert!(message.contains(&format!("{SHARDS} shards, not {other}")), "{message}");
        assert!(mend.contains(&format!("shards = {SHARDS} in [store]")), "{mend}");
    }
    fixture.server.store_of_shards(SHARDS).await.unwrap();
}
