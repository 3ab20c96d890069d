//! Who is not sent to: added, removed, listed.

use super::status::ApiError;
use crate::campaign::Invalid;
use crate::core::Core;
use crate::suppress::{self, Entry, Removal};
use postrider_common::seal::Header;
use postrider_common::suppression::{InvalidSuppression, SuppressionKey, SuppressionReason, SuppressionScope};
use postrider_proto::v1;
use postrider_store::{SUPPRESSIONS_PER_CALL_MAX, SuppressionRecord};

pub async fn add(core: &Core, request: v1::SuppressRequest) -> Result<v1::SuppressResponse, ApiError> {
    at_most(request.suppressions.len())?;
    let entries = request.suppressions.into_iter().map(entry).collect::<Result<Vec<_>, _>>()?;
    let number = entries.len();
    let changed = if entries.is_empty() { 0 } else { suppress::add(core, entries).await? };
    tracing::info!(number, changed, "suppressions added");
    Ok(v1::SuppressResponse { changed })
}

pub async fn remove(core: &Core, request: v1::UnsuppressRequest) -> Result<v1::UnsuppressResponse, ApiError> {
    at_most(request.suppressions.len())?;
    let removals = request.suppressions.into_iter().map(removal).collect::<Result<Vec<_>, _>>()?;
    let number = removals.len();
    let changed = if removals.is_empty() { 0 } else { suppress::remove(core, removals).await? };
    tracing::info!(number, changed, "suppressions removed");
    Ok(v1::UnsuppressResponse { changed })
}

pub async fn list(core: &Core, request: v1::ListSuppressionsRequest) -> Result<v1::ListSuppressionsResponse, ApiError> {
    if !request.subject.is_empty() {
        let subject = request.subject.parse().map_err(wrong("subject"))?;
        let found = suppress::find(core, &subject).await?;
        let suppressions: Vec<v1::Suppression> = found.into_iter().map(to_wire).collect();
        let total = suppressions.len() as u64;
        return Ok(v1::ListSuppressionsResponse { suppressions, next: String::new(), total });
    }
    let after = match request.after.as_str() {
        "" => None,
        text => Some(text.parse::<SuppressionKey>().map_err(wrong("after"))?),
    };
    let limit = match request.limit as usize {
        0 => SUPPRESSIONS_PER_CALL_MAX,
        limit => limit.min(SUPPRESSIONS_PER_CALL_MAX),
    };
    let total = core.store.suppression_set().await?.count;
    let records = suppress::page(core, after, limit).await?;
    let next = records.last().filter(|_| records.len() == limit).map_or(String::new(), |last| last.key.to_string());
    Ok(v1::ListSuppressionsResponse { suppressions: records.into_iter().map(to_wire).collect(), next, total })
}

fn at_most(count: usize) -> Result<(), ApiError> {
    let (limit, max) = ("suppressions_per_call_max", SUPPRESSIONS_PER_CALL_MAX);
    if count <= max { Ok(()) } else { Err(ApiError::TooMany { field: "suppressions", limit, max: max as u64 }) }
}

fn wrong(field: &'static str) -> impl Fn(InvalidSuppression) -> ApiError {
    move |error| Invalid::field(field, error.to_string()).into()
}

fn entry(wire: v1::NewSuppression) -> Result<Entry, ApiError> {
    let reason = match wire.reason() {
        v1::SuppressionReason::Unspecified => {
            return Err(Invalid::field("suppressions.reason", "it is missing").into());
        }
        v1::SuppressionReason::Legal => SuppressionReason::Legal,
        v1::SuppressionReason::Complaint => SuppressionReason::Complaint,
        v1::SuppressionReason::HardBounce => SuppressionReason::HardBounce,
        v1::SuppressionReason::Unsubscribe => SuppressionReason::Unsubscribe,
        v1::SuppressionReason::Inactive => SuppressionReason::Inactive,
        v1::SuppressionReason::Manual => SuppressionReason::Manual,
    };
    if wire.at_ms < 0 {
        return Err(Invalid::field("suppressions.at_ms", "it must not be before 1970").into());
    }
    Ok(Entry {
        subject: wire.subject.parse().map_err(wrong("suppressions.subject"))?,
        scope: scope(&wire.scope)?.unwrap_or_else(|| reason.scope()),
        reason,
        at_ms: (wire.at_ms > 0).then_some(wire.at_ms),
    })
}

fn removal(wire: v1::Unsuppression) -> Result<Removal, ApiError> {
    let subject = wire.subject.parse().map_err(wrong("suppressions.subject"))?;
    Ok(Removal { subject, scope: scope(&wire.scope)? })
}

fn scope(text: &str) -> Result<Option<SuppressionScope>, ApiError> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(wrong("suppressions.scope")) }
}

fn to_wire(record: SuppressionRecord) -> v1::Suppression {
    let SuppressionRecord { key, subject, holds } = record;
    let subject = match Header::read(&subject) {
        Some((header, _)) => format!("(sealed with the key '{}')", header.key),
        None => String::from_utf8_lossy(&subject).into_owned(),
    };
    let holds = holds.into_iter().map(|hold| v1::SuppressionHold {
        scope: hold.scope.to_string(),
        reason: reason_to_wire(hold.reason).into(),
        at_ms: hold.at_ms,
    });
    v1::Suppression { subject, holds: holds.collect(), key: key.to_string() }
}

fn reason_to_wire(reason: SuppressionReason) -> v1::SuppressionReason {
    match reason {
        SuppressionReason::Legal => v1::SuppressionReason::Legal,
        SuppressionReason::Complaint => v1::SuppressionReason::Complaint,
        SuppressionReason::HardBounce => v1::SuppressionReason::HardBounce,
        SuppressionReason::Unsubscribe => v1::SuppressionReason::Unsubscribe,
        SuppressionReason::Inactive => v1::SuppressionReason::Inactive,
        SuppressionReason::Manual => v1::SuppressionReason::Manual,
    }
}
