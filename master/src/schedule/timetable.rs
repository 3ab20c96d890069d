//! The instants at which a pattern is due in a time zone.
//!
//! Between two changes of its offset a zone is a straight line, so each such stretch is searched by wall clock, and
//! what a change skips or repeats is decided at its edge.

use super::Pattern;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
pub use postrider_common::campaign::{OnGap, OnOverlap};

/// How an occurrence relates to a change of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    Plain,
    /// Its wall clock time does not exist that day; this is the first instant after.
    AfterGap,
    /// Its wall clock time comes twice; this is the first of them.
    First,
    /// … the second.
    Second,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occurrence {
    /// The wall clock time that the pattern names.
    pub nominal: DateTime,
    pub at: Timestamp,
    pub note: Note,
}

/// A pattern, or one wall clock time, in a zone.
#[derive(Debug, Clone)]
pub struct Timetable {
    pub what: What,
    pub zone: TimeZone,
    pub on_gap: OnGap,
    pub on_overlap: OnOverlap,
    /// Nothing is due before.
    pub starts_at: Option<Timestamp>,
    /// Nothing is due after.
    pub ends_at: Option<Timestamp>,
}

#[derive(Debug, Clone)]
pub enum What {
    Pattern(Pattern),
    /// Once.
    At(DateTime),
}

impl What {
    fn next(&self, from: DateTime, inclusive: bool) -> Option<DateTime> {
        match self {
            Self::Pattern(pattern) => pattern.next(from, inclusive),
            Self::At(at) => (*at > from || (inclusive && *at == from)).then_some(*at),
        }
    }

    fn is_interval(&self) -> bool {
        match self {
            Self::Pattern(pattern) => pattern.is_interval(),
            Self::At(_) => false,
        }
    }
}

/// A stretch of time with one offset.
struct Stretch {
    /// None: it is the one that the search begins in.
    begins: Option<(Timestamp, Offset)>,
    offset: Offset,
    ends: Option<Timestamp>,
}

impl Timetable {
    /// The first occurrence after `after`.
    pub fn after(&self, after: Timestamp) -> Option<Occurrence> {
        let after = match self.starts_at {
            Some(starts) => after.max(starts.checked_sub(jiff::SignedDuration::from_nanos(1)).ok()?),
            None => after,
        };
        let found = self.search(after)?;
        self.ends_at.is_none_or(|ends| found.at <= ends).then_some(found)
    }

    fn search(&self, after: Timestamp) -> Option<Occurrence> {
        let offset = self.zone.to_offset(after);
        let mut changes = self.changes(after, offset);
        let mut stretch = Stretch { begins: None, offset, ends: None };
        loop {
            let change = changes.next();
            stretch.ends = change.map(|(at, _)| at);
            if let Some(found) = self.search_in(&stretch, after)? {
                return Some(found);
            }
            let (at, offset) = change?;
            stretch = Stretch { begins: Some((at, stretch.offset)), offset, ends: None };
        }
    }

    /// Changes of the offset after an instant. A change of the abbreviation alone is none.
    fn changes(&self, after: Timestamp, from: Offset) -> impl Iterator<Item = (Timestamp, Offset)> {
        let transitions = self.zone.following(after).map(|change| (change.timestamp(), change.offset()));
        transitions
            .scan(from, |offset, (at, next)| {
                let changed = (next != *offset).then_some((at, next));
                *offset = next;
                Some(changed)
            })
            .flatten()
    }

    /// None: the pattern is never due again. Some(None): not in this stretch.
    #[expect(clippy::option_option, reason = "two different ends of the search")]
    fn search_in(&self, stretch: &Stretch, after: Timestamp) -> Option<Option<Occurrence>> {
        let (mut from, mut inclusive) = (stretch.offset.to_datetime(after), false);
        let mut repeated_until = self.repeated_until(after, stretch.offset);
        if let Some((begins, offset_before)) = stretch.begins {
            (from, inclusive) = (stretch.offset.to_datetime(begins), true);
            let clock_before = offset_before.to_datetime(begins);
            repeated_until = (clock_before > from).then_some(clock_before);
            if clock_before < from && !self.what.is_interval() && self.on_gap == OnGap::RunAfter {
                let skipped = self.what.next(clock_before, true).filter(|nominal| *nominal < from);
                let exact = self.what.next(from, true) == Some(from);
                if let Some(nominal) = skipped.filter(|_| !exact) {
                    return Some(Some(Occurrence { nominal, at: begins, note: Note::AfterGap }));
                }
            }
        }
        let once = !self.what.is_interval() && self.on_overlap == OnOverlap::Once;
        if let Some(until) = repeated_until.filter(|until| once && *until > from) {
            (from, inclusive) = (until, true);
        }
        let nominal = match self.what.next(from, inclusive) {
            Some(nominal) => nominal,
            // One wall clock time may come again after the clock was set back.
            None if matches!(self.what, What::At(_)) && stretch.ends.is_some() => return Some(None),
            None => return None,
        };
        let at = stretch.offset.to_timestamp(nominal).ok()?;
        if stretch.ends.is_some_and(|ends| at >= ends) {
            return Some(None);
        }
        Some(Some(Occurrence { nominal, at, note: self.note(nominal, stretch.offset) }))
    }

    /// Within a repeated stretch of wall clock: until when it repeats.
    fn repeated_until(&self, at: Timestamp, offset: Offset) -> Option<DateTime> {
        let next = at.checked_add(jiff::SignedDuration::from_nanos(1)).ok()?;
        let change = self.zone.preceding(next).find(|change| {
            let before = change.timestamp().checked_sub(jiff::SignedDuration::from_nanos(1));
            before.is_ok_and(|before| self.zone.to_offset(before) != offset)
        })?;
        let before = change.timestamp().checked_sub(jiff::SignedDuration::from_nanos(1)).ok()?;
        let clock_before = self.zone.to_offset(before).to_datetime(change.timestamp());
        (clock_before > offset.to_datetime(at)).then_some(clock_before)
    }

    fn note(&self, nominal: DateTime, offset: Offset) -> Note {
        match self.zone.to_ambiguous_timestamp(nominal).offset() {
            AmbiguousOffset::Fold { before, .. } if before == offset => Note::First,
            AmbiguousOffset::Fold { .. } => Note::Second,
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Gap { .. } => Note::Plain,
        }
    }
}
