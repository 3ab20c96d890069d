//! What the store has of runs: batches, rows that are read and not in a batch yet, and what was given with a submit.

use super::EraseError;
use super::names::Fields;
use super::request::Step;
use super::rewrite::inline_row;
use super::work::Work;
use crate::split::Plan;
use crate::split::waves::Position;
use postrider_common::campaign::Source;
use postrider_common::erasure::Taken;
use postrider_common::ids::{BatchId, RunId};
use postrider_common::payload::{self, InvalidPayload};
use postrider_common::seal::Header;
use postrider_store::{BatchRecord, EraseRecipients, EraseRun, ErasedRecipients, ErasedRun, Replace, RunRecord};
use std::time::Duration;

/// Runs and batches read at once.
const RUNS_PER_READ: usize = 50;
const BATCHES_PER_READ: usize = 20;
/// Between reads, so that the store has time for others.
const READ_PAUSE: Duration = Duration::from_millis(2);
/// Looks at something that changes at the same time.
const LOOKS_MAX: u32 = 50;

/// One pass over runs, see `Step::Runs`.
#[derive(Debug)]
pub(super) struct Pass {
    pub again: bool,
    pub until: Option<(i64, RunId)>,
    pub newest: Option<(i64, RunId)>,
    pub before: Option<(i64, RunId)>,
    pub within: Option<(RunId, u64)>,
}

type Age = Option<(i64, RunId)>;

/// The newest run there was, and whether there was any to look at.
pub(super) async fn all(work: &mut Work<'_>, mut pass: Pass) -> Result<(Age, Option<()>), EraseError> {
    let mut found = (!pass.again || pass.newest.is_some()).then_some(());
    loop {
        let page = work.core.store.runs(pass.before.clone(), RUNS_PER_READ).await?;
        let full = page.len() == RUNS_PER_READ;
        for run in page {
            let age = Some((run.created_at_ms, run.id.clone()));
            if age <= pass.until {
                return Ok((pass.newest.or(pass.until), found));
            }
            found = Some(());
            pass.newest = pass.newest.or_else(|| age.clone());
            one(work, &run, &mut pass).await?;
            (pass.before, pass.within) = (age, None);
            note(work, &pass).await?;
        }
        if !full {
            return Ok((pass.newest.or(pass.until), found));
        }
    }
}

async fn note(work: &mut Work<'_>, pass: &Pass) -> Result<(), EraseError> {
    let Pass { again, until, newest, before, within } = pass;
    let (again, until, newest) = (*again, until.clone(), newest.clone());
    work.go_on(Step::Runs { again, until, newest, before: before.clone(), within: within.clone() }).await
}

async fn one(work: &mut Work<'_>, run: &RunRecord, pass: &mut Pass) -> Result<(), EraseError> {
    plan(work, run).await?;
    if let Some(definition) = work.core.store.definition(&run.definition).await?
        && work.erasing.is_in(&String::from_utf8_lossy(&definition))
    {
        work.leave(format!("the message of {}", run.id));
    }
    if !run.split_complete {
        open_rows(work, run).await?;
    }
    let mut after = pass.within.as_ref().filter(|(id, _)| *id == run.id).map_or(0, |(_, after)| *after);
    loop {
        let batches = work.core.store.batches(&run.id, after, BATCHES_PER_READ).await?;
        let Some(last) = batches.last() else { return Ok(()) };
        after = last.id.sequence;
        // History is looked at where it is.
        for record in batches.into_iter().filter(|batch| !batch.is_retired()) {
            batch(work, record).await?;
        }
        pass.within = Some((run.id.clone(), after));
        note(work, pass).await?;
        if !work.core.pause(READ_PAUSE).await {
            return Err(EraseError::Stopping);
        }
    }
}

/// What was given with the submit.
async fn plan(work: &mut Work<'_>, run: &RunRecord) -> Result<(), EraseError> {
    if let Some((header, _)) = Header::read(&run.audience) {
        return Err(locked(format!("the audience of {}", run.id), InvalidPayload::Sealed(header.key)));
    }
    let Ok(mut plan) = Plan::decode(&run.audience) else {
        work.count(|counts| counts.unreadable += 1);
        return Ok(());
    };
    let fields = Fields::of(&plan.audience);
    let Source::Inline { rows } = &mut plan.audience.source else { return Ok(()) };
    let (mut own, mut mentions) = (0, 0);
    for row in rows {
        match inline_row(&work.erasing, &fields, row) {
            Taken::Nothing => {}
            Taken::Mention => mentions += 1,
            Taken::All => own += 1,
        }
    }
    if own + mentions == 0 {
        return Ok(());
    }
    let to = plan.encode().map_err(|error| EraseError::Unreadable(error.to_string()))?;
    let audience = Some(Replace { from: run.audience.clone(), to });
    work.step()?;
    // Nobody else changes it.
    match work.core.store.erase_run(EraseRun { run: run.id.clone(), audience, open: None }).await? {
        ErasedRun::Done { .. } => work.count(|counts| {
            counts.rows += own;
            counts.mentions += mentions;
        }),
        ErasedRun::NoRun => {}
        ErasedRun::Changed => return Err(EraseError::Busy),
    }
    Ok(())
}

