//! A server whose files are put back from an older copy: noticed before anything is leased, healed by who survived.

#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

mod redis_server;

use async_trait::async_trait;
use postrider_common::ids::RequestId;
use postrider_common::lease::{FactStatus, LeaseStatus, OutcomeKind};
use postrider_common::mark::{Mark, Marks};
use postrider_common::state::{RecipientState, UnknownReason};
use postrider_store::conformance::Fixture;
use postrider_store::conformance::scene::{GRACE_MS, Held, Scene, TTL_MS, outcome, outcomes};
use postrider_store::redis::Redis;
use postrider_store::{ClaimHistory, ClaimedHistory, Compare, Compared, Found, RetireBatches, Store};
use redis_server::Server;
use std::sync::Arc;
use std::time::Duration;

struct Master {
    store: Arc<Redis>,
}

#[async_trait]
impl Fixture for Master {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn pass(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

async fn master(server: &Server) -> Master {
    Master { store: Arc::new(server.store().await) }
}

async fn compare(master: &Master, marks: impl IntoIterator<Item = Mark>, confirm: bool) -> Compared {
    let compare = Compare { marks: marks.into_iter().collect(), confirm };
    master.store.compare(compare).await.unwrap()[0]
}

/// What was done after the copy was made, and is gone.
struct Lost {
    copy: tempfile::TempDir,
    marks: Marks,
    /// Who lived through it, and a batch whose worker did not.
    survivor: Held,
    other: Held,
}

/// Two batches of four are leased, one of them before the copy.
async fn lose(server: &Server, master: &Master, scene: &Scene<'_, Master>) -> Lost {
    let mut survivor = scene.claim_one(1).await;
    scene.intend(&mut survivor, &[0]).await;
    let copy = server.copy_files();
    scene.checkpoint(&mut survivor, outcomes([0], OutcomeKind::Accepted), vec![1, 2]).await;
    let mut other = scene.claim_one(2).await;
    scene.intend(&mut other, &[0, 1, 2]).await;
    scene.checkpoint(&mut other, outcomes([0, 1], OutcomeKind::Accepted), Vec::new()).await;
    Lost { copy, marks: master.store.seen(), survivor, other }
}

fn put_back(server: &mut Server, copy: &tempfile::TempDir) {
    server.kill();
    server.put_back(copy);
    server.start_again();
}

#[tokio::test]
async fn a_copy_put_back_is_noticed_by_the_mark_and_healed_by_who_survived() {
    let mut server = Server::start();
    let before = master(&server).await;
    let scene = Scene::of(&before, &[4, 4]).await;
    let run = scene.run.clone();
    let Lost { copy, marks, mut survivor, other } = lose(&server, &before, &scene).await;
    drop(before);
    put_back(&mut server, &copy);

    // No master lived through it: all there is is the mark of the storage.
    let after = master(&server).await;
    let scene = Scene { fixture: &after, run };
    assert!(scene.claim(3, 2).await.is_empty(), "nothing is leased before the marks were compared");
    let compared = compare(&after, Vec::new(), false).await;
    assert_eq!((compared.found, compared.is_stopped), (Found::NewServer, true));
    let compared = compare(&after, marks.iter(), true).await;
    assert!(matches!(compared.found, Found::WentBack { seen, had } if seen.sequence > had), "{compared:?}");
    assert_eq!((compared.rollbacks, compared.is_stopped), (1, true));
    assert!(compared.sign_ms.is_some(), "it can be said when the copy was made");
    assert!(scene.claim(3, 2).await.is_empty());

    // The survivor reports all that it did; the other batch was claimed after the copy and its worker is gone.
    let said =
        vec![outcome(0, OutcomeKind::Accepted), outcome(1, OutcomeKind::Accepted), outcome(2, OutcomeKind::Rejected)];
    let answer = scene.checkpoint(&mut survivor, said, vec![3]).await;
    assert_eq!((answer.status, answer.granted.len()), (LeaseStatus::Lost, 0));
    assert_eq!(scene.reclaim().await.leases, 0);
    after.pass(TTL_MS + GRACE_MS + 1).await;
    scene.reclaim().await;
    let mut again = scene.claim(3, 2).await;
    assert_eq!(again.len(), 2);
    assert!(again.iter().all(|held| held.fence.epoch > survivor.fence.epoch));
    assert_eq!(scene.fact(&other, outcome(2, OutcomeKind::Accepted)).await, FactStatus::Applied, "found at last");
    for held in &mut again {
        let granted = scene.checkpoint(held, Vec::new(), vec![0, 1, 2, 3]).await.granted;
        let wanted: &[u32] = if held.batch == survivor.batch { &[3] } else { &[0, 1, 3] };
        assert_eq!(granted, wanted);
        scene.finish(held, outcomes(granted, OutcomeKind::Accepted)).await;
    }
    let record = scene.record().await;
    assert_eq!((record.recipients.accepted, record.recipients.rejected, record.recipients.pending), (7, 1, 0));
    assert_eq!(record.resent_outcome_not_recorded, 4, "three of the dead, and one who was waiting");
    for index in [0, 1] {
        let twice = scene.delivery(&other, index).await;
        assert_eq!((twice.state, twice.reason), (RecipientState::Accepted, Some(UnknownReason::OutcomeNotRecorded)));
    }
}

#[tokio::test]
async fn a_master_that_lives_through_it_needs_no_mark() {
    let mut server = Server::start();
    let master = master(&server).await;
    let scene = Scene::of(&master, &[4, 4]).await;
    let lost = lose(&server, &master, &scene).await;
    put_back(&mut server, &lost.copy);
    assert!(scene.claim(3, 2).await.is_empty());
    let compared = compare(&master, master.store.seen().iter(), false).await;
    assert!(matches!(compared.found, Found::WentBack { .. }), "a proof needs no confirmation: {compared:?}");
}

#[tokio::test]
async fn reports_wait_for_the_comparison_and_then_carry_a_reason() {
    let mut server = Server::start();
    let master = master(&server).await;
    let scene = Scene::of(&master, &[4, 4]).await;
    let Lost { copy, marks, mut survivor, other } = lose(&server, &master, &scene).await;
    put_back(&mut server, &copy);
    let said = outcomes([0], OutcomeKind::Accepted);
    let report = scene.checkpoint(&mut survivor, said, Vec::new());
    let fact = scene.fact(&other, outcome(1, OutcomeKind::Accepted));
    let (answer, status, compared) = tokio::join!(report, fact, compare(&master, marks.iter(), false));
    assert!(matches!(compared.found, Found::WentBack { .. }), "{compared:?}");
    assert_eq!((answer.status, status), (LeaseStatus::Lost, FactStatus::Applied));
    for (held, index) in [(&survivor, 0), (&other, 1)] {
        let known = scene.delivery(held, index).await;
        // Its lease may have been lost to another one, and somebody else sent it.
        assert_eq!((known.state, known.reason), (RecipientState::Accepted, Some(UnknownReason::OutcomeNotRecorded)));
    }
}

#[tokio::test]
async fn history_of_what_was_lost_is_not_taken_for_that_of_what_is() {
    let mut server = Server::start();
    let master = master(&server).await;
    let scene = Scene::of(&master, &[1]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    let copy = server.copy_files();
    let claim = |request: &RequestId| ClaimHistory { request: request.clone(), ttl_ms: 60_000, limit: 10 };
    let retire = async |request: &RequestId, claimed: &ClaimedHistory| {
        let batches = claimed.batches.iter().map(|batch| (batch.record.id.clone(), batch.stamp)).collect();
        let retire = RetireBatches { request: request.clone(), segment: request.to_string(), batches };
        master.store.retire_batches(retire).await.unwrap()
    };
    let finish = async |held: &mut Held, kind| {
        assert_eq!(scene.finish(held, outcomes([0], kind)).await.status, LeaseStatus::Settled);
    };
    finish(&mut held.clone(), OutcomeKind::Rejected).await;
    let lost: RequestId = "lost".parse().unwrap();
    let of_lost = master.store.claim_history(claim(&lost)).await.unwrap();
    put_back(&mut server, &copy);

    // Another master knows nothing of it, and is the first to compare.
    assert_eq!(compare(&master, Vec::new(), true).await.found, Found::Confirmed);
    finish(&mut held, OutcomeKind::Accepted).await;
    assert_eq!(retire(&lost, &of_lost).await, 0, "its stamp is given only once");
    let next: RequestId = "next".parse().unwrap();
    let known = master.store.claim_history(claim(&next)).await.unwrap();
    let copy = server.copy_files();
    put_back(&mut server, &copy);
    assert_eq!(retire(&next, &known).await, 0, "not while it is not known what this server lacks");
    compare(&master, Vec::new(), true).await;
    assert_eq!(retire(&next, &known).await, 1);
}

#[tokio::test]
async fn what_a_worker_saw_proves_it_however_late() {
    let mut server = Server::start();
    let before = master(&server).await;
    let scene = Scene::of(&before, &[4, 4, 1]).await;
    let run = scene.run.clone();
    let lost = lose(&server, &before, &scene).await;
    drop(before);
    put_back(&mut server, &lost.copy);

    // The mark of the storage is a little old, so the server is confirmed, and works on.
    let after = master(&server).await;
    let scene = Scene { fixture: &after, run };
    assert_eq!(compare(&after, Vec::new(), true).await.found, Found::Confirmed);
    let highest = lost.marks.iter().map(|mark| mark.sequence).max().unwrap();
    let mut held = scene.claim_one(3).await;
    while compare(&after, Vec::new(), false).await.mark.sequence <= highest {
        scene.checkpoint(&mut held, Vec::new(), Vec::new()).await;
    }
    let compared = compare(&after, lost.marks.iter(), false).await;
    assert!(matches!(compared.found, Found::WentBack { .. }), "its epoch ended lower: {compared:?}");
    let mut stale = held;
    assert_eq!(scene.checkpoint(&mut stale, Vec::new(), vec![0]).await.status, LeaseStatus::Lost);
}

#[tokio::test]
async fn an_empty_server_is_not_taken_for_the_one_that_was() {
    let mut server = Server::start();
    let before = master(&server).await;
    let scene = Scene::of(&before, &[1]).await;
    scene.claim_one(1).await;
    let marks = before.store.seen();
    drop(before);
    server.command::<()>(&["FLUSHALL"]);
    let after = master(&server).await;
    let compared = compare(&after, marks.iter(), true).await;
    assert!(matches!(compared.found, Found::WentBack { had: 0, .. }), "{compared:?}");
    server.kill();
    server.start_again();
    let compared = compare(&after, after.store.seen().iter(), true).await;
    assert_eq!((compared.found, compared.rollbacks), (Found::Confirmed, 1), "whole since then");
}
