//! Lists of recipients: those of a run, and those with an address, from the store and from history.

use super::status::ApiError;
use crate::core::Core;
use crate::history::{HistoryError, Known, Reader};
use postrider_common::address::Address;
use postrider_common::ids::BatchId;
use postrider_common::limits::FIND_RUNS_MAX;
use postrider_common::state::RecipientState;
use postrider_proto::v1;
use postrider_store::{BatchRecord, RunRecord};
use std::collections::BTreeSet;
use tokio::sync::mpsc;
use tonic::Status;

/// Batches read at once.
const BATCHES_PER_READ: usize = 10;
/// Runs read at once.
const RUNS_PER_READ: usize = 50;

type Sender<T> = mpsc::Sender<Result<T, Status>>;

/// The states asked for, pending standing for all that are not final; empty: all.
pub fn states(request: &v1::ListRecipientsRequest) -> Result<BTreeSet<&'static str>, ApiError> {
    let name = |state| Ok(RecipientState::try_from(state)?.name());
    request.states().map(name).collect()
}

/// Sends every recipient of a run, in batch order.
pub async fn list(
    core: &Core,
    run: &RunRecord,
    states: &BTreeSet<&'static str>,
    sender: &Sender<v1::ListRecipientsResponse>,
) -> Result<(), ApiError> {
    let mut reader = Reader::new(core.storage.clone());
    let mut after = 0;
    loop {
        let batches = core.store.batches(&run.id, after, BATCHES_PER_READ).await?;
        let Some(last) = batches.last() else { return Ok(()) };
        after = last.id.sequence;
        for batch in &batches {
            let known = reader.batch(run, batch).await?;
            let wanted = |one: &Known| states.is_empty() || states.contains(one.state.name());
            let recipients: Vec<_> = known.into_iter().filter(wanted).map(|one| to_wire(one, &batch.id)).collect();
            if recipients.is_empty() && !sender.is_closed() && !core.stopping.is_cancelled() {
                continue;
            }
            if !send(core, sender, v1::ListRecipientsResponse { recipients }).await? {
                return Ok(());
            }
        }
    }
}

/// Sends every recipient with that address, newest runs first, and then how far it looked.
pub async fn find(core: &Core, address: &Address, sender: &Sender<v1::FindRecipientResponse>) -> Result<(), ApiError> {
    use v1::find_recipient_response::Part;
    let mut search = Search::new(core, address)?;
    let (mut before, mut looked_at, mut more) = (None, 0, true);
    while more && looked_at < FIND_RUNS_MAX {
        let limit = RUNS_PER_READ.min(FIND_RUNS_MAX - looked_at);
        let page = core.store.runs(before.clone(), limit).await?;
        more = page.len() == limit;
        for run in page {
            if !search.run(&run, sender).await? {
                return Ok(());
            }
            looked_at += 1;
            before = Some((run.created_at_ms, run.id));
        }
    }
    let more_runs = more && !core.store.runs(before, 1).await?.is_empty();
    let end = v1::FindEnd { runs_looked_at: u32::try_from(looked_at).unwrap_or(u32::MAX), more_runs };
    send(core, sender, v1::FindRecipientResponse { part: Some(Part::End(end)) }).await?;
    Ok(())
}

struct Search<'a> {
    core: &'a Core,
    reader: Reader,
    normalised: String,
    /// The address as a segment has it: in lower case, inside quotes, with JSON's escapes.
    needle: String,
}

impl<'a> Search<'a> {
    fn new(core: &'a Core, address: &Address) -> Result<Self, ApiError> {
        let normalised = address.normalised();
        let needle = serde_json::to_string(&normalised).map_err(|error| ApiError::Internal(error.to_string()))?;
        Ok(Self { core, reader: Reader::new(core.storage.clone()), normalised, needle })
    }

    /// False: nobody listens any more.
    async fn run(&mut self, run: &RunRecord, sender: &Sender<v1::FindRecipientResponse>) -> Result<bool, ApiError> {
        use v1::find_recipient_response::Part;
        let mut after = 0;
        loop {
            let batches = self.core.store.batches(&run.id, after, BATCHES_PER_READ).await?;
            let Some(last) = batches.last() else { return Ok(true) };
            after = last.id.sequence;
            for batch in &batches {
                for one in self.batch(run, batch).await? {
                    let found = v1::FoundRecipient {
                        run_id: run.id.to_string(),
                        campaign: run.campaign.clone(),
                        recipient: Some(to_wire(one, &batch.id)),
                    };
                    let part = Some(Part::Found(found));
                    if !send(self.core, sender, v1::FindRecipientResponse { part }).await? {
                        return Ok(false);
                    }
                }
            }
            if sender.is_closed() {
                return Ok(false);
            }
            if self.core.stopping.is_cancelled() {
                return Err(ApiError::Stopping);
            }
        }
    }

    async fn batch(&mut self, run: &RunRecord, batch: &BatchRecord) -> Result<Vec<Known>, HistoryError> {
        if batch.is_retired() && !self.reader.may_have(&batch.id, &batch.segments, &self.needle).await? {
            return Ok(Vec::new());
        }
        let mut known = self.reader.batch(run, batch).await?;
        known.retain(|one| one.address.to_lowercase() == self.normalised);
        Ok(known)
    }
}

/// False: nobody listens any more.
async fn send<T>(core: &Core, sender: &Sender<T>, answer: T) -> Result<bool, ApiError> {
    tokio::select! {
        () = core.stopping.cancelled() => Err(ApiError::Stopping),
        sent = sender.send(Ok(answer)) => Ok(sent.is_ok()),
    }
}

pub fn to_wire(known: Known, batch: &BatchId) -> v1::Recipient {
    v1::Recipient {
        key: known.key,
        address: known.address,
        state: v1::RecipientState::from(known.state).into(),
        attempts: known.attempts,
        code: known.code,
        message_id: known.message_id,
        unknown_reason: known.reason.map(|reason| reason.name().to_owned()).unwrap_or_default(),
        settled_at_ms: known.settled_at_ms.unwrap_or_default(),
        batch_id: batch.to_string(),
        detail: known.detail,
    }
}
