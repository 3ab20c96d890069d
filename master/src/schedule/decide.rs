//! What becomes of a schedule now: pure, so that masters, tests and the simulation decide alike.

use super::due::{due_until, just_before, milliseconds, newest};
use super::{Occurrence, Timetable};
use jiff::{SignedDuration, Timestamp};
use postrider_common::campaign::{CatchUp, Overlap};
use sha2::{Digest as _, Sha256};

/// What is not later than this is on time and needs no catching up: as long as a master may need to take over.
pub const ON_TIME: SignedDuration = SignedDuration::from_secs(10);
/// How soon to look again at what waits for the run before it to end.
pub const WAIT: SignedDuration = SignedDuration::from_secs(2);
/// Each schedule is looked at after this at the latest, so that a change of the time zone database counts.
pub const LOOK_AGAIN: SignedDuration = SignedDuration::from_hours(1);

/// A schedule that was read.
#[derive(Debug, Clone)]
pub struct Rules {
    pub timetable: Timetable,
    pub catch_up: CatchUp,
    pub start_deadline: Option<SignedDuration>,
    pub overlap: Overlap,
    pub jitter: SignedDuration,
    pub campaign: String,
}

/// Where a schedule stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub decided_until: Timestamp,
    /// When it was applied or resumed.
    pub active_since: Timestamp,
    /// The run that it began last is still going.
    pub is_going: bool,
}

/// Occurrences that nobody could begin in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missed {
    /// `MISSED_COUNTED_MAX` at most.
    pub count: u64,
    pub last: Timestamp,
}

/// What becomes of one occurrence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its run begins.
    Begin { cancel_previous: bool },
    /// It is passed over, because the run before is still going.
    Overlap,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// First of all, these are passed over.
    pub missed: Option<Missed>,
    pub occurrence: Option<(Occurrence, Verdict)>,
    /// Afterwards everything up to here is decided.
    pub decided_until: Timestamp,
    /// When the next run begins, its jitter included.
    pub next_due: Option<Timestamp>,
    /// None: there is nothing to look for any more.
    pub look_at: Option<Timestamp>,
}

impl Rules {
    /// When the run of an occurrence begins: at a point of the jitter that only campaign and occurrence decide, and
    /// before the next one is due, so that they keep their order.
    pub fn begins_at(&self, occurrence: &Occurrence) -> Timestamp {
        if self.jitter <= SignedDuration::ZERO {
            return occurrence.at;
        }
        let room = self.timetable.after(occurrence.at).map(|next| next.at.duration_since(occurrence.at));
        let room = room.map_or(self.jitter, |room| room.min(self.jitter)).as_millis().max(1) as u64;
        let hash = Sha256::digest(format!("{}|{}", self.campaign, occurrence.at.as_millisecond()));
        let first: [u8; 8] = std::array::from_fn(|at| hash[at]);
        occurrence.at.saturating_add(milliseconds(u64::from_be_bytes(first) % room)).unwrap_or(occurrence.at)
    }

    /// One step: at most one occurrence begins a run. The next step goes on from `decided_until`.
    pub fn decide(&self, position: Position, now: Timestamp) -> Decision {
        let since = position.decided_until;
        let mut decision =
            Decision { missed: None, occurrence: None, decided_until: since, next_due: None, look_at: None };
        let mut waits = false;
        if let Some(until) = self.begun_until(since, now) {
            waits = self.take(&mut decision, position, until, now);
        }
        let next = self.timetable.after(decision.decided_until);
        decision.next_due = next.map(|next| self.begins_at(&next));
        let again = if waits { WAIT } else { LOOK_AGAIN };
        let at_the_latest = now.saturating_add(again).unwrap_or(now);
        decision.look_at = match decision.next_due {
            Some(_) if waits => Some(at_the_latest),
            next_due => next_due.map(|due| due.min(at_the_latest)),
        };
        decision
    }

    /// Up to here occurrences begin now; None: not one does. Only the newest may still wait for its jitter.
    fn begun_until(&self, since: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let last = newest(&self.timetable, since, now, 1).pop()?;
        if self.begins_at(&last) <= now {
            return Some(now);
        }
        let until = just_before(last.at);
        newest(&self.timetable, since, until, 1).pop().map(|_| until)
    }

    /// True: the occurrence waits until the run before it has ended.
    fn take(&self, decision: &mut Decision, position: Position, until: Timestamp, now: Timestamp) -> bool {
        let since = position.decided_until;
        let add = |duration: SignedDuration| duration.checked_add(self.jitter).unwrap_or(duration);
        let mut on_time = add(ON_TIME);
        if self.catch_up == CatchUp::None {
            // What was due before it was resumed is not on time, however short it was paused.
            on_time = on_time.min(now.duration_since(position.active_since)).max(SignedDuration::ZERO);
        }
        let deadline = self.start_deadline.map(add);
        let due = due_until(&self.timetable, since, until, now, self.catch_up, deadline, on_time);
        let first = due.start.first().copied();
        if due.missed > 0 {
            let before = first.map_or(until, |first| just_before(first.at));
            if let Some(last) = newest(&self.timetable, since, before, 1).pop() {
                decision.missed = Some(Missed { count: due.missed, last: last.at });
                decision.decided_until = last.at;
            }
        }
        let Some(first) = first else { return false };
        let verdict = match (position.is_going, self.overlap) {
            (false, _) | (true, Overlap::Allow) => Verdict::Begin { cancel_previous: false },
            (true, Overlap::CancelPrevious) => Verdict::Begin { cancel_previous: true },
            (true, Overlap::Skip) => {
                let is_late = now.duration_since(self.begins_at(&first)) > ON_TIME;
                if is_late && matches!(self.catch_up, CatchUp::All { .. }) {
                    // Each of the missed ones is to run, one after the other.
                    return true;
                }
                Verdict::Overlap
            }
        };
        decision.decided_until = first.at;
        decision.occurrence = Some((first, verdict));
        false
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
