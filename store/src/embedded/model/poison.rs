//! Who ends workers: what the end of a lease says about the recipients of its batch, and which part of the batch is
//! leased next. Pure.
//!
//! An expiry without an outcome is a *strike*; only who was in intent then can have done it. After `STRIKES_MAX` in a
//! row the batch is suspect: a lease is for the first half of the suspects, so each one that expires, and each
//! that does not, halves them, until one stands alone.

use postrider_common::lease::IndexRange;
use postrider_common::limits::{STRIKES_MAX, UNHEARD_MAX};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What is held against a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Suspicion {
    /// Expiries in a row that count.
    strikes: u32,
    /// Leases in a row that expired without a word from their worker.
    unheard: u32,
    /// In intent at each of the strikes; at any, when nobody was at all.
    suspects: BTreeSet<u32>,
    /// What the next lease is for. None: the whole batch.
    pub only: Option<IndexRange>,
}

/// How an expired lease was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expired {
    /// Its worker reported an outcome, or a fact told of one.
    pub had_outcome: bool,
    /// Its worker reported anything at all.
    pub was_heard: bool,
    /// In intent at the end, and those of whom facts told that the end came before their outcome.
    pub fallen: BTreeSet<u32>,
}

/// What an expiry means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is no strike.
    Nothing,
    Strike,
    /// This recipient ends workers.
    Recipient(u32),
    /// Workers end before they begin with anybody.
    Batch,
}

impl Suspicion {
    fn is_suspect(&self) -> bool {
        self.strikes >= STRIKES_MAX
    }

    /// An expiry that counts: not one that an outage may have caused.
    pub fn expired(&mut self, lease: &Expired) -> Verdict {
        if lease.fallen.is_empty() {
            self.unheard = if lease.was_heard { 0 } else { self.unheard + 1 };
            if self.unheard < UNHEARD_MAX {
                return Verdict::Nothing;
            }
            *self = Self::default();
            return Verdict::Batch;
        }
        self.unheard = 0;
        if lease.had_outcome && !self.is_suspect() {
            return Verdict::Nothing;
        }
        self.strikes += 1;
        let both: BTreeSet<u32> = self.suspects.intersection(&lease.fallen).copied().collect();
        match both.is_empty() {
            // Nobody was there each time, so there are several, or none.
            true => self.suspects.extend(&lease.fallen),
            false => self.suspects = both,
        }
        match self.suspects.first() {
            Some(only) if self.is_suspect() && self.suspects.len() == 1 => {
                let index = *only;
                *self = Self::default();
                Verdict::Recipient(index)
            }
            Some(_) | None => Verdict::Strike,
        }
    }

    /// This recipient got as far as an outcome.
    pub fn outcome(&mut self, index: u32) {
        if self.is_suspect() {
            self.suspects.remove(&index);
        } else {
            self.suspects.clear();
        }
        self.forgive();
        self.unheard = 0;
    }

    /// Strikes are held against somebody.
    fn forgive(&mut self) {
        if self.suspects.is_empty() {
            self.strikes = 0;
        }
    }

