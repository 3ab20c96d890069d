//! One lease that is held: where each of its recipients stands and how long the lease is to be trusted.
//!
//! Invariant: a recipient is in at most one of `ready`, `later`, `asked`, `flying` and `told`; one that is
//! in none is done with under this lease. A recipient gets at most one intent per lease: after its outcome
//! it is left to the next lease, so that a delayed duplicate of a report can never touch a newer intent.

use super::event::{Endpoint, LeaseKey, Offer};
use super::fetches::SLOW_MS;
use postrider_common::ids::{BatchId, Fence, LaneName, SiteName};
use postrider_common::lease::{LeaseReport, Outcome, OutcomeKind};
use postrider_common::sabotage::{Fault, planted};
use postrider_common::state::RecipientState;
use std::collections::{BTreeMap, BTreeSet};

/// Trust ends before the lease does: this part of the ttl, within bounds, for clocks that differ in pace.
const MARGIN_DIVISOR: u64 = 10;
const MARGIN_MS_MIN: u64 = 50;
const MARGIN_MS_MAX: u64 = 5_000;
/// A lease without traffic is renewed after this part of its ttl.
const RENEW_DIVISOR: u64 = 3;
/// A recipient due within this long is waited for; otherwise the lease goes back.
pub(super) const WAIT_FOR_DUE_MS: u64 = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Recipients are asked for and sent.
    Working,
    /// Not usable: kept for a while, then released, so that it does not go round in circles.
    Shelved { until_ms: u64 },
    /// Nothing more is asked for; when nothing is in flight it ends this way.
    Closing(End),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Finish,
    Release,
    /// Released, and not due before then, as far as this worker can say.
    Postpone {
        until_ms: u64,
    },
    /// Released with what is still in flight given up as in doubt.
    Abandon,
}

/// Where the merge fields of a lease are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fields {
    /// At hand: recipients may be asked for.
    Here,
    /// To be fetched, not before that boot time, after so many tries.
    Wanted {
        endpoint: Endpoint,
        from_ms: u64,
        tries: u32,
    },
    Fetching {
        endpoint: Endpoint,
        since_ms: u64,
        tries: u32,
    },
}

#[derive(Debug)]
pub(super) struct Held {
    pub(super) key: LeaseKey,
    pub(super) batch: BatchId,
    pub(super) fence: Fence,
    pub(super) lane: LaneName,
    pub(super) site: SiteName,
    pub(super) window: usize,
    pub(super) ttl_ms: u64,
    /// May be asked for now.
    pub(super) ready: BTreeSet<u32>,
    /// May be asked for from that boot time on.
    pub(super) later: BTreeMap<u32, u64>,
    /// An intent was asked for and not answered.
    pub(super) asked: BTreeSet<u32>,
    /// Of those asked for: the relay that is to carry them, where it matters.
    pub(super) routes: BTreeMap<u32, usize>,
    /// Told to start; no verdict yet.
    pub(super) flying: BTreeSet<u32>,
    /// Outcomes that no answer has acknowledged.
    pub(super) told: BTreeMap<u32, Outcome>,
    pub(super) stage: Stage,
    pub(super) fields: Fields,
    /// Indexes of the outcomes in the call that carries this lease now.
    pub(super) carried: Option<Vec<u32>>,
    /// The last report got no answer: the next one is its repeat, if it is of the same kind.
    pub(super) is_repeat: bool,
    /// The last report was a Finish or a Release.
    was_end: bool,
    pub(super) trusted_until_ms: u64,
    /// Connections were told to close since trust ended.
    pub(super) is_cut: bool,
    /// No intents are asked for before this.
    pub(super) pause_until_ms: u64,
    /// The fleet's limit had no room at the last asking: nothing more is asked for before this, but together with
    /// outcomes, which may have made room and need a call anyway. Its free window takes no slots meanwhile.
    pub(super) throttled_until_ms: Option<u64>,
    /// Its relays have no room in their rate: its free window takes no slots meanwhile.
    pub(super) waits_for_relay: bool,
    /// Its merge fields are fetched, and that takes long: its free window takes no slots meanwhile.
    pub(super) waits_for_fields: bool,
    /// IN_INTENT answers in a row.
    pub(super) refusals: u32,
    ends_at_ms: u64,
    renew_at_ms: u64,
    sequence: u64,
    progress: u64,
}

/// How long before its end a lease stops being trusted.
pub(super) fn margin_ms(ttl_ms: u64) -> u64 {
    (ttl_ms / MARGIN_DIVISOR).clamp(MARGIN_MS_MIN, MARGIN_MS_MAX)
}

