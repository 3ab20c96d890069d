//! What holders of leases say: checkpoint, finish, release, and facts from those that hold none.

use super::Model;
use super::batch::{Hold, Place};
use super::recipient::{Entry, Policy, Source};
use crate::api::{Checkpoint, Finish, GrantSpan, Release};
use postrider_common::ids::BatchId;
use postrider_common::lease::{
    Fact, FactStatus, LeaseAnswer, LeaseReport, LeaseStatus, Outcome, OutcomeKind, RefusalReason,
};
use postrider_common::limits::{DOUBTS_MAX, TRANSACTION_MS_MAX};
use postrider_common::pace::Limits;
use postrider_common::sabotage::{Fault, planted};
use postrider_common::state::{RecipientState, UnknownReason};

/// What a checkpoint was called with, beside its reports.
struct Terms<'a> {
    ttl_ms: u64,
    window: u32,
    fraction: u32,
    limits: &'a Limits,
    grants: Option<GrantSpan>,
}

/// What becomes of those who are pending when a lease is ended by its holder.
#[derive(Debug, Clone, Copy)]
enum Rest {
    AsItIs,
    /// The batch is not due before.
    NotBefore(i64),
    /// Those in intent become in doubt.
    Abandoned {
        grace_ms: u64,
    },
}

impl Hold {
    /// `base`: fences of epochs before it are stale, because the store went back.
    fn is_of(&self, report: &LeaseReport, base: u64) -> bool {
        (self.fence == report.fence && self.fence.epoch >= base) || planted(Fault::IgnoreFences)
    }
}

impl Model {
    pub fn checkpoint(&mut self, now: i64, checkpoint: Checkpoint) -> Vec<LeaseAnswer> {
        let Checkpoint { worker: _, reports, ttl_ms, window, retry_fraction, limits, grants } = checkpoint;
        self.meters.touch(now, &limits);
        let terms = Terms { ttl_ms, window, fraction: retry_fraction, limits: &limits, grants };
        let answer = |report| self.checkpoint_one(now, report, &terms);
        reports.into_iter().map(answer).collect()
    }

    fn checkpoint_one(&mut self, now: i64, report: LeaseReport, terms: &Terms<'_>) -> LeaseAnswer {
        let id = report.batch.clone();
        let seen = match self.take_report(now, &report, terms.fraction) {
            Ok(seen) => seen,
            Err(status) => return LeaseAnswer::plain(id, status),
        };
        let mut answer = LeaseAnswer::plain(id.clone(), LeaseStatus::Held);
        let limited = self.is_limited(&id, terms.limits) || self.is_counted(&id);
        self.recount(&id, limited);
        let mut throttled = 0;
        for index in &report.intents {
            // A late copy of a report must not take back with its outcome what it granted with its intent.
            let settled_here = report.outcomes.iter().any(|outcome| outcome.index == *index);
            let granted = match settled_here {
                true => Err(RefusalReason::Repeated),
                false => self.grant(now, &id, *index, terms, (report.sequence > seen, throttled + 1)),
            };
            match granted {
                Ok(()) => answer.granted.push(*index),
                Err(reason) => {
                    throttled += u64::from(matches!(reason, RefusalReason::Throttled { .. }));
                    answer.refused.push((*index, reason));
                }
            }
        }
        self.recount(&id, limited);
        if answer.refused.iter().any(|(_, reason)| *reason == RefusalReason::Unchecked) {
            // The same report is made again once it is checked.
            self.unsee(&id, seen);
        }
        answer.ttl_ms = self.extend(now, &id, terms.ttl_ms);
        answer
    }

    fn unsee(&mut self, id: &BatchId, sequence: u64) {
        if let Some(Place::Leased(hold)) = self.batches.get_mut(id).map(|batch| &mut batch.place) {
            hold.sequence = sequence;
        }
    }

    /// Takes the outcomes of a report. Ok: the lease is held, and this sequence was the last one before.
    fn take_report(&mut self, now: i64, report: &LeaseReport, fraction: u32) -> Result<u64, LeaseStatus> {
        if !self.runs.contains_key(&report.batch.run) || !self.batches.contains_key(&report.batch) {
            return Err(LeaseStatus::Gone);
        }
        self.lineage.grow();
        let suspected = self.suspect(now, &report.batch);
        let base = self.lineage.base;
        let hold = match self.batches.get_mut(&report.batch).map(|batch| &mut batch.place) {
            Some(Place::Leased(hold)) if hold.is_of(report, base) => hold,
            Some(Place::Leased(_) | Place::Dead) => return Err(self.take_as_facts(now, report, fraction)),
            Some(Place::Ready | Place::Delayed(_) | Place::Settled) | None => {
                if suspected {
                    self.put_back(now, &report.batch);
                }
                return Err(self.take_as_facts(now, report, fraction));
            }
        };
        let seen = hold.sequence;
        hold.sequence = seen.max(report.sequence);
        if report.progress > hold.progress {
            hold.progress = report.progress;
            hold.progress_at = now;
        }
        if report.sequence >= seen {
            for outcome in &report.outcomes {
                self.settle(now, &report.batch, report.fence.counter, outcome, fraction);
            }
        }
        Ok(seen)
    }

