//! Where the merge fields of the large runs are fetched, in some of the seeds: an endpoint that is slow, fails, and is away
//! for a while. Its draws are its own, so that the other seeds are what they were without it.

use crate::coverage::Point;
use crate::random::Random;
use crate::worker::WorkerEvent;
use crate::world::{Happening, World};
use postrider_common::ids::LaneName;
use postrider_worker::engine::{Endpoint, Fetched, LeaseKey};

/// It is away for the first half of each such span, in seeds in which it ever is.
const AWAY_SPAN_MS: u64 = 4_000;
const SLOW_MS: u64 = 3_000;

#[derive(Debug)]
pub struct FieldsEndpoint {
    random: Random,
    /// Thousandths of the calls that fail.
    fails: u64,
    is_away_at_times: bool,
}

impl FieldsEndpoint {
    /// None: all fields of this seed are in the audience.
    pub fn draw(seed: u64, is_calm: bool) -> Option<Self> {
        let mut random = Random::new(!seed);
        if random.below(3) > 0 {
            return None;
        }
        let fails = if is_calm { 0 } else { random.one_of(&[0, 100, 400]) };
        let is_away_at_times = !is_calm && random.below(2) == 0;
        Some(Self { random, fails, is_away_at_times })
    }

    /// How a call ends that begins now, and after how long.
    fn call(&mut self, now_ms: u64, is_healed: bool) -> (u64, Fetched) {
        let slow = if self.random.below(20) == 0 && !is_healed { SLOW_MS } else { 40 };
        let in_ms = self.random.below(slow);
        let is_away = self.is_away_at_times && now_ms % AWAY_SPAN_MS < AWAY_SPAN_MS / 2;
        if is_healed || !(is_away || self.random.permille(self.fails)) {
            return (in_ms, Fetched::Done);
        }
        let is_passing = self.random.below(4) > 0;
        let retry_after_ms = if self.random.below(8) == 0 { self.random.below(8_000) } else { 0 };
        (in_ms, Fetched::Failed { is_passing, retry_after_ms, random: self.random.next() })
    }
}

impl World {
    /// Where the fields of such a lease are.
    pub fn endpoint_of(&self, lane: &LaneName) -> Option<Endpoint> {
        (self.endpoint.is_some() && *lane == LaneName::bulk()).then(|| Endpoint("http://fields.example/".into()))
    }

    pub fn fetch(&mut self, worker: usize, lease: LeaseKey) {
        let (now_ms, is_healed) = (self.now_ms, self.is_healed);
        let Some(endpoint) = &mut self.endpoint else { return };
        let (in_ms, fetched) = endpoint.call(now_ms, is_healed);
        match fetched {
            Fetched::Done => self.reach(Point::FieldsFetched),
            Fetched::Failed { .. } => {
                self.fault("fields not fetched");
                self.reach(Point::FieldsFailed);
            }
        }
        self.after(in_ms, Happening::Worker(worker, WorkerEvent::Fetched(lease, fetched)));
    }

    pub fn breaker(&mut self, is_open: bool) {
        self.reach(if is_open { Point::BreakerOpened } else { Point::BreakerClosed });
    }
}
