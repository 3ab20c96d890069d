//! Everything of one address, wherever it stands, with a master that ends at every step.

use super::request::Step;
use super::{Counts, EraseError, Request, Work, ask, erasing};
use crate::core::Core;
use crate::history::Reader;
use crate::loops::erase::{Config, EraseDuty};
use crate::loops::history::{self, HistoryDuty};
use crate::schedule::Zones;
use crate::split::work::{Ended, work};
use crate::split::{Plan, Splitter};
use postrider_common::campaign::{Audience, AudienceFormat, OnBadRow, OnUnknown, Source};
use postrider_common::ids::{DefinitionHash, RunId};
use postrider_common::lease::{Fact, OutcomeKind};
use postrider_common::state::RecipientState;
use postrider_common::{Address, Clock, SystemClock, payload};
use postrider_store::conformance::reconcile::reconcile_all;
use postrider_store::conformance::scene::{outcome, worker};
use postrider_store::embedded::Embedded;
use postrider_store::{
    Checkpoint, Claim, ClaimSplit, ClaimedBatch, Compare, EraseRun, ErasedRun, Finish, NewRun, RunRecord, SplitStatus,
    Store,
};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const ADA: &str = "Ada.L@Example.com";
const SECRET: &str = "ada.l@";

struct World {
    core: Arc<Core>,
    folder: tempfile::TempDir,
    /// Retired, with a correction; half sent; nothing sent yet; its split under way; its split not begun; gone.
    runs: Vec<RunId>,
}

