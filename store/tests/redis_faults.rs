//! What only a server can do to a store: forget scripts, die, refuse, be set up wrongly, lose keys.

#![expect(clippy::unwrap_used, reason = "a case that cannot reach its server has failed")]

mod redis_server;

use async_trait::async_trait;
use postrider_common::OutcomeKind;
use postrider_common::lease::LeaseStatus;
use postrider_store::conformance::Fixture;
use postrider_store::conformance::scene::{Scene, new_run, outcomes};
use postrider_store::redis::Redis;
use postrider_store::{BatchState, Durability, Found, SplitStatus, Store, StoreError};
use redis_server::Server;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bound of every wait for something that should happen at once.
const SOON: Duration = Duration::from_secs(10);

struct Fault {
    store: Arc<Redis>,
    server: Server,
}

#[async_trait]
impl Fixture for Fault {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn pass(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

async fn fault() -> Fault {
    let server = Server::start();
    Fault { store: Arc::new(server.store().await), server }
}

fn keys_like(server: &Server, pattern: &str) -> Vec<String> {
    server.command(&["KEYS", pattern])
}

#[tokio::test]
async fn forgotten_scripts_are_loaded_again() {
    let fixture = fault().await;
    let forget = || fixture.server.command::<()>(&["FUNCTION", "FLUSH"]);
    forget();
    let scene = Scene::of(&fixture, &[3]).await;
    forget();
    let mut held = scene.claim_one(1).await;
    forget();
    scene.intend(&mut held, &[0]).await;
    forget();
    // Within MULTI as well.
    let run = new_run("second");
    fixture.store.create_run(run).await.unwrap();
    let lease = scene.claim_split().await.unwrap();
    forget();
    let add = scene.add(&lease, &[2, 2], 10, true);
    assert_eq!(fixture.store.add_batches(add).await.unwrap(), SplitStatus::Done);
    assert_eq!(fixture.store.batches(&lease.run, 0, 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_killed_server_comes_back_with_all_that_was_answered() {
    let mut fixture = fault().await;
    let (record, batches, run, held) = {
        let scene = Scene::of(&fixture, &[5, 5]).await;
        let mut held = scene.claim_one(1).await;
        scene.intend(&mut held, &[0, 1]).await;
        scene.checkpoint(&mut held, outcomes([0], OutcomeKind::Accepted), Vec::new()).await;
        (scene.record().await, scene.batches().await, scene.run.clone(), held)
    };
    fixture.server.kill();
    fixture.server.start_again();
    let scene = Scene { fixture: &fixture, run };
    // The same client: it finds out by itself that its connection is gone.
    assert_eq!((scene.record().await, scene.batches().await), (record, batches));
    let mut held = held;
    assert!(scene.claim(2, 1).await.is_empty(), "nothing is leased before the new server is compared");
    assert_eq!(scene.confirm().await.found, Found::Confirmed);
    let answer = scene.checkpoint(&mut held, outcomes([1], OutcomeKind::Accepted), vec![2]).await;
    assert_eq!((answer.status, answer.granted), (LeaseStatus::Held, vec![2]), "the lease goes on");
    assert_ne!(scene.claim_one(2).await.fence, held.fence);
    assert!(scene.reclaim_after(0).await.held_ms > 0, "nothing is reclaimed just after an outage");
}

#[tokio::test]
async fn acknowledged_checkpoints_survive_kills_without_end() {
    let mut fixture = fault().await;
    let run = Scene::of(&fixture, &[100]).await.run;
    let mut held = Scene { fixture: &fixture, run: run.clone() }.claim_one(1).await;
    for round in 0..5u32 {
        for index in round * 4..round * 4 + 4 {
            let scene = Scene { fixture: &fixture, run: run.clone() };
            scene.intend(&mut held, &[index]).await;
            scene.checkpoint(&mut held, outcomes([index], OutcomeKind::Accepted), Vec::new()).await;
        }
        fixture.server.kill();
        fixture.server.start_again();
        let scene = Scene { fixture: &fixture, run: run.clone() };
        assert_eq!(scene.confirm().await.found, Found::Confirmed, "all that was answered is there");
        assert_eq!(scene.record().await.recipients.accepted, u64::from(round + 1) * 4);
        scene.check().await;
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_an_error_in_time_and_no_more_when_it_is_back() {
    let mut fixture = fault().await;
    fixture.server.kill();
    let begun = Instant::now();
    let error = fixture.store.now_ms().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)) && error.is_retryable(), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(13), "{:?}", begun.elapsed());
    let error = fixture.server.store_with(Durability::Always).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    fixture.server.start_again();
    fixture.store.now_ms().await.unwrap();
}

#[tokio::test]
async fn a_call_waits_for_a_failover_to_end() {
    let fixture = fault().await;
    let scene = Scene::of(&fixture, &[1]).await;
    fixture.server.command::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
    let calls = async { tokio::join!(scene.claim_one(1), fixture.store.runs(None, 10)) };
    let promote = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        fixture.server.command::<()>(&["REPLICAOF", "NO", "ONE"]);
    };
    let ((held, _), ()) = tokio::join!(calls, promote);
    assert_eq!(held.count, 1);
}

#[tokio::test]
async fn a_full_server_refuses_new_work_and_lets_work_drain() {
    let fixture = fault().await;
    let scene = Scene::of(&fixture, &[2]).await;
    let mut held = scene.claim_one(1).await;
    fixture.server.command::<()>(&["CONFIG", "SET", "maxmemory", "1mb"]);
    scene.intend(&mut held, &[0, 1]).await;
    scene.checkpoint(&mut held, outcomes([0, 1], OutcomeKind::Accepted), Vec::new()).await;
    assert_eq!(scene.finish(&mut held, Vec::new()).await.status, LeaseStatus::Settled);
    scene.reclaim().await;
    let error = fixture.store.create_run(new_run("refused")).await.unwrap_err();
    let StoreError::Refusing { message, mend } = &error else { panic!("{error}") };
    assert!(message.contains("OOM") && mend.contains("maxmemory") && !error.may_have_happened(), "{error}");
    assert_eq!(fixture.store.run(&new_run("refused").id).await.unwrap(), None);
    // What is to be loaded again has no room either.
    let bulk = "bulk".parse().unwrap();
    fixture.store.set_lane_paused(&bulk, true).await.unwrap();
    fixture.server.command::<()>(&["FUNCTION", "FLUSH"]);
    let error = fixture.store.set_lane_paused(&bulk, false).await.unwrap_err();
    assert!(matches!(&error, StoreError::Refusing { message, .. } if message.contains("OOM")), "{error}");
    fixture.server.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    fixture.store.set_lane_paused(&bulk, false).await.unwrap();
    fixture.store.create_run(new_run("refused")).await.unwrap();
}

#[tokio::test]
async fn a_master_that_starts_on_a_full_server_drains_it() {
    let mut fixture = fault().await;
    let (run, mut held) = {
        let scene = Scene::of(&fixture, &[2]).await;
        let mut held = scene.claim_one(1).await;
        scene.intend(&mut held, &[0, 1]).await;
        (scene.run, held)
    };
    let fill = |server: &Server| server.command::<()>(&["CONFIG", "SET", "maxmemory", "1mb"]);
    fill(&fixture.server);
    fixture.store = Arc::new(fixture.server.store_with(Durability::Always).await.unwrap());
    let scene = Scene { fixture: &fixture, run: run.clone() };
    scene.checkpoint(&mut held, outcomes([0], OutcomeKind::Accepted), Vec::new()).await;
    // The server itself starts again, and is full at once.
    fixture.server.kill();
    fixture.server.start_again();
    fill(&fixture.server);
    fixture.store = Arc::new(fixture.server.store_with(Durability::Always).await.unwrap());
    let scene = Scene { fixture: &fixture, run };
    assert_eq!(scene.confirm().await.found, Found::Confirmed);
    scene.checkpoint(&mut held, outcomes([1], OutcomeKind::Accepted), Vec::new()).await;
    assert_eq!(scene.finish(&mut held, Vec::new()).await.status, LeaseStatus::Settled);
    let error = fixture.store.create_run(new_run("refused")).await.unwrap_err();
    assert!(error.to_string().contains("OOM"), "{error}");
    // Without the scripts it cannot work, and says why.
    fixture.server.command::<()>(&["FUNCTION", "FLUSH"]);
    let error = fixture.server.store_with(Durability::Always).await.unwrap_err();
    assert!(error.to_string().contains("OOM") && error.to_string().contains("raise maxmemory"), "{error}");
}

#[tokio::test]
async fn each_unsafe_server_is_refused_by_name() {
    for (arguments, named, relaxed) in [
        (vec!["--appendonly", "no"], "appendonly", true),
        (vec!["--appendonly", "yes", "--appendfsync", "everysec"], "appendfsync", true),
        (
            vec!["--appendonly", "yes", "--appendfsync", "always", "--no-appendfsync-on-rewrite", "yes"],
            "no-appendfsync-on-rewrite",
            true,
        ),
        (
            vec!["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "allkeys-lru"],
            "maxmemory-policy",
            false,
        ),
        (vec!["--appendonly", "yes", "--appendfsync", "always", "--replicaof", "127.0.0.1 1"], "role", false),
        (vec!["--appendonly", "yes", "--appendfsync", "always", "--rename-command", "CONFIG", ""], "settings", false),
    ] {
        let server = Server::start_with(&arguments);
        let error = server.store_with(Durability::Always).await.unwrap_err();
        assert!(matches!(error, StoreError::Unsafe { .. }) && error.to_string().contains(named), "{error}");
        assert_eq!(server.store_with(Durability::Relaxed).await.is_ok(), relaxed, "{named}");
    }
}

#[tokio::test]
async fn a_store_of_another_program_is_refused() {
    let server = Server::start();
    server.command::<()>(&["SET", "postrider:{g}:schema", "99"]);
    let error = server.store_with(Durability::Always).await.unwrap_err().to_string();
    assert!(error.contains("schema version 99"), "{error}");
    server.command::<()>(&["DEL", "postrider:{g}:schema"]);
    server.command::<()>(&["SET", "postrider:{s0}:lease", "x"]);
    let error = server.store_with(Durability::Always).await.unwrap_err().to_string();
    assert!(error.contains("postrider:{s0}:lease is a string"), "{error}");
}

#[tokio::test]
async fn a_wrong_password_says_what_to_do() {
    let server = Server::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    server.command::<()>(&["CONFIG", "SET", "requirepass", "secret"]);
    let error = server.store_with(Durability::Always).await.unwrap_err();
    assert!(matches!(error, StoreError::Unsafe { .. }) && error.to_string().contains("password"), "{error}");
}

#[tokio::test]
async fn a_batch_whose_hash_is_missing_is_set_aside_and_not_lost() {
    let fixture = fault().await;
    let scene = Scene::of(&fixture, &[2, 2]).await;
    let lost = keys_like(&fixture.server, "postrider:{s0}:o:*.1");
    fixture.server.command::<()>(&["DEL", &lost[0]]);
    let held = scene.claim(1, 2).await;
    assert_eq!(held.iter().map(|held| held.batch.sequence).collect::<Vec<_>>(), [2], "the good one is leased");
    let record = scene.record().await;
    assert_eq!((record.batches.dead, record.batches.leased), (1, 1));
    assert_eq!((record.recipients.total, record.recipients.pending), (4, 4), "its recipients are still owed");
    assert_eq!(scene.batches().await[0].state, BatchState::Dead);
    assert!(scene.claim(2, 2).await.is_empty(), "it is not leased again");
    let reclaim = postrider_store::Reclaim { limit: 10, ttl_ms: 1, doubt_grace_ms: 1, outage_gap_ms: 3_600_000 };
    assert_eq!(fixture.store.reclaim(reclaim).await.unwrap().repaired, 1);
}

#[tokio::test]
async fn a_leased_batch_that_breaks_is_set_aside_by_its_next_report() {
    let fixture = fault().await;
    for harm in ["DEL", "states", "payload"] {
        let name = format!("harmed by {harm}");
        let scene = Scene::with(&fixture, new_run(&name), &[2]).await;
        let (pattern, kind) = if harm == "payload" { ("p", 1) } else { ("o", 0) };
        if kind == 1 {
            let key = keys_like(&fixture.server, &format!("postrider:{{s0}}:{pattern}:{}.1:*", scene.run));
            fixture.server.command::<()>(&["DEL", &key[0]]);
            assert!(scene.claim(1, 1).await.is_empty());
        } else {
            let mut held = scene.claim_one(1).await;
            let key = format!("postrider:{{s0}}:o:{}.1", scene.run);
            match harm {
                "DEL" => fixture.server.command::<()>(&["DEL", &key]),
                _ => fixture.server.command::<()>(&["HSET", &key, "s0", "?p"]),
            }
            let report = held_report(&mut held);
            let checkpoint = postrider_store::Checkpoint {
                worker: postrider_store::conformance::scene::worker(1),
                reports: vec![report],
                ttl_ms: 1000,
                window: 10,
                retry_fraction: 0,
                limits: Default::default(),
                grants: None,
            };
            let answers = fixture.store.checkpoint(checkpoint).await.unwrap();
            assert_eq!(answers[0].status, LeaseStatus::Gone, "{harm}");
        }
        let record = scene.record().await;
        assert_eq!((record.batches.dead, record.batches.leased, record.recipients.pending), (1, 0, 2), "{harm}");
    }
}

#[tokio::test]
async fn a_report_that_fails_does_not_cost_the_others_of_its_call() {
    let fixture = fault().await;
    let scene = Scene::of(&fixture, &[2; 20]).await;
    let mut held = scene.claim(1, 20).await;
    assert_eq!(held.len(), 20);
    let mut reports: Vec<_> = held.iter_mut().map(held_report).collect();
    // One cannot be read, one meets a key of another type, one batch is damaged.
    reports[1].progress = u64::MAX;
    let key = |kind: &str, at: usize| format!("postrider:{{s0}}:{kind}:{}", held[at].batch);
    fixture.server.command::<()>(&["SET", &key("o", 3), "x"]);
    fixture.server.command::<()>(&["HSET", &key("o", 18), "s0", "?p"]);
    let answers = fixture.store.checkpoint(scene.checkpoint_call(reports)).await.unwrap();
    assert_eq!(answers.len(), 20);
    for (at, answer) in answers.iter().enumerate() {
        let fails = matches!(at, 1 | 3 | 18);
        let wanted = if fails { (LeaseStatus::Gone, Vec::new()) } else { (LeaseStatus::Held, vec![0]) };
        assert_eq!(
            (answer.batch.clone(), answer.status, answer.granted.clone()),
            (held[at].batch.clone(), wanted.0, wanted.1),
            "{at}"
        );
    }
}

fn held_report(held: &mut postrider_store::conformance::scene::Held) -> postrider_common::lease::LeaseReport {
    held.sequence += 1;
    held.same_report(Vec::new(), vec![0])
}

#[tokio::test]
async fn an_expired_lease_on_a_broken_batch_does_not_keep_others_from_coming_back() {
    let fixture = fault().await;
    let scene = Scene::of(&fixture, &[2, 2, 2]).await;
    let held = scene.claim(1, 3).await;
    assert_eq!(held.len(), 3);
    // One that is missing, and one that shows only when its recipients are looked at.
    let hash = |sequence| format!("postrider:{{s0}}:o:{}.{sequence}", scene.run);
    fixture.server.command::<()>(&["DEL", &hash(1)]);
    fixture.server.command::<()>(&["HSET", &hash(3), "s0", "ip", "m0", "!."]);
    let deadline = Instant::now() + SOON;
    let (mut leases, mut repaired) = (0, 0);
    while (leases, repaired) != (1, 2) {
        assert!(Instant::now() < deadline, "{leases} reclaimed, {repaired} repaired");
        let reclaim = postrider_store::Reclaim { limit: 10, ttl_ms: 1, doubt_grace_ms: 1, outage_gap_ms: 3_600_000 };
        let reclaimed = fixture.store.reclaim(reclaim).await.unwrap();
        (leases, repaired) = (leases + reclaimed.leases, repaired + reclaimed.repaired);
        fixture.pass(50).await;
    }
    assert_eq!(scene.claim_one(2).await.batch.sequence, 2);
}

/// The server's clock cannot be moved by eleven minutes, so the lease is made that old.
#[tokio::test]
async fn a_lease_without_progress_is_not_extended() {
    let fixture = fault().await;
    let scene = Scene::of(&fixture, &[3]).await;
    let held = scene.claim_one(1).await;
    let id = held.batch.to_string();
    let holder: String = fixture.server.command(&["HGET", "postrider:{s0}:holder", &id]);
    let mut parts: Vec<String> = holder.split('|').map(str::to_owned).collect();
    let idle_ms = postrider_common::limits::TRANSACTION_MS_MAX as i64 + 1;
    parts[3] = (parts[3].parse::<i64>().unwrap() - idle_ms).to_string();
    fixture.server.command::<()>(&["HSET", "postrider:{s0}:holder", &id, &parts.join("|")]);
    let renew = async |sequence: u64, progress: u64| {
        let report =
            postrider_common::lease::LeaseReport { progress, sequence, ..held.same_report(Vec::new(), Vec::new()) };
        let checkpoint = postrider_store::Checkpoint { ttl_ms: 600_000, ..scene.checkpoint_call(vec![report]) };
        fixture.store.checkpoint(checkpoint).await.unwrap().remove(0).ttl_ms
    };
    assert!(renew(1, 0).await < 600_000 / 2, "it is not extended");
    assert_eq!(renew(2, 1).await, 600_000, "a phase of SMTP is progress");
}

#[tokio::test]
async fn payloads_live_as_long_as_their_batch_and_no_longer_than_a_refused_call() {
    let fixture = fault().await;
    let scene = Scene::of(&fixture, &[1]).await;
    let kept = keys_like(&fixture.server, "postrider:{s0}:p:*");
    assert_eq!(fixture.server.command::<i64>(&["TTL", &kept[0]]), -1);
    let run = new_run("refused");
    fixture.store.create_run(run.clone()).await.unwrap();
    let lease = scene.claim_split().await.unwrap();
    let mut add = scene.add(&lease, &[1], 10, false);
    let good = add.clone();
    add.fence.nonce ^= 1;
    assert_eq!(fixture.store.add_batches(add).await.unwrap(), SplitStatus::Lost);
    let orphan = keys_like(&fixture.server, &format!("postrider:{{s0}}:p:{}.*", run.id));
    assert!(fixture.server.command::<i64>(&["TTL", &orphan[0]]) > 0, "it expires by itself");
    // The rightful call takes it over, and a late repeat of a refused one does not make it mortal again.
    assert_eq!(fixture.store.add_batches(good.clone()).await.unwrap(), SplitStatus::Done);
    assert_eq!(fixture.store.add_batches(good.clone()).await.unwrap(), SplitStatus::Done);
    let mut late = good;
    late.fence.nonce ^= 1;
    late.cursor_next += 1;
    assert_eq!(fixture.store.add_batches(late).await.unwrap(), SplitStatus::Lost);
    assert_eq!(fixture.server.command::<i64>(&["TTL", &orphan[0]]), -1);
}

#[tokio::test]
async fn another_master_is_woken() {
    let fixture = fault().await;
    let other = fixture.server.store().await;
    let mut wake = other.wake();
    // Subscribed once the counter moved for the first time.
    tokio::time::timeout(SOON, wake.changed()).await.unwrap().unwrap();
    Scene::of(&fixture, &[1]).await;
    tokio::time::timeout(SOON, wake.changed()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stalled_server_costs_time_and_nothing_else() {
    let fixture = fault().await;
    let scene = Scene::of(&fixture, &[1, 1]).await;
    let signal = |name: &str| {
        let pid = fixture.server.pid().to_string();
        assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    };
    signal("-STOP");
    let go_on = async {
        // Longer than the answer may take, so the call is sent twice and both are carried out.
        tokio::time::sleep(Duration::from_millis(6500)).await;
        signal("-CONT");
    };
    let (held, ()) = tokio::join!(scene.claim(1, 1), go_on);
    assert_eq!(held.len(), 1);
    assert_eq!(scene.record().await.batches.leased, 1, "the repeated claim returned the same lease");
}

#[tokio::test]
async fn a_hundred_different_replies_of_one_batch_are_all_kept() {
    let fixture = fault().await;
    let scene = Scene::of(&fixture, &[100]).await;
    let mut held = scene.claim_one(1).await;
    let mut all: Vec<u32> = (0..100).collect();
    for window in all.chunks(10) {
        scene.intend(&mut held, window).await;
        let mut replies = outcomes(window.iter().copied(), OutcomeKind::Deferred);
        replies.iter_mut().for_each(|reply| reply.code = format!("450 {}", reply.index));
        scene.checkpoint(&mut held, replies, Vec::new()).await;
    }
    let codes = |batches: Vec<postrider_store::BatchRecord>| {
        batches[0].recipients.iter().map(|delivery| delivery.code.clone()).collect::<Vec<_>>()
    };
    let expected = |changed: u32, name: &str| {
        (0..100).map(|n| if n < changed { name.to_owned() } else { format!("450 {n}") }).collect::<Vec<_>>()
    };
    assert_eq!(codes(scene.batches().await), expected(0, ""));
    // Records that come to be shared give their fields back.
    fixture.pass(150).await;
    all.truncate(60);
    for window in all.chunks(10) {
        scene.intend(&mut held, window).await;
        scene.checkpoint(&mut held, outcomes(window.iter().copied(), OutcomeKind::Accepted), Vec::new()).await;
    }
    assert_eq!(codes(scene.batches().await), expected(60, "250 2.0.0"));
    let alone = |server: &Server| {
        let fields: Vec<String> = server.command(&["HKEYS", &format!("postrider:{{s0}}:o:{}.1", scene.run)]);
        fields.iter().filter(|field| field.parse::<u32>().is_ok_and(|index| index < 60)).count()
    };
    assert_eq!(alone(&fixture.server), 0);
}

#[tokio::test]
async fn a_reply_without_text_replaces_one_with_text() {
    let fixture = fault().await;
    let scene = Scene::of(&fixture, &[1]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    scene.checkpoint(&mut held, outcomes([0], OutcomeKind::Unknown), Vec::new()).await;
    assert_eq!(scene.delivery(&held, 0).await.detail, "detail 0");
    // Without the attempt the text of its reply is still there, and goes with the next reply.
    scene.fact(&held, outcomes([0], OutcomeKind::NotWritten).remove(0)).await;
    let mut accepted = outcomes([0], OutcomeKind::Accepted).remove(0);
    accepted.detail = String::new();
    scene.fact(&held, accepted).await;
    assert_eq!(scene.delivery(&held, 0).await.detail, "");
}
