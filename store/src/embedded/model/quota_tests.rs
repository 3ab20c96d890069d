//! Shards, masters and their clocks, by chance: what the shards may use never adds up to more than the limit. The shard
//! of these tests is what the scripts look_at_demand, take_quota and checkpoint do.

use super::*;
use postrider_common::ids::LaneName;
use postrider_common::pace::{Limit, Pace};
use proptest::prelude::*;

const TTL_MS: u64 = crate::quota::QUOTA_TTL_MS;
const TRUST_MS: i64 = (TTL_MS - CLOCK_GAP_MS - TTL_MS / 100) as i64;
const SECOND_MS: i64 = 1_000;

#[derive(Default, Clone)]
struct Shard {
    /// Of its clock to the true time.
    offset: i64,
    version: u64,
    ends: i64,
    has: Amounts,
    seen: i64,
    looked_at: i64,
    at: i64,
    debt: u64,
    waiting: u64,
    in_flight: u64,
}

impl Shard {
    fn is_live(&self, time: i64) -> bool {
        let now = time + self.offset;
        self.seen <= now && now < self.ends
    }

    fn live(&self, time: i64) -> Amounts {
        if self.is_live(time) { self.has } else { Amounts::default() }
    }

    /// look_at_demand.
    fn look(&mut self, time: i64) -> (i64, ShardDemand) {
        let now = time + self.offset;
        let demand = ShardDemand {
            version: self.version,
            is_live: self.is_live(time),
            has: self.has,
            waiting: self.waiting,
            in_flight: self.in_flight,
        };
        if now < self.seen {
            (self.ends, self.has) = (0, Amounts::default());
        }
        (self.seen, self.looked_at) = (now, time);
        (now, demand)
    }

    fn debt(&self, until: i64) -> u64 {
        self.debt.saturating_sub(u64::try_from(until - self.at).unwrap_or(0) * self.has.0[RATE])
    }

    /// take_quota.
    fn take(&mut self, time: i64, tell: &Tell) {
        let now = time + self.offset;
        let until = tell.asked_at + tell.quota.lasts_ms as i64 - (CLOCK_GAP_MS + tell.quota.lasts_ms / 100) as i64;
        if now < tell.asked_at || now < self.seen || tell.quota.version <= self.version || until <= now {
            return;
        }
        let saved = (self.has.0[BURST] * COST) as i64 - self.debt(now.min(self.ends)) as i64;
        let saved = if self.is_live(time) { saved } else { saved.min(0) } + (tell.quota.saved * COST) as i64;
        let new = (tell.quota.amounts.0[BURST] * COST) as i64;
        (self.debt, self.at) = ((new - saved.min(new)) as u64, now);
        (self.version, self.ends, self.has, self.seen) = (tell.quota.version, until, tell.quota.amounts, now);
    }

    /// checkpoint.
    fn grant(&mut self, time: i64) -> bool {
        let now = time + self.offset;
        let debt = self.debt(now);
        let has = self.live(time);
        if self.in_flight >= has.0[AT_ONCE] || debt + COST > has.0[BURST] * COST {
            return false;
        }
        (self.debt, self.at, self.in_flight) = (debt + COST, now, self.in_flight + 1);
        true
    }
}

struct Tell {
    deliver_at: i64,
    shard: usize,
    asked_at: i64,
    quota: Quota,
}

/// A master between the look and the call.
type Asking = Option<(i64, u64, Vec<Option<(i64, ShardDemand)>>)>;

