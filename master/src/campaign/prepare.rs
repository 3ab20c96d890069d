//! Freezes a run of a campaign as it is now: what a person asks for and what a schedule begins go the same way.

use super::submit::{self, Wish};
use super::validate;
use crate::api::status::ApiError;
use crate::core::Core;
use crate::list;
use postrider_common::campaign::{Audience, Campaign, Source};
use postrider_common::ids::RunId;
use postrider_store::{NewRun, Shared};

/// With this audience, or its own.
pub async fn run(
    core: &Core,
    campaign: &Campaign,
    version: u64,
    id: RunId,
    fingerprint: String,
    audience: Option<Audience>,
) -> Result<NewRun, ApiError> {
    let name = &campaign.name;
    let audience = match audience {
        Some(audience) => {
            validate::audience(&audience)?;
            audience
        }
        None => campaign.audience.clone().ok_or_else(|| {
            let mend = "give one with the run, or add [audience] to the campaign and apply it";
            ApiError::Precondition(format!("the campaign '{name}' has no audience: {mend}"))
        })?,
    };
    let (audience, list) = list::freeze(core, audience, &id).await?;
    require_stored(core, &audience).await?;
    let lane = validate::lane(&campaign.lane, &core.lanes)
        .map_err(|error| ApiError::Precondition(format!("the campaign '{name}' cannot run: {error}")))?;
    let wish = Wish {
        id,
        fingerprint,
        campaign: name.as_str(),
        campaign_version: version,
        lane,
        on_unknown: campaign.on_unknown,
        on_bad_row: campaign.on_bad_row,
        message: submit::campaign_message(campaign, lane, ""),
        audience,
        local: submit::local(campaign, lane),
        list,
    };
    Ok(wish.freeze()?)
}

/// What an audience names is there.
pub async fn require_stored(core: &Core, audience: &Audience) -> Result<(), ApiError> {
    match &audience.source {
        Source::Inline { .. } | Source::Sql(_) | Source::Http(_) | Source::File { .. } => Ok(()),
        Source::List { .. } => Ok(list::check(core, audience).await?),
        Source::Stored { sha256, .. } => {
            // Before it is looked for: from here on it is not swept.
            core.store.keep(vec![Shared::Audience(sha256.clone())]).await?;
            if core.storage.has_audience(sha256).await? {
                return Ok(());
            }
            Err(ApiError::NotFound(format!("audience.audience_id: there is no audience {sha256}: upload it first")))
        }
    }
}
