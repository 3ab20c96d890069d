//! The relays: which can be reached, which one carries what, and what of the fleet's limits this worker may use.
//!
//! Of a limited relay a worker has a share, which it asks a master for: a number of connections, which the pool
//! keeps to, and permits, one of which each intent takes that the relay is to carry. The invariants:
//!
//! * the pool never has more connections than the store believes, nor any after the share's trust ended;
//! * an intent that a relay with a rate is to carry is asked for with a permit of it, and sent through no other.

use super::event::{Call, CallId, Effect};
use super::held::margin_ms;
use super::line::Line;
use super::{Engine, RelayPlan};
use postrider_common::ids::LaneName;
use postrider_common::relay::{PERMIT_MS, PERMITS_PER_CALL_MAX, RelayShare, RelayWish};

/// A share is asked for anew this often: workers come and go, and what is fair changes.
const PERIOD_MS: u64 = 1_000;
/// Who wants more connections than it has asks this often.
const HUNGRY_MS: u64 = 250;
/// A share lasts at least three periods: one that is shorter is asked for more often.
const RENEW_DIVISOR: u64 = 3;
const TIMEOUT_MS: u64 = 1_500;

#[derive(Debug)]
struct Relay {
    plan: RelayPlan,
    is_up: bool,
    /// Connections that the pool may have; it was told so.
    allowed: u32,
    /// `allowed`, or more until the pool says that it has closed the others.
    held: u32,
    /// What the store believes is held, at least.
    told_held: u32,
    wanted: u32,
    trusted_until_ms: u64,
    asked_at_ms: Option<u64>,
    renew_at_ms: u64,
    permits: u32,
    permits_until_ms: u64,
    /// Intents that would be asked for if there were permits.
    short: u32,
    /// The rate has no room before this.
    room_at_ms: u64,
}

impl Relay {
    fn new(plan: RelayPlan) -> Self {
        let is_limited = plan.limit.is_some();
        let allowed = if is_limited { 0 } else { plan.connections };
        Self {
            plan,
            is_up: false,
            allowed,
            held: allowed,
            told_held: 0,
            wanted: 1,
            trusted_until_ms: 0,
            asked_at_ms: None,
            renew_at_ms: 0,
            permits: 0,
            permits_until_ms: 0,
            short: 0,
            room_at_ms: 0,
        }
    }

    fn takes(&self, lane: &LaneName) -> bool {
        self.plan.lanes.is_empty() || self.plan.lanes.contains(lane)
    }

    fn has_rate(&self) -> bool {
        self.plan.limit.as_ref().is_some_and(|(_, limit)| limit.pace.is_some())
    }

    fn permits(&self, now_ms: u64) -> u32 {
        if now_ms < self.permits_until_ms { self.permits } else { 0 }
    }

    /// Without a number of its own to divide it asks for all it may use, since another worker may give one.
    fn wants(&self) -> u32 {
        let divides = self.plan.limit.as_ref().is_some_and(|(_, limit)| limit.connections.is_some());
        if divides { self.wanted.clamp(1, self.plan.connections) } else { self.plan.connections }
    }

    /// When it is to ask for its share; None: it needs none.
    fn due_ms(&self) -> Option<u64> {
        self.plan.limit.as_ref()?;
        let Some(asked_at_ms) = self.asked_at_ms else { return Some(0) };
        if self.held < self.told_held {
            return Some(asked_at_ms);
        }
        let hungry = (self.wants() > self.allowed).then_some(asked_at_ms + HUNGRY_MS);
        let short = (self.short > 0).then_some(self.room_at_ms.max(asked_at_ms));
        [hungry, short].into_iter().flatten().fold(self.renew_at_ms, u64::min).into()
    }

    /// It has connections that it must not keep for longer than it is trusted.
    fn has_share(&self) -> bool {
        self.plan.limit.is_some() && self.allowed > 0
    }

    fn wish(&self) -> Option<RelayWish> {
        let (relay, limit) = self.plan.limit.clone()?;
        let sends = self.short.min(PERMITS_PER_CALL_MAX);
        Some(RelayWish { relay, limit, held: self.held, wanted: self.wants(), sends })
    }

    fn took(&mut self, now_ms: u64, sent_at_ms: u64, share: RelayShare) {
        self.allowed = share.connections.min(self.plan.connections);
        self.held = self.held.max(self.allowed);
        self.told_held = self.held;
        self.trusted_until_ms = (sent_at_ms + share.ttl_ms).saturating_sub(margin_ms(share.ttl_ms));
        self.renew_at_ms = sent_at_ms + (share.ttl_ms / RENEW_DIVISOR).min(PERIOD_MS);
        self.room_at_ms = now_ms + share.retry_in_ms;
        if share.sends > 0 {
            self.permits = self.permits(now_ms).saturating_add(share.sends);
            self.permits_until_ms = now_ms + PERMIT_MS;
        }
        self.short = 0;
    }
}

