//! One delivery: its record, and what outcomes, doubts, intents and facts do to it. Pure.

use crate::api::Delivery;
use postrider_common::backoff::{RetryPolicy, retry_in_ms};
use postrider_common::campaign::OnUnknown;
use postrider_common::lease::{FactStatus, Outcome, OutcomeKind, Progress, RefusalReason};
use postrider_common::sabotage::{Fault, planted};
use postrider_common::state::{RecipientState, UnknownReason};
use postrider_common::suppression::SuppressionReason;
use serde::{Deserialize, Serialize};

/// Whether it is unknown if an earlier transmission arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Doubt {
    #[default]
    None,
    /// In doubt, and nothing was begun since.
    Standing,
    /// The present intent is for a second transmission because of the doubt.
    Taken,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub state: RecipientState,
    pub attempts: u32,
    pub doubts: u32,
    pub first_at: Option<i64>,
    /// Meaningful while deferred.
    pub due_at: i64,
    /// Counter of the fence that got the latest intent; 0: none yet.
    pub intent: u64,
    pub doubt: Doubt,
    pub reason: Option<UnknownReason>,
    pub settled_at: Option<i64>,
    pub code: String,
    pub detail: String,
}

/// The code of a recipient that was set aside.
const DEAD_LETTER: &str = "dead_letter";

/// What the run says about retries and doubts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    pub retry: RetryPolicy,
    pub on_unknown: OnUnknown,
    pub cancelled: bool,
    /// Doubts after which it is unknown.
    pub doubts_max: u32,
    /// Jitter, in millionths.
    pub fraction: u32,
}

/// Whose fact it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    /// Counter of the fence.
    pub fence: u64,
    /// The fence is from before the store went back, so what was granted to it may be unknown here.
    pub lost: bool,
}

/// What a change did beside the state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// A second transmission was begun (+1) or handed back unused (−1), by the reason.
    pub resend: Option<(UnknownReason, i64)>,
}

impl Entry {
    pub fn new() -> Self {
        Self {
            state: RecipientState::Pending,
            attempts: 0,
            doubts: 0,
            first_at: None,
            due_at: 0,
            intent: 0,
            doubt: Doubt::None,
            reason: None,
            settled_at: None,
            code: String::new(),
            detail: String::new(),
        }
    }

    /// May be sent now.
    pub fn is_due(&self, now: i64) -> bool {
        match self.state {
            RecipientState::Pending => true,
            RecipientState::Deferred => self.due_at <= now,
            RecipientState::Intent
            | RecipientState::Accepted
            | RecipientState::Rejected
            | RecipientState::Exhausted
            | RecipientState::Suppressed
            | RecipientState::Cancelled
            | RecipientState::Unknown => false,
        }
    }

    /// Why this recipient itself refuses an intent.
    pub fn refusal(&self, now: i64) -> Option<RefusalReason> {
        if self.state.is_final() || self.state == RecipientState::Intent {
            Some(RefusalReason::Settled)
        } else if self.is_due(now) {
            None
        } else {
            Some(RefusalReason::NotDue)
        }
    }

    pub fn grant(&mut self, fence: u64) -> Effect {
        self.state = RecipientState::Intent;
        self.intent = fence;
        match (self.doubt, self.reason) {
            (Doubt::Standing, Some(reason)) => {
                self.doubt = Doubt::Taken;
                Effect { resend: Some((reason, 1)) }
            }
            (Doubt::None | Doubt::Standing | Doubt::Taken, _) => Effect::default(),
        }
    }

    /// An outcome for a recipient in intent.
    pub fn settle(&mut self, now: i64, outcome: &Outcome, policy: &Policy) -> Effect {
        if outcome.kind == OutcomeKind::NotWritten {
            return self.hand_back(now);
        }
        let first_at = *self.first_at.get_or_insert(now);
        self.code = outcome.code.clone();
        self.detail = outcome.detail.clone();
        let elapsed = u64::try_from(now - first_at).unwrap_or(0);
        let retry_in = retry_in_ms(&policy.retry, self.attempts + 1, policy.fraction, elapsed, outcome.retry_after_ms);
        match outcome.kind {
            OutcomeKind::Accepted => self.end(now, RecipientState::Accepted),
            OutcomeKind::Rejected => self.end(now, RecipientState::Rejected),
            OutcomeKind::Deferred => match retry_in {
                Some(delay) => self.defer(now, delay),
                None => self.end(now, RecipientState::Exhausted),
            },
            OutcomeKind::Unknown => {
                self.enter_doubt(now, UnknownReason::ReplyLost, retry_in, policy);
                return Effect::default();
            }
            OutcomeKind::NotWritten => return Effect::default(),
        }
        self.attempts += 1;
        self.doubt = Doubt::None;
        Effect::default()
    }

