//! Stopping: nothing new, hand back what is unsent, wait for what is under way, give up in time.

use super::event::Effect;
use super::held::End;
use super::{Carrier, Engine};

/// After the drain timeout connections are closed; this long is left for the verdicts that follow.
const CUT_MS: u64 = 250;
/// And this long for the last calls. Then it ends, whatever is answered.
const FAREWELL_MS: u64 = 2_500;

#[derive(Debug)]
pub(super) struct Drain {
    /// Open transactions are waited for until then.
    until_ms: u64,
    is_cut: bool,
    is_abandoned: bool,
}

impl Drain {
    pub(super) fn wake_ms(&self, now_ms: u64) -> u64 {
        let steps = [self.until_ms, self.until_ms + CUT_MS, self.until_ms + CUT_MS + FAREWELL_MS];
        steps.into_iter().find(|at| *at > now_ms).unwrap_or(u64::MAX)
    }
}

impl Engine {
    pub fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    /// Begins to drain; a second time changes nothing.
    pub(super) fn drain_if(&mut self, drain: bool, now_ms: u64) {
        if drain && self.drain.is_none() {
            let until_ms = now_ms + self.config.drain_timeout_ms;
            self.drain = Some(Drain { until_ms, is_cut: false, is_abandoned: false });
        }
    }

    /// At the timeout: no dot is written any more, and what is then still open is given up as in doubt.
    pub(super) fn drain_step(&mut self, now_ms: u64) {
        let Some(drain) = &mut self.drain else { return };
        if now_ms >= drain.until_ms && !drain.is_cut {
            drain.is_cut = true;
            for held in self.leases.values_mut() {
                held.is_cut = true;
                self.effects.push(Effect::Trust { lease: held.key, until_ms: 0 });
                self.effects.push(Effect::Cut { lease: held.key });
            }
        }
        if now_ms >= drain.until_ms + CUT_MS && !drain.is_abandoned {
            drain.is_abandoned = true;
            // Answers that are still to come are not waited for: what they carried is told again.
            self.checkpoint = Carrier::default();
            self.finish = Carrier::default();
            self.release = Carrier::default();
            for held in self.leases.values_mut() {
                held.carried = None;
                held.close(End::Abandon);
            }
        }
    }

    /// Outcomes may still go by checkpoints: once a drain has cut, they go with the last release.
    pub(super) fn may_checkpoint(&self) -> bool {
        self.may_trust()
    }

    /// Trust may still grow: not once a drain has cut it.
    pub(super) fn may_trust(&self) -> bool {
        self.drain.as_ref().is_none_or(|drain| !drain.is_cut)
    }

    pub(super) fn exit_if_done(&mut self, now_ms: u64) {
        let Some(drain) = &self.drain else { return };
        let is_over = now_ms >= drain.until_ms + CUT_MS + FAREWELL_MS;
        let is_waiting = self.orphans.values().any(|orphan| !orphan.flying.is_empty()) && !drain.is_abandoned;
        let is_clean = self.leases.is_empty() && self.facts.is_empty() && !self.wish.is_owed() && !is_waiting;
        if is_clean || is_over {
            self.has_exited = true;
            self.effects.push(Effect::Exit { leases_held: self.leases.len() });
        }
    }
}
