//! History: batches move from the store to the storage, and nobody who looks notices.

use crate::harness::{SOON, Worker, World, csv, outcome, report};
use postrider_common::ids::{BatchId, RequestId, RunId};
use postrider_master::history;
use postrider_master::storage::Storage;
use postrider_proto::v1;
use postrider_proto::v1::find_recipient_response::Part;
use postrider_store::{BatchRecord, ClaimHistory, RetireBatches};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

async fn batches(world: &World, run: &str) -> Vec<BatchRecord> {
    world.store.batches(&run.parse().unwrap(), 0, 10_000).await.unwrap()
}

/// Waits until the batches are as wished.
async fn until(world: &World, run: &str, what: &str, wished: impl Fn(&BatchRecord) -> bool) -> Vec<BatchRecord> {
    let deadline = Instant::now() + SOON;
    loop {
        let batches = batches(world, run).await;
        if batches.iter().all(&wished) {
            return batches;
        }
        assert!(Instant::now() < deadline, "not {what} in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn segments_in(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(segments_in(&path)) } else { found.push(path) }
    }
    found
}

fn keys(recipients: &[v1::Recipient]) -> BTreeSet<&str> {
    let keys: BTreeSet<&str> = recipients.iter().map(|one| one.key.as_str()).collect();
    assert_eq!(keys.len(), recipients.len(), "each recipient once");
    keys
}

async fn find(world: &World, address: &str) -> (Vec<v1::FoundRecipient>, v1::FindEnd) {
    let request = v1::FindRecipientRequest { address: address.into() };
    let mut stream = world.admin().find_recipient(request).await.unwrap().into_inner();
    let mut found = Vec::new();
    while let Some(answer) = stream.message().await.unwrap() {
        match answer.part.unwrap() {
            Part::Found(one) => found.push(one),
            Part::End(end) => {
                assert!(stream.message().await.unwrap().is_none(), "the end is the last");
                return (found, end);
            }
        }
    }
    panic!("the search has no end");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_reads_the_same_from_the_storage() {
    let world = World::new().await;
    let run = world.run_csv("digest", &csv(1000)).await;
    Worker::new(&world, "w").deliver_run(&world, &run).await;
    let before = world.recipients(&run, &[]).await;
    let retired = until(&world, &run, "retired", BatchRecord::is_retired).await;
    assert!(retired.iter().all(|batch| batch.payload.is_empty()));
    let after = world.recipients(&run, &[]).await;
    assert_eq!(after, before, "in the same order and word by word");
    assert_eq!(keys(&after).len(), 1000);
    assert!(after.iter().all(|one| one.message_id.ends_with("@acme.example>") && one.code == "250 2.0.0"));
    assert_eq!(world.recipients(&run, &[v1::RecipientState::Rejected]).await, []);
    assert_eq!(world.show(&run).await.recipients.unwrap().accepted, 1000);
    let named: BTreeSet<String> = retired.into_iter().flat_map(|batch| batch.segments).collect();
    let files = segments_in(&world.storage.path().join("history"));
    assert_eq!(files.len(), named.len(), "no object that nobody names: {files:?}");
    let metrics = world.metrics().await;
    assert!(metrics.contains("postrider_history_batches_total 14"), "{metrics}");
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_masters_drain_while_lists_show_everybody_once() {
    let one = World::new().await;
    let two = one.again().await;
    let run = one.run_csv("digest", &csv(30_000)).await;
    one.until(&run, "split", |run| run.split_complete).await;
    let mut worker = Worker::new(&one, "w");
    let work = worker.deliver_run(&one, &run);
    let look = async {
        let (mut lists, mut mixed) = (0, 0);
        loop {
            let ended = one.show(&run).await.state() == v1::RunState::Finished;
            let stored = batches(&one, &run).await;
            let retired = stored.iter().filter(|batch| batch.is_retired()).count();
            let world = if lists % 2 == 0 { &one } else { &two };
            assert_eq!(keys(&world.recipients(&run, &[]).await).len(), 30_000);
            lists += 1;
            mixed += u32::from(retired > 0 && retired < stored.len());
            if ended && retired == stored.len() {
                return (lists, mixed);
            }
        }
    };
    let (delivered, (lists, mixed)) = tokio::join!(work, look);
    assert_eq!(delivered.len(), 30_000);
    println!("{lists} lists, {mixed} of them while some batches were retired and some were not");
    assert!(mixed > 0, "nothing was read while draining");
    let counted = |metrics: String| -> u64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix("postrider_history_batches_total "));
        line.unwrap().parse().unwrap()
    };
    let total = counted(one.metrics().await) + counted(two.metrics().await);
    assert_eq!(total, batches(&one, &run).await.len() as u64, "each batch was retired once");
    one.master.stop().await;
    two.master.stop().await;
}

/// As a master that is killed between its two steps: the segment is written and nobody was told.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_whose_writer_died_is_not_read_and_nothing_is_missing() {
    let world = World::new().await;
    let dead: RequestId = "history-dead".parse().unwrap();
    let claim = ClaimHistory { request: dead.clone(), ttl_ms: 3000, limit: 100 };
    let mut tries = 0;
    let (run, claimed) = loop {
        let run = world.run_csv(&format!("digest-{tries}"), &csv(700 + tries)).await;
        Worker::new(&world, "w").deliver_run(&world, &run).await;
        let claimed = world.store.claim_history(claim.clone()).await.unwrap();
        if !claimed.batches.is_empty() {
            break (run, claimed.batches);
        }
        tries += 1;
        assert!(tries < 20, "the master was always quicker");
    };
    let id: RunId = run.parse().unwrap();
    let record = world.store.run(&id).await.unwrap().unwrap();
    let mine: Vec<_> = claimed.iter().filter(|batch| batch.record.id.run == id).collect();
    let known: Vec<_> =
        mine.iter().map(|batch| (&batch.record, history::stored(&record, &batch.record).unwrap())).collect();
    // Another one than what the next master will write: it has fewer batches.
    let orphan = history::write(7, &known[1..]).unwrap();
    let storage = Storage::open(&world.storage.path().display().to_string(), Default::default()).unwrap();
    storage.write_segment(&orphan.name, orphan.bytes).await.unwrap();
    let before = world.recipients(&run, &[]).await;

    let retired = until(&world, &run, "retired by a living master", BatchRecord::is_retired).await;
    assert!(retired.iter().all(|batch| batch.segments != [orphan.name.clone()]));
    assert_eq!(world.recipients(&run, &[]).await, before);
    // The dead one comes back from a long pause and goes on where it was.
    let stamps: Vec<(BatchId, u64)> = mine.iter().map(|batch| (batch.record.id.clone(), batch.stamp)).collect();
    let late = RetireBatches { request: dead, segment: orphan.name.clone(), batches: stamps };
    assert_eq!(world.store.retire_batches(late).await.unwrap(), 0);
    assert_eq!(world.recipients(&run, &[]).await, before);
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fact_after_retirement_corrects_history_once() {
    let world = World::new().await;
    let run = world.run_csv("digest", "email\nada@x.example\nbo@x.example\n").await;
    world.until(&run, "split", |run| run.split_complete).await;
    let mut worker = Worker::new(&world, "w");
    let lease = worker.lease(1, 5000).await.leases.remove(0);
    worker.checkpoint(report(&lease, 1, Vec::new(), vec![0, 1])).await;
    let rejected = (0..2).map(|index| outcome(index, v1::OutcomeKind::Rejected)).collect();
    worker.finish(report(&lease, 2, rejected, Vec::new())).await;
    until(&world, &run, "retired", BatchRecord::is_retired).await;
    let before = world.recipients(&run, &[]).await;
    assert_eq!(before[1].state(), v1::RecipientState::Rejected);

    let mut late = outcome(1, v1::OutcomeKind::Accepted);
    (late.code, late.detail) = ("250 2.1.5".into(), "late".into());
    let fact = v1::Fact { batch_id: lease.batch_id.clone(), fence: lease.fence.clone(), outcome: Some(late) };
    for status in [v1::FactStatus::Applied, v1::FactStatus::Already] {
        let request = v1::FactsRequest { worker: Some(worker.id.clone()), facts: vec![fact.clone()] };
        assert_eq!(worker.client.facts(request).await.unwrap().into_inner().facts, [i32::from(status)]);
    }
    let at_once = world.recipients(&run, &[]).await;
    let corrected = v1::Recipient {
        state: v1::RecipientState::Accepted.into(),
        code: "250 2.1.5".into(),
        detail: "late".into(),
        settled_at_ms: at_once[1].settled_at_ms,
        ..before[1].clone()
    };
    assert_eq!(at_once, [before[0].clone(), corrected], "the rest of it comes from the first segment");
    let batches = until(&world, &run, "corrected", |batch| batch.segments.len() == 2).await;
    assert!(batches[0].recipients.iter().all(|delivery| delivery.settled_at_ms.is_none()));
    assert_eq!(world.recipients(&run, &[]).await, at_once);
    let counts = world.show(&run).await.recipients.unwrap();
    assert_eq!((counts.total, counts.accepted, counts.rejected), (2, 1, 1));
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_found_hot_and_settled_newest_first() {
    let world = World::new().await;
    let settled = world.run_csv("old", &csv(500)).await;
    Worker::new(&world, "w").deliver_run(&world, &settled).await;
    until(&world, &settled, "retired", BatchRecord::is_retired).await;
    let hot = world.run_csv("new", "email\nother@gmx.de\nUSER11@gmx.de\n").await;
    world.until(&hot, "split", |run| run.split_complete).await;
    let (found, end) = find(&world, "User11@GMX.de").await;
    let shown: Vec<_> = found.iter().map(|one| (one.run_id.as_str(), one.campaign.as_str())).collect();
    assert_eq!(shown, [(hot.as_str(), "new"), (settled.as_str(), "old")]);
    let states: Vec<_> = found.iter().map(|one| one.recipient.as_ref().unwrap().state()).collect();
    assert_eq!(states, [v1::RecipientState::Pending, v1::RecipientState::Accepted]);
    assert_eq!(found[1].recipient.as_ref().unwrap().address, "user11@gmx.de");
    assert_eq!((end.runs_looked_at, end.more_runs), (2, false));
    assert_eq!(find(&world, "ser11@gmx.de").await.0, [], "a part of an address is not it");
    let request = v1::FindRecipientRequest { address: "nobody".into() };
    assert_eq!(world.admin().find_recipient(request).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_gone_is_named() {
    let world = World::new().await;
    let run = world.run_csv("digest", &csv(10)).await;
    Worker::new(&world, "w").deliver_run(&world, &run).await;
    until(&world, &run, "retired", BatchRecord::is_retired).await;
    for path in segments_in(&world.storage.path().join("history")) {
        std::fs::remove_file(path).unwrap();
    }
    let request = v1::ListRecipientsRequest { run_id: run.clone(), states: Vec::new() };
    let mut stream = world.admin().list_recipients(request).await.unwrap().into_inner();
    let error = stream.message().await.unwrap_err();
    assert!(error.message().contains("read history/") && error.message().contains("[storage] url"), "{error}");
    world.master.stop().await;
}
