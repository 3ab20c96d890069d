//! Divides a limit among shards, so that what they may use never adds up to more. Pure.
//!
//! Of each shard it is known what it was given last, and what it may still believe to have (`held`): that shrinks when
//! the shard says that it has the newer quota, or when time has ended the older one. Others get only what nobody holds.
//! Recipients in flight above a quota count as held. A shard that is not heard keeps its rate until its quota ends, and
//! what may be in flight there for as long as a transaction may last after that.

use super::Model;
use crate::quota::{
    Amounts, CLOCK_GAP_MS, IDLE_PART, IN_FLIGHT_MS, Limited, MANY, QUOTA_TURN_MS, QUOTA_TURN_RECIPIENTS, Quota,
    ShardDemand, ShareLimit, SharedLimit,
};
use postrider_common::pace::COST;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const RATE: usize = 0;
const BURST: usize = 1;
const AT_ONCE: usize = 2;

pub(super) type Divisions = BTreeMap<Limited, Division>;

/// A limit, and what each shard has of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Division {
    turn: u64,
    version: u64,
    /// Of the last call.
    at_ms: i64,
    /// Until then somebody may have some of the rate; 0: nobody ever had. From then on the whole limit saves up.
    busy_until: i64,
    stakes: Vec<Stake>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Stake {
    version: u64,
    expires_at: i64,
    given: Amounts,
    held: Amounts,
    in_flight: u64,
    /// Told with what was given.
    saved: u64,
}

impl Stake {
    fn used(&self, kind: usize) -> u64 {
        if kind == AT_ONCE { self.held.0[kind].max(self.in_flight) } else { self.held.0[kind] }
    }

    fn has_rate(&self) -> bool {
        self.held.0[RATE] > 0 || self.held.0[BURST] > 0
    }

    /// True: what it has is known, so it may be given something else.
    fn hear(&mut self, now: i64, demand: &ShardDemand) -> bool {
        let has = if demand.is_live { demand.has } else { Amounts::default() };
        if demand.version >= self.version {
            (self.version, self.given, self.held, self.in_flight) = (demand.version, has, has, demand.in_flight);
            return true;
        }
        // It may be told any moment, or have been told since it was looked at.
        self.held = self.held.most(self.given).most(has);
        self.in_flight = self.in_flight.max(demand.in_flight);
        if self.expires_at > now {
            return false;
        }
        self.given = Amounts::default();
        (self.held.0[RATE], self.held.0[BURST]) = (has.0[RATE], has.0[BURST]);
        true
    }

    fn miss(&mut self, now: i64) {
        if self.expires_at > now {
            return;
        }
        self.given = Amounts::default();
        (self.held.0[RATE], self.held.0[BURST]) = (0, 0);
        if self.expires_at.saturating_add_unsigned(IN_FLIGHT_MS) <= now {
            (self.held.0[AT_ONCE], self.in_flight) = (0, 0);
        }
    }
}

/// Gives everybody what is wanted up to a level; of what cannot be divided one each to those that come first.
fn fill(all: u64, wants: &[u64]) -> Vec<u64> {
    let mut order: Vec<usize> = (0..wants.len()).collect();
    order.sort_by_key(|at| (wants[*at], *at));
    let (mut given, mut left) = (vec![0; wants.len()], all);
    for (at, one) in order.iter().enumerate() {
        let rest = (wants.len() - at) as u64;
        let level = left / rest;
        if wants[*one] <= level {
            given[*one] = wants[*one];
            left -= wants[*one];
            continue;
        }
        let mut above = order[at..].to_vec();
        above.sort_unstable();
        for (rank, one) in above.into_iter().enumerate() {
            given[one] = level + u64::from((rank as u64) < left % rest);
        }
        break;
    }
    given
}

/// What each of those heard is to have of one kind: what it wants, and of the rest an even part, first of all who waits.
fn targets(kind: usize, limit: u64, free: u64, shards: u64, demands: &[ShardDemand], may: &[bool]) -> Vec<u64> {
    let idle = if limit >= 4 * shards { (limit / (IDLE_PART * shards)).max(1) } else { 0 };
    let want = |(demand, may): (&ShardDemand, &bool)| {
        let waiting = demand.waiting.min(MANY);
        let want = match kind {
            RATE => waiting * 3600,
            AT_ONCE => waiting + demand.in_flight,
            _ => waiting,
        };
        if *may { want.max(idle).min(limit) } else { 0 }
    };
    let wants: Vec<u64> = demands.iter().zip(may).map(want).collect();
    let mut all = fill(free, &wants);
    let rest = free - all.iter().sum::<u64>();
    let somebody_waits = demands.iter().zip(may).any(|(demand, may)| *may && demand.waiting > 0);
    let takes = |(demand, may): (&ShardDemand, &bool)| *may && (demand.waiting > 0 || !somebody_waits);
    let spare: Vec<u64> = demands.iter().zip(may).map(|one| if takes(one) { limit } else { 0 }).collect();
    for (target, more) in all.iter_mut().zip(fill(rest, &spare)) {
        *target += more;
    }
    all
}

