//! A worker's connections: the real client sessions. What the pool of a worker does with sockets, in virtual time.

use crate::coverage::Point;
use crate::relay::Bytes;
use crate::worker::WorkerEvent;
use crate::world::{Happening, TxId, World};
use postrider_common::lease::OutcomeKind;
use postrider_common::sabotage::{Fault, planted};
use postrider_mail::smtp::client::{Event as SmtpEvent, Lost, Outgoing};
use postrider_worker::engine::{Event, LeaseKey};

const PROBE_FIRST_MS: u64 = 500;
const PROBE_MS_MAX: u64 = 8_000;
/// A transmission has its final dot written by then, or is given up.
const BEFORE_DOT_MS: u64 = 60_000;

impl World {
    /// Tries whether the relay takes connections.
    pub fn probe(&mut self, worker: usize) {
        let state = &self.workers[worker];
        if !state.is_relay_up && state.conns.is_empty() {
            self.open(worker);
        }
    }

    fn open(&mut self, worker: usize) {
        let id = self.connect(worker);
        self.workers[worker].conns.insert(id);
        self.watch(id);
    }

    /// Gives waiting transmissions to idle connections, and opens more when there are too few.
    pub fn assign(&mut self, worker: usize) {
        if !self.workers[worker].is_relay_up {
            let queue = std::mem::take(&mut self.workers[worker].queue);
            return queue.into_iter().for_each(|tx| self.end_send(tx, OutcomeKind::NotWritten, "", 0));
        }
        while let Some(tx) = self.workers[worker].queue.front().copied() {
            let Some(conn) = self.workers[worker].idle.pop() else { break };
            self.workers[worker].queue.pop_front();
            self.begin(conn, tx);
        }
        let state = &self.workers[worker];
        let connecting = state.conns.iter().filter(|id| self.conns.get(id).is_some_and(|conn| !conn.is_usable)).count();
        if state.queue.len() > connecting && (state.conns.len() as u64) < self.mix.connections {
            self.open(worker);
        }
    }

    fn begin(&mut self, conn_id: u64, id: TxId) {
        let worker = self.txs[id].worker;
        let boot = self.boot_ms(worker);
        if !self.workers[worker].trusts(self.txs[id].lease, boot) {
            self.workers[worker].idle.push(conn_id);
            return self.end_send(id, OutcomeKind::NotWritten, "", 0);
        }
        let tx = &self.txs[id];
        let message = format!("X-Tx: {id}\r\nX-Key: {}\r\n\r\nHello\r\n", tx.key).into_bytes();
        let outgoing = Outgoing { mail_from: "digest@acme.example".into(), rcpt_to: tx.address.clone(), message };
        let Some(conn) = self.conns.get_mut(&conn_id) else { return };
        conn.tx = Some(id);
        conn.is_handed_back = false;
        if conn.session.send(outgoing).is_err() {
            conn.tx = None;
            self.workers[worker].queue.push_front(id);
            return;
        }
        let (due, phase) = (BEFORE_DOT_MS, u64::MAX - id as u64);
        self.after(due, Happening::ConnTimeout(conn_id, phase));
        self.pump(conn_id);
    }

    /// The worker's end of a connection.
    pub fn client_reads(&mut self, id: u64, bytes: Bytes) {
        let Some(conn) = self.conns.get(&id) else { return };
        if conn.is_client_gone {
            return;
        }
        let worker = conn.worker;
        if self.holds_back(worker, || Happening::ToClient(id, bytes.clone())) {
            return;
        }
        match bytes {
            Bytes::Connected => self.greet(id),
            Bytes::Data(data) => {
                if let Some(conn) = self.conns.get_mut(&id) {
                    conn.session.receive(&data);
                }
            }
            Bytes::Closed => {
                if let Some(conn) = self.conns.get_mut(&id) {
                    conn.session.connection_lost(Lost::Closed);
                }
            }
        }
        self.pump(id);
    }

