//! Turns a submit into the run that it asks for. Pure: the same submit gives the same run.

use super::Invalid;
use super::validate;
use crate::audience::row;
use crate::split::Plan;
use crate::split::plan::Local;
use postrider_common::campaign::{Audience, Campaign, OnBadRow, OnUnknown, Source};
use postrider_common::ids::{IdempotencyKey, ListName, RunId, to_hex};
use postrider_common::lane::Lane;
use postrider_common::windows::{RecipientClock, Windows};
use postrider_common::{Address, MessageSpec};
use postrider_store::NewRun;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

/// The idempotency key of a submit; an empty one is a fresh one.
pub fn key(text: &str, fresh: u128) -> Result<String, Invalid> {
    if text.is_empty() {
        // A space, which no given key can have, keeps it apart from every given key.
        return Ok(format!("fresh {fresh:032x}"));
    }
    let key: IdempotencyKey = text.parse().map_err(Invalid::id("idempotency_key"))?;
    Ok(key.to_string())
}

/// Ids of the runs of a campaign.
pub fn campaign_run_id(campaign: &str, key: &str) -> RunId {
    RunId::derive(&format!("campaign/{campaign}"), key)
}

/// Ids of the runs that its schedule begins, by when they were due.
pub fn scheduled_run_id(campaign: &str, nominal_at_ms: i64) -> RunId {
    RunId::derive(&format!("schedule/{campaign}"), &nominal_at_ms.to_string())
}

/// Ids of the runs that are single messages.
pub fn message_run_id(key: &str) -> RunId {
    RunId::derive("message", key)
}

/// A digest of everything a submitter gave, so that a key used for something else is noticed.
pub fn fingerprint(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    to_hex(&hash.finalize())
}

/// A run to be, before its message and policies are frozen.
#[derive(Debug)]
pub struct Wish<'a> {
    pub id: RunId,
    pub fingerprint: String,
    /// "" for a single message without one.
    pub campaign: &'a str,
    /// 0 without one.
    pub campaign_version: u64,
    pub lane: &'a Lane,
    pub on_unknown: OnUnknown,
    pub on_bad_row: OnBadRow,
    pub message: MessageSpec,
    pub audience: Audience,
    pub local: Option<Local>,
    /// The saved list that the audience is from, and its version.
    pub list: Option<(ListName, u64)>,
}

impl Wish<'_> {
    pub fn freeze(self) -> Result<NewRun, Invalid> {
        let definition_bytes = self.message.encode();
        let plan = Plan {
            audience: self.audience,
            on_bad_row: self.on_bad_row,
            local: self.local,
            windows: self.message.windows.clone(),
            campaign_version: self.campaign_version,
            list: self.list,
        };
        Ok(NewRun {
            id: self.id,
            fingerprint: self.fingerprint,
            campaign: self.campaign.to_owned(),
            requires_campaign: !self.campaign.is_empty(),
            lane: self.lane.name.clone(),
            on_unknown: self.on_unknown,
            retry: self.lane.retry,
            definition: self.message.hash(),
            definition_bytes,
            sender_domain: self.message.sender_domain(),
            audience: plan.encode().map_err(|error| Invalid::field("audience", error.to_string()))?,
            nominal_at_ms: None,
        })
    }
}

/// By which clocks the runs of a campaign send, in this lane. A rule without a default zone goes by that of the schedule.
pub fn local(campaign: &Campaign, lane: &Lane) -> Option<Local> {
    let windows = windows(campaign, lane);
    let rule = campaign.send_at_local.clone().map(|mut rule| {
        if rule.default_zone.is_empty() {
            schedule_zone(campaign).clone_into(&mut rule.default_zone);
        }
        rule
    });
    let windows_only = rule.is_none();
    let rule = rule.or_else(|| windows.clock.as_ref().map(RecipientClock::rule))?;
    let schedule = schedule_zone(campaign);
    let zone = if schedule.is_empty() { rule.default_zone.clone() } else { schedule.to_owned() };
    Some(Local { rule, zone, windows_only, windows: windows.clock.is_some().then_some(windows) })
}