    pub(super) fn policy(&self, id: &BatchId, fraction: u32) -> Option<Policy> {
        let run = self.runs.get(&id.run)?;
        let (retry, on_unknown) = (run.frozen.retry, run.frozen.on_unknown);
        Some(Policy { retry, on_unknown, cancelled: run.cancelled, doubts_max: DOUBTS_MAX, fraction })
    }

    /// Changes one recipient and moves the counters of its run.
    pub(super) fn change<T>(
        &mut self,
        now: i64,
        id: &BatchId,
        index: u32,
        act: impl FnOnce(&mut Entry) -> (T, super::recipient::Effect),
    ) -> Option<T> {
        let batch = self.batches.get_mut(id)?;
        let entry = batch.entries.get_mut(index as usize)?;
        let run = self.runs.get_mut(&id.run)?;
        let before = entry.state;
        let (result, effect) = act(entry);
        if batch.erased.contains(&index) && !planted(Fault::ErasedTextKept) {
            entry.detail.clear();
        }
        if before != entry.state {
            run.count_move(now, before, entry.state);
            let comes_back = before.is_final() || (before == RecipientState::Intent && batch.check_again);
            if comes_back && matches!(entry.state, RecipientState::Pending | RecipientState::Deferred) {
                (batch.checked, batch.check_again) = (0, false);
            }
        }
        if let Some((reason, by)) = effect.resend {
            run.count_resend(reason, by);
        }
        Some(result)
    }

    fn settle(&mut self, now: i64, id: &BatchId, fence: u64, outcome: &Outcome, fraction: u32) {
        let Some(policy) = self.policy(id, fraction) else { return };
        let applied = self.change(now, id, outcome.index, |entry| {
            let in_intent = entry.state == RecipientState::Intent && entry.intent == fence;
            if in_intent || planted(Fault::RepeatCountsTwice) {
                (true, entry.settle(now, outcome, &policy))
            } else {
                (false, Default::default())
            }
        });
        let Some(batch) = self.batches.get_mut(id).filter(|_| applied == Some(true)) else { return };
        let told = outcome.kind != OutcomeKind::NotWritten;
        if told {
            batch.suspicion.outcome(outcome.index);
        }
        if let Place::Leased(hold) = &mut batch.place {
            hold.progress_at = now;
            hold.had_outcome |= told;
        }
    }

    fn is_limited(&self, id: &BatchId, limits: &Limits) -> bool {
        let (Some(batch), Some(run)) = (self.batches.get(id), self.runs.get(&id.run)) else { return false };
        limits.lanes.contains_key(&run.frozen.lane) || limits.sites.contains_key(&batch.site)
    }

    /// `waiting`: how many of this report are throttled, if this one is.
    fn grant(
        &mut self,
        now: i64,
        id: &BatchId,
        index: u32,
        terms: &Terms<'_>,
        (fresh, waiting): (bool, u64),
    ) -> Result<(), RefusalReason> {
        let (Some(batch), Some(run)) = (self.batches.get_mut(id), self.runs.get(&id.run)) else {
            return Err(RefusalReason::Repeated);
        };
        let Place::Leased(hold) = &batch.place else { return Err(RefusalReason::Repeated) };
        let fence = hold.fence.clone();
        let hard_left = hold.hard_at - now;
        let Some(entry) = batch.entries.get(index as usize) else { return Err(RefusalReason::Repeated) };
        if entry.state == RecipientState::Intent && entry.intent == fence.counter {
            return Ok(());
        }
        if !fresh {
            return Err(RefusalReason::Repeated);
        }
        let refusal = entry.refusal(now);
        let is_erased = batch.erased.contains(&index) && !planted(Fault::ErasedSentOn);
        if refusal == Some(RefusalReason::Settled) || is_erased {
            return Err(RefusalReason::Settled);
        }
        if run.cancelled && !planted(Fault::CancelSendsOn) {
            return Err(RefusalReason::Cancelled);
        }
        let is_closed = terms.grants.is_some_and(|span| !span.contains(now));
        if is_closed || self.lineage.is_stopped(now) || run.is_parked() || self.turns.is_paused(&run.frozen.lane) {
            return Err(RefusalReason::Paused);
        }
        if batch.suspicion.only.is_some_and(|only| !only.contains(index)) {
            return Err(RefusalReason::Outside);
        }
        if let Some(reason) = refusal {
            return Err(reason);
        }
        if u64::try_from(hard_left).unwrap_or(0) < TRANSACTION_MS_MAX && !planted(Fault::HardCapIgnored) {
            return Err(RefusalReason::HardCap);
        }
        if batch.in_intent() >= terms.window as usize && !planted(Fault::WindowIgnored) {
            return Err(RefusalReason::Window);
        }
        if batch.checked < self.suppressions.number && !planted(Fault::SuppressedGranted) {
            return Err(RefusalReason::Unchecked);
        }
        let of = (&run.frozen.lane, &batch.site);
        let wait_ms = self.meters.wait_ms(now, terms.limits, of, waiting);
        if let Some(retry_in_ms) = wait_ms.filter(|_| !planted(Fault::LimitIgnored)) {
            return Err(RefusalReason::Throttled { retry_in_ms });
        }
        self.meters.grant(now, terms.limits, of);
        batch.fences.insert(fence.counter, fence.clone());
        self.change(now, id, index, |entry| ((), entry.grant(fence.counter)));
        let limited = self.is_limited(id, terms.limits);
        self.recount(id, limited);
        Ok(())
    }

