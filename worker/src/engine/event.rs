//! What the engine is told and what it asks for. Values only.

use postrider_common::ids::{LaneName, RequestId};
use postrider_common::lease::{Fact, FactStatus, Lease, LeaseAnswer, LeaseReport, Outcome};
use postrider_common::relay::{RelayShare, RelayWish};
use std::sync::Arc;

/// Names a lease between engine and shell; chosen by the shell, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseKey(pub u64);

/// Names one call, so that an answer finds what was asked; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// Where merge fields are fetched. Leases of the same one share its breaker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint(pub Arc<str>);

/// How the merge fields of a lease were fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// They are at hand.
    Done,
    /// They are not.
    Failed {
        /// The same again at once may go well.
        is_passing: bool,
        /// The endpoint asks to be left alone for so long.
        retry_after_ms: u64,
        /// Uniform bits for the jitter of the next try.
        random: u64,
    },
}

/// A lease as it arrived.
#[derive(Debug, Clone)]
pub struct Offer {
    pub key: LeaseKey,
    pub lease: Lease,
    /// False: the payload cannot be read or its definition is missing. It is handed back, unsent.
    pub is_usable: bool,
    /// Its merge fields are fetched there before anybody of it is asked for; None: all are in the payload.
    pub endpoint: Option<Endpoint>,
}

#[derive(Debug, Clone)]
pub enum Event {
    /// A Lease call was answered. `sent_at_ms` is the boot time before the request was sent.
    Leased {
        call: CallId,
        sent_at_ms: u64,
        held_ms: u64,
        offers: Vec<Offer>,
        drain: bool,
    },
    /// A Checkpoint, Finish or Release call was answered; answers in the order of the request.
    Answered {
        call: CallId,
        sent_at_ms: u64,
        answers: Vec<LeaseAnswer>,
        drain: bool,
    },
    FactsAnswered {
        call: CallId,
        statuses: Vec<FactStatus>,
    },
    /// A call got no answer that can be used. It may have happened.
    CallFailed {
        call: CallId,
        /// The contents were refused: the same again is refused again.
        refused: bool,
        /// Uniform bits for the jitter of the next try.
        random: u64,
    },
    /// A transaction ended, or was never begun (`NotWritten`).
    Sent {
        lease: LeaseKey,
        outcome: Outcome,
    },
    /// A transaction of that lease entered a new SMTP phase.
    Progress {
        lease: LeaseKey,
    },
    /// A relay, by its place in the configuration, can or cannot be reached.
    Relay {
        index: usize,
        is_up: bool,
    },
    /// A relay's pool keeps to `allowed` connections, has `open` ones, and has use for `wanted`. Told whenever one of
    /// them changes, of limited relays.
    Connections {
        index: usize,
        allowed: u32,
        open: u32,
        wanted: u32,
    },
    /// A ShareRelays call was answered, in the order of the wishes. `sent_at_ms` as in `Leased`.
    Shared {
        call: CallId,
        sent_at_ms: u64,
        shares: Vec<RelayShare>,
    },
    /// What `Effect::Fetch` asked for ended.
    Fetched {
        lease: LeaseKey,
        fetched: Fetched,
    },
    /// Time has passed; see `Engine::next_wake_ms`.
    Tick,
    /// Drain and exit. May come again.
    Stop,
}

/// What to ask of a Lease call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseWish {
    pub request: RequestId,
    pub batches_max: u32,
    /// Empty: all.
    pub lanes: Vec<LaneName>,
    pub wait_ms: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Replaces a Lease call that is still open: that one is given up, its answer is not needed.
    Lease(LeaseWish),
    Checkpoint(Vec<LeaseReport>),
    Finish(Vec<LeaseReport>),
    Release {
        reports: Vec<LeaseReport>,
        abandon: bool,
        /// What is handed back is not due before so long from now.
        delay_ms: u64,
    },
    Facts(Vec<Fact>),
    ShareRelays {
        sequence: u64,
        wishes: Vec<RelayWish>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make the call; exactly one event must follow, an answer or `CallFailed`.
    Call { id: CallId, call: Call, timeout_ms: u64 },
    /// From now on no final dot of this lease may be written at or after this boot time.
    Trust { lease: LeaseKey, until_ms: u64 },
    /// Send to one recipient through that relay; exactly one `Sent` must follow.
    StartSend { lease: LeaseKey, index: u32, relay: usize },
    /// Fetch the merge fields of these recipients; exactly one `Fetched` must follow.
    Fetch { lease: LeaseKey, indexes: Vec<u32> },
    /// The breaker of an endpoint opened or closed.
    Breaker { endpoint: Endpoint, is_open: bool },
    /// From now on the pool of that relay may have so many connections; those above are closed when what they carry
    /// has ended, or at once (`cut`). Limited relays begin with none.
    Allow { relay: usize, connections: u32, cut: bool },
    /// Hand back (`NotWritten`) what was told to start and has not begun.
    Recall { lease: LeaseKey },
    /// Recall, and close the connections of transactions whose final dot is not yet written.
    Cut { lease: LeaseKey },
    /// Cut for good: the lease is over. Verdicts of what is still open are expected all the same.
    Forget {
        lease: LeaseKey,
        /// Recipients whose outcome is still to be told, as a fact; of the others nothing is owed.
        owed: Vec<u32>,
    },
    /// A master has taken these outcomes, or they are given up: they will not be told again.
    Told { lease: LeaseKey, indexes: Vec<u32> },
    /// Everything is handed back or given up. Nothing comes after it.
    Exit {
        /// Leases that no master confirmed as handed back; they return when they expire.
        leases_held: usize,
    },
}
