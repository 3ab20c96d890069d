//! Masters that change one list at the same time, an erasure that passes meanwhile, and what is swept.

use super::change::{once, publish};
use super::*;
use crate::core::Core;
use crate::erase::{Work, ask};
use crate::loops::sweep::{Config, SweepDuty};
use crate::schedule::Zones;
use postrider_common::campaign::{Audience, OnBadRow, Source};
use postrider_common::limits::LIST_VERSIONS_KEPT_MAX;
use postrider_common::{Clock, SystemClock};
use postrider_store::embedded::Embedded;
use postrider_store::{Compare, Store};
use std::sync::Arc;
use std::time::Duration;

struct World {
    core: Arc<Core>,
    folder: tempfile::TempDir,
    name: ListName,
}

async fn world() -> World {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory(Arc::clone(&clock)));
    store.compare(Compare { marks: Default::default(), confirm: true }).await.expect("confirms");
    let folder = tempfile::tempdir().expect("a folder");
    let mut core = Core::for_tests(folder.path(), store, clock, Zones::bundled());
    core.audience_bytes_max = 1 << 20;
    World { core: Arc::new(core), folder, name: "customers".parse().expect("a name") }
}

fn wish(change: Change, addresses: &[&str]) -> Wish {
    let rows = addresses.iter().map(|address| format!("{{\"email\":\"{address}\"}}")).collect();
    Wish { change, rows: Audience::of(Source::Inline { rows }, "email"), on_bad_row: OnBadRow::Skip }
}

impl World {
    async fn change(&self, change: Change, addresses: &[&str]) -> Changed {
        super::change(&self.core, &self.name, &wish(change, addresses)).await.expect("changes")
    }

    async fn newest(&self) -> (u64, Version) {
        newest(&self.core.storage, &self.name).await.expect("reads").expect("is there")
    }

    async fn rows(&self) -> Vec<String> {
        let version = self.newest().await.1;
        let mut rows = audience::read::open(&self.core.storage, &version.audience()).await.expect("opens");
        let mut found = Vec::new();
        while let Some(rows) = rows.next().await.expect("reads") {
            found.extend(rows.into_iter().map(|row| row.recipient.expect("good").address.to_string()));
        }
        found
    }
}