/// Takes the split from its holder, who may have read the address already: whoever holds it after that leaves it out.
async fn open_rows(work: &mut Work<'_>, run: &RunRecord) -> Result<(), EraseError> {
    let taken = || EraseRun { run: run.id.clone(), audience: None, open: None };
    for _ in 0..LOOKS_MAX {
        work.step()?;
        let ErasedRun::Done { open } = work.core.store.erase_run(taken()).await? else { return Ok(()) };
        if open.is_empty() {
            return Ok(());
        }
        let Position { waves, open: mut recipients } = match Position::decode(&open) {
            Ok(position) => position,
            Err(sealed @ InvalidPayload::Sealed(_)) => return Err(locked(format!("the split of {}", run.id), sealed)),
            Err(_) => {
                work.count(|counts| counts.unreadable += 1);
                return Ok(());
            }
        };
        let taken: Vec<Taken> = recipients.iter_mut().map(|one| work.erasing.take_from_recipient(one)).collect();
        if taken.iter().all(|taken| *taken == Taken::Nothing) {
            return Ok(());
        }
        let open = Some(Replace { from: open, to: Position::encode(waves.as_ref(), &recipients) });
        work.step()?;
        match work.core.store.erase_run(EraseRun { run: run.id.clone(), audience: None, open }).await? {
            ErasedRun::Done { .. } => {
                let number = |kind| taken.iter().filter(|taken| **taken == kind).count() as u64;
                let (own, mentions) = (number(Taken::All), number(Taken::Mention));
                work.count(|counts| {
                    counts.rows += own;
                    counts.mentions += mentions;
                });
                return Ok(());
            }
            ErasedRun::NoRun => return Ok(()),
            ErasedRun::Changed => {}
        }
    }
    Err(EraseError::Busy)
}

/// One batch that is not retired, whatever its place.
async fn batch(work: &mut Work<'_>, mut record: BatchRecord) -> Result<(), EraseError> {
    for _ in 0..LOOKS_MAX {
        let id = record.id.clone();
        let Some((erase, mentions)) = look(work, record)? else { return Ok(()) };
        let own = erase.recipients.len() as u64;
        work.step()?;
        match work.core.store.erase_recipients(erase).await? {
            ErasedRecipients::Done { ended } => {
                work.count(|counts| {
                    counts.recipients += own;
                    counts.ended += u64::from(ended);
                    counts.mentions += mentions;
                });
                return Ok(());
            }
            ErasedRecipients::Gone => {
                // With its run, or it is there and cannot be read.
                if find(work, &id).await?.is_some() {
                    work.count(|counts| counts.unreadable += 1);
                }
                return Ok(());
            }
            ErasedRecipients::Changed => {}
        }
        match find(work, &id).await? {
            // History is looked at later.
            Some(again) if !again.is_retired() => record = again,
            Some(_) | None => return Ok(()),
        }
    }
    Err(EraseError::Busy)
}

/// What is to be done about a batch, and how many mentions go. None: nothing.
fn look(work: &mut Work<'_>, record: BatchRecord) -> Result<Option<(EraseRecipients, u64)>, EraseError> {
    let mut recipients = match payload::decode(&record.payload) {
        Ok(recipients) => recipients,
        Err(sealed @ InvalidPayload::Sealed(_)) => return Err(locked(format!("the batch {}", record.id), sealed)),
        Err(_) => {
            work.count(|counts| counts.unreadable += 1);
            return Ok(None);
        }
    };
    let (mut own, mut mentions) = (Vec::new(), 0);
    for (recipient, index) in recipients.iter_mut().zip(0..) {
        match work.erasing.take_from_recipient(recipient) {
            Taken::Nothing => {}
            Taken::Mention => mentions += 1,
            Taken::All => own.push(index),
        }
    }
    let quotes = |(delivery, index): (&postrider_store::Delivery, u32)| {
        (work.erasing.is_in(&delivery.detail) && !own.contains(&index)).then_some(index)
    };
    let details: Vec<u32> = record.recipients.iter().zip(0..).filter_map(quotes).collect();
    mentions += details.len() as u64;
    if own.is_empty() && mentions == 0 {
        return Ok(None);
    }
    let payload = payload::encode(&recipients).into();
    Ok(Some((EraseRecipients { batch: record.id, known: record.erased, recipients: own, details, payload }, mentions)))
}

/// The batch as it is now.
pub(super) async fn find(work: &Work<'_>, id: &BatchId) -> Result<Option<BatchRecord>, EraseError> {
    let after = id.sequence.saturating_sub(1);
    let found = work.core.store.batches(&id.run, after, 1).await?.into_iter().next();
    Ok(found.filter(|found| found.id == *id))
}

fn locked(what: String, why: InvalidPayload) -> EraseError {
    EraseError::Locked { what, why: why.to_string() }
}