impl Held {
    /// `held_ms` is believed only as far as time has really passed.
    pub(super) fn new(offer: Offer, now_ms: u64, sent_at_ms: u64, held_ms: u64, shelf_ms: u64) -> Self {
        let Offer { key, lease, is_usable, endpoint } = offer;
        let claimed_at_ms = sent_at_ms + held_ms.min(now_ms.saturating_sub(sent_at_ms));
        let ends_at_ms = (claimed_at_ms + lease.hard_cap_ms).saturating_sub(margin_ms(lease.hard_cap_ms));
        let mut held = Self {
            key,
            batch: lease.batch,
            fence: lease.fence,
            lane: lease.lane,
            site: lease.site,
            window: lease.window.max(1) as usize,
            ttl_ms: lease.ttl_ms,
            ready: BTreeSet::new(),
            later: BTreeMap::new(),
            asked: BTreeSet::new(),
            routes: BTreeMap::new(),
            flying: BTreeSet::new(),
            told: BTreeMap::new(),
            stage: if is_usable { Stage::Working } else { Stage::Shelved { until_ms: now_ms + shelf_ms } },
            fields: match endpoint {
                Some(endpoint) => Fields::Wanted { endpoint, from_ms: 0, tries: 0 },
                None => Fields::Here,
            },
            waits_for_fields: false,
            carried: None,
            is_repeat: false,
            was_end: false,
            trusted_until_ms: 0,
            is_cut: false,
            pause_until_ms: 0,
            throttled_until_ms: None,
            waits_for_relay: false,
            refusals: 0,
            ends_at_ms,
            renew_at_ms: 0,
            sequence: 0,
            progress: 0,
        };
        held.extend(claimed_at_ms, lease.ttl_ms);
        let offered = |index: &u32| lease.only.is_none_or(|only| only.contains(*index));
        for (index, recipient) in (0u32..).zip(&lease.recipients).filter(|(index, _)| offered(index)) {
            match (recipient.state, recipient.not_before_ms) {
                (RecipientState::Pending | RecipientState::Deferred, 0) => {
                    held.ready.insert(index);
                }
                // The claim was before now, so counting from now never comes too early.
                (RecipientState::Pending | RecipientState::Deferred, wait_ms) => {
                    held.later.insert(index, now_ms + wait_ms);
                }
                // An intent that this process did not ask for is not its to use.
                (
                    RecipientState::Intent
                    | RecipientState::Accepted
                    | RecipientState::Rejected
                    | RecipientState::Exhausted
                    | RecipientState::Suppressed
                    | RecipientState::Cancelled
                    | RecipientState::Unknown,
                    _,
                ) => {}
            }
        }
        held
    }

    /// The lease ends `ttl_ms` after an instant that was not before `from_ms`.
    pub(super) fn extend(&mut self, from_ms: u64, ttl_ms: u64) {
        let until_ms = (from_ms + ttl_ms).saturating_sub(margin_ms(self.ttl_ms));
        self.trusted_until_ms = until_ms.min(self.ends_at_ms);
        self.renew_at_ms = from_ms + self.ttl_ms / RENEW_DIVISOR;
    }

    pub(super) fn is_trusted(&self, now_ms: u64) -> bool {
        now_ms < self.trusted_until_ms
    }

    pub(super) fn needs_renewal(&self, now_ms: u64) -> bool {
        now_ms >= self.renew_at_ms
    }

    /// Recipients in intent as the store sees it, as far as is known here.
    pub(super) fn in_intent(&self) -> usize {
        self.asked.len() + self.flying.len() + self.told.len()
    }

    /// Slots that this lease could keep busy now.
    pub(super) fn usable(&self) -> usize {
        let busy = self.asked.len() + self.flying.len();
        match self.stage {
            Stage::Working if self.throttled_until_ms.is_some() || self.waits_for_relay || self.waits_for_fields => {
                busy
            }
            Stage::Working => self.window.min(busy + self.ready.len()).max(busy),
            Stage::Shelved { .. } | Stage::Closing(_) => busy,
        }
    }

    /// How many more intents the window allows, once the outcomes at hand are reported.
    pub(super) fn wanted(&self, now_ms: u64) -> usize {
        if self.stage != Stage::Working || self.is_repeat || self.carried.is_some() || now_ms < self.pause_until_ms {
            return 0;
        }
        // An intent is a duty to send.
        if self.fields != Fields::Here && !planted(Fault::FieldsSkipped) {
            return 0;
        }
        if self.told.is_empty() && self.throttled_until_ms.is_some_and(|until| now_ms < until) {
            return 0;
        }
        let room = self.window.saturating_sub(self.asked.len() + self.flying.len());
        room.min(self.ready.len())
    }

    /// How many can be asked for within that time.
    pub(super) fn due_within(&self, now_ms: u64, ms: u64) -> usize {
        self.ready.len() + self.later.values().filter(|at| **at <= now_ms + ms).count()
    }

    /// Everybody that may still be sent to under this lease.
    pub(super) fn unsent(&self) -> Vec<u32> {
        let unsent: BTreeSet<u32> = self.ready.iter().chain(self.later.keys()).copied().collect();
        unsent.into_iter().collect()
    }

