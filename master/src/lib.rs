//! The master: takes campaigns, splits their audiences into batches, leases batches to workers.
//!
//! Every master is the same and keeps nothing of its own: all that matters is in the store and in the
//! storage, so any of them may die at any time. In reading order: what is submitted comes in through
//! `api` and is checked in `campaign`; `audience` reads rows, `split` makes batches of them; `lease` hands
//! those to workers; `history` is what settled batches leave behind; `lineage` notices a store that went back in time;
//! `suppress` knows who is not sent to; `list` keeps recipients that campaigns share; `erase` takes one address out of everything;
//! `seal` is between them and what is stored; `loops` are the duties that run by themselves.

pub mod api;
mod assemble;
pub mod audience;
pub mod campaign;
mod config;
mod core;
pub mod erase;
pub mod fetch;
pub mod history;
mod http;
pub mod lease;
mod lineage;
pub mod list;
pub mod loops;
mod metered;
mod metrics;
pub mod schedule;
pub mod seal;
pub mod split;
mod start;
pub mod storage;
pub mod suppress;

pub use assemble::{Master, assemble};
pub use config::{LeaseSettings, MasterConfig, Retention, StartError};
pub use start::{RunningMaster, start};
