//! Saved lists: changed in versions, frozen by runs, shared by campaigns, erased.

use crate::erase::erased;
use crate::harness::{SOON, Worker, World, campaign, inline, stored};
use postrider_proto::v1;
use tokio::time::Instant;
use tonic::{Code, Status};

const NAME: &str = "customers";

async fn try_change(
    world: &World,
    change: v1::ListChange,
    rows: v1::AudienceSource,
) -> Result<v1::ChangeListResponse, Status> {
    let request =
        v1::ChangeListRequest { name: NAME.into(), change: change.into(), rows: Some(rows), ..Default::default() };
    Ok(world.campaigns().change_list(request).await?.into_inner())
}

async fn change(world: &World, change: v1::ListChange, rows: v1::AudienceSource) -> v1::ChangeListResponse {
    try_change(world, change, rows).await.unwrap()
}

async fn uploaded(world: &World, csv: &str) -> v1::AudienceSource {
    let id = world.upload(csv, v1::AudienceFormat::Csv).await;
    v1::AudienceSource { key_field: "id".into(), ..stored(&id, v1::AudienceFormat::Csv) }
}

async fn get(world: &World, version: u64) -> Result<v1::GetListResponse, Status> {
    Ok(world.campaigns().get_list(v1::GetListRequest { name: NAME.into(), version }).await?.into_inner())
}

async fn export(world: &World, version: u64) -> String {
    let request = v1::ExportListRequest { name: NAME.into(), version };
    let mut stream = world.campaigns().export_list(request).await.unwrap().into_inner();
    let mut text = Vec::new();
    while let Some(part) = stream.message().await.unwrap() {
        text.extend(part.ndjson);
    }
    String::from_utf8(text).unwrap()
}

fn of_list(name: &str) -> v1::AudienceSource {
    v1::AudienceSource { list: Some(v1::ListSource { name: name.into() }), ..Default::default() }
}

/// Added, replaced, removed, absent, repeated, bad.
fn counts(answer: &v1::ChangeListResponse) -> [u64; 6] {
    let c = answer.counts.unwrap();
    [c.added, c.replaced, c.removed, c.absent, c.repeated_rows, c.bad_rows]
}

