//! Fetches under a leased split: the source into a snapshot, the snapshot into the plan of the run.
//!
//! The lease is extended meanwhile, and whatever takes it away (a pause of the machine, a cancel, an erasure) ends this with
//! nothing of it in the run. Until the store has pinned the snapshot nobody reads it.

use super::pieces::{Piece, Pieces};
use super::snapshot::{Refused, Snapshot};
use super::{FetchError, Fetcher};
use crate::audience::ReadError;
use crate::core::Core;
use crate::erase::Scrubber;
use crate::split::Plan;
use crate::split::work::{Ended, Halt, retried};
use crate::storage::{Fetched, StorageError};
use postrider_common::campaign::{Audience, AudienceFormat, Source};
use postrider_common::erasure::Erasing;
use postrider_common::ids::{Fence, RunId};
use postrider_store::{AddBatches, PinAudience, Shared, SplitLease, SplitStatus};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// Tries at a source that cannot be reached, and the pause before the second; each further one is twice as long.
const ATTEMPTS_MAX: u32 = 6;
const ATTEMPT_PAUSE: Duration = Duration::from_secs(1);
/// Of one attempt, whatever the source says of itself. Below the age at which unfinished uploads are swept.
const ATTEMPT_MAX: Duration = Duration::from_hours(12);
/// After how long a split is due again that waits for an erasure to end.
const ERASURE_RETRY_MS: u64 = 2_000;

/// A split that is held while its rows are not read yet.
#[derive(Debug)]
pub(crate) struct Holding<'a> {
    core: &'a Core,
    run: RunId,
    fence: Fence,
    ttl_ms: u64,
    /// When the lease must have been extended.
    pub extend_at: Instant,
}

impl<'a> Holding<'a> {
    pub fn of(core: &'a Core, lease: &SplitLease, extend_at: Instant) -> Self {
        let (run, fence) = (lease.run.clone(), lease.fence.clone());
        Self { core, run, fence, ttl_ms: core.lease.ttl_ms(), extend_at }
    }

    /// The plan to split by: this one, or that of what was fetched for it.
    pub async fn plan(&mut self, mut plan: Plan, erasing: &[Erasing]) -> Result<Plan, Halt> {
        if !plan.audience.source.is_fetched() {
            return Ok(plan);
        }
        let before = self.fetched_before().await?;
        let fetched = match &before {
            Some(fetched) => fetched.clone(),
            None => self.fetch(&plan.audience, erasing).await?,
        };
        plan.audience.source = Source::Stored { sha256: fetched.sha256.clone(), format: fetched.form.format };
        plan.audience.text = fetched.form.text.clone();
        self.pin(&plan).await?;
        if before.is_none() {
            // Not earlier: what is not pinned may have an address that was erased meanwhile.
            let storage = &self.core.storage;
            storage.note_fetched(&self.run, &fetched).await.map_err(unwritten)?;
        }
        Ok(plan)
    }

    /// And pinned in a store that went back since: the batches that may have been made of it are made again, and not others
    /// with their numbers.
    async fn fetched_before(&mut self) -> Result<Option<Fetched>, Halt> {
        let storage = &self.core.storage;
        let Some(fetched) = storage.fetched(&self.run).await.map_err(unwritten)? else { return Ok(None) };
        self.keep(&fetched.sha256).await?;
        Ok(storage.has_audience(&fetched.sha256).await.map_err(unwritten)?.then_some(fetched))
    }

    async fn fetch(&mut self, audience: &Audience, erasing: &[Erasing]) -> Result<Fetched, Halt> {
        let settings = &self.core.sources;
        let fetcher = super::open(settings, &self.core.clock, audience).map_err(failed)?;
        let Some(fetcher) = fetcher else {
            return Err(ReadError::Storage("the source of the run is read as it is".into()).into());
        };
        let mut failures = 0;
        loop {
            tracing::info!(run = %self.run, attempt = failures + 1, "fetching the audience");
            let error = match self.attempt(&fetcher, audience, erasing).await {
                Ok(fetched) => return Ok(fetched),
                Err(Refused::Storage(error)) => return Err(unwritten(error)),
                Err(Refused::Halt(halt)) => return Err(halt),
                Err(Refused::Fetch(error)) => error,
            };
            failures += 1;
            if !error.passes || failures == ATTEMPTS_MAX {
                return Err(failed(error));
            }
            let (code, why) = (&error.error.code, &error.error.message);
            tracing::warn!(run = %self.run, code, error = why, "audience not fetched, trying again");
            let pause = ATTEMPT_PAUSE * 2_u32.pow(failures - 1);
            self.hold(tokio::time::sleep(pause)).await?;
        }
    }

    async fn attempt(
        &mut self,
        fetcher: &Arc<dyn Fetcher>,
        audience: &Audience,
        erasing: &[Erasing],
    ) -> Result<Fetched, Refused> {
        let form = fetcher.form();
        let scrubber = match (&form.format, erasing) {
            (_, []) => None,
            (AudienceFormat::Ndjson, erasing) => Some(Scrubber::new(erasing, audience)),
            // Rows of other forms are not looked into here: soon there is nothing to look for.
            (AudienceFormat::Csv, _) => {
                return Err(Halt::Ended(Ended::GivenBack { delay_ms: ERASURE_RETRY_MS }).into());
            }
        };
        let mut snapshot = Snapshot::begin(self.core, &form, scrubber).await?;
        match self.fill(fetcher, &mut snapshot).await {
            Ok(sha256) => {
                snapshot.finish().await?;
                Ok(Fetched { sha256, form })
            }
            Err(error) => {
                snapshot.abort().await;
                Err(error)
            }
        }
    }

