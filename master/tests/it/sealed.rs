//! A master with a key: what others may read of its store and storage, and what it does without the key.

use crate::harness::{SOON, Worker, World, csv, inline, outcome, report};
use postrider_common::payload;
use postrider_common::seal::Header;
use postrider_master::seal::new_line;
use postrider_proto::v1;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

fn key_file(folder: &Path, name: &str, lines: &[String]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, lines.join("\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn line(name: &str) -> String {
    new_line(&name.parse().unwrap()).unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// Waits for a batch of the run and has its recipients refused with a text that names them.
async fn refuse_all(worker: &mut Worker) {
    let lease = worker.lease(1, 20_000).await.leases.remove(0);
    let recipients = payload::decode(&lease.payload).unwrap();
    let wanted: Vec<u32> = (0..lease.recipients.len() as u32).collect();
    let granted = worker.checkpoint(report(&lease, 1, Vec::new(), wanted)).await.granted;
    let refused = |index: &u32| {
        let detail = format!("<{}> is unknown here", recipients[*index as usize].address);
        v1::RecipientOutcome { detail, ..outcome(*index, v1::OutcomeKind::Rejected) }
    };
    worker.finish(report(&lease, 2, granted.iter().map(refused).collect(), Vec::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_stored_can_be_read_without_the_key() {
    let keys = tempfile::tempdir().unwrap();
    let file = key_file(keys.path(), "keys", &[line("a")]);
    let world = World::with(|config| config.key_file = Some(file)).await;
    let run = world.run_csv("digest", &format!("{}not-an-address,Eve\n", csv(30))).await;
    world.until(&run, "split", |run| run.split_complete).await;
    let id = run.parse().unwrap();
    let record = world.store.run(&id).await.unwrap().unwrap();
    assert!(Header::read(&record.audience).is_some());
    let batches = world.store.batches(&id, 0, 100).await.unwrap();
    assert!(!batches.is_empty() && batches.iter().all(|batch| Header::read(&batch.payload).is_some()));
    let rows = world.store.bad_rows(&id).await.unwrap();
    assert!(rows.len() == 1 && !rows[0].reason.contains("address"), "{rows:?}");
    let request = v1::GetRunRequest { run_id: run.clone() };
    assert!(world.admin().get_run(request).await.is_ok());

    let mut worker = Worker::new(&world, "w");
    for _ in &batches {
        refuse_all(&mut worker).await;
    }
    world.until(&run, "finished", |run| run.state() == v1::RunState::Finished).await;
    let deadline = Instant::now() + SOON;
    loop {
        let batches = world.store.batches(&id, 0, 100).await.unwrap();
        let plain = |text: &str| !text.is_empty() && (text.contains('@') || text.contains("unknown"));
        assert!(!batches.iter().flat_map(|batch| &batch.recipients).any(|one| plain(&one.detail)));
        if batches.iter().all(|batch| batch.is_retired()) {
            break;
        }
        assert!(Instant::now() < deadline, "not retired in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let stored = files(world.storage.path());
    assert!(stored.len() >= 2, "an audience and history: {stored:?}");
    for path in stored {
        let bytes = std::fs::read(&path).unwrap();
        assert!(Header::read(&bytes).is_some(), "{} is sealed", path.display());
    }
    let recipients = world.recipients(&run, &[]).await;
    assert_eq!(recipients.len(), 30);
    assert!(recipients.iter().all(|one| one.detail == format!("<{}> is unknown here", one.address)), "{recipients:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_key_delays_and_loses_nothing() {
    let keys = tempfile::tempdir().unwrap();
    let (old, new) = (line("old"), line("new"));
    let both = key_file(keys.path(), "both", &[new.clone(), old.clone()]);
    let old = key_file(keys.path(), "old", &[old]);
    let new = key_file(keys.path(), "new", &[new]);
    let first = World::with(|config| config.key_file = Some(old)).await;
    let run = first.run_csv("digest", &csv(200)).await;
    let small = first.apply_and_run_inline("small").await;
    first.until(&run, "split", |run| run.split_complete).await;
    first.until(&small, "split", |run| run.split_complete).await;

    // A master that has only the new key gives nothing of it to its workers, and says why.
    let second = first.again_with(|config| config.key_file = Some(new)).await;
    first.master.stop().await;
    assert!(Worker::new(&second, "w").lease(16, 0).await.leases.is_empty());
    let shown = second.until(&run, "paused", |run| run.paused).await;
    assert_eq!(shown.recipients.unwrap().pending, 200);
    second.until(&small, "paused", |run| run.paused).await;
    let request = v1::ListRecipientsRequest { run_id: run.clone(), states: Vec::new() };
    let mut stream = second.admin().list_recipients(request).await.unwrap().into_inner();
    let error = stream.message().await.unwrap_err();
    assert!(error.message().contains("the key 'old'") && error.message().contains("key_file"), "{error}");
    // What was not begun waits as well.
    let late = second.run("digest", "late").await;
    let again = second.show(&late).await;
    assert!(!again.split_complete && again.error.is_none());

    // With both keys all of it goes on, each once; what is written now is of the new key.
    let third = second.again_with(|config| config.key_file = Some(both)).await;
    for run in [&run, &small] {
        third.admin().resume_run(v1::ResumeRunRequest { run_id: run.clone() }).await.unwrap();
    }
    second.master.stop().await;
    let mut worker = Worker::new(&third, "w");
    let mut delivered = 0;
    let deadline = Instant::now() + SOON;
    while delivered < 401 {
        for lease in &worker.lease(16, 50).await.leases {
            delivered += worker.deliver(lease).await.len();
        }
        assert!(Instant::now() < deadline, "{delivered} delivered in time");
    }
    for run in [&run, &small, &late] {
        let shown = third.until(run, "finished", |run| run.state() == v1::RunState::Finished).await;
        let counts = shown.recipients.unwrap();
        assert_eq!(counts.accepted, counts.total);
    }
}

impl World {
    async fn apply_and_run_inline(&self, name: &str) -> String {
        self.apply(crate::harness::campaign(name, Some(inline(&["{\"email\":\"ada@example.com\",\"name\":\"Ada\"}"]))))
            .await;
        self.run(name, "").await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_list_is_sealed_as_audiences_are() {
    let keys = tempfile::tempdir().unwrap();
    let file = key_file(keys.path(), "keys", &[line("a")]);
    let world = World::with(|config| config.key_file = Some(file)).await;
    let change = v1::ChangeListRequest {
        name: "customers".into(),
        change: v1::ListChange::Import.into(),
        rows: Some(inline(&[r#"{"email":"ada@example.com","nickname":"Ada"}"#])),
        ..Default::default()
    };
    let changed = world.campaigns().change_list(change.clone()).await.unwrap().into_inner();
    assert_eq!((changed.version, changed.rows), (1, 1));
    for folder in ["lists", "audiences"] {
        let found = files(&world.storage.path().join(folder));
        assert_eq!(found.len(), 1, "{folder}");
        assert!(Header::read(&std::fs::read(&found[0]).unwrap()).is_some(), "{folder}");
    }
    let get = v1::GetListRequest { name: "customers".into(), version: 0 };
    let list = world.campaigns().get_list(get.clone()).await.unwrap().into_inner().list.unwrap();
    assert_eq!(list.columns, ["email", "nickname"]);
    // Who has no key can neither read nor change it.
    let keyless = world.again().await;
    for error in [
        keyless.campaigns().get_list(get).await.map(drop).unwrap_err(),
        keyless.campaigns().change_list(change).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.code(), tonic::Code::FailedPrecondition, "{error}");
        assert!(error.message().contains("key"), "{error}");
    }
    keyless.master.stop().await;
    world.master.stop().await;
}