fn core(folder: &Path, store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Core {
    Core::for_tests(folder, store, clock, Zones::bundled())
}

/// Forty people; the fifth is Ada, and the ninth was brought by her.
fn audience(format: AudienceFormat) -> String {
    let row = |n: u32| match (format, n) {
        (AudienceFormat::Csv, 4) => format!("{ADA},Ada,\n"),
        (AudienceFormat::Csv, _) => {
            let by = if n == 8 { ADA } else { "" };
            format!("user{n}@example.com,User {n},{by}\n")
        }
        (AudienceFormat::Ndjson, 4) => format!("{{\"email\":\"{ADA}\",\"name\":\"Ada\"}}\n"),
        (AudienceFormat::Ndjson, _) => format!("{{\"email\":\"user{n}@example.com\",\"name\":\"User {n}\"}}\n"),
    };
    let header = if format == AudienceFormat::Csv { "email,name,by\n" } else { "" };
    header.to_owned() + &(0..40).map(row).collect::<String>()
}

impl World {
    async fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory(Arc::clone(&clock)));
        store.compare(Compare { marks: Default::default(), confirm: true }).await.expect("confirms");
        let folder = tempfile::tempdir().expect("a folder");
        let core = Arc::new(core(folder.path(), store, clock));
        Self { core, folder, runs: Vec::new() }
    }

    async fn upload(&self, format: AudienceFormat) -> Source {
        let mut upload = self.core.storage.begin_upload(self.core.random_wide()).await.expect("begins");
        upload.write(audience(format).into()).await.expect("writes");
        Source::Stored { sha256: upload.finish().await.expect("finishes"), format }
    }

    /// Creates a run and leaves it to be split.
    async fn create(&mut self, name: &str, source: Source) -> RunId {
        let audience = Audience::of(source, "email");
        let definition_bytes = b"Hello {{ name }}".to_vec();
        let new = NewRun {
            id: RunId::derive("erase", name),
            fingerprint: name.to_owned(),
            campaign: String::new(),
            requires_campaign: false,
            lane: "bulk".parse().expect("a lane"),
            on_unknown: OnUnknown::Resend,
            retry: self.core.lanes[0].retry,
            definition: DefinitionHash::of(&definition_bytes),
            definition_bytes,
            sender_domain: "acme.example".to_owned(),
            // An erased row fails no run.
            audience: Plan {
                audience,
                on_bad_row: OnBadRow::Fail,
                local: None,
                windows: Default::default(),
                campaign_version: 1,
                list: None,
            }
            .encode()
            .expect("encodes"),
            nominal_at_ms: None,
        };
        self.core.store.create_run(new.clone()).await.expect("creates");
        self.runs.push(new.id.clone());
        new.id
    }

    async fn claim_split(&self) -> postrider_store::SplitLease {
        let request = self.core.request_id("split").expect("a request");
        let claim = ClaimSplit { request, nonce: 1, ttl_ms: 60_000 };
        self.core.store.claim_split(claim).await.expect("claims").expect("one is due")
    }

    async fn split(&self) {
        let lease = self.claim_split().await;
        assert_eq!(work(&self.core, lease, || false).await, Ended::Complete);
    }

    async fn claim(&self) -> Vec<ClaimedBatch> {
        let claim = Claim {
            worker: worker(1),
            request: self.core.request_id("claim").expect("a request"),
            nonce: 1,
            batches_max: 1,
            lanes: vec![("bulk".parse().expect("a lane"), 10)],
            ttl_ms: 600_000,
            hard_cap_ms: 1_800_000,
            slots: 100,
            limits: Default::default(),
        };
        self.core.store.claim(claim).await.expect("claims").leases
    }

    async fn report(
        &self,
        lease: &ClaimedBatch,
        sequence: u64,
        outcomes: Vec<(u32, OutcomeKind)>,
        intents: Vec<u32>,
    ) -> Vec<u32> {
        let made = |(index, kind): (u32, OutcomeKind)| {
            let mut outcome = outcome(index, kind);
            outcome.detail = format!("as <{ADA}> and others");
            outcome
        };
        let report = postrider_common::lease::LeaseReport {
            batch: lease.batch.clone(),
            fence: lease.fence.clone(),
            sequence,
            outcomes: outcomes.into_iter().map(made).collect(),
            intents,
            progress: sequence,
        };
        let (worker, reports) = (worker(1), vec![report]);
        let checkpoint = Checkpoint {
            worker,
            reports,
            ttl_ms: 600_000,
            window: 100,
            retry_fraction: 0,
            limits: Default::default(),
            grants: None,
        };
        self.core.store.checkpoint(checkpoint).await.expect("reports").remove(0).granted
    }

    async fn finish(&self, lease: &ClaimedBatch, sequence: u64) {
        let report = postrider_common::lease::LeaseReport {
            batch: lease.batch.clone(),
            fence: lease.fence.clone(),
            sequence,
            outcomes: Vec::new(),
            intents: Vec::new(),
            progress: sequence,
        };
        let finish = Finish { worker: worker(1), reports: vec![report], retry_fraction: 0 };
        self.core.store.finish(finish).await.expect("finishes");
    }

    async fn retire(&self) {
        let mut duty = HistoryDuty::new(Arc::clone(&self.core), history::Config::default());
        assert_eq!(duty.run_once().await.expect("writes").segments, 1);
    }

    /// Sends all of a run and writes its history, with a correction that came late.
    async fn sent_and_retired(&mut self) {
        let source = self.upload(AudienceFormat::Csv).await;
        self.create("retired", source).await;
        self.split().await;
        let lease = self.claim().await.remove(0);
        self.report(&lease, 1, Vec::new(), (0..40).collect()).await;
        self.report(&lease, 2, (0..40).map(|index| (index, OutcomeKind::Rejected)).collect(), Vec::new()).await;
        self.finish(&lease, 3).await;
        self.retire().await;
        let mut late = outcome(4, OutcomeKind::Accepted);
        late.detail = format!("welcome <{ADA}>");
        let fact = Fact { batch: lease.batch, fence: lease.fence, outcome: late };
        self.core.store.facts(vec![fact], 0).await.expect("takes facts");
        self.retire().await;
    }

    /// Every place at once.
    async fn full() -> Self {
        let mut world = Self::new().await;
        world.sent_and_retired().await;
        let source = world.upload(AudienceFormat::Csv).await;
        let half = world.create("half", source.clone()).await;
        world.split().await;
        let lease = world.claim().await.remove(0);
        assert_eq!(lease.batch.run, half);
        world.report(&lease, 1, Vec::new(), (0..20).collect()).await;
        let told = (0..20).filter(|index| *index != 4).map(|index| (index, OutcomeKind::Rejected)).collect();
        world.report(&lease, 2, told, Vec::new()).await;
        let ndjson = world.upload(AudienceFormat::Ndjson).await;
        world.create("hot", ndjson).await;
        world.split().await;
        world.create("open", source).await;
        let lease = world.claim_split().await;
        let mut splitter =
            Splitter::resume(&lease, Arc::clone(&world.core.sites), OnBadRow::Fail, Vec::new(), None).expect("resumes");
        for (number, line) in (1..).zip(audience(AudienceFormat::Csv).lines().skip(1)).take(10) {
            let address: Address = line.split(',').next().unwrap_or_default().parse().expect("an address");
            let recipient =
                postrider_common::Recipient { key: address.normalised(), address, fields: Default::default() };
            splitter.take(crate::audience::Row { number, recipient: Ok(recipient) }).expect("takes");
        }
        let add = splitter.step(60_000);
        assert_eq!(world.core.store.add_batches(add).await.expect("adds"), SplitStatus::Done);
        let row = |address: &str| serde_json::json!({ "email": address, "name": "X" }).to_string();
        world.create("inline", Source::Inline { rows: vec![row(ADA), row("bob@example.com")] }).await;
        world
    }

    async fn record(&self, run: &RunId) -> RunRecord {
        self.core.store.run(run).await.expect("reads").expect("is there")
    }

    /// All that is stored, as text. What is packed is unpacked.
    async fn dump(&self) -> String {
        let mut all = String::new();
        let mut reader = Reader::new(self.core.storage.clone());
        for id in &self.runs {
            let run = self.record(id).await;
            all += &format!("{run:?} {}\n", String::from_utf8_lossy(&run.audience));
            for batch in self.core.store.batches(id, 0, 1000).await.expect("reads") {
                if !batch.is_retired() {
                    all += &format!("{:?}\n", payload::decode(&batch.payload).expect("readable"));
                }
                all += &format!("{batch:?} {:?}\n", reader.batch(&run, &batch).await.expect("whole"));
            }
            let look = EraseRun { run: id.clone(), audience: None, open: None };
            if let ErasedRun::Done { open } = self.core.store.erase_run(look).await.expect("looks")
                && !open.is_empty()
            {
                all += &format!("{:?}\n", payload::decode(&open).expect("readable"));
            }
        }
        // The key of the hashes is random bytes, and of each pass there is a mark for changes of lists.
        let mut entries = files(self.folder.path());
        entries
            .retain(|entry| !entry.ends_with("erasure.key") && !entry.starts_with(self.folder.path().join("erasing")));
        entries.sort();
        for entry in entries {
            let bytes = std::fs::read(&entry).expect("a file");
            let bytes = match zstd::decode_all(bytes.as_slice()) {
                Ok(unpacked) => unpacked,
                Err(_) => bytes,
            };
            all += &format!("{} {}\n", entry.display(), String::from_utf8_lossy(&bytes));
        }
        all.to_lowercase()
    }

    async fn is_clean(&self) {
        let dump = self.dump().await;
        assert!(
            !dump.contains(SECRET),
            "{}",
            dump.lines().filter(|l| l.contains(SECRET)).collect::<Vec<_>>().join("\n")
        );
        assert!(!dump.contains("\"ada\""), "nor her name");
        assert!(dump.contains("user8@example.com"), "others stay");
        assert_eq!(reconcile_all(&*self.core.store).await, []);
        for run in &self.runs {
            assert!(self.record(run).await.recipients.adds_up());
        }
    }
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        if entry.path().is_dir() { found.extend(files(&entry.path())) } else { found.push(entry.path()) }
    }
    found
}

