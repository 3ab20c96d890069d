//! A store that comes back older than it was: how the world cuts it back, and what must hold then.
//!
//! What was lost is known here from the log alone, by the marks of the calls that were cut off; not from what the store
//! makes of marks. Three things are excused, and nothing else:
//! * a dot under an intent from before the store returned, which it may not know of;
//! * no reason, for somebody sent to before the store returned, if his run itself was lost, or if the store was confirmed
//!   by a master that knew nothing of it, nor did the storage: then others prove it later, and until then it is unnoticed;
//! * that somebody's acceptance is gone, if it was acknowledged in what was lost, or his batch was lost and not split again
//!   when it was told.

use crate::coverage::{Coverage, Point};
use crate::store::StoreWorld;
use crate::world::{Happening, World};
use postrider_common::ids::{BatchId, RunId};
use postrider_common::mark::{Mark, Marks};
use postrider_store::embedded::model::{Command, Model};
use postrider_store::{Compare, Compared, Found};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// A store goes back by no more than this.
const LOST_MS_MAX: u64 = 5_000;
/// A proof is with the store by then, once the one who has it is heard.
const PROOF_MS: u64 = 3_000;

/// A call that was applied.
#[derive(Debug)]
pub struct Logged {
    at: i64,
    real_ms: u64,
    command: Command,
    /// Where it left the store.
    mark: Mark,
}

#[derive(Debug, Default)]
pub struct Log {
    calls: Vec<Logged>,
    /// Of so many of them, from the first, somebody may know: he was answered by the last of them, or by a later one.
    told: usize,
}

impl Log {
    pub fn add(&mut self, at: i64, real_ms: u64, command: Command, mark: Mark) {
        self.calls.push(Logged { at, real_ms, command, mark });
    }

    pub fn length(&self) -> usize {
        self.calls.len()
    }

    /// An answer arrived that was given when the log had this length.
    pub fn tell(&mut self, length: usize) {
        self.told = self.told.max(length.min(self.calls.len()));
    }

    pub fn replay(&self) -> Model {
        let mut model = Model::default();
        self.calls.iter().for_each(|call| model.replay(call.at, call.command.clone()));
        model
    }

    fn mark_at(&self, length: usize) -> Mark {
        let last = length.checked_sub(1).and_then(|last| self.calls.get(last));
        last.map_or_else(|| Model::default().mark(), |call| call.mark)
    }

    fn lost_from(&self, length: usize) -> Lost {
        let kept = self.mark_at(length);
        let mut epochs: BTreeMap<u64, (Option<u64>, u64)> = BTreeMap::new();
        for mark in self.calls.iter().skip(length).map(|call| call.mark) {
            let above = (kept.epoch == mark.epoch).then_some(kept.sequence);
            let (_, highest) = epochs.entry(mark.epoch).or_insert((above, 0));
            *highest = mark.sequence.max(*highest);
        }
        Lost(epochs)
    }

    /// Where to cut. `told`: something that one of these proves; otherwise nothing that anybody was told.
    fn cut(&self, told: Option<u64>, survivors: &[Marks]) -> (usize, bool) {
        if let Some(since_ms) = told {
            let length = self.calls.partition_point(|call| call.real_ms < since_ms);
            let lost = self.lost_from(length);
            if length < self.told && survivors.iter().any(|marks| lost.is_known(marks)) {
                return (length, true);
            }
        }
        (self.told, false)
    }
}

/// Positions that were acknowledged and are gone: of each epoch those above the first, up to the second.
#[derive(Debug)]
struct Lost(BTreeMap<u64, (Option<u64>, u64)>);

impl Lost {
    fn is_known(&self, marks: &Marks) -> bool {
        marks.iter().any(|mark| {
            let of = self.0.get(&mark.epoch);
            of.is_some_and(|(above, to)| above.is_none_or(|above| mark.sequence > above) && mark.sequence <= *to)
        })
    }
}

