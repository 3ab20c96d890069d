//! The harness of the end-to-end tests.
//!
//! Everything under test is a process of its own: redis-server on a private socket, masters, workers,
//! the SMTP sink. The harness speaks to Postrider only as an operator does, through the command line,
//! and to the processes through signals. What happened is judged by `judge` from two sources that
//! Postrider cannot colour: the sink's own ledger and the log of the faults that were injected. Postrider's
//! counters are compared with them, never believed.
//!
//! In reading order: a `Fleet` is started, a campaign is `applied` and run, a `Watcher` polls it, faults
//! are injected and noted in the `FaultLog`, and `judge` says what was wrong.

pub mod audience;
pub mod binary;
pub mod bucket;
pub mod client;
pub mod databases;
pub mod endpoint;
pub mod faults;
pub mod fleet;
pub mod http;
pub mod judge;
pub mod keeping_relay;
pub mod ledger;
pub mod poison_relay;
pub mod process;
pub mod redis_cluster;
pub mod redis_dump;
pub mod redis_server;
pub mod secure_relay;
pub mod sentinels;
pub mod settings;
pub mod split_kills;
pub mod summary;
pub mod wait;
pub mod watcher;

pub use audience::{Audience, Campaign};
pub use bucket::Bucket;
pub use client::{Client, RecipientLine, Run};
pub use endpoint::{Asked, HttpEndpoint, Reply};
pub use faults::{Fault, FaultLog, Role};
pub use fleet::Fleet;
pub use judge::{Findings, Rules, Violation};
pub use poison_relay::PoisonRelay;
pub use settings::Settings;
