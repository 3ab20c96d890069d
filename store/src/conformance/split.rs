//! Campaigns, runs and their split.

use super::Fixture;
use super::scene::{Scene, TTL_MS, new_run, request};
use crate::api::{
    AddBatches, AppliedCampaign, ApplyCampaign, BadRow, ClaimSplit, CreatedRun, ReleaseSplit, SplitStatus, Steered,
};
use postrider_common::ids::{CampaignName, DefinitionHash};
use postrider_common::limits::APPLY_KEYS_KEPT_MAX;
use postrider_common::run::{RunError, RunState};

pub fn campaign(name: &str, spec: &str) -> ApplyCampaign {
    ApplyCampaign {
        name: name.parse().expect("a name"),
        key: None,
        fingerprint: DefinitionHash::of(spec.as_bytes()).to_string(),
        spec: spec.as_bytes().to_vec(),
        schedule: Vec::new(),
        definition: DefinitionHash::of(spec.as_bytes()),
        definition_bytes: spec.as_bytes().to_vec(),
    }
}

pub async fn apply_campaign_counts_versions_and_keeps_pause(fixture: &impl Fixture) {
    let store = fixture.store();
    let name: CampaignName = "digest".parse().unwrap();
    assert_eq!(store.campaign(&name).await.unwrap(), None);
    assert!(!store.set_campaign_paused(&name, true).await.unwrap());
    let apply = |spec: &str| store.apply_campaign(campaign("digest", spec));
    let applied = |version, changed| AppliedCampaign::Applied { version, changed };
    assert_eq!(apply("a").await.unwrap(), applied(1, true));
    assert_eq!(apply("a").await.unwrap(), applied(1, false));
    assert!(store.set_campaign_paused(&name, true).await.unwrap());
    assert_eq!(apply("b").await.unwrap(), applied(2, true));
    let record = store.campaign(&name).await.unwrap().unwrap();
    assert!(record.paused && record.spec == b"b" && record.applied_at_ms > 0);
    assert_eq!(store.definition(&DefinitionHash::of(b"a")).await.unwrap().as_deref(), Some(b"a".as_slice()));
    store.apply_campaign(campaign("another", "c")).await.unwrap();
    let names =
        |records: Vec<crate::CampaignRecord>| records.into_iter().map(|r| r.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(store.campaigns(None, 10).await.unwrap()), ["another", "digest"]);
    assert_eq!(names(store.campaigns(Some(&"another".parse().unwrap()), 10).await.unwrap()), ["digest"]);
    assert!(store.delete_campaign(&name).await.unwrap());
    assert!(!store.delete_campaign(&name).await.unwrap());
    assert_eq!(store.campaign(&name).await.unwrap(), None);
}

