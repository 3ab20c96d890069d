//! The worker: leases batches from masters, sends to their recipients, reports how each ended.
//!
//! It keeps nothing on disk and knows nothing but master addresses. In reading order: `engine` decides,
//! `run` performs what it decides, `dispatch` speaks to masters, `definition` holds what is rendered,
//! `send` carries messages to relays.

pub mod config;
mod definition;
pub mod dispatch;
pub mod engine;
mod run;
mod sabotage;
mod send;

pub use config::{RelayConfig, WorkerConfig, WorkerError};
pub use run::{run, run_with};
