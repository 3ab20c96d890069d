use super::*;
use crate::schedule::Zones;
use async_trait::async_trait;
use postrider_common::campaign::{Audience, AudienceFormat, Campaign, OnBadRow, OnUnknown, Source};
use postrider_common::ids::{DefinitionHash, LaneName, RunId};
use postrider_common::lease::OutcomeKind;
use postrider_common::{Clock, SystemClock};
use postrider_store::conformance::Fixture;
use postrider_store::conformance::scene::Scene;
use postrider_store::conformance::scene::new_run;
use postrider_store::embedded::Embedded;
use postrider_store::{ApplyCampaign, ClaimHistory, ForgetRun, ForgottenRun, NewRun, RetireBatches, Shared, Store};
use std::fs::File;
use std::path::{Path, PathBuf};

const TWO_DAYS: Duration = Duration::from_hours(48);

struct World {
    store: Arc<dyn Store>,
    folder: tempfile::TempDir,
    duty: SweepDuty,
}

#[async_trait]
impl Fixture for World {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }
    async fn pass(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

fn world() -> World {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory(Arc::clone(&clock)));
    let folder = tempfile::tempdir().expect("a folder");
    let core = Core::for_tests(folder.path(), Arc::clone(&store), clock, Zones::bundled());
    World { store, folder, duty: SweepDuty::new(Arc::new(core), Config::default()) }
}

impl World {
    /// Settles a run of two batches and retires them into a segment of that name.
    async fn retire(&self, name: &str) {
        let scene = Scene::of(self, &[2, 2]).await;
        for mut held in scene.claim(1, 2).await {
            scene.send_all(&mut held, OutcomeKind::Accepted).await;
        }
        let request: postrider_common::RequestId = "r".parse().expect("a request");
        let claim = ClaimHistory { request: request.clone(), ttl_ms: 1000, limit: 10 };
        let settled = self.store.claim_history(claim).await.expect("claims").batches;
        assert_eq!(settled.len(), 2);
        self.write(name).await;
        let batches = settled.into_iter().map(|batch| (batch.record.id, batch.stamp)).collect();
        let retire = RetireBatches { request, segment: name.to_owned(), batches };
        assert_eq!(self.store.retire_batches(retire).await.expect("retires"), 2);
    }

    async fn write(&self, name: &str) {
        self.duty.core.storage.write_segment(name, b"segment".to_vec()).await.expect("writes");
    }

    async fn is_there(&self, name: &str) -> bool {
        self.duty.core.storage.read_segment(name).await.expect("reads").is_some()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn segment(&self, name: &str) -> PathBuf {
        self.path(&format!("history/{}/{name}.ndjson.zst", &name[..2]))
    }

    fn put(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, "half").expect("writes");
        path
    }
}

fn age(path: &Path) {
    let file = File::options().write(true).open(path).expect("is there");
    let written = file.metadata().and_then(|data| data.modified()).expect("a time");
    file.set_modified(written - TWO_DAYS).expect("is set");
}

#[tokio::test]
async fn what_crashes_left_is_removed_and_nothing_else() {
    let world = world();
    world.retire("aanamed").await;
    for name in ["aaorphan", "bborphan", "aayoung"] {
        world.write(name).await;
    }
    let left = ["uploads/dead", "uploads/dead#1", "history/aa/cut.ndjson.zst#2", "audiences/cut#1"];
    let young = ["uploads/young", "uploads/young#1"];
    let kept = ["audiences/0123", "uploads/young", "uploads/young#1"];
    left.iter().for_each(|name| age(&world.put(name)));
    young.iter().for_each(|name| drop(world.put(name)));
    age(&world.put("audiences/0123"));
    for name in ["aanamed", "aaorphan", "bborphan"] {
        age(&world.segment(name));
    }
    let counts = world.duty.run_once().await.expect("sweeps");
    assert_eq!(counts, Counts { uploads: 4, segments: 2, named: 1, ..Counts::default() });
    assert!(left.iter().all(|name| !world.path(name).exists()));
    assert!(kept.iter().all(|name| world.path(name).exists()));
    assert!(world.is_there("aanamed").await && world.is_there("aayoung").await);
    assert!(!world.is_there("aaorphan").await && !world.is_there("bborphan").await);
    assert_eq!(world.duty.run_once().await.expect("sweeps"), Counts { named: 1, ..Counts::default() });
}

