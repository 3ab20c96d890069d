//! What an answer, or none, means for the leases that a call carried.

use super::event::{CallId, Effect, LeaseKey, Offer};
use super::held::{End, Held, Stage};
use super::{Carrier, Engine, SHELF_MS};
use postrider_common::lease::{FactStatus, LeaseAnswer, LeaseStatus, RefusalReason};

/// After "the window is full" or "repeated", when no outcome comes first: ask again.
const WINDOW_PAUSE_MS: u64 = 250;
/// The part of the store that has a lease, or the batch of a fact, is away: ask again.
const AWAY_PAUSE_MS: u64 = 500;
/// Finish and Release refused this often in a row with IN_INTENT: let the lease expire.
const REFUSALS_MAX: u32 = 5;
/// A throttled lease waits until all it asked for may begin, but no longer than this beyond the first: small
/// calls at once would cost the store more than they gain.
const THROTTLE_GATHER_MS: u64 = 250;

impl Engine {
    pub(super) fn leased(&mut self, now_ms: u64, call: CallId, sent_at_ms: u64, held_ms: u64, offers: Vec<Offer>) {
        self.wish.answered(now_ms, call, sent_at_ms, offers.is_empty());
        for offer in offers {
            let same = self.leases.values().find(|held| held.batch == offer.lease.batch);
            match same.map(|held| (held.key, held.fence == offer.lease.fence)) {
                // A repeated answer.
                Some((_, true)) => {
                    self.effects.push(Effect::Forget { lease: offer.key, owed: Vec::new() });
                    continue;
                }
                // Claimed anew, so the lease that is held is over.
                Some((old, false)) => self.forget(old),
                None => {}
            }
            if !offer.is_usable {
                tracing::error!(batch = %offer.lease.batch, "lease cannot be used; it is handed back");
            }
            self.lanes_seen.insert(offer.lease.lane.clone());
            let held = Held::new(offer, now_ms, sent_at_ms, held_ms, SHELF_MS);
            self.window_seen = held.window;
            self.effects.push(Effect::Trust { lease: held.key, until_ms: held.trusted_until_ms });
            self.leases.insert(held.key, held);
        }
    }

    /// The carrier whose call this is.
    fn carrier(&mut self, call: CallId) -> Option<&mut Carrier> {
        [&mut self.checkpoint, &mut self.finish, &mut self.release].into_iter().find(|carrier| carrier.line.is(call))
    }

    pub(super) fn answered(&mut self, now_ms: u64, call: CallId, sent_at_ms: u64, answers: Vec<LeaseAnswer>) {
        let Some(carrier) = self.carrier(call) else { return };
        carrier.line.answered();
        let mut answers = answers.into_iter();
        for lease in std::mem::take(&mut carrier.leases) {
            let answer = answers.next();
            let Some(held) = self.leases.get_mut(&lease) else { continue };
            match answer.filter(|answer| answer.batch == held.batch) {
                Some(answer) if answer.status == LeaseStatus::Unanswered => {
                    held.unanswered();
                    held.pause_until_ms = now_ms + AWAY_PAUSE_MS;
                }
                Some(answer) => self.lease_answered(now_ms, sent_at_ms, lease, answer),
                None => held.unanswered(),
            }
        }
    }

    fn lease_answered(&mut self, now_ms: u64, sent_at_ms: u64, lease: LeaseKey, answer: LeaseAnswer) {
        let may_trust = self.may_trust();
        let Some(held) = self.leases.get_mut(&lease) else { return };
        let told = held.acknowledged();
        let had_outcomes = !told.is_empty();
        if had_outcomes {
            self.effects.push(Effect::Told { lease, indexes: told });
        }
        match answer.status {
            LeaseStatus::Held => {
                if had_outcomes {
                    held.pause_until_ms = 0;
                }
                if may_trust {
                    held.extend(sent_at_ms, answer.ttl_ms);
                    held.is_cut &= !held.is_trusted(now_ms);
                    self.effects.push(Effect::Trust { lease, until_ms: held.trusted_until_ms });
                }
                let had_flying = !held.flying.is_empty();
                let was_open = held.stage == Stage::Working;
                let may_start = held.is_trusted(now_ms) && may_trust;
                let asked = !held.asked.is_empty();
                let throttled = held.throttled(now_ms, &answer);
                if asked || throttled.is_some() {
                    held.throttled_until_ms = throttled;
                }
                let mut routes = std::mem::take(&mut held.routes);
                for index in held.intents_answered(now_ms, answer, may_start) {
                    match self.relays.carrier(&held.lane, routes.remove(&index)) {
                        Some(relay) => self.effects.push(Effect::StartSend { lease, index, relay }),
                        None => {
                            held.flying.remove(&index);
                            held.not_written(index);
                        }
                    }
                }
                routes.into_values().for_each(|route| self.relays.give_back(now_ms, route));
                if was_open && had_flying && held.stage != Stage::Working {
                    self.effects.push(Effect::Recall { lease });
                }
                if throttled.is_some() {
                    self.hand_back_throttled(now_ms, lease);
                }
            }
            LeaseStatus::InIntent => {
                held.refusals += 1;
                held.pause_until_ms = now_ms + WINDOW_PAUSE_MS;
                held.hand_back_all();
                if held.refusals > REFUSALS_MAX {
                    tracing::error!(batch = %held.batch, fence = %held.fence, "lease cannot be ended; it is left to expire");
                    self.forget(lease);
                }
            }
            LeaseStatus::Unanswered => {}
            LeaseStatus::Settled | LeaseStatus::Returned => self.forget(lease),
            LeaseStatus::Lost | LeaseStatus::Gone => {
                tracing::warn!(batch = %held.batch, fence = %held.fence, in_flight = held.flying.len(), "lease lost");
                self.forget(lease);
            }
        }
    }

