//! Acts on one leased split: reads the audience, lets the splitter decide, stores step after step.
//!
//! The position in the store is the only one that counts. Whatever ends this (a stop, a lost lease, a
//! storage that does not answer) leaves a split that another master goes on with, with the same batches.

use super::survey::Survey;
use super::waves::Waves;
use super::{Plan, Splitter};
use crate::audience::read::{self, Rows};
use crate::audience::{ReadError, Row};
use crate::core::Core;
use crate::erase;
use crate::fetch::pin::Holding;
use crate::lease::gate::LANE_HOLDS_MS_MAX;
use crate::schedule::{Hours, State, TimeZone};
use crate::suppress::{self, Found, Mail, SuppressError};
use futures::future::join_all;
use postrider_common::erasure::Erasing;
use postrider_common::ids::{BatchId, LaneName};
use postrider_common::payload::InvalidPayload;
use postrider_common::run::RunError;
use postrider_common::seal::Header;
use postrider_store::{AddBatches, NewBatch, ReleaseSplit, RunRecord, SplitLease, SplitStatus, StoreError};
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

/// How often a split that is far enough ahead looks whether it still is.
const AHEAD_POLL: Duration = Duration::from_millis(250);
/// After how long a split is due again that could not read its audience.
const STORAGE_RETRY_MS: u64 = 2_000;
/// After how long a split is due again that made room for another one.
const ROOM_RETRY_MS: u64 = 5_000;

/// So long before a wave its split is there again: as long as reading a large audience up to the position may take. Then it
/// is held, since what waits for the wave lasts for a while once it begins.
const WAVE_LEAD_MS: u64 = 60_000;

/// How the work on a lease ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The audience is in batches.
    Complete,
    /// Somebody else has it, or the run was cancelled or failed.
    Dropped,
    /// Given back for later.
    GivenBack { delay_ms: u64 },
    /// The run failed with this.
    Failed(RunError),
}

/// Why rows are not taken any further now.
pub(crate) enum Halt {
    Ended(Ended),
    Read(ReadError),
}

impl From<ReadError> for Halt {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// Works until the split is complete or must be left. `room_is_short` tells whether other splits wait
/// for this one to give way while it is only waiting.
pub async fn work(core: &Core, lease: SplitLease, room_is_short: impl Fn() -> bool + Send) -> Ended {
    let run = lease.run.clone();
    let (run_id, fence) = (lease.run.clone(), lease.fence.clone());
    tracing::info!(%run, cursor = lease.cursor, "split begun");
    let halt = match Work::begin(core, lease).await {
        Ok(mut work) => match work.all(&room_is_short).await {
            Ok(ended) => Halt::Ended(ended),
            Err(halt) => halt,
        },
        Err(halt) => halt,
    };
    let give_back = |delay_ms, error| ReleaseSplit { run: run_id, fence, delay_ms, error };
    let ended = match halt {
        Halt::Ended(ended) => ended,
        Halt::Read(ReadError::Run(error)) => Ended::Failed(error),
        Halt::Read(ReadError::Storage(error)) => {
            tracing::warn!(%run, error, "audience not readable, trying again later");
            Ended::GivenBack { delay_ms: STORAGE_RETRY_MS }
        }
    };
    let release = match &ended {
        Ended::Complete | Ended::Dropped => None,
        Ended::GivenBack { delay_ms } => Some(give_back(*delay_ms, None)),
        Ended::Failed(error) => Some(give_back(0, Some(error.clone()))),
    };
    if let Some(release) = release {
        // When it fails for good, the lease expires and the split is due again all the same.
        let _ = retried(core, "release_split", || core.store.release_split(release.clone())).await;
    }
    match &ended {
        Ended::Failed(error) => tracing::warn!(%run, code = error.code, error = error.message, "run failed"),
        Ended::Complete => tracing::info!(%run, "split complete"),
        Ended::Dropped => tracing::info!(%run, "split left to its new owner or ended run"),
        Ended::GivenBack { delay_ms } => tracing::info!(%run, delay_ms, "split given back"),
    }
    ended
}

struct Work<'a> {
    core: &'a Core,
    plan: Plan,
    /// When the run was due.
    nominal_at_ms: i64,
    /// For whose mail it is asked who is not sent to.
    lane: LaneName,
    campaign: String,
    /// When its sending may begin.
    hours: Hours,
    /// … and that of its lane, which may be changed.
    lane_hours: Hours,
    /// Who must not come in.
    erasing: Vec<Erasing>,
    splitter: Splitter,
    /// When the lease must have been extended: a third of its time.
    extend_at: Instant,
    ttl_ms: u64,
}