    /// Writes all of the source. Its name, for which it is safe from being swept.
    async fn fill(&mut self, fetcher: &Arc<dyn Fetcher>, snapshot: &mut Snapshot) -> Result<String, Refused> {
        let begun_at = Instant::now();
        let (mut pieces, taken) = Pieces::channel();
        let fetcher = Arc::clone(fetcher);
        // Of its own, so that reading and writing go on at the same time.
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            fetcher.fetch(&mut pieces).await?;
            pieces.flush().await?;
            Ok(pieces.rows())
        }));
        let reading = async {
            let defect = |error: JoinError| {
                FetchError::lasting(
                    "source_defect",
                    format!("reading the source ended by a defect: {error}"),
                    "report it",
                )
            };
            task.await.map_err(defect).flatten().map_err(Refused::Fetch)
        };
        // Who cannot write ends the reading.
        let both = async { tokio::try_join!(reading, write(snapshot, taken)) };
        let too_long = || {
            let hours = ATTEMPT_MAX.as_secs() / 3600;
            let mend = "make it quicker, or give less at once, then resume the run";
            FetchError::lasting("source_timeout", format!("the source was not read within {hours} h"), mend)
        };
        let ended = self.hold(tokio::time::timeout(ATTEMPT_MAX, both)).await?;
        let (rows, ()) = ended.map_err(|_| Refused::Fetch(too_long()))??;
        let sha256 = snapshot.end().await?;
        self.keep(&sha256).await?;
        self.extend().await?;
        let (bytes, ms) = (snapshot.size_bytes(), begun_at.elapsed().as_millis() as u64);
        tracing::info!(run = %self.run, audience = sha256, rows, bytes, ms, "audience fetched");
        Ok(sha256)
    }

    /// Before it is there under its name: from here on it is not swept.
    async fn keep(&self, sha256: &str) -> Result<(), Halt> {
        let shared = || vec![Shared::Audience(sha256.to_owned())];
        retried(self.core, "keep", || self.core.store.keep(shared())).await.map_err(|_| Halt::Ended(Ended::Dropped))
    }

    async fn pin(&mut self, plan: &Plan) -> Result<(), Halt> {
        let audience = plan.encode().map_err(|error| ReadError::Storage(error.to_string()))?;
        let (run, fence) = (self.run.clone(), self.fence.clone());
        let pin = PinAudience { run, fence, audience, ttl_ms: self.ttl_ms };
        let asked_at = Instant::now();
        let status = retried(self.core, "pin_audience", || self.core.store.pin_audience(pin.clone())).await;
        self.held(status.ok(), asked_at)
    }

    /// Waits for it and keeps the lease meanwhile. Ends early when the master stops or the lease is lost.
    async fn hold<T>(&mut self, waiting: impl Future<Output = T>) -> Result<T, Halt> {
        let mut waiting = pin!(waiting);
        loop {
            tokio::select! {
                biased;
                () = self.core.stopping.cancelled() => return Err(Halt::Ended(Ended::GivenBack { delay_ms: 0 })),
                () = tokio::time::sleep_until(self.extend_at) => self.extend().await?,
                done = &mut waiting => return Ok(done),
            }
        }
    }

    /// A step that adds nothing is a sign of life.
    async fn extend(&mut self) -> Result<(), Halt> {
        let add = AddBatches {
            run: self.run.clone(),
            fence: self.fence.clone(),
            cursor: 0,
            cursor_next: 0,
            batches: Vec::new(),
            open: Vec::new(),
            bad_rows: 0,
            repeated_rows: 0,
            bad_row_samples: Vec::new(),
            complete: false,
            ttl_ms: self.ttl_ms,
        };
        let asked_at = Instant::now();
        let status = retried(self.core, "add_batches", || self.core.store.add_batches(add.clone())).await;
        self.held(status.ok(), asked_at)
    }

    fn held(&mut self, status: Option<SplitStatus>, asked_at: Instant) -> Result<(), Halt> {
        match status {
            Some(SplitStatus::Done) => {
                self.extend_at = asked_at + Duration::from_millis(self.ttl_ms / 3);
                Ok(())
            }
            Some(SplitStatus::Lost | SplitStatus::Stopped) | None => Err(Halt::Ended(Ended::Dropped)),
        }
    }
}

async fn write(snapshot: &mut Snapshot, mut pieces: mpsc::Receiver<Piece>) -> Result<(), Refused> {
    while let Some(piece) = pieces.recv().await {
        snapshot.write(piece).await?;
    }
    Ok(())
}

fn failed(error: FetchError) -> Halt {
    ReadError::Run(error.error).into()
}

fn unwritten(error: StorageError) -> Halt {
    ReadError::Storage(format!("failed to {error}")).into()
}
