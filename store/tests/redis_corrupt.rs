//! No script leaves a partial write behind when it fails, mechanically: a life of a run is recorded call by call;
//! then each call is made again on the state it was made on, with one key, field or member of that state
//! damaged. If it fails, the server must hold what it held before.
//!
//! A call that notices the damage and sets the batch aside, or can do without what is damaged, does not fail: that is
//! meant and not looked at here.

#![expect(clippy::unwrap_used, reason = "a case that cannot reach its server has failed")]

mod redis_recorder;
mod redis_server;

use async_trait::async_trait;
use postrider_common::OutcomeKind;
use postrider_common::ids::ErasureId;
use postrider_common::limits::{STRIKES_MAX, UNHEARD_MAX};
use postrider_common::pace::{Limit, Limits};
use postrider_common::relay::{RelayLimit, RelayWish};
use postrider_common::run::RunError;
use postrider_common::suppression::{SuppressionKey, SuppressionReason};
use postrider_store::conformance::Fixture;
use postrider_store::conformance::scene::{GRACE_MS, Scene, TTL_MS, new_run, outcome, outcomes, worker};
use postrider_store::redis::Redis;
use postrider_store::{
    ApplyCampaign, BadRow, ClaimHistory, Compare, Durability, EraseRecipients, EraseRun, ErasedRecipients, ErasedRun,
    Fire, Fired, ForgetRun, ForgottenRun, NewRun, PinAudience, Reclaim, ReleaseSplit, Replace, ReplayDead,
    RetireBatches, RetryRun, ShareRelay, Shared, SkipReason, Skipped, SplitStatus, Store, Suppress, SuppressRecipients,
    SuppressedRecipients, Suppressing, SuppressionChange, WriteErasure,
};
use redis_recorder::{Recorder, State, Words, digest, run, scripts_loaded};
use redis_server::Server;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Calls of one script that are tried with every harm: so many kinds of states are enough.
const CALLS_MAX: u32 = 3;

/// A state, and what was sent to a server that was in it, until the next state was taken.
type Section = (State, Vec<Words>);

struct Life {
    store: Arc<Redis>,
    server: Server,
    recorder: Mutex<Recorder>,
    sections: Mutex<Vec<Section>>,
}

impl Life {
    fn begin_section(&self) {
        let mut sections = self.sections.lock().unwrap();
        let sent = self.recorder.lock().unwrap().take(&self.server);
        if let Some((_, words)) = sections.last_mut() {
            words.extend(sent.into_iter().filter(|words| !matches!(words[0].as_slice(), b"KEYS" | b"DUMP" | b"ECHO")));
        }
        sections.push((State::of(&mut self.server.connection()), Vec::new()));
    }
}

/// The commands of a section, the first with the state it began with.
fn in_order((state, commands): Section) -> impl Iterator<Item = (Option<State>, Words)> {
    let mut state = Some(state);
    commands.into_iter().map(move |words| (state.take(), words))
}

#[async_trait]
impl Fixture for Life {
    /// Each call begins on a state that is kept.
    fn store(&self) -> Arc<dyn Store> {
        self.begin_section();
        self.store.clone()
    }

