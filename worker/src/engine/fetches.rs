//! Merge fields that are fetched from where a campaign says: when, how often, and what a failure means.
//!
//! Each lease fetches once, before anybody of it is asked for. An endpoint that fails costs nobody an attempt: its leases
//! go back with a delay. After some failures in a row its breaker opens, and until it closes one lease at a time probes.

use super::Engine;
use super::event::{Effect, Endpoint, Fetched, LeaseKey};
use super::held::{End, Fields, Stage, WAIT_FOR_DUE_MS};
use postrider_common::limits::RELEASE_DELAY_MS_MAX;
use std::collections::BTreeMap;

/// Fetches of one endpoint at once. It answers for a hundred recipients at a time: more would only press it.
const AT_ONCE_MAX: usize = 8;
/// Tries under one lease, and the base of the pause between them.
const TRIES_MAX: u32 = 3;
const AGAIN_MS: u64 = 200;
/// Failures in a row that open the breaker.
const FAILURES_MAX: u32 = 5;
/// For how long it is open: twice as long after each probe that fails. Drawn from the upper half of it.
const OPEN_MS_MIN: u64 = 5_000;
const OPEN_MS_MAX: u64 = 60_000;
/// What could not be fetched comes back after this, as does what finds a probe or too much under way.
const POSTPONE_MS: u64 = 5_000;
/// A fetch that takes longer keeps no slots free for its lease, nor other leases waiting for their turn.
pub(super) const SLOW_MS: u64 = 1_000;
/// Endpoints that are remembered; those without a failure are not.
const ENDPOINTS_MAX: usize = 256;

#[derive(Debug, Default)]
struct Breaker {
    failures: u32,
    /// Set while it is open.
    open: Option<Open>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    until_ms: u64,
    pause_ms: u64,
}

#[derive(Debug, Default)]
pub(super) struct Fetches {
    breakers: BTreeMap<Endpoint, Breaker>,
    /// Fetches without an answer, also of leases that are over, and since when.
    under_way: BTreeMap<LeaseKey, (Endpoint, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Now,
    /// Others are before it, and quick.
    Soon,
    NotBefore(u64),
}

impl Fetches {
    fn turn(&self, now_ms: u64, endpoint: &Endpoint) -> Turn {
        let mut since = self.under_way.values().filter(|(other, _)| other == endpoint).map(|(_, since_ms)| *since_ms);
        if let Some(open) = self.breakers.get(endpoint).and_then(|breaker| breaker.open) {
            return match since.next() {
                _ if now_ms < open.until_ms => Turn::NotBefore(open.until_ms),
                // One probes.
                Some(_) => Turn::NotBefore(now_ms + POSTPONE_MS),
                None => Turn::Now,
            };
        }
        let (count, oldest) = since.fold((0, u64::MAX), |(count, oldest), since_ms| (count + 1, oldest.min(since_ms)));
        match count < AT_ONCE_MAX {
            true => Turn::Now,
            false if now_ms < oldest + SLOW_MS => Turn::Soon,
            false => Turn::NotBefore(now_ms + POSTPONE_MS),
        }
    }

    /// Notes a success. True: it closes the breaker.
    fn succeeded(&mut self, endpoint: &Endpoint) -> bool {
        self.breakers.remove(endpoint).is_some_and(|breaker| breaker.open.is_some())
    }

