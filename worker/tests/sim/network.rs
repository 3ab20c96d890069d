//! Calls between workers and the store, with delay, loss and late repeats.

use super::{Happening, TTL_MS, WINDOW, World};
use postrider_common::ids::LaneName;
use postrider_common::ids::WorkerId;
use postrider_common::lease::{Lease, LeaseAnswer};
use postrider_common::relay::RelayShare;
use postrider_store::api::{Checkpoint, Claim, ClaimedBatch, Finish, Release, ShareRelay};
use postrider_worker::engine::{Call, CallId, Event};

const HARD_CAP_MS: u64 = 1_800_000;

#[derive(Debug, Clone)]
pub struct Envelope {
    pub worker: usize,
    pub call: CallId,
    pub body: Call,
    pub sent_at_boot_ms: u64,
    /// Until when a Lease call is held, in world time.
    hold_until_ms: u64,
    arrived_at_ms: u64,
    /// Nobody waits for the answer.
    is_echo: bool,
    pub answer: Option<Answer>,
}

#[derive(Debug, Clone)]
pub enum Answer {
    Leased { leases: Vec<ClaimedBatch>, held_ms: u64, drain: bool },
    Reported(Vec<LeaseAnswer>),
    Facts(Vec<postrider_common::lease::FactStatus>),
    Shared(Vec<RelayShare>),
}

impl World {
    pub fn send(&mut self, worker: usize, call: CallId, body: Call, timeout_ms: u64) {
        let envelope = Envelope {
            worker,
            call,
            body,
            sent_at_boot_ms: self.boot_ms(worker),
            hold_until_ms: 0,
            arrived_at_ms: 0,
            is_echo: false,
            answer: None,
        };
        self.workers[worker].calls_open.insert(call);
        self.at(timeout_ms, Happening::Worker(worker, super::WorkerTimer::CallTimeout(call)));
        let (lose, repeat) = match self.faults_are_on() {
            true => (self.faults.lose_percent, self.faults.repeat_percent),
            false => (0, 0),
        };
        if self.chance(repeat) {
            let late = 1 + self.below(2 * TTL_MS);
            self.at(late, Happening::Request(Envelope { is_echo: true, ..envelope.clone() }));
        }
        if !self.is_partitioned(worker) && !self.chance(lose) {
            let delay = if self.chance(3) { self.below(1_500) } else { 1 + self.below(4) };
            self.at(delay, Happening::Request(envelope));
        }
    }

    pub fn request_arrives(&mut self, mut envelope: Envelope) {
        if envelope.arrived_at_ms == 0 {
            envelope.arrived_at_ms = self.now_ms;
            if let Call::Lease(wish) = &envelope.body {
                envelope.hold_until_ms = self.now_ms + u64::from(wish.wait_ms);
            }
        }
        let now = self.store_now();
        let id = self.worker_id(envelope.worker);
        let answer = match envelope.body.clone() {
            Call::Lease(wish) => {
                let all = [(LaneName::bulk(), 10), (LaneName::transactional(), 100)];
                let lanes = all.into_iter().filter(|(lane, _)| wish.lanes.is_empty() || wish.lanes.contains(lane));
                let claimed = self.model.claim(
                    now,
                    Claim {
                        worker: id,
                        request: wish.request.clone(),
                        nonce: 7,
                        batches_max: wish.batches_max,
                        lanes: lanes.collect(),
                        ttl_ms: TTL_MS,
                        hard_cap_ms: HARD_CAP_MS,
                        slots: 1,
                        limits: self.limits.clone(),
                    },
                );
                for lease in &claimed.leases {
                    self.fences.insert(lease.batch.clone(), lease.fence.clone());
                }
                // A caller that is gone is noticed sooner or later.
                if claimed.leases.is_empty() && self.now_ms < envelope.hold_until_ms && self.is_waited_for(&envelope) {
                    return self.at(20, Happening::Request(envelope));
                }
                let held_ms = self.now_ms - envelope.arrived_at_ms;
                Answer::Leased { leases: claimed.leases, held_ms, drain: claimed.drain }
            }
            Call::Checkpoint(reports) => {
                let checkpoint = Checkpoint {
                    worker: id,
                    reports,
                    ttl_ms: TTL_MS,
                    window: WINDOW,
                    retry_fraction: 500_000,
                    limits: self.limits.clone(),
                };
                Answer::Reported(self.model.checkpoint(now, checkpoint))
            }
            Call::Finish(reports) => {
                Answer::Reported(self.model.finish(now, Finish { worker: id, reports, retry_fraction: 500_000 }))
            }
            Call::Release { reports, abandon } => Answer::Reported(self.model.release(
                now,
                Release { worker: id, reports, retry_fraction: 500_000, abandon, doubt_grace_ms: super::GRACE_MS },
            )),
            Call::Facts(facts) => Answer::Facts(self.model.facts(now, (facts, 500_000))),
            Call::ShareRelays { sequence, wishes } => {
                let share = |wish| ShareRelay { worker: id.clone(), sequence, wish, ttl_ms: TTL_MS };
                let shares = wishes.into_iter().map(|wish| self.model.share_relay(now, share(wish)));
                Answer::Shared(shares.collect())
            }
        };
        self.check_in_intent(envelope.worker);
        envelope.answer = Some(answer);
        let lose = if self.faults_are_on() { self.faults.lose_percent } else { 0 };
        if !envelope.is_echo && !self.is_partitioned(envelope.worker) && !self.chance(lose) {
            let delay = 1 + self.below(4);
            self.at(delay, Happening::Answer(envelope));
        }
    }

    fn is_waited_for(&self, envelope: &Envelope) -> bool {
        !envelope.is_echo && self.workers[envelope.worker].calls_open.contains(&envelope.call)
    }

    pub fn answer_arrives(&mut self, envelope: Envelope) {
        let (worker, call) = (envelope.worker, envelope.call);
        if self.workers[worker].is_gone() || !self.workers[worker].calls_open.remove(&call) {
            return;
        }
        let sent_at_ms = envelope.sent_at_boot_ms;
        let event = match envelope.answer {
            Some(Answer::Leased { leases, held_ms, drain }) => {
                let offers = leases.into_iter().map(|claimed| self.workers[worker].offer(lease(claimed))).collect();
                Event::Leased { call, sent_at_ms, held_ms, offers, drain }
            }
            Some(Answer::Reported(answers)) => {
                self.workers[worker].note_grants(&answers);
                Event::Answered { call, sent_at_ms, answers, drain: false }
            }
            Some(Answer::Facts(statuses)) => Event::FactsAnswered { call, statuses },
            Some(Answer::Shared(shares)) => Event::Shared { call, sent_at_ms, shares },
            None => return,
        };
        self.tell(worker, event);
    }

    pub fn worker_id(&self, worker: usize) -> WorkerId {
        WorkerId { name: format!("w{worker}"), instance: uuid::Uuid::from_u128(worker as u128 + 1) }
    }
}

fn lease(claimed: ClaimedBatch) -> Lease {
    Lease {
        run: claimed.batch.run.clone(),
        batch: claimed.batch,
        fence: claimed.fence,
        campaign: claimed.campaign,
        lane: claimed.lane,
        site: claimed.site,
        definition: claimed.definition,
        ttl_ms: claimed.ttl_ms,
        hard_cap_ms: claimed.hard_cap_ms,
        window: WINDOW,
        payload: claimed.payload.into(),
        recipients: claimed.recipients,
        only: claimed.only,
    }
}
