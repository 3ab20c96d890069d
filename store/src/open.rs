//! Opening a store by URL.

use crate::{Result, Store, StoreUrl, embedded, redis};
use postrider_common::Clock;
use std::num::NonZeroU16;
use std::sync::Arc;

/// What an OK is worth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// On disk before the answer.
    #[default]
    Always,
    /// A crash of the store's host may lose the last second. Prints the weaker promise.
    Relaxed,
}

#[derive(Debug, Clone)]
pub struct Options {
    pub durability: Durability,
    /// Parts that the runs are spread over, on a server; said at the first start, and the same for ever. An embedded
    /// store has one.
    pub shards: NonZeroU16,
    pub clock: Arc<dyn Clock>,
}

impl Options {
    /// With one shard.
    pub fn new(durability: Durability, clock: Arc<dyn Clock>) -> Self {
        Self { durability, shards: NonZeroU16::MIN, clock }
    }
}

/// Opens the store and checks that it can carry the promises.
pub async fn open(url: &StoreUrl, options: Options) -> Result<Arc<dyn Store>> {
    match url {
        StoreUrl::EmbeddedMemory => Ok(Arc::new(embedded::Embedded::in_memory(options.clock))),
        StoreUrl::EmbeddedFile(path) => Ok(Arc::new(embedded::Embedded::open(path, options.clock).await?)),
        StoreUrl::Redis(url) => Ok(Arc::new(redis::Redis::connect(url, options).await?)),
    }
}
