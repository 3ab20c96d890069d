//! Retention: what ended long enough ago is gone, and its idempotency key is free again.

use crate::harness::{SOON, Worker, World, csv, message};
use postrider_master::Retention;
use postrider_proto::v1;
use postrider_proto::v1::find_recipient_response::Part;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Code;

async fn is_there(world: &World, run: &str) -> bool {
    match world.admin().get_run(v1::GetRunRequest { run_id: run.into() }).await {
        Ok(_) => true,
        Err(status) => {
            assert_eq!(status.code(), Code::NotFound, "{status}");
            false
        }
    }
}

/// All of it: nothing of its batches is left either.
async fn until_forgotten(world: &World, run: &str) {
    let deadline = Instant::now() + SOON;
    while is_there(world, run).await || !world.store.runs_to_forget(1).await.unwrap().is_empty() {
        assert!(Instant::now() < deadline, "not forgotten in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn is_found(world: &World, address: &str) -> bool {
    let request = v1::FindRecipientRequest { address: address.into() };
    let mut found = world.admin().find_recipient(request).await.unwrap().into_inner();
    matches!(found.message().await.unwrap().unwrap().part.unwrap(), Part::Found(_))
}

async fn forgotten(world: &World) -> u64 {
    let metrics = world.metrics().await;
    let line = metrics.lines().find_map(|line| line.strip_prefix("postrider_runs_forgotten_total "));
    line.unwrap().parse().unwrap()
}

async fn send(world: &World) -> String {
    let message = v1::MessageDefinition { subject: "Hello".into(), html: "<p>Hello</p>".into(), ..message() };
    let request = v1::SendMessageRequest {
        to: "ada@x.example".into(),
        message: Some(message),
        ..v1::SendMessageRequest::default()
    };
    world.messages().send_message(request).await.unwrap().into_inner().run_id
}

/// Masters that keep for long do the work, so that nothing is forgotten before it was looked at.
#[tokio::test(flavor = "multi_thread")]
async fn what_ended_is_forgotten_by_any_masters_and_nothing_else() {
    let world = World::new().await;
    world.run_csv("digest", &csv(1500)).await;
    let run = world.run("digest", "monday").await;
    let mut worker = Worker::new(&world, "w");
    worker.deliver_run(&world, &run).await;
    let single = send(&world).await;
    worker.deliver_run(&world, &single).await;
    // Every run of the campaign has ended; nobody sends this one, however long ago it was created.
    let shown = world.admin().list_runs(v1::ListRunsRequest::default()).await.unwrap().into_inner().runs;
    for run in &shown {
        worker.deliver_run(&world, &run.run_id).await;
    }
    let waiting = world.run_csv("waiting", "email\nbo@x.example\n").await;
    world.until(&waiting, "split", |run| run.split_complete).await;
    assert!(is_found(&world, "user11@gmx.de").await && is_found(&world, "ada@x.example").await);

    let short = |config: &mut postrider_master::MasterConfig| {
        config.retention = Retention { runs: Some(Duration::from_secs(1)), messages: None, dead_letters: None };
    };
    let (one, two) = (world.again_with(short).await, world.again_with(short).await);
    until_forgotten(&world, &run).await;
    let deadline = Instant::now() + SOON;
    while forgotten(&one).await + forgotten(&two).await < 2 {
        assert!(Instant::now() < deadline, "both runs of the campaign are counted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!is_found(&world, "user11@gmx.de").await, "neither in the store nor in history");
    assert!(is_found(&world, "ada@x.example").await, "single messages are kept for ever");
    assert!(is_there(&world, &single).await && is_there(&world, &waiting).await);
    assert_eq!(forgotten(&one).await + forgotten(&two).await, 2, "each is counted once");
    one.master.stop().await;
    two.master.stop().await;

    // The campaign and its audience are as they were; the key makes a run again.
    assert_eq!(world.run("digest", "monday").await, run);
    worker.deliver_run(&world, &run).await;
    assert_eq!(world.show(&run).await.recipients.map(|counts| (counts.total, counts.accepted)), Some((1500, 1500)));
    world.master.stop().await;
}
