//! How audiences become batches: bad rows, limits, and masters that die while splitting.

use crate::harness::{SOON, Worker, World, campaign, csv, inline, stored};
use postrider_common::limits::{SPLIT_AHEAD_BATCHES, SPLIT_STEP_BATCHES_MAX};
use postrider_common::payload;
use postrider_proto::v1;
use std::collections::BTreeSet;
use std::time::Duration;

async fn ended(world: &World, run: &str) -> v1::Run {
    let ended = |run: &v1::Run| matches!(run.state(), v1::RunState::Finished | v1::RunState::Failed);
    world.until(run, "ended", ended).await
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_and_repeated_rows_are_counted_and_shown() {
    let world = World::new().await;
    let text = "email,name\na@example.com,A\nnot an address,B\nA@example.com,again\nb@example.com\nc@example.com,C\n";
    let run = world.run_csv("digest", text).await;
    let shown = world.until(&run, "split", |run| run.split_complete).await;
    assert_eq!((shown.recipients.unwrap().total, shown.bad_rows, shown.repeated_rows), (2, 2, 1));
    let bad = world.admin().list_bad_rows(v1::ListBadRowsRequest { run_id: run.clone() }).await.unwrap().into_inner();
    let rows: Vec<u64> = bad.rows.iter().map(|row| row.row).collect();
    assert_eq!((rows, bad.total), (vec![2, 4], 2));
    assert!(bad.rows.iter().all(|row| !row.reason.contains("not an address")), "{bad:?}");
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_audience_of_another_encoding_has_the_columns_it_is_given() {
    let world = World::new().await;
    let text = b"E-Mail;Vorname\na@example.com;J\xf6rg\nb@example.com;\x80\n";
    let id = world.upload(zstd::encode_all(&text[..], 1).unwrap(), v1::AudienceFormat::Csv).await;
    let columns = [("E-Mail", "email"), ("Vorname", "name")];
    let audience = v1::AudienceSource {
        encoding: "windows-1252".into(),
        delimiter: ";".into(),
        columns: columns.map(|(source, name)| (source.to_owned(), name.to_owned())).into(),
        ..stored(&id, v1::AudienceFormat::Csv)
    };
    world.apply(campaign("foreign", Some(audience.clone()))).await;
    let run = world.run("foreign", "").await;
    world.until(&run, "split", |run| run.split_complete).await;
    let leases = Worker::new(&world, "w").lease(1, 5_000).await.leases;
    let recipients = payload::decode(&leases[0].payload).unwrap();
    let names: Vec<_> = recipients.iter().map(|one| (one.address.as_str(), one.fields["name"].as_str())).collect();
    assert_eq!(names, [("a@example.com", Some("J\u{f6}rg")), ("b@example.com", Some("\u{20ac}"))]);

    let wrong = |audience| v1::ApplyCampaignRequest {
        campaign: Some(campaign("foreign", Some(audience))),
        idempotency_key: String::new(),
    };
    for (audience, field) in [
        (v1::AudienceSource { encoding: "latin-x".into(), ..audience.clone() }, "audience.encoding"),
        (v1::AudienceSource { delimiter: "\u{a7}".into(), ..audience.clone() }, "audience.delimiter"),
        (v1::AudienceSource { delimiter: ";;".into(), ..audience.clone() }, "audience.delimiter"),
    ] {
        let status = world.campaigns().apply_campaign(wrong(audience)).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains(field), "{status:?}");
    }
    // Overnight somebody renamed a column.
    let id = world.upload("E-Mail;Name\na@example.com;A\n", v1::AudienceFormat::Csv).await;
    world.apply(campaign("foreign", Some(v1::AudienceSource { audience_id: id, ..audience }))).await;
    let error = ended(&world, &world.run("foreign", "").await).await.error.unwrap();
    assert_eq!(error.code, "audience_column_missing");
    assert!(error.message.contains("'Vorname'"), "{error:?}");
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_audience_finishes_with_nothing() {
    let world = World::new().await;
    for (name, text) in [("a", ""), ("b", "email,name\n"), ("c", "email,name\nx,y\n")] {
        let run = world.run_csv(name, text).await;
        let shown = ended(&world, &run).await;
        assert_eq!((shown.state(), shown.recipients.unwrap().total), (v1::RunState::Finished, 0));
        assert_eq!(shown.bad_rows, u64::from(name == "c"));
        assert!(shown.finished_at_ms > 0);
    }
    world.apply(campaign("inline", Some(inline(&[])))).await;
    let run = world.run("inline", "").await;
    assert_eq!(ended(&world, &run).await.state(), v1::RunState::Finished);
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audience_that_cannot_be_read_fails_the_run_with_a_mend() {
    let world = World::new().await;
    let run = world.run_csv("column", "e-mail,name\na@example.com,A\n").await;
    let error = ended(&world, &run).await.error.unwrap();
    assert_eq!(error.code, "audience_column_missing");
    assert!(error.message.contains("'e-mail', 'name'") && error.mend.contains("did you mean 'e-mail'?"), "{error:?}");

    let id = world.upload("{\"mail\":\"a@example.com\"}\n", v1::AudienceFormat::Ndjson).await;
    world.apply(campaign("member", Some(stored(&id, v1::AudienceFormat::Ndjson)))).await;
    let run = world.run("member", "").await;
    assert_eq!(ended(&world, &run).await.error.unwrap().code, "audience_column_missing");

    let id = world.upload("email\nz@example.com\n", v1::AudienceFormat::Csv).await;
    world.apply(campaign("gone", Some(stored(&id, v1::AudienceFormat::Csv)))).await;
    std::fs::remove_file(world.storage.path().join("audiences").join(&id)).unwrap();
    // The campaign was applied with the audience there; now its runs are refused.
    let request = v1::RunCampaignRequest { campaign: "gone".into(), ..v1::RunCampaignRequest::default() };
    assert_eq!(world.campaigns().run_campaign(request).await.unwrap_err().code(), tonic::Code::NotFound);
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_row_fails_the_run_when_told_to_and_resume_goes_on() {
    let world = World::new().await;
    let id = world.upload("email\na@example.com\nwrong\n", v1::AudienceFormat::Csv).await;
    let mut strict = campaign("strict", Some(stored(&id, v1::AudienceFormat::Csv)));
    strict.on_bad_row = v1::OnBadRow::Fail.into();
    world.apply(strict).await;
    let run = world.run("strict", "").await;
    let shown = ended(&world, &run).await;
    let error = shown.error.unwrap();
    assert_eq!((error.code.as_str(), error.message.as_str()), ("bad_row", "row 2: not a mail address: it has no @"));
    assert!(Worker::new(&world, "w").lease(1, 0).await.leases.is_empty(), "nothing is sent by a failed run");
    let before = shown.started_at_ms;
    world.admin().resume_run(v1::ResumeRunRequest { run_id: run.clone() }).await.unwrap();
    let again = ended(&world, &run).await;
    assert_eq!((again.error.unwrap().code.as_str(), again.started_at_ms), ("bad_row", before));
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audience_that_went_away_fails_the_run_until_it_is_back() {
    let world = World::new().await;
    let text = csv(ROWS);
    let run = world.run_csv("huge", &text).await;
    world.until(&run, "ahead", |run| run.batches.unwrap().ready >= SPLIT_AHEAD_BATCHES).await;
    let next = world.again().await;
    world.master.stop().await;
    // The split that `next` has meanwhile, if it has, reads on from the file that it has open; its
    // successor finds none.
    std::fs::remove_dir_all(world.storage.path().join("audiences")).unwrap();
    let last = next.again().await;
    next.master.stop().await;
    let shown = ended(&last, &run).await;
    let error = shown.error.unwrap();
    assert_eq!(error.code, "audience_missing", "{error:?}");
    last.upload(&text, v1::AudienceFormat::Csv).await;
    last.admin().resume_run(v1::ResumeRunRequest { run_id: run.clone() }).await.unwrap();
    let mut worker = Worker::new(&last, "w");
    assert_eq!(worker.deliver_run(&last, &run).await.len(), ROWS);
    last.master.stop().await;
}

async fn keys(world: &World, run: &str) -> BTreeSet<String> {
    let recipients = world.recipients(run, &[]).await;
    let count = recipients.len();
    let keys: BTreeSet<String> = recipients.into_iter().map(|r| r.key).collect();
    assert_eq!(keys.len(), count, "nobody twice");
    keys
}

/// Rows that make more batches than may wait for workers: the split is still under way when they do.
const ROWS: usize = 110_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_split_keeps_a_bounded_way_ahead_and_the_run_ends() {
    let world = World::new().await;
    let text = csv(ROWS);
    let run = world.run_csv("huge", &text).await;
    let is_ahead = |run: &v1::Run| run.batches.unwrap().ready >= SPLIT_AHEAD_BATCHES;
    let shown = world.until(&run, "ahead", is_ahead).await;
    assert_eq!(shown.state(), v1::RunState::Splitting);
    assert!(shown.batches.unwrap().ready < SPLIT_AHEAD_BATCHES + SPLIT_STEP_BATCHES_MAX as u64);

    // Small is not stuck behind big.
    let small = world.run_csv("small", &csv(3)).await;
    world.until(&small, "split", |run| run.split_complete).await;
    let shown = world.show(&run).await;
    assert!(!shown.split_complete, "the huge one waits for its workers");
    assert!(shown.batches.unwrap().ready < SPLIT_AHEAD_BATCHES + SPLIT_STEP_BATCHES_MAX as u64);

    let mut worker = Worker::new(&world, "w");
    let delivered = worker.deliver_run(&world, &run).await;
    assert!(delivered.values().all(|count| *count <= 2), "three addresses are in both runs");
    let counts = world.show(&run).await.recipients.unwrap();
    assert_eq!((counts.total, counts.accepted), (ROWS as u64, ROWS as u64));
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_master_goes_on_with_the_split_of_one_that_stopped() {
    goes_on(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_master_goes_on_with_the_split_of_one_that_died() {
    goes_on(false).await;
}

async fn goes_on(orderly: bool) {
    let text = csv(ROWS);
    let whole: BTreeSet<String> = text.lines().skip(1).map(|line| line.split(',').next().unwrap().to_owned()).collect();
    let mut world = World::new().await;
    let run = world.run_csv("huge", &text).await;
    // Once while it is under way, once while it waits for workers.
    for ready in [60, SPLIT_AHEAD_BATCHES] {
        let shown = world.until(&run, "under way", |run| run.batches.unwrap().ready >= ready).await;
        assert!(!shown.split_complete);
        let next = world.again().await;
        let World { master, .. } = world;
        if orderly {
            master.stop().await;
        } else {
            drop(master);
        }
        world = next;
    }
    let mut worker = Worker::new(&world, "w");
    let delivered = worker.deliver_run(&world, &run).await;
    assert_eq!(delivered.len(), ROWS);
    assert!(delivered.values().all(|count| *count == 1));
    assert_eq!(keys(&world, &run).await, whole);
    let shown = world.show(&run).await;
    assert_eq!((shown.repeated_rows, shown.bad_rows), (0, 0));
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_masters_split_a_run_once() {
    let world = World::new().await;
    let other = world.again().await;
    let mut runs = Vec::new();
    for n in 0..8 {
        runs.push(world.run_csv(&format!("c{n}"), &csv(1000 + n)).await);
    }
    for (n, run) in runs.iter().enumerate() {
        world.until(run, "split", |run| run.split_complete).await;
        assert_eq!(keys(&other, run).await.len(), 1000 + n);
    }
    tokio::time::timeout(SOON, world.master.stop()).await.unwrap();
    other.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_split_stops() {
    let world = World::new().await;
    let run = world.run_csv("huge", &csv(ROWS)).await;
    world.until(&run, "ahead", |run| run.batches.unwrap().ready >= SPLIT_AHEAD_BATCHES).await;
    world.admin().cancel_run(v1::CancelRunRequest { run_id: run.clone() }).await.unwrap();
    let shown = world.until(&run, "cancelled", |run| run.state() == v1::RunState::Cancelled).await;
    let counts = shown.recipients.unwrap();
    assert_eq!(counts.cancelled, counts.total);
    assert!(!shown.split_complete);
    let deadline = tokio::time::Instant::now() + SOON;
    while !world.metrics().await.contains("postrider_splits_held 0") {
        assert!(tokio::time::Instant::now() < deadline, "the split is still held");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.master.stop().await;
}
