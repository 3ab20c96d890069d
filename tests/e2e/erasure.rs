//! An address is erased while its run is paused half way: it gets nothing, everybody else exactly one message, the run
//! finishes, and neither the store nor the storage has it any more.

use postrider_common::payload;
use postrider_tests::redis_dump::{Dumped, dump};
use postrider_tests::{Audience, Campaign, Fleet, Settings, binary, wait};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const RECIPIENTS: usize = 4_000;
const ADDRESS: &str = "Erased.One@example.com";
const SECRET: &str = "erased.one";
const BOUND: Duration = Duration::from_secs(60);
const ENDED_BOUND: Duration = Duration::from_secs(180);

#[derive(Debug, Deserialize)]
struct Erasure {
    id: String,
    done: bool,
    recipients: u64,
    ended: u64,
    rows: u64,
    unreadable: u64,
    left: Vec<String>,
}

fn key_file(folder: &Path) -> String {
    let line = Command::new(binary::postrider()).args(["config", "keygen", "2026-11"]).output().expect("it runs");
    assert!(line.status.success(), "{line:?}");
    let path = folder.join("keys");
    fs::write(&path, line.stdout).expect("the key file can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it can be made private");
    format!("[encryption]\nkey_file = \"{}\"\n", path.display())
}

fn has(bytes: &[u8]) -> bool {
    String::from_utf8_lossy(bytes).to_lowercase().contains(SECRET)
}

