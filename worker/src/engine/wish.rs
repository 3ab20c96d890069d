//! When to ask for leases, how many and of which lanes. One Lease call at a time.

use super::Engine;
use super::event::{Call, CallId, Effect, LeaseWish};
use super::held::Stage;
use super::line::Line;
use super::slots::Used;
use postrider_common::ids::{LaneName, RequestId};
use postrider_common::limits::LEASES_PER_CALL_MAX;
use std::collections::BTreeSet;

/// How long a master may hold a call for any lane. Short enough that a hung master is noticed.
const WAIT_MS: u32 = 5_000;
/// The same while a relay is down: its lanes are asked for again when it is back.
const WAIT_PARTIAL_MS: u32 = 1_000;
/// The same when only reserved slots are free: general room may come free at any moment.
const WAIT_RESERVED_MS: u32 = 40;
/// After an empty answer that came before its time.
const PAUSE_EMPTY_MS: u64 = 50;
/// Beyond the wait, until a call is given up.
const TIMEOUT_MS: u64 = 3_000;
/// Leases held for each slot at most: batches of one recipient each, and those set aside.
const LEASES_PER_SLOT_MAX: usize = 2;

#[derive(Debug, Default)]
pub(super) struct Wish {
    line: Line,
    /// Under way, or to be repeated: the answer that got lost may have named leases.
    current: Option<LeaseWish>,
    /// It was repeated without a wait because of a drain.
    is_hurried: bool,
    pause_until_ms: u64,
    count: u64,
}

impl Wish {
    pub(super) fn answered(&mut self, now_ms: u64, call: CallId, sent_at_ms: u64, is_empty: bool) {
        if !self.line.is(call) {
            return;
        }
        self.line.answered();
        let wait_ms = self.current.take().map_or(0, |wish| u64::from(wish.wait_ms));
        if is_empty && now_ms.saturating_sub(sent_at_ms) < wait_ms / 2 {
            self.pause_until_ms = now_ms + PAUSE_EMPTY_MS;
        }
    }

    /// False: this call is not a wish.
    pub(super) fn failed(&mut self, now_ms: u64, call: CallId, refused: bool, random: u64, give_up: bool) -> bool {
        if !self.line.is(call) {
            return false;
        }
        self.line.failed(now_ms, refused, random);
        if give_up && self.is_hurried || refused {
            self.current = None;
        }
        true
    }

    /// A drain has to wait for it: its leases are to be handed back.
    pub(super) fn is_owed(&self) -> bool {
        self.current.is_some()
    }

    pub(super) fn wake_ms(&self) -> Option<u64> {
        let pause = (!self.line.is_open()).then_some(self.pause_until_ms);
        self.line.wake_ms().or(pause)
    }
}

impl Engine {
    pub(super) fn call_lease(&mut self, now_ms: u64) {
        if self.is_draining() {
            return self.hurry_lease();
        }
        if !self.wish.line.is_free(now_ms) || now_ms < self.wish.pause_until_ms {
            return;
        }
        if self.wish.current.is_none() {
            self.wish.current = self.next_wish();
        }
        if let Some(wish) = self.wish.current.clone() {
            self.emit_lease(wish);
        }
    }

    /// The same call once more without a wait: it answers the leases that were claimed meanwhile.
    fn hurry_lease(&mut self) {
        if self.wish.is_hurried {
            return;
        }
        self.wish.is_hurried = true;
        if let Some(wish) = &mut self.wish.current {
            wish.wait_ms = 0;
            let wish = wish.clone();
            self.emit_lease(wish);
        }
    }

    fn emit_lease(&mut self, wish: LeaseWish) {
        let id = self.next_call();
        self.wish.line.opened(id);
        let timeout_ms = u64::from(wish.wait_ms) + TIMEOUT_MS;
        self.effects.push(Effect::Call { id, call: Call::Lease(wish), timeout_ms });
    }

    fn next_wish(&mut self) -> Option<LeaseWish> {
        let leases_max = self.config.slots as usize * LEASES_PER_SLOT_MAX;
        let leases_room = leases_max.saturating_sub(self.leases.len());
        if leases_room == 0 {
            return None;
        }
        let mut usable = Used::new();
        for held in self.leases.values() {
            *usable.entry(held.lane.clone()).or_default() += held.usable();
        }
        self.add_orphans(&mut usable);
        let target = self.slots.with_prefetch();
        let general = target.general_room(&usable);
        let (lanes, wait_ms, room) = if general > 0 {
            let (lanes, wait_ms) = self.open_lanes()?;
            (lanes, wait_ms, general)
        } else {
            let mut rooms = target.reserved_rooms(&usable);
            rooms.retain(|(lane, _)| self.is_wanted(lane));
            let room = rooms.iter().map(|(_, room)| *room).max()?;
            (rooms.into_iter().map(|(lane, _)| lane).collect(), WAIT_RESERVED_MS, room)
        };
        let batches = room.div_ceil(self.window_seen).clamp(1, LEASES_PER_CALL_MAX.min(leases_room));
        self.wish.count += 1;
        let request: RequestId = format!("{}-{}", self.config.instance, self.wish.count).parse().ok()?;
        Some(LeaseWish { request, batches_max: batches as u32, lanes, wait_ms })
    }

    /// Every lane that can be sent now, and how long to wait for it. None: no lane can.
    fn open_lanes(&self) -> Option<(Vec<LaneName>, u32)> {
        let waiting = self.lanes_waiting();
        if self.relays.can_carry_all() && self.config.lanes.is_empty() && waiting.is_empty() {
            return Some((Vec::new(), WAIT_MS));
        }
        let known: Vec<&LaneName> = match self.config.lanes.is_empty() {
            true => self.lanes_seen.iter().collect(),
            false => self.config.lanes.iter().collect(),
        };
        let is_open = |lane: &&LaneName| self.relays.can_carry(lane) && !waiting.contains(*lane);
        let open: Vec<LaneName> = known.into_iter().filter(is_open).cloned().collect();
        let is_partial = !self.relays.are_all_up() || !waiting.is_empty();
        (!open.is_empty()).then_some((open, if is_partial { WAIT_PARTIAL_MS } else { WAIT_MS }))
    }

    /// Lanes of leases that wait for a relay: more of them would only wait, too.
    fn lanes_waiting(&self) -> BTreeSet<&LaneName> {
        let waiting = self.leases.values().filter(|held| held.waits_for_relay && held.stage == Stage::Working);
        waiting.map(|held| &held.lane).collect()
    }

    fn is_wanted(&self, lane: &LaneName) -> bool {
        let is_ours = self.config.lanes.is_empty() || self.config.lanes.contains(lane);
        is_ours && self.relays.can_carry(lane) && !self.lanes_waiting().contains(lane)
    }
}
