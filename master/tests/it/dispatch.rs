//! What workers see: leases, checkpoints, the end of batches, and steering from outside.

use crate::harness::{SOON, Worker, World, csv, outcome, report};
use postrider_common::payload;
use postrider_proto::v1;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_leased_delivered_and_finished() {
    let world = World::new().await;
    let run = world.run_csv("digest", &csv(250)).await;
    let mut worker = Worker::new(&world, "w");
    let delivered = worker.deliver_run(&world, &run).await;
    assert_eq!(delivered.len(), 250);
    assert!(delivered.values().all(|count| *count == 1));
    let shown = world.show(&run).await;
    assert!(shown.split_complete && shown.finished_at_ms >= shown.started_at_ms);
    assert_eq!(shown.batches.unwrap().settled, 7, "one part-filled batch of each site");
    let accepted = world.recipients(&run, &[v1::RecipientState::Accepted]).await;
    assert_eq!(accepted.len(), 250);
    assert!(accepted.iter().all(|r| r.attempts == 1 && r.code == "250 2.0.0" && r.settled_at_ms > 0));
    assert!(world.recipients(&run, &[v1::RecipientState::Pending]).await.is_empty());
    let lines = world.metrics().await;
    for part in ["postrider_leases_granted_total 7", "postrider_store_call_seconds_bucket", "transition=\"claim\""] {
        assert!(lines.contains(part), "no '{part}' in\n{lines}");
    }
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_call_is_answered_as_soon_as_there_is_work() {
    let world = World::new().await;
    let mut worker = Worker::new(&world, "w");
    let request = worker.request(4, 30_000);
    let mut client = world.dispatch();
    let begun = Instant::now();
    let held = tokio::spawn(async move { client.lease(request).await.unwrap().into_inner() });
    while !world.metrics().await.contains("postrider_long_polls_held 1") {
        assert!(begun.elapsed() < SOON, "the call is not held");
    }
    world.run_csv("digest", &csv(1)).await;
    let answer = tokio::time::timeout(SOON, held).await.unwrap().unwrap();
    assert_eq!((answer.leases.len(), answer.definitions.len()), (1, 1));
    assert!(u128::from(answer.held_ms) <= begun.elapsed().as_millis());
    let lease = &answer.leases[0];
    assert_eq!((lease.window, lease.ttl_ms, lease.lane.as_str()), (100, 2000, "bulk"));
    assert_eq!(lease.definition, answer.definitions[0].hash);
    assert_eq!(payload::decode(&lease.payload).unwrap().len(), 1);
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_call_gets_the_same_leases() {
    let world = World::new().await;
    world.run_csv("digest", &csv(500)).await;
    let mut worker = Worker::new(&world, "w");
    let request = worker.request(2, 10_000);
    let first = worker.client.lease(request.clone()).await.unwrap().into_inner();
    let known = first.definitions[0].hash.clone();
    let again = v1::LeaseRequest { known_definitions: vec![known], ..request };
    let again = worker.client.lease(again).await.unwrap().into_inner();
    let ids = |answer: &v1::LeaseResponse| {
        answer.leases.iter().map(|lease| (lease.batch_id.clone(), lease.fence.clone())).collect::<Vec<_>>()
    };
    assert_eq!(ids(&first), ids(&again));
    assert!(again.definitions.is_empty(), "known definitions are not sent again");
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_name_the_field() {
    let world = World::new().await;
    let mut worker = Worker::new(&world, "w");
    let good = worker.request(1, 0);
    let cases = [
        (v1::LeaseRequest { worker: None, ..good.clone() }, Code::InvalidArgument, "worker"),
        (v1::LeaseRequest { request_id: String::new(), ..good.clone() }, Code::InvalidArgument, "request_id"),
        (v1::LeaseRequest { batches_max: 0, ..good.clone() }, Code::InvalidArgument, "batches_max"),
        (v1::LeaseRequest { batches_max: 65, ..good.clone() }, Code::ResourceExhausted, "leases_per_call_max"),
        (v1::LeaseRequest { wait_ms: 30_001, ..good.clone() }, Code::InvalidArgument, "wait_ms"),
        (v1::LeaseRequest { lanes: vec!["fast".into()], ..good.clone() }, Code::InvalidArgument, "known lanes"),
        (v1::LeaseRequest { known_definitions: vec!["x".into()], ..good }, Code::InvalidArgument, "known_definitions"),
    ];
    for (request, code, part) in cases {
        let error = worker.client.lease(request).await.expect_err("refused");
        assert_eq!(error.code(), code, "{}", error.message());
        assert!(error.message().contains(part), "'{}' has no '{part}'", error.message());
    }
    let leases = vec![v1::LeaseCheckpoint::default(); 65];
    let request = v1::CheckpointRequest { worker: Some(worker.id.clone()), leases };
    assert_eq!(worker.client.checkpoint(request).await.unwrap_err().code(), Code::ResourceExhausted);
    let facts = vec![v1::Fact::default(); 1001];
    let request = v1::FactsRequest { worker: Some(worker.id.clone()), facts };
    assert_eq!(worker.client.facts(request).await.unwrap_err().code(), Code::ResourceExhausted);
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_lease_is_taken_over_and_its_intents_are_in_doubt() {
    let world = World::with(|config| config.lease.ttl = Duration::from_secs(1)).await;
    let run = world.run_csv("digest", &csv(1)).await;
    let mut dead = Worker::new(&world, "dead");
    let lease = dead.lease(1, 10_000).await.leases.remove(0);
    let answer = dead.checkpoint(report(&lease, 1, Vec::new(), vec![0])).await;
    assert_eq!(answer.granted, [0]);
    let mut heir = Worker::new(&world, "heir");
    let delivered = heir.deliver_run(&world, &run).await;
    assert_eq!(delivered.len(), 1);
    let shown = world.show(&run).await;
    assert_eq!((shown.leases_expired, shown.leases_taken_over, shown.resent_outcome_not_recorded), (1, 1, 1));
    assert_eq!(world.recipients(&run, &[]).await[0].unknown_reason, "outcome_not_recorded");

    let late = dead.checkpoint(report(&lease, 2, vec![outcome(0, v1::OutcomeKind::Rejected)], Vec::new())).await;
    assert_eq!(late.status(), v1::LeaseStatus::Settled);
    let fact = v1::Fact {
        batch_id: lease.batch_id.clone(),
        fence: lease.fence.clone(),
        outcome: Some(outcome(0, v1::OutcomeKind::Accepted)),
    };
    let request = v1::FactsRequest { worker: Some(dead.id.clone()), facts: vec![fact] };
    let facts = dead.client.facts(request).await.unwrap().into_inner();
    assert_eq!(facts.facts, [i32::from(v1::FactStatus::Already)]);
    assert_eq!(world.show(&run).await.recipients.unwrap().accepted, 1);
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_ends_with_what_is_in_flight() {
    let world = World::new().await;
    let run = world.run_csv("digest", &csv(5000)).await;
    world.until(&run, "split", |run| run.split_complete).await;
    let mut worker = Worker::new(&world, "w");
    let lease = worker.lease(1, 10_000).await.leases.remove(0);
    assert_eq!(worker.checkpoint(report(&lease, 1, Vec::new(), vec![0])).await.granted, [0]);
    let request = v1::CancelRunRequest { run_id: run.clone() };
    world.admin().cancel_run(request.clone()).await.unwrap();
    world.admin().cancel_run(request).await.unwrap();
    let left = lease.recipients.len() as u64;
    world.until(&run, "converted", |run| run.recipients.unwrap().pending <= left).await;
    assert_eq!(world.show(&run).await.state(), v1::RunState::Sending, "one is still in flight");
    let answer = worker.finish(report(&lease, 2, vec![outcome(0, v1::OutcomeKind::Accepted)], Vec::new())).await;
    assert_eq!(answer.status(), v1::LeaseStatus::Settled);
    let shown = world.until(&run, "cancelled", |run| run.state() == v1::RunState::Cancelled).await;
    let counts = shown.recipients.unwrap();
    assert_eq!((counts.total, counts.accepted, counts.cancelled), (5000, 1, 4999));
    let resume = world.admin().resume_run(v1::ResumeRunRequest { run_id: run.clone() }).await;
    assert_eq!(resume.unwrap_err().code(), Code::FailedPrecondition);
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_run_or_lane_grants_nothing_until_resumed() {
    let world = World::new().await;
    let run = world.run_csv("digest", &csv(10)).await;
    world.until(&run, "split", |run| run.split_complete).await;
    let mut worker = Worker::new(&world, "w");
    world.admin().pause_run(v1::PauseRunRequest { run_id: run.clone() }).await.unwrap();
    assert!(worker.lease(1, 0).await.leases.is_empty());
    assert!(world.show(&run).await.paused);
    world.admin().resume_run(v1::ResumeRunRequest { run_id: run.clone() }).await.unwrap();
    world.admin().pause_lane(v1::PauseLaneRequest { lane: "bulk".into() }).await.unwrap();
    assert!(worker.lease(1, 0).await.leases.is_empty());
    let lanes = world.admin().list_lanes(v1::ListLanesRequest {}).await.unwrap().into_inner().lanes;
    let shown: Vec<_> = lanes.iter().map(|lane| (lane.name.as_str(), lane.weight, lane.paused)).collect();
    assert_eq!(shown, [("transactional", 100, false), ("bulk", 10, true)]);
    assert_eq!(lanes[1].batches_ready, 7);
    let wrong = world.admin().pause_lane(v1::PauseLaneRequest { lane: "fast".into() }).await;
    assert_eq!(wrong.unwrap_err().code(), Code::NotFound);
    world.admin().resume_lane(v1::ResumeLaneRequest { lane: "bulk".into() }).await.unwrap();
    assert_eq!(worker.deliver_run(&world, &run).await.len(), 10);
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_worker_is_told_and_gets_nothing() {
    let world = World::new().await;
    world.run_csv("digest", &csv(700)).await;
    let mut worker = Worker::new(&world, "w1");
    let lease = worker.lease(1, 10_000).await.leases.remove(0);
    let workers = world.admin().list_workers(v1::ListWorkersRequest {}).await.unwrap().into_inner().workers;
    assert_eq!((workers.len(), workers[0].leases, workers[0].slots, workers[0].draining), (1, 1, 256, false));
    let drain = |name: &str| v1::DrainWorkerRequest { worker: name.into() };
    assert_eq!(world.admin().drain_worker(drain("w1")).await.unwrap().into_inner().workers, 1);
    assert_eq!(world.admin().drain_worker(drain("w9")).await.unwrap_err().code(), Code::NotFound);
    let answer = worker.lease(1, 30_000).await;
    assert!(answer.drain && answer.leases.is_empty());
    let deadline = Instant::now() + SOON;
    let mut sequence = 1;
    loop {
        let leases = vec![report(&lease, sequence, Vec::new(), Vec::new())];
        let request = v1::CheckpointRequest { worker: Some(worker.id.clone()), leases };
        if worker.client.checkpoint(request).await.unwrap().into_inner().drain {
            break;
        }
        assert!(Instant::now() < deadline, "a checkpoint does not tell to drain");
        sequence += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let request = v1::ReleaseRequest {
        worker: Some(worker.id.clone()),
        leases: vec![report(&lease, sequence + 1, Vec::new(), Vec::new())],
        abandon: false,
        delay_ms: 0,
    };
    let answer = worker.client.release(request).await.unwrap().into_inner().leases.remove(0);
    assert_eq!((answer.status(), answer.due_in_ms), (v1::LeaseStatus::Returned, 0));
    world.master.stop().await;
}
