//! An audience on its way in.

use super::{Storage, StorageError, audience, audience_path};
use crate::seal::{FRAME_BYTES, FrameSealer};
use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, WriteMultipart};
use postrider_common::ids::to_hex;
use sha2::{Digest as _, Sha256};

/// Bytes written at once; also the smallest part that object stores take.
pub(super) const PART_BYTES: usize = 5 * 1024 * 1024;
/// Parts of one upload on their way at once.
const PARTS_AHEAD_MAX: usize = 2;

/// Ends with `finish` or `abort`.
#[derive(Debug)]
pub struct Upload {
    storage: Storage,
    path: Path,
    parts: WriteMultipart,
    hash: Sha256,
    size_bytes: u64,
    sealer: Option<FrameSealer>,
    /// Of the frame that is not full yet.
    frame: Vec<u8>,
}

impl Upload {
    pub(super) async fn begin(storage: &Storage, nonce: u128) -> Result<Self, StorageError> {
        let sealer = storage.vault.begin_frames()?;
        let path = Path::from(format!("uploads/{nonce:032x}"));
        let upload = storage.objects.put_multipart(&path).await?;
        let mut parts = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        if let Some(sealer) = &sealer {
            parts.put(sealer.header().into());
        }
        let storage = storage.clone();
        Ok(Self { storage, path, parts, hash: Sha256::new(), size_bytes: 0, sealer, frame: Vec::new() })
    }

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
        let Some(sealer) = &mut self.sealer else {
            self.parts.put(bytes);
            return Ok(());
        };
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let room = (FRAME_BYTES - self.frame.len()).min(rest.len());
            self.frame.extend(&rest[..room]);
            rest = &rest[room..];
            if self.frame.len() == FRAME_BYTES {
                self.parts.put(sealer.frame(std::mem::take(&mut self.frame)).into());
            }
        }
        Ok(())
    }

    /// Makes it readable under its name, durably. The same contents again are the same audience.
    pub async fn finish(mut self) -> Result<String, StorageError> {
        let sha256 = self.sha256();
        self.end(&sha256);
        self.parts.finish().await?;
        let shown = show(&self.storage, &self.path, &sha256).await;
        let removed = match &shown {
            // A folder moved it; a bucket has a copy.
            Ok(Shown::Moved) => Ok(()),
            Ok(Shown::Copied) | Err(_) => self.storage.objects.delete(&self.path).await,
        };
        shown?;
        // What is left is swept; the audience is there.
        if let Err(error) = removed {
            tracing::warn!(%error, "failed to remove an upload that is done");
        }
        Ok(sha256)
    }

    /// Takes the place of an audience, whose name stays as it is.
    pub async fn finish_in_place_of(mut self, sha256: &str) -> Result<(), StorageError> {
        self.end(sha256);
        self.parts.finish().await?;
        match bring(&self.storage, &self.path, &audience_path(sha256)).await? {
            Shown::Moved => Ok(()),
            Shown::Copied => Ok(self.storage.objects.delete(&self.path).await?),
        }
    }

    /// The last frame, and the end.
    fn end(&mut self, sha256: &str) {
        let Some(mut sealer) = self.sealer.take() else { return };
        if !self.frame.is_empty() {
            self.parts.put(sealer.frame(std::mem::take(&mut self.frame)).into());
        }
        self.parts.put(sealer.end(sha256).into());
    }

    /// Leaves nothing behind.
    pub async fn abort(self) -> Result<(), StorageError> {
        Ok(self.parts.abort().await?)
    }
}

enum Shown {
    Moved,
    Copied,
}

/// Brings an upload under its name. One that is there stays, unless it is sealed with an older key, or not at all.
async fn show(storage: &Storage, upload: &Path, sha256: &str) -> Result<Shown, StorageError> {
    let name = audience_path(sha256);
    match audience::header(storage, &name).await {
        Ok(header) if storage.vault.is_current(header.as_ref()) => return Ok(Shown::Copied),
        Ok(_) | Err(StorageError::Failed(object_store::Error::NotFound { .. })) => {}
        Err(error) => return Err(error),
    }
    bring(storage, upload, &name).await
}

async fn bring(storage: &Storage, upload: &Path, name: &Path) -> Result<Shown, StorageError> {
    if storage.folder.is_some() {
        storage.objects.rename(upload, name).await?;
        Ok(Shown::Moved)
    } else {
        // Buckets rename by copying.
        storage.objects.copy(upload, name).await?;
        Ok(Shown::Copied)
    }
}
