use super::*;
use postrider_common::ids::RunId;
use postrider_common::lease::OutcomeKind;
use std::time::Instant;
use tempfile::TempDir;

const BOOT: &str = "boot";

fn root() -> TempDir {
    TempDir::new().unwrap()
}

fn batch(sequence: u64) -> BatchId {
    BatchId { run: RunId::derive("digest", "1"), sequence }
}

fn fence(counter: u64) -> Fence {
    Fence { epoch: 1, counter, nonce: 7 }
}

fn outcome(index: u32, kind: OutcomeKind) -> Outcome {
    Outcome { index, kind, code: "250 2.0.0".into(), detail: "ok".into(), retry_after_ms: 0 }
}

fn report(lease: u64, intents: &[u32]) -> LeaseReport {
    LeaseReport {
        batch: batch(lease),
        fence: fence(lease),
        sequence: 1,
        outcomes: Vec::new(),
        intents: intents.to_vec(),
        progress: 0,
    }
}

impl Journal {
    fn with_lease(&self, lease: u64, intents: &[u32]) {
        self.leased(lease, &batch(lease), &fence(lease));
        self.asked(&[report(lease, intents)]);
    }
}

fn kinds(facts: &[Fact]) -> Vec<(u64, u32, OutcomeKind)> {
    facts.iter().map(|fact| (fact.fence.counter, fact.outcome.index, fact.outcome.kind)).collect()
}

/// As a process that is killed: nothing is closed, but its locks end.
fn die(journal: Journal) {
    drop(journal);
}

#[test]
fn the_next_process_learns_what_the_dead_one_knew() {
    let root = root();
    let (journal, left) = open(root.path(), "one", BOOT).unwrap();
    assert!(left.facts.is_empty() && left.files.is_empty());
    journal.with_lease(1, &[0, 1, 2, 3]);
    assert!(journal.dot(1, 1) && journal.dot(1, 2));
    journal.ended(1, &outcome(2, OutcomeKind::Accepted));
    assert!(journal.dot(1, 3));
    journal.ended(1, &outcome(3, OutcomeKind::Rejected));
    journal.told(1, vec![3]);
    die(journal);

    let expected = [(1, 0, OutcomeKind::NotWritten), (1, 1, OutcomeKind::Unknown), (1, 2, OutcomeKind::Accepted)];
    let (second, left) = open(root.path(), "two", BOOT).unwrap();
    assert_eq!(kinds(&left.facts), expected);
    // It dies before it has told them, with something of its own under the same number.
    second.with_lease(1, &[9]);
    die(second);
    drop(left);
    let (third, left) = open(root.path(), "three", BOOT).unwrap();
    assert_eq!(kinds(&left.facts), [&expected[..], &[(1, 9, OutcomeKind::NotWritten)]].concat());
    left.discard();
    die(third);
    let (_fourth, left) = open(root.path(), "four", BOOT).unwrap();
    assert!(left.facts.is_empty());
}

#[test]
fn after_another_boot_nothing_is_concluded_from_silence() {
    for (then, now) in [(BOOT, "another"), ("", "")] {
        let root = root();
        let (journal, _) = open(root.path(), "one", then).unwrap();
        journal.with_lease(1, &[0, 1]);
        assert!(journal.dot(1, 1));
        die(journal);
        let (_second, left) = open(root.path(), "two", now).unwrap();
        assert_eq!(kinds(&left.facts), [(1, 1, OutcomeKind::Unknown)]);
    }
}

#[test]
fn two_workers_never_share_a_folder() {
    let root = root();
    let (one, _) = open(root.path(), "one", BOOT).unwrap();
    let (two, left) = open(root.path(), "two", BOOT).unwrap();
    assert!(left.files.is_empty(), "what is held by a living process is left alone");
    one.with_lease(1, &[0]);
    two.with_lease(2, &[0]);
    die(one);
    die(two);
    // One takes over what both have left, and there is room for the other.
    let (_three, left) = open(root.path(), "three", BOOT).unwrap();
    assert_eq!(kinds(&left.facts), [(1, 0, OutcomeKind::NotWritten), (2, 0, OutcomeKind::NotWritten)]);
    let (_four, none) = open(root.path(), "four", BOOT).unwrap();
    assert!(none.facts.is_empty());
}

#[test]
fn a_long_life_takes_little_room_and_forgets_nothing() {
    let root = root();
    let (journal, _) = open(root.path(), "one", BOOT).unwrap();
    journal.with_lease(1, &[0, 1, 2]);
    assert!(journal.dot(1, 1));
    journal.ended(1, &outcome(2, OutcomeKind::Accepted));
    for lease in 2..1_500 {
        let all: Vec<u32> = (0..100).collect();
        journal.with_lease(lease, &all);
        for index in 0..100 {
            assert!(journal.dot(lease, index));
            journal.ended(lease, &outcome(index, OutcomeKind::Accepted));
        }
        journal.told(lease, all);
        journal.over(lease, Vec::new());
        let files = journal.state().folder.files().unwrap();
        let sizes = files.iter().map(|(_, path)| std::fs::metadata(path).unwrap().len());
        assert_eq!(sizes.collect::<Vec<_>>(), [FILE_BYTES_MIN]);
    }
    let turns = journal.state().folder.files().unwrap()[0].0;
    assert!(turns > 1, "{turns}");
    let facts = facts_in(root.path()).unwrap();
    die(journal);
    let (_second, left) = open(root.path(), "two", BOOT).unwrap();
    let noted = [(1, 1, OutcomeKind::Unknown), (1, 2, OutcomeKind::Accepted)];
    assert_eq!(kinds(&left.facts), [&[(1, 0, OutcomeKind::NotWritten)], &noted[..]].concat());
    // Looked at with the real boot it is of another one.
    assert_eq!(kinds(&facts), noted);
}

