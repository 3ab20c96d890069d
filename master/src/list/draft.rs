//! The rows of a version on their way into the storage.

use super::ListError;
use crate::core::Core;
use crate::fetch::pieces::Piece;
use crate::fetch::snapshot::{Refused, Snapshot};
use crate::fetch::{FetchError, Form};
use crate::storage::StorageError;
use postrider_common::campaign::{AudienceFormat, TextForm};
use postrider_common::ids::to_hex;
use postrider_common::limits::{FIELDS_MAX, RUN_RECIPIENTS_MAX};
use postrider_common::message::Recipient;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;

/// Bytes handed over at once, about.
const PIECE_BYTES: usize = 256 * 1024;

/// Ends with `finish` or `abort`.
pub(super) struct Draft {
    snapshot: Snapshot,
    piece: Vec<u8>,
    hash: Sha256,
    /// Column that holds the address.
    address: String,
    pub rows: u64,
    pub columns: BTreeSet<String>,
    pub has_more_columns: bool,
}

/// What names the rows that were written.
pub(super) struct Names {
    pub sha256: String,
    pub contents: String,
}

impl From<Refused> for ListError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Storage(error) => Self::Storage(error),
            Refused::Fetch(FetchError { error, passes: true }) => Self::Unread(error.message),
            Refused::Fetch(FetchError { error, passes: false }) => {
                Self::Rows { message: error.message, mend: "make the list smaller".to_owned() }
            }
            // Nothing here holds a split.
            Refused::Halt(_) => Self::Stopping,
        }
    }
}

/// A recipient as a line of NDJSON, its end included.
pub fn line(recipient: Recipient, address_column: &str, out: &mut Vec<u8>) -> Result<(), ListError> {
    let Recipient { address, key: _, mut fields } = recipient;
    fields.insert(address_column.to_owned(), Value::String(address.to_string()));
    serde_json::to_writer(&mut *out, &fields).map_err(|error| ListError::Unread(error.to_string()))?;
    out.push(b'\n');
    Ok(())
}

impl Draft {
    pub async fn begin(core: &Core, address: &str) -> Result<Self, ListError> {
        let form = Form { format: AudienceFormat::Ndjson, text: TextForm::default() };
        Ok(Self {
            snapshot: Snapshot::begin(core, &form, None).await?,
            piece: Vec::with_capacity(PIECE_BYTES),
            hash: Sha256::new(),
            address: address.to_owned(),
            rows: 0,
            columns: BTreeSet::from([address.to_owned()]),
            has_more_columns: false,
        })
    }

    pub async fn put(&mut self, recipient: Recipient) -> Result<(), ListError> {
        self.rows += 1;
        if self.rows > RUN_RECIPIENTS_MAX as u64 {
            let message = format!("a list has at most {RUN_RECIPIENTS_MAX} rows (run_recipients_max)");
            return Err(ListError::Rows { message, mend: "make several lists of it".to_owned() });
        }
        for name in recipient.fields.keys() {
            if !self.columns.contains(name) {
                match self.columns.len() < FIELDS_MAX {
                    true => drop(self.columns.insert(name.clone())),
                    false => self.has_more_columns = true,
                }
            }
        }
        line(recipient, &self.address, &mut self.piece)?;
        if self.piece.len() < PIECE_BYTES { Ok(()) } else { self.flush().await }
    }

    async fn flush(&mut self) -> Result<(), ListError> {
        let bytes = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        self.hash.update(&bytes);
        Ok(self.snapshot.write(Piece { bytes }).await?)
    }

    /// All rows were put.
    pub async fn end(&mut self) -> Result<Names, ListError> {
        self.flush().await?;
        let sha256 = self.snapshot.end().await?;
        Ok(Names { sha256, contents: to_hex(&self.hash.clone().finalize()) })
    }

    /// Makes it readable under its name.
    pub async fn finish(self) -> Result<(), StorageError> {
        self.snapshot.finish().await
    }

    pub async fn abort(self) {
        self.snapshot.abort().await;
    }
}
