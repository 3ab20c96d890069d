//! Single decisions, by hand. The whole of it against the store's model is in `tests/sim`.

use super::*;
use postrider_common::ids::{BatchId, DefinitionHash, Fence, RunId, SiteName};
use postrider_common::lease::{
    FactStatus, Lease, LeaseAnswer, LeaseReport, LeaseStatus, OutcomeKind, Progress, RefusalReason,
};
use postrider_common::state::RecipientState;

const TTL_MS: u64 = 10_000;
const HARD_CAP_MS: u64 = 1_800_000;

/// An engine, its time, and what it asked for.
pub(super) struct Driver {
    pub(super) engine: Engine,
    pub now: u64,
    pub effects: Vec<Effect>,
    leases: u64,
}

pub(super) fn config(slots: u32) -> EngineConfig {
    EngineConfig {
        instance: "test".into(),
        slots,
        lanes: Vec::new(),
        reserve: BTreeMap::new(),
        relays: vec![RelayPlan::default()],
        drain_timeout_ms: 5_000,
    }
}

impl Driver {
    pub fn new(config: EngineConfig) -> Self {
        Self { engine: Engine::new(config), now: 100_000, effects: Vec::new(), leases: 0 }
    }

    /// With its relay up, and a lease of that many recipients.
    pub(super) fn with_lease(slots: u32, count: usize) -> Self {
        let mut driver = Self::new(config(slots));
        driver.up();
        driver.lease(count);
        driver
    }

    pub fn tell(&mut self, event: Event) {
        let effects = self.engine.handle(self.now, event);
        self.effects.extend(effects);
    }

    /// Ticks as the engine wishes, until that much time has passed.
    pub fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            self.now = self.engine.next_wake_ms(self.now).min(end);
            self.tell(Event::Tick);
        }
    }

    pub fn up(&mut self) {
        self.tell(Event::Relay { index: 0, is_up: true });
    }

    /// Takes the first call that fits out of what was asked for.
    pub fn take<T>(&mut self, what: &str, fits: impl Fn(&Call) -> Option<T>) -> (CallId, T) {
        let found = self.effects.iter().enumerate().find_map(|(at, effect)| match effect {
            Effect::Call { id, call, .. } => fits(call).map(|found| (at, *id, found)),
            _ => None,
        });
        let Some((at, id, found)) = found else { panic!("no {what} in {:?}", self.effects) };
        self.effects.remove(at);
        (id, found)
    }

    pub fn wish(&mut self) -> (CallId, LeaseWish) {
        self.take("lease call", |call| match call {
            Call::Lease(wish) => Some(wish.clone()),
            _ => None,
        })
    }

    pub(super) fn checkpoint(&mut self) -> (CallId, LeaseReport) {
        self.take("checkpoint", |call| match call {
            Call::Checkpoint(reports) => Some(reports[0].clone()),
            _ => None,
        })
    }

    pub fn finish(&mut self) -> (CallId, LeaseReport) {
        self.take("finish", |call| match call {
            Call::Finish(reports) => Some(reports[0].clone()),
            _ => None,
        })
    }

    pub(super) fn release(&mut self) -> (CallId, (LeaseReport, bool)) {
        self.take("release", |call| match call {
            Call::Release { reports, abandon, .. } => Some((reports[0].clone(), *abandon)),
            _ => None,
        })
    }

    pub fn lease(&mut self, count: usize) {
        let offer = self.offer(count, true);
        let (call, _) = self.wish();
        let event = Event::Leased { call, sent_at_ms: self.now, held_ms: 0, offers: vec![offer], drain: false };
        self.tell(event);
    }

    pub fn offer(&mut self, count: usize, is_usable: bool) -> Offer {
        self.leases += 1;
        let run = RunId::derive("run", "1");
        let pending = Progress { state: RecipientState::Pending, attempts: 0, not_before_ms: 0 };
        let lease = Lease {
            batch: BatchId { run: run.clone(), sequence: self.leases },
            fence: Fence { epoch: 1, counter: self.leases, nonce: 7 },
            run,
            campaign: String::new(),
            lane: LaneName::bulk(),
            site: SiteName::other(),
            definition: DefinitionHash::of(b""),
            ttl_ms: TTL_MS,
            hard_cap_ms: HARD_CAP_MS,
            window: 10,
            payload: bytes::Bytes::new(),
            recipients: vec![pending; count],
            only: None,
        };
        Offer { key: LeaseKey(self.leases), lease, is_usable, endpoint: None }
    }

    pub(super) fn answer(&mut self, call: CallId, answer: LeaseAnswer) {
        let sent_at_ms = self.now;
        self.tell(Event::Answered { call, sent_at_ms, answers: vec![answer], drain: false });
    }

    /// Grants what the checkpoint asked for.
    pub fn grant(&mut self) -> Vec<u32> {
        let (call, report) = self.checkpoint();
        let answer = LeaseAnswer { granted: report.intents.clone(), ttl_ms: TTL_MS, ..held(&report) };
        self.answer(call, answer);
        report.intents
    }

    pub fn sent(&mut self, index: u32, kind: OutcomeKind) {
        let outcome = Outcome { index, kind, code: "250".into(), detail: String::new(), retry_after_ms: 0 };
        self.tell(Event::Sent { lease: LeaseKey(1), outcome });
    }

    fn started(&mut self) -> Vec<u32> {
        let started = self.effects.iter().filter_map(|effect| match effect {
            Effect::StartSend { index, .. } => Some(*index),
            _ => None,
        });
        let started = started.collect();
        self.effects.retain(|effect| !matches!(effect, Effect::StartSend { .. }));
        started
    }

    pub fn has(&self, fits: impl Fn(&Effect) -> bool) -> bool {
        self.effects.iter().any(fits)
    }
}