async fn erase(core: &Arc<Core>, address: &str) -> Request {
    let (id, _) = ask(core, &address.parse().expect("an address")).await.expect("asks");
    let config = Config { hold: Duration::from_mins(1), ..Config::default() };
    assert_eq!(EraseDuty::new(Arc::clone(core), config).run_once().await.expect("erases").done, 1);
    let record = core.store.erasure(&id).await.expect("reads").expect("is known");
    assert!(!record.open);
    Request::decode(&record).expect("readable")
}

#[tokio::test]
async fn nothing_of_an_address_is_left_and_others_get_theirs() {
    let world = World::full().await;
    assert!(world.dump().await.contains(SECRET));
    let before: Vec<u64> = {
        let mut totals = Vec::new();
        for run in &world.runs {
            totals.push(world.record(run).await.recipients.total);
        }
        totals
    };
    let request = erase(&world.core, "ADA.L@example.com").await;
    world.is_clean().await;
    assert_eq!((request.address, request.left), (None, Vec::<String>::new()));
    // Of the retired run, the half sent one and the one not begun; of two audiences, the open rows and the inline ones.
    assert_eq!((request.counts.recipients, request.counts.ended, request.counts.rows), (3, 1, 4));
    assert!(request.counts.mentions > 0 && request.counts.unreadable == 0);
    for (run, total) in world.runs.iter().zip(before) {
        assert_eq!(world.record(run).await.recipients.total, total);
    }
    assert_eq!(world.record(&world.runs[0]).await.recipients.accepted, 1, "what became of her is still counted");

    // In intent when it was asked for: it ends by its outcome, of which no text is kept.
    let half = world.core.store.batches(&world.runs[1], 0, 1).await.expect("reads").remove(0);
    assert_eq!(half.recipients[4].state, RecipientState::Intent);
    // The splits go on, without her; everybody else is leased.
    world.split().await;
    world.split().await;
    world.is_clean().await;
    let record = world.record(&world.runs[3]).await;
    assert_eq!((record.recipients.total, record.bad_rows, record.error), (39, 1, None));
    let record = world.record(&world.runs[4]).await;
    assert_eq!((record.recipients.total, record.bad_rows, record.error), (1, 1, None));
    let mut sent = 0;
    loop {
        let leases = world.claim().await;
        let Some(lease) = leases.first() else { break };
        let all: Vec<u32> = (0..lease.recipients.len() as u32).collect();
        let granted = world.report(lease, 1, Vec::new(), all).await;
        sent += granted.len();
        let outcomes = granted.into_iter().map(|index| (index, OutcomeKind::Accepted)).collect();
        world.report(lease, 2, outcomes, Vec::new()).await;
        world.finish(lease, 3).await;
    }
    assert_eq!(sent, 39 + 39 + 1);
}

