//! What the loop does when sends are to begin before their intents. Test builds only: without the feature
//! `sabotage` nothing here does anything. All planted faults are listed in `postrider_common::sabotage`.

use crate::engine::LeaseKey;
use postrider_common::lease::{Lease, LeaseReport, Outcome};

#[cfg(feature = "sabotage")]
pub(crate) use planted::Sabotage;

#[cfg(not(feature = "sabotage"))]
#[derive(Debug, Default)]
pub(crate) struct Sabotage;

#[cfg(not(feature = "sabotage"))]
impl Sabotage {
    pub(crate) fn from_env() -> Self {
        Self
    }

    pub(crate) fn starts_early(&mut self, _key: LeaseKey, _lease: &Lease) -> Vec<u32> {
        Vec::new()
    }

    pub(crate) fn started_early(&mut self, _key: LeaseKey, _index: u32) -> Started {
        Started::No
    }

    pub(crate) fn withhold(&mut self, _key: LeaseKey, outcome: Outcome) -> Option<Outcome> {
        Some(outcome)
    }

    pub(crate) fn strip(&self, _reports: &mut [LeaseReport]) {}
}

/// What became of a send that began before its intent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Started {
    No,
    #[cfg(feature = "sabotage")]
    Flying,
    #[cfg(feature = "sabotage")]
    Done(Outcome),
}

#[cfg(feature = "sabotage")]
mod planted {
    use super::{Lease, LeaseKey, LeaseReport, Outcome, Started};
    use postrider_common::ids::Fence;
    use postrider_common::lease::OutcomeKind;
    use postrider_common::sabotage::{Fault, planted};
    use postrider_common::state::RecipientState;
    use std::collections::BTreeMap;

    #[derive(Debug)]
    enum Early {
        /// `is_wanted`: its intent was granted meanwhile.
        Flying {
            is_wanted: bool,
        },
        Done(Outcome),
    }

    /// `Fault::SkipIntents`: every due recipient is sent at once, and its intent is asked for when its verdict is
    /// there.
    #[derive(Debug, Default)]
    pub(crate) struct Sabotage {
        skips_intents: bool,
        early: BTreeMap<(LeaseKey, u32), Early>,
        keys: BTreeMap<Fence, LeaseKey>,
    }

    impl Sabotage {
        pub(crate) fn from_env() -> Self {
            Fault::ALL.iter().filter(|fault| planted(**fault)).for_each(|fault| {
                tracing::error!(fault = fault.name(), "a fault is planted in this worker");
            });
            Self { skips_intents: planted(Fault::SkipIntents), early: BTreeMap::new(), keys: BTreeMap::new() }
        }

        pub(crate) fn starts_early(&mut self, key: LeaseKey, lease: &Lease) -> Vec<u32> {
            if !self.skips_intents {
                return Vec::new();
            }
            self.keys.insert(lease.fence.clone(), key);
            let is_due = |state| matches!(state, RecipientState::Pending | RecipientState::Deferred);
            let recipients = (0u32..).zip(&lease.recipients);
            let due = recipients.filter(|(_, recipient)| is_due(recipient.state) && recipient.not_before_ms == 0);
            let due: Vec<u32> = due.map(|(index, _)| index).collect();
            for index in &due {
                self.early.insert((key, *index), Early::Flying { is_wanted: false });
            }
            due
        }

        pub(crate) fn started_early(&mut self, key: LeaseKey, index: u32) -> Started {
            match self.early.remove(&(key, index)) {
                None => Started::No,
                Some(Early::Done(outcome)) => Started::Done(outcome),
                Some(Early::Flying { .. }) => {
                    self.early.insert((key, index), Early::Flying { is_wanted: true });
                    Started::Flying
                }
            }
        }

        /// None: the verdict waits until its intent is granted.
        pub(crate) fn withhold(&mut self, key: LeaseKey, outcome: Outcome) -> Option<Outcome> {
            let at = (key, outcome.index);
            match self.early.remove(&at) {
                None | Some(Early::Flying { is_wanted: true }) => Some(outcome),
                Some(Early::Flying { is_wanted: false } | Early::Done(_)) => {
                    if outcome.kind != OutcomeKind::NotWritten {
                        self.early.insert(at, Early::Done(outcome));
                    }
                    None
                }
            }
        }

        /// Takes out the wishes for intents of what is still being sent.
        pub(crate) fn strip(&self, reports: &mut [LeaseReport]) {
            for report in reports {
                let Some(key) = self.keys.get(&report.fence) else { continue };
                let is_flying = |index: &u32| matches!(self.early.get(&(*key, *index)), Some(Early::Flying { .. }));
                report.intents.retain(|index| !is_flying(index));
            }
        }
    }
}
