//! Carrying messages to relays: one pool of connections per relay.

mod connection;
mod hold;
mod pool;
mod tls;
mod waiting;

pub(crate) use hold::Hold;
pub(crate) use pool::{Pool, PoolConfig};

use crate::config::{RelayConfig, WorkerConfig, WorkerError};
use crate::engine::LeaseKey;
use postrider_common::clock::Clock;
use postrider_common::lease::Outcome;
use std::sync::Arc;

/// Whether `relay` can be used from here, up to the login. Errors: what is wrong with its configuration; the relay's code, or a
/// word in its place, and why not.
pub async fn try_relay(
    config: &WorkerConfig,
    relay: &RelayConfig,
    clock: Arc<dyn Clock>,
) -> Result<Result<(), (String, String)>, WorkerError> {
    Ok(connection::try_out(PoolConfig::new(config, 0, relay)?, clock).await)
}

/// What pools tell the loop.
#[derive(Debug)]
pub(crate) enum Told {
    Sent {
        lease: LeaseKey,
        outcome: Outcome,
    },
    Progress {
        lease: LeaseKey,
    },
    Relay {
        index: usize,
        is_up: bool,
    },
    /// See `Event::Connections`.
    Connections {
        index: usize,
        allowed: u32,
        open: u32,
        wanted: u32,
    },
}
