//! Which snapshot was fetched for which run. The store knows it as well, and may go back in time: it would be fetched again
//! then, with other rows, while what workers tell is of the first.

use super::{Storage, StorageError};
use crate::fetch::Form;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use postrider_common::campaign::{AudienceFormat, TextForm};
use postrider_common::ids::RunId;
use serde::{Deserialize, Serialize};

const FETCHED: &str = "fetched";

/// A snapshot, and how it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    pub sha256: String,
    pub form: Form,
}

/// As it is written.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    sha256: String,
    format: AudienceFormat,
    text: TextForm,
}

impl Storage {
    /// Before the store is told.
    pub async fn note_fetched(&self, run: &RunId, fetched: &Fetched) -> Result<(), StorageError> {
        let Fetched { sha256, form: Form { format, text } } = fetched.clone();
        let note = serde_json::to_vec(&Note { sha256, format, text }).unwrap_or_default();
        self.objects.put(&path(run), note.into()).await?;
        Ok(())
    }

    /// None: nothing was, or the note cannot be read.
    pub async fn fetched(&self, run: &RunId) -> Result<Option<Fetched>, StorageError> {
        let found = match self.objects.get(&path(run)).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let note: Option<Note> = serde_json::from_slice(&found).ok();
        Ok(note.map(|Note { sha256, format, text }| Fetched { sha256, form: Form { format, text } }))
    }

    /// Runs with a note that is that old, at most `limit`.
    pub async fn old_fetched(&self, old: super::OlderThan, limit: usize) -> Result<Vec<RunId>, StorageError> {
        let mut runs = Vec::new();
        let mut objects = self.objects.list(Some(&Path::from(FETCHED)));
        while runs.len() < limit
            && let Some(object) = objects.try_next().await?
        {
            if super::sweep::is_old(&object, old) {
                runs.extend(object.location.filename().and_then(|name| name.parse().ok()));
            }
        }
        Ok(runs)
    }

    /// The run is not there any more.
    pub async fn forget_fetched(&self, run: &RunId) -> Result<(), StorageError> {
        self.remove(&path(run)).await
    }
}

fn path(run: &RunId) -> Path {
    Path::from(format!("{FETCHED}/{run}"))
}
