//! What many seeds came to.

use crate::coverage::{Coverage, Point};
use crate::judge::Verdict;
use crate::world::World;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Failures that are printed in full.
const FAILURES_SHOWN: usize = 12;
const DAY_MS: f64 = 86_400_000.0;

#[derive(Debug, Default)]
pub struct Seed {
    pub seed: u64,
    pub events: u64,
    pub print: u64,
    pub broken: Option<String>,
    recipients: u64,
    faults: BTreeMap<&'static str, u64>,
    coverage: Coverage,
    verdict: Verdict,
    ended_ms: u64,
}

impl Seed {
    pub fn of(mut world: World, verdict: Verdict) -> Self {
        let (calls, store_faults, coverage) = {
            let store = world.store();
            (store.calls, store.faults, store.rules.coverage.clone())
        };
        world.coverage.add(&coverage);
        if store_faults > 0 {
            *world.faults.entry("store call lost or repeated").or_default() += store_faults;
        }
        world.print.add(calls);
        let recipients = world.submissions.iter().map(|submission| submission.keys.len() as u64).sum();
        Self {
            seed: world.seed,
            events: world.events + calls,
            print: world.print.0,
            broken: world.broken.take(),
            recipients,
            faults: std::mem::take(&mut world.faults),
            coverage: std::mem::take(&mut world.coverage),
            verdict,
            ended_ms: world.now_ms,
        }
    }

    pub fn broken(seed: u64, why: String) -> Self {
        Self { seed, broken: Some(format!("panicked: {why}")), ..Self::default() }
    }
}

#[derive(Debug, Default)]
pub struct Report {
    pub failed: Vec<(u64, String)>,
    pub coverage: Coverage,
    pub took: Duration,
    events: Vec<u64>,
    recipients: Vec<u64>,
    faults_each: Vec<u64>,
    faults: BTreeMap<&'static str, u64>,
    verdict: Verdict,
    ended_ms: u64,
    print: u64,
}

#[derive(Debug, Clone, Copy)]
pub struct Medians {
    pub events: u64,
    pub recipients: u64,
    pub faults: u64,
}

impl Report {
    pub fn add(&mut self, seed: Seed) {
        if let Some(why) = seed.broken {
            self.failed.push((seed.seed, why));
        }
        self.coverage.add(&seed.coverage);
        self.events.push(seed.events);
        self.recipients.push(seed.recipients);
        self.faults_each.push(seed.faults.values().sum());
        seed.faults.iter().for_each(|(kind, count)| *self.faults.entry(kind).or_default() += count);
        self.verdict.recipients += seed.verdict.recipients;
        self.verdict.messages += seed.verdict.messages;
        self.verdict.duplicates_reply_lost += seed.verdict.duplicates_reply_lost;
        self.verdict.duplicates_not_recorded += seed.verdict.duplicates_not_recorded;
        self.ended_ms += seed.ended_ms;
        // Seeds end in any order.
        self.print ^= seed.print;
    }

    pub fn medians(&self) -> Medians {
        let median = |values: &[u64]| {
            let mut sorted = values.to_vec();
            sorted.sort_unstable();
            sorted.get(sorted.len() / 2).copied().unwrap_or_default()
        };
        let (events, recipients, faults) = (median(&self.events), median(&self.recipients), median(&self.faults_each));
        Medians { events, recipients, faults }
    }

    pub fn failures(&self) -> String {
        let mut failed = self.failed.clone();
        failed.sort();
        let show = |(seed, why): &(u64, String)| {
            format!("seed {seed}: {why}\n  again: POSTRIDER_SEED={seed} cargo test -p postrider-tests --test sim\n")
        };
        let shown: String = failed.iter().take(FAILURES_SHOWN).map(show).collect();
        format!("{} of {} seeds failed\n{shown}", failed.len(), self.events.len())
    }

    fn count(&self, what: &str) -> usize {
        self.failed.iter().filter(|(_, why)| why.contains(what)).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seeds, events) = (self.events.len(), self.events.iter().sum::<u64>());
        let (seconds, days) = (self.took.as_secs_f64().max(0.001), self.ended_ms as f64 / DAY_MS);
        let medians = self.medians();
        writeln!(
            f,
            "SIMULATION {seeds} seeds, {events} events in {seconds:.1} s ({:.0} a second), {days:.2} simulated days, state {:016x}",
            events as f64 / seconds,
            self.print
        )?;
        writeln!(
            f,
            "SIMULATION median of a seed: {} events, {} recipients, {} faults",
            medians.events, medians.recipients, medians.faults
        )?;
        let v = &self.verdict;
        writeln!(
            f,
            "SIMULATION {} recipients, {} messages; lost {}, duplicates {} (reply lost) and {} (outcome not recorded), without a reason {}, not converged {}",
            v.recipients,
            v.messages,
            self.count("P1: lost"),
            v.duplicates_reply_lost,
            v.duplicates_not_recorded,
            self.count("without a reason"),
            self.count("not converged")
        )?;
        for (kind, count) in &self.faults {
            writeln!(f, "  fault {kind}: {count}")?;
        }
        for point in Point::ALL {
            writeln!(f, "  reached {}: {}", point.name(), self.coverage.0.get(point).copied().unwrap_or_default())?;
        }
        Ok(())
    }
}
