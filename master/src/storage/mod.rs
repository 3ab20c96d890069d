//! What is large and cold and shared by the masters: uploaded audiences and history segments.
//!
//! The only module that names `object_store`. A folder or a bucket; sealed when there is a key. An audience becomes
//! visible under its name at once and whole, after its bytes are durable; a broken upload leaves nothing, a crash what
//! `sweep` removes.

mod audience;
mod list;
mod lists;
mod notes;
mod place;
mod sweep;
mod upload;
mod versions;

pub use audience::AudienceBytes;
pub use notes::{Fetched, Listed};
pub use sweep::OlderThan;
pub use upload::Upload;

use crate::erase::KEY_BYTES;
use crate::seal::{SealError, Vault, What};
use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};
use place::Place;
use postrider_common::mark::{Mark, Marks};
use std::path::PathBuf;
use std::sync::Arc;

/// An error of the storage. Reads after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The configured place cannot be used.
    #[error("open the storage {place}: {why}; {mend}")]
    Open { place: String, why: String, mend: &'static str },
    /// It did not do what was asked, this time.
    #[error("use the storage: {0}")]
    Failed(#[from] object_store::Error),
    /// The mark of the store, by which it is noticed that the store went back.
    #[error(
        "read {MARKS_PATH} in the storage: {0}; bring it back from a copy, or remove it if the store is known to be whole"
    )]
    Marks(String),
    #[error("read {ERASURE_KEY_PATH} in the storage: it is damaged; bring it back from a copy")]
    ErasureKey,
    #[error(transparent)]
    Sealed(#[from] SealError),
}

/// The storage of the masters. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Storage {
    objects: Arc<dyn ObjectStore>,
    /// Where the objects are files; none in a bucket.
    folder: Option<Arc<PathBuf>>,
    vault: Vault,
}

impl Storage {
    /// A plain path or a `file://` URL of a folder, created if missing; or `s3://BUCKET/PREFIX`. What is written is
    /// sealed when the vault has a key.
    pub fn open(place: &str, vault: Vault) -> Result<Self, StorageError> {
        let Place { objects, folder } = place::open(place)?;
        Ok(Self { objects, folder: folder.map(Arc::new), vault })
    }

    /// Gone with the process; for tests. Copies share it.
    pub fn in_memory() -> Self {
        Self { objects: Arc::new(InMemory::new()), folder: None, vault: Vault::default() }
    }

    /// Whether the place answers and lets itself be listed. A folder was seen when it was opened.
    pub async fn check(&self, place: &str) -> Result<(), StorageError> {
        if self.folder.is_some() {
            return Ok(());
        }
        // Not there is the answer that is hoped for.
        match self.objects.head(&Path::from("audiences/none")).await {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return place::refused(place, error),
        }
        match self.objects.list_with_delimiter(Some(&Path::from("uploads"))).await {
            Ok(_) => Ok(()),
            Err(error) => place::refused(place, error),
        }
    }

    async fn has(&self, path: &Path) -> Result<bool, StorageError> {
        match self.objects.head(path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// As it is there. None: it is not.
    async fn read(&self, path: &Path) -> Result<Option<Bytes>, StorageError> {
        match self.objects.get(path).await {
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes it unless it is there. Whether it was written.
    async fn write_new(&self, path: &Path, bytes: Vec<u8>) -> Result<bool, StorageError> {
        match self.objects.put_opts(path, bytes.into(), PutOptions::from(PutMode::Create)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub async fn has_audience(&self, sha256: &str) -> Result<bool, StorageError> {
        self.has(&audience_path(sha256)).await
    }

    /// The bytes of an audience; none: there is no such audience.
    pub async fn read_audience(&self, sha256: &str) -> Result<Option<AudienceBytes>, StorageError> {
        audience::open(self, sha256).await
    }

    /// Stores a segment whole, durably.
    pub async fn write_segment(&self, name: &str, bytes: Vec<u8>) -> Result<(), StorageError> {
        let sealed = self.vault.seal(What::Segment(name), bytes)?;
        self.objects.put(&segment_path(name), sealed.into()).await?;
        Ok(())
    }

    /// None: there is no such segment.
    pub async fn read_segment(&self, name: &str) -> Result<Option<Bytes>, StorageError> {
        let Some(found) = self.read(&segment_path(name)).await? else { return Ok(None) };
        Ok(Some(self.vault.open(What::Segment(name), found.into())?.into()))
    }

    /// How far the store is known to have been. None known: no store was ever used with this storage.
    pub async fn read_marks(&self) -> Result<Marks, StorageError> {
        let Some(found) = self.read(&Path::from(MARKS_PATH)).await? else { return Ok(Marks::default()) };
        let marks: Vec<Mark> =
            serde_json::from_slice(&found).map_err(|error| StorageError::Marks(error.to_string()))?;
        Ok(marks.into_iter().collect())
    }

    /// Not sealed: it says nothing of anybody, and must be readable whatever became of a key.
    pub async fn write_marks(&self, marks: &Marks) -> Result<(), StorageError> {
        let marks: Vec<Mark> = marks.iter().collect();
        let text = serde_json::to_vec(&marks).map_err(|error| StorageError::Marks(error.to_string()))?;
        self.objects.put(&Path::from(MARKS_PATH), text.into()).await?;
        Ok(())
    }

    /// The key of the hashes that erased addresses leave: made by whoever asks first, and kept for ever.
    pub async fn erasure_key(&self) -> Result<[u8; KEY_BYTES], StorageError> {
        let path = Path::from(ERASURE_KEY_PATH);
        if let Some(key) = self.read_erasure_key(&path).await? {
            return Ok(key);
        }
        let fresh = fresh_key().ok_or_else(|| SealError::NoRandom { what: What::ErasureKey.to_string() })?;
        let sealed = self.vault.seal(What::ErasureKey, fresh.to_vec())?;
        self.write_new(&path, sealed).await?;
        // Another one may have been quicker.
        self.read_erasure_key(&path).await?.ok_or(StorageError::ErasureKey)
    }

    async fn read_erasure_key(&self, path: &Path) -> Result<Option<[u8; KEY_BYTES]>, StorageError> {
        let Some(found) = self.read(path).await? else { return Ok(None) };
        let key = self.vault.open(What::ErasureKey, found.into())?;
        key.try_into().map(Some).map_err(|_| StorageError::ErasureKey)
    }

    /// Begins an upload under a name of its own. `nonce` must differ between uploads.
    pub async fn begin_upload(&self, nonce: u128) -> Result<Upload, StorageError> {
        Upload::begin(self, nonce).await
    }
}

/// The highest positions of the store's shards that some master saw acknowledged.
const MARKS_PATH: &str = "marks.json";
/// Apart from the store: who has only that cannot try addresses.
const ERASURE_KEY_PATH: &str = "erasure.key";

/// None: the system has no random bytes.
fn fresh_key() -> Option<[u8; KEY_BYTES]> {
    let halves = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()].map(uuid::Uuid::into_bytes);
    crate::seal::random_key().or_else(|| halves.concat().try_into().ok())
}

fn audience_path(sha256: &str) -> Path {
    Path::from(format!("audiences/{sha256}"))
}

/// Spread over folders, so that none has too many.
fn segment_path(name: &str) -> Path {
    let folder: String = name.chars().take(2).collect();
    Path::from(format!("history/{folder}/{name}.ndjson.zst"))
}

#[cfg(test)]
mod tests;
