//! What was given up: dead letters, retries, and runs whose lane left.

use crate::harness::{SOON, Worker, World, csv, outcome, report};
use postrider_common::lane;
use postrider_proto::v1;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Code;

/// A run of one recipient that ended three workers.
async fn dead_letter(world: &World) -> (String, v1::DeadLetter) {
    let run = world.run_csv("digest", &csv(1)).await;
    let deadline = Instant::now() + SOON;
    let request = v1::ListDeadLettersRequest { run_id: run.clone(), ..Default::default() };
    loop {
        let letters = world.admin().list_dead_letters(request.clone()).await.unwrap().into_inner().letters;
        if let Some(letter) = letters.into_iter().next() {
            return (run, letter);
        }
        assert!(Instant::now() < deadline, "nobody is set aside: {:?}", world.show(&run).await);
        // Each is a worker that begins with it and is not heard of again.
        let mut worker = Worker::new(world, "w");
        for lease in worker.lease(1, 200).await.leases {
            worker.checkpoint(report(&lease, 1, Vec::new(), vec![0])).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_shown_replayed_and_purged() {
    let world = World::new().await;
    let (run, letter) = dead_letter(&world).await;
    let recipient = letter.recipient.clone().unwrap();
    assert_eq!((recipient.address.as_str(), recipient.state()), ("user0@gmail.com", v1::RecipientState::Unknown));
    assert_eq!((letter.reason.as_str(), letter.run_id.as_str()), ("ends workers", run.as_str()));
    assert_eq!(letter.campaign, "digest");
    let shown = world.admin().get_dead_letter(v1::GetDeadLetterRequest { id: letter.id.clone() }).await.unwrap();
    assert_eq!(shown.into_inner().letter, Some(letter.clone()));
    assert!(world.metrics().await.contains("postrider_dead_letters_total 1"));
    assert_eq!(world.show(&run).await.state(), v1::RunState::Finished);

    let replay = |include_unknown| v1::ReplayDeadLetterRequest { id: letter.id.clone(), include_unknown };
    let status = world.admin().replay_dead_letter(replay(false)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("--unknown"), "{status:?}");
    let answer = world.admin().replay_dead_letter(replay(true)).await.unwrap().into_inner();
    assert_eq!(answer.recipients, 1);
    assert_eq!(world.admin().replay_dead_letter(replay(true)).await.unwrap_err().code(), Code::NotFound);
    let shown = world.show(&run).await;
    assert_eq!((shown.state(), shown.generation), (v1::RunState::Sending, 1));
    let delivered = Worker::new(&world, "w").deliver_run(&world, &run).await;
    assert_eq!(delivered.len(), 1);
    assert_eq!(world.show(&run).await.resent_outcome_not_recorded, 3, "two by expiries, one by the replay");
    let purge = v1::PurgeDeadLetterRequest { id: letter.id.clone() };
    assert_eq!(world.admin().purge_dead_letter(purge).await.unwrap_err().code(), Code::NotFound);
    let wrong = v1::PurgeDeadLetterRequest { id: "run_1".into() };
    assert_eq!(world.admin().purge_dead_letter(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_begins_again_with_whom_it_gave_up() {
    let world = World::with(|config| {
        for lane in &mut config.lanes {
            lane.retry.ttl_ms = 1;
        }
    })
    .await;
    let run = world.run_csv("digest", &csv(1)).await;
    let mut worker = Worker::new(&world, "w");
    let lease = worker.lease(1, 5_000).await.leases.remove(0);
    worker.checkpoint(report(&lease, 1, Vec::new(), vec![0])).await;
    worker.finish(report(&lease, 2, vec![outcome(0, v1::OutcomeKind::Deferred)], Vec::new())).await;
    let ended = world.show(&run).await;
    assert_eq!((ended.state(), ended.recipients.unwrap().exhausted), (v1::RunState::Finished, 1));

    let retry = |run: &str, key: &str, include_unknown, after| v1::RetryRunRequest {
        run_id: run.into(),
        include_unknown,
        idempotency_key: key.into(),
        after,
    };
    let answer = world.admin().retry_run(retry(&run, "once", false, 0)).await.unwrap().into_inner();
    assert_eq!(answer, v1::RetryRunResponse { generation: 1, recipients: 1, next: 0 });
    let again = world.admin().retry_run(retry(&run, "once", false, 0)).await.unwrap().into_inner();
    assert_eq!(again, v1::RetryRunResponse { generation: 1, recipients: 0, next: 0 });
    for (request, code) in [
        (retry(&run, "once", true, 0), Code::AlreadyExists),
        (retry(&run, "", false, 1), Code::InvalidArgument),
        (retry("run_none", "", false, 0), Code::NotFound),
    ] {
        assert_eq!(world.admin().retry_run(request).await.unwrap_err().code(), code);
    }
    assert_eq!(world.show(&run).await.state(), v1::RunState::Sending);
    let delivered = worker.deliver_run(&world, &run).await;
    assert_eq!(delivered.len(), 1);
    let unkeyed = world.admin().retry_run(retry(&run, "", false, 0)).await.unwrap().into_inner();
    assert_eq!((unkeyed.generation, unkeyed.recipients), (2, 0));
    world.admin().cancel_run(v1::CancelRunRequest { run_id: run.clone() }).await.unwrap();
    let cancelled = world.admin().retry_run(retry(&run, "", false, 0)).await.unwrap_err();
    assert_eq!(cancelled.code(), Code::FailedPrecondition);
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_lane_left_says_so() {
    let world = World::with(|config| {
        let mut night = lane::defaults().remove(0);
        night.name = "night".parse().unwrap();
        config.lanes.push(night);
    })
    .await;
    let mut campaign = crate::harness::campaign("late", Some(crate::harness::inline(&[r#"{"email":"a@x.example"}"#])));
    campaign.lane = "night".into();
    world.apply(campaign).await;
    let run = world.run("late", "key").await;
    world.until(&run, "the split", |run| run.split_complete).await;
    assert_eq!(world.show(&run).await.error, None);

    let without = world.again().await;
    let shown = without.show(&run).await;
    let error = shown.error.clone().expect("it says why it waits");
    assert_eq!((shown.state(), error.code.as_str()), (v1::RunState::Sending, "lane_unknown"));
    assert!(error.message.contains("'night'") && error.mend.contains("name = \"night\""), "{error:?}");
    let leases = Worker::new(&without, "w").lease(1, 100).await.leases;
    assert!(leases.is_empty(), "nothing is sent without the limits of its lane");
    let delivered = Worker::new(&world, "w").deliver_run(&world, &run).await;
    assert_eq!(delivered.len(), 1);
    assert_eq!(without.show(&run).await.error, None, "a run that ended waits for nothing");
    tokio::time::timeout(Duration::from_secs(10), without.master.stop()).await.unwrap();
    world.master.stop().await;
}