#[test]
fn a_turn_of_the_page_that_was_cut_short_repeats_nothing_wrong() {
    let root = root();
    let (journal, _) = open(root.path(), "one", BOOT).unwrap();
    journal.with_lease(1, &[0, 1]);
    journal.with_lease(2, &[0]);
    journal.told(2, vec![0]);
    journal.over(2, Vec::new());
    // The new file is there and the old one is not yet removed.
    let page = journal.state().turn(2).unwrap();
    page.file
        .write_all_at(
            &{
                let mut bytes = Vec::new();
                assert!(Record::Dot { lease: 1, index: 1 }.write(&mut bytes));
                bytes
            },
            page.at,
        )
        .unwrap();
    die(journal);
    let (_second, left) = open(root.path(), "two", BOOT).unwrap();
    assert_eq!(left.files.len(), 2);
    assert_eq!(kinds(&left.facts), [(1, 0, OutcomeKind::NotWritten), (1, 1, OutcomeKind::Unknown)]);
}

/// At every length: what is told is true, and nobody is said to be unwritten who is not certainly so.
#[test]
fn a_damaged_journal_never_says_more_than_it_knows() {
    let root = root();
    let (journal, _) = open(root.path(), "one", BOOT).unwrap();
    journal.with_lease(1, &[0, 1, 2]);
    assert!(journal.dot(1, 0));
    journal.ended(1, &outcome(0, OutcomeKind::Accepted));
    assert!(journal.dot(1, 1));
    let path = journal.state().folder.file(1);
    let used = match &journal.state().standing {
        Standing::Writing(page) => page.at,
        Standing::Gone | Standing::Stuck => panic!("it is written"),
    };
    die(journal);
    let whole = std::fs::read(&path).unwrap();
    for length in (0..used).chain([used + 1, whole.len() as u64 - 1]) {
        std::fs::write(&path, &whole[..usize::try_from(length).unwrap()]).unwrap();
        let (ours, left) = open(root.path(), "two", BOOT).unwrap();
        for fact in &left.facts {
            let (index, kind) = (fact.outcome.index, fact.outcome.kind);
            assert!(
                matches!((index, kind), (0, OutcomeKind::Accepted | OutcomeKind::Unknown) | (1, OutcomeKind::Unknown)),
                "{length}: {index} {kind:?}"
            );
        }
        ours.close();
    }
}

#[test]
fn a_journal_that_cannot_be_written_is_thrown_away() {
    let root = root();
    let (journal, _) = open(root.path(), "one", BOOT).unwrap();
    journal.with_lease(1, &[0, 1]);
    // A file that is open for reading only refuses every write, as a full disk does.
    let path = {
        let mut state = journal.state();
        let Standing::Writing(page) = &mut state.standing else { panic!("it is written") };
        page.file = File::open(&page.path).unwrap();
        page.path.clone()
    };
    assert!(journal.dot(1, 0), "the dot may be written, because nothing says that it was not");
    assert!(!path.exists());
    journal.ended(1, &outcome(0, OutcomeKind::Accepted));
    die(journal);
    let (_second, left) = open(root.path(), "two", BOOT).unwrap();
    assert!(left.facts.is_empty());
}

#[test]
fn a_journal_that_is_stuck_stops_the_dots() {
    let root = root();
    let (journal, _) = open(root.path(), "one", BOOT).unwrap();
    journal.with_lease(1, &[0]);
    journal.state().standing = Standing::Stuck;
    // The file is a folder now, which can be neither read nor removed as a file.
    let path = journal.state().folder.file(1);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(!journal.dot(1, 0));
    std::fs::remove_dir(&path).unwrap();
    assert!(journal.dot(1, 0), "it is gone now");
}

#[test]
fn a_clean_end_leaves_no_file() {
    let root = root();
    let (journal, _) = open(root.path(), "one", BOOT).unwrap();
    journal.with_lease(1, &[0]);
    assert!(journal.dot(1, 0));
    journal.ended(1, &outcome(0, OutcomeKind::Accepted));
    journal.told(1, vec![0]);
    journal.close();
    assert_eq!(journal.state().folder.files().unwrap().len(), 1, "the lease is not over");
    journal.over(1, Vec::new());
    journal.close();
    assert_eq!(journal.state().folder.files().unwrap().len(), 0);
}

#[test]
fn a_folder_that_cannot_be_used_is_an_error() {
    let root = root();
    let file = root.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = open(&file, "one", BOOT).unwrap_err();
    assert!(!error.to_string().is_empty());
}

/// Prints what the notes of one message cost; fails only when they cost what nobody would pay.
#[test]
fn notes_are_cheap() {
    const MESSAGES: u32 = 20_000;
    let root = root();
    let (journal, _) = open(root.path(), "one", BOOT).unwrap();
    let begun = Instant::now();
    for lease in 0..u64::from(MESSAGES / 100) {
        for window in 0..10 {
            let intents: Vec<u32> = (window * 10..window * 10 + 10).collect();
            journal.with_lease(lease, &intents);
            for index in &intents {
                assert!(journal.dot(lease, *index));
                journal.ended(lease, &outcome(*index, OutcomeKind::Accepted));
            }
            journal.told(lease, intents);
        }
        journal.over(lease, Vec::new());
    }
    let each = begun.elapsed() / MESSAGES;
    println!("JOURNAL notes of one message: {each:?}");
    assert!(each.as_millis() < 2, "{each:?}");
}
