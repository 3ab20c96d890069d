//! What a sink accepted, refused and lost: counted for readers in the process, and as lines for a file.

use postrider_common::{Clock, SystemClock};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;

/// How long a captured line may stay in memory.
pub const FLUSH_INTERVAL: Duration = Duration::from_millis(40);
/// Captured lines that may wait for the file; connections wait beyond it.
const PENDING_BYTES_MAX: usize = 8 * 1024 * 1024;

/// One message for one recipient.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Delivery {
    pub address: String,
    pub message_id: String,
}

/// Counts of a sink. Messages are counted by recipient.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub connections: u64,
    /// The most connections that were open at once.
    pub connections_most: u64,
    /// Messages accepted at the final dot, `lost` ones included.
    pub accepted: u64,
    /// Distinct recipient and Message-ID among them.
    pub distinct: u64,
    /// Refused for good at the final dot.
    pub rejected: u64,
    /// Refused for now at the final dot.
    pub deferred: u64,
    /// Accepted, and the connection closed without a reply.
    pub lost: u64,
    /// Refused at RCPT.
    pub recipients_refused: u64,
    /// The client was gone when it was to be told the decision, or before it had read it.
    pub replies_failed: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    Accept,
    Reject,
    Defer,
    /// Accepted without a reply.
    Lost,
}

/// A final dot that came, for one recipient.
#[derive(Debug)]
pub struct Entry<'a> {
    pub connection: u64,
    pub peer: &'a str,
    pub mail_from: &'a str,
    pub rcpt_to: &'a str,
    pub message_id: &'a str,
    pub decision: Decision,
    /// Of the reply; with `Lost`, of the one that was not sent.
    pub code: u16,
    pub size_bytes: usize,
    pub reference: &'a str,
    pub subject: &'a str,
}

/// A decision that is in the ledger.
#[derive(Debug)]
pub(super) struct Decided {
    seq: u64,
    accepted: Option<Delivery>,
}

#[derive(Serialize)]
struct Line<'a> {
    at_ms: i64,
    seq: u64,
    connection: u64,
    connections_most: u64,
    peer: &'a str,
    mail_from: &'a str,
    rcpt_to: &'a str,
    message_id: &'a str,
    decision: Decision,
    code: u16,
    size_bytes: usize,
    reference: &'a str,
    subject: &'a str,
}

#[derive(Serialize)]
struct FailedReplyLine {
    seq: u64,
    reply: &'static str,
}

/// A shared handle: clones see the same ledger.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    taken: Notify,
    clock: SystemClock,
}

#[derive(Debug, Default)]
struct State {
    summary: Summary,
    deliveries: HashMap<Delivery, u64>,
    unread: HashMap<Delivery, u64>,
    seq: u64,
    open: u64,
    capturing: bool,
    pending: Vec<u8>,
}

impl Ledger {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn summary(&self) -> Summary {
        let state = self.state();
        Summary { distinct: state.deliveries.len() as u64, ..state.summary }
    }

    /// Messages accepted so far.
    pub fn accepted(&self) -> u64 {
        self.state().summary.accepted
    }

    /// How often each message was accepted for each recipient.
    pub fn deliveries(&self) -> HashMap<Delivery, u64> {
        self.state().deliveries.clone()
    }

    /// Those among them of which the client certainly did not read the reply, and how often.
    pub fn unread(&self) -> HashMap<Delivery, u64> {
        self.state().unread.clone()
    }

    /// How often any message was accepted for `address`.
    pub fn accepted_for(&self, address: &str) -> u64 {
        let state = self.state();
        state.deliveries.iter().filter(|(delivery, _)| delivery.address == address).map(|(_, count)| count).sum()
    }

    /// Those accepted more than once, with how often, by address.
    pub fn duplicates(&self) -> Vec<(Delivery, u64)> {
        let state = self.state();
        let repeated = state.deliveries.iter().filter(|(_, count)| **count > 1);
        let mut repeated: Vec<_> = repeated.map(|(delivery, count)| (delivery.clone(), *count)).collect();
        repeated.sort();
        repeated
    }

    pub(super) fn capture(&self, capturing: bool) {
        self.state().capturing = capturing;
    }

    /// The number of a new connection, from 1.
    pub(super) fn connected(&self) -> u64 {
        let mut state = self.state();
        state.summary.connections += 1;
        state.open += 1;
        state.summary.connections_most = state.summary.connections_most.max(state.open);
        state.summary.connections
    }

    /// A connection is over, or about to be told goodbye.
    pub(super) fn left(&self) {
        self.state().open -= 1;
    }

    pub(super) fn recipient_refused(&self) {
        self.state().summary.recipients_refused += 1;
    }

    /// Notes a decision.
    pub(super) fn record(&self, entry: &Entry<'_>) -> Decided {
        let at_ms = self.0.clock.wall_ms();
        let Entry { connection, peer, mail_from, rcpt_to, message_id, decision, code, size_bytes, reference, subject } =
            *entry;
        let mut state = self.state();
        state.seq += 1;
        let seq = state.seq;
        state.summary.bytes += size_bytes as u64;
        let mut accepted = None;
        match decision {
            Decision::Accept | Decision::Lost => {
                state.summary.accepted += 1;
                state.summary.lost += u64::from(decision == Decision::Lost);
                let delivery = Delivery { address: rcpt_to.to_owned(), message_id: message_id.to_owned() };
                *state.deliveries.entry(delivery.clone()).or_default() += 1;
                accepted = Some(delivery);
            }
            Decision::Reject => state.summary.rejected += 1,
            Decision::Defer => state.summary.deferred += 1,
        }
        let connections_most = state.summary.connections_most;
        state.push_line(&Line {
            at_ms,
            seq,
            connection,
            connections_most,
            peer,
            mail_from,
            rcpt_to,
            message_id,
            decision,
            code,
            size_bytes,
            reference,
            subject,
        });
        Decided { seq, accepted }
    }

    /// The client was gone when the reply to a decision was written, or before it had read it.
    pub(super) fn reply_failed(&self, decided: &Decided) {
        let mut state = self.state();
        state.summary.replies_failed += 1;
        if let Some(delivery) = &decided.accepted {
            *state.unread.entry(delivery.clone()).or_default() += 1;
        }
        state.push_line(&FailedReplyLine { seq: decided.seq, reply: "failed" });
    }

    /// Waits while too many lines wait for the file.
    pub(super) async fn room(&self) {
        loop {
            let taken = self.0.taken.notified();
            if self.state().pending.len() < PENDING_BYTES_MAX {
                return;
            }
            taken.await;
        }
    }

    pub(super) fn take_lines(&self) -> Vec<u8> {
        let lines = std::mem::take(&mut self.state().pending);
        self.0.taken.notify_waiters();
        lines
    }
}

impl State {
    fn push_line(&mut self, line: &impl Serialize) {
        if !self.capturing {
            return;
        }
        let before = self.pending.len();
        match serde_json::to_writer(&mut self.pending, line) {
            Ok(()) => self.pending.push(b'\n'),
            Err(error) => {
                self.pending.truncate(before);
                tracing::error!(%error, "failed to encode a ledger line");
            }
        }
    }
}
