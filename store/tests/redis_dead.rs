//! Dead letters that only a server can have: batches whose keys are damaged. Replay sends what can be read again, purge
//! ends what cannot.

#![expect(clippy::unwrap_used, reason = "a case that cannot reach its server has failed")]

mod redis_server;

use async_trait::async_trait;
use postrider_common::OutcomeKind;
use postrider_common::ids::DeadId;
use postrider_common::run::RunState;
use postrider_common::state::RecipientState;
use postrider_store::conformance::Fixture;
use postrider_store::conformance::scene::{Scene, TTL_MS, outcomes};
use postrider_store::redis::Redis;
use postrider_store::{BatchState, DeadAnswer, Reclaim, ReplayDead, Store};
use redis_server::Server;
use std::sync::Arc;
use std::time::Duration;

struct Damaged {
    store: Arc<Redis>,
    server: Server,
}

#[async_trait]
impl Fixture for Damaged {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn pass(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

async fn damaged() -> Damaged {
    let server = Server::start();
    Damaged { store: Arc::new(server.store().await), server }
}

async fn letter(scene: &Scene<'_, Damaged>) -> DeadId {
    let letters = scene.fixture.store.dead_letters(Some(&scene.run), None, 10).await.unwrap();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(letters[0].at_ms > 0 && !letters[0].reason.is_empty());
    letters[0].id.clone()
}

async fn replay(scene: &Scene<'_, Damaged>, id: &DeadId) -> DeadAnswer {
    scene.fixture.store.replay_dead(ReplayDead { id: id.clone(), unknown: true }).await.unwrap()
}

#[tokio::test]
async fn a_batch_whose_payload_comes_back_is_sent() {
    let fixture = damaged().await;
    let scene = Scene::of(&fixture, &[2]).await;
    let keys: Vec<String> = fixture.server.command(&["KEYS", "postrider:{s0}:p:*"]);
    fixture.server.command::<()>(&["RENAME", &keys[0], "elsewhere"]);
    assert!(scene.claim(1, 1).await.is_empty());
    let id = letter(&scene).await;
    assert_eq!(replay(&scene, &id).await, DeadAnswer::Unreadable, "nothing could be sent");
    fixture.server.command::<()>(&["RENAME", "elsewhere", &keys[0]]);
    assert_eq!(replay(&scene, &id).await, DeadAnswer::Done { recipients: 2 });
    scene.check().await;
    let mut held = scene.claim_one(1).await;
    scene.send_all(&mut held, OutcomeKind::Accepted).await;
    assert_eq!(scene.record().await.state(), RunState::Finished);
}

/// Leased with one in intent, one accepted and one not begun, and then broken; taken back.
async fn broken<'a>(fixture: &'a Damaged, harm: &[&str]) -> (Scene<'a, Damaged>, DeadId) {
    let scene = Scene::of(fixture, &[3]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0, 1]).await;
    scene.checkpoint(&mut held, outcomes([1], OutcomeKind::Accepted), Vec::new()).await;
    let hash = format!("postrider:{{s0}}:o:{}", held.batch);
    let harm: Vec<&str> = harm.iter().map(|word| if *word == "HASH" { hash.as_str() } else { *word }).collect();
    fixture.server.command::<i64>(&harm);
    fixture.pass(TTL_MS + 1).await;
    let reclaim = Reclaim { limit: 10, ttl_ms: 1, doubt_grace_ms: 1, outage_gap_ms: 3_600_000 };
    assert_eq!(fixture.store.reclaim(reclaim).await.unwrap().repaired, 1);
    let id = letter(&scene).await;
    (scene, id)
}

#[tokio::test]
async fn a_batch_with_a_broken_record_is_given_up_without_a_lie() {
    let fixture = damaged().await;
    let (scene, id) = broken(&fixture, &["HSET", "HASH", "g!", "x", "g\"", "x", "g#", "x"]).await;
    assert_eq!(replay(&scene, &id).await, DeadAnswer::Unreadable, "who knows whether they were sent");
    assert_eq!(fixture.store.purge_dead(&id).await.unwrap(), DeadAnswer::Done { recipients: 2 });
    scene.check().await;
    let batch = scene.batches().await.remove(0);
    assert_eq!(batch.state, BatchState::Settled);
    let states: Vec<RecipientState> = batch.recipients.iter().map(|recipient| recipient.state).collect();
    let (unknown, accepted) = (RecipientState::Unknown, RecipientState::Accepted);
    assert_eq!(states[..2], [unknown, accepted], "it may have been sent; the other was");
    assert_eq!(states[2], RecipientState::Exhausted, "nothing was begun with it");
    assert_eq!(scene.record().await.state(), RunState::Finished);
    assert!(fixture.store.dead_letters(None, None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_batch_without_states_stays_listed() {
    let fixture = damaged().await;
    let (scene, id) = broken(&fixture, &["DEL", "HASH"]).await;
    assert_eq!(replay(&scene, &id).await, DeadAnswer::Unreadable);
    assert_eq!(fixture.store.purge_dead(&id).await.unwrap(), DeadAnswer::Unreadable);
    assert_eq!(letter(&scene).await, id);
    let record = scene.record().await;
    assert_eq!((record.batches.dead, record.recipients.pending, record.recipients.accepted), (1, 2, 1));
}
