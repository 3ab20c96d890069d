//! Erasure of an address: asked for, and looked at.

use super::status::ApiError;
use crate::campaign::Invalid;
use crate::core::Core;
use crate::erase::{self, EraseError, Request};
use postrider_common::address::{Address, InvalidAddress};
use postrider_common::ids::ErasureId;
use postrider_proto::v1;
use postrider_store::StoreError;

/// Open ones in one answer.
const LISTED_MAX: usize = 100;

pub async fn ask(core: &Core, address: &str) -> Result<v1::Erasure, ApiError> {
    let wrong = |error: InvalidAddress| Invalid::field("address", error.to_string());
    let address: Address = address.parse().map_err(wrong)?;
    if address.is_erased() {
        return Err(Invalid::field("address", "it stands for one that is erased").into());
    }
    let (id, request) = erase::ask(core, &address).await?;
    tracing::info!(erasure = %id, "erasure asked for");
    Ok(to_wire(&id, request))
}

pub async fn get(core: &Core, id: &str) -> Result<v1::Erasure, ApiError> {
    let id: ErasureId = id.parse().map_err(Invalid::id("id"))?;
    match core.store.erasure(&id).await? {
        Some(record) => Ok(to_wire(&id, Request::decode(&record)?)),
        None => Err(ApiError::NotFound(format!("there is no erasure {id}: see erase --list"))),
    }
}

pub async fn list(core: &Core) -> Result<v1::ListErasuresResponse, ApiError> {
    let mut erasures = Vec::new();
    for record in core.store.open_erasures(LISTED_MAX).await? {
        erasures.push(to_wire(&record.id, Request::decode(&record)?));
    }
    Ok(v1::ListErasuresResponse { erasures })
}

fn to_wire(id: &ErasureId, request: Request) -> v1::Erasure {
    let Request { address, asked_at_ms, done_at_ms, counts, left, step: _ } = request;
    v1::Erasure {
        id: id.to_string(),
        done: address.is_none(),
        asked_at_ms,
        done_at_ms: done_at_ms.unwrap_or_default(),
        recipients: counts.recipients,
        ended: counts.ended,
        rows: counts.rows,
        mentions: counts.mentions,
        unreadable: counts.unreadable,
        left,
    }
}

impl From<EraseError> for ApiError {
    fn from(error: EraseError) -> Self {
        match error {
            EraseError::Store(error) => Self::Store(error),
            EraseError::Storage(error) => Self::Storage(error),
            EraseError::Suppress(error) => error.into(),
            EraseError::Sealed(error) => Self::Storage(error.into()),
            EraseError::History(error) => Self::History(error),
            EraseError::Stopping => Self::Stopping,
            error @ (EraseError::Locked { .. } | EraseError::Unreadable(_)) => {
                Self::Precondition(format!("failed to {error}"))
            }
            // Worth trying again.
            error @ (EraseError::Lost | EraseError::Busy | EraseError::Audience { .. }) => {
                Self::Store(StoreError::Unavailable(error.to_string()))
            }
        }
    }
}
