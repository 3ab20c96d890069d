//! What is noted of a run: which snapshot was fetched for it, which version of a list it froze, and when it was due if a
//! person started it. The store knows both, and
//! may go back in time: a run that is submitted again would be split into other batches then, while what workers tell is of
//! the first.

use super::{Storage, StorageError};
use crate::fetch::Form;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use postrider_common::campaign::{AudienceFormat, TextForm};
use postrider_common::ids::{ListName, RunId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

const FETCHED: &str = "fetched";
const NOMINAL: &str = "nominal";
const WAVES: &str = "waves";
const LISTED: &str = "listed";

/// A snapshot, and how it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    pub sha256: String,
    pub form: Form,
}

/// A version of a saved list, as a run has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub list: ListName,
    pub version: u64,
    /// The audience that holds its rows.
    pub sha256: String,
    /// The columns that hold address and key. None: the normalised address.
    pub address: String,
    pub key: Option<String>,
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
        self.objects.put(&noted(FETCHED, run), note.into()).await?;
        Ok(())
    }

    /// None: nothing was, or the note cannot be read.
    pub async fn fetched(&self, run: &RunId) -> Result<Option<Fetched>, StorageError> {
        let Some(found) = self.read(&noted(FETCHED, run)).await? else { return Ok(None) };
        let note: Option<Note> = serde_json::from_slice(&found).ok();
        Ok(note.map(|Note { sha256, format, text }| Fetched { sha256, form: Form { format, text } }))
    }

    /// When the run was due: what was noted of it, or this, which is noted then.
    pub async fn nominal_of(&self, run: &RunId, now_ms: i64) -> Result<i64, StorageError> {
        let path = noted(NOMINAL, run);
        if self.write_new(&path, now_ms.to_string().into_bytes()).await? {
            return Ok(now_ms);
        }
        let found = self.objects.get(&path).await?.bytes().await?;
        // One that cannot be read tells nothing.
        Ok(std::str::from_utf8(&found).ok().and_then(|text| text.parse().ok()).unwrap_or(now_ms))
    }

    /// At which instants recipients of the run are due: for people who look at it.
    pub async fn note_waves(&self, run: &RunId, instants: &[i64]) -> Result<(), StorageError> {
        let note = serde_json::to_vec(instants).unwrap_or_default();
        self.objects.put(&noted(WAVES, run), note.into()).await?;
        Ok(())
    }

    /// Empty: nothing was noted, or the note cannot be read.
    pub async fn waves_of(&self, run: &RunId) -> Result<Vec<i64>, StorageError> {
        let found = self.read(&noted(WAVES, run)).await?;
        Ok(found.and_then(|found| serde_json::from_slice(&found).ok()).unwrap_or_default())
    }

    /// What the run froze of a list: what was noted of it, or this, which is noted then.
    pub async fn listed(&self, run: &RunId, now: Listed) -> Result<Listed, StorageError> {
        let path = noted(LISTED, run);
        if self.write_new(&path, serde_json::to_vec(&now).unwrap_or_default()).await? {
            return Ok(now);
        }
        let Some(found) = self.read(&path).await? else { return Ok(now) };
        // One that cannot be read tells nothing, and another list is another run's.
        let before = serde_json::from_slice::<Listed>(&found).ok().filter(|before| before.list == now.list);
        Ok(before.unwrap_or(now))
    }

    /// Runs with a note that is that old, at most `limit` of each kind.
    pub async fn old_notes(&self, old: super::OlderThan, limit: usize) -> Result<BTreeSet<RunId>, StorageError> {
        let mut runs = BTreeSet::new();
        for folder in [FETCHED, NOMINAL, WAVES, LISTED] {
            let (mut objects, mut left) = (self.objects.list(Some(&Path::from(folder))), limit);
            while left > 0
                && let Some(object) = objects.try_next().await?
            {
                if super::sweep::is_old(&object, old) {
                    runs.extend(object.location.filename().and_then(|name| name.parse().ok()));
                    left -= 1;
                }
            }
        }
        Ok(runs)
    }

    /// The run is not there any more.
    pub async fn forget_notes(&self, run: &RunId) -> Result<(), StorageError> {
        self.remove(&noted(FETCHED, run)).await?;
        self.remove(&noted(NOMINAL, run)).await?;
        self.remove(&noted(WAVES, run)).await?;
        self.remove(&noted(LISTED, run)).await
    }
}

fn noted(folder: &str, run: &RunId) -> Path {
    Path::from(format!("{folder}/{run}"))
}
