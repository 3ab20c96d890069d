//! What a campaign was before it was changed. The store has only what is in force; the storage has the newest versions, so that
//! a person can see what an apply changed. A version that could not be written is missing there and nowhere else.

use crate::api::status::ApiError;
use crate::core::Core;
use crate::storage::StorageError;
use postrider_common::CampaignName;
use postrider_common::limits::CAMPAIGN_VERSIONS_KEPT_MAX;
use postrider_proto::v1;
use postrider_store::CampaignRecord;
use prost::Message as _;

/// Keeps a version, unless it is kept already, and forgets the one that is too old for it. Rows given inline are left out: they
/// are of people, and belong to the runs.
pub async fn keep(core: &Core, record: CampaignRecord) {
    let (name, version) = (record.name.clone(), record.version);
    if let Err(error) = kept(core, record).await {
        tracing::warn!(campaign = %name, version, %error, "failed to keep a version of a campaign");
    }
}

async fn kept(core: &Core, record: CampaignRecord) -> Result<(), StorageError> {
    let CampaignRecord { name, version, spec, applied_at_ms, .. } = record;
    if core.storage.has_version(&name, version).await? {
        return Ok(());
    }
    // What cannot be read is told whenever the campaign is looked at.
    let Ok(mut campaign) = v1::Campaign::decode(spec.as_slice()) else { return Ok(()) };
    if let Some(audience) = &mut campaign.audience {
        audience.inline.clear();
    }
    let kept = v1::CampaignRecord { campaign: Some(campaign), version, applied_at_ms, paused: false, schedule: None };
    core.storage.write_version(&name, version, kept.encode_to_vec()).await?;
    match version.checked_sub(CAMPAIGN_VERSIONS_KEPT_MAX) {
        Some(old @ 1..) => core.storage.remove_version(&name, old).await,
        Some(0) | None => Ok(()),
    }
}

/// A version before the newest.
pub async fn read(core: &Core, name: &CampaignName, version: u64) -> Result<v1::CampaignRecord, ApiError> {
    let unreadable = |why: String| ApiError::Internal(format!("version {version} of '{name}' cannot be read: {why}"));
    let bytes = core.storage.read_version(name, version).await?.ok_or_else(|| {
        let kept = format!("the newest {CAMPAIGN_VERSIONS_KEPT_MAX} are");
        ApiError::NotFound(format!("version {version} of the campaign '{name}' is not kept: {kept}"))
    })?;
    v1::CampaignRecord::decode(bytes.as_slice()).map_err(|error| unreadable(error.to_string()))
}