    async fn pass(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

/// Calls every transition, most of them in several states.
async fn live(life: &Life) {
    let store = || life.store();
    store().compare(Compare { marks: Default::default(), confirm: true }).await.unwrap();
    let definition_bytes = b"definition".to_vec();
    let definition = postrider_common::ids::DefinitionHash::of(&definition_bytes);
    let apply = ApplyCampaign {
        name: "news".parse().unwrap(),
        key: Some("key".parse().unwrap()),
        fingerprint: definition.to_string(),
        spec: b"spec".to_vec(),
        schedule: Vec::new(),
        definition,
        definition_bytes,
    };
    store().apply_campaign(apply.clone()).await.unwrap();
    store().apply_campaign(ApplyCampaign { key: None, spec: b"other".to_vec(), ..apply.clone() }).await.unwrap();
    store().set_campaign_paused(&apply.name, true).await.unwrap();
    // Its schedule begins two runs, the second of which takes the place of the first, and is taken away again.
    let daily = ApplyCampaign { key: None, schedule: b"daily".to_vec(), spec: b"daily".to_vec(), ..apply.clone() };
    store().apply_campaign(daily.clone()).await.unwrap();
    store().set_campaign_paused(&apply.name, false).await.unwrap();
    let mut before = None;
    for name in ["monday", "tuesday"] {
        life.pass(2).await;
        let record = store().campaign(&apply.name).await.unwrap().unwrap();
        let now = life.store.now_ms().await.unwrap();
        let run = NewRun { campaign: "news".into(), nominal_at_ms: Some(now), ..new_run(name) };
        let missed = Skipped { reason: SkipReason::Missed, count: 1, nominal_at_ms: now - 1, why: "why".into() };
        let fire = Fire {
            campaign: apply.name.clone(),
            request: name.parse().unwrap(),
            stamp: record.schedule.unwrap().stamp,
            decided_until_ms: now,
            due_at_ms: Some(now + 1000),
            look_at_ms: Some(now + 1000),
            zones: "2026e".to_owned(),
            skipped: vec![missed],
            cancel: before.replace(run.id.clone()),
            run: Some(run),
        };
        assert_eq!(store().fire(fire).await.unwrap(), Fired::Done);
    }
    store().apply_campaign(ApplyCampaign { schedule: b"weekly".to_vec(), ..daily }).await.unwrap();
    store().apply_campaign(ApplyCampaign { key: None, ..apply.clone() }).await.unwrap();
    for name in ["monday", "tuesday"] {
        store().cancel_run(&new_run(name).id).await.unwrap();
        store().cancel_batches(&new_run(name).id, 0, 10).await.unwrap();
    }
    store().delete_campaign(&apply.name).await.unwrap();

    // A relay with two workers, one of which is silent for too long.
    for (number, ttl_ms) in [(1, 1), (2, 60_000), (2, 60_000), (3, 60_000)] {
        let limit = RelayLimit::of_numbers(3600, 2, 4).unwrap();
        let wish = RelayWish { relay: "out".parse().unwrap(), limit, held: 1, wanted: 3, sends: 1 };
        let sequence = life.sections.lock().unwrap().len() as u64;
        store().share_relay(ShareRelay { worker: worker(number), sequence, wish, ttl_ms }).await.unwrap();
        life.pass(5).await;
    }

    // Quotas, moved twice, so that one takes the place of another.
    let mut limits = Limits::default();
    limits.lane("bulk".parse().unwrap(), Limit { pace: None, concurrency: Some(40) });
    for _ in 0..2 {
        drop(store());
        life.store.move_quotas_for(&limits, 3_600_000).await.unwrap();
    }

    // Two runs, with batches in every place and recipients in every state.
    let other = Scene::with(life, new_run("other"), &[2, 1]).await;
    let scene = Scene::of(life, &[3, 60, 2, 2]).await;
    store().pause_run(&other.run).await.unwrap();
    store().resume_run(&other.run).await.unwrap();
    store().set_lane_paused(&"bulk".parse().unwrap(), true).await.unwrap();
    store().set_lane_paused(&"bulk".parse().unwrap(), false).await.unwrap();
    // An effect that is begun by a master that ends, and carried on by another.
    life.store.end_after_steps(1);
    store().set_lane_paused(&"bulk".parse().unwrap(), false).await.unwrap_err();
    life.store.end_after_steps(usize::MAX);
    drop(store());
    assert_eq!(life.store.relay_effects().await.unwrap(), 1);
    let mut held = scene.claim(1, 4).await;
    let mut first = held.remove(0);
    scene.intend(&mut first, &[0, 1]).await;
    let mixed = vec![outcome(0, OutcomeKind::Accepted), outcome(1, OutcomeKind::Deferred)];
    scene.checkpoint(&mut first, mixed, vec![2]).await;
    scene.finish(&mut first, Vec::new()).await;
    scene.finish(&mut first, outcomes([2], OutcomeKind::Unknown)).await;
    scene.fact(&first, outcome(2, OutcomeKind::Accepted)).await;
    scene.fact(&first, outcome(1, OutcomeKind::Accepted)).await;
    let mut second = held.remove(0);
    scene.intend(&mut second, &[0, 1]).await;
    scene.release(&mut second, outcomes([0], OutcomeKind::Rejected), true).await;
    life.pass(300).await;
    let mut again = scene.claim(2, 4).await;
    if let Some(mut again) = again.pop() {
        let granted = scene.checkpoint(&mut again, Vec::new(), vec![0, 1]).await.granted;
        scene.finish(&mut again, outcomes(granted, OutcomeKind::Accepted)).await;
    }
    store().drain_worker("w1").await.unwrap();
    scene.claim(1, 1).await;
    // A round of the reconciler finds nothing here, and something to mend after each harm.
    assert_eq!(postrider_store::conformance::reconcile::reconcile_all(&*store()).await, []);
    // One lease expires with somebody in intent, and one batch is lost.
    if let Some(held) = held.first_mut() {
        scene.intend(held, &[0]).await;
    }
    life.pass(TTL_MS + 1).await;
    scene.reclaim().await;
    store().cancel_run(&scene.run).await.unwrap();
    store().cancel_batches(&scene.run, 0, 100).await.unwrap();
    let claim = ClaimHistory { request: "history".parse().unwrap(), ttl_ms: TTL_MS, limit: 100 };
    let settled = store().claim_history(claim.clone()).await.unwrap().batches;
    let batches = settled.into_iter().map(|batch| (batch.record.id, batch.stamp)).collect();
    let retire = RetireBatches { request: claim.request, segment: "segment".to_owned(), batches };
    assert!(store().retire_batches(retire).await.unwrap() > 0);
    let broken = Scene::with(life, new_run("broken"), &[2]).await;
    let mut lost = broken.claim(3, 8).await.into_iter().find(|held| held.batch.run == broken.run).unwrap();
    broken.intend(&mut lost, &[0]).await;
    let hash = format!("postrider:{{s0}}:o:{}", lost.batch);
    life.server.command::<()>(&["HSET", &hash, "s0", "ip", "m0", "!.", "g!", "x"]);
    life.pass(TTL_MS + 1).await;
    let reclaim = Reclaim { limit: 10, ttl_ms: 1, doubt_grace_ms: 1, outage_gap_ms: 3_600_000 };
    assert_eq!(store().reclaim(reclaim).await.unwrap().repaired, 1);

    // One that ends workers, told by facts, replayed and purged; a batch of which nobody is heard again; and a retry.
    let poison = Scene::with(life, new_run("poison"), &[3]).await;
    let mut held = poison.claim_lanes(4, 8, &[("bulk", 10)]).await.into_iter().find(|h| h.batch.run == poison.run);
    for round in 0..STRIKES_MAX {
        let mut lease = held.take().unwrap();
        poison.intend(&mut lease, &[0, 1][..2 - usize::from(round > 1)]).await;
        if round < 2 {
            poison.fact(&lease, outcome(0, OutcomeKind::NotWritten)).await;
        }
        poison.expire().await;
        life.pass(GRACE_MS + 1).await;
        held = poison.claim(4, 8).await.into_iter().find(|held| held.batch.run == poison.run);
    }
    let id = store().dead_letters(Some(&poison.run), None, 1).await.unwrap().remove(0).id;
    store().replay_dead(ReplayDead { id, unknown: true }).await.unwrap();
    let mut lease = held.take().unwrap();
    poison.intend(&mut lease, &[2]).await;
    poison.finish(&mut lease, outcomes([2], OutcomeKind::Accepted)).await;
    for _ in 0..UNHEARD_MAX {
        poison.claim(4, 8).await;
        poison.expire().await;
    }
    let id = store().dead_letters(Some(&poison.run), None, 1).await.unwrap().remove(0).id;
    store().replay_dead(ReplayDead { id: id.clone(), unknown: false }).await.unwrap();
    for _ in 0..UNHEARD_MAX {
        poison.claim(4, 8).await;
        poison.expire().await;
    }
    store().purge_dead(&id).await.unwrap();
    for unknown in [false, true] {
        let key = format!("retry-{unknown}").parse().unwrap();
        store().retry_run(RetryRun { run: poison.run.clone(), key, unknown, after: 0, limit: 10 }).await.unwrap();
    }

    // Recipients of every place are erased, with what is known of that; a tombstone and its correction, too.
    let id: ErasureId = "0123456789abcdef0123456789abcdef".parse().unwrap();
    for (version, open) in [(0, true), (1, true), (2, false)] {
        let (by, body) = (format!("by-{version}").parse().unwrap(), b"body".to_vec());
        let write = WriteErasure { id: id.clone(), version, by, takes: open, hold_ms: 0, open, body };
        assert_eq!(store().write_erasure(write).await.unwrap(), Some(version + 1));
    }
    for run in [&other.run, &scene.run, &poison.run] {
        for batch in store().batches(run, 0, 100).await.unwrap() {
            let (recipients, details) = (vec![batch.recipients.len() as u32 - 1], vec![0]);
            let payload = if batch.is_retired() { Vec::new() } else { b"blank".to_vec() };
            let erase = EraseRecipients { batch: batch.id, known: batch.erased, recipients, details, payload };
            assert!(matches!(store().erase_recipients(erase).await.unwrap(), ErasedRecipients::Done { .. }));
        }
    }

    // A run with dead letters and history is forgotten, step by step; then what it left.
    store().cancel_run(&poison.run).await.unwrap();
    store().cancel_batches(&poison.run, 0, 100).await.unwrap();
    for (run, limit) in [(&scene.run, 1), (&scene.run, 100), (&poison.run, 100)] {
        let forget = ForgetRun { run: run.clone(), keep_ms: 0, keep_dead_ms: Some(0), limit };
        assert!(matches!(store().forget_run(forget).await.unwrap(), ForgottenRun::Step { .. }));
    }
    let left = store().left_segments(10).await.unwrap();
    assert!(!left.is_empty());
    store().forget_segments(left).await.unwrap();
    store().keep(vec![Shared::Audience("0123".to_owned())]).await.unwrap();
    let unnamed = store().kept(i64::from(u32::MAX) * 1000, 0, 3).await.unwrap();
    assert_eq!(store().forget_kept(unnamed).await.unwrap().len(), 3);

    // A split with bad rows that is given back twice.
    let third = new_run("third");
    store().create_run(third.clone()).await.unwrap();
    let mut split = scene.claim_split().await.unwrap();
    let pinned = b"audience".to_vec();
    let pin = PinAudience { run: third.id.clone(), fence: split.fence.clone(), audience: pinned, ttl_ms: 60_000 };
    assert_eq!(store().pin_audience(pin).await.unwrap(), SplitStatus::Done);
    let mut add = scene.add(&split, &[2], 10, false);
    add.bad_row_samples = vec![BadRow { row: 3, reason: "no address".to_owned() }];
    assert_eq!(store().add_batches(add).await.unwrap(), SplitStatus::Done);
    let replace = |from: &[u8]| Some(Replace { from: from.to_vec(), to: b"blank".to_vec() });
    let erase = EraseRun { run: third.id.clone(), audience: replace(b"audience"), open: replace(b"open") };
    assert!(matches!(store().erase_run(erase).await.unwrap(), ErasedRun::Done { .. }));
    split = scene.claim_split().await.unwrap();
    for failed in [true, false] {
        let error = RunError { code: "source".into(), message: "gone".into(), mend: "bring it back".into() };
        let (run, fence) = (third.id.clone(), split.fence.clone());
        let release = ReleaseSplit { run, fence, delay_ms: 0, error: failed.then_some(error) };
        assert_eq!(store().release_split(release).await.unwrap(), SplitStatus::Done);
        store().resume_run(&third.id).await.unwrap();
        split = scene.claim_split().await.unwrap();
    }

    // Somebody of it is not to be sent to.
    let key = |number| SuppressionKey([number; SuppressionKey::BYTES]);
    let add = |number, scope: &str| SuppressionChange::Add {
        key: key(number),
        scope: scope.parse().unwrap(),
        reason: SuppressionReason::Manual,
        at_ms: None,
        subject: b"somebody".to_vec(),
    };
    for changes in [
        vec![add(1, "all"), add(1, "lane:bulk"), add(2, "all")],
        vec![SuppressionChange::Remove { key: key(2), scope: None }, SuppressionChange::Unname { key: key(1) }],
    ] {
        let suppress = Suppress { check: "check".to_owned(), changes };
        assert!(matches!(store().suppress(suppress).await.unwrap(), Suppressing::Done { changed: 2.., .. }));
    }
    let checked = store().suppression_set().await.unwrap().number;
    let batch = store().batches(&third.id, 0, 1).await.unwrap().remove(0).id;
    for index in [0, 1] {
        let recipients = vec![(index, SuppressionReason::Manual)];
        let found = SuppressRecipients { batch: batch.clone(), fence: None, checked, recipients };
        let answer = store().suppress_recipients(found).await.unwrap();
        assert!(matches!(answer, SuppressedRecipients::Done { ended } if ended.len() == 1));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// One way to damage a state, as commands.
struct Harm {
    key: Vec<u8>,
    commands: Vec<Words>,
}

fn words(words: &[&[u8]]) -> Words {
    words.iter().map(|word| word.to_vec()).collect()
}

/// Every way to damage a key. `touched`: fields of the hash after the call, which may be new by then.
fn harms(connection: &mut redis::Connection, key: &[u8], touched: &[Vec<u8>]) -> Vec<Harm> {
    let ask = |connection: &mut redis::Connection, command: &[&[u8]]| run(connection, &words(command)).unwrap();
    let list = |value: redis::Value| redis::from_redis_value::<Vec<Vec<u8>>>(value).unwrap();
    let kind: String = redis::from_redis_value(ask(connection, &[b"TYPE", key])).unwrap();
    let (gone, text, row) = (words(&[b"DEL", key]), words(&[b"SET", key, b"x"]), words(&[b"RPUSH", key, b"x"]));
    let mut all = match kind.as_str() {
        "none" => vec![vec![text], vec![row]],
        "string" => vec![vec![gone.clone()], vec![gone, row]],
        _ => vec![vec![gone.clone()], vec![gone, text]],
    };
    match kind.as_str() {
        "hash" => {
            let mut fields: BTreeSet<Vec<u8>> = list(ask(connection, &[b"HKEYS", key])).into_iter().collect();
            fields.extend(touched.iter().cloned());
            for field in fields {
                all.push(vec![words(&[b"HDEL", key, &field])]);
                for value in [&b"x"[..], b"nan"] {
                    all.push(vec![words(&[b"HSET", key, &field, value])]);
                }
            }
        }
        "zset" => {
            all.push(vec![words(&[b"ZADD", key, b"0", b"x"])]);
            for member in list(ask(connection, &[b"ZRANGE", key, b"0", b"-1"])) {
                all.push(vec![words(&[b"ZREM", key, &member])]);
                for score in [&b"inf"[..], b"-inf"] {
                    all.push(vec![words(&[b"ZADD", key, score, &member])]);
                }
            }
        }
        "set" => all.push(vec![words(&[b"SADD", key, b"x"])]),
        "list" => all.push(vec![words(&[b"RPUSH", key, b"x"])]),
        _ => (),
    }
    all.into_iter().map(|commands| Harm { key: key.to_vec(), commands }).collect()
}

fn keys_of(call: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let number: usize = text(&call[2]).parse().unwrap();
    let unique: BTreeSet<Vec<u8>> = call[3..3 + number].iter().cloned().collect();
    unique.into_iter().collect()
}

#[derive(Debug, Default)]
struct Tried {
    changed: u32,
    harmed: u32,
    failed: u32,
}

struct Trial {
    connection: redis::Connection,
    tried: BTreeMap<String, Tried>,
    partial: BTreeMap<String, u32>,
}

impl Trial {
    /// Tries a call on a state with every harm, and leaves the state that the call makes of it unharmed.
    fn call(&mut self, name: &str, call: &Words) {
        let connection = &mut self.connection;
        let state = State::of(connection);
        let before = digest(connection);
        if let Err(error) = run(connection, call) {
            // The one that cannot read its batch, which is set aside after it.
            assert!(name == "reclaim" && error.code() == Some("CORRUPT"), "{name} fails on its own state: {error}");
            assert_eq!(digest(connection), before, "{name}: {error}");
            return;
        }
        let changes = digest(connection) != before;
        let tried = self.tried.entry(name.to_owned()).or_default();
        // A call that changes nothing has nothing to leave half done.
        if !changes || tried.changed == CALLS_MAX {
            return;
        }
        tried.changed += 1;
        let keys = keys_of(call);
        let touched: Vec<Vec<Vec<u8>>> = keys
            .iter()
            .map(|key| run(connection, &words(&[b"HKEYS", key])).ok())
            .map(|fields| fields.map_or(Vec::new(), |fields| redis::from_redis_value(fields).unwrap()))
            .collect();
        let after = State::of(connection);
        state.restore(connection);
        let mut all = Vec::new();
        for (key, touched) in keys.iter().zip(&touched) {
            all.extend(harms(connection, key, touched));
        }
        for harm in all {
            tried.harmed += 1;
            let (Some(error), changed) = state.call_harmed(connection, &harm.commands, call) else { continue };
            tried.failed += 1;
            if changed {
                let how = harm.commands.last().unwrap().iter().map(|word| text(word)).collect::<Vec<_>>().join(" ");
                let about = text(&harm.key);
                let shown = format!("{name}: harmed {about} by `{how}`: {error}");
                *self.partial.entry(shown).or_default() += 1;
            }
        }
        after.restore(connection);
    }
}

#[tokio::test]
async fn no_script_leaves_a_partial_write_when_it_fails() {
    let server = Server::start_with(&["--appendonly", "no", "--enable-debug-command", "yes"]);
    let mut recorder = Recorder::start(&server);
    let empty = State::of(&mut server.connection());
    let store = Arc::new(server.store_with(Durability::Relaxed).await.unwrap());
    let connecting = recorder.take(&server);
    let mut names = scripts_loaded(&connecting);
    let sections = Mutex::new(vec![(empty, connecting)]);
    let life = Life { store, server, recorder: Mutex::new(recorder), sections };
    live(&life).await;
    life.begin_section();
    let Life { store, server, recorder, sections } = life;
    drop((store, recorder));
    let recorded = sections.into_inner().unwrap();

    let mut trial = Trial { connection: server.connection(), tried: BTreeMap::new(), partial: BTreeMap::new() };
    for (state, words) in recorded.into_iter().flat_map(in_order) {
        if let Some(state) = state {
            state.restore(&mut trial.connection);
        }
        match words[0].as_slice() {
            b"FCALL" if names[&words[1]] == "look_at_run" => (),
            b"FCALL" => trial.call(&names[&words[1]], &words),
            // Payloads and definitions beside the scripts, and the harm that makes a batch unreadable.
            b"SET" | b"HSET" => drop(run(&mut trial.connection, &words).unwrap()),
            _ => (),
        }
    }
    let Trial { tried, partial, .. } = trial;
    for (name, tried) in &tried {
        println!("{name}: {} calls change something, {} harms, {} failed", tried.changed, tried.harmed, tried.failed);
        assert!(tried.failed > 0, "{name} fails at nothing: its replay is no test");
    }
    let called: BTreeSet<&String> = tried.keys().collect();
    // Writes nothing.
    names.retain(|_, name| name != "look_at_run");
    let wanted: BTreeSet<&String> = names.values().collect();
    assert_eq!(called, wanted, "each script must be called by `live`");
    let shown: Vec<&String> = partial.keys().collect();
    assert!(
        partial.is_empty(),
        "{} partial writes:\n{}",
        shown.len(),
        shown.iter().map(|s| format!("{s}\n")).collect::<String>()
    );
}
