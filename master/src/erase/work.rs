//! One erasure in hand: step after step, with what is done noted in the store.

use super::request::{Counts, LEFT_MAX, Request, Step};
use super::{EraseError, audiences, names, runs, segments};
use crate::core::Core;
use postrider_common::erasure::Erasing;
use postrider_common::ids::ErasureId;
use postrider_store::{ErasureRecord, WriteErasure};
use std::time::Duration;

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worked {
    Done,
    /// Somebody else works on it.
    Held,
}

/// An erasure that nobody else works on.
#[derive(Debug)]
pub struct Work<'a> {
    pub(super) core: &'a Core,
    pub(super) erasing: Erasing,
    pub(super) request: Request,
    id: ErasureId,
    version: u64,
    hold: Duration,
    /// When it was noted last (of a clock that never steps).
    noted_at_ms: u64,
    /// Before it ends as a master does that is killed.
    #[cfg(test)]
    pub(super) steps_left: u32,
}

impl<'a> Work<'a> {
    /// Takes it. None: somebody has it, or it is done.
    pub async fn take(core: &'a Core, record: ErasureRecord, hold: Duration) -> Result<Option<Self>, EraseError> {
        let request = Request::decode(&record)?;
        let Some(erasing) = request.erasing(&record.id) else { return Ok(None) };
        let ErasureRecord { id, version, .. } = record;
        let mut work = Self {
            core,
            erasing,
            request,
            id,
            version,
            hold,
            noted_at_ms: 0,
            #[cfg(test)]
            steps_left: u32::MAX,
        };
        Ok(work.write(true, hold).await?.then_some(work))
    }

    /// All of it, from where it is.
    pub async fn all(mut self) -> Result<Worked, EraseError> {
        match self.steps().await {
            Ok(()) => {
                let counts = self.request.counts;
                tracing::info!(
                    erasure = %self.id,
                    recipients = counts.recipients,
                    rows = counts.rows,
                    mentions = counts.mentions,
                    unreadable = counts.unreadable,
                    left = self.request.left.len(),
                    "an address is erased"
                );
                Ok(Worked::Done)
            }
            Err(EraseError::Lost) => Ok(Worked::Held),
            Err(error) => {
                // Others may go on at once; if that fails as well, when the hold is over.
                let _ = self.write(false, Duration::ZERO).await;
                Err(error)
            }
        }
    }

    pub(super) async fn steps(&mut self) -> Result<(), EraseError> {
        loop {
            match self.request.step.clone() {
                Step::Runs { again, until, newest, before, within } => {
                    let pass = runs::Pass { again, until, newest, before, within };
                    let (newest, found) = runs::all(self, pass).await?;
                    if found.is_none() {
                        self.wait_for_the_forgotten().await?;
                        return self.end().await;
                    }
                    self.go_on(Step::Audiences { newest, after: String::new() }).await?;
                }
                Step::Audiences { newest, after } => {
                    // Whoever makes an audience of others meanwhile and sees this begins again, see `list::change`; whoever
                    // does not has an audience that is there when they are listed.
                    self.core.storage.note_pass(self.core.random_wide()).await?;
                    let names = names::look(self).await?;
                    audiences::all(self, &names, &newest, after).await?;
                    self.go_on(Step::Segments { newest, folder: 0 }).await?;
                }
                Step::Segments { newest, folder } => {
                    segments::all(self, &newest, folder).await?;
                    // Runs that came meanwhile.
                    self.go_on(Step::Runs { again: true, until: newest, newest: None, before: None, within: None })
                        .await?;
                }
            }
        }
    }

    /// Before anything is written anywhere: here a master may end.
    pub(super) fn step(&mut self) -> Result<(), EraseError> {
        #[cfg(test)]
        {
            self.steps_left = self.steps_left.checked_sub(1).ok_or(EraseError::Stopping)?;
        }
        if self.core.stopping.is_cancelled() { Err(EraseError::Stopping) } else { Ok(()) }
    }

    pub(super) fn count(&mut self, by: impl FnOnce(&mut Counts)) {
        by(&mut self.request.counts);
    }

    /// The owner of this must see to it.
    pub(super) fn leave(&mut self, what: String) {
        if self.request.left.len() < LEFT_MAX && !self.request.left.contains(&what) {
            self.request.left.push(what);
        }
    }

    /// Notes how far it is, and keeps it for another while.
    pub(super) async fn go_on(&mut self, step: Step) -> Result<(), EraseError> {
        self.request.step = step;
        self.note().await
    }

    /// Before anything is written over in the storage: it must be nobody else's for longer than a write takes.
    pub(super) async fn be_sure(&mut self) -> Result<(), EraseError> {
        self.step()?;
        let age = Duration::from_millis(self.core.clock.boot_ms().saturating_sub(self.noted_at_ms));
        if age < self.hold / 3 { Ok(()) } else { self.note().await }
    }

    async fn note(&mut self) -> Result<(), EraseError> {
        self.step()?;
        if self.write(false, self.hold).await? { Ok(()) } else { Err(EraseError::Lost) }
    }

    /// Batches of runs that are forgotten are in no list, and go by themselves within moments.
    async fn wait_for_the_forgotten(&mut self) -> Result<(), EraseError> {
        for _ in 0..FORGOTTEN_LOOKS_MAX {
            if self.core.store.runs_to_forget(1).await?.is_empty() {
                return Ok(());
            }
            if !self.core.pause(FORGOTTEN_PAUSE).await {
                return Err(EraseError::Stopping);
            }
            self.be_sure().await?;
        }
        // One that cannot be read is never gone.
        self.count(|counts| counts.unreadable += 1);
        Ok(())
    }

    async fn end(&mut self) -> Result<(), EraseError> {
        self.request.done_at_ms = Some(self.core.store.now_ms().await?);
        self.request.address = None;
        self.request.step = Step::default();
        self.note().await
    }

    async fn write(&mut self, takes: bool, hold: Duration) -> Result<bool, EraseError> {
        let noted_at_ms = self.core.clock.boot_ms();
        let open = self.request.address.is_some();
        let write = WriteErasure {
            id: self.id.clone(),
            version: self.version,
            by: self.core.request_id("erase").ok_or(EraseError::Lost)?,
            takes,
            hold_ms: if open { u64::try_from(hold.as_millis()).unwrap_or(u64::MAX) } else { 0 },
            open,
            body: self.request.encode()?,
        };
        let mut failures = 0;
        // The same call each time: one that happened and was not answered is answered as the first time.
        let written = loop {
            match self.core.store.write_erasure(write.clone()).await {
                Err(error) if error.is_retryable() && failures < RETRIES_MAX => {
                    if !self.core.pause(self.core.retry_delay(failures)).await {
                        return Err(EraseError::Stopping);
                    }
                    failures += 1;
                }
                answer => break answer?,
            }
        };
        let Some(version) = written else { return Ok(false) };
        (self.version, self.noted_at_ms) = (version, noted_at_ms);
        Ok(true)
    }
}

/// Runs that are being forgotten are waited for, for two minutes.
const FORGOTTEN_LOOKS_MAX: u32 = 600;
const FORGOTTEN_PAUSE: Duration = Duration::from_millis(200);
/// Of one call to the store, before it is left for later.
const RETRIES_MAX: u32 = 5;
