//! Planted faults, so that a test can show that it would notice them: the only list of them.
//!
//! A place that may be sabotaged asks `planted(Fault::…)`. Without the feature `sabotage` the answer is always no, known
//! to the compiler, and no environment is read. With it, a process shows the faults that `POSTRIDER_SABOTAGE` names
//! (comma-separated), and a test may plant one with `plant`. Never in a release.

/// What can be broken on purpose.
macro_rules! faults {
    ($($(#[$doc:meta])* $fault:ident = $name:literal,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Fault {
            $($(#[$doc])* $fault,)*
        }

        impl Fault {
            pub const ALL: &[Self] = &[$(Self::$fault,)*];

            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$fault => $name,)*
                }
            }
        }
    };
}

faults! {
    /// Reports of lost leases count as if they were held.
    IgnoreFences = "ignore_fences",
    /// A worker sends before its intents are granted.
    SkipIntents = "skip_intents",
    /// A worker writes the final dot however late it is.
    IgnoreDeadline = "ignore_deadline",
    /// A lease that expires ends its recipients in intent as accepted.
    ExpiryIsDone = "expiry_is_done",
    /// A lease that expires leaves its recipients in intent as if nothing had been sent.
    ReclaimWithoutDoubt = "reclaim_without_doubt",
    /// A recipient that ends is not counted.
    CounterNotMoved = "counter_not_moved",
    /// Recipients with the same key are all admitted.
    DedupeOff = "dedupe_off",
    /// The outcomes of a report are taken again when it is repeated.
    RepeatCountsTwice = "repeat_counts_twice",
    /// An `accepted` that comes late changes nothing.
    LateAcceptedIgnored = "late_accepted_ignored",
    /// Leases are taken back right after an outage.
    NoHoldAfterOutage = "no_hold_after_outage",
    /// More intents are granted than the window allows.
    WindowIgnored = "window_ignored",
    /// A cancelled run grants intents.
    CancelSendsOn = "cancel_sends_on",
    /// A paused run is leased and grants intents.
    PauseIgnored = "pause_ignored",
    /// A step of a split is stored wherever the split stands.
    CursorNotCompared = "cursor_not_compared",
    /// A lease is ended with somebody in intent.
    FinishInIntent = "finish_in_intent",
    /// A batch is retired although it changed since it was claimed for history.
    RetireWithoutStamp = "retire_without_stamp",
    /// Intents are granted that cannot end before the hard cap.
    HardCapIgnored = "hard_cap_ignored",
    /// The crash journal does not note the final dot.
    DotNotNoted = "dot_not_noted",
    /// Rate and concurrency are not looked at.
    LimitIgnored = "limit_ignored",
    /// A doubt is resent without saying why.
    ReasonForgotten = "reason_forgotten",
    /// A doubt is resent although the campaign says hold.
    HoldIgnored = "hold_ignored",
    /// A repeated claim leases other batches.
    RepeatedClaimLeases = "repeated_claim_leases",
    /// A worker forgets outcomes whose report was not answered.
    OutcomesForgotten = "outcomes_forgotten",
    /// A reply that was lost counts as a refusal that may be repeated.
    LostReplyIsDeferred = "lost_reply_is_deferred",
    /// What a delayed batch waits for never makes it due.
    DelayedNeverDue = "delayed_never_due",
    /// The facts of a crash journal say `not written` of a dot that may be written.
    JournalDenies = "journal_denies",
    /// Somebody is asked for before the fields that are fetched for them are there.
    FieldsSkipped = "fields_skipped",
    /// A lease that is released with a delay is due at once.
    DelayIgnored = "delay_ignored",
    /// A batch that comes back from a lease is put nowhere.
    BatchForgotten = "batch_forgotten",
    /// Who is erased is granted intents.
    ErasedSentOn = "erased_sent_on",
    /// The reply about somebody who is erased is kept.
    ErasedTextKept = "erased_text_kept",
    /// Who held the split of a run when an address was erased goes on with it.
    ErasedSplitGoesOn = "erased_split_goes_on",
    /// A store that went back in time is taken for one that did not.
    RollbackUnnoticed = "rollback_unnoticed",
    /// What is for a later wave is ready at once.
    EarlyWaves = "early_waves",
    /// A batch is leased as if it had been checked against those who are not sent to.
    SuppressedClaimed = "suppressed_claimed",
    /// Intents are granted in a batch that was not checked against those who are not sent to.
    SuppressedGranted = "suppressed_granted",
    /// A fact from before the store went back leaves no reason.
    LostFactsHealWhole = "lost_facts_heal_whole",
}

#[cfg(not(feature = "sabotage"))]
#[inline(always)]
pub const fn planted(_fault: Fault) -> bool {
    false
}

#[cfg(feature = "sabotage")]
pub use active::{plant, planted};

#[cfg(feature = "sabotage")]
mod active {
    use super::Fault;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static PLANTED: OnceLock<AtomicU64> = OnceLock::new();

    fn faults() -> &'static AtomicU64 {
        PLANTED.get_or_init(|| {
            let named = std::env::var("POSTRIDER_SABOTAGE").unwrap_or_default();
            let is_named = |fault: &&Fault| named.split(',').any(|name| name == fault.name());
            AtomicU64::new(Fault::ALL.iter().filter(is_named).fold(0, |bits, fault| bits | bit(*fault)))
        })
    }

    fn bit(fault: Fault) -> u64 {
        1 << fault as u8
    }

    pub fn planted(fault: Fault) -> bool {
        faults().load(Ordering::Relaxed) & bit(fault) != 0
    }

    /// Plants one fault in this process, or none.
    pub fn plant(fault: Option<Fault>) {
        faults().store(fault.map_or(0, bit), Ordering::SeqCst);
    }
}
