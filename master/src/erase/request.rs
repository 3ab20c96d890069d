//! What the store keeps of an erasure.

use super::{EraseError, id_of};
use crate::core::Core;
use crate::suppress;
use postrider_common::Address;
use postrider_common::erasure::Erasing;
use postrider_common::ids::{ErasureId, RunId};
use postrider_store::{ErasureRecord, Store, StoreError, WriteErasure};
use serde::{Deserialize, Serialize};

/// Open requests that are looked at; more wait.
pub const OPEN_MAX: usize = 100;
/// Names of what only its owner can mend.
pub const LEFT_MAX: usize = 20;

/// A request and how far it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// None: it is done.
    pub address: Option<String>,
    pub asked_at_ms: i64,
    pub done_at_ms: Option<i64>,
    pub step: Step,
    pub counts: Counts,
    /// Definitions that have the address in them: whoever wrote them must.
    pub left: Vec<String>,
}

/// What is next. All before it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Runs, newest first.
    Runs {
        /// It is not the first pass.
        again: bool,
        /// Those not newer than this one were looked at in an earlier pass.
        until: Option<(i64, RunId)>,
        /// Where the next pass ends.
        newest: Option<(i64, RunId)>,
        /// This one and newer ones are done.
        before: Option<(i64, RunId)>,
        /// The one at hand, and the last batch of it that is done.
        within: Option<(RunId, u64)>,
    },
    /// Audiences in the storage, after this one.
    Audiences { newest: Option<(i64, RunId)>, after: String },
    /// Segments in the storage, from this folder on.
    Segments { newest: Option<(i64, RunId)>, folder: u8 },
}

impl Default for Step {
    fn default() -> Self {
        Self::Runs { again: false, until: None, newest: None, before: None, within: None }
    }
}

/// What was found. After a crash in between, less than there was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Deliveries of runs, in the store or in history.
    pub recipients: u64,
    /// Of these, who was pending.
    pub ended: u64,
    /// Rows of audiences that were the recipient's, uploaded, given with a run, or read and not in a batch yet.
    pub rows: u64,
    /// What mentioned the address elsewhere: fields of other rows, replies.
    pub mentions: u64,
    /// What cannot be read and may still have it.
    pub unreadable: u64,
}

impl Request {
    pub fn decode(record: &ErasureRecord) -> Result<Self, EraseError> {
        serde_json::from_slice(&record.body).map_err(|_| match postrider_common::seal::Header::read(&record.body) {
            Some((header, _)) => EraseError::Unreadable(format!(
                "it is sealed with the key '{}': {}",
                header.key,
                postrider_common::payload::OPEN_MEND
            )),
            None => EraseError::Unreadable("it is damaged".to_owned()),
        })
    }

    pub fn encode(&self) -> Result<Vec<u8>, EraseError> {
        serde_json::to_vec(self).map_err(|error| EraseError::Unreadable(error.to_string()))
    }

    /// None: it is done.
    pub fn erasing(&self, id: &ErasureId) -> Option<Erasing> {
        let address = self.address.as_ref()?.parse().ok()?;
        Some(Erasing::new(id.clone(), &address))
    }
}

/// Asks for an erasure, or finds the one that is asked for already.
pub async fn ask(core: &Core, address: &Address) -> Result<(ErasureId, Request), EraseError> {
    let key = core.storage.erasure_key().await?;
    let id = id_of(&key, address).ok_or_else(|| EraseError::Unreadable("it has no id".to_owned()))?;
    // Nothing needs its name to go on holding.
    suppress::unname(core, address).await?;
    for _ in 0..ATTEMPTS_MAX {
        let known = core.store.erasure(&id).await?;
        if let Some(known) = known.as_ref().filter(|known| known.open) {
            return Ok((id, Request::decode(known)?));
        }
        let asked_at_ms = core.store.now_ms().await?;
        let request = Request { address: Some(address.normalised()), asked_at_ms, ..Request::default() };
        let write = WriteErasure {
            id: id.clone(),
            version: known.map_or(0, |known| known.version),
            by: core.request_id("erase").ok_or(EraseError::Busy)?,
            takes: false,
            hold_ms: 0,
            open: true,
            body: request.encode()?,
        };
        if core.store.write_erasure(write).await?.is_some() {
            return Ok((id, request));
        }
    }
    Err(EraseError::Busy)
}

/// Somebody else asked at the same time, at each of these.
const ATTEMPTS_MAX: u32 = 10;

/// All that are not done.
pub async fn open(store: &dyn Store) -> Result<Vec<(ErasureId, Erasing)>, EraseError> {
    let mut all = Vec::new();
    for record in store.open_erasures(OPEN_MAX).await? {
        let erasing = Request::decode(&record)?.erasing(&record.id);
        all.extend(erasing.map(|erasing| (record.id, erasing)));
    }
    Ok(all)
}

/// What must not come in again: asked for by whoever brings recipients in, after he took the right to.
pub async fn erasing(store: &dyn Store) -> Result<Vec<Erasing>, StoreError> {
    match open(store).await {
        Ok(all) => Ok(all.into_iter().map(|(_, erasing)| erasing).collect()),
        Err(EraseError::Store(error)) => Err(error),
        // Until it can be read, nothing comes in.
        Err(error) => {
            Err(StoreError::Refusing { message: error.to_string(), mend: postrider_common::payload::OPEN_MEND })
        }
    }
}