const FIRST: &str = "id,email,name\n1,ada@example.com,Ada\n2,bob@example.com,Bob\n2,bob@example.com,Bob again\n\
                     3,nobody,No\n4,carl@example.com,Carl\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_imported_appended_to_and_taken_from_in_versions() {
    let world = World::new().await;
    let first = change(&world, v1::ListChange::Import, uploaded(&world, FIRST).await).await;
    assert_eq!((first.version, first.changed, first.rows, counts(&first)), (1, true, 3, [3, 0, 0, 0, 1, 1]));
    assert_eq!(first.refused[0].row, 4);
    assert!(!first.refused[0].reason.contains("nobody"), "{:?}", first.refused);

    // Who is in the list already is replaced, by the key; the others stay where they are.
    let more = uploaded(&world, "id,email,name\n2,robert@example.com,Robert\n5,dora@example.com,Dora\n").await;
    let second = change(&world, v1::ListChange::Append, more.clone()).await;
    assert_eq!((second.version, second.rows, counts(&second)), (2, 4, [1, 1, 0, 0, 0, 0]));
    let again = change(&world, v1::ListChange::Append, more).await;
    assert_eq!((again.version, again.changed, again.rows, counts(&again)), (2, false, 4, [0, 2, 0, 0, 0, 0]));
    let rows = "{\"email\":\"ada@example.com\",\"id\":\"1\",\"name\":\"Ada\"}\n\
                {\"email\":\"carl@example.com\",\"id\":\"4\",\"name\":\"Carl\"}\n\
                {\"email\":\"robert@example.com\",\"id\":\"2\",\"name\":\"Robert\"}\n\
                {\"email\":\"dora@example.com\",\"id\":\"5\",\"name\":\"Dora\"}\n";
    assert_eq!(export(&world, 0).await, rows);

    let out = inline(&[r#"{"email":"CARL@Example.com"}"#, r#"{"email":"nobody@example.com"}"#]);
    let third = change(&world, v1::ListChange::Remove, out.clone()).await;
    assert_eq!((third.version, third.rows, counts(&third)), (3, 3, [0, 0, 1, 1, 0, 0]));
    let again = change(&world, v1::ListChange::Remove, out).await;
    assert_eq!((again.version, again.changed, counts(&again)), (3, false, [0, 0, 0, 2, 0, 0]));
    assert_eq!(export(&world, 2).await, rows, "an older version is what it was");

    let shown = get(&world, 0).await.unwrap();
    let list = shown.list.unwrap();
    assert_eq!((list.version, list.rows, list.change()), (3, 3, v1::ListChange::Remove));
    assert_eq!((list.address_field.as_str(), list.key_field.as_str()), ("email", "id"));
    assert_eq!(list.columns, ["email", "id", "name"]);
    assert_eq!(shown.versions.iter().map(|one| one.version).collect::<Vec<_>>(), [3, 2, 1]);
    assert_eq!(get(&world, 1).await.unwrap().list.unwrap().rows, 3);
    assert_eq!(get(&world, 4).await.unwrap_err().code(), Code::NotFound);
    let all = world.campaigns().list_lists(v1::ListListsRequest::default()).await.unwrap().into_inner();
    assert_eq!((all.lists.len(), all.lists[0].name.as_str(), all.next.as_str()), (1, NAME, ""));
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_cannot_be_made_changes_nothing() {
    let world = World::new().await;
    let refused = async |kind, rows, code, part: &str| {
        let error = try_change(&world, kind, rows).await.unwrap_err();
        assert_eq!((error.code(), error.message().contains(part)), (code, true), "{error}");
    };
    use v1::ListChange::{Append, Import, Remove, Unspecified};
    let good = uploaded(&world, FIRST).await;
    refused(Append, good.clone(), Code::NotFound, "there is no list 'customers'").await;
    refused(Unspecified, good.clone(), Code::InvalidArgument, "change: ").await;
    refused(Import, inline(&[r#"{"email":"no"}"#]), Code::InvalidArgument, "row 1: ").await;
    refused(Import, inline(&[]), Code::InvalidArgument, "there are no rows").await;
    refused(Import, inline(&[r#"{"mail":"ada@example.com"}"#]), Code::InvalidArgument, "did you mean 'mail'?").await;
    refused(Import, of_list(NAME), Code::InvalidArgument, "uploaded, or given inline").await;
    refused(Import, stored(&"0".repeat(64), v1::AudienceFormat::Csv), Code::NotFound, "upload it first").await;
    assert_eq!(get(&world, 0).await.unwrap_err().code(), Code::NotFound);

    change(&world, Import, good).await;
    refused(Append, inline(&[r#"{"email":"x@example.com"}"#]), Code::InvalidArgument, "the key in 'id'").await;
    let strict = v1::ChangeListRequest {
        name: NAME.into(),
        change: Append.into(),
        rows: Some(uploaded(&world, "id,email\n9,zoe@example.com\n10,nobody\n").await),
        on_bad_row: v1::OnBadRow::Fail.into(),
    };
    let error = world.campaigns().change_list(strict).await.unwrap_err();
    assert!(error.code() == Code::InvalidArgument && error.message().contains("row 2: "), "{error}");
    refused(Remove, inline(&[r#"{"mail":"x@example.com"}"#]), Code::InvalidArgument, "no column 'email'").await;
    let list = get(&world, 0).await.unwrap().list.unwrap();
    assert_eq!((list.version, list.rows), (1, 3));
    // Nothing of what was broken off is left.
    let uploads = std::fs::read_dir(world.storage.path().join("uploads")).map_or(0, |folder| folder.count());
    assert_eq!(uploads, 0);
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_has_the_version_that_was_the_newest_when_it_began() {
    let world = World::new().await;
    use v1::ListChange::{Append, Import};
    change(&world, Import, uploaded(&world, FIRST).await).await;
    world.apply(campaign("digest", Some(of_list(NAME)))).await;
    // Another one that sees the same people under another name.
    let columns = [("email".to_owned(), "mail".to_owned())].into();
    world.apply(campaign("letter", Some(v1::AudienceSource { columns, ..of_list(NAME) }))).await;
    let first = world.run("digest", "a").await;
    change(&world, Append, uploaded(&world, "id,email,name\n7,eve@example.com,Eve\n").await).await;
    let second = world.run("letter", "b").await;
    let shown = world.show(&first).await;
    assert_eq!((shown.list.as_str(), shown.list_version), (NAME, 1));
    assert_eq!(world.show(&second).await.list_version, 2);
    let mut worker = Worker::new(&world, "w");
    // Batches of both come to it.
    let mut delivered = worker.deliver_run(&world, &first).await;
    for (key, count) in worker.deliver_run(&world, &second).await {
        *delivered.entry(key).or_default() += count;
    }
    let delivered: Vec<_> = delivered.iter().map(|(key, count)| (key.as_str(), *count)).collect();
    assert_eq!(delivered, [("1", 2), ("2", 2), ("4", 2), ("7", 1)], "the keys are those of the list");

    // The store is lost, and the same runs are asked for again: they have what they had.
    let lost = world.on_an_empty_store().await;
    lost.apply(campaign("digest", Some(of_list(NAME)))).await;
    assert_eq!(lost.run("digest", "a").await, first);
    assert_eq!(lost.show(&first).await.list_version, 1);
    assert_eq!(lost.show(&lost.run("digest", "c").await).await.list_version, 2);
    lost.master.stop().await;
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_takes_the_newest_each_time() {
    let world = World::new().await;
    use v1::ListChange::{Append, Import};
    change(&world, Import, uploaded(&world, FIRST).await).await;
    let schedule = v1::Schedule {
        cron: "* * * * * *".into(),
        time_zone: "UTC".into(),
        overlap: v1::Overlap::Allow.into(),
        ..Default::default()
    };
    world.apply(v1::Campaign { schedule: Some(schedule), ..campaign("digest", Some(of_list(NAME))) }).await;
    for version in 1..=2 {
        let deadline = Instant::now() + SOON;
        loop {
            let request = v1::ListRunsRequest { limit: 1, ..Default::default() };
            let runs = world.admin().list_runs(request).await.unwrap().into_inner().runs;
            if runs.first().is_some_and(|run| run.list_version == version) {
                break;
            }
            assert!(Instant::now() < deadline, "no run of version {version} in time: {runs:?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        change(&world, Append, uploaded(&world, "id,email,name\n7,eve@example.com,Eve\n").await).await;
    }
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_names_a_list_that_is_there_and_keeps_it() {
    let world = World::new().await;
    change(&world, v1::ListChange::Import, uploaded(&world, FIRST).await).await;
    let apply = async |audience| {
        let campaign = Some(campaign("digest", Some(audience)));
        let request = v1::ApplyCampaignRequest { campaign, ..Default::default() };
        world.campaigns().apply_campaign(request).await
    };
    let column = |address: &str| v1::AudienceSource { address_field: address.into(), ..of_list(NAME) };
    for (audience, code, part) in [
        (of_list("custmers"), Code::NotFound, "did you mean 'customers'?"),
        (of_list("No"), Code::InvalidArgument, "audience.list: "),
        (column("e-mail"), Code::InvalidArgument, "did you mean 'email'?"),
        (
            v1::AudienceSource { encoding: "utf-8".into(), ..of_list(NAME) },
            Code::InvalidArgument,
            "leave audience.encoding",
        ),
    ] {
        let error = apply(audience).await.unwrap_err();
        assert_eq!((error.code(), error.message().contains(part)), (code, true), "{error}");
    }
    apply(of_list(NAME)).await.unwrap();
    let delete = async || world.campaigns().delete_list(v1::DeleteListRequest { name: NAME.into() }).await;
    let error = delete().await.unwrap_err();
    assert!(error.code() == Code::FailedPrecondition && error.message().contains("campaign 'digest'"), "{error}");
    let run = world.run("digest", "").await;
    world.campaigns().delete_campaign(v1::DeleteCampaignRequest { name: "digest".into() }).await.unwrap();
    delete().await.unwrap();
    assert_eq!(delete().await.unwrap_err().code(), Code::NotFound);
    // The run goes on with what it froze.
    let delivered = Worker::new(&world, "w").deliver_run(&world, &run).await;
    assert_eq!(delivered.len(), 3);
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_erased_from_every_version() {
    let world = World::new().await;
    use v1::ListChange::{Append, Import};
    change(&world, Import, uploaded(&world, FIRST).await).await;
    change(&world, Append, uploaded(&world, "id,email,name\n7,eve@example.com,of ada@example.com\n").await).await;
    let erasure = erased(&world, "Ada@example.com").await;
    // Its row in each version; a mention in the second one and in both uploads, of which nobody says what their columns are.
    assert_eq!((erasure.rows, erasure.mentions, erasure.unreadable), (2, 3, 0));
    for version in [1, 2] {
        let text = export(&world, version).await;
        assert!(!text.contains("ada@") && !text.contains("Ada") && text.contains("bob@example.com"), "{text}");
    }
    world.apply(campaign("digest", Some(of_list(NAME)))).await;
    let run = world.run("digest", "").await;
    let shown = world.until(&run, "split", |run| run.split_complete).await;
    assert_eq!((shown.recipients.unwrap().total, shown.bad_rows), (3, 1), "its row is nobody's");
    // The next version has not even that.
    let next = change(&world, Append, uploaded(&world, "id,email,name\n8,fay@example.com,Fay\n").await).await;
    assert_eq!((next.version, next.rows), (3, 4));
    let folder = world.storage.path().join("audiences");
    for file in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        let text = zstd::decode_all(bytes.as_slice()).unwrap_or(bytes);
        assert!(!String::from_utf8_lossy(&text).contains("ada@"));
    }
    world.master.stop().await;
}