pub async fn apply_campaign_repeated_by_key_does_not_go_back(fixture: &impl Fixture) {
    let store = fixture.store();
    let keyed = |key: &str, spec: &str| ApplyCampaign { key: Some(key.parse().unwrap()), ..campaign("digest", spec) };
    let applied = |version, changed| AppliedCampaign::Applied { version, changed };
    assert_eq!(store.apply_campaign(keyed("one", "a")).await.unwrap(), applied(1, true));
    assert_eq!(store.apply_campaign(keyed("two", "b")).await.unwrap(), applied(2, true));
    assert_eq!(store.apply_campaign(keyed("one", "a")).await.unwrap(), applied(1, true), "a late repeat");
    assert_eq!(store.apply_campaign(keyed("one", "c")).await.unwrap(), AppliedCampaign::Conflict);
    let record = store.campaign(&"digest".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((record.version, record.spec.as_slice()), (2, b"b".as_slice()));
    for number in 0..APPLY_KEYS_KEPT_MAX {
        store.apply_campaign(keyed(&format!("more-{number}"), "b")).await.unwrap();
    }
    assert_eq!(
        store.apply_campaign(keyed("one", "a")).await.unwrap(),
        applied(3, true),
        "keys are forgotten in the end"
    );
}

pub async fn create_run_is_one_run_per_submit(fixture: &impl Fixture) {
    let store = fixture.store();
    let new = new_run("one");
    assert_eq!(store.create_run(new.clone()).await.unwrap(), CreatedRun::Created);
    assert_eq!(store.create_run(new.clone()).await.unwrap(), CreatedRun::Existed);
    let other = crate::NewRun { fingerprint: "another".to_owned(), ..new.clone() };
    assert_eq!(store.create_run(other).await.unwrap(), CreatedRun::Conflict);
    let record = store.run(&new.id).await.unwrap().unwrap();
    assert_eq!(record.state(), RunState::Scheduled);
    assert_eq!(record.nominal_at_ms, record.created_at_ms);
    assert_eq!((record.audience, record.lane, record.retry), (new.audience, new.lane, new.retry));
    assert!(store.definition(&new.definition).await.unwrap().is_some());
    assert_eq!(store.run(&new_run("none").id).await.unwrap(), None);
}

pub async fn create_run_needs_its_campaign(fixture: &impl Fixture) {
    let store = fixture.store();
    let new = crate::NewRun { campaign: "digest".to_owned(), requires_campaign: true, ..new_run("one") };
    assert_eq!(store.create_run(new.clone()).await.unwrap(), CreatedRun::NoCampaign);
    store.apply_campaign(campaign("digest", "a")).await.unwrap();
    store.set_campaign_paused(&"digest".parse().unwrap(), true).await.unwrap();
    assert_eq!(store.create_run(new.clone()).await.unwrap(), CreatedRun::CampaignPaused);
    store.set_campaign_paused(&"digest".parse().unwrap(), false).await.unwrap();
    assert_eq!(store.create_run(new.clone()).await.unwrap(), CreatedRun::Created);
    store.delete_campaign(&"digest".parse().unwrap()).await.unwrap();
    assert_eq!(store.create_run(new).await.unwrap(), CreatedRun::Existed, "a repeat answers what the first did");
}

pub async fn claim_split_is_a_lease_that_comes_back(fixture: &impl Fixture) {
    let new = new_run("one");
    let scene = Scene { fixture, run: new.id.clone() };
    assert_eq!(scene.claim_split().await, None);
    fixture.store().create_run(new).await.unwrap();
    let first = scene.claim_split().await.expect("due at once");
    assert!(first.ttl_ms <= TTL_MS && first.ttl_ms > 0);
    assert_eq!((first.cursor, first.sequence_max, first.open.len()), (0, 0, 0));
    assert_eq!(scene.record().await.state(), RunState::Splitting);
    assert_eq!(scene.claim_split().await, None, "it is leased");
    fixture.pass(TTL_MS + 1).await;
    let second = scene.claim_split().await.expect("the first lease expired");
    assert_ne!(first.fence, second.fence);
    let late = scene.add(&first, &[3], 3, false);
    assert_eq!(fixture.store().add_batches(late).await.unwrap(), SplitStatus::Lost);
    assert_eq!(scene.record().await.recipients.total, 0);
}

pub async fn claim_split_repeated_is_the_same_lease(fixture: &impl Fixture) {
    let new = new_run("one");
    fixture.store().create_run(new).await.unwrap();
    fixture.store().create_run(new_run("two")).await.unwrap();
    let (request, nonce) = request();
    let claim = ClaimSplit { request, nonce, ttl_ms: 60_000 };
    let first = fixture.store().claim_split(claim.clone()).await.unwrap().unwrap();
    let again = fixture.store().claim_split(claim).await.unwrap().unwrap();
    assert_eq!((first.run, first.fence), (again.run, again.fence));
}

pub async fn add_batches_moves_the_cursor_once(fixture: &impl Fixture) {
    let store = fixture.store();
    let new = new_run("one");
    let scene = Scene { fixture, run: new.id.clone() };
    store.create_run(new).await.unwrap();
    let lease = scene.claim_split().await.unwrap();
    let add = scene.add(&lease, &[100, 7], 120, false);
    assert_eq!(store.add_batches(add.clone()).await.unwrap(), SplitStatus::Done);
    assert_eq!(store.add_batches(add.clone()).await.unwrap(), SplitStatus::Done, "a repeat");
    scene.check().await;
    let record = scene.record().await;
    assert_eq!((record.recipients.total, record.recipients.pending, record.batches.ready), (107, 107, 2));
    assert_eq!((record.sequence_max, record.split_complete), (2, false));
    let skipping = AddBatches { cursor: 119, cursor_next: 130, ..scene.add(&lease, &[1], 0, false) };
    assert_eq!(store.add_batches(skipping).await.unwrap(), SplitStatus::Lost, "another cursor");
    let reviving = AddBatches { cursor: 120, cursor_next: 130, ..scene.add(&lease, &[1], 0, false) };
    assert_eq!(store.add_batches(reviving).await.unwrap(), SplitStatus::Lost, "a sequence that was used");
    fixture.pass(TTL_MS + 1).await;
    let next = scene.claim_split().await.expect("the lease expired");
    assert_eq!((next.cursor, next.sequence_max, next.open.as_slice()), (120, 2, b"open".as_slice()));
    let last = scene.add(&next, &[5], 5, true);
    assert_eq!(store.add_batches(last.clone()).await.unwrap(), SplitStatus::Done);
    assert_eq!(store.add_batches(last).await.unwrap(), SplitStatus::Done, "a repeat of the last");
    let record = scene.record().await;
    assert!(record.split_complete && record.recipients.total == 112 && record.state() == RunState::Sending);
    fixture.pass(TTL_MS + 1).await;
    assert_eq!(scene.claim_split().await, None, "a complete split is never due");
    let batches = scene.batches().await;
    assert_eq!(batches.iter().map(|batch| batch.id.sequence).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(batches[1].payload, b"payload 1");
    assert_eq!(store.batches(&scene.run, 1, 1).await.unwrap()[0].id.sequence, 2);
}

pub async fn add_batches_of_a_stale_splitter_is_refused(fixture: &impl Fixture) {
    let store = fixture.store();
    let new = new_run("one");
    let scene = Scene { fixture, run: new.id.clone() };
    store.create_run(new).await.unwrap();
    let stale = scene.claim_split().await.unwrap();
    fixture.pass(TTL_MS + 1).await;
    let current = scene.claim_split().await.unwrap();
    assert_eq!(store.add_batches(scene.add(&current, &[2], 2, false)).await.unwrap(), SplitStatus::Done);
    assert_eq!(store.add_batches(scene.add(&stale, &[9], 9, false)).await.unwrap(), SplitStatus::Lost);
    let release = ReleaseSplit { run: scene.run.clone(), fence: stale.fence, delay_ms: 0, error: None };
    assert_eq!(store.release_split(release).await.unwrap(), SplitStatus::Lost);
    let record = scene.record().await;
    assert_eq!((record.recipients.total, record.batches.ready), (2, 1));
    assert_eq!(scene.batches().await[0].payload, b"payload 0");
    scene.check().await;
}

pub async fn add_batches_of_a_cancelled_run_is_refused(fixture: &impl Fixture) {
    let store = fixture.store();
    let new = new_run("one");
    let scene = Scene { fixture, run: new.id.clone() };
    store.create_run(new).await.unwrap();
    let lease = scene.claim_split().await.unwrap();
    assert_eq!(store.cancel_run(&scene.run).await.unwrap(), Steered::Done);
    assert_eq!(store.add_batches(scene.add(&lease, &[2], 2, false)).await.unwrap(), SplitStatus::Stopped);
    let record = scene.record().await;
    assert_eq!((record.state(), record.recipients.total), (RunState::Cancelled, 0));
    assert!(record.finished_at_ms().is_some());
    fixture.pass(TTL_MS + 1).await;
    assert_eq!(scene.claim_split().await, None);
}

pub async fn add_batches_of_nothing_finishes_an_empty_run(fixture: &impl Fixture) {
    let store = fixture.store();
    let new = new_run("one");
    let scene = Scene { fixture, run: new.id.clone() };
    store.create_run(new).await.unwrap();
    let lease = scene.claim_split().await.unwrap();
    let add = AddBatches { bad_rows: 4, repeated_rows: 1, ..scene.add(&lease, &[], 0, true) };
    assert_eq!(store.add_batches(add).await.unwrap(), SplitStatus::Done);
    let record = scene.record().await;
    assert_eq!((record.state(), record.bad_rows, record.repeated_rows), (RunState::Finished, 4, 1));
    assert!(record.finished_at_ms().is_some());
}

pub async fn add_batches_without_batches_keeps_the_lease(fixture: &impl Fixture) {
    let store = fixture.store();
    let new = new_run("one");
    let scene = Scene { fixture, run: new.id.clone() };
    store.create_run(new).await.unwrap();
    let lease = scene.claim_split().await.unwrap();
    let alive = AddBatches { ttl_ms: 60_000, ..scene.add(&lease, &[], 0, false) };
    assert_eq!(store.add_batches(alive.clone()).await.unwrap(), SplitStatus::Done);
    fixture.pass(TTL_MS + 1).await;
    assert_eq!(scene.claim_split().await, None, "the sign of life extended the lease");
    assert_eq!(store.add_batches(alive).await.unwrap(), SplitStatus::Done);
}

pub async fn release_split_with_an_error_fails_the_run_until_resumed(fixture: &impl Fixture) {
    let store = fixture.store();
    let new = new_run("one");
    let scene = Scene { fixture, run: new.id.clone() };
    scene.confirm().await;
    store.create_run(new).await.unwrap();
    let lease = scene.claim_split().await.unwrap();
    assert_eq!(store.add_batches(scene.add(&lease, &[3], 3, false)).await.unwrap(), SplitStatus::Done);
    let word = |text: &str| text.to_owned();
    let error = RunError { code: word("audience_gone"), message: word("it is gone"), mend: word("bring it back") };
    let release = ReleaseSplit { run: scene.run.clone(), fence: lease.fence, delay_ms: 0, error: Some(error.clone()) };
    assert_eq!(store.release_split(release.clone()).await.unwrap(), SplitStatus::Done);
    let record = scene.record().await;
    assert_eq!((record.state(), record.error), (RunState::Failed, Some(error)));
    assert_eq!(scene.claim_split().await, None, "nothing is split");
    assert!(scene.claim(1, 5).await.is_empty(), "nothing is sent");
    assert_eq!(store.resume_run(&scene.run).await.unwrap(), Steered::Done);
    let lease = scene.claim_split().await.expect("due again");
    assert_eq!(lease.cursor, 3);
    assert_eq!(scene.record().await.state(), RunState::Splitting);
    assert_eq!(scene.claim(1, 5).await.len(), 1);
    let back = ReleaseSplit { run: scene.run.clone(), fence: lease.fence, delay_ms: 60_000, error: None };
    assert_eq!(store.release_split(back).await.unwrap(), SplitStatus::Done);
    assert_eq!(scene.claim_split().await, None, "it waits");
}

pub async fn bad_rows_are_kept_and_counted(fixture: &impl Fixture) {
    let store = fixture.store();
    let new = new_run("one");
    let scene = Scene { fixture, run: new.id.clone() };
    store.create_run(new).await.unwrap();
    let lease = scene.claim_split().await.unwrap();
    let row = |row| BadRow { row, reason: format!("reason | {row}\nü") };
    let add = AddBatches { bad_rows: 2, bad_row_samples: vec![row(3), row(9)], ..scene.add(&lease, &[1], 10, false) };
    assert_eq!(store.add_batches(add.clone()).await.unwrap(), SplitStatus::Done);
    assert_eq!(store.add_batches(add).await.unwrap(), SplitStatus::Done);
    assert_eq!(store.bad_rows(&scene.run).await.unwrap(), vec![row(3), row(9)]);
    assert_eq!(scene.record().await.bad_rows, 2);
}
