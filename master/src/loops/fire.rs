//! Begins the runs of schedules when they are due. Masters decide alike and from the same state, and the store lets one of
//! them have its way; what is due is a matter of the store's clock only.

use super::Trouble;
use crate::api::status::ApiError;
use crate::campaign::{self, prepare, submit};
use crate::core::Core;
use crate::schedule::{self, Decision, Occurrence, Position, Rules, Verdict};
use futures::{StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use postrider_common::campaign::Campaign;
use postrider_common::ids::RunId;
use postrider_common::limits::{CLAIM_POLL_MS, DETAIL_BYTES_MAX};
use postrider_store::{CampaignRecord, Fire, Fired, NewRun, RunRecord, Scheduled, SkipReason, Skipped, StoreError};
use std::sync::Arc;
use std::time::Duration;

/// Campaigns looked at in one step; each is read with its templates, megabytes at worst.
const CAMPAIGNS_PER_LOOK_MAX: usize = 32;
/// Of these at the same time.
const LOOKS_AT_ONCE: usize = 16;
/// A campaign that cannot run here may run at another master; after this it is passed over.
const CANNOT_RUN_FOR: SignedDuration = SignedDuration::from_mins(1);
/// How soon it is tried again.
const TRY_AGAIN: SignedDuration = SignedDuration::from_secs(5);
/// How soon a campaign that this master cannot read is looked at again. Others may be able to.
const UNREADABLE_FOR: SignedDuration = SignedDuration::from_mins(1);
/// What is decided may be ahead of a clock that was set back by less without a word.
const CLOCK_BACK: SignedDuration = SignedDuration::from_mins(1);
/// Campaigns of one page, when the time zone database has changed.
const PAGE: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    pub tick: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { tick: Duration::from_millis(CLAIM_POLL_MS) }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Campaigns that were looked at.
    pub looked: usize,
    /// Runs that were begun here.
    pub fired: u64,
    /// Occurrences that were passed over here.
    pub skipped: u64,
    /// Calculated from what another master changed meanwhile.
    pub stale: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.looked += other.looked;
        self.fired += other.fired;
        self.skipped += other.skipped;
        self.stale += other.stale;
    }
}

#[derive(Debug)]
pub struct FireDuty {
    core: Arc<Core>,
    config: Config,
}

/// What is to be done about one campaign, and said about it when it is done.
#[derive(Debug)]
pub struct Plan {
    pub fire: Fire,
    late: Duration,
}

/// The error of one campaign holds up no other.
fn noted(campaign: &str, error: &ApiError) {
    tracing::warn!(campaign, %error, "a schedule could not be looked at, trying on");
}

impl FireDuty {
    pub fn new(core: Arc<Core>, config: Config) -> Self {
        Self { core, config }
    }

    pub async fn run(self) {
        let mut trouble = Trouble::new("fire");
        while trouble.note(self.calculate_again().await).is_none() {
            if !self.core.pause(self.config.tick).await {
                return;
            }
        }
        loop {
            let counts = trouble.note(self.run_once().await).unwrap_or_default();
            let tick = if counts.fired + counts.skipped > 0 { Duration::ZERO } else { self.config.tick };
            if !self.core.pause(tick).await {
                return;
            }
        }
    }

    /// Looks at every campaign whose schedule is to be looked at.
    pub async fn run_once(&self) -> Result<Counts, StoreError> {
        let mut due = self.core.store.due_schedules(CAMPAIGNS_PER_LOOK_MAX).await?;
        // Masters that look at the same time begin elsewhere.
        if !due.campaigns.is_empty() {
            let middle = self.core.clock.random() as usize % due.campaigns.len();
            due.campaigns.rotate_left(middle);
        }
        let now_ms = due.now_ms;
        let looks = due.campaigns.iter().map(|record| async move {
            let looked = self.look(record, now_ms).await;
            looked.unwrap_or_else(|error| {
                noted(record.name.as_str(), &error);
                Counts::default()
            })
        });
        let mut counts = Counts { looked: due.campaigns.len(), ..Counts::default() };
        let mut looks = stream::iter(looks.collect::<Vec<_>>()).buffer_unordered(LOOKS_AT_ONCE);
        while let Some(one) = looks.next().await {
            counts.add(one);
        }
        Ok(counts)
    }

    async fn look(&self, record: &CampaignRecord, now_ms: i64) -> Result<Counts, ApiError> {
        let plan = match self.plan(record, now_ms).await {
            Ok(plan) => plan,
            // The shard of its last run may be away, or the storage: the others do not wait for that.
            Err(error) => {
                noted(record.name.as_str(), &error);
                let (Some(standing), now) = (&record.schedule, instant(now_ms)?) else { return Err(error) };
                self.postponed(record, standing, later(now, TRY_AGAIN))
            }
        };
        match plan {
            Some(plan) => Ok(self.perform(plan).await?),
            None => Ok(Counts::default()),
        }
    }

