//! The store on a cluster of three real nodes: the conformance suite, a slot that moves, a node that dies.

#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

mod redis_nodes;

use async_trait::async_trait;
use postrider_store::Store;
use postrider_store::conformance::Fixture;
use postrider_store::redis::Redis;
use redis_nodes::Cluster;
use std::sync::Arc;
use std::time::Duration;

const SHARDS: u16 = 4;

struct OnCluster {
    store: Arc<Redis>,
}

#[async_trait]
impl Fixture for OnCluster {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn pass(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

/// One cluster for all cases: it takes seconds until nodes agree.
#[tokio::test]
async fn every_case_of_the_conformance_suite() {
    let cluster = Cluster::start();
    let fixture = || async {
        cluster.flush();
        OnCluster { store: Arc::new(cluster.store(SHARDS).await.unwrap()) }
    };
    postrider_store::conformance_tests!(fixture, in_turn);
}