/// Where the store has it. Payloads are unpacked, unless they are sealed.
fn in_the_store(fleet: &Fleet) -> Vec<String> {
    let holds = |Dumped { key, texts }: Dumped| {
        let unpacked = texts
            .iter()
            .filter_map(|text| payload::decode(text).ok())
            .any(|recipients| recipients.iter().any(|recipient| has(format!("{recipient:?}").as_bytes())));
        (unpacked || has(key.as_bytes()) || texts.iter().any(|text| has(text))).then_some(key)
    };
    dump(&fleet.redis.socket()).into_iter().filter_map(holds).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Where the storage has it. Segments are unpacked, unless they are sealed.
fn in_the_storage(fleet: &Fleet) -> Vec<PathBuf> {
    let mut found = files(&fleet.folder().join("storage"));
    assert!(found.iter().any(|path| path.starts_with(fleet.folder().join("storage/history"))), "there is history");
    found.retain(|path| {
        let bytes = fs::read(path).expect("a file of the storage");
        has(&zstd::decode_all(bytes.as_slice()).unwrap_or(bytes))
    });
    found
}

fn is_retired(fleet: &Fleet, what: &str) {
    wait::until(what, BOUND, || (fleet.redis.count_keys("postrider:*:p:*") == 0).then_some(()));
}

fn erase(fleet: &Fleet, address: &str) -> Erasure {
    let answer = fleet.client().call_within(&["--output", "json", "erase", address, "--wait"], BOUND);
    assert_eq!(answer.code, 0, "{answer:?}");
    serde_json::from_str(answer.stdout.trim()).expect("the JSON of an erasure")
}

fn scenario(extra: String) {
    let sealed = !extra.is_empty();
    let fleet = Fleet::start(Settings { workers: 2, sink_latency_ms: 40, extra, ..Settings::default() });
    let client = fleet.client();
    let mut audience = Audience::of(RECIPIENTS);
    let campaign = Campaign::named("digest");
    client.apply(&campaign.write(fleet.folder(), &audience));
    client.ok(&[
        "send",
        "--campaign",
        "digest",
        "--to",
        ADDRESS,
        "--set",
        "name=E",
        "--set",
        "city=C",
        "--set",
        "coupon=K",
        "--wait",
    ]);
    is_retired(&fleet, "the first message to be history");
    audience.add(ADDRESS);
    let run = fleet.launch(&campaign, &audience);
    fleet.wait_copies(300, BOUND);
    client.ok(&["run", "pause", &run]);
    wait::until("the split to be complete", BOUND, || client.show(&run).split_complete.then_some(()));
    wait::until("what is in flight to end", BOUND, || {
        client.workers().iter().all(|worker| worker.in_intent == 0).then_some(())
    });
    let sent =
        |fleet: &Fleet| fleet.ledger().iter().filter(|line| line.rcpt_to.to_lowercase().contains(SECRET)).count();
    assert_eq!(sent(&fleet), 1, "the single message, and not yet that of the run");
    if !sealed {
        assert!(!in_the_store(&fleet).is_empty() && in_the_storage(&fleet).len() > 1, "so this test can see it");
    }
    assert!(client.ok(&["run", "find", ADDRESS]).to_lowercase().contains(SECRET));

    let erased = erase(&fleet, "erased.one@EXAMPLE.com");
    println!("erasure, sealed {sealed}: {erased:?}");
    assert!(erased.done && erased.unreadable == 0 && erased.left.is_empty(), "{erased:?}");
    assert_eq!((erased.recipients, erased.ended), (2, 1), "one that was sent, one that waited");
    // Of the single message and of the audience.
    assert_eq!(erased.rows, 2);
    let is_clean = |fleet: &Fleet| {
        assert_eq!(in_the_store(fleet), Vec::<String>::new());
        assert_eq!(in_the_storage(fleet), Vec::<PathBuf>::new());
        let client = fleet.client();
        let found = client.ok(&["--output", "json", "run", "find", ADDRESS]);
        assert!(!found.to_lowercase().contains(SECRET), "{found}");
        for run in client.all_runs() {
            assert!(client.recipients(&run).iter().all(|one| !has(format!("{one:?}").as_bytes())));
            assert!(!has(client.ok(&["--output", "json", "run", "failures", &run]).as_bytes()));
        }
    };
    is_clean(&fleet);

    client.ok(&["run", "resume", &run]);
    let ended = fleet.wait_ended(&run, ENDED_BOUND);
    assert_eq!(ended.state, "finished", "{ended:?}");
    let counts = ended.recipients;
    assert_eq!((counts.total, counts.accepted, counts.cancelled), (RECIPIENTS as u64 + 1, RECIPIENTS as u64, 1));
    assert_eq!(counts.sum(), counts.total);
    is_retired(&fleet, "the run to be history");
    is_clean(&fleet);
    let listed = client.recipients(&run);
    assert_eq!(listed.len(), RECIPIENTS + 1);
    let stands = listed.iter().filter(|one| one.key == erased.id).map(|one| one.state.as_str());
    assert_eq!(stands.collect::<Vec<_>>(), ["cancelled"], "who has the hash can still ask");

    assert_eq!(sent(&fleet), 1, "nothing came after it");
    let mut copies: BTreeMap<String, u32> = BTreeMap::new();
    for line in fleet.ledger().iter().filter(|line| line.decision.is_a_copy()) {
        *copies.entry(line.rcpt_to.clone()).or_default() += 1;
    }
    let others = audience.addresses().iter().filter(|address| *address != ADDRESS);
    assert!(others.clone().all(|address| copies.get(address) == Some(&1)), "everybody else got exactly one");
    let (_, metrics) = fleet.http(0, "/metrics").expect("metrics");
    let repairs = metrics.lines().filter(|line| line.starts_with("postrider_reconciler_repairs"));
    assert!(repairs.clone().count() > 0 && repairs.clone().all(|line| line.ends_with(" 0")), "{metrics}");

    // Again, and of somebody who was never there.
    let again = erase(&fleet, ADDRESS);
    assert_eq!((again.id, again.recipients, again.rows), (erased.id, 0, 0));
    let nobody = client.ok(&["erase", "nobody@example.com", "--wait"]);
    assert!(nobody.contains("nothing found"), "{nobody}");
    let wrong = client.call(&["erase", "nobody"]);
    assert!(wrong.code == 2 && wrong.stderr.contains("it has no @"), "{wrong:?}");
    assert_eq!(client.ok(&["--output", "json", "erase", "--list"]), "");
    is_clean(&fleet);
    drop(fleet);
}

#[test]
fn an_address_is_erased_in_the_middle_of_its_run() {
    scenario(String::new());
}

#[test]
fn an_address_is_erased_where_all_is_sealed() {
    let keys = tempfile::tempdir().expect("a temporary folder");
    scenario(key_file(keys.path()));
}