    /// Notes a failure. True: it opens the breaker, which was closed.
    fn failed(&mut self, now_ms: u64, endpoint: &Endpoint, retry_after_ms: u64, random: u64) -> bool {
        if !self.breakers.contains_key(endpoint) && self.breakers.len() >= ENDPOINTS_MAX {
            let soonest = |(_, breaker): &(&Endpoint, &Breaker)| breaker.open.map_or(0, |open| open.until_ms);
            let oldest = self.breakers.iter().min_by_key(soonest).map(|(endpoint, _)| endpoint.clone());
            if let Some(endpoint) = oldest {
                self.breakers.remove(&endpoint);
            }
        }
        let breaker = self.breakers.entry(endpoint.clone()).or_default();
        breaker.failures = breaker.failures.saturating_add(1);
        let pause_ms = match breaker.open {
            // A fetch from before it opened says nothing new.
            Some(open) if now_ms < open.until_ms => return false,
            Some(open) => (open.pause_ms * 2).min(OPEN_MS_MAX),
            None if breaker.failures >= FAILURES_MAX || retry_after_ms > POSTPONE_MS => OPEN_MS_MIN,
            None => return false,
        };
        let drawn_ms = (pause_ms / 2 + random % (pause_ms / 2)).max(retry_after_ms.min(RELEASE_DELAY_MS_MAX));
        breaker.open.replace(Open { until_ms: now_ms + drawn_ms, pause_ms }).is_none()
    }

    fn open_until_ms(&self, endpoint: &Endpoint) -> Option<u64> {
        self.breakers.get(endpoint)?.open.map(|open| open.until_ms)
    }
}

impl Engine {
    /// Begins the fetches whose turn it is, and hands back the leases for which none may be begun.
    pub(super) fn fetch(&mut self, now_ms: u64) {
        for held in self.leases.values_mut().filter(|held| held.stage == Stage::Working) {
            match &held.fields {
                Fields::Here => held.waits_for_fields = false,
                Fields::Fetching { since_ms, .. } => held.waits_for_fields = now_ms >= since_ms + SLOW_MS,
                // Nobody is due yet: it may end without.
                Fields::Wanted { from_ms, .. }
                    if now_ms < *from_ms || held.due_within(now_ms, WAIT_FOR_DUE_MS) == 0 => {}
                Fields::Wanted { endpoint, tries, .. } => {
                    let (endpoint, tries) = (endpoint.clone(), *tries);
                    match self.fetches.turn(now_ms, &endpoint) {
                        Turn::Now => {
                            let indexes = held.unsent();
                            self.fetches.under_way.insert(held.key, (endpoint.clone(), now_ms));
                            held.fields = Fields::Fetching { endpoint, since_ms: now_ms, tries: tries + 1 };
                            self.effects.push(Effect::Fetch { lease: held.key, indexes });
                        }
                        Turn::Soon => {}
                        Turn::NotBefore(until_ms) => held.close(End::Postpone { until_ms }),
                    }
                }
            }
        }
    }

    pub(super) fn fetched(&mut self, now_ms: u64, lease: LeaseKey, fetched: Fetched) {
        let Some((endpoint, _)) = self.fetches.under_way.remove(&lease) else { return };
        let changed = match fetched {
            Fetched::Done => self.fetches.succeeded(&endpoint).then_some(false),
            Fetched::Failed { is_passing: _, retry_after_ms, random } => {
                self.fetches.failed(now_ms, &endpoint, retry_after_ms, random).then_some(true)
            }
        };
        if let Some(is_open) = changed {
            self.effects.push(Effect::Breaker { endpoint: endpoint.clone(), is_open });
        }
        let open_until_ms = self.fetches.open_until_ms(&endpoint);
        let Some(held) = self.leases.get_mut(&lease) else { return };
        let Fields::Fetching { tries, .. } = held.fields else { return };
        match fetched {
            Fetched::Done => {
                held.fields = Fields::Here;
                held.progressed();
            }
            Fetched::Failed { is_passing, retry_after_ms, random } => {
                let may_retry = is_passing && tries < TRIES_MAX && open_until_ms.is_none() && retry_after_ms == 0;
                let pause_ms = AGAIN_MS << tries.min(8);
                let from_ms = now_ms + pause_ms / 2 + random % pause_ms;
                held.fields = Fields::Wanted { endpoint, from_ms, tries };
                if !may_retry && held.stage == Stage::Working {
                    let until_ms = open_until_ms.unwrap_or(now_ms + POSTPONE_MS.max(retry_after_ms));
                    held.close(End::Postpone { until_ms: until_ms.max(now_ms) });
                }
            }
        }
    }
}
