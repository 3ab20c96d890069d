//! Start, health, watching, stop.

use crate::harness::{SOON, Worker, World, config, csv};
use postrider_common::SystemClock;
use postrider_master::{StartError, start};
use postrider_proto::v1;
use postrider_store::embedded::Embedded;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

#[tokio::test(flavor = "multi_thread")]
async fn a_master_listens_on_loopback_only_and_says_what_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(SystemClock::default());
    let begin = |config| start(config, Arc::new(Embedded::in_memory(clock.clone())), clock.clone());
    let mut wrong = config(&folder);
    wrong.grpc_listen = "0.0.0.0:0".parse().unwrap();
    assert!(matches!(begin(wrong).await, Err(StartError::NotLoopback { field: "grpc_listen", .. })));
    let master = begin(config(&folder)).await.unwrap();
    let mut taken = config(&folder);
    taken.http_listen = master.http_addr();
    let error = begin(taken).await.expect_err("taken");
    assert!(error.to_string().contains("http_listen"), "{error}");
    let mut nowhere = config(&folder);
    nowhere.storage = "/proc/nowhere".into();
    assert!(matches!(begin(nowhere).await, Err(StartError::Storage(_))));
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_readiness_metrics_and_reflection_answer() {
    let world = World::new().await;
    let mut health = HealthClient::new(world.channel.clone());
    for service in
        ["", "postrider.v1.Dispatch", "postrider.v1.Campaigns", "postrider.v1.Messages", "postrider.v1.Admin"]
    {
        let answer = health.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    assert_eq!(world.http("/healthz").await, (200, "ok\n".into()));
    assert_eq!(world.http("/readyz").await, (200, "ready\n".into()));
    assert_eq!(world.http("/nothing").await.0, 404);
    let metrics = world.metrics().await;
    assert!(metrics.contains("postrider_long_polls_held 0") && metrics.ends_with("# EOF\n"), "{metrics}");

    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_response::MessageResponse};
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let ask = ServerReflectionRequest { host: String::new(), message_request };
    let mut client = ServerReflectionClient::new(world.channel.clone());
    let mut answers = client.server_reflection_info(tokio_stream::iter([ask])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    assert!(list.service.iter().any(|service| service.name == "postrider.v1.Dispatch"));
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_answers_held_calls_at_once_and_is_seen_first() {
    let world = World::new().await;
    let mut worker = Worker::new(&world, "w");
    let request = worker.request(1, 30_000);
    let mut client = world.dispatch();
    let held = tokio::spawn(async move { client.lease(request).await });
    let mut health = HealthClient::new(world.channel.clone());
    let check = HealthCheckRequest { service: "postrider.v1.Dispatch".into() };
    let mut watched = health.watch(check).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let deadline = Instant::now() + SOON;
    while !world.metrics().await.contains("postrider_long_polls_held 1") {
        assert!(Instant::now() < deadline, "the call is not held");
    }
    let begun = Instant::now();
    let stop = tokio::spawn(world.master.stop());
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    drop(watched);
    let answer = held.await.unwrap().unwrap().into_inner();
    assert!(answer.leases.is_empty());
    stop.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let late = worker.request(1, 0);
    let code = worker.client.lease(late).await.unwrap_err().code();
    // By the contract a worker retries both, on any master. A closed connection is reported as either.
    assert!(matches!(code, Code::Unavailable | Code::Cancelled), "{code:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_run_is_followed_to_its_end() {
    let world = World::new().await;
    let run = world.run_csv("digest", &csv(300)).await;
    let request = v1::WatchRunRequest { run_id: run.clone(), interval_ms: 100 };
    let mut watched = world.admin().watch_run(request).await.unwrap().into_inner();
    let mut worker = Worker::new(&world, "w");
    let work = worker.deliver_run(&world, &run);
    let watch = async {
        let mut seen = Vec::new();
        while let Some(answer) = watched.message().await.unwrap() {
            seen.push(answer.run.unwrap());
        }
        seen
    };
    let (_, seen) = tokio::join!(work, watch);
    assert_eq!(seen.last().unwrap().state(), v1::RunState::Finished);
    assert!(seen.windows(2).all(|pair| pair[0] != pair[1]), "only changes are sent");
    let wrong = v1::WatchRunRequest { run_id: "run_nothing".into(), interval_ms: 0 };
    assert_eq!(world.admin().watch_run(wrong).await.unwrap_err().code(), Code::NotFound);
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_listed_newest_first_page_by_page() {
    let world = World::new().await;
    let mut runs = Vec::new();
    for n in 0..5 {
        runs.push(world.run_csv(if n % 2 == 0 { "even" } else { "odd" }, "email\n").await);
    }
    let mut admin = world.admin();
    for (campaign, wanted) in [("", 5), ("even", 3), ("odd", 2), ("none", 0)] {
        let mut listed = Vec::new();
        let mut after = String::new();
        loop {
            let request = v1::ListRunsRequest { campaign: campaign.into(), after, limit: 2 };
            let page = admin.list_runs(request).await.unwrap().into_inner();
            assert!(page.runs.len() <= 2);
            listed.extend(page.runs.into_iter().map(|run| (run.nominal_at_ms, run.run_id)));
            after = page.next;
            if after.is_empty() {
                break;
            }
        }
        assert_eq!(listed.len(), wanted, "{campaign}");
        assert!(listed.windows(2).all(|pair| pair[0] > pair[1]), "{listed:?}");
    }
    let wrong = v1::ListRunsRequest { after: "x".into(), ..v1::ListRunsRequest::default() };
    assert_eq!(admin.list_runs(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    world.master.stop().await;
}
