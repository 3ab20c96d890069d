//! What random calls got to.

/// What random calls got to, summed over runs; a comparison that reaches nothing shows nothing.
#[derive(Debug, Default)]
pub struct Reached {
    pub accepted: u64,
    pub rejected: u64,
    pub exhausted: u64,
    pub cancelled: u64,
    pub unknown: u64,
    pub settled: u64,
    pub resent_reply_lost: u64,
    pub resent_outcome_not_recorded: u64,
    pub leases_expired: u64,
    pub leases_taken_over: u64,
    pub retired: u64,
    /// Batches that a fact corrected after they were retired.
    pub corrected: u64,
    pub throttled: u64,
    /// Leases for a part of a batch.
    pub suspect: u64,
    pub dead: u64,
    pub replayed: u64,
    pub purged: u64,
    /// Recipients that a retry made pending again.
    pub reopened: u64,
    /// Calls that were made again because their answer was lost.
    pub retried: u64,
    pub rollbacks: u64,
    /// Shares of a relay with connections and with sends refused.
    pub shared: u64,
    /// Runs that a schedule began.
    pub fired: u64,
    /// Batches that were added before their time.
    pub waited: u64,
    /// Recipients that were erased while they were pending, and splits that were taken away.
    pub erased: u64,
    /// Audiences that took the place of where they came from.
    pub pinned: u64,
    /// Recipients that ended because they are not sent to, and intents refused because nobody had looked.
    pub suppressed: u64,
    pub unchecked: u64,
    /// Runs that were forgotten.
    pub forgotten: u64,
}

impl Reached {
    pub(super) fn add(&mut self, run: &crate::RunRecord) {
        self.accepted += run.recipients.accepted;
        self.rejected += run.recipients.rejected;
        self.exhausted += run.recipients.exhausted;
        self.cancelled += run.recipients.cancelled;
        self.unknown += run.recipients.unknown;
        self.settled += run.batches.settled;
        self.resent_reply_lost += run.resent_reply_lost;
        self.resent_outcome_not_recorded += run.resent_outcome_not_recorded;
        self.leases_expired += run.leases_expired;
        self.leases_taken_over += run.leases_taken_over;
    }

    pub(super) fn add_batches(&mut self, batches: &[crate::BatchRecord]) {
        self.retired += batches.iter().filter(|batch| batch.is_retired()).count() as u64;
        self.corrected += batches.iter().filter(|batch| batch.segments.len() > 1).count() as u64;
    }

    pub fn is_everything(&self) -> bool {
        let all = [
            self.accepted,
            self.rejected,
            self.exhausted,
            self.cancelled,
            self.unknown,
            self.settled,
            self.resent_reply_lost,
            self.resent_outcome_not_recorded,
            self.leases_expired,
            self.leases_taken_over,
            self.retired,
            self.corrected,
            self.throttled,
            self.suspect,
            self.dead,
            self.replayed,
            self.purged,
            self.reopened,
            self.retried,
            self.rollbacks,
            self.shared,
            self.fired,
            self.waited,
            self.erased,
            self.pinned,
            self.suppressed,
            self.unchecked,
            self.forgotten,
        ];
        all.iter().all(|count| *count > 0)
    }
}