#[derive(Debug)]
pub(super) struct Relays {
    all: Vec<Relay>,
    line: Line,
    /// Those that the call under way asks for.
    asked: Vec<usize>,
    sequence: u64,
    /// Relays of one lane are taken by turns.
    turn: usize,
}

/// What a checkpoint that is being planned may still take.
#[derive(Debug)]
pub(super) struct Allotment {
    permits: Vec<u32>,
    short: Vec<u32>,
    turn: usize,
}

impl Relays {
    pub(super) fn new(plans: Vec<RelayPlan>) -> Self {
        let all = plans.into_iter().map(Relay::new).collect();
        Self { all, line: Line::default(), asked: Vec::new(), sequence: 0, turn: 0 }
    }

    pub(super) fn set_up(&mut self, index: usize, is_up: bool) {
        if let Some(relay) = self.all.get_mut(index) {
            relay.is_up = is_up;
        }
    }

    /// The pool has `open` connections, keeps to `allowed`, and has use for `wanted`.
    pub(super) fn counted(&mut self, index: usize, allowed: u32, open: u32, wanted: u32) {
        let Some(relay) = self.all.get_mut(index) else { return };
        relay.wanted = wanted;
        if allowed == relay.allowed && open <= allowed {
            relay.held = allowed;
        }
    }

    /// Some relay that takes this lane can be reached.
    pub(super) fn can_carry(&self, lane: &LaneName) -> bool {
        self.all.iter().any(|relay| relay.is_up && relay.takes(lane))
    }

    /// Some relay that takes every lane can be reached.
    pub(super) fn can_carry_all(&self) -> bool {
        self.all.iter().any(|relay| relay.is_up && relay.plan.lanes.is_empty())
    }

    pub(super) fn are_all_up(&self) -> bool {
        self.all.iter().all(|relay| relay.is_up)
    }

    pub(super) fn have_rates(&self) -> bool {
        self.all.iter().any(Relay::has_rate)
    }

    pub(super) fn allotment(&self, now_ms: u64) -> Allotment {
        let permits = self.all.iter().map(|relay| relay.permits(now_ms)).collect();
        Allotment { permits, short: vec![0; self.all.len()], turn: self.turn }
    }

    /// Relays for up to `count` intents of a lane; None: any one without a rate, whichever can be reached then.
    pub(super) fn allot(&self, from: &mut Allotment, lane: &LaneName, count: usize) -> Vec<Option<usize>> {
        let fits = |(_, relay): &(usize, &Relay)| relay.is_up && relay.takes(lane);
        let fitting: Vec<(usize, bool)> =
            self.all.iter().enumerate().filter(fits).map(|(index, relay)| (index, relay.has_rate())).collect();
        if fitting.iter().all(|(_, has_rate)| !has_rate) {
            return vec![None; count];
        }
        let mut routes = Vec::with_capacity(count);
        for _ in 0..count {
            from.turn = from.turn.wrapping_add(1);
            let turn = from.turn % fitting.len();
            let mut in_turn = fitting[turn..].iter().chain(&fitting[..turn]);
            let found = in_turn.find(|(index, has_rate)| {
                if *has_rate && from.permits[*index] == 0 {
                    from.short[*index] += 1;
                    return false;
                }
                true
            });
            let Some((index, has_rate)) = found else {
                // The others find none either; what is asked for them is divided.
                let rest = (count - routes.len() - 1).div_ceil(fitting.len());
                fitting.iter().for_each(|(index, _)| from.short[*index] += u32::try_from(rest).unwrap_or(u32::MAX));
                break;
            };
            if *has_rate {
                from.permits[*index] -= 1;
            }
            routes.push(Some(*index));
        }
        routes
    }

    /// How many intents found no permit.
    pub(super) fn note_short(&mut self, allotment: &Allotment) {
        for (relay, short) in self.all.iter_mut().zip(&allotment.short) {
            relay.short = *short;
        }
    }

    pub(super) fn spend(&mut self, allotment: &Allotment) {
        self.turn = allotment.turn;
        for (relay, permits) in self.all.iter_mut().zip(&allotment.permits) {
            relay.permits = *permits;
        }
    }