#[derive(Debug)]
struct Rollback {
    lost: Lost,
    returned_ms: u64,
    storage_knew: bool,
    /// The length of the log before the call that noticed it.
    noticed_at: Option<usize>,
    /// It was confirmed by somebody who did not know of it.
    is_late: bool,
    runs: BTreeSet<RunId>,
    accepted: BTreeSet<(BatchId, usize)>,
}

#[derive(Debug, Default, PartialEq)]
enum Stop {
    #[default]
    None,
    UntilSign,
    Until(i64),
}

/// What is known of the store's past, and what follows from it.
#[derive(Debug, Default)]
pub struct Lineage {
    rollbacks: Vec<Rollback>,
    is_uncompared: bool,
    stop: Stop,
    /// The epoch that began when it last went back.
    base: u64,
    /// The call at hand tells of a lease from before `base`.
    hears_lost: bool,
    /// When an intent was first granted under a fence, kept in a world with rollbacks.
    granted_ms: Option<BTreeMap<(BatchId, usize, u64), u64>>,
}

impl Lineage {
    pub fn new(is_kept: bool) -> Self {
        Self { is_uncompared: true, granted_ms: is_kept.then(BTreeMap::new), ..Self::default() }
    }

    /// Another server has the store, and is what it was.
    pub fn returned(&mut self) {
        self.is_uncompared = true;
    }

    fn went_back(&mut self, lost: Lost, returned_ms: u64, storage_knew: bool, gone: Gone) {
        let Gone { runs, accepted } = gone;
        let (noticed_at, is_late) = (None, false);
        self.rollbacks.push(Rollback { lost, returned_ms, storage_knew, noticed_at, is_late, runs, accepted });
    }

    fn pending(&self) -> impl Iterator<Item = &Rollback> {
        self.rollbacks.iter().filter(|one| one.noticed_at.is_none())
    }

    /// Only so much of the log is left: what was noticed later was not.
    fn cut(&mut self, length: usize) {
        let later = |one: &&mut Rollback| one.noticed_at.is_some_and(|at| at >= length);
        for one in self.rollbacks.iter_mut().filter(later) {
            (one.noticed_at, self.stop) = (None, Stop::None);
        }
    }

    /// `own`: what whoever compares has seen by now. `length`: of the log.
    pub fn compared(
        &mut self,
        compare: &Compare,
        compared: &Compared,
        (own, length): (&Marks, usize),
        coverage: &mut Coverage,
    ) -> Result<(), String> {
        let is_proved = self.pending().any(|one| one.lost.is_known(&compare.marks));
        match compared.found {
            // Whoever noticed it first may not have known of all that was lost: then it is proved once more.
            Found::WentBack { .. } if !self.rollbacks.iter().any(|one| one.lost.is_known(&compare.marks)) => {
                return Err(format!(
                    "P9: nobody saw what the store is said to lack: {compared:?} of {:?}",
                    self.rollbacks
                ));
            }
            Found::WentBack { .. } => {
                for one in self.rollbacks.iter_mut().filter(|one| one.noticed_at.is_none()) {
                    one.noticed_at = Some(length);
                    coverage.reach(if one.is_late { Point::RollbackNoticedLate } else { Point::RollbackNoticed });
                }
                (self.stop, self.base, self.is_uncompared) = (Stop::UntilSign, compared.mark.epoch, false);
            }
            _ if is_proved => {
                let (pending, marks) = (self.pending().collect::<Vec<_>>(), &compare.marks);
                return Err(format!(
                    "P9: a store that went back is not noticed: {pending:?} by {marks:?}, {compared:?}"
                ));
            }
            Found::Confirmed => {
                if self.pending().any(|one| one.storage_knew || one.lost.is_known(own)) {
                    return Err("P9: a store that went back is confirmed by one who could know".to_owned());
                }
                self.rollbacks.iter_mut().filter(|one| one.noticed_at.is_none()).for_each(|one| one.is_late = true);
                self.is_uncompared = false;
            }
            Found::Same | Found::NewServer => (),
        }
        Ok(())
    }

