//! Saved lists: what is asked of them, and how they are shown.

use super::status::ApiError;
use super::{PAGE_MAX, page_limit};
use crate::audience::read;
use crate::campaign::prepare::require_stored;
use crate::campaign::{Invalid, validate};
use crate::core::Core;
use crate::list::{self, Change, Changed, Counts, ListError, Removed, Version, Wish};
use postrider_common::campaign::{Audience, OnBadRow, Source};
use postrider_common::ids::ListName;
use postrider_proto::v1;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::Status;

/// Changes of lists that a master makes at once: each holds hashes of what it brings. Others wait.
pub const CHANGES_AT_ONCE_MAX: usize = 2;
/// Lists of one page, unless the caller says otherwise.
const PAGE: usize = 100;

impl From<ListError> for ApiError {
    fn from(error: ListError) -> Self {
        match error {
            ListError::Store(error) => Self::Store(error),
            ListError::Storage(error) | ListError::Read(list::ReadError::Storage(error)) => Self::Storage(error),
            ListError::Read(error @ list::ReadError::Damaged { .. }) => Self::Internal(format!("failed to {error}")),
            ListError::Rows { message, mend } => Invalid::field("list", format!("{message}; {mend}")).into(),
            error @ ListError::Missing { .. } => Self::NotFound(error.to_string()),
            ListError::Stopping => Self::Stopping,
            error @ (ListError::Unread(_) | ListError::Busy) => Self::Passing(format!("failed to {error}")),
            error @ ListError::TooLong { .. } => Self::Precondition(format!("failed to {error}")),
        }
    }
}

fn parse(name: &str) -> Result<ListName, ApiError> {
    Ok(name.parse().map_err(Invalid::id("name"))?)
}

pub async fn change(core: &Arc<Core>, request: v1::ChangeListRequest) -> Result<v1::ChangeListResponse, ApiError> {
    let name = parse(&request.name)?;
    let wish = wish(core, &name, request).await?;
    let core = Arc::clone(core);
    // Of its own: a client that goes away drops this call, and what it left behind must still be removed.
    let task = tokio::spawn(async move {
        let Ok(_room) = core.list_changes.acquire().await else { return Err(ListError::Stopping) };
        list::change(&core, &name, &wish).await
    });
    let changed = task.await.map_err(|error| ApiError::Internal(format!("the change ended early: {error}")))??;
    let Changed { version, is_new, rows, counts, refused } = changed;
    let refused = refused.into_iter().map(|one| v1::RefusedRow { row: one.row, reason: one.reason }).collect();
    Ok(v1::ChangeListResponse { version, changed: is_new, rows, counts: Some(counts.into()), refused })
}

async fn wish(core: &Core, name: &ListName, request: v1::ChangeListRequest) -> Result<Wish, ApiError> {
    let change = match request.change() {
        v1::ListChange::Unspecified => return Err(Invalid::field("change", "it is missing").into()),
        v1::ListChange::Import => Change::Import,
        v1::ListChange::Append => Change::Append,
        v1::ListChange::Remove => Change::Remove,
    };
    let on_bad_row = match request.on_bad_row() {
        v1::OnBadRow::Unspecified | v1::OnBadRow::Skip => OnBadRow::Skip,
        v1::OnBadRow::Fail => OnBadRow::Fail,
    };
    let rows = request.rows.ok_or_else(|| Invalid::field("rows", "it is missing: give an upload, or rows inline"))?;
    let mut rows = Audience::try_from(rows)?;
    if change == Change::Remove {
        // Who goes is told by the address.
        rows.key_field = None;
    }
    validate::audience(&rows)?;
    match &rows.source {
        Source::Stored { .. } | Source::Inline { .. } => {}
        Source::Sql(_) | Source::Http(_) | Source::File { .. } | Source::List { .. } => {
            let why = "the rows of a list are uploaded, or given inline: a campaign can name this source itself";
            return Err(Invalid::field("rows", why).into());
        }
    }
    if change == Change::Append
        && let Some((_, newest)) = list::newest(&core.storage, name).await.map_err(ListError::from)?
    {
        let said = |key: &Option<String>| key.as_ref().map_or("none".to_owned(), |key| format!("'{key}'"));
        if newest.address != rows.address_field || newest.key != rows.key_field {
            let why = format!(
                "the list has the address in '{}' and the key in {}: give the rows these names (columns)",
                newest.address,
                said(&newest.key)
            );
            return Err(Invalid::field("rows", why).into());
        }
    }
    require_stored(core, &rows).await?;
    Ok(Wish { change, rows, on_bad_row })
}

