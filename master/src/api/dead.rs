//! Dead letters and retries: what was given up, for a person to decide about.

use super::page_limit;
use super::recipients;
use super::status::{ApiError, no_run};
use crate::campaign::Invalid;
use crate::core::Core;
use crate::history::Reader;
use postrider_common::ids::{DeadId, IdempotencyKey, RunId};
use postrider_common::limits::BATCH_RECIPIENTS_MAX;
use postrider_proto::v1;
use postrider_store::{BatchRecord, DeadAnswer, DeadLetter, ReplayDead, RetriedRun, RetryRun, RunRecord};

/// Batches that one call of RetryRun looks at.
const RETRY_STEP_BATCHES_MAX: usize = 1_000;

pub async fn retry(core: &Core, request: v1::RetryRunRequest) -> Result<v1::RetryRunResponse, ApiError> {
    let id: RunId = request.run_id.parse().map_err(|_| no_run(&request.run_id))?;
    if request.idempotency_key.is_empty() && request.after != 0 {
        return Err(Invalid::field("after", "it needs the idempotency key of the first call").into());
    }
    let key: IdempotencyKey = match request.idempotency_key.as_str() {
        "" => format!("{:032x}", core.random_wide()).parse().map_err(Invalid::id("idempotency_key"))?,
        key => key.parse().map_err(Invalid::id("idempotency_key"))?,
    };
    let mut after = request.after;
    let mut all = 0;
    loop {
        let step = RetryRun {
            run: id.clone(),
            key: key.clone(),
            unknown: request.include_unknown,
            after,
            limit: RETRY_STEP_BATCHES_MAX,
        };
        let (generation, recipients, next) = match core.store.retry_run(step).await? {
            RetriedRun::Step { generation, recipients, next } => (generation, recipients, next.unwrap_or(0)),
            RetriedRun::NoRun => return Err(no_run(id.as_str())),
            RetriedRun::Cancelled => {
                return Err(ApiError::Precondition(format!(
                    "cannot retry the run {id}: it is cancelled for ever; run the campaign again"
                )));
            }
            RetriedRun::Conflict => {
                return Err(ApiError::Conflict(format!(
                    "idempotency_key: the run {id} knows it from a retry that said something else about unknown \
                     recipients; use another key"
                )));
            }
        };
        all += recipients;
        // Without a key of its own the caller could not go on.
        if next == 0 || !request.idempotency_key.is_empty() {
            tracing::info!(run = %id, generation, recipients = all, "run begins again with whom it gave up");
            return Ok(v1::RetryRunResponse { generation, recipients: all, next });
        }
        after = next;
    }
}

pub async fn list(core: &Core, request: v1::ListDeadLettersRequest) -> Result<v1::ListDeadLettersResponse, ApiError> {
    let limit = page_limit(request.limit, 50)?;
    let run: Option<RunId> = match request.run_id.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| no_run(text))?),
    };
    let after: Option<DeadId> = match request.after.as_str() {
        "" => None,
        text => Some(text.parse().map_err(Invalid::id("after"))?),
    };
    let page = core.store.dead_letters(run.as_ref(), after.as_ref(), limit).await?;
    let next = page.last().filter(|_| page.len() == limit).map(|last| last.id.to_string()).unwrap_or_default();
    let mut shown = Shown::new(core);
    let mut letters = Vec::with_capacity(page.len());
    for letter in page {
        letters.push(shown.letter(letter).await?);
    }
    Ok(v1::ListDeadLettersResponse { letters, next })
}

pub async fn get(core: &Core, id: &str) -> Result<v1::DeadLetter, ApiError> {
    let id = parse(id)?;
    // The first one from there on is it, or it is none.
    let before = match id.index {
        Some(0) => Some(DeadId { batch: id.batch.clone(), index: None }),
        Some(index) => Some(DeadId { batch: id.batch.clone(), index: Some(index - 1) }),
        None => None,
    };
    let page = match before {
        Some(before) => core.store.dead_letters(Some(&id.batch.run), Some(&before), 1).await?,
        None => {
            let mut before = id.batch.clone();
            before.sequence -= 1;
            let after = DeadId { batch: before, index: Some(BATCH_RECIPIENTS_MAX as u32 - 1) };
            core.store.dead_letters(Some(&id.batch.run), Some(&after), 1).await?
        }
    };
    let letter = page.into_iter().find(|letter| letter.id == id).ok_or_else(|| none(&id))?;
    Shown::new(core).letter(letter).await
}

