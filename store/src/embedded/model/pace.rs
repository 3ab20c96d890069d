//! How much the fleet may begin: the rate (GCRA, in whole numbers) and the number in intent of each lane and each
//! site that has a limit. Pure.
//!
//! A meter's debt is what GCRA calls the theoretical arrival time minus now, times the rate. A grant adds `COST`,
//! a millisecond pays the recipients that the rate allows in an hour, and no grant takes the debt above `burst`
//! grants. So in any span of w ms at most `burst` + rate × w are granted. What is handed back unused is not
//! refunded. A clock that goes back pays nothing, one that jumps ahead at most the debt.

use postrider_common::ids::{LaneName, SiteName};
use postrider_common::pace::{CAP_PAUSE_MS, COST, Limit, Limits, Pace};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What one lane or site has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meter {
    at_ms: i64,
    debt: u64,
    in_intent: u64,
}

impl Meter {
    pub fn of(at_ms: i64, debt: u64, in_intent: u64) -> Self {
        Self { at_ms, debt, in_intent }
    }

    fn debt(&self, now: i64, pace: &Pace) -> u64 {
        let elapsed = u64::try_from(now - self.at_ms).unwrap_or(0);
        self.debt.saturating_sub(elapsed.saturating_mul(pace.rate.per_hour()))
    }

    /// None: one more may begin. Otherwise how long until it may; by rate, until `waiting` of them may, if a
    /// burst is that large.
    pub fn wait_ms(&self, now: i64, limit: &Limit, waiting: u64) -> Option<u64> {
        let capped = limit.concurrency.is_some_and(|cap| self.in_intent >= u64::from(cap));
        let paced = limit.pace.and_then(|pace| {
            let (debt, allowed) = (self.debt(now, &pace), u64::from(pace.burst) * COST);
            let needed = debt + waiting.clamp(1, u64::from(pace.burst)) * COST;
            (debt + COST > allowed).then(|| (needed - allowed).div_ceil(pace.rate.per_hour()))
        });
        capped.then_some(CAP_PAUSE_MS).max(paced)
    }

    /// Recipients that may begin now.
    pub fn room(&self, now: i64, limit: &Limit) -> u64 {
        let paced = limit.pace.map(|pace| (u64::from(pace.burst) * COST).saturating_sub(self.debt(now, &pace)) / COST);
        let capped = limit.concurrency.map(|cap| u64::from(cap).saturating_sub(self.in_intent));
        paced.unwrap_or(u64::MAX).min(capped.unwrap_or(u64::MAX))
    }

    /// A clock that went back: what is owed is paid from now on, not from an instant that is still to come.
    pub fn touch(&mut self, now: i64) {
        self.at_ms = self.at_ms.min(now);
    }

    pub fn grant(&mut self, now: i64, limit: &Limit) {
        if let Some(pace) = &limit.pace {
            self.debt = self.debt(now, pace) + COST;
            self.at_ms = now;
        }
    }
}

/// The meters of all lanes and sites that were ever limited.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Meters {
    lanes: BTreeMap<LaneName, Meter>,
    sites: BTreeMap<SiteName, Meter>,
}

impl Meters {
    pub fn lane(&self, name: &LaneName) -> Meter {
        self.lanes.get(name).copied().unwrap_or_default()
    }

    pub fn site(&self, name: &SiteName) -> Meter {
        self.sites.get(name).copied().unwrap_or_default()
    }

    pub fn in_intent(&self, lane: &LaneName) -> u64 {
        self.lane(lane).in_intent
    }

    /// None: one more of this lane and site may begin.
    pub fn wait_ms(&self, now: i64, limits: &Limits, of: (&LaneName, &SiteName), waiting: u64) -> Option<u64> {
        let lane = limits.lanes.get(of.0).and_then(|limit| self.lane(of.0).wait_ms(now, limit, waiting));
        let site = limits.sites.get(of.1).and_then(|limit| self.site(of.1).wait_ms(now, limit, waiting));
        lane.max(site)
    }

    pub fn touch(&mut self, now: i64, limits: &Limits) {
        limits.lanes.keys().filter_map(|name| self.lanes.get_mut(name).map(|meter| meter.touch(now))).for_each(drop);
        limits.sites.keys().filter_map(|name| self.sites.get_mut(name).map(|meter| meter.touch(now))).for_each(drop);
    }

    pub fn grant(&mut self, now: i64, limits: &Limits, (lane, site): (&LaneName, &SiteName)) {
        if let Some(limit) = limits.lanes.get(lane) {
            self.lanes.entry(lane.clone()).or_default().grant(now, limit);
        }
        if let Some(limit) = limits.sites.get(site) {
            self.sites.entry(site.clone()).or_default().grant(now, limit);
        }
    }

    /// A lease of this lane and site that had `before` recipients counted has `after`.
    pub fn count(&mut self, (lane, site): (&LaneName, &SiteName), before: u32, after: u32) {
        if before != after {
            let lane = self.lanes.entry(lane.clone()).or_default();
            let site = self.sites.entry(site.clone()).or_default();
            for meter in [lane, site] {
                meter.in_intent = meter.in_intent.saturating_add_signed(i64::from(after) - i64::from(before));
            }
        }
    }
}

