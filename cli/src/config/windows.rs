//! When the sending of a lane may begin.

use super::settings::Element;
use crate::toml_text::{Node, Value};
use crate::windows;
use postrider_common::lane::Lane;
use postrider_common::windows::{RecipientClock, Window, Windows};
use postrider_master::schedule::{SYSTEM_FOLDER, Zones, lane_hours};
use std::path::Path;

/// The lane with its windows; every complaint names the key and where it is said.
pub(super) fn of_lane(element: &Element, mut lane: Lane, problems: &mut Vec<String>) -> Option<Lane> {
    let before = problems.len();
    let mut all = |key: &str| -> Vec<Window> {
        let Some(setting) = element.keys.get(key) else { return Vec::new() };
        let node = Node { value: setting.value.clone(), line: 1 };
        let path = format!("lane.{}.{key}", element.name);
        windows::read(&path, &node)
            .map_err(|(_, why)| problems.push(format!("{}: {why}", setting.origin)))
            .unwrap_or_default()
    };
    let (send, quiet) = (all("send_window"), all("quiet_hours"));
    let zone = element.keys.get("default_zone").and_then(|setting| match &setting.value {
        Value::Text(text) if !text.is_empty() => Some((text.clone(), setting)),
        _ => None,
    });
    let clock =
        zone.as_ref().map(|(zone, _)| RecipientClock { default_zone: zone.clone(), ..RecipientClock::default() });
    lane.windows = Windows { send, quiet, clock };
    if let Some((_, setting)) = zone.filter(|_| !lane.windows.go_by_recipient()) {
        let why = "it is for windows with time_zone = \"recipient\", and there are none: remove it";
        problems.push(format!("{}: lane.{}.default_zone: {why}", setting.origin, element.name));
    }
    if problems.len() == before && !lane.windows.is_empty() {
        let zones = Zones::newest(Path::new(SYSTEM_FOLDER));
        if let Err(error) = lane_hours(std::slice::from_ref(&lane), &zones) {
            let key = |key: &str| element.keys.get(key).map(|setting| &setting.origin);
            let named =
                ["quiet_hours", "send_window", "default_zone"].into_iter().find(|key| error.field.contains(key));
            let origin = named.and_then(key).unwrap_or(&element.origin);
            problems.push(format!("{origin}: {error}"));
        }
    }
    (problems.len() == before).then_some(lane)
}