pub(super) fn held(report: &LeaseReport) -> LeaseAnswer {
    LeaseAnswer { ttl_ms: TTL_MS, ..LeaseAnswer::plain(report.batch.clone(), LeaseStatus::Held) }
}

pub(super) fn ended(report: &LeaseReport, status: LeaseStatus) -> LeaseAnswer {
    LeaseAnswer::plain(report.batch.clone(), status)
}

#[test]
fn a_send_starts_only_after_its_grant() {
    let mut driver = Driver::with_lease(4, 30);
    assert!(driver.started().is_empty());
    assert_eq!(driver.grant(), [0, 1, 2, 3]);
    assert_eq!(driver.started(), [0, 1, 2, 3]);
    // Slots are full: nothing more is asked for until an outcome frees one, in one call with it.
    driver.pass(100);
    driver.sent(2, OutcomeKind::Accepted);
    driver.pass(GATHER_MS);
    let (_, report) = driver.checkpoint();
    assert_eq!((report.outcomes[0].index, report.intents, report.sequence), (2, vec![4], 2));
}

#[test]
fn the_window_bounds_the_wishes_of_one_batch() {
    let mut driver = Driver::with_lease(100, 30);
    assert_eq!(driver.grant().len(), 10);
    assert_eq!(driver.started().len(), 10);
}

#[test]
fn a_repeat_keeps_sequence_and_wishes_and_adds_outcomes() {
    let mut driver = Driver::with_lease(4, 30);
    driver.grant();
    driver.sent(0, OutcomeKind::Accepted);
    driver.pass(GATHER_MS);
    let (call, first) = driver.checkpoint();
    driver.sent(1, OutcomeKind::Accepted);
    driver.tell(Event::CallFailed { call, refused: false, random: 0 });
    driver.pass(1_000);
    let (call, second) = driver.checkpoint();
    assert_eq!((second.sequence, &second.intents), (first.sequence, &first.intents));
    let outcomes: Vec<u32> = second.outcomes.iter().map(|outcome| outcome.index).collect();
    assert_eq!(outcomes, [0, 1]);
    driver.answer(call, LeaseAnswer { granted: second.intents.clone(), ..held(&second) });
    driver.pass(GATHER_MS);
    let (_, third) = driver.checkpoint();
    assert_eq!((third.sequence, third.outcomes.len()), (first.sequence + 1, 0));
}

