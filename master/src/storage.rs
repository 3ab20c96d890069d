//! What is large and cold and shared by the masters: uploaded audiences and history segments, named by their
//! contents.
//!
//! The only module that names `object_store`. An audience becomes visible under its name at once and
//! whole, after its bytes are on disk; a broken upload leaves nothing.

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, WriteMultipart};
use postrider_common::ids::to_hex;
use sha2::{Digest as _, Sha256};
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes written at once; also the smallest part that object stores take.
const PART_BYTES: usize = 5 * 1024 * 1024;
/// Parts of one upload on their way at once.
const PARTS_AHEAD_MAX: usize = 2;

/// An error of the storage. Reads after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The configured place cannot be used.
    #[error("open the storage {place}: {why}; set [storage] url to a folder that can be written")]
    Open { place: String, why: String },
    /// It did not do what was asked, this time.
    #[error("use the storage: {0}")]
    Failed(#[from] object_store::Error),
}

/// The storage of the masters.
#[derive(Debug, Clone)]
pub struct Storage {
    objects: Arc<dyn ObjectStore>,
}

impl Storage {
    /// A plain path or a `file://` URL of a folder, created if missing.
    pub fn open(place: &str) -> Result<Self, StorageError> {
        let wrong = |why: String| StorageError::Open { place: place.to_owned(), why };
        let folder = match place.strip_prefix("file://") {
            Some(path) if path.starts_with('/') => PathBuf::from(path),
            Some(_) => return Err(wrong("a file:// URL has three slashes: file:///var/lib/postrider".into())),
            None if place.contains("://") => {
                return Err(wrong("only a folder is supported by this version: a plain path or file:///…".into()));
            }
            None if place.is_empty() => return Err(wrong("it is empty".into())),
            None => PathBuf::from(place),
        };
        std::fs::create_dir_all(&folder).map_err(|error| wrong(error.to_string()))?;
        let objects = LocalFileSystem::new_with_prefix(&folder).map_err(|error| wrong(error.to_string()))?;
        Ok(Self { objects: Arc::new(objects.with_fsync(true)) })
    }

    /// Gone with the process; for tests. Copies share it.
    pub fn in_memory() -> Self {
        Self { objects: Arc::new(InMemory::new()) }
    }

    pub async fn has_audience(&self, sha256: &str) -> Result<bool, StorageError> {
        match self.objects.head(&audience_path(sha256)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The bytes of an audience; none: there is no such audience.
    pub async fn read_audience(
        &self,
        sha256: &str,
    ) -> Result<Option<BoxStream<'static, Result<Bytes, StorageError>>>, StorageError> {
        match self.objects.get(&audience_path(sha256)).await {
            Ok(found) => Ok(Some(found.into_stream().map_err(StorageError::from).boxed())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Stores a segment whole, durably; a segment of that name is replaced, which has the same contents.
    pub async fn write_segment(&self, name: &str, bytes: Vec<u8>) -> Result<(), StorageError> {
        self.objects.put(&segment_path(name), bytes.into()).await?;
        Ok(())
    }

    /// None: there is no such segment.
    pub async fn read_segment(&self, name: &str) -> Result<Option<Bytes>, StorageError> {
        match self.objects.get(&segment_path(name)).await {
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Begins an upload under a name of its own. `nonce` must differ between uploads.
    pub async fn begin_upload(&self, nonce: u128) -> Result<Upload, StorageError> {
        let path = Path::from(format!("uploads/{nonce:032x}"));
        let upload = self.objects.put_multipart(&path).await?;
        Ok(Upload {
            objects: Arc::clone(&self.objects),
            path,
            parts: WriteMultipart::new_with_chunk_size(upload, PART_BYTES),
            hash: Sha256::new(),
            size_bytes: 0,
        })
    }
}

fn audience_path(sha256: &str) -> Path {
    Path::from(format!("audiences/{sha256}"))
}

/// Spread over folders, so that none has too many.
fn segment_path(name: &str) -> Path {
    let folder: String = name.chars().take(2).collect();
    Path::from(format!("history/{folder}/{name}.ndjson.zst"))
}

/// An audience on its way in. Ends with `finish` or `abort`.
#[derive(Debug)]
pub struct Upload {
    objects: Arc<dyn ObjectStore>,
    path: Path,
    parts: WriteMultipart,
    hash: Sha256,
    size_bytes: u64,
}

impl Upload {
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The name that what was written so far would have.
    pub fn sha256(&self) -> String {
        to_hex(&self.hash.clone().finalize())
    }

    pub async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        self.hash.update(&bytes);
        self.size_bytes += bytes.len() as u64;
        self.parts.wait_for_capacity(PARTS_AHEAD_MAX).await?;
        self.parts.put(bytes);
        Ok(())
    }

    /// Makes it readable under its name, durably. The same contents again are the same audience.
    pub async fn finish(self) -> Result<String, StorageError> {
        let sha256 = self.sha256();
        self.parts.finish().await?;
        let moved = self.objects.rename_if_not_exists(&self.path, &audience_path(&sha256)).await;
        match moved {
            Ok(()) => Ok(sha256),
            Err(object_store::Error::AlreadyExists { .. }) => {
                self.objects.delete(&self.path).await?;
                Ok(sha256)
            }
            Err(error) => {
                let _ = self.objects.delete(&self.path).await;
                Err(error.into())
            }
        }
    }

    /// Leaves nothing behind.
    pub async fn abort(self) -> Result<(), StorageError> {
        Ok(self.parts.abort().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &std::path::Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            if entry.path().is_dir() {
                found.extend(files(&entry.path()));
            } else {
                found.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        found
    }

    #[tokio::test]
    async fn an_upload_is_there_whole_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = Storage::open(&format!("file://{}", folder.path().display())).expect("opens");
        for nonce in [1, 2] {
            let mut upload = storage.begin_upload(nonce).await.expect("begins");
            upload.write(Bytes::from_static(b"email\n")).await.expect("writes");
            upload.write(Bytes::from(vec![b'x'; PART_BYTES + 1])).await.expect("writes");
            assert_eq!(upload.size_bytes(), PART_BYTES as u64 + 7);
            let name = upload.finish().await.expect("finishes");
            assert!(storage.has_audience(&name).await.expect("looks"));
            assert_eq!(files(folder.path()), [name]);
        }
        let mut upload = storage.begin_upload(3).await.expect("begins");
        upload.write(Bytes::from(vec![b'y'; 2 * PART_BYTES])).await.expect("writes");
        upload.abort().await.expect("aborts");
        assert_eq!(files(folder.path()).len(), 1);
        let empty = storage.begin_upload(4).await.expect("begins").finish().await.expect("finishes");
        let mut bytes = storage.read_audience(&empty).await.expect("reads").expect("is there");
        assert!(bytes.next().await.is_none_or(|chunk| chunk.expect("readable").is_empty()));
    }

    #[test]
    fn a_place_that_cannot_be_used_says_so() {
        for place in ["", "s3://bucket", "file://relative", "/proc/nothing/here"] {
            let error = Storage::open(place).expect_err("refused").to_string();
            assert!(error.contains("[storage] url"), "{error}");
        }
    }
}
