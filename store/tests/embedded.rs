//! The conformance suite over the embedded store, in memory and in a file, and what only a file can do.

#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

use async_trait::async_trait;
use postrider_common::ids::RequestId;
use postrider_common::lease::{Fact, FactStatus, LeaseReport, OutcomeKind};
use postrider_common::limits::TRANSACTION_MS_MAX;
use postrider_common::mark::Marks;
use postrider_store::conformance::Fixture;
use postrider_store::conformance::memory::{InMemory, TestClock};
use postrider_store::conformance::scene::{GRACE_MS, Held, Scene, new_run, outcome, outcomes, worker};
use postrider_store::embedded::Embedded;
use postrider_store::{
    Checkpoint, Claim, ClaimHistory, Compare, Finish, Found, Release, RetireBatches, RetryRun, Store, StoreError,
    WriteErasure,
};
use std::sync::Arc;

struct EmbeddedFixture {
    store: Arc<dyn Store>,
    clock: Arc<TestClock>,
    folder: tempfile::TempDir,
}

#[async_trait]
impl Fixture for EmbeddedFixture {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }
    async fn pass(&self, ms: u64) {
        self.clock.pass(ms);
    }
}

async fn memory() -> InMemory {
    InMemory::new(|store| store)
}

async fn file() -> EmbeddedFixture {
    let (clock, folder) = (Arc::new(TestClock::default()), tempfile::tempdir().unwrap());
    let store = Arc::new(Embedded::open(folder.path(), clock.clone()).await.unwrap());
    EmbeddedFixture { store, clock, folder }
}

mod in_memory {
    use super::memory;
    postrider_store::conformance_tests!(memory);
}

mod in_a_file {
    use super::file;
    postrider_store::conformance_tests!(file);
}