/// When the runs of a campaign may send. With a clock: they, or those of the lane, go by the recipients' own.
pub fn windows(campaign: &Campaign, lane: &Lane) -> Windows {
    let mut windows = campaign.message.windows.clone().with_zone(schedule_zone(campaign));
    let given = campaign.send_at_local.as_ref().map(RecipientClock::of).or_else(|| windows.clock.take());
    windows.clock = (windows.go_by_recipient() || lane.windows.go_by_recipient()).then(|| {
        let mut clock = given.unwrap_or_default();
        let of_lane = lane.windows.clock.as_ref().map_or("", |clock| clock.default_zone.as_str());
        let zones = [schedule_zone(campaign), of_lane];
        if clock.default_zone.is_empty() {
            zones.into_iter().find(|zone| !zone.is_empty()).unwrap_or_default().clone_into(&mut clock.default_zone);
        }
        clock
    });
    windows
}

fn schedule_zone(campaign: &Campaign) -> &str {
    campaign.schedule.as_ref().map_or("", |schedule| schedule.time_zone.as_str())
}

/// The message of a campaign, with what the master fills in.
pub fn campaign_message(campaign: &Campaign, lane: &Lane, correlation_id: &str) -> MessageSpec {
    let mut message = campaign.message.clone();
    message.windows = windows(campaign, lane);
    message.campaign = campaign.name.to_string();
    message.correlation_id = correlation_id.to_owned();
    message
}

/// The audience of a single message: one row of the fields, with the address under a name of its own.
pub fn single_recipient(to: &str, fields_json: &str) -> Result<Audience, Invalid> {
    let to: Address = to.parse().map_err(|error| Invalid::field("to", format!("{error}")))?;
    let mut fields = if fields_json.is_empty() {
        Map::new()
    } else {
        match serde_json::from_str(fields_json) {
            Ok(Value::Object(fields)) => fields,
            Ok(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
                return Err(Invalid::field("fields_json", "it must be a JSON object, such as {\"name\": \"Ada\"}"));
            }
            Err(error) => return Err(Invalid::field("fields_json", format!("it is not JSON: {error}"))),
        }
    };
    let mut address_field = "to".to_owned();
    while fields.contains_key(&address_field) {
        address_field.push('_');
    }
    fields.insert(address_field.clone(), Value::String(to.to_string()));
    let audience =
        Audience::of(Source::Inline { rows: vec![Value::Object(fields.clone()).to_string()] }, &address_field);
    row::admit(fields, &row::Roles::of(&audience))
        .map_err(|reason| Invalid::field("fields_json", reason.to_string()))?;
    validate::audience(&audience)?;
    Ok(audience)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_one_run() {
        assert_eq!(key("order-17", 1), key("order-17", 2));
        assert_ne!(key("", 1), key("", 2));
        assert!(key("a b", 1).is_err());
        assert!(key(&"x".repeat(129), 1).is_err());
        assert_ne!(campaign_run_id("a", "k"), campaign_run_id("b", "k"));
        assert_ne!(campaign_run_id("a", "k"), message_run_id("k"));
        assert_ne!(fingerprint(&[b"ab", b"c"]), fingerprint(&[b"a", b"bc"]));
    }

    #[test]
    fn a_single_message_is_one_row_whatever_its_fields_are_called() {
        for fields in ["", "{}", r#"{"to": "x", "to_": 1}"#] {
            let audience = single_recipient("Ada@example.com", fields).expect("good");
            let Source::Inline { rows } = &audience.source else { panic!("inline") };
            let Ok(Value::Object(object)) = serde_json::from_str(&rows[0]) else { panic!("an object") };
            assert_eq!(object[&audience.address_field], "Ada@example.com");
        }
        for (to, fields, part) in [
            ("ada", "", "to: "),
            ("a@example.com", "[1]", "fields_json: it must be"),
            ("a@example.com", "{", "fields_json: it is not JSON"),
            ("a@example.com", r#"{"x": "\u0000"}"#, "NUL"),
        ] {
            let error = single_recipient(to, fields).expect_err("refused").to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