#[test]
fn trust_counts_from_before_the_request() {
    let mut driver = Driver::new(config(4));
    driver.up();
    let (call, _) = driver.wish();
    let offer = driver.offer(30, true);
    let sent_at_ms = driver.now;
    driver.now += 3_000;
    // The master says it held the call longer than it took: only the time that passed is believed.
    driver.tell(Event::Leased { call, sent_at_ms, held_ms: 9_000, offers: vec![offer], drain: false });
    let margin = held::margin_ms(TTL_MS);
    let until_ms = sent_at_ms + 3_000 + TTL_MS - margin;
    assert!(driver.has(|effect| *effect == Effect::Trust { lease: LeaseKey(1), until_ms }), "{:?}", driver.effects);
    let (call, report) = driver.checkpoint();
    let sent_at_ms = driver.now;
    driver.now += 500;
    let answer = LeaseAnswer { granted: report.intents.clone(), ..held(&report) };
    driver.tell(Event::Answered { call, sent_at_ms, answers: vec![answer], drain: false });
    let until_ms = sent_at_ms + TTL_MS - margin;
    assert!(driver.has(|effect| *effect == Effect::Trust { lease: LeaseKey(1), until_ms }), "{:?}", driver.effects);
}

#[test]
fn margins_follow_the_ttl_within_bounds() {
    for (ttl_ms, margin_ms) in [(100, 50), (1_000, 100), (10_000, 1_000), (60_000, 5_000), (600_000, 5_000)] {
        assert_eq!(held::margin_ms(ttl_ms), margin_ms);
    }
}

#[test]
fn past_its_trust_a_lease_is_cut_and_starts_nothing() {
    let mut driver = Driver::with_lease(4, 30);
    driver.grant();
    driver.sent(0, OutcomeKind::Accepted);
    driver.pass(GATHER_MS);
    let (call, report) = driver.checkpoint();
    let sent_at_ms = driver.now;
    driver.started();
    driver.pass(TTL_MS - held::margin_ms(TTL_MS));
    assert!(driver.has(|effect| *effect == Effect::Cut { lease: LeaseKey(1) }));
    // An answer this late grants nothing that may be used, and is told so.
    let answer = LeaseAnswer { granted: report.intents.clone(), ..held(&report) };
    driver.tell(Event::Answered { call, sent_at_ms, answers: vec![answer], drain: false });
    assert!(driver.started().is_empty());
    driver.pass(GATHER_MS);
    let (_, report) = driver.checkpoint();
    assert!(report.outcomes.iter().any(|told| told.index == 4 && told.kind == OutcomeKind::NotWritten));
    assert!(!report.intents.contains(&4), "it is left to the next lease");
}

#[test]
fn a_lease_without_traffic_is_renewed_at_a_third() {
    let mut driver = Driver::with_lease(4, 4);
    driver.grant();
    driver.pass(TTL_MS / 3 - 10);
    assert!(!driver.has(|effect| matches!(effect, Effect::Call { call: Call::Checkpoint(_), .. })));
    driver.pass(20);
    let (_, report) = driver.checkpoint();
    assert_eq!((report.outcomes.len(), report.intents.len()), (0, 0));
}

#[test]
fn a_throttled_lease_waits_as_told_and_takes_no_slots() {
    let mut driver = Driver::with_lease(20, 30);
    let (call, report) = driver.checkpoint();
    let throttled = |index: &u32| (*index, RefusalReason::Throttled { retry_in_ms: 900 });
    let refused = report.intents[4..].iter().map(throttled).collect();
    let granted = report.intents[..4].to_vec();
    driver.answer(call, LeaseAnswer { granted, refused, ttl_ms: TTL_MS, ..held(&report) });
    let calls = |driver: &Driver| {
        let is = |effect: &&Effect| matches!(effect, Effect::Call { call: Call::Checkpoint(_), .. });
        driver.effects.iter().filter(is).count()
    };
    driver.pass(899);
    assert_eq!(calls(&driver), 0, "nothing is asked for before");
    driver.pass(1 + GATHER_MS);
    let (call, report) = driver.checkpoint();
    assert_eq!(report.intents.len(), 6);
    driver.answer(call, LeaseAnswer { granted: report.intents.clone(), ttl_ms: TTL_MS, ..held(&report) });
    assert_eq!(driver.engine.slots_used(), 10);
}