/// As of a master that died between writing a segment and having its batches name it.
#[tokio::test]
async fn a_copy_of_a_segment_that_nobody_names_is_cleaned_and_is_no_further_recipient() {
    let world = World::full().await;
    for segment in files(&world.folder.path().join("history")) {
        let name = segment.file_name().and_then(|name| name.to_str()).expect("a name").replacen('.', "0.", 1);
        std::fs::copy(&segment, segment.with_file_name(name)).expect("a copy");
    }
    let request = erase(&world.core, ADA).await;
    world.is_clean().await;
    assert_eq!((request.counts.recipients, request.counts.ended), (3, 1));
}

#[tokio::test]
async fn a_master_may_end_at_every_step() {
    let mut ended_early = 0;
    for steps in 0..10_000 {
        let world = World::full().await;
        let (id, _) = ask(&world.core, &ADA.parse().expect("an address")).await.expect("asks");
        let take = async || {
            let record = world.core.store.erasure(&id).await.expect("reads").expect("is known");
            Work::take(&world.core, record, Duration::ZERO).await.expect("takes")
        };
        let mut dying = take().await.expect("nobody has it");
        dying.steps_left = steps;
        match dying.steps().await {
            Ok(()) => break,
            Err(EraseError::Stopping) => ended_early += 1,
            Err(other) => panic!("{other}"),
        }
        drop(dying);
        take().await.expect("nobody has it any more").all().await.expect("goes on");
        world.is_clean().await;
        let record = world.core.store.erasure(&id).await.expect("reads").expect("is known");
        assert!(!record.open && Request::decode(&record).expect("readable").done_at_ms.is_some(), "{steps}");
    }
    println!("{ended_early} steps");
    assert!(ended_early > 20, "{ended_early}");
}