    /// Nothing may be leased or granted.
    pub fn is_stopped(&self, now: i64) -> bool {
        let is_held = match self.stop {
            Stop::None => false,
            Stop::UntilSign => true,
            Stop::Until(until) => now < until,
        };
        self.is_uncompared || is_held
    }

    /// A master gave a sign of life. False: of a server that was not compared it is none.
    pub fn signed(&mut self, now: i64, hold_ms: i64) -> bool {
        if self.is_uncompared {
            return false;
        }
        self.stop = match self.stop {
            Stop::UntilSign => Stop::Until(now + hold_ms),
            // Whatever becomes of the clock.
            Stop::Until(until) if now >= until => Stop::None,
            Stop::Until(until) => Stop::Until(until),
            Stop::None => Stop::None,
        };
        true
    }

    pub fn granted(&mut self, id: &BatchId, index: usize, fence: u64, real_ms: u64) {
        if let Some(granted_ms) = &mut self.granted_ms {
            granted_ms.entry((id.clone(), index, fence)).or_insert(real_ms);
        }
    }

    fn was_granted_before(&self, (id, index, fence): (&BatchId, usize, u64), returned_ms: u64) -> bool {
        let granted_ms = self.granted_ms.as_ref().and_then(|all| all.get(&(id.clone(), index, fence)));
        granted_ms.is_some_and(|granted_ms| *granted_ms < returned_ms)
    }

    /// The store may not know of this intent: it returned since.
    pub fn is_stale(&self, intent: (&BatchId, usize, u64)) -> bool {
        self.rollbacks.iter().any(|one| self.was_granted_before(intent, one.returned_ms))
    }

    /// Nobody could tell the store that whoever had this intent may have been sent to.
    pub fn excuses(&self, intent: (&BatchId, usize, u64)) -> bool {
        let unknown = |one: &&Rollback| one.is_late || one.noticed_at.is_none() || one.runs.contains(&intent.0.run);
        self.rollbacks.iter().filter(unknown).any(|one| self.was_granted_before(intent, one.returned_ms))
    }

    /// Its acceptance was acknowledged and lost, or its batch was, so that nobody could take a report about it.
    pub fn lost_acceptance(&self, id: &BatchId, index: usize) -> bool {
        self.rollbacks.iter().any(|one| one.accepted.contains(&(id.clone(), index)))
    }

    fn lost_run(&self, run: &RunId) -> bool {
        self.rollbacks.iter().any(|one| one.runs.contains(run))
    }

    pub fn hears(&mut self, command: &Command) {
        let base = self.base;
        self.hears_lost = base > 0
            && match command {
                Command::Facts((facts, _)) => facts.iter().any(|fact| fact.fence.epoch < base),
                Command::Checkpoint(call) => call.reports.iter().any(|report| report.fence.epoch < base),
                Command::Finish(call) => call.reports.iter().any(|report| report.fence.epoch < base),
                Command::Release(call) => call.reports.iter().any(|report| report.fence.epoch < base),
                _ => false,
            };
    }

    pub fn hears_lost(&self) -> bool {
        self.hears_lost
    }
}

/// What is not there any more.
#[derive(Debug, Default)]
pub struct Gone {
    pub runs: BTreeSet<RunId>,
    pub accepted: BTreeSet<(BatchId, usize)>,
}

impl StoreWorld {
    /// The process ends and another one reads what the first one had made durable: all it answered.
    pub fn restart(&mut self) {
        self.is_down = false;
        let Some(log) = &self.log else { return };
        if log.replay() != self.model {
            self.rules.fail("P9: the store came back with something else than it had answered");
        }
        self.rules.coverage.reach(Point::StoreRestarted);
        self.meet_server();
    }

