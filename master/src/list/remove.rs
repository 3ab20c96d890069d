//! Ends a list, unless a campaign needs it.

use super::ListError;
use crate::campaign;
use crate::core::Core;
use postrider_common::CampaignName;
use postrider_common::campaign::Source;
use postrider_common::ids::ListName;

const CAMPAIGNS_PER_READ: usize = 50;
/// Versions that come while a list is removed; as often as this, nobody changes it meanwhile.
const LOOKS_MAX: u32 = 10;

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    Done,
    /// There is no such list.
    Missing,
    /// It stays: this campaign takes its recipients from it.
    Named(CampaignName),
}

/// What runs froze of it stays.
pub async fn remove(core: &Core, name: &ListName) -> Result<Removed, ListError> {
    if let Some(campaign) = named_by(core, name).await? {
        return Ok(Removed::Named(campaign));
    }
    let mut removed = Removed::Missing;
    for _ in 0..LOOKS_MAX {
        let versions = core.storage.list_versions(name).await?;
        if versions.is_empty() {
            return Ok(removed);
        }
        // The newest first: whoever changes the list meanwhile notices that what it changes is gone.
        for version in versions.into_iter().rev() {
            core.storage.remove_list(name, version).await?;
        }
        removed = Removed::Done;
    }
    Err(ListError::Busy)
}

async fn named_by(core: &Core, name: &ListName) -> Result<Option<CampaignName>, ListError> {
    let mut after = None;
    loop {
        let campaigns = core.store.campaigns(after.as_ref(), CAMPAIGNS_PER_READ).await?;
        let Some(last) = campaigns.last() else { return Ok(None) };
        after = Some(last.name.clone());
        let names_it = |spec: &[u8]| {
            let audience = campaign::decode(spec).ok().and_then(|campaign| campaign.audience);
            audience.is_some_and(|audience| matches!(audience.source, Source::List { name: one } if one == *name))
        };
        if let Some(record) = campaigns.into_iter().find(|record| names_it(&record.spec)) {
            return Ok(Some(record.name));
        }
    }
}