/// However many they are, and when no run is left at all.
#[tokio::test]
async fn what_a_forgotten_run_left_is_removed_once_it_is_old() {
    let world = world();
    world.retire("aaleft").await;
    let run = world.store.runs(None, 1).await.expect("runs").remove(0).id;
    let forget = ForgetRun { run, keep_ms: 0, keep_dead_ms: None, limit: 1 };
    assert_eq!(
        world.store.forget_run(forget.clone()).await.expect("forgets"),
        ForgottenRun::Step { batches: 1, left: 1 }
    );
    // The batch that is left does not keep it: nobody can ask for it any more.
    assert_eq!(world.duty.run_once().await.expect("sweeps"), Counts::default());
    assert!(world.is_there("aaleft").await, "it is young");
    assert_eq!(world.store.forget_run(forget).await.expect("forgets"), ForgottenRun::Step { batches: 1, left: 0 });
    age(&world.segment("aaleft"));
    let counts = world.duty.run_once().await.expect("sweeps");
    assert_eq!(counts, Counts { segments: 1, ..Counts::default() });
    assert!(!world.is_there("aaleft").await);
    assert_eq!(world.store.left_segments(10).await.expect("left"), []);
    assert_eq!(world.duty.run_once().await.expect("sweeps"), Counts::default());
}

#[tokio::test]
async fn a_segment_that_another_run_names_stays() {
    let world = world();
    world.retire("aashared").await;
    let first = world.store.runs(None, 1).await.expect("runs").remove(0).id;
    let scene = Scene::with(&world, new_run("two"), &[1]).await;
    let mut held = scene.claim_one(1).await;
    scene.send_all(&mut held, OutcomeKind::Accepted).await;
    let request: postrider_common::RequestId = "again".parse().expect("a request");
    let claim = ClaimHistory { request: request.clone(), ttl_ms: 1000, limit: 10 };
    let settled = world.store.claim_history(claim).await.expect("claims").batches;
    let batches = settled.into_iter().map(|batch| (batch.record.id, batch.stamp)).collect();
    let retire = RetireBatches { request, segment: "aashared".into(), batches };
    assert_eq!(world.store.retire_batches(retire).await.expect("retires"), 1);
    age(&world.segment("aashared"));
    let forget = |run: RunId| ForgetRun { run, keep_ms: 0, keep_dead_ms: None, limit: 10 };
    world.store.forget_run(forget(first)).await.expect("forgets");
    assert_eq!(world.duty.run_once().await.expect("sweeps"), Counts { named: 1, ..Counts::default() });
    assert_eq!(world.store.left_segments(10).await.expect("left"), [], "whoever names it leaves it again");
    world.store.forget_run(forget(scene.run)).await.expect("forgets");
    assert_eq!(world.duty.run_once().await.expect("sweeps"), Counts { segments: 1, ..Counts::default() });
    assert!(!world.is_there("aashared").await);
}

fn stored(sha256: &str) -> Audience {
    let source = Source::Stored { sha256: sha256.into(), format: AudienceFormat::Csv };
    Audience::of(source, "email")
}

/// A run of that audience, with a definition of its own.
fn run_of(name: &str, sha256: &str) -> NewRun {
    let plan = crate::split::Plan {
        audience: stored(sha256),
        on_bad_row: OnBadRow::Skip,
        local: None,
        windows: Default::default(),
        campaign_version: 1,
        list: None,
    };
    NewRun { audience: plan.encode().expect("encodes"), ..new_run(name) }
}