    /// Moves the expiry on while the lease makes progress; how long it has from now.
    fn extend(&mut self, now: i64, id: &BatchId, ttl_ms: u64) -> u64 {
        let Some(Place::Leased(hold)) = self.batches.get_mut(id).map(|batch| &mut batch.place) else { return 0 };
        let idle = u64::try_from(now - hold.progress_at).unwrap_or(0);
        if idle <= TRANSACTION_MS_MAX {
            let wished = now.saturating_add_unsigned(ttl_ms).min(hold.hard_at);
            let before = hold.expires_at;
            hold.expires_at = before.max(wished);
            let after = hold.expires_at;
            self.leased.remove(&(before, id.clone()));
            self.leased.insert((after, id.clone()));
        }
        let expires_at = self.batches.get(id).and_then(|batch| batch.hold()).map_or(now, |hold| hold.expires_at);
        u64::try_from(expires_at - now).unwrap_or(0)
    }

    pub fn finish(&mut self, now: i64, finish: Finish) -> Vec<LeaseAnswer> {
        let fraction = finish.retry_fraction;
        finish.reports.into_iter().map(|report| self.end_lease(now, report, fraction, Rest::AsItIs)).collect()
    }

    pub fn release(&mut self, now: i64, release: Release) -> Vec<LeaseAnswer> {
        let Release { worker: _, reports, retry_fraction, abandon, doubt_grace_ms, delay_ms } = release;
        let rest = match abandon {
            true => Rest::Abandoned { grace_ms: doubt_grace_ms },
            false => Rest::NotBefore(now.saturating_add_unsigned(delay_ms)),
        };
        reports.into_iter().map(|report| self.end_lease(now, report, retry_fraction, rest)).collect()
    }

    /// Finish and release.
    fn end_lease(&mut self, now: i64, report: LeaseReport, fraction: u32, rest: Rest) -> LeaseAnswer {
        let id = report.batch.clone();
        let ended_before = self.batches.get(&id).is_some_and(|batch| batch.ended_by.as_ref() == Some(&report.fence));
        if let Err(status) = self.take_report(now, &report, fraction) {
            let again = status == LeaseStatus::Lost && ended_before;
            return LeaseAnswer::plain(id, if again { LeaseStatus::Returned } else { status });
        }
        if let Rest::Abandoned { grace_ms } = rest {
            self.doubt_intents(now, &id, grace_ms, DOUBTS_MAX);
        }
        let Some(batch) = self.batches.get_mut(&id) else { return LeaseAnswer::plain(id, LeaseStatus::Gone) };
        if batch.in_intent() > 0 && !planted(Fault::FinishInIntent) {
            self.recount(&id, false);
            return LeaseAnswer::plain(id, LeaseStatus::InIntent);
        }
        batch.ended_by = Some(report.fence);
        match rest {
            Rest::AsItIs | Rest::Abandoned { .. } => self.put_back(now, &id),
            Rest::NotBefore(_) if planted(Fault::DelayIgnored) => self.put_back(now, &id),
            Rest::NotBefore(at) => self.put_back_until(now, &id, at),
        }
        match self.batches.get(&id).map(|batch| &batch.place) {
            Some(Place::Delayed(due)) => {
                let due_in_ms = u64::try_from(due - now).unwrap_or(0);
                LeaseAnswer { due_in_ms, ..LeaseAnswer::plain(id, LeaseStatus::Returned) }
            }
            Some(Place::Ready | Place::Leased(_) | Place::Dead) => LeaseAnswer::plain(id, LeaseStatus::Returned),
            Some(Place::Settled) => LeaseAnswer::plain(id, LeaseStatus::Settled),
            None => LeaseAnswer::plain(id, LeaseStatus::Gone),
        }
    }

