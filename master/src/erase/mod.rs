//! Erasing one address: everywhere in the store and in the storage, until only a keyed hash of it is left.
//!
//! A request is kept in the store, with how far it is; whoever holds it works on it, and anybody goes on when he is gone.
//! Every step may be repeated. First what is not read again goes: batches, and splits that may bring the address in
//! again (`runs`); then uploaded audiences (`audiences`), then history (`segments`), then runs that came meanwhile. While a
//! request is open, no split takes the address in.
//!
//! What stays of a recipient is its place in its batch, its state, and the hash (`hash`): so counters stay sums, and one who
//! has the address can still ask what became of it.

mod audiences;
mod hash;
mod names;
mod request;
mod rewrite;
mod runs;
mod scrub;
mod segments;
#[cfg(test)]
mod tests;
mod work;

pub(crate) use hash::hmac;
pub use hash::{KEY_BYTES, id_of};
pub use request::{Counts, Request, Step, ask, erasing, open};
pub use scrub::Scrubber;
pub use segments::scrub;
pub use work::{Work, Worked};

use crate::history::HistoryError;
use crate::seal::SealError;
use crate::storage::StorageError;
use crate::suppress::SuppressError;
use postrider_store::StoreError;

/// Why an erasure does not go on for now. Reads after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error(transparent)]
    Sealed(#[from] SealError),
    #[error(transparent)]
    Suppress(#[from] SuppressError),
    /// Nobody here can tell whether the address is in it.
    #[error("look into {what}: {why}")]
    Locked { what: String, why: String },
    #[error("read what is known of the erasure: {0}")]
    Unreadable(String),
    #[error("read audiences/{name}: {why}")]
    Audience { name: String, why: String },
    #[error("erase on: somebody else does, since this took too long")]
    Lost,
    #[error("erase on: it changes all the time; it is tried again")]
    Busy,
    #[error("erase on: the master stops")]
    Stopping,
}
