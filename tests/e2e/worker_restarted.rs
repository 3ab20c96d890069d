//! A worker is SIGKILLed in mid-batch and started again on the same host at once. Its crash journal tells what
//! it knew, so only recipients whose reply it had not read may be sent to again. With a damaged journal it costs
//! no more than without one.

use postrider_common::{Clock, SystemClock};
use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const BOUND: Duration = Duration::from_secs(120);

fn fleet() -> Fleet {
    Fleet::start(Settings { workers: 2, sink_latency_ms: 50, ..Settings::default() })
}

#[test]
fn only_unread_replies_are_repeated() {
    let mut fleet = fleet();
    let audience = Audience::of(4_000);
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    for index in 0..2 {
        fleet.kill_worker_in_intent(index);
        fleet.start_worker(index);
    }
    let ended = fleet.wait_ended(&run, BOUND);
    assert_eq!(ended.state, "finished", "{ended:?}");
    let marked: BTreeSet<String> = fleet
        .client()
        .recipients(&run)
        .into_iter()
        .filter(|recipient| recipient.unknown_reason.is_some())
        .map(|recipient| recipient.address)
        .collect();
    let findings = fleet.judge("worker_restarted", &run, audience.addresses(), Rules::FAULTS, &watcher.stop());

    let unread = fleet.unread();
    let mut copies: BTreeMap<String, u32> = BTreeMap::new();
    for line in fleet.ledger().into_iter().filter(|line| line.decision.is_a_copy()) {
        *copies.entry(line.rcpt_to).or_default() += 1;
    }
    let twice: BTreeSet<String> = copies.into_iter().filter(|(_, copies)| *copies > 1).map(|(who, _)| who).collect();
    println!(
        "worker_restarted: {} in intent at the kills, {} replies unread, {} sent twice, {} marked",
        fleet.faults.bound(),
        unread.len(),
        twice.len(),
        marked.len()
    );
    assert!(twice.is_subset(&unread), "sent again although the reply was read: {:?}", twice.difference(&unread));
    assert!((unread.len() as u64) < fleet.faults.bound(), "the kills hit others too, or this shows nothing");
    assert_eq!(findings.marked_outcome_not_recorded, 0, "the journal tells of everybody in intent");
    // A thread that was stopped between its note and the dot is marked, and nothing was sent.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let beyond = marked.difference(&unread).count();
    assert!(beyond <= 2 * threads, "{beyond} are marked though nothing of theirs was unread");
}

#[test]
fn a_damaged_journal_costs_what_none_costs() {
    let mut fleet = fleet();
    let audience = Audience::of(4_000);
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    let clock = SystemClock::default();
    for index in 0..2 {
        fleet.kill_worker_in_intent(index);
        damage(&fleet.journal(index), index == 0, clock.random());
        fleet.start_worker(index);
    }
    let ended = fleet.wait_ended(&run, BOUND);
    assert_eq!(ended.state, "finished", "{ended:?}");
    fleet.judge("worker_restarted_damaged", &run, audience.addresses(), Rules::FAULTS, &watcher.stop());
}

/// Cuts every journal in the folder somewhere and adds garbage, or writes garbage over it.
fn damage(folder: &Path, cuts: bool, random: u64) {
    let files = journals(folder);
    assert!(!files.is_empty(), "the dead worker left a journal in {}", folder.display());
    for path in files {
        let mut bytes = fs::read(&path).expect("a journal can be read");
        let used = bytes.iter().rposition(|byte| *byte != 0).expect("it says something");
        let at = usize::try_from(random % used as u64).expect("an offset");
        let garbage: Vec<u8> = (0..64u64).map(|n| (random.rotate_left(n as u32) & 0xff) as u8 | 1).collect();
        if cuts {
            bytes.truncate(at);
            bytes.extend(&garbage);
        } else {
            bytes[at..at + garbage.len()].copy_from_slice(&garbage);
        }
        println!("journal of {used} bytes damaged at {at}, cut {cuts}");
        fs::write(&path, bytes).expect("a journal can be written");
    }
}

fn journals(folder: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let folders = entries(folder).filter(|path| path.is_dir()).collect::<Vec<_>>();
    let files = folders.iter().flat_map(|folder| entries(folder).collect::<Vec<_>>());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "journal")).collect()
}
