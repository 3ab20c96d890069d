//! What the records of one process add up to, and what is to be told of it after its death. Pure.

use super::record::Record;
use postrider_common::ids::{BatchId, Fence};
use postrider_common::lease::{Fact, Outcome, OutcomeKind};
use postrider_common::sabotage::{Fault, planted};
use std::collections::BTreeMap;

/// Code and text of an outcome whose reply nobody read any more.
const CODE: &str = "crash";
const DETAIL: &str = "the worker died after the final dot, before it had read the reply";

#[derive(Debug, Clone, PartialEq, Eq)]
enum Mark {
    /// An intent was asked for; its final dot is not written.
    Asked,
    /// Its final dot may be written.
    Dot,
    Ended(Outcome),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Leased {
    batch: BatchId,
    fence: Fence,
    marks: BTreeMap<u32, Mark>,
    is_over: bool,
}

/// The leases of one process that something is still owed for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Table {
    leases: BTreeMap<u64, Leased>,
}

impl Table {
    pub(super) fn apply(&mut self, record: Record) {
        match record {
            Record::Begin { .. } => {}
            Record::Leased { lease, batch, fence } => {
                let fresh = Leased { batch, fence, marks: BTreeMap::new(), is_over: false };
                self.leases.entry(lease).or_insert(fresh);
            }
            Record::Asked { lease, indexes } => {
                if let Some(leased) = self.leases.get_mut(&lease) {
                    for index in indexes {
                        leased.marks.entry(index).or_insert(Mark::Asked);
                    }
                }
            }
            Record::Dot { lease, index } => self.mark(lease, index, Mark::Dot),
            Record::Ended { lease, outcome } => self.mark(lease, outcome.index, Mark::Ended(outcome)),
            Record::Told { lease, indexes } => self.settle(lease, |index, _| !indexes.contains(&index)),
            Record::Over { lease, owed } => {
                if let Some(leased) = self.leases.get_mut(&lease) {
                    leased.is_over = true;
                }
                self.settle(lease, |index, _| owed.contains(&index));
            }
        }
    }

    fn mark(&mut self, lease: u64, index: u32, mark: Mark) {
        if let Some(leased) = self.leases.get_mut(&lease) {
            leased.marks.insert(index, mark);
        }
    }

    fn settle(&mut self, lease: u64, keep: impl Fn(u32, &Mark) -> bool) {
        let Some(leased) = self.leases.get_mut(&lease) else { return };
        leased.marks.retain(|index, mark| keep(*index, mark));
        if leased.is_over && leased.marks.is_empty() {
            self.leases.remove(&lease);
        }
    }

    pub(super) fn knows(&self, lease: u64) -> bool {
        self.leases.contains_key(&lease)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Records that add up to the same.
    pub(super) fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for (lease, leased) in &self.leases {
            let lease = *lease;
            records.push(Record::Leased { lease, batch: leased.batch.clone(), fence: leased.fence.clone() });
            let asked = leased.marks.iter().filter(|(_, mark)| **mark == Mark::Asked);
            records.push(Record::Asked { lease, indexes: asked.map(|(index, _)| *index).collect() });
            for (index, mark) in &leased.marks {
                match mark {
                    Mark::Asked => {}
                    Mark::Dot => records.push(Record::Dot { lease, index: *index }),
                    Mark::Ended(outcome) => records.push(Record::Ended { lease, outcome: outcome.clone() }),
                }
            }
            if leased.is_over {
                records.push(Record::Over { lease, owed: leased.marks.keys().copied().collect() });
            }
        }
        records
    }

    /// What became of each recipient. `is_whole`: nothing is missing in the records, so that no dot was
    /// written where none is noted; otherwise nothing is said of those and the store doubts them.
    pub(super) fn facts(&self, is_whole: bool) -> Vec<Fact> {
        let mut facts = Vec::new();
        for leased in self.leases.values() {
            for (index, mark) in &leased.marks {
                let outcome = match mark {
                    Mark::Asked if is_whole => outcome(*index, OutcomeKind::NotWritten, "", ""),
                    Mark::Asked => continue,
                    Mark::Dot if planted(Fault::JournalDenies) => outcome(*index, OutcomeKind::NotWritten, "", ""),
                    Mark::Dot => outcome(*index, OutcomeKind::Unknown, CODE, DETAIL),
                    Mark::Ended(outcome) => outcome.clone(),
                };
                facts.push(Fact { batch: leased.batch.clone(), fence: leased.fence.clone(), outcome });
            }
        }
        facts
    }
}

