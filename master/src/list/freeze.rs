//! What a run has of a list: the version that was the newest when it began, whatever becomes of the list.

use super::version::{self, Version};
use super::{ListError, missing};
use crate::audience::column_missing;
use crate::audience::row::Roles;
use crate::core::Core;
use crate::storage::Listed;
use postrider_common::campaign::{Audience, AudienceFormat, Source};
use postrider_common::ids::{ListName, RunId};
use postrider_store::Shared;

/// The audience that the run reads, and which version of which list that is. None: it is from no list.
pub async fn freeze(
    core: &Core,
    audience: Audience,
    run: &RunId,
) -> Result<(Audience, Option<(ListName, u64)>), ListError> {
    let Source::List { name } = &audience.source else { return Ok((audience, None)) };
    let storage = &core.storage;
    let Some((number, newest)) = version::newest(storage, name).await? else {
        return Err(missing(storage, name).await?);
    };
    let Version { sha256, address, key, .. } = newest;
    let now = Listed { list: name.clone(), version: number, sha256, address, key };
    // A store that went back in time and is told of the run again has the same batches.
    let noted = storage.listed(run, now.clone()).await?;
    core.store.keep(vec![Shared::Audience(noted.sha256.clone())]).await?;
    let listed = if noted == now || storage.has_audience(&noted.sha256).await? { noted } else { now };
    let from = (listed.list.clone(), listed.version);
    Ok((read_as(audience, listed.sha256, &listed.address, listed.key), Some(from)))
}

/// With address and key of the list, unless the campaign names others.
fn read_as(audience: Audience, sha256: String, address: &str, key: Option<String>) -> Audience {
    let shown = |name: &str| audience.columns.get(name).cloned().unwrap_or_else(|| name.to_owned());
    let source = Source::Stored { sha256, format: AudienceFormat::Ndjson };
    let address_field = match audience.address_field.as_str() {
        "" => shown(address),
        given => given.to_owned(),
    };
    let key_field = audience.key_field.clone().or_else(|| key.as_deref().map(shown));
    Audience { source, address_field, key_field, ..audience }
}

/// Before a campaign is applied: the list is there, and has the columns that are named.
pub async fn check(core: &Core, audience: &Audience) -> Result<(), ListError> {
    let Source::List { name } = &audience.source else { return Ok(()) };
    let Some((_, newest)) = version::newest(&core.storage, name).await? else {
        return Err(missing(&core.storage, name).await?);
    };
    if newest.has_more_columns {
        return Ok(());
    }
    let read = read_as(audience.clone(), newest.sha256, &newest.address, newest.key);
    let columns: Vec<String> = newest.columns.into_iter().collect();
    match Roles::of(&read).wanted().find(|(_, column)| !columns.iter().any(|one| one == column)) {
        Some((setting, column)) => Err(column_missing(setting, column, &columns).into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_campaign_may_name_other_columns_than_the_list() {
        let of_list = |address: &str, key: Option<&str>| {
            let source = Source::List { name: "customers".parse().expect("a name") };
            Audience { key_field: key.map(str::to_owned), ..Audience::of(source, address) }
        };
        let read = |audience: Audience| {
            let read = read_as(audience, "ab".repeat(32), "mail", Some("id".to_owned()));
            assert!(matches!(read.source, Source::Stored { .. }));
            (read.address_field, read.key_field.unwrap_or_default())
        };
        assert_eq!(read(of_list("", None)), ("mail".to_owned(), "id".to_owned()));
        assert_eq!(read(of_list("work", Some("work"))), ("work".to_owned(), "work".to_owned()));
        let columns = [("mail", "email"), ("id", "number")].map(|(from, to)| (from.to_owned(), to.to_owned()));
        let renamed = Audience { columns: columns.into(), ..of_list("", None) };
        assert_eq!(read(renamed), ("email".to_owned(), "number".to_owned()));
    }
}
