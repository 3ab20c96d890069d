//! What each worker may use of a relay: permits to begin a send, by the meter of its rate, and connections, by a
//! share of their number that ends unless it is asked for again.

use super::Model;
use super::pace::Meter;
use crate::api::{Room, RoomOf, ShareRelay};
use postrider_common::ids::{RelayName, WorkerId};
use postrider_common::pace::{Limit, Limits};
use postrider_common::relay::{RelayLimit, RelayShare};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// A relay as the workers that use it have told it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Relay {
    meter: Meter,
    stakes: BTreeMap<WorkerId, Stake>,
    /// Counts workers as they come.
    joined: u64,
}

/// What one worker has of a relay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stake {
    limit: RelayLimit,
    /// Connections that are open or may be opened at any moment: no other worker gets them.
    held: u32,
    wanted: u32,
    sequence: u64,
    expires_at: i64,
    joined: u64,
}

impl Relay {
    fn limit(&self, now: i64) -> RelayLimit {
        let current = self.stakes.values().filter(|stake| stake.expires_at > now);
        current.fold(RelayLimit::default(), |lowest, stake| lowest.lowest(stake.limit))
    }

    /// What is fair for one worker: all get what they want up to a level; of what cannot be divided one each goes
    /// to those that have the most, then to those that came first.
    fn fair(&self, worker: &WorkerId, total: u32) -> u32 {
        let Some(own) = self.stakes.get(worker) else { return 0 };
        let mut wants: Vec<u32> = self.stakes.values().map(|stake| stake.wanted).collect();
        wants.sort_unstable();
        let mut left = total;
        for (at, want) in wants.iter().enumerate() {
            let rest = (wants.len() - at) as u32;
            let level = left / rest;
            if *want <= level {
                left -= want;
                continue;
            }
            if own.wanted <= level {
                return own.wanted;
            }
            let rank = |stake: &Stake| (Reverse(stake.held), stake.joined);
            let above = self.stakes.values().filter(|stake| stake.wanted > level && rank(stake) < rank(own));
            return level + u32::from((above.count() as u32) < left % rest);
        }
        own.wanted
    }
}

impl Model {
    pub fn share_relay(&mut self, now: i64, share: ShareRelay) -> RelayShare {
        let ShareRelay { worker, sequence, wish, ttl_ms } = share;
        let relay = self.relays.entry(wish.relay).or_default();
        relay.stakes.retain(|_, stake| stake.expires_at > now);
        let before = relay.stakes.get(&worker);
        // A late copy: what it says is over.
        if before.is_some_and(|before| sequence <= before.sequence) {
            return RelayShare::default();
        }
        let joined = before.map_or(relay.joined + 1, |before| before.joined);
        relay.joined = relay.joined.max(joined);
        let (held, wanted) = (wish.held, wish.wanted);
        let expires_at = now.saturating_add_unsigned(ttl_ms);
        relay.stakes.insert(worker.clone(), Stake { limit: wish.limit, held, wanted, sequence, expires_at, joined });
        let limit = relay.limit(now);
        let connections = limit.connections.map_or(wanted, |total| {
            let others = relay.stakes.iter().filter(|(id, _)| **id != worker).map(|(_, stake)| u64::from(stake.held));
            let free = u64::from(total).saturating_sub(others.sum());
            u64::from(relay.fair(&worker, total)).min(free) as u32
        });
        if let Some(stake) = relay.stakes.get_mut(&worker) {
            stake.held = held.max(connections);
        }
        let paced = Limit { pace: limit.pace, concurrency: None };
        relay.meter.touch(now);
        let sends = relay.meter.room(now, &paced).min(u64::from(wish.sends)) as u32;
        for _ in 0..sends {
            relay.meter.grant(now, &paced);
        }
        let refused = u64::from(wish.sends - sends);
        let retry_in_ms = (refused > 0).then(|| relay.meter.wait_ms(now, &paced, refused)).flatten().unwrap_or(0);
        RelayShare { connections, sends, retry_in_ms, ttl_ms }
    }