    /// What was calculated with another time zone database is calculated anew.
    async fn calculate_again(&self) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.core.store.campaigns(after.as_ref(), PAGE).await?;
            let now_ms = self.core.store.now_ms().await?;
            for record in &page {
                let other = |schedule: &Scheduled| schedule.zones != self.core.zones.version();
                if record.paused || !record.schedule.as_ref().is_some_and(other) {
                    continue;
                }
                if let Err(error) = self.look(record, now_ms).await {
                    noted(record.name.as_str(), &error);
                }
            }
            match page.last() {
                Some(last) => after = Some(last.name.clone()),
                None => return Ok(()),
            }
        }
    }

    /// Decides about a campaign as it was read. None: it has no schedule, or is paused.
    pub async fn plan(&self, record: &CampaignRecord, now_ms: i64) -> Result<Option<Plan>, ApiError> {
        let Some(standing) = record.schedule.as_ref().filter(|_| !record.paused) else { return Ok(None) };
        let now = instant(now_ms)?;
        let campaign = match campaign::decode(&record.spec) {
            Ok(campaign) => campaign,
            Err(error) => {
                tracing::error!(campaign = %record.name, %error, "the stored campaign cannot be read: apply it again");
                return Ok(self.postponed(record, standing, later(now, UNREADABLE_FOR)));
            }
        };
        let Some(schedule) = &campaign.schedule else {
            return Ok(self.postponed(record, standing, later(now, UNREADABLE_FOR)));
        };
        let rules = match schedule::read(schedule, campaign.name.as_str(), &self.core.zones) {
            Ok(rules) => rules,
            // Applied to a master that knows more zones than this one.
            Err(error) => {
                tracing::error!(campaign = %record.name, %error, "the schedule cannot be followed by this master");
                return Ok(self.postponed(record, standing, later(now, UNREADABLE_FOR)));
            }
        };
        let (decided_until, active_since) = (instant(standing.decided_until_ms)?, instant(standing.active_since_ms)?);
        if decided_until.duration_since(now) > CLOCK_BACK {
            tracing::warn!(campaign = %record.name, %decided_until, %now, "the store's clock is behind what was decided by it: nothing is due until then");
        }
        let is_going = match &standing.last_fired {
            Some(last) => self.core.store.run(&last.run).await?.as_ref().is_some_and(is_going),
            None => false,
        };
        let decision = rules.decide(Position { decided_until, active_since, is_going }, now);
        self.carry_out(record, standing, &campaign, &rules, decision, now).await.map(Some)
    }

    /// Looked at again then, as it is.
    fn postponed(&self, record: &CampaignRecord, standing: &Scheduled, look_at_ms: i64) -> Option<Plan> {
        let mut fire = self.nothing(record, standing)?;
        fire.look_at_ms = Some(look_at_ms);
        Some(Plan { fire, late: Duration::ZERO })
    }

    fn nothing(&self, record: &CampaignRecord, standing: &Scheduled) -> Option<Fire> {
        Some(Fire {
            campaign: record.name.clone(),
            request: self.core.request_id("fire")?,
            stamp: standing.stamp,
            decided_until_ms: standing.decided_until_ms,
            due_at_ms: standing.due_at_ms,
            look_at_ms: None,
            zones: standing.zones.clone(),
            skipped: Vec::new(),
            run: None,
            cancel: None,
        })
    }

    /// What the store is to do by a decision.
    async fn carry_out(
        &self,
        record: &CampaignRecord,
        standing: &Scheduled,
        campaign: &Campaign,
        rules: &Rules,
        decision: Decision,
        now: Timestamp,
    ) -> Result<Plan, ApiError> {
        let defect = || ApiError::Internal("no request id can be made".to_owned());
        let mut fire = self.nothing(record, standing).ok_or_else(defect)?;
        fire.zones = self.core.zones.version().to_owned();
        fire.decided_until_ms = decision.decided_until.as_millisecond();
        fire.due_at_ms = decision.next_due.map(Timestamp::as_millisecond);
        fire.look_at_ms = decision.look_at.map(Timestamp::as_millisecond);
        let skipped =
            |reason, count, at: Timestamp, why| Skipped { reason, count, nominal_at_ms: at.as_millisecond(), why };
        if let Some(missed) = decision.missed {
            fire.skipped.push(skipped(SkipReason::Missed, missed.count, missed.last, String::new()));
        }
        let previous = standing.last_fired.as_ref().map(|last| last.run.clone());
        let mut late = Duration::ZERO;
        match decision.occurrence {
            None => (),
            Some((occurrence, Verdict::Overlap)) => {
                let why = previous.map_or(String::new(), |run| run.to_string());
                fire.skipped.push(skipped(SkipReason::Overlap, 1, occurrence.at, why));
            }
            Some((occurrence, Verdict::Begin { cancel_previous })) => {
                let lateness = now.duration_since(rules.begins_at(&occurrence));
                late = Duration::try_from(lateness).unwrap_or_default();
                match self.run_of(campaign, record.version, &occurrence).await {
                    Ok(run) => {
                        fire.cancel = previous.filter(|_| cancel_previous);
                        fire.run = Some(run);
                    }
                    Err(error) if !is_for_ever(&error) => return Err(error),
                    Err(error) if lateness < CANNOT_RUN_FOR => {
                        tracing::warn!(campaign = %record.name, %error, "a run that is due cannot begin here");
                        fire = self.nothing(record, standing).ok_or_else(defect)?;
                        fire.look_at_ms = Some(later(now, TRY_AGAIN));
                    }
                    Err(error) => {
                        let why = error.to_string().chars().take(DETAIL_BYTES_MAX).collect();
                        fire.skipped.push(skipped(SkipReason::CannotRun, 1, occurrence.at, why));
                    }
                }
            }
        }
        Ok(Plan { fire, late })
    }

    /// The campaign as it is now, frozen.
    async fn run_of(&self, campaign: &Campaign, version: u64, occurrence: &Occurrence) -> Result<NewRun, ApiError> {
        let (name, nominal_at_ms) = (campaign.name.as_str(), occurrence.at.as_millisecond());
        let id: RunId = submit::scheduled_run_id(name, nominal_at_ms);
        let fingerprint = submit::fingerprint(&[name.as_bytes(), &nominal_at_ms.to_be_bytes()]);
        let run = prepare::run(&self.core, campaign, version, id, fingerprint, None).await?;
        Ok(NewRun { nominal_at_ms: Some(nominal_at_ms), ..run })
    }

    pub async fn perform(&self, plan: Plan) -> Result<Counts, StoreError> {
        let Plan { fire, late } = plan;
        let mut counts = Counts::default();
        match self.core.store.fire(fire.clone()).await? {
            Fired::Done => (),
            // Somebody else was faster, or it changed; or the clock went back. It is looked at again.
            Fired::Stale | Fired::Early | Fired::Busy => {
                counts.stale = 1;
                return Ok(counts);
            }
        }
        let campaign = &fire.campaign;
        for Skipped { reason, count, nominal_at_ms, why } in &fire.skipped {
            counts.skipped += count;
            self.core.metrics.schedules.skipped(*reason, *count);
            let (reason, last) = (reason.name(), shown(*nominal_at_ms));
            tracing::info!(%campaign, reason, count, last, why, "occurrences of a schedule passed over");
        }
        if let Some(run) = &fire.run {
            counts.fired = 1;
            self.core.metrics.schedules.fired(late);
            self.core.split_due.notify_one();
            let (nominal, late_ms) = (shown(run.nominal_at_ms.unwrap_or_default()), late.as_millis() as u64);
            let cancelled = fire.cancel.as_ref().map(RunId::as_str);
            tracing::info!(%campaign, run = %run.id, nominal, late_ms, cancelled, "run created by a schedule");
        }
        Ok(counts)
    }
}

/// Somebody of it may still be sent to.
fn is_going(run: &RunRecord) -> bool {
    !run.cancelled && !run.state().has_ended()
}

/// A retry does not help while the campaign, or the configuration, is as it is.
fn is_for_ever(error: &ApiError) -> bool {
    match error {
        ApiError::Invalid(_)
        | ApiError::TooMany { .. }
        | ApiError::NotFound(_)
        | ApiError::Conflict(_)
        | ApiError::Precondition(_)
        | ApiError::Internal(_) => true,
        ApiError::Stopping
        | ApiError::Passing(_)
        | ApiError::Store(_)
        | ApiError::Storage(_)
        | ApiError::History(_) => false,
    }
}

fn instant(ms: i64) -> Result<Timestamp, ApiError> {
    Timestamp::from_millisecond(ms)
        .map_err(|_| ApiError::Internal(format!("{ms} ms since 1970 is not in the years 1 to 9999")))
}

fn later(now: Timestamp, by: SignedDuration) -> i64 {
    now.saturating_add(by).unwrap_or(now).as_millisecond()
}

fn shown(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or(String::new(), |at| at.to_string())
}

#[cfg(test)]
#[path = "fire_tests.rs"]
mod tests;
