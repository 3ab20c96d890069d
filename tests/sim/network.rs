//! Calls from workers to masters, in the wire's own messages, with delay, loss, late repeats and one-way partitions.

use crate::master::Inbound;
use crate::worker::WorkerEvent;
use crate::world::{Happening, World};
use postrider_common::lease::{FactStatus, Lease, LeaseAnswer};
use postrider_common::relay::RelayShare;
use postrider_proto::v1;
use postrider_proto::v1::dispatch_server::Dispatch;
use postrider_worker::engine::{Call, CallId};
use tonic::{Code, Request, Status};

/// How late a repeated call may come.
const LATE_MS: u64 = 8_000;

#[derive(Debug, Clone)]
pub enum Body {
    Lease(v1::LeaseRequest),
    Checkpoint(v1::CheckpointRequest),
    Finish(v1::FinishRequest),
    Release(v1::ReleaseRequest),
    Facts(v1::FactsRequest),
    Share(v1::ShareRelaysRequest),
}

#[derive(Debug, Clone)]
pub struct Envelope {
    pub worker: usize,
    pub master: usize,
    pub call: CallId,
    pub body: Body,
    pub sent_at_boot_ms: u64,
    /// Nobody waits for the answer.
    pub is_echo: bool,
}

/// What a master says, and how far it knows the store to be.
#[derive(Debug, Clone)]
pub struct Reply {
    pub answer: Answer,
    pub seen: Vec<v1::StoreMark>,
}

#[derive(Debug, Clone)]
pub enum Answer {
    Leased {
        leases: Vec<Lease>,
        held_ms: u64,
        drain: bool,
    },
    Reported {
        answers: Vec<LeaseAnswer>,
        drain: bool,
    },
    Facts(Vec<FactStatus>),
    Shared(Vec<RelayShare>),
    /// The contents were refused.
    Refused,
}

impl World {
    /// Leaves the worker.
    pub fn send(&mut self, worker: usize, call: CallId, body: Body) {
        let masters = self.masters.len();
        let state = &self.workers[worker];
        let (host, master) = (state.host, state.master % masters);
        let sent_at_boot_ms = self.boot_ms(worker);
        let envelope = Envelope { worker, master, call, body, sent_at_boot_ms, is_echo: false };
        let (lose, repeat) = if self.is_healed { (0, 0) } else { (self.mix.lose, self.mix.repeat) };
        if self.hosts[host].is_cut[0] {
            return;
        }
        if self.random.permille(repeat) {
            self.fault("call repeated");
            let late = 1 + self.random.below(LATE_MS);
            let echo =
                Envelope { is_echo: true, master: self.random.below(masters as u64) as usize, ..envelope.clone() };
            self.after(late, Happening::Request(echo));
        }
        if self.random.permille(lose) {
            return self.fault("call lost");
        }
        let delay = self.delay();
        self.after(delay, Happening::Request(envelope));
    }

    fn delay(&mut self) -> u64 {
        if !self.is_healed && self.random.permille(self.mix.slow) {
            self.fault("call delayed");
            return self.random.below(1_500);
        }
        1 + self.random.below(4)
    }

    pub fn request_arrives(&mut self, envelope: Envelope) {
        let index = envelope.master;
        let node = &mut self.masters[index];
        if node.is_stopped() {
            node.held_requests.push(envelope);
            return;
        }
        let Some(dispatch) = node.master.as_ref().map(|master| master.dispatch.clone()) else {
            // Nobody listens there.
            return self.answer_leaves(envelope, None);
        };
        while node.calls.try_join_next().is_some() {}
        let inbox = self.inbox.clone();
        node.calls.spawn(async move {
            let answer = match envelope.body.clone() {
                Body::Lease(request) => dispatch.lease(Request::new(request)).await.map(leased),
                Body::Checkpoint(request) => dispatch.checkpoint(Request::new(request)).await.map(|answer| {
                    let v1::CheckpointResponse { leases, drain, seen } = answer.into_inner();
                    reported(leases, drain, seen)
                }),
                Body::Finish(request) => dispatch.finish(Request::new(request)).await.map(|answer| {
                    let v1::FinishResponse { leases, seen } = answer.into_inner();
                    reported(leases, false, seen)
                }),
                Body::Release(request) => dispatch.release(Request::new(request)).await.map(|answer| {
                    let v1::ReleaseResponse { leases, seen } = answer.into_inner();
                    reported(leases, false, seen)
                }),
                Body::Share(request) => dispatch.share_relays(Request::new(request)).await.map(|answer| {
                    let relays = answer.into_inner().relays.into_iter().map(RelayShare::from).collect();
                    Reply { answer: Answer::Shared(relays), seen: Vec::new() }
                }),
                Body::Facts(request) => dispatch.facts(Request::new(request)).await.map(|answer| {
                    let statuses = answer.get_ref().facts().map(FactStatus::try_from).collect::<Result<_, _>>();
                    let answered = Answer::Facts(statuses.expect("a master's answer can be read"));
                    Reply { answer: answered, seen: answer.into_inner().seen }
                }),
            };
            let answer = answer.map_or_else(|status| refusal(&status), Some);
            let _ = inbox.send(Inbound::Answered { master: index, envelope, answer });
        });
    }

