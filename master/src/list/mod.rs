//! Saved lists: recipients that campaigns share, kept in versions.
//!
//! A `version` says what a list is since a change: where its rows are, what its columns are. Rows are an audience of the
//! storage as any other, NDJSON that was checked row by row: named by its hash, read by splits, erased and swept like one. A
//! `change` makes the next version of the newest, a run gets one by `freeze`, and `remove` ends a list. What was written is
//! never changed; versions are made by creating what must not be there, so any number of masters may do it.

mod change;
mod draft;
mod freeze;
mod remove;
#[cfg(test)]
mod tests;
mod version;

pub use change::{Changed, Refused, Wish, change};
pub use draft::line;
pub use freeze::{check, freeze};
pub use remove::{Removed, remove};
pub use version::{Change, Counts, ReadError, Version, newest, read};

use crate::audience;
use crate::storage::StorageError;
use postrider_common::ids::ListName;
use postrider_store::StoreError;

/// Why a list is not changed, or not read. Reads after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The rows, or what is said of them, must be mended.
    #[error("{message}; {mend}")]
    Rows { message: String, mend: String },
    #[error("read the rows: {0}")]
    Unread(String),
    #[error("there is no list '{name}'{}: see list list", near(.nearest))]
    Missing { name: ListName, nearest: Option<String> },
    #[error("change the list: others change it all the time; try again")]
    Busy,
    #[error("change the list: it took more than {hours} h; change it in parts")]
    TooLong { hours: u64 },
    #[error("change the list: the master stops")]
    Stopping,
}

fn near(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!(" (did you mean '{name}'?)")).unwrap_or_default()
}

impl From<audience::ReadError> for ListError {
    fn from(error: audience::ReadError) -> Self {
        match error {
            audience::ReadError::Run(error) => Self::Rows { message: error.message, mend: error.mend },
            audience::ReadError::Storage(why) => Self::Unread(why),
        }
    }
}

/// For a list that is not there: the name that may have been meant.
pub async fn missing(storage: &crate::storage::Storage, name: &ListName) -> Result<ListError, StorageError> {
    let names: Vec<String> = storage.lists().await?.into_keys().map(String::from).collect();
    let nearest = audience::nearest(name.as_str(), &names).map(str::to_owned);
    Ok(ListError::Missing { name: name.clone(), nearest })
}
