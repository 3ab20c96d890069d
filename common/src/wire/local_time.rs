//! When each recipient's own clock decides.

use super::InvalidField;
use crate::local_time::{Passed, SendAtLocal, UnknownZone};
use postrider_proto::v1;

impl TryFrom<v1::SendAtLocal> for SendAtLocal {
    type Error = InvalidField;
    fn try_from(wire: v1::SendAtLocal) -> Result<Self, InvalidField> {
        let passed = match wire.passed() {
            v1::Passed::Unspecified | v1::Passed::NextDay => Passed::NextDay,
            v1::Passed::AtOnce => Passed::AtOnce,
            v1::Passed::Skip => Passed::Skip,
        };
        let unknown_zone = match wire.unknown_zone() {
            v1::UnknownZone::Unspecified | v1::UnknownZone::BadRow => UnknownZone::BadRow,
            v1::UnknownZone::Default => UnknownZone::Default,
        };
        let at = wire.at.parse().map_err(|error| InvalidField::new("send_at_local.at", format!("{error}")))?;
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let (zone, country) = (some(wire.zone), some(wire.country));
        Ok(Self { at, zone, country, default_zone: wire.default_zone, passed, unknown_zone })
    }
}

impl From<SendAtLocal> for v1::SendAtLocal {
    fn from(local: SendAtLocal) -> Self {
        let passed = match local.passed {
            Passed::NextDay => v1::Passed::NextDay,
            Passed::AtOnce => v1::Passed::AtOnce,
            Passed::Skip => v1::Passed::Skip,
        };
        let unknown_zone = match local.unknown_zone {
            UnknownZone::BadRow => v1::UnknownZone::BadRow,
            UnknownZone::Default => v1::UnknownZone::Default,
        };
        Self {
            at: local.at.to_string(),
            zone: local.zone.unwrap_or_default(),
            country: local.country.unwrap_or_default(),
            default_zone: local.default_zone,
            passed: passed.into(),
            unknown_zone: unknown_zone.into(),
        }
    }
}
