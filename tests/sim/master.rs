//! Masters: the real ones, from the calls they serve to the duties they have, as tasks in virtual time.

use crate::network::{Envelope, Reply};
use crate::people::{lanes, sites};
use crate::random::Random;
use crate::rules::limits;
use crate::store::Line;
use crate::time::{EPOCH_MS, Time};
use crate::world::{Happening, Steer, World};
use postrider_common::clock::Clock;
use postrider_common::limits::SPLIT_AHEAD_BATCHES;
use postrider_master::schedule::Zones;
use postrider_master::{LeaseSettings, Master, MasterConfig, Retention, assemble};
use postrider_proto::v1;
use postrider_proto::v1::admin_server::Admin;
use postrider_store::{CreatedRun, Store};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::Request;

/// Between two tries of whoever submits or steers.
const RETRY_MS: u64 = 150;

/// A master's clocks.
#[derive(Debug)]
struct MasterClock {
    time: Time,
    random: Mutex<Random>,
}

impl Clock for MasterClock {
    fn wall_ms(&self) -> i64 {
        EPOCH_MS + self.time.now_ms() as i64
    }

    fn boot_ms(&self) -> u64 {
        5_000_000 + self.time.now_ms()
    }

    fn random(&self) -> u64 {
        self.random.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next()
    }
}

/// What masters' tasks tell the world.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "few are on their way at once, and most are the large one")]
pub enum Inbound {
    Answered { master: usize, envelope: Envelope, answer: Option<Reply> },
    Submitted { submission: usize, created: Option<CreatedRun> },
    Steered { steer: Steer, is_done: bool },
}

pub struct MasterNode {
    pub line: Line,
    pub master: Option<Master>,
    duties: JoinSet<()>,
    pub calls: JoinSet<()>,
    /// What arrived or was answered while it was stopped.
    pub held_requests: Vec<Envelope>,
    pub held_answers: Vec<Inbound>,
}

impl MasterNode {
    pub fn is_stopped(&self) -> bool {
        self.line.gate.is_stopped()
    }

    pub fn end(&mut self) {
        self.master = None;
        self.duties = JoinSet::new();
        self.calls = JoinSet::new();
    }
}

impl World {
    pub fn add_master(&mut self) {
        let line = Line::new(Arc::clone(&self.store));
        self.masters.push(MasterNode {
            line,
            master: None,
            duties: JoinSet::new(),
            calls: JoinSet::new(),
            held_requests: Vec::new(),
            held_answers: Vec::new(),
        });
        self.start_master(self.masters.len() - 1);
    }

    pub fn start_master(&mut self, index: usize) {
        if self.masters[index].master.is_some() {
            return;
        }
        let master = self.assemble_master(index);
        let node = &mut self.masters[index];
        node.duties = master.begin_duties();
        node.master = Some(master);
    }

    pub fn assemble_master(&mut self, index: usize) -> Master {
        let mix = &self.mix;
        let keep = mix.keep_ms.map(Duration::from_millis);
        let config = MasterConfig {
            grpc_listen: ([127, 0, 0, 1], 0).into(),
            http_listen: None,
            key_file: None,
            storage: "memory".into(),
            lease: LeaseSettings {
                ttl: Duration::from_millis(mix.ttl_ms),
                window: mix.window,
                doubt_grace: Duration::from_millis(mix.grace_ms),
                hard_cap: Duration::from_millis(mix.hard_cap_ms),
            },
            lanes: lanes(mix.retry_ttl_ms),
            sites: sites(),
            limits: limits(mix),
            audience_bytes_max: 1 << 20,
            sources: Default::default(),
            split_ahead_batches: SPLIT_AHEAD_BATCHES,
            retention: Retention { runs: keep, messages: keep, dead_letters: keep },
        };
        let random = Mutex::new(Random::new(self.random.next()));
        let clock = Arc::new(MasterClock { time: self.time, random });
        let store: Arc<dyn Store> = Arc::new(self.masters[index].line.clone());
        assemble(&config, store, self.storage.clone(), clock, Zones::bundled()).expect("the settings are good")
    }

    pub fn crash_master(&mut self, index: usize, back_in_ms: u64) {
        self.fault("master crash");
        let node = &mut self.masters[index];
        node.end();
        node.line.forget();
        node.held_requests.clear();
        node.held_answers.clear();
        self.after(back_in_ms, Happening::StartMaster(index));
    }

    pub fn stop_master(&mut self, index: usize, is_stopped: bool) {
        if is_stopped {
            self.fault("master stopped");
        }
        let node = &mut self.masters[index];
        node.line.gate.stop(is_stopped);
        if !is_stopped {
            let (requests, answers) = (std::mem::take(&mut node.held_requests), std::mem::take(&mut node.held_answers));
            requests.into_iter().for_each(|envelope| self.after(0, Happening::Request(envelope)));
            answers.into_iter().for_each(|inbound| self.answered(inbound));
        }
    }

    /// From the store.
    pub fn cut_master(&mut self, index: usize, is_cut: bool) {
        if is_cut {
            self.fault("master cut off the store");
        }
        self.masters[index].line.gate.is_cut.store(is_cut, Ordering::Relaxed);
    }

