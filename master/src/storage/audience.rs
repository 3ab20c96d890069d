//! An audience on its way out, piece by piece: its reader may wait for the workers for hours, and no request may.

use super::{Storage, StorageError, audience_path};
use crate::seal::{FRAME_BYTES, FrameOpener, TAG_BYTES};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore as _, ObjectStoreExt as _};
use postrider_common::seal::{HEADER_BYTES_MAX, Header};

/// Bytes of one request.
const PIECE_BYTES: u64 = 4 * 1024 * 1024;
/// Frames of one request.
const PIECE_FRAMES: u64 = PIECE_BYTES / FRAME_BYTES as u64;
const SEALED_FRAME_BYTES: u64 = (FRAME_BYTES + TAG_BYTES) as u64;

/// From the first byte to the last, opened. An error ends it.
pub type AudienceBytes = BoxStream<'static, Result<Bytes, StorageError>>;

/// Where the next piece begins, and how it is read.
struct Pieces {
    storage: Storage,
    path: Path,
    /// Of the object or, when it is sealed, of its frames.
    at: u64,
    end: u64,
    /// Of the object that was there at the beginning. Another one may take its place, see `erase`.
    version: Option<String>,
    /// What opens the frames, and the number of the next one.
    opener: Option<(FrameOpener, u32)>,
}

/// None: there is no such audience.
pub(super) async fn open(storage: &Storage, sha256: &str) -> Result<Option<AudienceBytes>, StorageError> {
    let path = audience_path(sha256);
    let (size, version) = match storage.objects.head(&path).await {
        Ok(object) => (object.size, object.e_tag),
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut pieces = Pieces { storage: storage.clone(), path, at: 0, end: size, version, opener: None };
    if let Some((header, length)) = pieces.header(size).await? {
        let end_at = size.saturating_sub(TAG_BYTES as u64).max(length);
        // Too short for an end: then what is there instead does not open.
        let end = match end_at < size {
            true => pieces.get(end_at..size).await?,
            false => Bytes::new(),
        };
        let framed = end_at - length;
        let plain = framed.saturating_sub(framed.div_ceil(SEALED_FRAME_BYTES) * TAG_BYTES as u64);
        let opener = storage.vault.open_frames(header, sha256, plain, &end)?;
        (pieces.at, pieces.end, pieces.opener) = (length, end_at, Some((opener, 0)));
    }
    Ok(Some(stream::try_unfold(pieces, Pieces::next).boxed()))
}

/// The header of an object; none: it is not sealed.
pub(super) async fn header(storage: &Storage, path: &Path) -> Result<Option<Header>, StorageError> {
    let size = storage.objects.head(path).await?.size;
    let (storage, path) = (storage.clone(), path.clone());
    let pieces = Pieces { storage, path, at: 0, end: size, version: None, opener: None };
    Ok(pieces.header(size).await?.map(|(header, _)| header))
}

impl Pieces {
    /// And how many bytes it has. None: it is not sealed.
    async fn header(&self, size: u64) -> Result<Option<(Header, u64)>, StorageError> {
        if size == 0 {
            return Ok(None);
        }
        let start = self.get(0..size.min(HEADER_BYTES_MAX as u64)).await?;
        Ok(Header::read(&start).map(|(header, length)| (header, length as u64)))
    }

    async fn next(mut self) -> Result<Option<(Bytes, Self)>, StorageError> {
        if self.at >= self.end {
            return Ok(None);
        }
        let length = if self.opener.is_some() { PIECE_FRAMES * SEALED_FRAME_BYTES } else { PIECE_BYTES };
        let to = (self.at + length).min(self.end);
        let piece = self.get(self.at..to).await?;
        self.at = to;
        let Some((opener, number)) = &mut self.opener else { return Ok(Some((piece, self))) };
        let mut plain = Vec::with_capacity(piece.len());
        for frame in piece.chunks(SEALED_FRAME_BYTES as usize) {
            plain.extend(opener.frame(*number, frame.to_vec())?);
            *number += 1;
        }
        Ok(Some((plain.into(), self)))
    }

    async fn get(&self, range: std::ops::Range<u64>) -> Result<Bytes, StorageError> {
        let (range, if_match) = (Some(GetRange::Bounded(range)), self.version.clone());
        let options = GetOptions { range, if_match, ..GetOptions::default() };
        Ok(self.storage.objects.get_opts(&self.path, options).await?.bytes().await?)
    }
}