    /// The intent was not used. Forgetting whose it was keeps a repeat of this, come as a fact, from
    /// touching an older doubt.
    fn hand_back(&mut self, now: i64) -> Effect {
        self.intent = 0;
        if self.attempts > 0 {
            self.defer(now, 0);
        } else {
            self.state = RecipientState::Pending;
        }
        match (self.doubt, self.reason) {
            (Doubt::Taken, Some(reason)) => {
                self.doubt = Doubt::Standing;
                Effect { resend: Some((reason, -1)) }
            }
            (Doubt::None | Doubt::Standing | Doubt::Taken, _) => Effect::default(),
        }
    }

    /// It is not known whether the message arrived. `delay`: None, it is never tried again.
    pub fn enter_doubt(&mut self, now: i64, reason: UnknownReason, delay: Option<u64>, policy: &Policy) {
        self.first_at.get_or_insert(now);
        self.attempts += 1;
        self.doubts += 1;
        self.doubt = Doubt::Standing;
        self.reason = Some(reason).filter(|_| !planted(Fault::ReasonForgotten));
        let is_held = policy.on_unknown == OnUnknown::Hold && !planted(Fault::HoldIgnored);
        let hold = is_held || policy.cancelled || self.doubts >= policy.doubts_max;
        match delay.filter(|_| !hold) {
            Some(delay) => self.defer(now, delay),
            None => self.end(now, RecipientState::Unknown),
        }
    }

    /// Pending when the store went back in time: it may have been sent what the store no longer knows of.
    pub fn suspect(&mut self, now: i64, policy: &Policy) {
        let is_waiting = matches!(self.state, RecipientState::Pending | RecipientState::Deferred);
        if !is_waiting || self.doubt != Doubt::None {
            return;
        }
        self.come_under_suspicion();
        if policy.on_unknown == OnUnknown::Hold || policy.cancelled || self.doubts >= policy.doubts_max {
            self.end(now, RecipientState::Unknown);
        }
    }

    fn come_under_suspicion(&mut self) {
        self.doubts += 1;
        self.doubt = Doubt::Standing;
        self.reason = Some(UnknownReason::OutcomeNotRecorded);
        self.intent = 0;
    }

    /// The run is cancelled and this one is pending, not in intent.
    pub fn cancel(&mut self, now: i64) {
        let in_doubt = self.reason.is_some();
        self.end(now, if in_doubt { RecipientState::Unknown } else { RecipientState::Cancelled });
    }

    /// It is pending, not in intent, and not to be sent to.
    pub fn suppress(&mut self, now: i64, reason: SuppressionReason) {
        let in_doubt = self.reason.is_some();
        if !in_doubt {
            self.code = reason.as_str().to_owned();
            self.detail = String::new();
        }
        self.end(now, if in_doubt { RecipientState::Unknown } else { RecipientState::Suppressed });
    }

    /// It ends workers: set aside for a person.
    pub fn set_aside(&mut self, now: i64) {
        self.code = DEAD_LETTER.to_owned();
        self.detail = String::new();
        self.give_up(now);
    }

    /// Nobody tries it any more.
    pub fn give_up(&mut self, now: i64) {
        let in_doubt = self.doubt == Doubt::Standing;
        self.end(now, if in_doubt { RecipientState::Unknown } else { RecipientState::Exhausted });
    }

    /// A person begins a new generation: its time to live begins anew, what is known of it stays. `lost`: the store
    /// went back since its run was created, and may have forgotten that it was begun again before.
    pub fn reopen(&mut self, now: i64, lost: bool) {
        self.first_at = None;
        self.settled_at = None;
        if lost && self.doubt == Doubt::None {
            self.come_under_suspicion();
        }
        if self.attempts > 0 {
            self.defer(now, 0);
        } else {
            self.state = RecipientState::Pending;
        }
    }

    /// What a transaction of an earlier or the present intent became, learned late. `is_dead`: it was set aside.
    pub fn fact(
        &mut self,
        now: i64,
        source: Source,
        outcome: &Outcome,
        policy: &Policy,
        is_dead: bool,
    ) -> (FactStatus, Effect) {
        let before = self.state;
        let (status, effect) = self.learn(now, source, outcome, policy, is_dead);
        if status == FactStatus::Applied && source.lost && !planted(Fault::LostFactsHealWhole) {
            self.keep_suspicion(now, before, policy);
        }
        (status, effect)
    }