    /// Takes due recipients into `ready`.
    pub(super) fn promote(&mut self, now_ms: u64) {
        if self.later.is_empty() {
            return;
        }
        let due: Vec<u32> = self.later.iter().filter(|(_, at)| **at <= now_ms).map(|(index, _)| *index).collect();
        for index in due {
            self.later.remove(&index);
            self.ready.insert(index);
        }
    }

    /// Nobody is left to send to within the wait, and nothing is under way.
    pub(super) fn is_idle(&self, now_ms: u64) -> bool {
        self.ready.is_empty()
            && self.asked.is_empty()
            && self.flying.is_empty()
            && self.later.values().all(|at| *at > now_ms + WAIT_FOR_DUE_MS)
    }

    /// Stops asking. What was asked for in a call that got no answer is handed back: it may be granted.
    pub(super) fn close(&mut self, end: End) {
        self.stage = Stage::Closing(end);
        self.hand_back_asked();
    }

    /// Without a call under way, whatever was asked for and not answered is reported as not written. The
    /// store ignores that for a recipient that is not in intent.
    fn hand_back_asked(&mut self) {
        if self.carried.is_none() && !self.asked.is_empty() {
            self.is_repeat = false;
            self.routes.clear();
            std::mem::take(&mut self.asked).into_iter().for_each(|index| self.not_written(index));
        }
    }

    /// Everybody not in flight is reported as not written, because the store says that somebody is in
    /// intent whom this worker does not know to be.
    pub(super) fn hand_back_all(&mut self) {
        let rest: BTreeSet<u32> = std::mem::take(&mut self.ready);
        let later = std::mem::take(&mut self.later).into_keys();
        rest.into_iter().chain(later).for_each(|index| self.not_written(index));
    }

    pub(super) fn not_written(&mut self, index: u32) {
        self.told.insert(index, not_written(index));
    }

    pub(super) fn progressed(&mut self) {
        self.progress += 1;
    }

    /// The next report, with an intent for each of `routes` moved from `ready` to `asked`, or the repeat of the last.
    pub(super) fn report(&mut self, is_end: bool, routes: &[Option<usize>]) -> LeaseReport {
        if !self.is_repeat || self.was_end != is_end {
            self.sequence += 1;
            for route in routes {
                let Some(index) = self.ready.pop_first() else { break };
                self.asked.insert(index);
                self.routes.extend(route.map(|relay| (index, relay)));
            }
        }
        self.is_repeat = false;
        self.was_end = is_end;
        self.carried = Some(self.told.keys().copied().collect());
        LeaseReport {
            batch: self.batch.clone(),
            fence: self.fence.clone(),
            sequence: self.sequence,
            outcomes: self.told.values().cloned().collect(),
            intents: self.asked.iter().copied().collect(),
            progress: self.progress,
        }
    }

    /// The call that carries this lease got no answer.
    pub(super) fn unanswered(&mut self) {
        self.carried = None;
        if planted(Fault::OutcomesForgotten) {
            self.told.clear();
        }
        self.is_repeat = true;
        match self.stage {
            Stage::Working | Stage::Shelved { .. } => {}
            Stage::Closing(_) => self.hand_back_asked(),
        }
    }

    /// The call that carries this lease was answered: its outcomes are durable, or taken as facts. Whose.
    pub(super) fn acknowledged(&mut self) -> Vec<u32> {
        let carried = self.carried.take().unwrap_or_default();
        for index in &carried {
            self.told.remove(index);
        }
        carried
    }

    /// When it wants to be renewed, unless a call carries it already.
    pub(super) fn renew_ms(&self) -> Option<u64> {
        self.carried.is_none().then_some(self.renew_at_ms)
    }

    /// Instants at which something else happens to this lease by itself; some may be over.
    pub(super) fn wakes_ms(&self) -> impl Iterator<Item = u64> {
        let trust = (!self.is_cut).then_some(self.trusted_until_ms);
        let shelf = match self.stage {
            Stage::Shelved { until_ms } => Some(until_ms),
            Stage::Working | Stage::Closing(_) => None,
        };
        let fetch = match &self.fields {
            Fields::Here => None,
            Fields::Wanted { from_ms, .. } => Some(*from_ms),
            Fields::Fetching { since_ms, .. } => Some(since_ms + SLOW_MS),
        };
        // Only the soonest matters: the others are looked at again then.
        let due = self.later.values().min().copied();
        [trust, shelf, fetch, due, Some(self.pause_until_ms), self.throttled_until_ms].into_iter().flatten()
    }
}

pub(super) fn not_written(index: u32) -> Outcome {
    Outcome { index, kind: OutcomeKind::NotWritten, code: String::new(), detail: String::new(), retry_after_ms: 0 }
}