impl Division {
    fn share(&mut self, now: i64, share: &ShareLimit) -> SharedLimit {
        if share.turn != self.turn {
            return SharedLimit { turn: self.turn, is_stale: true, is_awaited: false, quotas: Vec::new() };
        }
        self.turn += 1;
        let stepped = now < self.at_ms || now > self.at_ms.saturating_add_unsigned(CLOCK_GAP_MS);
        self.at_ms = now;
        self.stakes.resize(share.shards.len(), Stake::default());
        let mut quotas = vec![None; share.shards.len()];
        // Shards whose part may change, in the order in which they get what cannot be divided.
        let mut settled = Vec::new();
        for (at, (stake, demand)) in self.stakes.iter_mut().zip(&share.shards).enumerate() {
            if stepped {
                stake.expires_at = now.saturating_add_unsigned(share.ttl_ms);
            }
            match demand {
                None => stake.miss(now),
                Some(demand) => {
                    self.version = self.version.max(demand.version);
                    if stake.hear(now, demand) {
                        settled.push((at, *demand));
                    } else {
                        let lasts_ms = u64::try_from(stake.expires_at - now).unwrap_or(0);
                        let (version, amounts, saved) = (stake.version, stake.given, stake.saved);
                        quotas[at] = Some(Quota { version, lasts_ms, amounts, saved });
                    }
                }
            }
        }
        let limit = Amounts::of(&share.limit);
        let mut credit = self.credit(now, &limit);
        let turn_ms = (QUOTA_TURN_RECIPIENTS * COST).checked_div(limit.0[RATE]).unwrap_or(0).max(QUOTA_TURN_MS);
        let shards = share.shards.len().max(1) as u64;
        let first = (now.unsigned_abs() / turn_ms % shards) as usize;
        settled.sort_by_key(|(at, _)| (at + share.shards.len() - first) % share.shards.len());
        let is_awaited = self.divide(&limit, shards, &settled);
        for (at, demand) in &settled {
            let stake = &mut self.stakes[*at];
            let is_known = stake.version == demand.version && demand.is_live && demand.has == stake.given;
            let is_fresh = !stepped && stake.expires_at > now.saturating_add_unsigned(share.ttl_ms / 2);
            if (is_known && is_fresh) || (stake.given.is_none() && !demand.is_live) {
                continue;
            }
            self.version += 1;
            (stake.version, stake.expires_at) = (self.version, now.saturating_add_unsigned(share.ttl_ms));
            stake.saved = stake.given.0[BURST].min(credit);
            credit -= stake.saved;
            let (version, amounts, saved) = (stake.version, stake.given, stake.saved);
            quotas[*at] = Some(Quota { version, lasts_ms: share.ttl_ms, amounts, saved });
        }
        let busy = self.stakes.iter().filter(|stake| stake.has_rate()).map(|stake| stake.expires_at);
        // A clock that went back: what ends later than it can is no longer so.
        let latest = now.saturating_add_unsigned(share.ttl_ms);
        self.busy_until = busy.max().unwrap_or(self.busy_until).min(latest);
        SharedLimit { turn: self.turn, is_stale: false, is_awaited, quotas }
    }

    /// Recipients of the burst that were saved up while nobody had any of the rate.
    fn credit(&self, now: i64, limit: &Amounts) -> u64 {
        if self.stakes.iter().any(Stake::has_rate) {
            return 0;
        }
        let idle_ms = u64::try_from(now - self.busy_until).unwrap_or(0);
        if self.busy_until == 0 { limit.0[BURST] } else { limit.0[BURST].min(idle_ms * limit.0[RATE] / COST) }
    }

    /// Sets what each of these is given: less at once, more only out of what nobody holds. True: somebody gets more later.
    fn divide(&mut self, limit: &Amounts, shards: u64, settled: &[(usize, ShardDemand)]) -> bool {
        let demands: Vec<ShardDemand> = settled.iter().map(|(_, demand)| *demand).collect();
        let mut may = vec![true; settled.len()];
        let mut is_awaited = false;
        // A rate without a burst lets nobody begin.
        for kind in [BURST, RATE, AT_ONCE] {
            let is_settled = |at: &usize| settled.iter().any(|(one, _)| one == at);
            let others = (0..self.stakes.len()).filter(|at| !is_settled(at)).map(|at| self.stakes[at].used(kind));
            let free = limit.0[kind].saturating_sub(others.sum());
            let targets = targets(kind, limit.0[kind], free, shards, &demands, &may);
            if kind == BURST {
                may = targets.iter().map(|target| *target > 0).collect();
            } else if kind == RATE {
                may = vec![true; settled.len()];
            }
            let mut is_lowered = false;
            for ((at, _), target) in settled.iter().zip(&targets) {
                let given = &mut self.stakes[*at].given.0[kind];
                is_lowered |= *given > *target;
                *given = (*given).min(*target);
            }
            for ((at, _), target) in settled.iter().zip(&targets) {
                let used: u64 = self.stakes.iter().map(|stake| stake.used(kind)).sum();
                let stake = &mut self.stakes[*at];
                let most = stake.used(kind).saturating_add(limit.0[kind].saturating_sub(used));
                stake.given.0[kind] = stake.given.0[kind].max((*target).min(most));
                stake.held.0[kind] = stake.held.0[kind].max(stake.given.0[kind]);
                is_awaited |= is_lowered && stake.given.0[kind] < *target;
            }
        }
        is_awaited
    }
}

impl Model {
    pub fn share_limit(&mut self, now: i64, share: ShareLimit) -> SharedLimit {
        self.divisions.entry(share.of.clone()).or_default().share(now, &share)
    }
}

#[cfg(test)]
#[path = "quota_tests.rs"]
mod tests;
