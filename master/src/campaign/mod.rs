//! What a customer submits: checked (`validate`), turned into a run (`submit`, `prepare`), kept when it is replaced (`versions`).

pub mod calls;
pub mod prepare;
pub mod submit;
pub mod validate;
pub mod versions;

pub use validate::Invalid;

use postrider_common::campaign::Campaign;
use postrider_common::wire::InvalidField;
use postrider_proto::v1;
use prost::Message as _;

/// How the store keeps a campaign: its deterministic encoding on the wire.
pub fn encode(campaign: &Campaign) -> Vec<u8> {
    v1::Campaign::from(campaign.clone()).encode_to_vec()
}

/// The schedule in it, the same way; empty: it has none.
pub fn encode_schedule(campaign: &Campaign) -> Vec<u8> {
    campaign.schedule.clone().map(|schedule| v1::Schedule::from(schedule).encode_to_vec()).unwrap_or_default()
}

/// Reads what `encode` wrote.
pub fn decode(bytes: &[u8]) -> Result<Campaign, String> {
    let wire = v1::Campaign::decode(bytes).map_err(|error| error.to_string())?;
    Campaign::try_from(wire).map_err(|error: InvalidField| error.to_string())
}