impl<'a> Work<'a> {
    async fn begin(core: &'a Core, lease: SplitLease) -> Result<Self, Halt> {
        let ttl_ms = core.lease.ttl_ms();
        let extend_at = Instant::now() + Duration::from_millis(lease.ttl_ms.min(ttl_ms) / 3);
        let Some(run) = retried(core, "run", || core.store.run(&lease.run)).await.ok().flatten() else {
            return Err(Halt::Ended(Ended::Dropped));
        };
        if let Some((header, _)) = Header::read(&run.audience) {
            let sealed = InvalidPayload::Sealed(header.key);
            return Err(ReadError::Storage(format!("the audience of the run: {sealed}")).into());
        }
        let plan = Plan::decode(&run.audience).map_err(|error| {
            ReadError::run(
                "audience_unreadable",
                format!("what is stored about the audience cannot be read: {error}"),
                "cancel this run and start a new one",
            )
        })?;
        // Asked after the split was claimed: whoever asks for an erasure later takes it away again.
        let Ok(erasing) = retried(core, "open_erasures", || erase::erasing(&*core.store)).await else {
            return Err(Halt::Ended(Ended::GivenBack { delay_ms: STORAGE_RETRY_MS }));
        };
        let mut holding = Holding::of(core, &lease, extend_at);
        let plan = holding.plan(plan, &erasing).await?;
        let extend_at = holding.extend_at;
        let sites = core.sites.clone();
        let splitter = Splitter::resume(&lease, sites, plan.on_bad_row, erasing.clone(), plan.local.as_ref())?;
        let hours = Hours::new(&plan.windows, &core.zones).unwrap_or_default();
        let lane_hours = core.lane_hours.get(&run.lane).map(|lane| lane.hours.clone()).unwrap_or_default();
        Ok(Self {
            core,
            plan,
            nominal_at_ms: run.nominal_at_ms,
            lane: run.lane,
            campaign: run.campaign,
            hours,
            lane_hours,
            erasing,
            splitter,
            extend_at,
            ttl_ms,
        })
    }

    /// Until when what is placed now is held. None: it is not. The lane's hours may be changed meanwhile.
    fn held_until(&self, now_ms: i64) -> Option<i64> {
        let clock = self.splitter.waves().map_or("", Waves::clock);
        let clocks = [self.core.zones.find(clock).unwrap_or(TimeZone::UTC)];
        let until = |hours: &Hours| match hours.at(now_ms, &clocks) {
            State::Open { .. } => None,
            State::Closed { until_ms } => Some(until_ms),
        };
        let of_lane = until(&self.lane_hours).map(|at| at.min(now_ms.saturating_add_unsigned(LANE_HOLDS_MS_MAX)));
        until(&self.hours).max(of_lane)
    }

    async fn all(&mut self, room_is_short: &(impl Fn() -> bool + Send)) -> Result<Ended, Halt> {
        if self.splitter.needs_survey() {
            self.survey().await?;
        } else if self.splitter.begins_pass() {
            self.wait_while_ahead(room_is_short).await?;
        } else if self.splitter.waves().is_some()
            && let Some(delay_ms) = self.is_ahead().await?.and_then(|ahead| ahead.comes_back_in_ms)
        {
            // What there was to do for the next wave is done: not even a row need be read.
            return Ok(Ended::GivenBack { delay_ms });
        }
        while !self.splitter.is_complete() {
            let mut rows = read::open(&self.core.storage, &self.plan.audience).await?;
            while let Some(rows) = self.next(&mut rows).await? {
                self.take(rows, room_is_short).await?;
            }
            self.splitter.end()?;
            while self.splitter.is_ending() {
                self.store_step().await?;
            }
            if !self.splitter.is_complete() {
                self.wait_while_ahead(room_is_short).await?;
            }
        }
        Ok(Ended::Complete)
    }

