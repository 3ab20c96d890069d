//! What the senders of one lease share with the loop: the batch, and how long it may be sent for.

use super::Told;
use crate::definition::Batch;
use crate::engine::LeaseKey;
use crate::journal::Journal;
use crate::trust::Trust;
use postrider_common::lease::{Outcome, OutcomeKind};
use postrider_common::limits::{CODE_BYTES_MAX, DETAIL_BYTES_MAX};
use postrider_common::wire::printable;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// How often a lease's sends were recalled and cut. A transmission carries what it was when it was started; a
/// higher number means that it is meant too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Signals {
    recalls: u64,
    cuts: u64,
}

/// A lease as the senders see it.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) key: LeaseKey,
    pub(crate) batch: Batch,
    /// Slots are reserved for its lane.
    pub(crate) is_reserved: bool,
    trust: Trust,
    signals: watch::Sender<Signals>,
    journal: Option<Arc<Journal>>,
}

impl Hold {
    pub(crate) fn new(key: LeaseKey, batch: Batch, is_reserved: bool, journal: Option<Arc<Journal>>) -> Self {
        let signals = watch::Sender::new(Signals::default());
        Self { key, batch, is_reserved, trust: Trust::default(), signals, journal }
    }

    /// A crash journal is kept, so what is read must be noted before it is gone from the system.
    pub(crate) fn is_noted(&self) -> bool {
        self.journal.is_some()
    }

    pub(crate) fn trust(&self, until_ms: u64) {
        self.trust.set(until_ms);
    }

    pub(crate) fn is_trusted(&self, now_boot_ms: u64) -> bool {
        self.trust.holds(now_boot_ms)
    }

    pub(crate) fn recall(&self) {
        self.signals.send_modify(|signals| signals.recalls += 1);
    }

    pub(crate) fn cut(&self) {
        self.signals.send_modify(|signals| signals.cuts += 1);
    }

    pub(crate) fn transmission(self: &Arc<Self>, index: u32, told: mpsc::Sender<Told>) -> Transmission {
        let signals = self.signals.subscribe();
        let started = *signals.borrow();
        Transmission {
            hold: self.clone(),
            index,
            is_retried: false,
            is_dot_written: false,
            is_dot_noted: false,
            is_ended: false,
            started,
            signals,
            told,
        }
    }
}

/// One recipient to send to. Exactly one outcome comes of it.
#[derive(Debug)]
pub(crate) struct Transmission {
    pub(crate) hold: Arc<Hold>,
    pub(crate) index: u32,
    /// It was begun on a connection that turned out to be dead.
    pub(crate) is_retried: bool,
    /// Its final dot may have been written.
    pub(crate) is_dot_written: bool,
    /// The crash journal says that its final dot may be written.
    is_dot_noted: bool,
    is_ended: bool,
    started: Signals,
    signals: watch::Receiver<Signals>,
    told: mpsc::Sender<Told>,
}

impl Transmission {
    /// It is to be handed back if it has not begun.
    pub(crate) fn is_recalled(&self) -> bool {
        *self.signals.borrow() != self.started
    }

    /// Its connection is to be closed if its final dot is not written.
    pub(crate) fn is_cut(&self) -> bool {
        self.signals.borrow().cuts != self.started.cuts
    }

    /// Waits until it is cut.
    pub(crate) async fn cut(&mut self) {
        let cuts = self.started.cuts;
        if self.signals.wait_for(|signals| signals.cuts != cuts).await.is_err() {
            // The transmission itself keeps the sender alive.
            std::future::pending().await
        }
    }

    /// Notes that the final dot is about to be written. False: it must not be.
    pub(crate) fn note_dot(&mut self) -> bool {
        self.is_dot_noted = true;
        self.hold.journal.as_ref().is_none_or(|journal| journal.dot(self.hold.key.0, self.index))
    }

    /// The journal says already that nothing was written unless a dot is noted.
    fn note_end(&self, outcome: &Outcome) {
        if let Some(journal) = &self.hold.journal
            && (self.is_dot_noted || outcome.kind != OutcomeKind::NotWritten)
        {
            journal.ended(self.hold.key.0, outcome);
        }
    }

    /// Ends it with an outcome.
    pub(crate) async fn end(mut self, outcome: Outcome) {
        self.is_ended = true;
        self.note_end(&outcome);
        // The loop is gone only when the process ends.
        let _ = self.told.send(Told::Sent { lease: self.hold.key, outcome }).await;
    }

    pub(crate) async fn hand_back(self) {
        let outcome = self.outcome(OutcomeKind::NotWritten, "", "");
        self.end(outcome).await;
    }

    /// A sign of life; may be lost.
    pub(crate) fn progressed(&self) {
        let _ = self.told.try_send(Told::Progress { lease: self.hold.key });
    }

    pub(crate) fn outcome(&self, kind: OutcomeKind, code: &str, detail: &str) -> Outcome {
        let (code, detail) = (printable(code, CODE_BYTES_MAX), printable(detail, DETAIL_BYTES_MAX));
        Outcome { index: self.index, kind, code, detail, retry_after_ms: 0 }
    }
}

/// A defect must not keep a slot for ever: a transmission that is dropped without an outcome gets one.
impl Drop for Transmission {
    fn drop(&mut self) {
        if !self.is_ended {
            let kind = if self.is_dot_written { OutcomeKind::Unknown } else { OutcomeKind::NotWritten };
            let outcome = self.outcome(kind, "", "");
            self.note_end(&outcome);
            let _ = self.told.try_send(Told::Sent { lease: self.hold.key, outcome });
        }
    }
}
