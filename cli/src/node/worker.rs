//! A worker from a configuration.

use super::signing;
use crate::config::Config;
use crate::failure::{Failure, Result};
use postrider_common::Clock;
use postrider_worker::{RelayConfig, Signing, WorkerConfig, WorkerError};
use std::future::Future;
use std::sync::Arc;

/// What the worker crate is started with.
pub fn settings(config: &Config) -> Result<WorkerConfig> {
    if config.relays.is_empty() {
        return Err(Failure::usage(
            "there is no relay to send to: add [[relay]] with name and url to the configuration, or give \
             --relay smtp://HOST:PORT",
        ));
    }
    let relays = config.relays.iter().map(|relay| RelayConfig {
        name: relay.name.clone(),
        host: relay.host.clone(),
        port: relay.port,
        security: relay.security,
        authorities: relay.authorities.clone(),
        login: relay.login.clone(),
        lanes: relay.lanes.clone(),
        connections: relay.connections,
        limit: relay.limit,
    });
    let worker = &config.worker;
    Ok(WorkerConfig {
        masters: worker.masters.clone(),
        name: worker.name.clone(),
        slots: worker.slots,
        lanes: worker.lanes.clone(),
        reserve: worker.reserve.clone(),
        relays: relays.collect(),
        ehlo: worker.ehlo.clone(),
        source_address: worker.source_address,
        journal: worker.journal.clone(),
        drain_timeout: worker.drain_timeout,
        http_listen: worker.http_listen,
        outgoing: config.outgoing.clone(),
        signing: Signing::new(signing::signers(&config.dkim)?),
    })
}

/// Works until `stop`, then drains.
pub async fn run(settings: WorkerConfig, clock: Arc<dyn Clock>, stop: impl Future<Output = ()> + Send) -> Result<()> {
    postrider_worker::run(settings, clock, stop).await.map_err(|error| {
        let message = format!("failed to {error}");
        match error {
            WorkerError::Config { .. } => Failure::usage(message),
            WorkerError::Journal { .. } | WorkerError::Listen { .. } | WorkerError::NotHandedBack { .. } => {
                Failure::failed(message)
            }
        }
    })
}