    fn any_master(&mut self) -> Option<usize> {
        let alive: Vec<usize> = (0..self.masters.len()).filter(|index| self.masters[*index].master.is_some()).collect();
        (!alive.is_empty()).then(|| alive[self.random.below(alive.len() as u64) as usize])
    }

    /// Through any master, again and again until one has said that it is done.
    pub fn submit(&mut self, number: usize) {
        if self.submissions[number].is_acknowledged {
            return;
        }
        let in_ms = RETRY_MS + self.random.below(RETRY_MS);
        self.after(if self.is_healed { 5_000 } else { in_ms }, Happening::Submit(number));
        let Some(master) = self.any_master() else { return };
        let (new, inbox) = (self.submissions[number].new.clone(), self.inbox.clone());
        let node = &mut self.masters[master];
        let line = node.line.clone();
        node.calls.spawn(async move {
            let created = line.create_run(new).await.ok();
            let _ = inbox.send(Inbound::Submitted { submission: number, created });
        });
    }

    pub fn steer(&mut self, steer: Steer) {
        let Some(master) = self.any_master() else {
            return self.after(RETRY_MS, Happening::Steer(steer));
        };
        if let Steer::Suppress { address, is_of_all } = &steer {
            self.suppress(address, *is_of_all, false);
        }
        let inbox = self.inbox.clone();
        let node = &mut self.masters[master];
        let Some(admin) = node.master.as_ref().map(|master| master.admin.clone()) else { return };
        node.calls.spawn(async move {
            let run_id = |run: &postrider_common::RunId| run.to_string();
            let answered = match &steer {
                Steer::Pause(run) => {
                    admin.pause_run(Request::new(v1::PauseRunRequest { run_id: run_id(run) })).await.map(drop)
                }
                Steer::Resume(run) => {
                    admin.resume_run(Request::new(v1::ResumeRunRequest { run_id: run_id(run) })).await.map(drop)
                }
                Steer::Cancel(run) => {
                    admin.cancel_run(Request::new(v1::CancelRunRequest { run_id: run_id(run) })).await.map(drop)
                }
                Steer::PauseLane(lane) => {
                    admin.pause_lane(Request::new(v1::PauseLaneRequest { lane: (*lane).to_owned() })).await.map(drop)
                }
                Steer::ResumeLane(lane) => {
                    admin.resume_lane(Request::new(v1::ResumeLaneRequest { lane: (*lane).to_owned() })).await.map(drop)
                }
                Steer::Suppress { address, is_of_all } => {
                    let reason = match is_of_all {
                        true => v1::SuppressionReason::HardBounce,
                        false => v1::SuppressionReason::Unsubscribe,
                    };
                    let new = v1::NewSuppression {
                        subject: address.clone(),
                        reason: reason.into(),
                        ..v1::NewSuppression::default()
                    };
                    let request = v1::SuppressRequest { suppressions: vec![new] };
                    admin.suppress(Request::new(request)).await.map(drop)
                }
                Steer::DrainWorker(worker) => {
                    let request = v1::DrainWorkerRequest { worker: worker.clone() };
                    admin.drain_worker(Request::new(request)).await.map(drop)
                }
            };
            // What there is not, or what a cancelled run refuses, is no reason to ask again.
            let is_done = answered.is_ok_and(|()| true)
                || matches!(&steer, Steer::DrainWorker(_) | Steer::Pause(_) | Steer::Cancel(_));
            let _ = inbox.send(Inbound::Steered { steer, is_done });
        });
    }

    /// The first answer counts; of two that are asked for, the first.
    fn suppress(&mut self, address: &str, is_of_all: bool, is_done: bool) {
        let now_ms = self.now_ms;
        let (asked, since) = self.suppressed.entry(address.to_owned()).or_insert((is_of_all, None));
        if is_done && *asked == is_of_all {
            since.get_or_insert(now_ms);
        }
    }

    pub fn answered(&mut self, inbound: Inbound) {
        match inbound {
            Inbound::Answered { master, envelope, answer } => {
                let node = &mut self.masters[master];
                if node.is_stopped() {
                    node.held_answers.push(Inbound::Answered { master, envelope, answer });
                } else {
                    self.answer_leaves(envelope, answer);
                }
            }
            Inbound::Submitted { submission, created } => match created {
                Some(CreatedRun::Created | CreatedRun::Existed) => self.submitted(submission),
                Some(other) => self.fail(format!("P4: a submit was answered {other:?}")),
                None => {}
            },
            Inbound::Steered { steer, is_done } => {
                let is_over = match &steer {
                    Steer::Resume(run) if self.is_forgotten(run) => true,
                    Steer::Resume(run) => self
                        .store()
                        .model
                        .run(run)
                        .is_some_and(|run| run.cancelled || (!run.paused && run.error.is_none())),
                    Steer::Pause(_) | Steer::Cancel(_) | Steer::PauseLane(_) | Steer::DrainWorker(_) => true,
                    Steer::ResumeLane(_) => is_done,
                    Steer::Suppress { address, is_of_all } => {
                        self.suppress(address, *is_of_all, is_done);
                        is_done
                    }
                };
                if !is_over {
                    self.after(RETRY_MS, Happening::Steer(steer));
                }
            }
        }
    }
}
