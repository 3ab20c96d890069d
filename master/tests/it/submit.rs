//! What is submitted: definitions, audiences, runs, single messages.

use crate::harness::{World, campaign, chunk, csv, header, inline, message, stored};
use postrider_proto::v1;
use tonic::Code;

/// It would be asked by workers, and this build has none that could.
#[cfg(not(feature = "sql"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_query_for_fields_wants_a_build_that_can_ask() {
    let world = World::new().await;
    let mut wanting = campaign("fields", None);
    wanting.message.as_mut().unwrap().data_sql = Some(v1::DataSql {
        url: "env:DATA_DB".into(),
        query: "SELECT id FROM people WHERE id IN (:keys)".into(),
        key: "id".into(),
        timeout_ms: 5_000,
        ..Default::default()
    });
    let request = v1::ApplyCampaignRequest { campaign: Some(wanting), ..Default::default() };
    let error = world.campaigns().apply_campaign(request).await.unwrap_err();
    assert!(error.message().contains("data_sql: ") && error.message().contains("--features sql"), "{error}");
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_is_kept_versioned_and_listed() {
    let world = World::new().await;
    let mut client = world.campaigns();
    let mut digest = campaign("digest", Some(inline(&[r#"{"email":"a@example.com","name":"A"}"#])));
    // With every policy said: so it is kept.
    digest.schedule = Some(v1::Schedule {
        cron: "0 8 * * *".into(),
        time_zone: "Europe/Berlin".into(),
        on_gap: v1::OnGap::RunAfter.into(),
        on_overlap: v1::OnOverlap::Once.into(),
        catch_up: v1::CatchUp::All.into(),
        catch_up_limit: 3,
        catch_up_window_ms: 60_000,
        start_deadline_ms: 5_000,
        overlap: v1::Overlap::Allow.into(),
        jitter_ms: 7,
        start: "2026-01-01".into(),
        end: "2999-12-31".into(),
        ..Default::default()
    });
    digest.notify_url = "https://acme.example/done".into();
    let first = world.apply(digest.clone()).await;
    assert_eq!((first.version, first.changed), (1, true));
    let again = world.apply(digest.clone()).await;
    assert_eq!((again.version, again.changed), (1, false));
    digest.message.as_mut().unwrap().subject = "Other".into();
    assert_eq!(world.apply(digest.clone()).await.version, 2);
    world.apply(campaign("another", None)).await;

    let request = v1::ListCampaignsRequest { after: String::new(), limit: 1 };
    let page = client.list_campaigns(request).await.unwrap().into_inner();
    assert_eq!((page.campaigns.len(), page.next.as_str()), (1, "another"));
    let request = v1::ListCampaignsRequest { after: page.next, limit: 1 };
    let page = client.list_campaigns(request).await.unwrap().into_inner();
    assert_eq!(page.next, "");
    let kept = page.campaigns[0].campaign.clone().unwrap();
    assert_eq!(kept.schedule, digest.schedule);
    assert_eq!(kept.notify_url, digest.notify_url);
    assert_eq!(kept.message.unwrap().subject, "Other");

    client.delete_campaign(v1::DeleteCampaignRequest { name: "another".into() }).await.unwrap();
    let error = client.get_campaign(v1::GetCampaignRequest { name: "another".into(), version: 0 }).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    world.master.stop().await;
}

async fn refused(world: &World, campaign: v1::Campaign, code: Code, parts: &[&str]) {
    let request = v1::ApplyCampaignRequest { campaign: Some(campaign), idempotency_key: String::new() };
    let error = world.campaigns().apply_campaign(request).await.expect_err("refused");
    assert_eq!(error.code(), code, "{}", error.message());
    for part in parts {
        assert!(error.message().contains(part), "'{}' has no '{part}'", error.message());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_refused_with_field_and_mend() {
    let world = World::new().await;
    let with = |change: fn(&mut v1::Campaign)| {
        let mut wrong = campaign("digest", None);
        change(&mut wrong);
        wrong
    };
    let html = |text: &str| {
        let mut wrong = campaign("digest", None);
        wrong.message.as_mut().unwrap().html = text.into();
        wrong
    };
    let invalid = Code::InvalidArgument;
    refused(&world, with(|c| c.name = "Daily Digest".into()), invalid, &["name", "a-z"]).await;
    refused(&world, with(|c| c.lane = "fast".into()), invalid, &["lane", "known lanes: transactional, bulk"]).await;
    refused(&world, with(|c| c.message = None), invalid, &["template"]).await;
    refused(&world, html("a\n  {{ name"), invalid, &["template.html", "line 2"]).await;
    refused(&world, html(&"x".repeat(2_000_000)), Code::ResourceExhausted, &["template_bytes_max"]).await;
    let missing = campaign("digest", Some(stored(&"a".repeat(64), v1::AudienceFormat::Csv)));
    refused(&world, missing, Code::NotFound, &["audience_id", "upload"]).await;
    let nobody = campaign("digest", Some(inline(&[])));
    world.apply(nobody).await;
    world.master.stop().await;
}

fn files(folder: &std::path::Path) -> usize {
    std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 })
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_upload_leaves_nothing() {
    let world = World::with(|config| config.audience_bytes_max = 1000).await;
    let csv_format = v1::AudienceFormat::Csv;
    let sent = |parts: Vec<v1::UploadAudienceRequest>| {
        let mut client = world.campaigns();
        async move { client.upload_audience(tokio_stream::iter(parts)).await.map(tonic::Response::into_inner) }
    };
    let cases = [
        (vec![], Code::InvalidArgument, "header"),
        (vec![chunk(vec![1])], Code::InvalidArgument, "header"),
        (vec![header(csv_format, ""), header(csv_format, "")], Code::InvalidArgument, "header"),
        (vec![header(v1::AudienceFormat::Unspecified, "")], Code::InvalidArgument, "header.format"),
        (vec![header(csv_format, &"0".repeat(64)), chunk(vec![1])], Code::InvalidArgument, "header.sha256"),
        (vec![header(csv_format, ""), chunk(vec![1; 600]), chunk(vec![1; 401])], Code::ResourceExhausted, "1000"),
    ];
    for (parts, code, part) in cases {
        let error = sent(parts).await.expect_err("refused");
        assert_eq!(error.code(), code, "{}", error.message());
        assert!(error.message().contains(part), "'{}' has no '{part}'", error.message());
        assert_eq!(files(world.storage.path()), 0);
    }
    assert!(
        sent(vec![header(csv_format, ""), chunk(vec![1; 1001])])
            .await
            .unwrap_err()
            .message()
            .contains("audience_bytes_max")
    );
    let good = sent(vec![header(csv_format, ""), chunk(vec![1; 600]), chunk(vec![1; 400])]).await.unwrap();
    let again = sent(vec![header(csv_format, ""), chunk(vec![1; 1000])]).await.unwrap();
    assert_eq!(good.audience_id, again.audience_id, "named by contents");
    assert_eq!(files(world.storage.path()), 1);
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_in_mid_upload_leaves_nothing() {
    let world = World::new().await;
    let (sender, receiver) = tokio::sync::mpsc::channel(2);
    // A runtime of its own, whose end closes the connection as the end of a process would.
    let client = tokio::runtime::Runtime::new().unwrap();
    let address = format!("http://{}", world.master.grpc_addr());
    client.spawn(async move {
        let mut client = v1::campaigns_client::CampaignsClient::connect(address).await.unwrap();
        client.upload_audience(tokio_stream::wrappers::ReceiverStream::new(receiver)).await
    });
    sender.send(header(v1::AudienceFormat::Csv, "")).await.unwrap();
    sender.send(chunk(vec![b'x'; 1_000_000])).await.unwrap();
    let deadline = tokio::time::Instant::now() + crate::harness::SOON;
    while files(world.storage.path()) == 0 {
        assert!(tokio::time::Instant::now() < deadline, "the upload does not begin");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    // The stream is never ended in good order: that would be a whole upload.
    client.shutdown_background();
    while files(world.storage.path()) != 0 {
        assert!(tokio::time::Instant::now() < deadline, "the upload was not removed");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    drop(sender);
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_is_the_same_run() {
    let world = World::new().await;
    let id = world.upload(&csv(3), v1::AudienceFormat::Csv).await;
    world.apply(campaign("digest", Some(stored(&id, v1::AudienceFormat::Csv)))).await;
    let mut client = world.campaigns();
    let request = |key: &str, audience| v1::RunCampaignRequest {
        campaign: "digest".into(),
        idempotency_key: key.into(),
        audience,
    };
    let first = client.run_campaign(request("k", None)).await.unwrap().into_inner();
    assert!(first.created);
    // The campaign changes; the repeat is still the run that was started.
    world.apply(campaign("digest", Some(inline(&[])))).await;
    let again = client.run_campaign(request("k", None)).await.unwrap().into_inner();
    assert_eq!((&again.run_id, again.created), (&first.run_id, false));
    let other = client.run_campaign(request("k", Some(inline(&["{}"])))).await.expect_err("conflict");
    assert_eq!(other.code(), Code::AlreadyExists);
    let fresh = [world.run("digest", "").await, world.run("digest", "").await];
    assert_ne!(fresh[0], fresh[1]);
    let error = client.run_campaign(request("a b", None)).await.expect_err("refused");
    assert!(error.message().contains("idempotency_key"), "{}", error.message());

    client.pause_campaign(v1::PauseCampaignRequest { name: "digest".into() }).await.unwrap();
    assert_eq!(client.run_campaign(request("p", None)).await.unwrap_err().code(), Code::FailedPrecondition);
    assert!(!client.run_campaign(request("k", None)).await.unwrap().into_inner().created);
    client.resume_campaign(v1::ResumeCampaignRequest { name: "digest".into() }).await.unwrap();
    client.delete_campaign(v1::DeleteCampaignRequest { name: "digest".into() }).await.unwrap();
    assert_eq!(client.run_campaign(request("new", None)).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(client.run_campaign(request("k", None)).await.unwrap().into_inner().run_id, first.run_id);

    world.apply(campaign("empty", None)).await;
    let error = client.run_campaign(v1::RunCampaignRequest { campaign: "empty".into(), ..request("", None) }).await;
    assert_eq!(error.unwrap_err().code(), Code::FailedPrecondition);
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_message_is_a_run_with_one_recipient() {
    let world = World::new().await;
    let mut client = world.messages();
    let request = v1::SendMessageRequest {
        message: Some(message()),
        to: "Ada@Example.com".into(),
        fields_json: r#"{"name": "Ada", "to": "x"}"#.into(),
        idempotency_key: "reset-1".into(),
        correlation_id: "c-7".into(),
        ..v1::SendMessageRequest::default()
    };
    let first = client.send_message(request.clone()).await.unwrap().into_inner();
    let again = client.send_message(request.clone()).await.unwrap().into_inner();
    assert_eq!((&first.run_id, first.created, again.created), (&again.run_id, true, false));
    let other = v1::SendMessageRequest { to: "b@example.com".into(), ..request.clone() };
    assert_eq!(client.send_message(other).await.unwrap_err().code(), Code::AlreadyExists);

    let mut worker = crate::harness::Worker::new(&world, "w");
    let answer = worker.lease(1, 5000).await;
    let (lease, definition) = (&answer.leases[0], answer.definitions[0].message.as_ref().unwrap());
    assert_eq!((lease.run_id.as_str(), lease.lane.as_str()), (first.run_id.as_str(), "transactional"));
    assert_eq!(definition.correlation_id, "c-7");
    assert_eq!(worker.deliver(lease).await, ["ada@example.com"]);
    let run = world.until(&first.run_id, "finished", |run| run.state() == v1::RunState::Finished).await;
    assert_eq!(run.recipients.unwrap().accepted, 1);
    let recipients = world.recipients(&first.run_id, &[]).await;
    assert_eq!(recipients[0].address, "Ada@Example.com");
    assert!(recipients[0].message_id.ends_with("@acme.example>"));

    for (change, part) in [
        (v1::SendMessageRequest { to: "ada".into(), ..request.clone() }, "to: "),
        (v1::SendMessageRequest { fields_json: "[]".into(), ..request.clone() }, "fields_json: "),
        (v1::SendMessageRequest { message: None, ..request.clone() }, "message: "),
        (v1::SendMessageRequest { campaign: "x".into(), ..request.clone() }, "message: "),
        (v1::SendMessageRequest { lane: "fast".into(), ..request.clone() }, "known lanes"),
        (v1::SendMessageRequest { correlation_id: "\n".into(), ..request.clone() }, "correlation_id: "),
        (v1::SendMessageRequest { from: "nobody".into(), ..request.clone() }, "from: "),
    ] {
        let change = v1::SendMessageRequest { idempotency_key: String::new(), ..change };
        let error = client.send_message(change).await.expect_err("refused");
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().contains(part), "{}", error.message());
    }
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_message_of_a_campaign_may_have_another_sender() {
    let world = World::new().await;
    world.apply(campaign("digest", Some(inline(&["{}"])))).await;
    let mut worker = crate::harness::Worker::new(&world, "w");
    for (key, from, expected) in
        [("a", "", message().from), ("b", "Desk <desk@acme.example>", "Desk <desk@acme.example>".into())]
    {
        let request = v1::SendMessageRequest {
            campaign: "digest".into(),
            to: "ada@example.com".into(),
            idempotency_key: key.into(),
            from: from.into(),
            ..v1::SendMessageRequest::default()
        };
        world.messages().send_message(request).await.unwrap();
        let answer = worker.lease(1, 5000).await;
        assert_eq!(answer.definitions[0].message.as_ref().unwrap().from, expected);
        worker.deliver(&answer.leases[0]).await;
    }
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_with_waves_that_the_store_lost_is_due_when_it_was() {
    let world = World::new().await;
    let mut digest = campaign("digest", Some(inline(&[r#"{"email":"a@example.com","name":"A"}"#])));
    digest.send_at_local =
        Some(v1::SendAtLocal { at: "08:00".into(), default_zone: "Europe/Berlin".into(), ..Default::default() });
    world.apply(digest.clone()).await;
    let run = world.run("digest", "key").await;
    let due = world.show(&run).await.nominal_at_ms;
    assert_eq!(world.run("digest", "key").await, run);
    let anew = world.on_an_empty_store().await;
    anew.apply(digest).await;
    assert_eq!(anew.run("digest", "key").await, run);
    assert_eq!(anew.show(&run).await.nominal_at_ms, due);
    assert!(anew.show(&anew.run("digest", "other").await).await.nominal_at_ms > due);
    world.master.stop().await;
    anew.master.stop().await;
}
