//! Points that must be reached sometimes: a simulation that never gets there shows nothing about them.

use std::collections::BTreeMap;

macro_rules! points {
    ($($point:ident = $name:literal,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Point {
            $($point,)*
        }

        impl Point {
            pub const ALL: &[Self] = &[$(Self::$point,)*];

            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }
        }
    };
}

points! {
    DoubtResent = "a doubt was resent",
    DoubtHeld = "a doubt was held",
    DoubtAtCancel = "a recipient ended unknown in a cancelled run",
    LeaseExpired = "a lease expired",
    LeaseTakenOver = "an expired lease was taken over",
    FenceRefused = "a report with an old fence was refused",
    FactCorrected = "a late fact changed a recipient",
    FactAfterSettling = "a late fact corrected a settled batch",
    SplitTakenOver = "a split was gone on with by another claim",
    SplitRefused = "a stale step of a split was refused",
    WaveAwaited = "a recipient was sent to when the time of the wave had come",
    BatchDelayed = "a batch waited for a retry",
    HoldAfterOutage = "reclaiming was held after an outage",
    StoreRestarted = "the store came back with all it had answered",
    JournalTold = "a crash journal told something",
    JournalFromAnotherBoot = "a crash journal of another boot was read",
    WorkerDrained = "a worker handed everything back and ended",
    DrainAbandoned = "a drain gave up an open transaction",
    ClaimRepeated = "a repeated claim was answered with the same leases",
    CheckpointRepeated = "a late or repeated report got no new intents",
    Throttled = "an intent was refused by a limit",
    PausedRefused = "an intent was refused by a pause",
    CancelledRefused = "an intent was refused by a cancel",
    UncheckedRefused = "an intent was refused until the batch was compared with who is not sent to",
    SuppressedWhileLeased = "somebody in a leased batch was suppressed",
    SuppressedAtSplit = "somebody was suppressed when the audience was split",
    HardCapRefused = "an intent was refused by the hard cap",
    DeadlineMet = "a final dot was not written because the lease was over",
    ReplyLost = "the reply to a final dot was lost",
    ConnectionCut = "a connection was cut in the middle",
    RelayDown = "a worker found its relay down",
    DeadOnArrival = "a reused connection was dead and another was tried",
    Exhausted = "a recipient was given up",
    Rejected = "a recipient was rejected",
    SubmitRepeated = "a submit was repeated",
    HistoryRetired = "a settled batch was retired",
    HistoryCorrected = "a retired batch was corrected",
    SegmentOrphaned = "a claim for history was made again",
    PartLeased = "a part of a suspect batch was leased",
    DeadLetter = "one that ends workers was set aside",
    AcceptedAfterDoubt = "an accepted recipient keeps its reason",
    LossUnseen = "the store lost what nobody had been told",
    RollbackNoticed = "a store that went back was noticed before anything was leased",
    RollbackNoticedLate = "a store that went back was noticed after another master had confirmed it",
    RollbackHealed = "a fact from before the store went back settled somebody",
    RollbackDoubted = "a recipient came in doubt because the store went back",
    RunRecreated = "a run that was lost was submitted again",
    RunForgotten = "a run was forgotten",
    SegmentSwept = "a segment that nobody names was removed",
    FieldsFetched = "the fields of a lease were fetched",
    FieldsFailed = "the fields of a lease were not fetched",
    LeasePostponed = "a lease went back with a delay",
    BreakerOpened = "the breaker of an endpoint opened",
    BreakerClosed = "the breaker of an endpoint closed",
    ReconcilerRound = "the reconciler went round everything",
}

#[derive(Debug, Clone, Default)]
pub struct Coverage(pub BTreeMap<Point, u64>);

impl Coverage {
    pub fn reach(&mut self, point: Point) {
        *self.0.entry(point).or_default() += 1;
    }

    pub fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|(point, count)| *self.0.entry(*point).or_default() += count);
    }

    pub fn missed(&self) -> Vec<&'static str> {
        Point::ALL.iter().filter(|point| !self.0.contains_key(point)).map(|point| point.name()).collect()
    }
}