#[test]
fn throttled_leases_that_only_wait_go_back() {
    // There is another one for the room there will be; and none will be in the time of the lease.
    let mut driver = Driver::with_lease(40, 30);
    let (call, report) = driver.checkpoint();
    let all = |report: &LeaseReport, retry_in_ms| -> Vec<_> {
        report.intents.iter().map(|index| (*index, RefusalReason::Throttled { retry_in_ms })).collect()
    };
    driver.answer(call, LeaseAnswer { refused: all(&report, 500), ttl_ms: TTL_MS, ..held(&report) });
    assert_eq!(driver.engine.leases_held(), 1);
    driver.lease(30);
    let (call, second) = driver.checkpoint();
    driver.answer(call, LeaseAnswer { refused: all(&second, 500), ttl_ms: TTL_MS, ..held(&second) });
    let (call, (released, abandon)) = driver.release();
    assert_eq!((released.batch.sequence, abandon), (second.batch.sequence, false));
    driver.answer(call, LeaseAnswer { status: LeaseStatus::Returned, ..held(&released) });
    driver.pass(600);
    let (call, report) = driver.checkpoint();
    driver.answer(call, LeaseAnswer { refused: all(&report, TTL_MS + 1), ttl_ms: TTL_MS, ..held(&report) });
    assert_eq!(driver.release().1.0.batch, report.batch);
}

#[test]
fn refusals_end_a_lease_as_they_say() {
    let rows = [
        (RefusalReason::Settled, "finish"),
        (RefusalReason::NotDue, "finish"),
        (RefusalReason::Outside, "finish"),
        (RefusalReason::Cancelled, "finish"),
        (RefusalReason::HardCap, "finish"),
        (RefusalReason::Paused, "release"),
        (RefusalReason::Window, "again"),
        (RefusalReason::Repeated, "again"),
    ];
    for (reason, then) in rows {
        let mut driver = Driver::with_lease(4, 3);
        let (call, report) = driver.checkpoint();
        let refused = report.intents.iter().map(|index| (*index, reason)).collect();
        driver.answer(call, LeaseAnswer { refused, ..held(&report) });
        driver.pass(500);
        match then {
            "finish" => drop(driver.finish()),
            "release" => assert!(!driver.release().1.1),
            _ => assert_eq!(driver.checkpoint().1.intents, [0, 1, 2]),
        }
    }
}

#[test]
fn a_pause_waits_for_what_is_in_flight() {
    let mut driver = Driver::with_lease(2, 30);
    driver.grant();
    driver.sent(0, OutcomeKind::Accepted);
    driver.pass(GATHER_MS);
    let (call, report) = driver.checkpoint();
    driver.answer(call, LeaseAnswer { refused: vec![(2, RefusalReason::Paused)], ..held(&report) });
    assert!(driver.has(|effect| *effect == Effect::Recall { lease: LeaseKey(1) }));
    assert!(!driver.has(|effect| matches!(effect, Effect::Call { call: Call::Release { .. }, .. })));
    driver.sent(1, OutcomeKind::Accepted);
    let (call, (report, abandon)) = driver.release();
    assert_eq!((report.outcomes[0].index, abandon), (1, false));
    driver.answer(call, ended(&report, LeaseStatus::Returned));
    assert_eq!(driver.engine.leases_held(), 0);
}

#[test]
fn a_batch_that_is_done_is_finished_with_its_last_outcomes() {
    let mut driver = Driver::with_lease(4, 2);
    driver.grant();
    driver.sent(0, OutcomeKind::Accepted);
    driver.sent(1, OutcomeKind::Deferred);
    let (call, report) = driver.finish();
    assert_eq!(report.outcomes.len(), 2);
    // Refused: somebody is in intent of whom nothing is known here.
    driver.answer(call, ended(&report, LeaseStatus::InIntent));
    driver.pass(500);
    let (call, report) = driver.finish();
    driver.answer(call, ended(&report, LeaseStatus::Settled));
    assert_eq!(driver.engine.leases_held(), 0);
}

