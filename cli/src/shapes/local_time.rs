//! When each recipient's own clock decides, as it is printed.

use crate::failure::{Failure, Result};
use postrider_common::local_time;
use postrider_proto::v1;
use serde::Serialize;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SendAtLocal {
    pub at: String,
    /// Columns; null: by their usual name, if they are there.
    pub zone: Option<String>,
    pub country: Option<String>,
    /// Null: that of the schedule.
    pub default_zone: Option<String>,
    pub passed: &'static str,
    pub unknown_zone: &'static str,
}

impl SendAtLocal {
    pub fn from_wire(wire: v1::SendAtLocal) -> Result<Self> {
        let known = local_time::SendAtLocal::try_from(wire)
            .map_err(|error| Failure::failed(format!("the master answered with what is wrong: {error}")))?;
        Ok(Self {
            at: known.at.to_string(),
            passed: known.passed.word(),
            unknown_zone: known.unknown_zone.word(),
            zone: known.zone,
            country: known.country,
            default_zone: Some(known.default_zone).filter(|zone| !zone.is_empty()),
        })
    }

    /// In one line, for people.
    pub fn told(&self) -> String {
        let zone = self.zone.as_deref().unwrap_or(local_time::SendAtLocal::ZONE_COLUMN);
        let country = self.country.as_deref().unwrap_or(local_time::SendAtLocal::COUNTRY_COLUMN);
        let default = self.default_zone.as_deref().unwrap_or("that of the schedule");
        let policies = format!("passed {}, unknown_zone {}", self.passed, self.unknown_zone);
        format!("{} by column {zone}, {country}, or else {default}; {policies}", self.at)
    }
}
