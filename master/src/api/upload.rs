//! UploadAudience: a client's stream into the storage.

use super::status::ApiError;
use crate::campaign::Invalid;
use crate::core::Core;
use crate::storage::Upload;
use futures::{Stream, StreamExt as _};
use postrider_common::limits::UPLOAD_CHUNK_BYTES_MAX;
use postrider_proto::v1;
use postrider_proto::v1::upload_audience_request::Part;
use postrider_store::Shared;
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;

/// Without a chunk for this long the client is taken for gone.
const CHUNK_WAIT: Duration = Duration::from_secs(60);

/// An upload that takes longer is given up: what is older by far is swept as left by a crash.
const UPLOAD_MAX: Duration = Duration::from_hours(12);

/// Receives an audience. The work has a task of its own: a client that goes away drops this call, and
/// what it left behind must still be removed.
pub async fn receive<S>(core: &Arc<Core>, parts: S) -> Result<v1::UploadAudienceResponse, ApiError>
where
    S: Stream<Item = Result<v1::UploadAudienceRequest, Status>> + Send + Unpin + 'static,
{
    let core = Arc::clone(core);
    let task = tokio::spawn(async move { receive_all(&core, parts).await });
    task.await.map_err(|error| ApiError::Internal(format!("the upload ended early: {error}")))?
}

async fn receive_all<S>(core: &Core, mut parts: S) -> Result<v1::UploadAudienceResponse, ApiError>
where
    S: Stream<Item = Result<v1::UploadAudienceRequest, Status>> + Send + Unpin,
{
    let header = match next(core, &mut parts).await? {
        Some(Part::Header(header)) => header,
        Some(Part::Chunk(_)) | None => {
            return Err(Invalid::field("part", "the first message must carry the header").into());
        }
    };
    match header.format() {
        v1::AudienceFormat::Unspecified => return Err(Invalid::field("header.format", "it is missing").into()),
        v1::AudienceFormat::Csv | v1::AudienceFormat::Ndjson => {}
    }
    let mut upload = core.storage.begin_upload(core.random_wide()).await?;
    let filled = tokio::time::timeout(UPLOAD_MAX, fill(core, &mut parts, &mut upload, &header.sha256)).await;
    let too_long = || Invalid::field("part", format!("the upload took more than {} h", UPLOAD_MAX.as_secs() / 3600));
    if let Err(error) = filled.unwrap_or_else(|_| Err(too_long().into())) {
        if let Err(error) = upload.abort().await {
            tracing::warn!(%error, "failed to remove a broken upload");
        }
        return Err(error);
    }
    let size_bytes = upload.size_bytes();
    // Before it is there under its name: one that is there already is not swept from here on.
    core.store.keep(vec![Shared::Audience(upload.sha256())]).await?;
    let audience_id = upload.finish().await?;
    core.metrics.uploaded_bytes.inc_by(size_bytes);
    tracing::info!(audience = audience_id, size_bytes, "audience uploaded");
    Ok(v1::UploadAudienceResponse { audience_id, size_bytes })
}

async fn fill<S>(core: &Core, parts: &mut S, upload: &mut Upload, sha256: &str) -> Result<(), ApiError>
where
    S: Stream<Item = Result<v1::UploadAudienceRequest, Status>> + Send + Unpin,
{
    let max = core.audience_bytes_max;
    while let Some(part) = next(core, parts).await? {
        let chunk = match part {
            Part::Header(_) => return Err(Invalid::field("part", "only the first message carries the header").into()),
            Part::Chunk(chunk) => chunk,
        };
        if chunk.len() > UPLOAD_CHUNK_BYTES_MAX {
            let why = format!("it has {} bytes, at most {UPLOAD_CHUNK_BYTES_MAX} are allowed", chunk.len());
            return Err(Invalid::field("chunk", why).into());
        }
        let size = upload.size_bytes() + chunk.len() as u64;
        if size > max {
            return Err(Invalid::Limit { field: "audience".into(), limit: "audience_bytes_max", size, max }.into());
        }
        upload.write(chunk.into()).await?;
    }
    let found = upload.sha256();
    if !sha256.is_empty() && sha256 != found {
        let why = format!("the chunks have {found}: the audience was damaged on its way, or is being written to");
        return Err(Invalid::field("header.sha256", why).into());
    }
    Ok(())
}

/// The next part; none: the client is done.
async fn next<S>(core: &Core, parts: &mut S) -> Result<Option<Part>, ApiError>
where
    S: Stream<Item = Result<v1::UploadAudienceRequest, Status>> + Send + Unpin,
{
    let message = tokio::select! {
        () = core.stopping.cancelled() => return Err(ApiError::Stopping),
        message = tokio::time::timeout(CHUNK_WAIT, parts.next()) => message,
    };
    match message {
        Ok(None) => Ok(None),
        Ok(Some(Ok(request))) => match request.part {
            Some(part) => Ok(Some(part)),
            None => Err(Invalid::field("part", "it is missing").into()),
        },
        Ok(Some(Err(status))) => Err(Invalid::field("part", format!("the stream broke: {}", status.message())).into()),
        Err(_) => Err(Invalid::field("part", format!("no message came for {} s", CHUNK_WAIT.as_secs())).into()),
    }
}