#[test]
fn what_a_lost_lease_leaves_behind_is_told_as_facts_until_answered() {
    let mut driver = Driver::with_lease(4, 30);
    driver.grant();
    driver.sent(0, OutcomeKind::Accepted);
    driver.pass(GATHER_MS);
    let (call, report) = driver.checkpoint();
    driver.sent(1, OutcomeKind::Accepted);
    driver.answer(call, ended(&report, LeaseStatus::Lost));
    assert!(driver.has(|effect| *effect == Effect::Trust { lease: LeaseKey(1), until_ms: 0 }));
    assert!(driver.has(|effect| *effect == Effect::Told { lease: LeaseKey(1), indexes: vec![0] }));
    assert!(driver.has(|effect| *effect == Effect::Forget { lease: LeaseKey(1), owed: vec![1, 2, 3] }));
    let facts = |call: &Call| match call {
        Call::Facts(facts) => Some(facts.iter().map(|fact| fact.outcome.index).collect::<Vec<_>>()),
        _ => None,
    };
    // The first outcome was taken with the report; the second came after it.
    let (call, told) = driver.take("facts", facts);
    assert_eq!(told, [1]);
    driver.tell(Event::CallFailed { call, refused: false, random: 0 });
    driver.sent(2, OutcomeKind::Unknown);
    driver.pass(1_000);
    let (call, told) = driver.take("facts", facts);
    assert_eq!(told, [1, 2]);
    // The part of the store that has the first one's batch is away.
    driver.tell(Event::FactsAnswered { call, statuses: vec![FactStatus::Unanswered, FactStatus::Applied] });
    assert!(driver.has(|effect| *effect == Effect::Told { lease: LeaseKey(1), indexes: vec![2] }));
    assert!(!driver.has(|effect| matches!(effect, Effect::Call { call: Call::Facts(_), .. })), "not at once");
    driver.pass(1_000);
    let (call, told) = driver.take("facts", facts);
    assert_eq!(told, [1]);
    driver.tell(Event::FactsAnswered { call, statuses: vec![FactStatus::Applied] });
    driver.pass(1_000);
    assert!(!driver.has(|effect| matches!(effect, Effect::Call { call: Call::Facts(_), .. })));
}

#[test]
fn nothing_is_leased_for_lanes_whose_relays_are_down() {
    let mut with_relays = config(8);
    let of = |lane| RelayPlan { lanes: vec![lane], ..RelayPlan::default() };
    with_relays.relays = vec![of(LaneName::bulk()), of(LaneName::transactional())];
    let mut driver = Driver::new(with_relays);
    driver.pass(10_000);
    assert_eq!(driver.effects, []);
    driver.tell(Event::Relay { index: 1, is_up: true });
    assert_eq!(driver.wish().1.lanes, [LaneName::transactional()]);
}

#[test]
fn a_relay_that_falls_sends_its_leases_back() {
    let mut driver = Driver::with_lease(2, 30);
    driver.grant();
    driver.tell(Event::Relay { index: 0, is_up: false });
    assert!(driver.has(|effect| *effect == Effect::Recall { lease: LeaseKey(1) }));
    driver.sent(0, OutcomeKind::Deferred);
    driver.sent(1, OutcomeKind::NotWritten);
    let (_, (report, abandon)) = driver.release();
    assert_eq!((report.outcomes.len(), abandon), (2, false));
}

#[test]
fn only_reserved_lanes_are_asked_for_when_the_rest_is_full() {
    let mut reserved = config(8);
    reserved.reserve = BTreeMap::from([(LaneName::transactional(), 2)]);
    let mut driver = Driver::new(reserved);
    driver.up();
    assert_eq!(driver.wish_again(30).lanes, []);
    let (_, wish) = driver.wish();
    assert_eq!((wish.lanes, wish.wait_ms < 100), (vec![LaneName::transactional()], true));
    // Six general slots, though the window is ten.
    assert_eq!(driver.grant().len(), 6);
}

impl Driver {
    /// Answers the wish with a lease; what was wished.
    fn wish_again(&mut self, count: usize) -> LeaseWish {
        let (call, wish) = self.wish();
        let offer = self.offer(count, true);
        self.tell(Event::Leased { call, sent_at_ms: self.now, held_ms: 0, offers: vec![offer], drain: false });
        wish
    }
}

