//! The set of those who are not sent to, and what becomes of them in a batch.

use super::Model;
use super::batch::Place;
use crate::api::{
    Suppress, SuppressRecipients, SuppressedRecipients, Suppressing, SuppressionChange, SuppressionRecord,
    SuppressionSet,
};
use postrider_common::ids::BatchId;
use postrider_common::sabotage::{Fault, planted};
use postrider_common::state::RecipientState;
use postrider_common::suppression::{SuppressionHold, SuppressionKey, SuppressionReason, SuppressionScope};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Suppressions {
    /// Grows with every change, and by the clock, so that a store that was set back gives none again.
    pub number: u64,
    check: String,
    all: BTreeMap<SuppressionKey, Subject>,
}

/// Never without holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Subject {
    #[serde(with = "serde_bytes")]
    name: Vec<u8>,
    /// By the scope as text.
    holds: BTreeMap<String, SuppressionHold>,
}

impl Suppressions {
    /// True: something is as it was not before.
    fn change(&mut self, now: i64, change: SuppressionChange) -> bool {
        match change {
            SuppressionChange::Add { key, scope, reason, at_ms, subject } => {
                let hold = SuppressionHold { scope, reason, at_ms: at_ms.unwrap_or(now) };
                self.add(key, subject, hold)
            }
            SuppressionChange::Remove { key, scope } => self.remove(key, scope),
            SuppressionChange::Unname { key } => {
                let named = self.all.get_mut(&key).filter(|subject| !subject.name.is_empty());
                named.map(|subject| subject.name.clear()).is_some()
            }
        }
    }

    fn add(&mut self, key: SuppressionKey, name: Vec<u8>, hold: SuppressionHold) -> bool {
        let subject = self.all.entry(key).or_default();
        let is_named = subject.name.is_empty() && !name.is_empty();
        if is_named {
            subject.name = name;
        }
        let scope = hold.scope.to_string();
        let is_graver = subject.holds.get(&scope).is_none_or(|known| hold.reason < known.reason);
        if is_graver {
            subject.holds.insert(scope, hold);
        }
        is_named || is_graver
    }

    fn remove(&mut self, key: SuppressionKey, scope: Option<SuppressionScope>) -> bool {
        let Some(subject) = self.all.get_mut(&key) else { return false };
        let changed = match scope {
            Some(scope) => subject.holds.remove(&scope.to_string()).is_some(),
            None => {
                subject.holds.clear();
                true
            }
        };
        if subject.holds.is_empty() {
            self.all.remove(&key);
        }
        changed
    }

    fn record(&self, key: &SuppressionKey) -> Option<SuppressionRecord> {
        let subject = self.all.get(key)?;
        let holds = subject.holds.values().cloned().collect();
        Some(SuppressionRecord { key: *key, subject: subject.name.clone(), holds })
    }
}

impl Model {
    pub fn suppress(&mut self, now: i64, suppress: Suppress) -> Suppressing {
        let Suppress { check, changes } = suppress;
        let set = &mut self.suppressions;
        if !set.check.is_empty() && set.check != check {
            return Suppressing::OtherKey;
        }
        set.check = check;
        set.number = (set.number + 1).max(u64::try_from(now).unwrap_or(0));
        let changed = changes.into_iter().map(|change| u64::from(set.change(now, change))).sum();
        let number = set.number;
        self.lineage.grow();
        Suppressing::Done { number, changed }
    }

    pub fn suppression_set(&self) -> SuppressionSet {
        let Suppressions { number, check, all } = &self.suppressions;
        SuppressionSet { number: *number, count: all.len() as u64, check: check.clone() }
    }

    pub fn suppressions_of(&self, keys: &[SuppressionKey]) -> Vec<Option<SuppressionRecord>> {
        keys.iter().map(|key| self.suppressions.record(key)).collect()
    }

    /// In order of their keys, after `after`.
    pub fn suppressions_after(&self, after: Option<SuppressionKey>, limit: usize) -> Vec<SuppressionRecord> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        let keys = self.suppressions.all.range((from, Unbounded)).map(|(key, _)| key);
        keys.take(limit).filter_map(|key| self.suppressions.record(key)).collect()
    }

    /// The batch was checked at the number of the set that there is now.
    pub(super) fn is_checked(&self, id: &BatchId) -> bool {
        self.batches.get(id).is_none_or(|batch| batch.checked >= self.suppressions.number)
    }

    pub fn suppress_recipients(&mut self, now: i64, found: SuppressRecipients) -> SuppressedRecipients {
        let SuppressRecipients { batch: id, fence, checked, recipients } = found;
        let base = self.lineage.base;
        let Some(batch) = self.batches.get(&id).filter(|_| self.runs.contains_key(&id.run)) else {
            return SuppressedRecipients::Lost;
        };
        let is_leased = match (&batch.place, &fence) {
            (Place::Leased(hold), Some(fence)) => {
                if hold.fence.epoch < base || (hold.fence != *fence && !planted(Fault::IgnoreFences)) {
                    return SuppressedRecipients::Lost;
                }
                true
            }
            (Place::Ready | Place::Delayed(_), None) => false,
            (Place::Leased(_), None)
            | (Place::Ready | Place::Delayed(_), Some(_))
            | (Place::Dead | Place::Settled, _) => return SuppressedRecipients::Lost,
        };
        self.lineage.grow();
        self.suspect(now, &id);
        let mut ended = Vec::new();
        let mut again = false;
        for (index, reason) in recipients {
            again |= self.suppress_one(now, &id, index, reason, &mut ended);
        }
        if let Some(batch) = self.batches.get_mut(&id) {
            batch.checked = batch.checked.max(checked);
            batch.check_again |= again;
        }
        if !is_leased {
            self.put_back(now, &id);
        }
        SuppressedRecipients::Done { ended }
    }

    /// True: is in intent, and to be looked at again when pending again.
    fn suppress_one(
        &mut self,
        now: i64,
        id: &BatchId,
        index: u32,
        reason: SuppressionReason,
        ended: &mut Vec<(u32, RecipientState)>,
    ) -> bool {
        let state = self.change(now, id, index, |entry| {
            let before = entry.state;
            if matches!(before, RecipientState::Pending | RecipientState::Deferred) {
                entry.suppress(now, reason);
            }
            ((before, entry.state), Default::default())
        });
        let Some((before, after)) = state else { return false };
        if before != after {
            ended.push((index, after));
        }
        after == RecipientState::Intent
    }
}
