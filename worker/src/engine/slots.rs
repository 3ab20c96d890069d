//! How much room there is, in all and by lane. Pure arithmetic.
//!
//! A lane's reserve is kept free for it; what it uses beyond its reserve comes from the general room,
//! which is what all reserves leave.

use postrider_common::ids::LaneName;
use std::collections::BTreeMap;

/// Slots and their reserves; the reserves never exceed the slots.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    general: usize,
    reserve: BTreeMap<LaneName, usize>,
}

/// Slots in use by lane.
pub(super) type Used = BTreeMap<LaneName, usize>;

impl Slots {
    /// Reserves beyond `slots` are cut, in order of name.
    pub(super) fn new(slots: u32, reserve: &BTreeMap<LaneName, u32>) -> Self {
        let mut general = slots as usize;
        let mut kept = BTreeMap::new();
        for (lane, count) in reserve {
            let count = (*count as usize).min(general);
            general -= count;
            if count > 0 {
                kept.insert(lane.clone(), count);
            }
        }
        Self { general, reserve: kept }
    }

    fn reserve(&self, lane: &LaneName) -> usize {
        self.reserve.get(lane).copied().unwrap_or_default()
    }

    /// What a worker can use, plus a quarter so that the next lease is there before this one ends.
    pub(super) fn with_prefetch(&self) -> Self {
        let more = |count: usize| count + count.div_ceil(4);
        let reserve = self.reserve.iter().map(|(lane, count)| (lane.clone(), more(*count))).collect();
        Self { general: more(self.general), reserve }
    }

    /// Free general room.
    pub(super) fn general_room(&self, used: &Used) -> usize {
        let spilled: usize = used.iter().map(|(lane, count)| count.saturating_sub(self.reserve(lane))).sum();
        self.general.saturating_sub(spilled)
    }

    /// Free room for one lane: what is left of its reserve, and the general room.
    pub(super) fn room(&self, lane: &LaneName, used: &Used) -> usize {
        self.reserved_room(lane, used) + self.general_room(used)
    }

    fn reserved_room(&self, lane: &LaneName, used: &Used) -> usize {
        self.reserve(lane).saturating_sub(used.get(lane).copied().unwrap_or_default())
    }

    /// Lanes with room in their own reserve, and how much.
    pub(super) fn reserved_rooms(&self, used: &Used) -> Vec<(LaneName, usize)> {
        let rooms = self.reserve.keys().map(|lane| (lane.clone(), self.reserved_room(lane, used)));
        rooms.filter(|(_, room)| *room > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_kept_for_its_lane() {
        let (bulk, fast) = (LaneName::bulk(), LaneName::transactional());
        let slots = Slots::new(10, &BTreeMap::from([(fast.clone(), 4)]));
        // used by bulk, used by transactional → room for bulk, room for transactional
        let rows = [(0, 0, 6, 10), (6, 0, 0, 4), (6, 3, 0, 1), (2, 4, 4, 4), (2, 6, 2, 2), (0, 10, 0, 0), (9, 9, 0, 0)];
        for (by_bulk, by_fast, room_bulk, room_fast) in rows {
            let used = Used::from([(bulk.clone(), by_bulk), (fast.clone(), by_fast)]);
            let rooms = (slots.room(&bulk, &used), slots.room(&fast, &used));
            assert_eq!(rooms, (room_bulk, room_fast), "{by_bulk} {by_fast}");
        }
        assert_eq!(slots.reserved_rooms(&Used::from([(fast.clone(), 3)])), [(fast, 1)]);
    }

    #[test]
    fn reserves_never_exceed_the_slots() {
        let slots = Slots::new(3, &BTreeMap::from([(LaneName::bulk(), 2), (LaneName::transactional(), 5)]));
        let none = Used::new();
        assert_eq!(slots.room(&LaneName::bulk(), &none), 2);
        assert_eq!(slots.room(&LaneName::transactional(), &none), 1);
    }
}
