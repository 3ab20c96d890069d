//! What is noted and when, and what it adds up to. Pure: records come out, whoever keeps the file writes them.

use super::record::Record;
use super::table::Table;
use postrider_common::ids::{BatchId, Fence};
use postrider_common::lease::{LeaseReport, Outcome};
use postrider_common::sabotage::{Fault, planted};
use std::collections::BTreeMap;

/// The notes of one process.
#[derive(Debug, Default)]
pub struct Notes {
    pub(super) table: Table,
    /// Leases by the names that reports use.
    leases: BTreeMap<(BatchId, Fence), u64>,
}

impl Notes {
    /// A lease arrived, known by this number from now on. Nothing is written before intents are asked for.
    pub fn leased(&mut self, lease: u64, batch: &BatchId, fence: &Fence) {
        self.leases.entry((batch.clone(), fence.clone())).or_insert(lease);
    }

    /// Intents are about to be asked for.
    #[must_use]
    pub fn asked(&mut self, reports: &[LeaseReport]) -> Vec<Record> {
        let mut records = Vec::new();
        for report in reports.iter().filter(|report| !report.intents.is_empty()) {
            let name = (report.batch.clone(), report.fence.clone());
            let Some(lease) = self.leases.get(&name).copied() else { continue };
            if !self.table.knows(lease) {
                records.push(Record::Leased { lease, batch: name.0, fence: name.1 });
            }
            records.push(Record::Asked { lease, indexes: report.intents.clone() });
        }
        self.apply(records)
    }

    /// The final dot is about to be written.
    #[must_use]
    pub fn dot(&mut self, lease: u64, index: u32) -> Vec<Record> {
        match planted(Fault::DotNotNoted) {
            true => Vec::new(),
            false => self.apply(vec![Record::Dot { lease, index }]),
        }
    }

    /// It ended, and will be reported.
    #[must_use]
    pub fn ended(&mut self, lease: u64, outcome: &Outcome) -> Vec<Record> {
        self.apply(vec![Record::Ended { lease, outcome: outcome.clone() }])
    }

    /// A master has taken these outcomes.
    #[must_use]
    pub fn told(&mut self, lease: u64, indexes: Vec<u32>) -> Vec<Record> {
        match self.table.knows(lease) {
            true => self.apply(vec![Record::Told { lease, indexes }]),
            false => Vec::new(),
        }
    }

    /// The lease is over; these outcomes are still to be told.
    #[must_use]
    pub fn over(&mut self, lease: u64, owed: Vec<u32>) -> Vec<Record> {
        self.leases.retain(|_, known| *known != lease);
        match self.table.knows(lease) {
            true => self.apply(vec![Record::Over { lease, owed }]),
            false => Vec::new(),
        }
    }

    /// Nothing is owed any more.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    fn apply(&mut self, records: Vec<Record>) -> Vec<Record> {
        records.iter().cloned().for_each(|record| self.table.apply(record));
        records
    }
}