    /// The batch goes back: what its next lease is for.
    pub fn put_back(&mut self, is_pending: impl Fn(u32) -> bool) {
        self.suspects.retain(|index| is_pending(*index));
        self.forgive();
        let half = self.suspects.len().div_ceil(2).saturating_sub(1);
        self.only = match (self.suspects.first(), self.suspects.iter().nth(half)) {
            (Some(first), Some(last)) if self.is_suspect() => Some(IndexRange { first: *first, last: *last }),
            _ => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fallen(indexes: impl IntoIterator<Item = u32>) -> Expired {
        Expired { had_outcome: false, was_heard: true, fallen: indexes.into_iter().collect() }
    }

    fn suspect(indexes: impl IntoIterator<Item = u32> + Clone) -> Suspicion {
        let mut suspicion = Suspicion::default();
        for _ in 0..STRIKES_MAX {
            assert_eq!(suspicion.expired(&fallen(indexes.clone())), Verdict::Strike);
        }
        suspicion.put_back(|_| true);
        suspicion
    }

    #[test]
    fn who_was_always_there_alone_is_the_one() {
        let mut suspicion = Suspicion::default();
        assert_eq!(suspicion.expired(&fallen([1, 2, 7])), Verdict::Strike);
        assert_eq!(suspicion.expired(&fallen([7, 8])), Verdict::Strike);
        suspicion.put_back(|_| true);
        assert_eq!(suspicion.only, None, "two are not enough");
        assert_eq!(suspicion.expired(&fallen([7, 9])), Verdict::Recipient(7));
        assert_eq!(suspicion, Suspicion::default(), "the others are free");
    }

    #[test]
    fn an_outcome_takes_the_strikes_back() {
        let mut suspicion = Suspicion::default();
        for _ in 0..10 {
            assert_eq!(suspicion.expired(&fallen([1])), Verdict::Strike);
            assert_eq!(suspicion.expired(&fallen([1])), Verdict::Strike);
            suspicion.outcome(5);
        }
        let with_outcome = Expired { had_outcome: true, ..fallen([1]) };
        assert_eq!(suspicion.expired(&with_outcome), Verdict::Nothing);
    }

    #[test]
    fn halves_lead_to_the_one_wherever_it_is() {
        for culprit in 0..100 {
            let mut suspicion = suspect(0..100);
            let (mut settled, mut expiries) = (BTreeSet::new(), STRIKES_MAX);
            loop {
                let only = suspicion.only.expect("a suspect batch is leased in parts");
                if only.contains(culprit) {
                    expiries += 1;
                    let verdict = suspicion.expired(&fallen((only.first..=only.last).filter(|i| !settled.contains(i))));
                    if verdict == Verdict::Recipient(culprit) {
                        break;
                    }
                    assert_eq!(verdict, Verdict::Strike);
                } else {
                    for index in only.first..=only.last {
                        settled.insert(index);
                        suspicion.outcome(index);
                    }
                }
                suspicion.put_back(|index| !settled.contains(&index));
            }
            assert!(expiries <= STRIKES_MAX + 8, "{culprit}: {expiries} workers");
        }
    }

    #[test]
    fn several_are_found_one_after_the_other() {
        let mut suspicion = Suspicion::default();
        for index in [3, 60, 90] {
            assert_eq!(suspicion.expired(&fallen([index])), Verdict::Strike);
        }
        suspicion.put_back(|_| true);
        assert_eq!(suspicion.only, Some(IndexRange { first: 3, last: 60 }));
        assert_eq!(suspicion.expired(&fallen([3])), Verdict::Recipient(3));
    }

    #[test]
    fn suspects_that_end_otherwise_leave_no_suspicion() {
        let mut suspicion = suspect([4, 5]);
        suspicion.put_back(|_| false);
        assert_eq!(suspicion, Suspicion::default());
        let mut suspicion = suspect([4, 5]);
        suspicion.outcome(4);
        suspicion.outcome(5);
        suspicion.put_back(|_| true);
        assert_eq!(suspicion, Suspicion::default());
    }

    #[test]
    fn strikes_of_those_that_ended_are_not_held_against_another() {
        let mut suspicion = Suspicion::default();
        for index in 0..10 {
            assert_eq!(suspicion.expired(&fallen([index])), Verdict::Strike, "it was there once");
            suspicion.put_back(|other| other > index);
        }
        let mut suspicion = suspect([4, 5]);
        suspicion.outcome(4);
        suspicion.outcome(5);
        let beside = Expired { had_outcome: true, ..fallen([3]) };
        assert_eq!(suspicion.expired(&beside), Verdict::Nothing);
    }

    #[test]
    fn a_batch_that_nobody_is_heard_of_again_is_set_aside_late() {
        let unheard = Expired { was_heard: false, ..fallen([]) };
        let mut suspicion = Suspicion::default();
        for _ in 1..UNHEARD_MAX {
            assert_eq!(suspicion.expired(&unheard), Verdict::Nothing);
        }
        let mut heard = suspicion.clone();
        assert_eq!(heard.expired(&fallen([])), Verdict::Nothing);
        assert_eq!(heard.expired(&unheard), Verdict::Nothing);
        assert_eq!(suspicion.expired(&unheard), Verdict::Batch);
    }
}