    /// Finds out which waves there are, and stores that.
    async fn survey(&mut self) -> Result<(), Halt> {
        let Some(local) = &self.plan.local else { return Ok(()) };
        let erasing = self.erasing.clone();
        let mut survey = Survey::begin(local, self.nominal_at_ms, &self.core.zones, self.plan.on_bad_row, erasing)?;
        let mut rows = read::open(&self.core.storage, &self.plan.audience).await?;
        while let Some(rows) = self.next(&mut rows).await? {
            rows.into_iter().try_for_each(|row| survey.take(row))?;
        }
        let surveyed = survey.end()?;
        let waves = &surveyed.waves;
        tracing::info!(run = %self.splitter.run(), waves = waves.waves.len(), rows = waves.rows, "waves known");
        let instants: Vec<i64> = waves.waves.iter().map(|wave| wave.at_ms).collect();
        if let Err(error) = self.core.storage.note_waves(self.splitter.run(), &instants).await {
            return Err(ReadError::Storage(error.to_string()).into());
        }
        self.splitter.begin_waves(surveyed);
        self.store_step().await
    }

    /// The next rows; none: that was all. Meanwhile the lease is kept.
    async fn next(&mut self, rows: &mut Rows) -> Result<Option<Vec<Row>>, Halt> {
        loop {
            tokio::select! {
                biased;
                () = self.core.stopping.cancelled() => {
                    let ended = self.stop().await?;
                    return Err(Halt::Ended(ended));
                }
                () = tokio::time::sleep_until(self.extend_at) => self.store_step().await?,
                chunk = rows.next() => return Ok(chunk?),
            }
        }
    }

    async fn take(&mut self, rows: Vec<Row>, room_is_short: &(impl Fn() -> bool + Send)) -> Result<(), Halt> {
        for row in rows {
            self.splitter.take(row)?;
            if self.splitter.step_is_full() {
                self.store_step().await?;
                self.wait_while_ahead(room_is_short).await?;
            }
        }
        Ok(())
    }

    /// Stores what was taken since the last step; with nothing new it only extends the lease.
    async fn store_step(&mut self) -> Result<(), Halt> {
        let add = self.splitter.step(self.ttl_ms);
        self.store(add).await
    }

    async fn store(&mut self, mut add: AddBatches) -> Result<(), Halt> {
        let asked_at = Instant::now();
        let found = self.suppressed(&mut add.batches).await?;
        let status = retried(self.core, "add_batches", || self.core.store.add_batches(add.clone())).await;
        match status {
            Ok(SplitStatus::Done) => {
                self.extend_at = asked_at + Duration::from_millis(self.ttl_ms / 3);
                self.suppress(found).await;
                Ok(())
            }
            Ok(SplitStatus::Lost | SplitStatus::Stopped) | Err(_) => Err(Halt::Ended(Ended::Dropped)),
        }
    }

