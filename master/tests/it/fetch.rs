//! Sources that are read once for each run, into a snapshot.

use crate::harness::{World, campaign};
use postrider_master::fetch::{FilesRoot, Settings};
use postrider_proto::v1;
use std::path::Path;
use tempfile::TempDir;

fn file(path: &str, format: v1::AudienceFormat) -> v1::AudienceSource {
    v1::AudienceSource {
        file: Some(v1::FileSource { path: path.into() }),
        format: format.into(),
        address_field: "email".into(),
        ..v1::AudienceSource::default()
    }
}

async fn world() -> (World, TempDir) {
    let files = tempfile::tempdir().unwrap();
    let root = files.path().to_owned();
    let world =
        World::with(|config| config.sources = Settings { files: Some(FilesRoot::new(root)), ..Settings::default() })
            .await;
    (world, files)
}

fn put(files: &TempDir, name: &str, text: impl AsRef<[u8]>) {
    std::fs::write(files.path().join(name), text).unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).into_iter().flatten();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

async fn failed(world: &World, run: &str) -> v1::RunError {
    let shown = world.until(run, "failed", |run| run.state() == v1::RunState::Failed).await;
    assert_eq!(shown.recipients.unwrap().total, 0);
    shown.error.unwrap()
}

async fn resume(world: &World, run: &str) {
    world.admin().resume_run(v1::ResumeRunRequest { run_id: run.into() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_reads_what_was_there_when_it_began() {
    let (world, files) = world().await;
    put(&files, "people.csv", "email,name\na@example.com,A\nb@example.com,B\nwrong,C\n");
    world.apply(campaign("daily", Some(file("people.csv", v1::AudienceFormat::Csv)))).await;
    let first = world.run("daily", "first").await;
    let shown = world.until(&first, "split", |run| run.split_complete).await;
    assert_eq!((shown.recipients.unwrap().total, shown.bad_rows), (2, 1));
    put(&files, "people.csv", "email,name\nc@example.com,C\n");
    let second = world.run("daily", "second").await;
    world.until(&second, "split", |run| run.split_complete).await;
    for (run, expected) in [(first, vec!["a@example.com", "b@example.com"]), (second, vec!["c@example.com"])] {
        let listed = world.recipients(&run, &[]).await;
        assert_eq!(listed.into_iter().map(|one| one.address).collect::<Vec<_>>(), expected);
    }
    let storage = world.storage.path();
    assert_eq!((names(&storage.join("audiences")).len(), names(&storage.join("fetched")).len()), (2, 2));
    assert_eq!(names(&storage.join("uploads")), Vec::<String>::new());
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_fetched_fails_the_run_until_it_is_mended() {
    let (world, files) = world().await;
    world.apply(campaign("daily", Some(file("people.ndjson", v1::AudienceFormat::Ndjson)))).await;
    let run = world.run("daily", "").await;
    let error = failed(&world, &run).await;
    assert_eq!(error.code, "source_file");
    assert!(error.message.contains("people.ndjson") && error.mend.contains("master.files_root"), "{error:?}");
    put(&files, "people.ndjson", "{\"email\":\"a@example.com\",\"name\":\"A\"}\n");
    resume(&world, &run).await;
    let shown = world.until(&run, "split", |run| run.split_complete).await;
    assert_eq!(shown.recipients.unwrap().total, 1);
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_elsewhere_are_not_read() {
    let (world, files) = world().await;
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("people.csv"), "email\na@example.com\n").unwrap();
    std::os::unix::fs::symlink(outside.path().join("people.csv"), files.path().join("link.csv")).unwrap();
    let absolute = outside.path().join("people.csv").display().to_string();
    for (number, path) in ["../people.csv", "link.csv", absolute.as_str()].into_iter().enumerate() {
        let name = format!("c{number}");
        world.apply(campaign(&name, Some(file(path, v1::AudienceFormat::Csv)))).await;
        let error = failed(&world, &world.run(&name, "").await).await;
        assert_eq!(error.code, "source_file", "{path}: {error:?}");
    }
    let none = World::new().await;
    none.apply(campaign("daily", Some(file("people.csv", v1::AudienceFormat::Csv)))).await;
    let error = failed(&none, &none.run("daily", "").await).await;
    assert!(error.mend.contains("master.files_root"), "{error:?}");
    none.master.stop().await;
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_erased_is_in_no_snapshot() {
    let (world, files) = world().await;
    put(&files, "people.csv", "email,name\nada@example.com,Ada\nbob@example.com,Bob\n");
    world.apply(campaign("daily", Some(file("people.csv", v1::AudienceFormat::Csv)))).await;
    let run = world.run("daily", "").await;
    world.until(&run, "split", |run| run.split_complete).await;
    let erasure = super::erase::erased(&world, "ada@example.com").await;
    assert_eq!((erasure.recipients, erasure.rows), (1, 1));
    for name in names(&world.storage.path().join("audiences")) {
        let text = std::fs::read_to_string(world.storage.path().join("audiences").join(name)).unwrap();
        assert!(!text.contains("ada@example.com") && text.contains("bob@example.com"), "{text}");
    }
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_source_is_given_and_it_is_one_that_this_build_reads() {
    let (world, _files) = world().await;
    let sql = |url: &str, query: &str, timeout_ms| v1::SqlSource { url: url.into(), query: query.into(), timeout_ms };
    let with =
        |sql| v1::AudienceSource { sql: Some(sql), address_field: "email".into(), ..v1::AudienceSource::default() };
    let mut rows = vec![
        (with(sql("postgres://ada:secret@db/people", "SELECT 1", 0)), "audience.sql.url"),
        (with(sql("env:X", " ", 0)), "audience.sql.query"),
        (with(sql("env:X", "SELECT 1", 1)), "audience.sql.timeout"),
        (v1::AudienceSource { delimiter: ";".into(), ..with(sql("env:X", "SELECT 1", 0)) }, "audience.sql"),
        (file("", v1::AudienceFormat::Csv), "audience.file"),
        (file("people.csv", v1::AudienceFormat::Unspecified), "audience.format"),
        (v1::AudienceSource { inline: vec!["{}".into()], ..with(sql("env:X", "SELECT 1", 0)) }, "several sources"),
    ];
    if !cfg!(feature = "sql") {
        rows.push((with(sql("env:X", "SELECT 1", 0)), "--features sql"));
    }
    for (audience, part) in rows {
        let request = v1::ApplyCampaignRequest {
            campaign: Some(campaign("wrong", Some(audience))),
            idempotency_key: String::new(),
        };
        let status = world.campaigns().apply_campaign(request).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{part}: {status:?}");
        assert!(status.message().contains(part) && !status.message().contains("secret"), "{status:?}");
    }
    world.master.stop().await;
}
