//! What is due now, and what of it was missed.

use super::{Occurrence, Timetable};
use jiff::{SignedDuration, Timestamp};
pub use postrider_common::campaign::CatchUp;

/// Missed occurrences that are counted one by one; beyond it the count says at least.
pub const MISSED_COUNTED_MAX: u64 = 1_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// To start, oldest first.
    pub start: Vec<Occurrence>,
    /// Passed over, `MISSED_COUNTED_MAX` at most.
    pub missed: u64,
    /// Everything up to here is decided; pass it as `since` next time.
    pub decided_until: Timestamp,
    pub next: Option<Occurrence>,
}

/// Decides about all occurrences after `since` up to `now`. One that is later than `start_deadline` is missed;
/// `on_time` is how late one may be and still need no catching up.
pub fn due(
    timetable: &Timetable,
    since: Timestamp,
    now: Timestamp,
    catch_up: CatchUp,
    start_deadline: Option<SignedDuration>,
    on_time: SignedDuration,
) -> Due {
    due_until(timetable, since, now, now, catch_up, start_deadline, on_time)
}

/// As `due`, but leaves alone what is after `until`.
pub(super) fn due_until(
    timetable: &Timetable,
    since: Timestamp,
    until: Timestamp,
    now: Timestamp,
    catch_up: CatchUp,
    start_deadline: Option<SignedDuration>,
    on_time: SignedDuration,
) -> Due {
    let (oldest, most) = match catch_up {
        CatchUp::None => (Some(on_time), 1),
        CatchUp::Latest => (None, 1),
        CatchUp::All { max, window_ms } => (Some(milliseconds(window_ms).max(on_time)), max.max(1)),
    };
    let oldest = match (oldest, start_deadline) {
        (Some(oldest), Some(deadline)) => Some(oldest.min(deadline)),
        (oldest, deadline) => oldest.or(deadline),
    };
    let earliest = oldest.and_then(|oldest| now.checked_sub(oldest).ok());
    let start = newest(timetable, since.max(earliest.map_or(since, just_before)), until, most as usize);
    let missed = missed(timetable, since, until, start.len() as u64);
    Due { start, missed, decided_until: since.max(until), next: timetable.after(since.max(until)) }
}

/// Longer ones are as long as the years 1 to 9999.
pub(super) fn milliseconds(ms: u64) -> SignedDuration {
    SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX))
}

pub(super) fn just_before(at: Timestamp) -> Timestamp {
    at.checked_sub(SignedDuration::from_nanos(1)).unwrap_or(at)
}

/// The newest `most` occurrences after `since` up to `now`, oldest first. Looks back in growing steps, so that a
/// long outage of a frequent pattern is not walked through.
pub(super) fn newest(timetable: &Timetable, since: Timestamp, now: Timestamp, most: usize) -> Vec<Occurrence> {
    let mut back = SignedDuration::from_secs(60);
    loop {
        let from = now.checked_sub(back).map_or(since, |from| from.max(since));
        let found: Vec<Occurrence> = between(timetable, from, now).collect();
        if found.len() >= most || from <= since {
            return found[found.len().saturating_sub(most)..].to_vec();
        }
        back = back.saturating_mul(4);
    }
}

fn missed(timetable: &Timetable, since: Timestamp, now: Timestamp, started: u64) -> u64 {
    let counted = between(timetable, since, now).take((MISSED_COUNTED_MAX + started) as usize).count() as u64;
    counted.saturating_sub(started)
}

fn between(timetable: &Timetable, since: Timestamp, now: Timestamp) -> impl Iterator<Item = Occurrence> {
    let first = timetable.after(since);
    std::iter::successors(first, |found| timetable.after(found.at)).take_while(move |found| found.at <= now)
}