pub async fn page(core: &Core, request: v1::ListListsRequest) -> Result<v1::ListListsResponse, ApiError> {
    let limit = page_limit(request.limit, PAGE)?.min(PAGE_MAX);
    let lists = core.storage.lists().await?;
    let mut behind = lists.into_iter().filter(|(name, _)| name.as_str() > request.after.as_str());
    let mut found = Vec::new();
    for (name, mut versions) in behind.by_ref().take(limit) {
        let Some(number) = versions.pop_last() else { continue };
        // One that goes meanwhile is no list any more, or its next version is told by the next call.
        if let Some(version) = list::read(&core.storage, &name, number).await.map_err(ListError::from)? {
            found.push(shown(&name, number, version));
        }
    }
    let next = match (behind.next(), found.last()) {
        (Some(_), Some(last)) => last.name.clone(),
        (Some(_) | None, _) => String::new(),
    };
    Ok(v1::ListListsResponse { lists: found, next })
}

pub async fn get(core: &Core, request: v1::GetListRequest) -> Result<v1::GetListResponse, ApiError> {
    let name = parse(&request.name)?;
    let (number, version) = find(core, &name, request.version).await?;
    let mut versions = Vec::new();
    for number in core.storage.list_versions(&name).await?.into_iter().rev() {
        let version = list::read(&core.storage, &name, number).await.map_err(ListError::from)?;
        versions.extend(version.map(|version| shown(&name, number, version)));
    }
    Ok(v1::GetListResponse { list: Some(shown(&name, number, version)), versions })
}

pub async fn delete(core: &Core, request: v1::DeleteListRequest) -> Result<v1::DeleteListResponse, ApiError> {
    let name = parse(&request.name)?;
    match list::remove(core, &name).await? {
        Removed::Done => {
            tracing::info!(list = %name, "list deleted");
            Ok(v1::DeleteListResponse {})
        }
        Removed::Missing => Err(list::missing(&core.storage, &name).await?.into()),
        Removed::Named(campaign) => Err(ApiError::Precondition(format!(
            "the campaign '{campaign}' takes its recipients from the list '{name}': give it another audience, or delete it, \
             first"
        ))),
    }
}

/// Of which version: 0 is the newest.
async fn find(core: &Core, name: &ListName, version: u64) -> Result<(u64, Version), ApiError> {
    let Some((number, newest)) = list::newest(&core.storage, name).await.map_err(ListError::from)? else {
        return Err(list::missing(&core.storage, name).await?.into());
    };
    match version {
        0 => Ok((number, newest)),
        same if same == number => Ok((number, newest)),
        other => match list::read(&core.storage, name, other).await.map_err(ListError::from)? {
            Some(version) => Ok((other, version)),
            None => {
                let message = format!("version {other} of the list '{name}' is not kept: see list show {name}");
                Err(ApiError::NotFound(message))
            }
        },
    }
}

/// Sends the rows of a version.
pub async fn export(
    core: &Core,
    request: v1::ExportListRequest,
    sender: &mpsc::Sender<Result<v1::ExportListResponse, Status>>,
) -> Result<(), ApiError> {
    let name = parse(&request.name)?;
    let (_, version) = find(core, &name, request.version).await?;
    let mut rows = read::open(&core.storage, &version.audience()).await.map_err(ListError::from)?;
    loop {
        let rows = tokio::select! {
            biased;
            () = core.stopping.cancelled() => return Err(ApiError::Stopping),
            rows = rows.next() => rows.map_err(ListError::from)?,
        };
        let Some(rows) = rows else { return Ok(()) };
        let mut ndjson = Vec::new();
        for recipient in rows.into_iter().filter_map(|row| row.recipient.ok()) {
            list::line(recipient, &version.address, &mut ndjson)?;
        }
        if sender.send(Ok(v1::ExportListResponse { ndjson })).await.is_err() {
            return Ok(());
        }
    }
}

impl From<Counts> for v1::ListCounts {
    fn from(counts: Counts) -> Self {
        let Counts { added, replaced, removed, absent, repeated, bad } = counts;
        Self { added, replaced, removed, absent, repeated_rows: repeated, bad_rows: bad }
    }
}

fn shown(name: &ListName, number: u64, version: Version) -> v1::SavedList {
    let change = match version.change {
        Change::Import => v1::ListChange::Import,
        Change::Append => v1::ListChange::Append,
        Change::Remove => v1::ListChange::Remove,
    };
    v1::SavedList {
        name: name.to_string(),
        version: number,
        rows: version.rows,
        address_field: version.address,
        key_field: version.key.unwrap_or_default(),
        columns: version.columns.into_iter().collect(),
        more_columns: version.has_more_columns,
        changed_at_ms: version.changed_at_ms,
        change: change.into(),
        counts: Some(version.counts.into()),
    }
}
