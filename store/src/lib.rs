//! The store: every fact about campaigns, runs, batches and leases, and every way it may change.
//!
//! `Store` is a trait in domain words with two implementations under one conformance suite:
//! `embedded`, a pure state machine (the executable specification), and `redis`, one Lua script per
//! transition. One transition is atomic, and every transition may be repeated: a repeat changes nothing
//! and answers what the first one answered. Only the store's own clock decides about time.

pub mod api;
pub mod campaigns;
pub mod compared;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod embedded;
pub mod erasure;
pub mod error;
pub mod given_up;
pub mod open;
pub mod pinned;
pub mod quota;
pub mod reconciled;
pub mod redis;
pub mod retention;
pub mod room;
pub mod span;
pub mod suppression;
pub mod url;

pub use api::*;
pub use error::StoreError;
pub use open::{Durability, Options, TlsFiles, open};
pub use quota::{Amounts, Limited, Quota, ShardDemand, ShareLimit, SharedLimit};
pub use url::StoreUrl;
