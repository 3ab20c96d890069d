//! Versions of saved lists: `lists/NAME/VERSION`, sealed when there is a key. Rows are audiences; a version names one. Who
//! writes a version that is there already is told so: it is the only thing that keeps two masters from the same one.

use super::{Storage, StorageError};
use crate::seal::What;
use futures::TryStreamExt as _;
use object_store::ObjectStore as _;
use object_store::path::Path;
use postrider_common::ids::ListName;
use std::collections::{BTreeMap, BTreeSet};

const LISTS: &str = "lists";
/// One object for each pass of an erasure over the audiences, written before the pass begins.
pub(super) const PASSES: &str = "erasing";

impl Storage {
    /// Unless it is there. Whether it was written.
    pub async fn write_list(&self, name: &ListName, version: u64, bytes: Vec<u8>) -> Result<bool, StorageError> {
        let sealed = self.vault.seal(What::List(name, version), bytes)?;
        self.write_new(&path_of(name, version), sealed).await
    }

    /// None: it is not kept.
    pub async fn read_list(&self, name: &ListName, version: u64) -> Result<Option<Vec<u8>>, StorageError> {
        let Some(found) = self.read(&path_of(name, version)).await? else { return Ok(None) };
        Ok(Some(self.vault.open(What::List(name, version), found.into())?))
    }

    /// Of one list, those that are kept.
    pub async fn list_versions(&self, name: &ListName) -> Result<BTreeSet<u64>, StorageError> {
        let names = self.names_in(&format!("{LISTS}/{name}")).await?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Every list, with the versions that are kept.
    pub async fn lists(&self) -> Result<BTreeMap<ListName, BTreeSet<u64>>, StorageError> {
        let mut lists = BTreeMap::<ListName, BTreeSet<u64>>::new();
        let mut objects = self.objects.list(Some(&Path::from(LISTS)));
        while let Some(object) = objects.try_next().await? {
            let parts: Vec<String> = object.location.parts().map(|part| part.as_ref().to_owned()).collect();
            let [_, name, version] = parts.as_slice() else { continue };
            if let (Ok(name), Ok(version)) = (name.parse(), version.parse()) {
                lists.entry(name).or_default().insert(version);
            }
        }
        Ok(lists)
    }

    /// One that is gone already is fine.
    pub async fn remove_list(&self, name: &ListName, version: u64) -> Result<(), StorageError> {
        self.remove(&path_of(name, version)).await
    }

    /// An erasure is about to look at the audiences that are there. `nonce` must differ between passes.
    pub async fn note_pass(&self, nonce: u128) -> Result<(), StorageError> {
        self.write_new(&Path::from(format!("{PASSES}/{nonce:032x}")), Vec::new()).await.map(drop)
    }

    /// The passes of a day.
    pub async fn passes(&self) -> Result<BTreeSet<String>, StorageError> {
        self.names_in(PASSES).await
    }
}

/// Of one width: what lists objects lists them in order.
fn path_of(name: &ListName, version: u64) -> Path {
    Path::from(format!("{LISTS}/{name}/{version:020}"))
}