struct World {
    random: fastrand::Rng,
    time: i64,
    limit: Limit,
    division: Division,
    division_offset: i64,
    shards: Vec<Shard>,
    tells: Vec<Tell>,
    masters: [(u64, Asking); 3],
    small_step_at: i64,
    granted: Vec<i64>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let per_hour = 10_u64.pow(random.u32(1..8));
        let pace = Pace { rate: format!("{per_hour}/h").parse().expect("a rate"), burst: random.u32(1..60) };
        let limit = Limit { pace: Some(pace), concurrency: Some(random.u32(1..60)) };
        let time = 1_790_000_000_000;
        let shards = (0..random.usize(1..6)).map(|_| Shard::default()).collect();
        let (tells, granted) = (Vec::new(), Vec::new());
        let division = Division::default();
        let masters = [(0, None), (0, None), (0, None)];
        Self { random, time, limit, division, division_offset: 0, shards, tells, masters, small_step_at: 0, granted }
    }

    fn look(&mut self, lossy: bool) -> Vec<Option<(i64, ShardDemand)>> {
        let (random, time) = (&mut self.random, self.time);
        self.shards.iter_mut().map(|shard| (!lossy || random.u8(0..5) > 0).then(|| shard.look(time))).collect()
    }

    fn share(&mut self, turn: u64, looks: &[Option<(i64, ShardDemand)>]) -> SharedLimit {
        let share = ShareLimit {
            of: Limited::Lane(LaneName::bulk()),
            limit: self.limit,
            turn,
            ttl_ms: TTL_MS,
            shards: looks.iter().map(|look| look.map(|(_, demand)| demand)).collect(),
        };
        self.division.share(self.time + self.division_offset, &share)
    }

    /// Each part of a move may be lost, late, or made after others by a master that stood still.
    fn master(&mut self, at: usize) {
        match self.masters[at].1.take() {
            None => {
                let turn = self.masters[at].0;
                let stands_until = self.time + [0, 0, 0, 900, 40_000][self.random.usize(0..5)];
                self.masters[at].1 = Some((stands_until, turn, self.look(true)));
            }
            Some((until, turn, looks)) if until > self.time => self.masters[at].1 = Some((until, turn, looks)),
            Some((_, turn, looks)) => {
                let answer = self.share(turn, &looks);
                if self.random.u8(0..6) == 0 {
                    return;
                }
                self.masters[at].0 = answer.turn;
                for (shard, (quota, look)) in answer.quotas.into_iter().zip(looks).enumerate() {
                    let (Some(quota), Some((asked_at, _))) = (quota, look) else { continue };
                    let late = [0, 0, 0, 0, 300, 9_000, 45_000][self.random.usize(0..7)];
                    if self.random.u8(0..5) > 0 {
                        self.tells.push(Tell { deliver_at: self.time + late, shard, asked_at, quota });
                    }
                }
            }
        }
    }

    fn deliver(&mut self) {
        let time = self.time;
        let (now, later) = std::mem::take(&mut self.tells).into_iter().partition(|tell| tell.deliver_at <= time);
        self.tells = later;
        let now: Vec<Tell> = now;
        now.iter().for_each(|tell| self.shards[tell.shard].take(time, tell));
    }

    fn step_a_clock(&mut self) {
        let far = self.random.i64(4 * SECOND_MS..200 * SECOND_MS) * if self.random.bool() { 1 } else { -1 };
        // One that is too small to be seen is what the margin is for, and there is one margin.
        let is_small = self.random.bool() && self.time - self.small_step_at > 40 * SECOND_MS;
        if self.random.bool() {
            self.division_offset += if is_small { self.random.i64(-2000..1500) } else { far };
        } else {
            let at = self.random.usize(0..self.shards.len());
            self.shards[at].offset += if is_small { self.random.i64(-1000..2000) } else { far };
        }
        if is_small {
            self.small_step_at = self.time;
        }
    }

    fn work(&mut self) {
        let at = self.random.usize(0..self.shards.len());
        let shard = &mut self.shards[at];
        match self.random.u8(0..4) {
            0 => shard.waiting = [0, 0, 1, 7, 100, MANY][self.random.usize(0..6)],
            1 => shard.in_flight -= self.random.u64(0..=shard.in_flight),
            _ => {
                for _ in 0..self.random.u8(1..40) {
                    if shard.grant(self.time) {
                        self.granted.push(self.time);
                    }
                }
            }
        }
    }

    fn sums(&self) -> (Amounts, u64) {
        let sum = |kind: usize| self.shards.iter().map(|shard| shard.live(self.time).0[kind]).sum();
        (Amounts(std::array::from_fn(sum)), self.shards.iter().map(|shard| shard.in_flight).sum())
    }

    /// Everybody is there and answers.
    fn heal(&mut self) {
        self.tells.clear();
        self.time += TTL_MS as i64 + TRUST_MS;
        for _ in 0..12 {
            self.time += 500;
            for _ in 0..2 {
                let looks = self.look(false);
                let answer = self.share(self.division.turn, &looks);
                for (shard, (quota, look)) in answer.quotas.into_iter().zip(looks).enumerate() {
                    if let (Some(quota), Some((asked_at, _))) = (quota, look) {
                        let tell = Tell { deliver_at: self.time, shard, asked_at, quota };
                        self.shards[shard].take(self.time, &tell);
                    }
                }
            }
        }
    }
}

