//! The storage is a bucket and everything in it is sealed. Masters are SIGKILLed while they write history, and the
//! bucket's server is away for a while: nothing is lost or listed twice.

use postrider_tests::{Audience, Bucket, Campaign, Fleet, Rules, Settings, binary, wait};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const RECIPIENTS: usize = 20_000;
const SEGMENT_BOUND: Duration = Duration::from_secs(60);
const NOTICED_BOUND: Duration = Duration::from_secs(90);
const ENDED_BOUND: Duration = Duration::from_secs(300);
const DRAINED_BOUND: Duration = Duration::from_secs(90);

/// A key file as an operator makes one.
fn key_file(folder: &Path) -> String {
    let line =
        Command::new(binary::complete()).args(["config", "keygen", "2026-11"]).output().expect("it can be started");
    assert!(line.status.success(), "{line:?}");
    let path = folder.join("keys");
    fs::write(&path, line.stdout).expect("the key file can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it can be made private");
    format!("[encryption]\nkey_file = \"{}\"\n", path.display())
}

fn logs_say(folder: &Path, part: &str) -> bool {
    let logs = fs::read_dir(folder).into_iter().flatten().flatten();
    logs.filter_map(|log| fs::read_to_string(log.path()).ok()).any(|text| text.contains(part))
}

#[test]
fn a_bucket_holds_what_was_settled_whatever_dies() {
    let mut bucket = Bucket::start();
    let keys = tempfile::tempdir().expect("a temporary folder");
    let mut fleet = Fleet::start(Settings {
        sink_latency_ms: 60,
        storage: Some(bucket.url()),
        environment: bucket.environment(),
        program: Some(binary::complete()),
        extra: key_file(keys.path()),
        ..Settings::default()
    });
    let audience = Audience::of(RECIPIENTS);
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    assert_eq!(bucket.objects("/audiences/").len(), 1);
    assert_eq!(bucket.objects("/uploads/").len(), 0, "the upload was renamed");
    for master in 0..2 {
        let before = bucket.objects("/history/").len();
        wait::until("a segment", SEGMENT_BOUND, || (bucket.objects("/history/").len() > before).then_some(()));
        fleet.kill_master(master);
        fleet.start_master(master);
    }
    bucket.kill();
    let logs = fleet.logs();
    wait::until("a master to notice", NOTICED_BOUND, || logs_say(&logs, "duty failed, trying on").then_some(()));
    bucket.restart();
    let ended = fleet.wait_ended(&run, ENDED_BOUND);
    assert_eq!(ended.state, "finished", "{ended:?}");
    wait::until("every payload to leave the store", DRAINED_BOUND, || {
        (fleet.redis.count_keys("postrider:*:p:*") == 0).then_some(())
    });
    assert!(logs_say(&logs, "duty works again"));
    // The mark of the store says where each shard was, and nothing of anybody.
    let is_mark = |path: &Path| path.to_string_lossy().contains("/marks.json");
    for path in bucket.objects("").into_iter().filter(|path| !is_mark(path)) {
        let bytes = fs::read(&path).expect("an object can be read");
        assert!(bytes.starts_with(b"PRS\x01"), "{} is sealed", path.display());
    }
    let client = fleet.client();
    assert_eq!(client.recipients(&run).len(), RECIPIENTS);
    let someone = audience.addresses().first().expect("somebody").clone();
    let found = client.ok(&["run", "find", &someone]);
    assert!(found.contains(&run), "{found}");
    println!("bucket: {} segments, server away once, 2 masters killed", bucket.objects("/history/").len());
    fleet.judge("bucket", &run, audience.addresses(), Rules::CLEAN, &watcher.stop());

    // An address is erased from the audience and from history, in place.
    let objects = bucket.objects("").len();
    let erased = client.call_within(&["--output", "json", "erase", &someone, "--wait"], ENDED_BOUND);
    let erased: serde_json::Value = serde_json::from_str(&erased.stdout).expect("the JSON of an erasure");
    assert_eq!((&erased["recipients"], &erased["rows"], &erased["unreadable"]), (&1.into(), &1.into(), &0.into()));
    let marks = bucket.objects("/erasing/").len();
    assert!(marks > 0, "changes of lists must see the pass");
    assert_eq!(bucket.objects("").len() - marks, objects + 1, "beside that only the key of the hash came");
    let listed = client.recipients(&run);
    assert_eq!(listed.len(), RECIPIENTS);
    let stands = listed.iter().filter(|one| erased["id"] == *one.key.as_str()).map(|one| one.state.as_str());
    assert_eq!(stands.collect::<Vec<_>>(), ["accepted"]);
    assert!(listed.iter().all(|one| one.address != someone));
}

#[test]
fn a_build_without_s3_says_so() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new(binary::postrider());
    command.current_dir(dir.path()).args(["master", "--store", "embedded:"]);
    command.env("POSTRIDER__STORAGE__URL", "s3://acme/x").env("POSTRIDER__MASTER__GRPC_LISTEN", "127.0.0.1:0");
    let output = command.env("POSTRIDER__MASTER__HTTP_LISTEN", "").output().expect("it can be started");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && text.contains("this build has no S3") && text.contains("--features s3"),
        "{text}"
    );
}