    /// An intent that was not granted leaves its permit for another one.
    pub(super) fn give_back(&mut self, now_ms: u64, route: usize) {
        if let Some(relay) = self.all.get_mut(route)
            && relay.has_rate()
            && now_ms < relay.permits_until_ms
        {
            relay.permits += 1;
        }
    }

    /// Who carries a send that begins now. None: no relay takes the lane.
    pub(super) fn carrier(&mut self, lane: &LaneName, route: Option<usize>) -> Option<usize> {
        if route.is_some() {
            return route;
        }
        let takes = |index: &usize| self.all[*index].takes(lane) && !self.all[*index].has_rate();
        let fitting: Vec<usize> = (0..self.all.len()).filter(takes).collect();
        let up: Vec<usize> = fitting.iter().copied().filter(|index| self.all[*index].is_up).collect();
        // None is up: the pool of one that fits hands it back.
        let choice = if up.is_empty() { fitting } else { up };
        self.turn = self.turn.wrapping_add(1);
        choice.get(self.turn % choice.len().max(1)).copied()
    }

    pub(super) fn failed(&mut self, now_ms: u64, call: CallId, refused: bool, random: u64) -> bool {
        if !self.line.is(call) {
            return false;
        }
        self.line.failed(now_ms, refused, random);
        self.asked.clear();
        true
    }

    pub(super) fn wake_ms(&self) -> Option<u64> {
        let lapse = self.all.iter().filter(|relay| relay.has_share()).map(|relay| relay.trusted_until_ms);
        let due = self.all.iter().filter_map(Relay::due_ms);
        let pause = self.line.wake_ms().unwrap_or_default();
        let due = due.filter(|_| !self.line.is_open()).map(|due| due.max(pause));
        lapse.chain(due).min()
    }
}

impl Engine {
    /// Shares whose trust is over: their connections are closed, whatever they carry.
    pub(super) fn lapse_shares(&mut self, now_ms: u64) {
        for (index, relay) in self.relays.all.iter_mut().enumerate() {
            if relay.has_share() && now_ms >= relay.trusted_until_ms {
                relay.allowed = 0;
                self.effects.push(Effect::Allow { relay: index, connections: 0, cut: true });
            }
        }
    }

    pub(super) fn call_share(&mut self, now_ms: u64) {
        if !self.relays.line.is_free(now_ms) {
            return;
        }
        let is_draining = self.is_draining();
        let is_due = |relay: &Relay| {
            let is_used = !is_draining || relay.allowed > 0;
            is_used && relay.due_ms().is_some_and(|due| due <= now_ms)
        };
        let asked: Vec<usize> = (0..self.relays.all.len()).filter(|index| is_due(&self.relays.all[*index])).collect();
        if asked.is_empty() {
            return;
        }
        let wishes: Vec<RelayWish> = asked.iter().filter_map(|index| self.relays.all[*index].wish()).collect();
        for index in &asked {
            let relay = &mut self.relays.all[*index];
            relay.asked_at_ms = Some(now_ms);
            relay.told_held = relay.held;
        }
        self.relays.asked = asked;
        self.relays.sequence += 1;
        let sequence = self.relays.sequence;
        let id = self.next_call();
        self.relays.line.opened(id);
        self.effects.push(Effect::Call { id, call: Call::ShareRelays { sequence, wishes }, timeout_ms: TIMEOUT_MS });
    }

    pub(super) fn shared(&mut self, now_ms: u64, call: CallId, sent_at_ms: u64, shares: Vec<RelayShare>) {
        if !self.relays.line.is(call) {
            return;
        }
        self.relays.line.answered();
        for (index, share) in std::mem::take(&mut self.relays.asked).into_iter().zip(shares) {
            let Some(relay) = self.relays.all.get_mut(index) else { continue };
            let before = relay.allowed;
            relay.took(now_ms, sent_at_ms, share);
            if relay.allowed != before {
                self.effects.push(Effect::Allow { relay: index, connections: relay.allowed, cut: false });
            }
        }
    }

    /// The last call of a worker that ends, when its connections are closed: it has no use for its shares any more.
    pub fn leave_relays(&self) -> Option<Call> {
        let limited = self.relays.all.iter().filter_map(|relay| relay.plan.limit.clone());
        let leave = |(relay, limit)| RelayWish { relay, limit, held: 0, wanted: 0, sends: 0 };
        let wishes: Vec<RelayWish> = limited.map(leave).collect();
        (!wishes.is_empty()).then(|| Call::ShareRelays { sequence: self.relays.sequence + 1, wishes })
    }
}
