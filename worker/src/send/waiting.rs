//! Who goes to the next free connection of a relay. Pure.
//!
//! Lanes with reserved slots go first, and some connections take nothing else: a slot kept free for a password reset is
//! worth nothing while a slow relay holds every connection with bulk mail.

use std::collections::{BTreeSet, VecDeque};

/// What waits for a connection. `T` is a transmission.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    /// Of lanes with reserved slots.
    reserved: VecDeque<T>,
    ordinary: VecDeque<T>,
    /// Connections that carry one of the others.
    busy: BTreeSet<u64>,
    is_reserved: fn(&T) -> bool,
    share: Share,
}

/// Which part of a worker's slots is reserved for lanes that the relay carries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    pub(crate) reserved: u32,
    pub(crate) slots: u32,
}

impl Share {
    /// Of so many connections, those that are kept for lanes with reserved slots: their part of them rounded up, and at
    /// least one is left to the others.
    fn kept(self, connections: usize) -> usize {
        let part = connections as u64 * u64::from(self.reserved);
        let kept = part.div_ceil(u64::from(self.slots.max(1))) as usize;
        kept.min(connections.saturating_sub(1))
    }
}

impl<T> Waiting<T> {
    pub(super) fn new(share: Share, is_reserved: fn(&T) -> bool) -> Self {
        Self { reserved: VecDeque::new(), ordinary: VecDeque::new(), busy: BTreeSet::new(), is_reserved, share }
    }

    fn line(&mut self, transmission: &T) -> &mut VecDeque<T> {
        if (self.is_reserved)(transmission) { &mut self.reserved } else { &mut self.ordinary }
    }

    pub(super) fn push(&mut self, transmission: T) {
        self.line(&transmission).push_back(transmission);
    }

    /// It waited before.
    pub(super) fn push_front(&mut self, transmission: T) {
        self.line(&transmission).push_front(transmission);
    }

    pub(super) fn len(&self) -> usize {
        self.reserved.len() + self.ordinary.len()
    }

    /// How many of those of ordinary lanes may go now, with so many connections allowed.
    fn ordinary_room(&self, allowed: usize) -> usize {
        (allowed - self.share.kept(allowed)).saturating_sub(self.busy.len()).min(self.ordinary.len())
    }

    /// How many could go if there were connections for them.
    pub(super) fn ready(&self, allowed: usize) -> usize {
        self.reserved.len() + self.ordinary_room(allowed)
    }

    /// The next, to go by this connection.
    pub(super) fn next_for(&mut self, connection: u64, allowed: usize) -> Option<T> {
        if let Some(transmission) = self.reserved.pop_front() {
            return Some(transmission);
        }
        if self.ordinary_room(allowed) == 0 {
            return None;
        }
        self.busy.insert(connection);
        self.ordinary.pop_front()
    }

    /// The connection carries nothing now, or is gone.
    pub(super) fn freed(&mut self, connection: u64) {
        self.busy.remove(&connection);
    }

    /// All connections are gone but these.
    pub(super) fn keep_busy(&mut self, is_there: impl Fn(u64) -> bool) {
        self.busy.retain(|id| is_there(*id));
    }

    /// One that can wait best.
    pub(super) fn least(&mut self) -> Option<T> {
        self.ordinary.pop_front().or_else(|| self.reserved.pop_front())
    }

    pub(super) fn take(&mut self, which: impl Fn(&T) -> bool) -> Vec<T> {
        let all = self.reserved.drain(..).chain(self.ordinary.drain(..));
        let (taken, kept): (Vec<T>, Vec<T>) = all.partition(which);
        kept.into_iter().for_each(|transmission| self.push(transmission));
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those above 100 are of a lane with reserved slots.
    fn waiting(reserved: u32, slots: u32, all: &[u32]) -> Waiting<u32> {
        let mut waiting = Waiting::new(Share { reserved, slots }, |number| *number > 100);
        all.iter().for_each(|number| waiting.push(*number));
        waiting
    }

    #[test]
    fn connections_are_kept_in_proportion() {
        // reserved slots, slots, connections → kept
        let rows = [(16, 256, 32, 2), (16, 256, 4, 1), (0, 256, 32, 0), (16, 256, 1, 0), (8, 8, 4, 3), (1, 256, 0, 0)];
        for (reserved, slots, connections, kept) in rows {
            assert_eq!(Share { reserved, slots }.kept(connections), kept, "{reserved} {slots} {connections}");
        }
    }

    #[test]
    fn reserved_lanes_go_first() {
        let mut waiting = waiting(1, 8, &[1, 2, 101, 3, 102]);
        let order: Vec<u32> = (0..5).filter_map(|connection| waiting.next_for(connection, 8)).collect();
        assert_eq!(order, [101, 102, 1, 2, 3]);
    }

    #[test]
    fn the_last_connections_wait_for_reserved_lanes() {
        let mut waiting = waiting(2, 8, &[1, 2, 3, 4]);
        assert_eq!(waiting.ready(4), 3);
        assert_eq!((0..4).filter_map(|connection| waiting.next_for(connection, 4)).count(), 3);
        assert_eq!((waiting.len(), waiting.ready(4)), (1, 0));
        waiting.push(101);
        assert_eq!((waiting.ready(4), waiting.next_for(3, 4)), (1, Some(101)));
        waiting.freed(0);
        assert_eq!(waiting.next_for(0, 4), Some(4));
    }

    #[test]
    fn what_comes_back_is_first_again() {
        let mut waiting = waiting(1, 8, &[1, 2]);
        let first = waiting.next_for(7, 2).unwrap_or_default();
        waiting.push_front(first);
        waiting.freed(7);
        assert_eq!(waiting.next_for(8, 2), Some(1));
        assert_eq!(waiting.next_for(9, 1), None);
        assert_eq!((waiting.take(|number| *number == 2), waiting.len()), (vec![2], 0));
    }
}