#[test]
fn a_wish_without_an_answer_is_repeated_under_its_name() {
    let mut driver = Driver::new(config(8));
    driver.up();
    let (call, first) = driver.wish();
    driver.tell(Event::CallFailed { call, refused: false, random: 1 });
    driver.pass(1_000);
    let (call, second) = driver.wish();
    assert_eq!(first, second);
    driver.tell(Event::Leased { call, sent_at_ms: driver.now, held_ms: 0, offers: Vec::new(), drain: false });
    driver.pass(1_000);
    assert_ne!(driver.wish().1.request, first.request);
}

#[test]
fn leases_are_not_hoarded() {
    let mut driver = Driver::new(config(20));
    driver.up();
    let mut batches = 0;
    while driver.has(|effect| matches!(effect, Effect::Call { call: Call::Lease(_), .. })) {
        batches += 1;
        driver.wish_again(100);
        assert!(batches < 10, "it never has enough");
    }
    // Twenty slots and a quarter, ten for each batch.
    assert_eq!(batches, 3);
}

#[test]
fn a_lease_that_cannot_be_used_is_kept_a_while_and_goes_back() {
    let mut driver = Driver::new(config(8));
    driver.up();
    let (call, _) = driver.wish();
    let offer = driver.offer(10, false);
    driver.tell(Event::Leased { call, sent_at_ms: driver.now, held_ms: 0, offers: vec![offer], drain: false });
    driver.pass(SHELF_MS - 1);
    let (call, renewal) = driver.checkpoint();
    assert!(renewal.intents.is_empty());
    driver.answer(call, held(&renewal));
    assert!(!driver.has(|effect| matches!(effect, Effect::Call { call: Call::Release { .. }, .. })));
    driver.pass(1);
    let (_, (report, _)) = driver.release();
    assert!(report.outcomes.is_empty());
}

#[test]
fn a_report_that_no_master_accepts_does_not_stop_the_others() {
    let mut driver = Driver::with_lease(40, 30);
    driver.lease(30);
    for _ in 0..20 {
        let found =
            driver.effects.iter().position(|effect| matches!(effect, Effect::Call { call: Call::Checkpoint(_), .. }));
        let Some(at) = found else {
            driver.pass(3_000);
            continue;
        };
        let Effect::Call { id, call: Call::Checkpoint(reports), .. } = driver.effects.remove(at) else { continue };
        if reports.iter().any(|report| report.batch.sequence == 1) {
            driver.tell(Event::CallFailed { call: id, refused: true, random: 0 });
        } else {
            let answer = held(&reports[0]);
            driver.answer(id, LeaseAnswer { granted: reports[0].intents.clone(), ..answer });
        }
        if driver.engine.leases_held() == 1 {
            assert!(driver.has(|effect| matches!(effect, Effect::Forget { lease: LeaseKey(1), .. })));
            return;
        }
    }
    panic!("the refused lease is still there");
}

#[test]
fn many_leases_that_only_wish_do_not_keep_outcomes_back() {
    let mut driver = Driver::with_lease(20, 100);
    driver.grant();
    // More leases than a call carries, all of them with wishes that find no slot.
    for _ in 0..100 {
        let offer = driver.offer(100, true);
        let now = driver.now;
        driver.tell(Event::Leased { call: CallId(0), sent_at_ms: now, held_ms: 0, offers: vec![offer], drain: false });
    }
    driver.pass(GATHER_MS);
    while driver.has(|effect| matches!(effect, Effect::Call { call: Call::Checkpoint(_), .. })) {
        let at =
            driver.effects.iter().position(|effect| matches!(effect, Effect::Call { call: Call::Checkpoint(_), .. }));
        let Effect::Call { id, call: Call::Checkpoint(reports), .. } = driver.effects.remove(at.unwrap()) else {
            continue;
        };
        let answer = |report: &LeaseReport| LeaseAnswer { granted: report.intents.clone(), ..held(report) };
        let answers = reports.iter().map(answer).collect();
        let sent_at_ms = driver.now;
        driver.tell(Event::Answered { call: id, sent_at_ms, answers, drain: false });
        driver.pass(GATHER_MS);
    }
    driver.started();
    let used = driver.engine.slots_used();
    assert_eq!(used, 20, "all slots are taken");
    driver.sent(0, OutcomeKind::Accepted);
    driver.pass(GATHER_MS);
    assert_eq!(driver.checkpoint().1.outcomes.len(), 1);
}