    /// Everybody in intent becomes in doubt: outcome not recorded. How many.
    pub(super) fn doubt_intents(&mut self, now: i64, id: &BatchId, grace_ms: u64, doubts_max: u32) -> u32 {
        let Some(policy) = self.policy(id, 0).map(|policy| Policy { doubts_max, ..policy }) else { return 0 };
        let count = self.batches.get(id).map_or(0, |batch| batch.entries.len() as u32);
        let mut doubts = 0;
        for index in 0..count {
            let doubted = self.change(now, id, index, |entry| {
                let in_intent = entry.state == RecipientState::Intent;
                if in_intent {
                    entry.enter_doubt(now, UnknownReason::OutcomeNotRecorded, Some(grace_ms), &policy);
                }
                (in_intent, Default::default())
            });
            doubts += u32::from(doubted == Some(true));
        }
        doubts
    }

    /// A report with a fence that is not current: its outcomes are facts.
    fn take_as_facts(&mut self, now: i64, report: &LeaseReport, fraction: u32) -> LeaseStatus {
        for outcome in &report.outcomes {
            let fact = Fact { batch: report.batch.clone(), fence: report.fence.clone(), outcome: outcome.clone() };
            self.fact(now, &fact, fraction);
        }
        match self.batches.get(&report.batch).map(|batch| &batch.place) {
            Some(Place::Settled) => LeaseStatus::Settled,
            Some(Place::Ready | Place::Leased(_) | Place::Delayed(_) | Place::Dead) => LeaseStatus::Lost,
            None => LeaseStatus::Gone,
        }
    }

    pub fn facts(&mut self, now: i64, (facts, fraction): (Vec<Fact>, u32)) -> Vec<FactStatus> {
        facts.iter().map(|fact| self.fact(now, fact, fraction)).collect()
    }

    fn fact(&mut self, now: i64, fact: &Fact, fraction: u32) -> FactStatus {
        let suspected = self.suspect(now, &fact.batch);
        let status = self.apply_fact(now, fact, fraction);
        let applied = status == Some(FactStatus::Applied);
        if suspected || applied {
            self.lineage.grow();
        }
        match self.batches.get(&fact.batch).map(|batch| &batch.place) {
            Some(Place::Leased(_)) => self.recount(&fact.batch, false),
            Some(Place::Ready | Place::Delayed(_) | Place::Settled) if suspected || applied => {
                self.put_back(now, &fact.batch);
            }
            Some(Place::Ready | Place::Delayed(_) | Place::Settled | Place::Dead) | None => (),
        }
        status.unwrap_or(FactStatus::Refused)
    }

    /// None: no such recipient, or a fence that was never given out.
    fn apply_fact(&mut self, now: i64, fact: &Fact, fraction: u32) -> Option<FactStatus> {
        let source = Source { fence: fact.fence.counter, lost: fact.fence.epoch < self.lineage.base };
        let policy = self.policy(&fact.batch, fraction)?;
        let batch = self.batches.get(&fact.batch)?;
        if !source.lost && batch.fences.get(&fact.fence.counter) != Some(&fact.fence) {
            return None;
        }
        let index = fact.outcome.index;
        let is_dead = batch.dead.contains(&index);
        let (status, own_intent) = self.change(now, &fact.batch, index, |entry| {
            let own_intent = entry.state == RecipientState::Intent && entry.intent == source.fence;
            let (status, effect) = entry.fact(now, source, &fact.outcome, &policy, is_dead);
            ((status, own_intent), effect)
        })?;
        if status == FactStatus::Applied {
            self.weigh_fact(&fact.batch, &fact.outcome, own_intent);
        }
        Some(status)
    }

    /// What a fact says about who ends workers. That nothing was written, or no reply was read, is what one that
    /// ended says of those it was at.
    fn weigh_fact(&mut self, id: &BatchId, outcome: &Outcome, own_intent: bool) {
        let Some(batch) = self.batches.get_mut(id) else { return };
        match outcome.kind {
            OutcomeKind::NotWritten | OutcomeKind::Unknown => {
                if let (true, Place::Leased(hold)) = (own_intent, &mut batch.place) {
                    hold.fallen.insert(outcome.index);
                }
            }
            OutcomeKind::Accepted | OutcomeKind::Rejected | OutcomeKind::Deferred => {
                batch.suspicion.outcome(outcome.index);
                if let Place::Leased(hold) = &mut batch.place {
                    hold.had_outcome |= own_intent;
                    hold.fallen.remove(&outcome.index);
                }
                self.forget_dead(id, outcome.index);
            }
        }
    }
}
