//! A snapshot on its way into the storage: compressed, within the limits, without addresses that are being erased.

use super::pieces::Piece;
use super::{FetchError, Form};
use crate::core::Core;
use crate::erase::Scrubber;
use crate::split::work::Halt;
use crate::storage::{StorageError, Upload};
use postrider_common::campaign::AudienceFormat;
use postrider_common::limits::AUDIENCE_INFLATED_BYTES_MAX;
use std::io::Write as _;

const ZSTD_LEVEL: i32 = 3;

/// Ends with `finish` or `abort`.
pub(crate) struct Snapshot {
    upload: Upload,
    /// None: the bytes are kept as they are.
    packer: Option<zstd::Encoder<'static, Vec<u8>>>,
    scrubber: Option<Scrubber>,
    bytes_max: u64,
    inflated_bytes: u64,
}

/// Why a piece was not taken.
pub(crate) enum Refused {
    Fetch(FetchError),
    Storage(StorageError),
    /// The split is not ours any more, or the master stops.
    Halt(Halt),
}

impl From<Halt> for Refused {
    fn from(halt: Halt) -> Self {
        Self::Halt(halt)
    }
}

impl From<StorageError> for Refused {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl From<std::io::Error> for Refused {
    fn from(error: std::io::Error) -> Self {
        Self::Fetch(FetchError::passing("source_unread", format!("cannot compress it: {error}"), "resume the run"))
    }
}

impl Snapshot {
    /// `scrubber`: for lines of NDJSON.
    pub async fn begin(core: &Core, form: &Form, scrubber: Option<Scrubber>) -> Result<Self, Refused> {
        let packer = match form.format {
            AudienceFormat::Ndjson if form.text == Default::default() => {
                let mut packer = zstd::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
                packer.include_checksum(true)?;
                Some(packer)
            }
            AudienceFormat::Csv | AudienceFormat::Ndjson => None,
        };
        let upload = core.storage.begin_upload(core.random_wide()).await?;
        Ok(Self { upload, packer, scrubber, bytes_max: core.audience_bytes_max, inflated_bytes: 0 })
    }

    pub async fn write(&mut self, piece: Piece) -> Result<(), Refused> {
        let bytes = match &self.scrubber {
            Some(scrubber) => scrubber.lines(&piece.bytes),
            None => piece.bytes,
        };
        self.inflated_bytes += bytes.len() as u64;
        over("audience_inflated_bytes_max", self.inflated_bytes, AUDIENCE_INFLATED_BYTES_MAX)?;
        let packed = match &mut self.packer {
            Some(packer) => {
                packer.write_all(&bytes)?;
                std::mem::take(packer.get_mut())
            }
            None => bytes,
        };
        self.put(packed).await
    }

    async fn put(&mut self, bytes: Vec<u8>) -> Result<(), Refused> {
        if !bytes.is_empty() {
            self.upload.write(bytes.into()).await?;
        }
        over("audience_bytes_max", self.upload.size_bytes(), self.bytes_max)
    }

    /// All was written. The name that it will have.
    pub async fn end(&mut self) -> Result<String, Refused> {
        if let Some(packer) = self.packer.take() {
            let rest = packer.finish()?;
            self.put(rest).await?;
        }
        Ok(self.upload.sha256())
    }

    pub fn size_bytes(&self) -> u64 {
        self.upload.size_bytes()
    }

    /// Makes it readable under its name.
    pub async fn finish(self) -> Result<(), StorageError> {
        self.upload.finish().await.map(drop)
    }

    pub async fn abort(self) {
        if let Err(error) = self.upload.abort().await {
            tracing::warn!(%error, "failed to remove a broken snapshot");
        }
    }
}

fn over(limit: &'static str, size: u64, max: u64) -> Result<(), Refused> {
    if size <= max {
        return Ok(());
    }
    let message = format!("what the source gives has over {max} bytes ({limit})");
    let mend = "select fewer rows or columns, or raise the limit on every master, then resume the run";
    Err(Refused::Fetch(FetchError::lasting("audience_too_large", message, mend)))
}
