//! Tests of the tests: the same scenarios against a build with a planted fault must go red, and by the
//! judge, not by a crash or a wait that ran out.

use postrider_tests::{binary, summary};
use std::process::Command;

/// Runs one scenario of this very program against the sabotaged build; the violations that the judge found.
fn red(scenario: &str, fault: &str) -> Vec<String> {
    let mut command = Command::new(std::env::current_exe().expect("a test knows its program"));
    command.args(["--exact", scenario, "--nocapture"]);
    command.env(binary::BIN, binary::sabotaged()).env(binary::SABOTAGE, fault);
    let output = command.output().expect("the scenario can be run");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("running 1 test"), "there is no scenario {scenario}\n{text}");
    assert!(!output.status.success(), "{scenario} stayed green with {fault}\n{text}");
    let verdict =
        text.split_once(summary::RED).unwrap_or_else(|| panic!("{scenario} failed, not by the judge\n{text}")).1;
    let found: Vec<String> =
        verdict.lines().skip(1).map_while(|line| line.strip_prefix("  ")).map(str::to_owned).collect();
    println!("SABOTAGE {fault} caught by {scenario}: {}", found.join("; "));
    found
}

fn names_one_of(found: &[String], kinds: &[&str]) -> bool {
    found.iter().any(|line| kinds.iter().any(|kind| line.starts_with(&format!("{kind}:"))))
}

#[test]
fn ignored_fences_are_caught() {
    let found = red("worker_stopped::a_stale_report_does_not_touch_the_next_lease", "ignore_fences");
    assert!(names_one_of(&found, &["unmarked_duplicates", "beyond_attempts", "unexcused_duplicates"]), "{found:?}");
}

#[test]
fn skipped_intents_are_caught() {
    let found = red("worker_killed::a_killed_worker_costs_at_most_its_intents", "skip_intents");
    assert!(names_one_of(&found, &["unmarked_duplicates"]), "{found:?}");
}
