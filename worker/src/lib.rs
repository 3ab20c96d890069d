//! The worker: leases batches from masters, sends to their recipients, reports how each ended.
//!
//! It knows nothing but master addresses, and keeps nothing on disk but a crash journal, without which it is
//! still correct. In reading order: `engine` decides, `run` performs what it decides, `dispatch` speaks to
//! masters, `definition` holds what is rendered, `fields` fetches what of it is elsewhere, `send` carries messages to relays, `journal` notes what the
//! next process must know if this one is killed.

pub mod config;
mod definition;
pub mod dispatch;
pub mod engine;
mod fields;
pub mod journal;
mod metrics;
mod run;
mod sabotage;
mod secret;
mod send;
mod signing;
pub mod trust;

pub use config::{LoginConfig, RelayConfig, Security, WorkerConfig, WorkerError};
pub use run::{run, run_with};
pub use secret::SecretSource;
pub use send::try_relay;
pub use signing::Signing;