fn run(seed: u64, clocks_step: bool) -> World {
    let mut world = World::new(seed);
    let limit = Amounts::of(&world.limit);
    for _ in 0..400 {
        world.time += world.random.i64(0..700);
        match world.random.u8(0..12) {
            0..=4 => {
                let at = world.random.usize(0..3);
                world.master(at);
            }
            5 if clocks_step && world.random.u8(0..3) == 0 => world.step_a_clock(),
            _ => world.work(),
        }
        world.deliver();
        // Who makes claims there looks at it, whatever becomes of the rest of the move.
        let time = world.time;
        for shard in world.shards.iter_mut().filter(|shard| time - shard.looked_at >= SECOND_MS) {
            shard.look(time);
        }
        let (sums, in_flight) = world.sums();
        for kind in [RATE, BURST, AT_ONCE] {
            assert!(sums.0[kind] <= limit.0[kind], "seed {seed}: {sums:?} of {limit:?}");
        }
        assert!(in_flight <= limit.0[AT_ONCE], "seed {seed}: {in_flight} in flight of {limit:?}");
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_shards_may_use_never_adds_up_to_more_than_the_limit(seed in any::<u64>()) {
        run(seed, true);
    }

    #[test]
    fn no_span_has_more_than_burst_and_rate_over_all_shards(seed in any::<u64>()) {
        let world = run(seed, false);
        let limit = Amounts::of(&world.limit);
        for (from, at) in world.granted.iter().enumerate() {
            for (to, until) in world.granted.iter().enumerate().skip(from) {
                let span = u64::try_from(until - at).expect("in order");
                let count = (to - from + 1) as u64;
                prop_assert!(count * COST <= limit.0[BURST] * COST + limit.0[RATE] * span, "{} in {} ms", count, span);
            }
        }
    }

    #[test]
    fn one_shard_that_wants_all_gets_nearly_all(seed in any::<u64>()) {
        let mut world = run(seed, true);
        let one = world.random.usize(0..world.shards.len());
        for (at, shard) in world.shards.iter_mut().enumerate() {
            (shard.waiting, shard.in_flight) = (if at == one { MANY } else { 0 }, 0);
        }
        world.heal();
        let (limit, shards) = (Amounts::of(&world.limit), world.shards.len() as u64);
        let has = world.shards[one].live(world.time);
        for kind in [RATE, BURST, AT_ONCE] {
            let others = (limit.0[kind] / IDLE_PART / shards).max(1) * (shards - 1);
            prop_assert!(has.0[kind] + others >= limit.0[kind], "{:?} of {:?}", has, limit);
        }
        // And all of them an even part, as far as it can be divided.
        for shard in &mut world.shards {
            shard.waiting = MANY;
        }
        world.heal();
        for kind in [BURST, AT_ONCE] {
            let (sums, _) = world.sums();
            prop_assert_eq!(sums.0[kind], limit.0[kind]);
            let even = limit.0[kind] / shards;
            let parts: Vec<u64> = world.shards.iter().map(|shard| shard.live(world.time).0[kind]).collect();
            prop_assert!(parts.iter().all(|part| (even..=even + 1).contains(part)), "{:?}", parts);
        }
    }
}

#[test]
fn what_cannot_be_divided_goes_round() {
    let mut world = World::new(1);
    let pace = Pace { rate: "1/s".parse().expect("a rate"), burst: 1 };
    world.limit = Limit { pace: Some(pace), concurrency: Some(1) };
    world.shards = vec![Shard { waiting: MANY, ..Shard::default() }; 3];
    let mut had = [0; 3];
    for _ in 0..6 {
        world.heal();
        let has = world.shards.iter().position(|shard| shard.live(world.time) == Amounts([3600, 1, 1]));
        had[has.expect("one has all")] += 1;
        world.time += 3 * QUOTA_TURN_MS as i64 + 1 - 2 * (TTL_MS as i64 + TRUST_MS) % (3 * QUOTA_TURN_MS as i64);
    }
    assert!(had.iter().filter(|times| **times > 0).count() > 1, "{had:?}");
}
