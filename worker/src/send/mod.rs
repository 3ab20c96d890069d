//! Carrying messages to relays: one pool of connections per relay.

mod connection;
mod hold;
mod pool;
mod waiting;

pub(crate) use hold::Hold;
pub(crate) use pool::{Pool, PoolConfig};
pub(crate) use waiting::Share;

use crate::engine::LeaseKey;
use postrider_common::lease::Outcome;

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
