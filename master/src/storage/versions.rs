//! Versions of campaigns: `campaigns/NAME/VERSION`, sealed when there is a key.

use super::{Storage, StorageError};
use crate::seal::What;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use postrider_common::CampaignName;

impl Storage {
    pub async fn write_version(&self, name: &CampaignName, version: u64, bytes: Vec<u8>) -> Result<(), StorageError> {
        let sealed = self.vault.seal(What::Version(name, version), bytes)?;
        self.objects.put(&path_of(name, version), sealed.into()).await?;
        Ok(())
    }

    /// None: it is not kept.
    pub async fn read_version(&self, name: &CampaignName, version: u64) -> Result<Option<Vec<u8>>, StorageError> {
        let Some(found) = self.read(&path_of(name, version)).await? else { return Ok(None) };
        Ok(Some(self.vault.open(What::Version(name, version), found.into())?))
    }

    pub async fn has_version(&self, name: &CampaignName, version: u64) -> Result<bool, StorageError> {
        self.has(&path_of(name, version)).await
    }

    /// One that is gone already is fine.
    pub async fn remove_version(&self, name: &CampaignName, version: u64) -> Result<(), StorageError> {
        self.remove(&path_of(name, version)).await
    }

    /// All that are kept of a campaign.
    pub async fn remove_versions(&self, name: &CampaignName) -> Result<(), StorageError> {
        let mut objects = self.objects.list(Some(&folder_of(name)));
        while let Some(object) = objects.try_next().await? {
            self.remove(&object.location).await?;
        }
        Ok(())
    }
}

fn folder_of(name: &CampaignName) -> Path {
    Path::from(format!("campaigns/{name}"))
}

fn path_of(name: &CampaignName, version: u64) -> Path {
    Path::from(format!("campaigns/{name}/{version}"))
}