/// What one claim may still lease of what is limited. A batch takes as much as it has recipients, so a claim takes
/// little more of a limited lane or site than can begin at once.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    lanes: BTreeMap<LaneName, u64>,
    /// The room, and until when the site is passed over once there is none.
    sites: BTreeMap<SiteName, (u64, i64)>,
}

impl Rooms {
    pub fn of(meters: &Meters, now: i64, limits: &Limits) -> Self {
        let lane = |(name, limit): (&LaneName, &Limit)| (name.clone(), meters.lane(name).room(now, limit));
        let site = |(name, limit): (&SiteName, &Limit)| {
            let meter = meters.site(name);
            let wait_ms = meter.wait_ms(now, limit, 1).unwrap_or(CAP_PAUSE_MS);
            (name.clone(), (meter.room(now, limit), now.saturating_add_unsigned(wait_ms)))
        };
        Self { lanes: limits.lanes.iter().map(lane).collect(), sites: limits.sites.iter().map(site).collect() }
    }

    pub fn has_lane(&self, name: &LaneName) -> bool {
        self.lanes.get(name).is_none_or(|room| *room > 0)
    }

    /// Some: the site has no room until then.
    pub fn site_until(&self, name: &SiteName) -> Option<i64> {
        self.sites.get(name).filter(|(room, _)| *room == 0).map(|(_, until)| *until)
    }

    pub fn take(&mut self, lane: &LaneName, site: &SiteName, count: u64) {
        if let Some(room) = self.lanes.get_mut(lane) {
            *room = room.saturating_sub(count);
        }
        if let Some((room, _)) = self.sites.get_mut(site) {
            *room = room.saturating_sub(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limit(per_hour: u64, burst: u32) -> Limit {
        Limit { pace: Some(Pace { rate: format!("{per_hour}/h").parse().unwrap(), burst }), concurrency: None }
    }

    proptest! {
        /// The definition: no span of time has more grants than the burst and what the rate gives in it.
        #[test]
        fn no_span_has_more_than_burst_and_rate(
            per_hour in 1_u64..40_000_000,
            burst in 1_u32..50,
            steps in proptest::collection::vec((0_i64..400, 1_u32..30), 1..120),
        ) {
            let limit = limit(per_hour, burst);
            let (mut meter, mut now, mut granted) = (Meter::default(), 1_790_000_000_000_i64, Vec::new());
            for (pass, wishes) in steps {
                now += pass;
                for _ in 0..wishes {
                    if meter.wait_ms(now, &limit, 1).is_none() {
                        meter.grant(now, &limit);
                        granted.push(now);
                    }
                }
                prop_assert_eq!(meter.room(now, &limit) == 0, meter.wait_ms(now, &limit, 1).is_some());
            }
            for (from, at) in granted.iter().enumerate() {
                for (to, until) in granted.iter().enumerate().skip(from) {
                    let span = u64::try_from(until - at).unwrap();
                    let count = (to - from + 1) as u64;
                    prop_assert!(count * COST <= u64::from(burst) * COST + per_hour * span, "{} in {} ms", count, span);
                }
            }
        }

        /// Who waits as long as told gets it, and not much sooner: the rate is used up.
        #[test]
        fn the_wait_told_is_the_wait_needed(
            per_hour in 1_u64..40_000_000, burst in 1_u32..50, waiting in 1_u64..60,
        ) {
            let limit = limit(per_hour, burst);
            let (mut meter, now) = (Meter::default(), 1_790_000_000_000_i64);
            while meter.wait_ms(now, &limit, 1).is_none() {
                meter.grant(now, &limit);
            }
            let wait = i64::try_from(meter.wait_ms(now, &limit, waiting).unwrap()).unwrap();
            let all = waiting.min(u64::from(burst));
            prop_assert!(meter.room(now + wait, &limit) >= all);
            prop_assert!(meter.room(now + wait - 1, &limit) < all);
        }
    }

    #[test]
    fn a_clock_that_steps_pays_no_debt_twice() {
        let limit = limit(3600, 2);
        let mut meter = Meter::default();
        for now in [10_000, 10_000] {
            assert_eq!(meter.wait_ms(now, &limit, 1), None);
            meter.grant(now, &limit);
        }
        assert_eq!(meter.wait_ms(5_000, &limit, 1), Some(1_000), "a clock that goes back pays nothing");
        meter.touch(5_000);
        assert_eq!(meter.wait_ms(6_000, &limit, 1), None, "and is paid from then on");
        assert_eq!(meter.room(3_600_000, &limit), 2, "one that jumps ahead pays no more than there was");
    }

    #[test]
    fn concurrency_counts_what_is_in_intent() {
        let cap = Limit { pace: None, concurrency: Some(3) };
        let (lane, site) = (LaneName::bulk(), SiteName::other());
        let of = (&lane, &site);
        let mut limits = Limits::default();
        limits.site(site.clone(), cap);
        let mut meters = Meters::default();
        meters.count(of, 0, 3);
        assert_eq!(meters.wait_ms(1, &limits, of, 1), Some(CAP_PAUSE_MS));
        meters.count(of, 3, 2);
        assert_eq!((meters.wait_ms(1, &limits, of, 1), meters.site(&site).room(1, &cap)), (None, 1));
    }
}
