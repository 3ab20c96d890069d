//! What is in the storage, by name.

use super::sweep::SEGMENT_END;
use super::{Storage, StorageError};
use futures::TryStreamExt as _;
use object_store::ObjectStore as _;
use object_store::path::Path;
use std::collections::BTreeSet;

impl Storage {
    /// Names of audiences behind this one, in order.
    pub async fn audiences_after(&self, after: &str) -> Result<BTreeSet<String>, StorageError> {
        let names = self.names_in("audiences").await?;
        Ok(names.into_iter().filter(|name| name.as_str() > after).collect())
    }

    /// Names of segments that begin with this byte in hex, in order.
    pub async fn segments_in(&self, folder: u8) -> Result<BTreeSet<String>, StorageError> {
        let names = self.names_in(&format!("history/{folder:02x}")).await?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(SEGMENT_END)).map(str::to_owned).collect())
    }

    pub(super) async fn names_in(&self, folder: &str) -> Result<BTreeSet<String>, StorageError> {
        let mut names = BTreeSet::new();
        let mut objects = self.objects.list(Some(&Path::from(folder)));
        while let Some(object) = objects.try_next().await? {
            names.extend(object.location.filename().map(str::to_owned));
        }
        Ok(names)
    }
}