/// Opens the folder again once the thread of the dropped store has let go of it.
async fn reopen(fixture: EmbeddedFixture) -> EmbeddedFixture {
    let EmbeddedFixture { store, clock, folder } = fixture;
    drop(store);
    for _ in 0..1000 {
        match Embedded::open(folder.path(), clock.clone()).await {
            Ok(store) => return EmbeddedFixture { store: Arc::new(store), clock, folder },
            Err(StoreError::Url(_)) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("the store was not let go");
}

#[tokio::test]
async fn a_reopened_store_knows_everything_it_answered() {
    let fixture = file().await;
    let scene = Scene::of(&fixture, &[5, 5]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0, 1]).await;
    scene.checkpoint(&mut held, outcomes([0], OutcomeKind::Accepted), Vec::new()).await;
    let (record, batches, run) = (scene.record().await, scene.batches().await, scene.run.clone());
    let fixture = reopen(fixture).await;
    let scene = Scene { fixture: &fixture, run };
    assert_eq!((scene.record().await, scene.batches().await), (record, batches));
    scene.confirm().await;
    let answer = scene.checkpoint(&mut held, Vec::new(), vec![2]).await;
    assert_eq!(answer.granted, [2], "the lease goes on");
    assert_ne!(scene.claim_one(2).await.fence, held.fence);
}

#[tokio::test]
async fn nothing_is_taken_nor_retired_before_the_comparison() {
    let fixture = file().await;
    let scene = Scene::of(&fixture, &[1, 2]).await;
    let mut settled = scene.claim_one(1).await;
    scene.intend(&mut settled, &[0]).await;
    scene.finish(&mut settled, outcomes([0], OutcomeKind::Accepted)).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    let request: RequestId = "history".parse().unwrap();
    let claim = ClaimHistory { request: request.clone(), ttl_ms: 1000, limit: 10 };
    let claimed = fixture.store.claim_history(claim).await.unwrap().batches;
    let batches = claimed.iter().map(|batch| (batch.record.id.clone(), batch.stamp)).collect();
    let retire = RetireBatches { request, segment: "segment".to_owned(), batches };
    let run = scene.run.clone();

    let fixture = reopen(fixture).await;
    let scene = Scene { fixture: &fixture, run: run.clone() };
    let before = scene.batches().await;
    assert_eq!(fixture.store.retire_batches(retire.clone()).await.unwrap(), 0);
    let said = outcome(0, OutcomeKind::Accepted);
    let report = || vec![held.same_report(vec![said.clone()], Vec::new())];
    let fact = Fact { batch: held.batch.clone(), fence: held.fence.clone(), outcome: said.clone() };
    let finish = Finish { worker: worker(1), reports: report(), retry_fraction: 0 };
    let release = Release {
        worker: worker(1),
        reports: report(),
        retry_fraction: 0,
        abandon: true,
        doubt_grace_ms: GRACE_MS,
        delay_ms: 0,
    };
    let store = &fixture.store;
    for answer in [
        store.facts(vec![fact.clone()], 0).await.map(drop),
        store.finish(finish).await.map(drop),
        store.release(release).await.map(drop),
        store.cancel_batches(&run, 0, 10).await.map(drop),
        store
            .retry_run(RetryRun { run: run.clone(), key: "again".parse().unwrap(), unknown: true, after: 0, limit: 10 })
            .await
            .map(drop),
    ] {
        assert!(matches!(answer, Err(StoreError::Refusing { .. })), "{answer:?}");
    }
    assert_eq!(scene.batches().await, before);

    // What was refused is refused again when the log is read.
    let fixture = reopen(fixture).await;
    let scene = Scene { fixture: &fixture, run };
    assert_eq!(scene.batches().await, before);
    scene.confirm().await;
    assert_eq!(fixture.store.facts(vec![fact], 0).await.unwrap(), [FactStatus::Applied]);
    assert_eq!(fixture.store.retire_batches(retire).await.unwrap(), 1, "what was claimed is as it was");
}

#[tokio::test]
async fn a_folder_serves_one_process_at_a_time() {
    let fixture = file().await;
    let folder = fixture.folder.path();
    let error = Embedded::open(folder, Arc::new(TestClock::default())).await.unwrap_err().to_string();
    assert!(error.contains("in use by another process"), "{error}");
}

/// A worker that renews for ever without an outcome or a phase of SMTP loses its lease all the same.
#[tokio::test]
async fn a_lease_without_progress_is_not_extended() {
    const TTL_MS: u64 = 60_000;
    let fixture = memory().await;
    let scene = Scene::of(&fixture, &[3]).await;
    let claim = Claim { ttl_ms: TTL_MS, ..scene.claim_call(1, 1, &[("bulk", 10)]) };
    let lease = fixture.store().claim(claim).await.unwrap().leases.remove(0);
    let mut held = Held::of(&lease);
    let mut renew = async |progress: u64| {
        let report = LeaseReport { progress, ..held.report(Vec::new(), Vec::new()) };
        let checkpoint = Checkpoint { ttl_ms: TTL_MS, ..scene.checkpoint_call(vec![report]) };
        fixture.store().checkpoint(checkpoint).await.unwrap().remove(0).ttl_ms
    };
    for _ in 0..TRANSACTION_MS_MAX / (TTL_MS / 2) {
        fixture.pass(TTL_MS / 2).await;
        assert_eq!(renew(0).await, TTL_MS);
    }
    assert_eq!(renew(1).await, TTL_MS, "a phase of SMTP is progress");
    for _ in 0..TRANSACTION_MS_MAX / (TTL_MS / 2) {
        fixture.pass(TTL_MS / 2).await;
        assert_eq!(renew(1).await, TTL_MS);
    }
    fixture.pass(TTL_MS / 2).await;
    assert_eq!(renew(1).await, TTL_MS / 2, "it runs out");
    assert_eq!(scene.expire().await.leases, 0);
    fixture.pass(TTL_MS / 2).await;
    assert_eq!(scene.expire().await.leases, 1);
}

/// Against itself: shows that the comparison asks for nothing that time alone decides.
#[tokio::test]
async fn random_calls_agree_with_the_model() {
    let mut reached = postrider_store::conformance::random::Reached::default();
    for seed in 0..40 {
        postrider_store::conformance::random::compare(&memory().await, seed, 400, &mut reached).await;
    }
    println!("{reached:?}");
    assert!(reached.is_everything(), "the calls do not reach everything: {reached:?}");
}

#[tokio::test]
async fn an_old_file_put_back_is_noticed_by_the_mark() {
    let clock: Arc<dyn postrider_common::Clock> = Arc::new(postrider_common::SystemClock::default());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.redb");
    let open = async || {
        for _ in 0..1000 {
            match Embedded::open(folder.path(), clock.clone()).await {
                Ok(store) => return store,
                Err(StoreError::Url(_)) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                Err(other) => panic!("{other}"),
            }
        }
        panic!("the store was not let go")
    };
    let compare = async |store: &Embedded, marks: &Marks| {
        store.compare(Compare { marks: marks.clone(), confirm: true }).await.unwrap()[0]
    };
    let store = open().await;
    assert_eq!(compare(&store, &store.seen()).await.found, Found::Confirmed);
    store.create_run(new_run("kept")).await.unwrap();
    drop(store);
    let is_free = || std::fs::File::open(&file).unwrap().try_lock().is_ok();
    let closed = async || {
        for _ in 0..1000 {
            if is_free() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("the file was not let go")
    };
    closed().await;
    std::fs::copy(&file, folder.path().join("copy")).unwrap();
    let store = open().await;
    assert_eq!(compare(&store, &store.seen()).await.found, Found::Confirmed, "the same file in another process");
    store.create_run(new_run("lost")).await.unwrap();
    let marks = store.seen();
    drop(store);
    let store = open().await;
    assert_eq!(compare(&store, &marks).await.found, Found::Confirmed, "whole");
    let marks = store.seen();
    drop(store);
    closed().await;
    std::fs::copy(folder.path().join("copy"), &file).unwrap();
    let store = open().await;
    let compared = compare(&store, &marks).await;
    assert!(matches!(compared.found, Found::WentBack { .. }) && compared.is_stopped, "{compared:?}");
    assert!(store.run(&new_run("lost").id).await.unwrap().is_none() && store.seen().iter().any(|m| m.epoch > 2));
}

/// An erasure ends with a file in which nothing is left of what was written to it before, in records or in pages that
/// are free.
#[tokio::test]
async fn the_end_of_an_erasure_leaves_nothing_in_the_file() {
    const SECRET: &[u8] = b"somebody@example.com";
    let fixture = file().await;
    let path = fixture.folder.path().join("store.redb");
    let is_there = || std::fs::read(&path).unwrap().windows(SECRET.len()).any(|bytes| bytes == SECRET);
    let new = postrider_store::NewRun { audience: SECRET.repeat(1000), ..new_run("one") };
    let scene = Scene::with(&fixture, new.clone(), &[2]).await;
    let write = |version, open, body: &[u8]| WriteErasure {
        id: "0123456789abcdef0123456789abcdef".parse().unwrap(),
        version,
        by: format!("by-{version}").parse().unwrap(),
        takes: false,
        hold_ms: 0,
        open,
        body: body.to_vec(),
    };
    let store = fixture.store();
    assert_eq!(store.write_erasure(write(0, true, SECRET)).await.unwrap(), Some(1));
    let audience = Some(postrider_store::Replace { from: new.audience, to: b"blank".to_vec() });
    store.erase_run(postrider_store::EraseRun { run: scene.run.clone(), audience, open: None }).await.unwrap();
    assert!(is_there(), "in its records");
    assert_eq!(store.write_erasure(write(1, false, b"done")).await.unwrap(), Some(2));
    assert!(!is_there());
    // It goes on in the new file, and is all there when it is opened again.
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    let (record, batches, run) = (scene.record().await, scene.batches().await, scene.run.clone());
    drop(store);
    let fixture = reopen(fixture).await;
    let scene = Scene { fixture: &fixture, run };
    assert_eq!((scene.record().await, scene.batches().await), (record, batches));
    let names: Vec<_> =
        std::fs::read_dir(fixture.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["store.redb"]);
}
