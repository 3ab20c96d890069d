//! A master from a configuration. The store is checked before any port is bound.

use crate::config::{Config, RetentionConfig};
use crate::failure::{Failure, Result};
use postrider_common::Clock;
use postrider_master::fetch::{FilesRoot, Settings as Sources};
use postrider_master::{LeaseSettings, MasterConfig, Retention, RunningMaster, StartError};
use postrider_store::{Options, Store, StoreError, StoreUrl};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A store that is being started with the master gets this long.
const STORE_PATIENCE: Duration = Duration::from_secs(30);
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// Opens the store, retrying for 30 s while it cannot be reached or does not take writes yet.
pub async fn open_store(url: &StoreUrl, options: Options) -> Result<Arc<dyn Store>> {
    let begun = Instant::now();
    let mut told = false;
    loop {
        let error = match postrider_store::open(url, options.clone()).await {
            Ok(store) => return Ok(store),
            Err(error) => error,
        };
        if !error.is_retryable() || begun.elapsed() >= STORE_PATIENCE {
            return Err(store_failure(url, &error));
        }
        if !told {
            tracing::warn!(store = %url, %error, patience_s = STORE_PATIENCE.as_secs(), "failed to open the store, retrying");
            told = true;
        }
        tokio::time::sleep(STORE_PAUSE).await;
    }
}

pub fn store_failure(url: &StoreUrl, error: &StoreError) -> Failure {
    let message = format!("failed to {error} (store {url})");
    match error {
        StoreError::Unsafe { .. } => Failure::unsafe_store(message),
        StoreError::Url(_) => Failure::usage(message),
        StoreError::Unavailable(_) => Failure::failed(format!("{message}; is it running, and is --store right?")),
        StoreError::Refusing { .. } | StoreError::NotReplicated { .. } | StoreError::Corrupt(_) => {
            Failure::failed(message)
        }
    }
}

/// Starts to serve on a store that was checked.
pub async fn start(config: &Config, store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Result<RunningMaster> {
    let lease = LeaseSettings {
        ttl: config.lease.ttl,
        window: config.lease.window,
        doubt_grace: config.lease.doubt_grace,
        hard_cap: config.lease.hard_cap,
    };
    let RetentionConfig { runs, messages, dead_letters } = config.retention;
    let settings = MasterConfig {
        grpc_listen: config.master.grpc_listen,
        http_listen: config.master.http_listen,
        storage: config.storage.clone(),
        key_file: config.key_file.clone(),
        lease,
        lanes: config.lanes.clone(),
        sites: config.sites.clone(),
        limits: config.limits.clone(),
        audience_bytes_max: config.master.audience_bytes_max,
        sources: Sources { files: config.files_root.clone().map(FilesRoot::new), outgoing: config.outgoing.clone() },
        split_ahead_batches: config.master.split_ahead_batches,
        retention: Retention { runs, messages, dead_letters },
    };
    postrider_master::start(settings, store, clock).await.map_err(|error| {
        let message = format!("failed to {error}");
        match error {
            StartError::NotLoopback { .. } | StartError::Setting { .. } | StartError::KeyFile(_) => {
                Failure::usage(message)
            }
            StartError::Bind { .. } | StartError::Storage(_) | StartError::Service(_) => Failure::failed(message),
        }
    })
}

/// `ready grpc=ADDR http=ADDR`: whoever started the process reads the ports from it.
pub fn ready_line(master: &RunningMaster) -> String {
    let http = master.http_addr().map(|address| format!(" http={address}")).unwrap_or_default();
    format!("ready grpc={}{http}", master.grpc_addr())
}
