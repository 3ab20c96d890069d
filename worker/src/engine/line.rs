//! One kind of call: at most one of it is under way, and a failed one is repeated after a pause.

use super::event::CallId;
use postrider_common::limits::LEASES_PER_CALL_MAX;

/// The first pause; short, because the next try goes to another master.
const PAUSE_FIRST_MS: u64 = 50;
/// Pauses double up to this: a returning master is noticed well within the shortest lease.
const PAUSE_MS_MAX: u64 = 2_000;

#[derive(Debug)]
pub(super) struct Line {
    open: Option<CallId>,
    failures: u32,
    retry_at_ms: u64,
    /// Leases in the next call: halved when contents are refused, so that one lease that no master
    /// accepts cannot keep the others from being reported.
    leases_max: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { open: None, failures: 0, retry_at_ms: 0, leases_max: LEASES_PER_CALL_MAX }
    }
}

impl Line {
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub(super) fn is(&self, call: CallId) -> bool {
        self.open == Some(call)
    }

    /// Nothing is under way and no pause runs.
    pub(super) fn is_free(&self, now_ms: u64) -> bool {
        self.open.is_none() && now_ms >= self.retry_at_ms
    }

    pub(super) fn leases_max(&self) -> usize {
        self.leases_max
    }

    /// When a pause ends, if one runs.
    pub(super) fn wake_ms(&self) -> Option<u64> {
        (self.open.is_none() && self.failures > 0).then_some(self.retry_at_ms)
    }

    pub(super) fn opened(&mut self, call: CallId) {
        self.open = Some(call);
    }

    pub(super) fn answered(&mut self) {
        self.open = None;
        self.failures = 0;
        self.retry_at_ms = 0;
        self.leases_max = (self.leases_max * 2).min(LEASES_PER_CALL_MAX);
    }

    /// What is left is not to be said again before then.
    pub(super) fn answered_in_part(&mut self, retry_at_ms: u64) {
        self.answered();
        self.failures = 1;
        self.retry_at_ms = retry_at_ms;
    }

    /// True: the contents were refused and there is nothing left to make smaller.
    pub(super) fn failed(&mut self, now_ms: u64, refused: bool, random: u64) -> bool {
        self.open = None;
        let bound = (PAUSE_FIRST_MS << self.failures.min(10)).min(PAUSE_MS_MAX);
        self.failures = self.failures.saturating_add(1);
        self.retry_at_ms = now_ms + bound / 2 + random % (bound / 2 + 1);
        let is_hopeless = refused && self.leases_max == 1;
        if refused {
            self.leases_max = (self.leases_max / 2).max(1);
        }
        is_hopeless
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_bound_and_end_with_an_answer() {
        let mut line = Line::default();
        let mut now = 1000;
        for bound in [50, 100, 200, 400, 800, 1600, 2000, 2000] {
            line.opened(CallId(1));
            assert!(!line.is_free(now));
            line.failed(now, false, u64::MAX);
            let wake = line.wake_ms().unwrap();
            assert!((now + bound / 2..=now + bound).contains(&wake), "{bound}");
            assert!(!line.is_free(wake - 1) && line.is_free(wake));
            now = wake;
        }
        line.opened(CallId(2));
        line.answered();
        assert!(line.is_free(0) && line.wake_ms().is_none());
    }

    #[test]
    fn refused_contents_become_smaller_until_one_is_left() {
        let mut line = Line::default();
        let mut tries = 0;
        while !line.failed(0, true, 0) {
            tries += 1;
        }
        assert_eq!((tries, line.leases_max()), (6, 1));
        line.answered();
        assert_eq!(line.leases_max(), 2);
    }
}