    /// What was heard is of one transmission, and what the store forgot may hold another one. Not of who had ended
    /// before: only a person begins those again, and then they are exhausted or unknown.
    fn keep_suspicion(&mut self, now: i64, before: RecipientState, policy: &Policy) {
        match before {
            RecipientState::Accepted
            | RecipientState::Rejected
            | RecipientState::Suppressed
            | RecipientState::Cancelled => return,
            RecipientState::Pending
            | RecipientState::Intent
            | RecipientState::Deferred
            | RecipientState::Exhausted
            | RecipientState::Unknown => (),
        }
        self.suspect(now, policy);
        if self.reason.is_none() {
            self.doubts += 1;
            self.reason = Some(UnknownReason::OutcomeNotRecorded);
        }
    }

    fn learn(
        &mut self,
        now: i64,
        source: Source,
        outcome: &Outcome,
        policy: &Policy,
        is_dead: bool,
    ) -> (FactStatus, Effect) {
        let Source { fence, lost } = source;
        let own_intent = self.state == RecipientState::Intent && self.intent == fence;
        let unrecorded = lost && self.intent != fence;
        if outcome.kind == OutcomeKind::Accepted {
            if self.state == RecipientState::Accepted || (planted(Fault::LateAcceptedIgnored) && !own_intent) {
                return (FactStatus::Already, Effect::default());
            }
            self.attempts += u32::from(own_intent || unrecorded);
            self.clear_standing_doubt();
            self.first_at.get_or_insert(now);
            self.code = outcome.code.clone();
            self.detail = outcome.detail.clone();
            self.doubt = Doubt::None;
            self.end(now, RecipientState::Accepted);
            return (FactStatus::Applied, Effect::default());
        }
        if own_intent {
            return (FactStatus::Applied, self.settle(now, outcome, policy));
        }
        let from_doubt = match self.state {
            RecipientState::Deferred | RecipientState::Unknown => self.doubt == Doubt::Standing && self.intent == fence,
            RecipientState::Pending
            | RecipientState::Intent
            | RecipientState::Accepted
            | RecipientState::Rejected
            | RecipientState::Exhausted
            | RecipientState::Suppressed
            | RecipientState::Cancelled => false,
        };
        if unrecorded && outcome.kind == OutcomeKind::Rejected && self.is_open_to_lost_facts() {
            self.clear_standing_doubt();
            self.state = RecipientState::Pending;
            return (FactStatus::Applied, self.settle(now, outcome, policy));
        }
        if !from_doubt {
            return (FactStatus::Already, Effect::default());
        }
        if outcome.kind == OutcomeKind::Unknown {
            self.reason = Some(UnknownReason::ReplyLost);
            return (FactStatus::Applied, Effect::default());
        }
        self.attempts -= 1;
        self.clear_standing_doubt();
        self.settled_at = None;
        self.state = RecipientState::Pending;
        let effect = self.settle(now, outcome, policy);
        if is_dead && outcome.kind == OutcomeKind::NotWritten {
            // It ends workers all the same.
            self.give_up(now);
        }
        (FactStatus::Applied, effect)
    }

    /// Nothing is under way for it, and if it is final, then only for a doubt.
    fn is_open_to_lost_facts(&self) -> bool {
        match self.state {
            RecipientState::Pending | RecipientState::Deferred => true,
            RecipientState::Unknown => self.doubt == Doubt::Standing,
            RecipientState::Intent
            | RecipientState::Accepted
            | RecipientState::Rejected
            | RecipientState::Exhausted
            | RecipientState::Suppressed
            | RecipientState::Cancelled => false,
        }
    }

    fn clear_standing_doubt(&mut self) {
        if self.doubt == Doubt::Standing {
            self.doubts -= 1;
            self.doubt = Doubt::None;
            if self.doubts == 0 {
                self.reason = None;
            }
        }
    }

    fn defer(&mut self, now: i64, delay_ms: u64) {
        self.state = RecipientState::Deferred;
        self.due_at = now.saturating_add_unsigned(delay_ms);
    }

    fn end(&mut self, now: i64, state: RecipientState) {
        self.state = state;
        self.settled_at = Some(now);
    }

    pub fn progress(&self, now: i64) -> Progress {
        let wait = if self.state == RecipientState::Deferred { self.due_at - now } else { 0 };
        Progress { state: self.state, attempts: self.attempts, not_before_ms: u64::try_from(wait).unwrap_or(0) }
    }

    pub fn delivery(&self) -> Delivery {
        Delivery {
            state: self.state,
            attempts: self.attempts,
            code: self.code.clone(),
            detail: self.detail.clone(),
            reason: self.reason,
            settled_at_ms: self.settled_at,
        }
    }
}