    /// Who of these is not sent to.
    async fn suppressed(&self, batches: &mut [NewBatch]) -> Result<Vec<Found>, Halt> {
        let mail = Mail { lane: &self.lane, campaign: &self.campaign };
        let mut failures = 0;
        loop {
            let error = match suppress::before_adding(self.core, batches, mail).await {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            let is_retryable = matches!(&error, SuppressError::Store(error) if error.is_retryable());
            if !is_retryable || !self.core.pause(self.core.retry_delay(failures)).await {
                return Err(Halt::Read(ReadError::Storage(error.to_string())));
            }
            failures += 1;
        }
    }

    /// They end in the batches that have just been stored. What this fails at, or a crash leaves out, is found when the batch is
    /// leased: it was not marked as looked at.
    async fn suppress(&self, found: Vec<Found>) {
        let run = self.splitter.run().clone();
        let each = found.into_iter().map(|found| {
            let batch = BatchId { run: run.clone(), sequence: found.sequence };
            suppress::tell(self.core, batch, None, found.checked, found.recipients)
        });
        for told in join_all(each).await {
            if let Err(error) = told {
                tracing::debug!(%run, %error, "who is suppressed in a new batch is told when it is leased");
            }
        }
    }

    /// Far enough ahead of the workers: waits with the lease kept, or gives way when room is short or it is a long time.
    async fn wait_while_ahead(&mut self, room_is_short: &(impl Fn() -> bool + Send)) -> Result<(), Halt> {
        while let Some(ahead) = self.is_ahead().await? {
            if let Some(delay_ms) = ahead.comes_back_in_ms {
                return Err(Halt::Ended(Ended::GivenBack { delay_ms }));
            }
            if room_is_short() {
                return Err(Halt::Ended(Ended::GivenBack { delay_ms: ROOM_RETRY_MS }));
            }
            if !self.core.pause(AHEAD_POLL).await {
                let ended = self.stop().await?;
                return Err(Halt::Ended(ended));
            }
            if Instant::now() >= self.extend_at {
                self.store_step().await?;
            }
        }
        Ok(())
    }

    /// None: it is not.
    async fn is_ahead(&self) -> Result<Option<Ahead>, Halt> {
        let run = self.splitter.run();
        let record: Option<RunRecord> = match retried(self.core, "run", || self.core.store.run(run)).await {
            Ok(record) => record,
            Err(_) => return Err(Halt::Ended(Ended::Dropped)),
        };
        let batches = match record {
            Some(run) if run.cancelled || run.error.is_some() => return Err(Halt::Ended(Ended::Dropped)),
            Some(run) => run.batches,
            None => return Err(Halt::Ended(Ended::Dropped)),
        };
        let most = self.core.split_ahead_batches;
        let has_hours = !self.hours.is_empty() || !self.lane_hours.is_empty();
        if self.splitter.waves().is_none() && !has_hours {
            return Ok(Ahead::of(batches.ready, (0, None), 0, most));
        }
        let Ok(now) = retried(self.core, "now", || self.core.store.now_ms()).await else {
            return Err(Halt::Ended(Ended::Dropped));
        };
        if let Some(until) = self.held_until(now).filter(|_| has_hours) {
            // Whether they are among the ready ones or the delayed ones: nobody takes them before it opens.
            return Ok(Ahead::of(0, (batches.ready + batches.delayed, Some(until)), now, most));
        }
        let waiting = self.splitter.waves().map_or((0, None), |waves| waves.waiting(now));
        Ok(Ahead::of(batches.ready, waiting, now, most))
    }

    /// The master stops: what was read so far is stored, the rest is for another one.
    async fn stop(&mut self) -> Result<Ended, Halt> {
        if !self.splitter.is_behind_position() {
            self.store_step().await?;
        }
        Ok(Ended::GivenBack { delay_ms: 0 })
    }
}

/// A split that is far enough ahead of the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ahead {
    /// Nothing changes for so long: until shortly before the next wave.
    comes_back_in_ms: Option<u64>,
}

impl Ahead {
    /// `waiting`: batches whose wave is to come, and when the next of these comes.
    fn of(ready: u64, waiting: (u64, Option<i64>), now_ms: i64, most: u64) -> Option<Self> {
        let (waiting, next_at_ms) = waiting;
        if ready.saturating_add(waiting) < most {
            return None;
        }
        let is_only_waiting = waiting >= most;
        let left_ms = next_at_ms.filter(|_| is_only_waiting).map(|at| u64::try_from(at - now_ms).unwrap_or(0));
        Some(Self {
            comes_back_in_ms: left_ms.and_then(|left| left.checked_sub(WAVE_LEAD_MS)).filter(|left| *left > 0),
        })
    }
}

/// Calls until the store answers, with growing delays. The call is the same each time, so a call that
/// happened and was not answered is answered as the first time. An error: retrying does not help, or the
/// master stops.
pub(crate) async fn retried<T, F>(core: &Core, what: &'static str, call: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut failures = 0;
    loop {
        let error = match call().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        if failures == 0 {
            tracing::warn!(what, %error, "store call failed while splitting");
        }
        if !error.is_retryable() || !core.pause(core.retry_delay(failures)).await {
            return Err(error);
        }
        failures += 1;
    }
}
