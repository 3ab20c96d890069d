//! Sends an audience file to a master in chunks; its name is the hash of its contents.

use crate::campaign_file::AudienceFile;
use crate::client::{self, Client};
use crate::failure::{Failure, Result};
use postrider_common::campaign::{Audience, AudienceFormat};
use postrider_common::ids::to_hex;
use postrider_common::limits::UPLOAD_CHUNK_BYTES_MAX;
use postrider_proto::v1;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// Half of the named chunk limit: leaves room for the frame around it.
const CHUNK_BYTES: usize = UPLOAD_CHUNK_BYTES_MAX / 2;
/// Chunks read ahead of the connection.
const CHUNKS_AHEAD_MAX: usize = 4;
/// Long enough for the largest audience over a slow line.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(3600);

/// Uploads the file, retrying as every call does, and gives the audience to apply or run.
pub async fn upload(client: &mut Client, file: &AudienceFile, bytes_max: u64) -> Result<Audience> {
    let path = file.path.clone();
    let shown = path.display();
    let size = tokio::fs::metadata(&path).await.map_err(|error| unreadable(&path, &error))?.len();
    if size > bytes_max {
        return Err(Failure::usage(format!(
            "audience {shown}: it has {size} bytes, more than audience_bytes_max ({bytes_max}); split it, or raise \
             master.audience_bytes_max for this command and on every master"
        )));
    }
    if size == 0 {
        return Err(Failure::usage(format!("audience {shown}: it is empty")));
    }
    let sha256 = hash(&path).await?;
    let format = match file.format {
        AudienceFormat::Csv => v1::AudienceFormat::Csv,
        AudienceFormat::Ndjson => v1::AudienceFormat::Ndjson,
    };
    let header = v1::AudienceHeader { format: format.into(), sha256: sha256.clone() };
    let answer = client
        .call_within(UPLOAD_TIMEOUT, |channel| {
            let (path, header) = (path.clone(), header.clone());
            async move { client::campaigns(channel).upload_audience(chunks(&path, header).await?).await }
        })
        .await?;
    if answer.audience_id != sha256 {
        return Err(Failure::failed(format!("audience {shown}: it changed while it was uploaded; try again")));
    }
    Ok(file.stored(sha256))
}

/// The audience as it would be named once it is uploaded.
pub async fn named_without_upload(file: &AudienceFile) -> Result<Audience> {
    Ok(file.stored(hash(&file.path).await?))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("audience {}: {error}", path.display()))
}

async fn hash(path: &Path) -> Result<String> {
    let mut file = tokio::fs::File::open(path).await.map_err(|error| unreadable(path, &error))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; CHUNK_BYTES]);
    loop {
        let count = file.read(&mut buffer).await.map_err(|error| unreadable(path, &error))?;
        if count == 0 {
            return Ok(to_hex(&hash.finalize()));
        }
        hash.update(&buffer[..count]);
    }
}

/// The header, then the file. Reading stops when the call ends.
async fn chunks(
    path: &Path,
    header: v1::AudienceHeader,
) -> std::result::Result<impl tokio_stream::Stream<Item = v1::UploadAudienceRequest> + use<>, tonic::Status> {
    let mut file = tokio::fs::File::open(path).await.map_err(|error| tonic::Status::aborted(error.to_string()))?;
    let (sender, receiver) = tokio::sync::mpsc::channel(CHUNKS_AHEAD_MAX);
    tokio::spawn(async move {
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            // A read that fails ends the stream early; the hash in the header makes the master refuse it.
            let count = file.read(&mut chunk).await.unwrap_or(0);
            chunk.truncate(count);
            if count == 0 || sender.send(chunk).await.is_err() {
                return;
            }
        }
    });
    let part = |part| v1::UploadAudienceRequest { part: Some(part) };
    let first = tokio_stream::once(part(v1::upload_audience_request::Part::Header(header)));
    let rest = ReceiverStream::new(receiver).map(move |bytes| part(v1::upload_audience_request::Part::Chunk(bytes)));
    Ok(first.chain(rest))
}