    /// What is left now of these limits, and of those of relays.
    pub fn rooms(&self, now: i64, limits: &Limits) -> Vec<Room> {
        let lane =
            |(name, limit): (&_, &Limit)| room(RoomOf::Lane(Clone::clone(name)), self.meters.lane(name), now, limit);
        let site =
            |(name, limit): (&_, &Limit)| room(RoomOf::Site(Clone::clone(name)), self.meters.site(name), now, limit);
        let relay = |(name, relay): (&RelayName, &Relay)| {
            let current = relay.stakes.values().filter(|stake| stake.expires_at > now);
            let held = current.map(|stake| u64::from(stake.held)).sum();
            relay_room(name.clone(), relay.meter, held, now, relay.limit(now))
        };
        let lanes = limits.lanes.iter().map(lane).chain(limits.sites.iter().map(site));
        lanes.chain(self.relays.iter().filter_map(relay)).collect()
    }
}

pub(crate) fn room(of: RoomOf, meter: Meter, now: i64, limit: &Limit) -> Room {
    let paced = limit.pace.map(|pace| meter.room(now, &Limit { pace: Some(pace), concurrency: None }));
    let at_once = limit.concurrency.map(|cap| meter.room(now, &Limit { pace: None, concurrency: Some(cap) }));
    Room { of, paced, at_once }
}

/// None: no worker that was seen lately limits it.
pub(crate) fn relay_room(name: RelayName, meter: Meter, held: u64, now: i64, limit: RelayLimit) -> Option<Room> {
    let paced = room(RoomOf::Relay(name), meter, now, &Limit { pace: limit.pace, concurrency: None });
    let at_once = limit.connections.map(|total| u64::from(total).saturating_sub(held));
    (!limit.is_none()).then_some(Room { at_once, ..paced })
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_common::relay::RelayWish;
    use proptest::prelude::*;

    fn ask(worker: u128, sequence: u64, held: u32, wanted: u32, total: u32) -> ShareRelay {
        let limit = RelayLimit { pace: None, connections: Some(total) };
        let relay = "out".parse().unwrap();
        let wish = RelayWish { relay, limit, held, wanted, sends: 0 };
        let worker = WorkerId { name: "w".to_owned(), instance: uuid::Uuid::from_u128(worker) };
        ShareRelay { worker, sequence, wish, ttl_ms: 1_000 }
    }

    proptest! {
        /// Workers that come, go, want more or less, lose answers and fall silent: what all of them may have open is
        /// never above the total; and once all have asked a few times, nobody has less than his even part.
        #[test]
        fn shares_never_add_up_to_more_than_the_total(
            total in 1_u32..20,
            steps in proptest::collection::vec((0_usize..6, 0_u32..12, 0_u8..10, 0_i64..300), 1..200),
        ) {
            let (mut model, mut now) = (Model::default(), 1_790_000_000_000_i64);
            // Of each worker: what it may have open, until when, and its last sequence.
            let mut open = [(0_u32, 0_i64, 0_u64); 6];
            for (at, wanted, luck, pass) in steps {
                now += pass;
                for worker in &mut open {
                    if worker.1 <= now {
                        worker.0 = 0;
                    }
                }
                let (held, _, sequence) = open[at];
                // It closes what it has no use for before it asks.
                let held = held.min(wanted.max(u32::from(luck % 3 == 0)));
                let share = model.share_relay(now, ask(at as u128, sequence + 1, held, wanted, total));
                open[at] = (held, open[at].1, sequence + 1);
                if luck > 0 {
                    open[at] = (held.max(share.connections), now + 1_000, sequence + 1);
                }
                let sum: u32 = open.iter().filter(|worker| worker.1 > now).map(|worker| worker.0).sum();
                prop_assert!(sum <= total, "{open:?}");
            }
            let mut mine = [0; 6];
            for round in 0..10 {
                now += 1;
                for at in 0..6 {
                    let sequence = open[at].2 + 1 + round;
                    let held = if round == 0 { open[at].0 } else { mine[at] };
                    mine[at] = model.share_relay(now, ask(at as u128, sequence, held, 20, total)).connections;
                }
            }
            prop_assert_eq!(mine.iter().sum::<u32>(), total.min(120));
            prop_assert!(mine.iter().all(|share| (total / 6..=total.div_ceil(6)).contains(share)), "{:?}", mine);
        }
    }
}