#[tokio::test]
async fn a_version_is_made_once_and_only_of_the_newest() {
    let world = world().await;
    world.change(Change::Import, &["ada@example.com"]).await;
    let (number, first) = world.newest().await;
    assert_eq!(number, 1);
    let version = |nonce: &str| Version { nonce: nonce.to_owned(), ..first.clone() };
    let base = (1, first.clone());
    let (core, name) = (&*world.core, &world.name);
    assert_eq!(publish(core, name, Some(&base), &version("a")).await.expect("writes"), Some(2));
    // Whoever was slower finds its number taken; a repeat of the write that was not answered finds its own.
    assert_eq!(publish(core, name, Some(&base), &version("b")).await.expect("writes"), None);
    assert_eq!(publish(core, name, Some(&base), &version("a")).await.expect("writes"), Some(2));
    assert_eq!(world.newest().await.1.nonce, "a");
    // So slow that what it was made of is gone, and its number is free again.
    for number in 2..=LIST_VERSIONS_KEPT_MAX as u64 + 2 {
        let base = world.newest().await;
        assert_eq!(base.0, number);
        let made = publish(core, name, Some(&base), &version(&format!("v{number}"))).await.expect("writes");
        assert_eq!(made, Some(number + 1));
    }
    let kept = core.storage.list_versions(name).await.expect("lists");
    assert_eq!((kept.len(), kept.first()), (LIST_VERSIONS_KEPT_MAX, Some(&4)));
    assert_eq!(publish(core, name, Some(&base), &version("late")).await.expect("writes"), None);
    assert_eq!(publish(core, name, None, &version("later")).await.expect("writes"), None);
    assert_eq!(core.storage.list_versions(name).await.expect("lists"), kept, "nothing of it is left");
    // Nor is it the same list that was deleted and made again.
    let old = world.newest().await;
    assert_eq!(remove(core, name).await.expect("removes"), Removed::Done);
    assert_eq!(publish(core, name, Some(&old), &version("dead")).await.expect("writes"), None);
    assert_eq!(remove(core, name).await.expect("looks"), Removed::Missing);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_at_the_same_time_are_all_there() {
    let world = world().await;
    world.change(Change::Import, &["first@example.com"]).await;
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let (core, name) = (Arc::clone(&world.core), world.name.clone());
            tokio::spawn(async move {
                let wish = wish(Change::Append, &[&format!("user{n}@example.com")]);
                // With more at once than one gives up at, a person tries again as well.
                loop {
                    match change(&core, &name, &wish).await {
                        Ok(changed) => return changed.version,
                        Err(ListError::Busy) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    let mut versions = Vec::new();
    for task in tasks {
        versions.push(task.await.expect("ends"));
    }
    versions.sort_unstable();
    assert_eq!(versions, (2..=9).collect::<Vec<_>>());
    let mut rows = world.rows().await;
    rows.sort();
    assert_eq!(rows.len(), 9);
    rows.dedup();
    assert_eq!(rows.len(), 9);
}

#[tokio::test]
async fn who_is_erased_meanwhile_does_not_come_back() {
    let world = world().await;
    world.change(Change::Import, &["ada@example.com", "bob@example.com"]).await;
    world.change(Change::Append, &["carl@example.com"]).await;
    let core = &*world.core;
    // While it is asked for, nobody brings it in.
    let (id, _) = ask(core, &"ada@example.com".parse().expect("an address")).await.expect("asks");
    let changed = world.change(Change::Append, &["ada@example.com", "dora@example.com"]).await;
    assert_eq!((changed.counts.added, changed.counts.bad), (1, 1));
    assert_eq!(changed.refused, [Refused { row: 1, reason: "it was erased".to_owned() }]);
    assert_eq!(world.rows().await, ["bob@example.com", "carl@example.com", "dora@example.com"]);
    let record = core.store.erasure(&id).await.expect("reads").expect("is there");
    let work = Work::take(core, record, Duration::from_secs(60)).await.expect("takes").expect("is free");
    work.all().await.expect("erases");
    let audiences = core.storage.audiences_after("").await.expect("lists");
    assert!(audiences.len() >= 3);
    for name in audiences {
        let bytes = std::fs::read(world.folder.path().join("audiences").join(name)).expect("reads");
        let text = String::from_utf8(zstd::decode_all(bytes.as_slice()).expect("zstd")).expect("UTF-8");
        assert!(!text.contains("ada@") && text.contains("bob@example.com"), "{text}");
    }
    // A pass that begins while the rows are written: they are read again.
    let passes = core.storage.passes().await.expect("lists");
    assert!(!passes.is_empty());
    let before = world.newest().await.0;
    core.storage.note_pass(core.random_wide()).await.expect("notes");
    let late = once(core, &world.name, &wish(Change::Append, &["emil@example.com"]), &passes).await;
    assert_eq!(late.expect("writes"), None);
    assert_eq!(world.newest().await.0, before, "nothing is published");
    let changed = world.change(Change::Append, &["emil@example.com"]).await;
    assert_eq!((changed.version, changed.is_new), (before + 1, true));
}

#[tokio::test]
async fn rows_are_swept_when_no_version_has_them() {
    let world = world().await;
    for n in 0..LIST_VERSIONS_KEPT_MAX + 3 {
        let address = format!("user{n}@example.com");
        world.change(Change::Import, &[&address]).await;
    }
    let core = &world.core;
    let there = async || core.storage.audiences_after("").await.expect("lists").len();
    assert_eq!(there().await, LIST_VERSIONS_KEPT_MAX + 3);
    tokio::time::sleep(Duration::from_millis(5)).await;
    let duty = SweepDuty::new(Arc::clone(core), Config { age: Duration::ZERO, ..Config::default() });
    assert_eq!(duty.run_once().await.expect("sweeps").audiences, 3);
    assert_eq!(there().await, LIST_VERSIONS_KEPT_MAX);
    assert_eq!(world.rows().await.len(), 1);
    assert_eq!(remove(core, &world.name).await.expect("removes"), Removed::Done);
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(duty.run_once().await.expect("sweeps").audiences as usize, LIST_VERSIONS_KEPT_MAX);
    assert_eq!(there().await, 0);
}