pub async fn replay(core: &Core, request: v1::ReplayDeadLetterRequest) -> Result<u64, ApiError> {
    let id = parse(&request.id)?;
    let replay = ReplayDead { id: id.clone(), unknown: request.include_unknown };
    let recipients = answered(&id, "replay", core.store.replay_dead(replay).await?)?;
    tracing::info!(letter = %id, recipients, "dead letter replayed");
    Ok(recipients)
}

pub async fn purge(core: &Core, id: &str) -> Result<u64, ApiError> {
    let id = parse(id)?;
    let recipients = answered(&id, "purge", core.store.purge_dead(&id).await?)?;
    tracing::info!(letter = %id, recipients, "dead letter purged");
    Ok(recipients)
}

fn parse(text: &str) -> Result<DeadId, ApiError> {
    Ok(text.parse().map_err(Invalid::id("id"))?)
}

fn none(id: &DeadId) -> ApiError {
    ApiError::NotFound(format!("there is no dead letter {id}: see dead list"))
}

fn answered(id: &DeadId, what: &'static str, answer: DeadAnswer) -> Result<u64, ApiError> {
    let why = match answer {
        DeadAnswer::Done { recipients } => return Ok(recipients),
        DeadAnswer::NoSuch => return Err(none(id)),
        DeadAnswer::InDoubt => "it may have been sent, and would be sent again: say so with --unknown, or purge it",
        DeadAnswer::Cancelled => "its run is cancelled for ever; purge it",
        DeadAnswer::Unreadable => {
            "the store cannot read what became of its recipients: bring the keys of the batch back from a backup first"
        }
    };
    Err(ApiError::Precondition(format!("cannot {what} the dead letter {id}: {why}")))
}

/// Reads what a page of dead letters is of, each run and batch once.
struct Shown<'a> {
    core: &'a Core,
    reader: Reader,
    run: Option<RunRecord>,
    batch: Option<BatchRecord>,
}

impl<'a> Shown<'a> {
    fn new(core: &'a Core) -> Self {
        Self { core, reader: Reader::new(core.storage.clone()), run: None, batch: None }
    }

    async fn letter(&mut self, letter: DeadLetter) -> Result<v1::DeadLetter, ApiError> {
        let DeadLetter { id, at_ms, reason } = letter;
        if self.run.as_ref().is_none_or(|run| run.id != id.batch.run) {
            self.run = self.core.store.run(&id.batch.run).await?;
        }
        if self.batch.as_ref().is_none_or(|batch| batch.id != id.batch) {
            let read = self.core.store.batches(&id.batch.run, id.batch.sequence.saturating_sub(1), 1).await;
            // One that cannot be read is listed all the same.
            self.batch = read.unwrap_or_default().into_iter().find(|batch| batch.id == id.batch);
        }
        let recipient = match (&self.run, &self.batch, id.index) {
            (Some(run), Some(batch), Some(index)) => {
                let known = self.reader.batch(run, batch).await?.into_iter().nth(index as usize);
                known.map(|known| recipients::to_wire(known, &id.batch))
            }
            (_, _, Some(_) | None) => None,
        };
        let deliveries = self.batch.iter().filter(|_| id.index.is_none()).flat_map(|batch| &batch.recipients);
        let pending = deliveries.filter(|delivery| !delivery.state.is_final()).count();
        Ok(v1::DeadLetter {
            id: id.to_string(),
            run_id: id.batch.run.to_string(),
            campaign: self.run.as_ref().map(|run| run.campaign.clone()).unwrap_or_default(),
            batch_id: id.batch.to_string(),
            reason,
            at_ms,
            recipient,
            pending: u32::try_from(pending).unwrap_or(u32::MAX),
        })
    }
}