    /// A throttled lease with nothing under way is of no use here when another one of its lane and site can use
    /// the room, or when there will be none for as long as the lease lasts.
    fn hand_back_throttled(&mut self, now_ms: u64, lease: LeaseKey) {
        let Some(held) = self.leases.get(&lease) else { return };
        if held.stage != Stage::Working || held.in_intent() > 0 {
            return;
        }
        let is_long = held.throttled_until_ms.is_some_and(|until| until > now_ms + held.ttl_ms);
        let same = |other: &&Held| {
            other.key != lease
                && other.stage == Stage::Working
                && other.lane == held.lane
                && other.site == held.site
                && !other.ready.is_empty()
        };
        if (is_long || self.leases.values().any(|other| same(&other)))
            && let Some(held) = self.leases.get_mut(&lease)
        {
            held.close(End::Release);
        }
    }

    pub(super) fn facts_answered(&mut self, now_ms: u64, call: CallId, statuses: &[FactStatus]) {
        if self.facts_line.is(call) {
            if statuses.contains(&FactStatus::Unanswered) {
                self.facts_line.answered_in_part(now_ms + AWAY_PAUSE_MS);
            } else {
                self.facts_line.answered();
            }
            self.facts_told(statuses);
        }
    }

    fn facts_told(&mut self, statuses: &[FactStatus]) {
        let told = self.facts.answered(statuses).into_iter();
        self.effects.extend(told.map(|(lease, indexes)| Effect::Told { lease, indexes }));
    }

    pub(super) fn call_failed(&mut self, now_ms: u64, call: CallId, refused: bool, random: u64) {
        if self.facts_line.is(call) {
            self.facts_line.failed(now_ms, refused, random);
            if refused {
                tracing::error!("facts refused by the master; they are dropped");
                self.facts_told(&[]);
            }
            self.facts.unanswered();
            return;
        }
        if self.relays.failed(now_ms, call, refused, random) {
            return;
        }
        let is_draining = self.is_draining();
        if self.wish.failed(now_ms, call, refused, random, is_draining) {
            return;
        }
        let Some(carrier) = self.carrier(call) else { return };
        let is_hopeless = carrier.line.failed(now_ms, refused, random);
        for lease in std::mem::take(&mut carrier.leases) {
            let Some(held) = self.leases.get_mut(&lease) else { continue };
            held.unanswered();
            if is_hopeless {
                tracing::error!(batch = %held.batch, "reports of a lease are refused; it is left to expire");
                self.forget(lease);
            }
        }
    }
}

impl Held {
    /// Takes in which intents were granted and which were not; the indexes to start.
    fn intents_answered(&mut self, now_ms: u64, answer: LeaseAnswer, may_start: bool) -> Vec<u32> {
        for (index, reason) in answer.refused {
            if self.asked.remove(&index) {
                self.refused(now_ms, index, reason);
            }
        }
        let mut start = Vec::new();
        for index in answer.granted {
            let was_asked = self.asked.remove(&index);
            if was_asked && may_start && self.stage == Stage::Working {
                self.flying.insert(index);
                start.push(index);
            } else if was_asked || self.ready.remove(&index) || self.later.remove(&index).is_some() {
                self.not_written(index);
            }
        }
        let unanswered = std::mem::take(&mut self.asked);
        match self.stage {
            Stage::Working => self.ready.extend(unanswered),
            Stage::Shelved { .. } | Stage::Closing(_) => {
                unanswered.into_iter().for_each(|index| self.not_written(index))
            }
        }
        start
    }

    /// Until when it is throttled, if the answer says so.
    fn throttled(&self, now_ms: u64, answer: &LeaseAnswer) -> Option<u64> {
        let wait = |(_, reason): &(u32, RefusalReason)| match reason {
            RefusalReason::Throttled { retry_in_ms } => Some(*retry_in_ms),
            RefusalReason::Settled
            | RefusalReason::NotDue
            | RefusalReason::Window
            | RefusalReason::Paused
            | RefusalReason::Cancelled
            | RefusalReason::HardCap
            | RefusalReason::Repeated
            | RefusalReason::Outside
            | RefusalReason::Unchecked => None,
        };
        let waits = || answer.refused.iter().filter_map(wait);
        let (first, all) = (waits().min()?, waits().max()?);
        Some(now_ms.saturating_add(all.min(first.max(THROTTLE_GATHER_MS)).max(1)))
    }

    fn refused(&mut self, now_ms: u64, index: u32, reason: RefusalReason) {
        match reason {
            // Done with, as far as this lease goes.
            RefusalReason::Settled | RefusalReason::NotDue | RefusalReason::Outside => {}
            RefusalReason::Window | RefusalReason::Repeated | RefusalReason::Unchecked => {
                self.ready.insert(index);
                self.pause_until_ms = now_ms + WINDOW_PAUSE_MS;
            }
            RefusalReason::Throttled { .. } => {
                self.ready.insert(index);
            }
            RefusalReason::Paused => self.stop_asking(End::Release),
            RefusalReason::Cancelled | RefusalReason::HardCap => self.stop_asking(End::Finish),
        }
    }

    fn stop_asking(&mut self, end: End) {
        if self.stage == Stage::Working {
            self.stage = Stage::Closing(end);
        }
    }
}
