//! Opening a store by URL.

use crate::{Result, Store, StoreUrl, embedded, redis};
use postrider_common::Clock;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;

/// What an OK is worth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// On disk before the answer.
    #[default]
    Always,
    /// As `Always`, and known to so many replicas: what was answered survives the loss of the primary.
    Replicated { replicas: u32 },
    /// A crash of the store's host may lose the last second. Prints the weaker promise.
    Relaxed,
}

/// Files of PEM for connections with TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Who may have signed the certificates of the servers. None: the system's roots.
    pub ca: Option<PathBuf>,
    /// What we show a server that asks for a certificate; both or none.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub struct Options {
    pub durability: Durability,
    /// Parts that the runs are spread over, on a server; said at the first start, and the same for ever. An embedded
    /// store has one.
    pub shards: NonZeroU16,
    pub tls: TlsFiles,
    pub clock: Arc<dyn Clock>,
}

impl Options {
    /// With one shard, and the system's roots for stores that need TLS.
    pub fn new(durability: Durability, clock: Arc<dyn Clock>) -> Self {
        Self { durability, shards: NonZeroU16::MIN, tls: TlsFiles::default(), clock }
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