    /// Another process has the store from now on.
    pub fn meet_server(&mut self) {
        self.lives += 1;
        let (now, real_ms, server) = (self.now(), self.time.now_ms(), format!("server {}", self.lives));
        self.model.meet_server(now, server.clone());
        let mark = self.model.mark();
        if let Some(log) = &mut self.log {
            log.add(now, real_ms, Command::MeetServer(server), mark);
        }
        self.rules.returned();
    }

    /// The store is put back from an older copy. True: somebody had been told what it lacks.
    fn put_back(&mut self, since_ms: Option<u64>, survivors: &[Marks], storage: &Marks) -> bool {
        self.is_down = false;
        let real_ms = self.time.now_ms();
        let Some(log) = &mut self.log else { return false };
        let (length, is_told) = log.cut(since_ms, survivors);
        if length < log.length() && !is_told {
            self.rules.coverage.reach(Point::LossUnseen);
        }
        let lost = log.lost_from(length);
        log.calls.truncate(length);
        log.told = log.told.min(length);
        let older = log.replay();
        let newer = std::mem::replace(&mut self.model, older);
        let gone = self.rules.rewind(&newer, &self.model);
        self.rules.lineage.cut(length);
        if !is_told {
            self.unheard.insert(self.lives, length);
        }
        if is_told {
            let storage_knew = lost.is_known(storage);
            self.rules.lineage.went_back(lost, real_ms, storage_knew, gone);
        }
        self.meet_server();
        is_told
    }
}

impl World {
    pub fn roll_back(&mut self) {
        let is_told = self.random.below(3) > 0;
        let span_ms = 20 + self.random.below(LOST_MS_MAX);
        let down_ms = self.store().down_ms;
        let storage = at_once(self.storage.read_marks()).expect("a storage in memory answers at once");
        let storage = storage.expect("the marks can be read");
        let masters = self.masters.iter().map(|master| master.line.marks());
        let workers = self.workers.iter().filter(|worker| !worker.is_gone).map(|worker| worker.seen.clone());
        let survivors: Vec<Marks> = masters.chain(workers).chain([storage.clone()]).collect();
        let since_ms = is_told.then(|| down_ms.saturating_sub(span_ms));
        if !self.store().put_back(since_ms, &survivors, &storage) {
            return self.fault("store lost what nobody saw");
        }
        self.fault("store rolled back");
        // The log of the masters says that what was submitted since must be submitted again.
        for number in 0..self.submissions.len() {
            let run = self.submissions[number].run.clone();
            let is_gone = self.store().model.run(&run).is_none() && !self.is_forgotten(&run);
            if is_gone && std::mem::take(&mut self.submissions[number].is_acknowledged) {
                let in_ms = self.random.below(2_000);
                self.after(in_ms, Happening::Submit(number));
            }
        }
    }

    /// A submit was answered.
    pub fn submitted(&mut self, number: usize) {
        let run = self.submissions[number].run.clone();
        let (was_lost, is_there) = {
            let store = self.store();
            (store.rules.lineage.lost_run(&run), store.model.run(&run).is_some())
        };
        // Otherwise it is an answer from before the loss.
        if was_lost && !is_there {
            return;
        }
        if !std::mem::replace(&mut self.submissions[number].is_acknowledged, true) && was_lost {
            self.reach(Point::RunRecreated);
        }
    }

    /// Whoever lived through it and was heard has proved it.
    pub fn check_proofs(&mut self) {
        let store = self.store();
        let wrong = store.rules.lineage.pending().find_map(|one| {
            let heard_ms = one.returned_ms + PROOF_MS;
            let knows = |marks: &Marks| one.lost.is_known(marks);
            let master = self.masters.iter().any(|master| master.master.is_some() && knows(&master.line.marks()));
            let worker = self.workers.iter().any(|worker| worker.told_ms > heard_ms && knows(&worker.seen));
            (master || worker).then(|| format!("P9: nobody noticed that the store went back: {one:?}"))
        });
        drop(store);
        if let Some(why) = wrong {
            self.fail(why);
        }
    }
}

/// The value of a future that waits for nothing.
fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
