//! What is removed from the storage: uploads that were not finished, and what nobody names any more. Old
//! is what is old by the storage's own clock.

use super::lists::PASSES;
use super::{Storage, StorageError, audience_path, segment_path};
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore as _, ObjectStoreExt as _};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path as File;
use std::time::{Duration, SystemTime};

/// Written to learn what time it is there.
const CLOCK: &str = "uploads/clock";
const UPLOADS: &str = "uploads";
const HISTORY: &str = "history";
pub(super) const SEGMENT_END: &str = ".ndjson.zst";
/// Folders below the storage in which files may be left half written.
const DEPTH_MAX: u32 = 2;

/// The age from which something counts as left behind, as an instant of the storage's clock.
#[derive(Debug, Clone, Copy)]
pub struct OlderThan {
    instant_ms: i64,
    /// None: before all time, so nothing is that old.
    file: Option<SystemTime>,
}

impl Storage {
    pub async fn older_than(&self, age: Duration) -> Result<OlderThan, StorageError> {
        let path = Path::from(CLOCK);
        self.objects.put(&path, "now".into()).await?;
        let now = self.objects.head(&path).await?.last_modified;
        let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let file = SystemTime::from(now).checked_sub(age);
        Ok(OlderThan { instant_ms: now.timestamp_millis().saturating_sub(age_ms), file })
    }

    /// Removes uploads and half-written files that are that old; how many. No upload takes that long.
    pub async fn sweep_uploads(&self, old: OlderThan) -> Result<u64, StorageError> {
        let mut removed = 0;
        let mut uploads = self.objects.list(Some(&Path::from(UPLOADS)));
        while let Some(object) = uploads.try_next().await? {
            if is_old(&object, old) && object.location != Path::from(CLOCK) {
                self.objects.delete(&object.location).await?;
                removed += 1;
            }
        }
        drop(uploads);
        // Nothing that was begun before them is still going on.
        let mut passes = self.objects.list(Some(&Path::from(PASSES)));
        while let Some(object) = passes.try_next().await? {
            if is_old(&object, old) {
                self.remove(&object.location).await?;
            }
        }
        drop(passes);
        let Some(folder) = self.folder.clone() else { return Ok(removed) };
        let halves = move || -> u64 {
            let parts = [UPLOADS, HISTORY, "audiences", "campaigns", "fetched", "lists", "listed"];
            parts.iter().map(|part| sweep_halves(&folder.join(part), old.file, DEPTH_MAX)).sum()
        };
        Ok(removed + tokio::task::spawn_blocking(halves).await.unwrap_or_default())
    }

    /// Names of segments that are that old, at most `limit`.
    pub async fn old_segments(&self, old: OlderThan, limit: usize) -> Result<BTreeSet<String>, StorageError> {
        let mut names = BTreeSet::new();
        let mut objects = self.objects.list(Some(&Path::from(HISTORY)));
        while names.len() < limit
            && let Some(object) = objects.try_next().await?
        {
            if is_old(&object, old) {
                names.extend(
                    object.location.filename().and_then(|name| name.strip_suffix(SEGMENT_END)).map(str::to_owned),
                );
            }
        }
        Ok(names)
    }

    /// Whether it is that old; none: there is no such segment.
    pub async fn segment_is_old(&self, name: &str, old: OlderThan) -> Result<Option<bool>, StorageError> {
        match self.objects.head(&segment_path(name)).await {
            Ok(object) => Ok(Some(is_old(&object, old))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// One that is gone already is fine.
    pub async fn remove_segment(&self, name: &str) -> Result<(), StorageError> {
        self.remove(&segment_path(name)).await
    }

    /// The same of an audience.
    pub async fn remove_audience(&self, sha256: &str) -> Result<(), StorageError> {
        self.remove(&audience_path(sha256)).await
    }

    pub(super) async fn remove(&self, path: &Path) -> Result<(), StorageError> {
        match self.objects.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

pub(super) fn is_old(object: &ObjectMeta, old: OlderThan) -> bool {
    object.last_modified.timestamp_millis() <= old.instant_ms
}

/// Files that a writer was killed over have `#` and a number at their end, and are in no listing. What cannot be looked
/// at or removed stays for the next time.
fn sweep_halves(folder: &File, before: Option<SystemTime>, depth: u32) -> u64 {
    let Some(limit) = before else { return 0 };
    let mut removed = 0;
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let step = match entry.metadata() {
            Ok(data) if data.is_dir() && depth > 0 => ControlFlow::Continue(()),
            Ok(data) if data.is_file() => ControlFlow::Break(data.modified().is_ok_and(|at| at < limit)),
            Ok(_) | Err(_) => ControlFlow::Break(false),
        };
        let name = entry.file_name();
        let half = name
            .to_str()
            .and_then(|name| name.rsplit_once('#'))
            .is_some_and(|(_, number)| number.parse::<u32>().is_ok());
        match step {
            ControlFlow::Continue(()) => removed += sweep_halves(&entry.path(), before, depth - 1),
            ControlFlow::Break(old) => removed += u64::from(old && half && std::fs::remove_file(entry.path()).is_ok()),
        }
    }
    removed
}