fn outcome(index: u32, kind: OutcomeKind, code: &str, detail: &str) -> Outcome {
    Outcome { index, kind, code: code.to_owned(), detail: detail.to_owned(), retry_after_ms: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::record;
    use postrider_common::ids::RunId;
    use proptest::prelude::*;

    fn leased(lease: u64) -> Record {
        let batch = BatchId { run: RunId::derive("digest", "1"), sequence: lease };
        Record::Leased { lease, batch, fence: Fence { epoch: 1, counter: lease, nonce: 7 } }
    }

    fn ended(lease: u64, index: u32, kind: OutcomeKind) -> Record {
        Record::Ended { lease, outcome: outcome(index, kind, "250", "ok") }
    }

    fn told(records: &[Record], is_whole: bool) -> Vec<(u64, u32, OutcomeKind)> {
        let mut table = Table::default();
        records.iter().cloned().for_each(|record| table.apply(record));
        let facts = table.facts(is_whole).into_iter();
        facts.map(|fact| (fact.fence.counter, fact.outcome.index, fact.outcome.kind)).collect()
    }

    #[test]
    fn which_facts_come_of_which_records() {
        use OutcomeKind::{Accepted, Deferred, NotWritten, Unknown};
        let asked = |indexes: &[u32]| Record::Asked { lease: 1, indexes: indexes.to_vec() };
        let dot = |index| Record::Dot { lease: 1, index };
        let taken = |indexes: &[u32]| Record::Told { lease: 1, indexes: indexes.to_vec() };
        let over = |owed: &[u32]| Record::Over { lease: 1, owed: owed.to_vec() };
        // records → with nothing missing, with something missing
        type Facts = Vec<(u64, u32, OutcomeKind)>;
        let rows: Vec<(Vec<Record>, Facts, Facts)> = vec![
            (vec![leased(1)], vec![], vec![]),
            (vec![leased(1), asked(&[3])], vec![(1, 3, NotWritten)], vec![]),
            (vec![leased(1), asked(&[3]), dot(3)], vec![(1, 3, Unknown)], vec![(1, 3, Unknown)]),
            (
                vec![leased(1), asked(&[3]), dot(3), ended(1, 3, Accepted)],
                vec![(1, 3, Accepted)],
                vec![(1, 3, Accepted)],
            ),
            // Refused before the content.
            (vec![leased(1), asked(&[3]), ended(1, 3, Deferred)], vec![(1, 3, Deferred)], vec![(1, 3, Deferred)]),
            // Noted, but the lease had ended meanwhile: nothing was written.
            (
                vec![leased(1), asked(&[3]), dot(3), ended(1, 3, NotWritten)],
                vec![(1, 3, NotWritten)],
                vec![(1, 3, NotWritten)],
            ),
            // A report that is repeated asks again.
            (vec![leased(1), asked(&[3]), dot(3), asked(&[3])], vec![(1, 3, Unknown)], vec![(1, 3, Unknown)]),
            (vec![leased(1), asked(&[3]), dot(3), ended(1, 3, Accepted), taken(&[3])], vec![], vec![]),
            (vec![leased(1), asked(&[3, 4]), dot(3), over(&[])], vec![], vec![]),
            (
                vec![leased(1), asked(&[3, 4]), dot(3), over(&[3]), ended(1, 3, Accepted)],
                vec![(1, 3, Accepted)],
                vec![(1, 3, Accepted)],
            ),
            (vec![leased(1), asked(&[3]), dot(3), over(&[3]), ended(1, 3, Accepted), taken(&[3])], vec![], vec![]),
            // Not of a lease that is known: nothing can be said of it.
            (vec![dot(3), ended(2, 3, Accepted)], vec![], vec![]),
        ];
        for (records, whole, cut) in rows {
            assert_eq!((told(&records, true), told(&records, false)), (whole, cut), "{records:?}");
        }
    }

    proptest! {
        #[test]
        fn a_table_written_anew_is_the_same(records in proptest::collection::vec(record::tests::any_record(), 0..200)) {
            let mut table = Table::default();
            records.into_iter().for_each(|record| table.apply(record));
            let mut again = Table::default();
            table.records().into_iter().for_each(|record| again.apply(record));
            prop_assert_eq!(&again, &table);
            // And over the old records, as after a crash between the two files.
            let mut over = table.clone();
            table.records().into_iter().for_each(|record| over.apply(record));
            prop_assert_eq!(over, table);
        }
    }
}
