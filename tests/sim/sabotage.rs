//! Tests of the tests: every planted fault is caught, by a few seeds of the simulation or by the conformance suite over
//! the embedded store. Each fault is shown by a process of its own, which runs this very program.

use postrider_common::sabotage::Fault;
use postrider_store::conformance::memory::InMemory;
use std::process::Command;

/// Seeds that look for one fault; it stops at the first that fails.
const SEEDS: &str = "600";
/// These act in the loop of a real worker process, where the end-to-end tests look for them.
const END_TO_END: [Fault; 1] = [Fault::SkipIntents];

async fn fixture() -> InMemory {
    InMemory::new(|store| store)
}

/// Without a fault these are green, as everywhere.
mod suite {
    use super::fixture;

    postrider_store::conformance_tests!(fixture);
}

/// Runs tests of this program with a fault; what they said. None: they were green.
fn red(fault: Fault, tests: &[&str]) -> Option<String> {
    let mut command = Command::new(std::env::current_exe().expect("a test knows its program"));
    command.args(tests).arg("--nocapture");
    command.env("POSTRIDER_SABOTAGE", fault.name()).env("POSTRIDER_SEEDS", SEEDS).env_remove("POSTRIDER_SEED");
    let output = command.output().expect("the tests can be run");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains("running 0 tests"), "there is no {tests:?}\n{text}");
    (!output.status.success()).then_some(text)
}

fn caught(fault: Fault) -> Option<String> {
    if let Some(text) = red(fault, &["--exact", "every_promise_holds_in_every_seed"]) {
        let why = text.lines().find(|line| line.starts_with("seed "));
        // A build that fails for any other reason shows nothing.
        return Some(format!("simulation, {}", why.unwrap_or_else(|| panic!("no seed failed\n{text}"))));
    }
    let text = red(fault, &["sabotage::suite::", "--test-threads", "2"])?;
    let case = text.lines().find_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    let case = case.unwrap_or_else(|| panic!("no case failed\n{text}"));
    Some(format!("conformance, {}", case.trim_start_matches("sabotage::suite::")))
}

/// Whatever else would see it as well: the reconciler heals it, so that it must be told as a repair.
#[test]
fn a_batch_that_is_put_nowhere_is_repaired_and_told() {
    if std::env::var_os("POSTRIDER_SABOTAGE").is_some() {
        return;
    }
    let case = "sabotage::suite::reconcile::reconcile_repairs_nothing_wherever_batches_stand";
    let text = red(Fault::BatchForgotten, &["--exact", case]).expect("it is noticed");
    assert!(text.contains("nobody did any harm") && text.contains("kind: Lost"), "{text}");
}

#[test]
fn every_planted_fault_is_caught() {
    if std::env::var_os("POSTRIDER_SABOTAGE").is_some() {
        return;
    }
    let faults: Vec<Fault> = Fault::ALL.iter().copied().filter(|fault| !END_TO_END.contains(fault)).collect();
    let mut missed = Vec::new();
    for fault in &faults {
        match caught(*fault) {
            Some(by) => {
                let by: String = by.chars().take(160).collect();
                println!("SABOTAGE {} caught by {by}", fault.name());
            }
            None => missed.push(fault.name()),
        }
    }
    println!("SABOTAGE caught {} of {}", faults.len() - missed.len(), faults.len());
    assert!(missed.is_empty(), "nothing noticed {missed:?}");
}
