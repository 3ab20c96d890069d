//! What a seed is made of. Not every seed has every fault: what always comes together hides what comes alone.

use crate::random::Random;

/// Faults happen until here, in milliseconds of virtual time; then everything heals.
pub const FAULTS_END_MS: u64 = 12_000;
/// Most of the sending happens until here, so faults begin by then.
pub const BUSY_MS: u64 = 4_000;
/// From the end of the faults until every run has ended, everybody has drained and all history is written: a lost
/// reply alone may take the ten minutes that RFC 5321 gives the final dot.
pub const CONVERGE_MS: u64 = 1_800_000;

/// Chances are in thousandths, lengths in milliseconds.
#[derive(Debug, Clone, Default)]
pub struct Mix {
    pub is_calm: bool,
    pub ttl_ms: u64,
    pub grace_ms: u64,
    pub hard_cap_ms: u64,
    pub window: u32,
    pub masters: u64,
    pub workers: u64,
    pub slots: u64,
    pub connections: u64,
    /// Of the large run.
    pub recipients: u64,
    /// Many destinations, so that a split takes several steps.
    pub is_wide: bool,
    pub holds_unknown: bool,
    /// Some of the recipients are for a later wave.
    pub has_waves: bool,
    pub is_limited: bool,
    pub retry_ttl_ms: u64,
    /// Bytes on a connection to the relay take up to this long.
    pub lag_ms: u64,
    // Calls between workers and masters.
    pub lose: u64,
    pub repeat: u64,
    pub slow: u64,
    // Calls between masters and the store.
    pub store_lose: u64,
    pub store_repeat: u64,
    pub store_slow: u64,
    // How often each happens.
    pub worker_crashes: u64,
    pub master_crashes: u64,
    pub worker_stops: u64,
    pub master_stops: u64,
    pub partitions: u64,
    pub store_restarts: u64,
    /// The store comes back older than it was.
    pub rollbacks: u64,
    pub clock_steps: u64,
    /// Runs are forgotten so long after they ended; None: they are not.
    pub keep_ms: Option<u64>,
    pub drains: u64,
    pub relay_falls: u64,
    pub run_pauses: u64,
    pub lane_pauses: u64,
    pub cancels: u64,
    /// Addresses that are not to be sent to from then on.
    pub suppressions: u64,
    /// 1 → n → 1.
    pub scales: bool,
    pub is_drifting: bool,
    /// A worker that died and comes back finds nothing but a journal that another boot wrote.
    pub reboots: bool,
    /// Somebody of the run of middle size ends whatever worker begins to send to him.
    pub has_poison: bool,
    // The relay.
    pub defers: u64,
    pub rejects: u64,
    pub refuses: u64,
    pub cuts: u64,
    pub loses_replies: u64,
    pub slow_replies: u64,
    pub says_goodbye: u64,
}

impl Mix {
    pub fn draw(random: &mut Random) -> Self {
        let is_calm = random.below(16) == 0;
        let mut mix = Self {
            is_calm,
            ttl_ms: random.one_of(&[1_000, 2_000, 2_000, 5_000, 10_000]),
            grace_ms: random.one_of(&[300, 1_000, 3_000]),
            hard_cap_ms: random.one_of(&[1_800_000, 1_800_000, 663_000]),
            window: random.one_of(&[1, 3, 10, 10, 25]) as u32,
            masters: random.between(1, 3),
            workers: random.between(1, 4),
            slots: random.between(4, 48),
            connections: random.between(2, 16),
            recipients: random.between(120, 420),
            is_wide: random.below(4) == 0,
            holds_unknown: random.below(3) == 0,
            is_limited: random.below(4) == 0,
            lag_ms: random.one_of(if is_calm { &[4, 10] } else { &[4, 10, 40, 80] }),
            retry_ttl_ms: random.one_of(&[3_600_000, 3_600_000, 4_000]),
            ..Self::default()
        };
        if !is_calm {
            mix.draw_calls(random);
            mix.draw_processes(random);
            mix.draw_relay(random);
        }
        mix
    }

    fn draw_calls(&mut self, random: &mut Random) {
        let mut some = |values: &[u64]| if random.below(2) == 0 { random.one_of(values) } else { 0 };
        self.lose = some(&[10, 50, 200]);
        self.repeat = some(&[10, 50, 200]);
        self.slow = some(&[10, 50, 300]);
        self.store_lose = some(&[5, 20, 100]);
        self.store_repeat = some(&[5, 20, 100]);
        self.store_slow = some(&[10, 100]);
        self.has_waves = random.below(4) == 0;
    }

    fn draw_processes(&mut self, random: &mut Random) {
        let mut some = |most: u64| if random.below(3) == 0 { random.between(1, most) } else { 0 };
        self.worker_crashes = some(5);
        self.master_crashes = some(4);
        self.worker_stops = some(3);
        self.master_stops = some(3);
        self.partitions = some(4);
        self.store_restarts = some(2);
        self.clock_steps = some(2);
        self.drains = some(3);
        self.relay_falls = some(3);
        self.run_pauses = some(3);
        self.lane_pauses = some(2);
        self.cancels = some(2);
        self.scales = some(1) > 0;
        self.is_drifting = some(1) > 0;
        self.reboots = some(1) > 0;
        self.has_poison = some(1) > 0;
        self.keep_ms = (random.below(6) == 0).then(|| random.one_of(&[1_000, 2_000, 5_000]));
        self.suppressions = if random.below(3) == 0 { random.between(1, 20) } else { 0 };
        self.rollbacks = if random.below(5) == 0 { random.between(1, 2) } else { 0 };
    }

    fn draw_relay(&mut self, random: &mut Random) {
        let mut some = |values: &[u64]| if random.below(3) == 0 { random.one_of(values) } else { 0 };
        self.defers = some(&[20, 100, 300]);
        self.rejects = some(&[10, 50]);
        self.refuses = some(&[20, 100]);
        self.cuts = some(&[5, 30]);
        self.loses_replies = some(&[5, 30, 100]);
        self.slow_replies = some(&[10, 100]);
        self.says_goodbye = some(&[5, 30]);
    }

    /// Something may keep a worker from reporting for longer than a lease lasts, other than a few lost calls.
    pub fn may_lose_leases(&self) -> bool {
        let processes = [
            self.worker_crashes,
            self.master_crashes,
            self.worker_stops,
            self.master_stops,
            self.partitions,
            self.store_restarts,
            self.rollbacks,
            self.clock_steps,
        ];
        processes.iter().any(|count| *count > 0)
            || self.lose > 50
            || self.store_lose > 20
            || self.ttl_ms < 5_000
            || self.drains > 0
            || self.scales
            || self.has_poison
    }
}
