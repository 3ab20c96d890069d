//! One line a scenario.

use crate::faults::FaultLog;
use crate::judge::{Findings, Violation};
use crate::watcher::Watched;

/// What a failed scenario prints, so that a run that must go red can tell the judge from a crash.
pub const RED: &str = "JUDGE RED";

/// # Panics
/// With every violation, after the summary, when there is one.
pub fn report(scenario: &str, findings: &Findings, violations: &[Violation], faults: &FaultLog, watched: &Watched) {
    println!("{}", line(scenario, findings, faults, watched));
    assert!(violations.is_empty(), "{RED} {scenario}:{}", listed(violations));
}

fn line(scenario: &str, findings: &Findings, faults: &FaultLog, watched: &Watched) -> String {
    format!(
        "SCENARIO {scenario}: recipients {}, accepted {}, lost {}, unexpected {}, duplicates reply_lost {} \
         outcome_not_recorded {} without reason {}, bound {}, faults: {} ({} of {} hit), polls {} (off balance {})",
        findings.audience,
        findings.accepted,
        findings.lost.len(),
        findings.unexpected.len(),
        findings.duplicates_reply_lost,
        findings.duplicates_outcome_not_recorded,
        findings.unmarked.len(),
        findings.bound,
        faults.describes(),
        faults.hits(),
        faults.faults.len(),
        watched.polls,
        watched.off_balance.len(),
    )
}

fn listed(violations: &[Violation]) -> String {
    violations.iter().map(|violation| format!("\n  {violation}")).collect()
}
