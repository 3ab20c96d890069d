//! What was done to whom and when: the second source of the judge.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Worker,
    Master,
    Redis,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Worker => "worker",
            Self::Master => "master",
            Self::Redis => "redis",
        })
    }
}

/// What a worker wrote before it was stopped reaches the sink's ledger within this.
const IN_KERNEL_MS: i64 = 500;

#[derive(Debug, Clone)]
pub struct Fault {
    pub role: Role,
    pub name: String,
    pub at_ms: i64,
    /// Recipients in intent at that instant: of the worker itself, or of the fleet for the others.
    pub in_intent: u32,
    /// Slots of the same.
    pub slots: u32,
    /// Outcomes can have been cut off by it: a worker killed or stopped, an outage longer than the leases.
    /// Masters and stores that come back sooner may cost nothing.
    pub cuts_off: bool,
    /// Where a worker's connections come from; a transmission from there may have lost its outcome.
    pub source: Option<String>,
}

impl Fault {
    /// A kill that found nothing in flight proves nothing.
    pub fn hit(&self) -> bool {
        self.in_intent * 2 >= self.slots
    }
}

#[derive(Debug, Clone, Default)]
pub struct FaultLog {
    pub faults: Vec<Fault>,
    /// Outcomes that a store had recorded and forgot, because it went back to a copy.
    pub forgotten: u64,
}

impl FaultLog {
    pub fn hits(&self) -> usize {
        self.faults.iter().filter(|fault| fault.hit()).count()
    }

    /// Upper bound on the recipients whose outcome the faults can have cut off.
    pub fn bound(&self) -> u64 {
        let cut_off = self.faults.iter().filter(|fault| fault.cuts_off).map(|fault| u64::from(fault.in_intent));
        cut_off.sum::<u64>() + self.forgotten
    }

    /// The outcome of a transmission from there at that instant can have been cut off by a fault.
    pub fn excuse(&self, source: &str, at_ms: i64) -> bool {
        let of_it = |fault: &&Fault| fault.cuts_off && fault.source.as_deref() == Some(source);
        self.faults.iter().filter(of_it).any(|fault| at_ms <= fault.at_ms + IN_KERNEL_MS)
    }

    pub fn describes(&self) -> String {
        let each: Vec<String> = self
            .faults
            .iter()
            .map(|fault| format!("{} {} ({} of {} in intent)", fault.role, fault.name, fault.in_intent, fault.slots))
            .collect();
        if each.is_empty() { "none".to_owned() } else { each.join(", ") }
    }
}