    pub fn conn_timeout(&mut self, id: u64, phase: u64) {
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| !conn.is_client_gone) else { return };
        let worker = conn.worker;
        let is_late = match conn.tx {
            Some(tx) if phase == u64::MAX - tx as u64 => !conn.session.dot_may_be_written(),
            Some(_) | None => conn.session.phase_counter() == phase,
        };
        if !is_late || self.holds_back(worker, || Happening::ConnTimeout(id, phase)) {
            return;
        }
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.session.connection_lost(Lost::Timeout);
        }
        self.pump(id);
    }

    /// Writes what the session has, and takes what it says.
    fn pump(&mut self, id: u64) {
        loop {
            let Some(conn) = self.conns.get_mut(&id).filter(|conn| !conn.is_client_gone) else { return };
            if let Some(event) = conn.session.event() {
                self.session_event(id, event);
                continue;
            }
            let Some(write) = conn.session.take_output() else { break };
            if write.carries_final_dot && !self.may_write_dot(id) {
                continue;
            }
            self.carry_to_server(id, Bytes::Data(write.bytes));
        }
        self.watch(id);
    }

    fn watch(&mut self, id: u64) {
        let Some(conn) = self.conns.get(&id) else { return };
        // Nobody waits for an answer on an idle connection.
        if conn.tx.is_none() && conn.is_usable {
            return;
        }
        let (in_ms, phase) = (conn.session.timeout().as_millis() as u64, conn.session.phase_counter());
        self.after(in_ms, Happening::ConnTimeout(id, phase));
    }

    /// The look at the lease right before the final dot.
    fn may_write_dot(&mut self, id: u64) -> bool {
        let Some(conn) = self.conns.get_mut(&id) else { return false };
        let (worker, Some(tx)) = (conn.worker, conn.tx) else { return false };
        let (lease, index) = (self.txs[tx].lease, self.txs[tx].index);
        self.note(worker, |notes| notes.dot(lease.0, index));
        let boot = self.boot_ms(worker);
        if !self.workers[worker].trusts(lease, boot) {
            self.reach(Point::DeadlineMet);
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.is_handed_back = true;
                conn.session.refuse_final_dot();
            }
            // The journal says that a dot may be written; what is noted next says that it was not.
            self.txs[tx].is_dot_written = true;
            return false;
        }
        self.check_dot(tx);
        self.txs[tx].is_dot_written = true;
        true
    }

    fn session_event(&mut self, id: u64, event: SmtpEvent) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let worker = conn.worker;
        match event {
            // Nobody asks for it here.
            SmtpEvent::StartTls => {}
            SmtpEvent::Ready => {
                let was_usable = std::mem::replace(&mut conn.is_usable, true);
                if conn.tx.is_none() {
                    self.workers[worker].idle.push(id);
                }
                if !was_usable {
                    self.connected(worker);
                }
                self.assign(worker);
            }
            SmtpEvent::Done(verdict) => {
                let Some(tx) = conn.tx.take() else { return };
                let is_unsent = verdict.kind == OutcomeKind::Deferred;
                if is_unsent && conn.is_handed_back {
                    self.end_send(tx, OutcomeKind::NotWritten, "", 0);
                } else if is_unsent && conn.session.is_stale() && !self.txs[tx].is_retried {
                    self.txs[tx].is_retried = true;
                    self.reach(Point::DeadOnArrival);
                    self.workers[worker].queue.push_front(tx);
                } else {
                    if verdict.kind == OutcomeKind::Unknown {
                        self.reach(Point::ReplyLost);
                    }
                    self.end_send(tx, verdict.kind, &verdict.code, verdict.retry_after_ms);
                }
            }
            SmtpEvent::Closed { .. } => self.closed(id),
        }
    }

    fn connected(&mut self, worker: usize) {
        self.workers[worker].probe_ms = 0;
        if !self.workers[worker].is_relay_up {
            self.workers[worker].is_relay_up = true;
            self.tell(worker, Event::Relay { index: 0, is_up: true });
        }
    }

    /// A session is over.
    fn closed(&mut self, id: u64) {
        let Some(conn) = self.conns.get(&id) else { return };
        let (worker, was_usable) = (conn.worker, conn.is_usable);
        self.client_closes(id);
        let state = &mut self.workers[worker];
        state.conns.remove(&id);
        state.idle.retain(|idle| *idle != id);
        let others_work = state.conns.iter().any(|id| self.conns.get(id).is_some_and(|conn| conn.is_usable));
        if !was_usable && !others_work {
            self.relay_failed(worker);
        } else {
            self.assign(worker);
        }
    }

    fn relay_failed(&mut self, worker: usize) {
        self.reach(Point::RelayDown);
        let state = &mut self.workers[worker];
        let in_ms = state.probe_ms.max(PROBE_FIRST_MS);
        state.probe_ms = (in_ms * 2).min(PROBE_MS_MAX);
        let was_up = std::mem::replace(&mut state.is_relay_up, false);
        if let Some(tx) = state.queue.pop_front() {
            self.end_send(tx, OutcomeKind::Deferred, "connect", 0);
        }
        self.after(in_ms, Happening::Worker(worker, WorkerEvent::Probe));
        if was_up {
            self.tell(worker, Event::Relay { index: 0, is_up: false });
        }
        self.assign(worker);
    }

    /// The worker closes its end.
    pub fn client_closes(&mut self, id: u64) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.is_client_gone = true;
            self.carry_to_server(id, Bytes::Closed);
        }
    }

    /// What waits comes back unsent.
    pub fn recall(&mut self, worker: usize, lease: LeaseKey) {
        let queue = std::mem::take(&mut self.workers[worker].queue);
        let (back, kept): (Vec<TxId>, Vec<TxId>) = queue.into_iter().partition(|tx| self.txs[*tx].lease == lease);
        self.workers[worker].queue.extend(kept);
        back.into_iter().for_each(|tx| self.end_send(tx, OutcomeKind::NotWritten, "", 0));
    }

    /// And what has no final dot written yet is closed.
    pub fn cut_sends(&mut self, worker: usize, lease: LeaseKey) {
        self.recall(worker, lease);
        if planted(Fault::IgnoreDeadline) {
            return;
        }
        let conns: Vec<u64> = self.workers[worker].conns.iter().copied().collect();
        for id in conns {
            let Some(conn) = self.conns.get_mut(&id) else { continue };
            if conn.tx.is_some_and(|tx| self.txs[tx].lease == lease) && !conn.session.dot_may_be_written() {
                conn.is_handed_back = true;
                conn.session.connection_lost(Lost::Closed);
                self.pump(id);
            }
        }
    }
}