#[tokio::test]
async fn an_unknown_address_is_not_found_and_changes_nothing() {
    let world = World::full().await;
    let before = world.dump().await;
    let request = erase(&world.core, "nobody@example.com").await;
    assert_eq!(request.counts, Counts::default());
    assert!(world.dump().await == before, "all is as it was");
}

#[tokio::test]
async fn a_repeat_finds_the_open_one_and_begins_anew_after_the_end() {
    let world = World::new().await;
    let address: Address = ADA.parse().expect("an address");
    let (id, first) = ask(&world.core, &address).await.expect("asks");
    assert_eq!(ask(&world.core, &"ADA.L@EXAMPLE.COM".parse().expect("good")).await.expect("asks"), (id.clone(), first));
    assert_eq!(erasing(&*world.core.store).await.expect("reads").len(), 1);
    erase(&world.core, ADA).await;
    assert_eq!(erasing(&*world.core.store).await.expect("reads"), []);
    let (again, request) = ask(&world.core, &address).await.expect("asks");
    assert_eq!((again, request.done_at_ms, request.step), (id, None, Step::default()));
    erase(&world.core, ADA).await;
}

/// Somebody holds it; and who was too slow writes nothing any more.
#[tokio::test]
async fn one_master_at_a_time_works_on_it() {
    let world = World::full().await;
    let (id, _) = ask(&world.core, &ADA.parse().expect("an address")).await.expect("asks");
    let record = async || world.core.store.erasure(&id).await.expect("reads").expect("is known");
    let slow = Work::take(&world.core, record().await, Duration::ZERO).await.expect("takes").expect("free");
    let held = Work::take(&world.core, record().await, Duration::from_hours(1)).await.expect("takes").expect("free");
    assert!(Work::take(&world.core, record().await, Duration::ZERO).await.expect("looks").is_none(), "it is held");
    assert_eq!(EraseDuty::new(Arc::clone(&world.core), Config::default()).run_once().await.expect("looks").done, 0);
    assert_eq!(slow.all().await.expect("ends"), super::Worked::Held);
    held.all().await.expect("goes on");
    world.is_clean().await;
}

/// A writer of history that read before and writes after.
#[tokio::test]
async fn a_segment_that_was_on_its_way_is_cleaned_by_its_writer() {
    let world = World::full().await;
    let (id, _) = ask(&world.core, &ADA.parse().expect("an address")).await.expect("asks");
    let named = world.core.store.batches(&world.runs[0], 0, 1).await.expect("reads").remove(0).segments.remove(0);
    let bytes = world.core.storage.read_segment(&named).await.expect("reads").expect("is there");
    world.core.storage.write_segment("stale", bytes.into()).await.expect("writes");
    super::scrub(&world.core, "stale").await.expect("cleans");
    let bytes = world.core.storage.read_segment("stale").await.expect("reads").expect("is there");
    let text = zstd::decode_all(&bytes[..]).expect("a frame");
    assert!(!String::from_utf8_lossy(&text).to_lowercase().contains(SECRET));
    assert!(world.core.store.erasure(&id).await.expect("reads").expect("is known").open);
}