    /// Leaves the master. `answer`: None, it could not be served there.
    pub fn answer_leaves(&mut self, envelope: Envelope, answer: Option<Reply>) {
        let host = self.workers[envelope.worker].host;
        let lose = if self.is_healed { 0 } else { self.mix.lose };
        if envelope.is_echo || self.hosts[host].is_cut[1] {
            return;
        }
        if self.random.permille(lose) {
            return self.fault("answer lost");
        }
        let delay = self.delay();
        self.after(delay, Happening::Worker(envelope.worker, WorkerEvent::Answer(Box::new(envelope), answer)));
    }

    pub fn partition(&mut self, host: usize, towards: bool, is_cut: bool) {
        if is_cut {
            self.fault("one-way partition");
        }
        self.hosts[host].is_cut[usize::from(!towards)] = is_cut;
    }

    /// A call as the wire has it.
    pub fn body(&self, worker: usize, call: Call) -> Body {
        let state = &self.workers[worker];
        let id = Some(v1::Worker { seen: (&state.seen).into(), ..(&state.id).into() });
        let wire = |reports: Vec<postrider_common::lease::LeaseReport>| reports.into_iter().map(Into::into).collect();
        match call {
            Call::Lease(wish) => Body::Lease(v1::LeaseRequest {
                worker: id,
                request_id: wish.request.to_string(),
                batches_max: wish.batches_max,
                lanes: wish.lanes.iter().map(ToString::to_string).collect(),
                wait_ms: wish.wait_ms,
                known_definitions: Vec::new(),
                slots: state.slots,
            }),
            Call::Checkpoint(reports) => Body::Checkpoint(v1::CheckpointRequest { worker: id, leases: wire(reports) }),
            Call::Finish(reports) => Body::Finish(v1::FinishRequest { worker: id, leases: wire(reports) }),
            Call::Release { reports, abandon, delay_ms } => {
                Body::Release(v1::ReleaseRequest { worker: id, leases: wire(reports), abandon, delay_ms })
            }
            Call::ShareRelays { sequence, wishes } => {
                let relays = wishes.into_iter().map(Into::into).collect();
                Body::Share(v1::ShareRelaysRequest { worker: id, sequence, relays })
            }
            Call::Facts(facts) => {
                Body::Facts(v1::FactsRequest { worker: id, facts: facts.into_iter().map(Into::into).collect() })
            }
        }
    }
}

fn leased(answer: tonic::Response<v1::LeaseResponse>) -> Reply {
    let v1::LeaseResponse { leases, definitions: _, held_ms, drain, seen } = answer.into_inner();
    let leases = leases.into_iter().map(Lease::try_from).collect::<Result<_, _>>();
    Reply { answer: Answer::Leased { leases: leases.expect("a master's answer can be read"), held_ms, drain }, seen }
}

fn reported(answers: Vec<v1::LeaseAnswer>, drain: bool, seen: Vec<v1::StoreMark>) -> Reply {
    let answers = answers.into_iter().map(LeaseAnswer::try_from).collect::<Result<_, _>>();
    Reply { answer: Answer::Reported { answers: answers.expect("a master's answer can be read"), drain }, seen }
}

fn refusal(status: &Status) -> Option<Reply> {
    match status.code() {
        Code::InvalidArgument | Code::ResourceExhausted | Code::OutOfRange => {
            Some(Reply { answer: Answer::Refused, seen: Vec::new() })
        }
        _ => None,
    }
}