#[tokio::test]
async fn audiences_and_definitions_that_nobody_names_are_removed() {
    const AUDIENCES: [char; 4] = ['a', 'b', 'c', 'd'];
    let [of_campaign, of_run, of_nobody, strange] = AUDIENCES.map(|letter| letter.to_string().repeat(64));
    let mut world = world();
    world.duty.config.age = Duration::ZERO;
    let store = Arc::clone(&world.store);
    let campaign = Campaign {
        name: "news".parse().expect("a name"),
        lane: LaneName::bulk(),
        on_unknown: OnUnknown::Resend,
        on_bad_row: OnBadRow::Skip,
        schedule: None,
        send_at_local: None,
        audience: Some(stored(&of_campaign)),
        message: Default::default(),
        notify_url: String::new(),
    };
    let spec = crate::campaign::encode(&campaign);
    let definition_bytes = b"definition of news".to_vec();
    let apply = ApplyCampaign {
        name: campaign.name.clone(),
        key: None,
        fingerprint: "f".into(),
        spec,
        schedule: Vec::new(),
        definition: DefinitionHash::of(&definition_bytes),
        definition_bytes,
    };
    store.apply_campaign(apply).await.expect("applies");
    let run = run_of("one", &of_run);
    store.create_run(run.clone()).await.expect("creates");
    for sha256 in [&of_campaign, &of_run, &of_nobody] {
        world.put(&format!("audiences/{sha256}"));
        store.keep(vec![Shared::Audience(sha256.clone())]).await.expect("keeps");
    }
    // Of which this store knows nothing.
    world.put(&format!("audiences/{strange}"));
    world.pass(5).await;
    let there = |world: &World| {
        AUDIENCES.map(|letter| world.path(&format!("audiences/{}", letter.to_string().repeat(64))).exists())
    };
    let counts = world.duty.run_once().await.expect("sweeps");
    assert_eq!(counts, Counts { audiences: 1, ..Counts::default() });
    assert_eq!(there(&world), [true, true, false, true]);

    store.cancel_run(&run.id).await.expect("cancels");
    store.cancel_batches(&run.id, 0, 10).await.expect("converts");
    let forget = ForgetRun { run: run.id.clone(), keep_ms: 0, keep_dead_ms: None, limit: 10 };
    assert_eq!(store.forget_run(forget).await.expect("forgets"), ForgottenRun::Step { batches: 0, left: 0 });
    store.delete_campaign(&campaign.name).await.expect("deletes");
    // A run whose plan cannot be read may name anything: definitions go, audiences stay.
    let sealed = new_run("sealed");
    store.create_run(sealed.clone()).await.expect("creates");
    world.pass(5).await;
    let counts = world.duty.run_once().await.expect("sweeps");
    assert_eq!(counts, Counts { definitions: 2, ..Counts::default() });
    assert_eq!(there(&world), [true, true, false, true]);
    assert!(store.definition(&run.definition).await.expect("looks").is_none());
    assert!(store.definition(&sealed.definition).await.expect("looks").is_some());

    store.cancel_run(&sealed.id).await.expect("cancels");
    store.cancel_batches(&sealed.id, 0, 10).await.expect("converts");
    let forget = ForgetRun { run: sealed.id, keep_ms: 0, keep_dead_ms: None, limit: 10 };
    store.forget_run(forget).await.expect("forgets");
    world.pass(5).await;
    let counts = world.duty.run_once().await.expect("sweeps");
    assert_eq!(counts, Counts { audiences: 2, definitions: 1, ..Counts::default() });
    assert_eq!(there(&world), [false, false, false, true]);
}

#[tokio::test]
async fn the_storage_of_another_store_is_left_alone() {
    let world = world();
    world.write("aaorphan").await;
    age(&world.segment("aaorphan"));
    let error = world.duty.run_once().await.expect_err("no run names anything").to_string();
    assert!(error.contains("no run names 1 of 1 old segments") && error.contains("another store"), "{error}");
    world.retire("aanamed").await;
    age(&world.segment("aanamed"));
    let orphans: Vec<String> = (0..ORPHANS_PLAUSIBLE).map(|n| format!("bb{n}")).collect();
    for name in &orphans {
        world.write(name).await;
        age(&world.segment(name));
    }
    assert!(matches!(world.duty.run_once().await, Err(SweepError::Implausible { orphans: 11, old: 12 })));
    assert!(world.is_there("aaorphan").await && world.is_there("bb0").await);
}
