//! A run with batches and a few hands to move it: what the cases are told with.

use super::Fixture;
use crate::api::{
    AddBatches, BatchRecord, BatchState, Checkpoint, Claim, ClaimSplit, ClaimedBatch, Compare, Compared, CreatedRun,
    Delivery, Finish, NewBatch, NewRun, Reclaim, Reclaimed, Release, RunRecord, SplitLease, SplitStatus,
};
use postrider_common::backoff::RetryPolicy;
use postrider_common::campaign::OnUnknown;
use postrider_common::ids::{BatchId, DefinitionHash, Fence, LaneName, RequestId, RunId, WorkerId};
use postrider_common::lease::{Fact, FactStatus, IndexRange, LeaseAnswer, LeaseReport, Outcome, OutcomeKind};
use postrider_common::pace::Limits;
use postrider_common::state::RecipientState;
use std::sync::atomic::{AtomicU64, Ordering};

/// Short, because a lease only ends when the case says `reclaim`.
pub const TTL_MS: u64 = 400;
pub const GRACE_MS: u64 = 500;
pub const HARD_CAP_MS: u64 = 1_800_000;
pub const WINDOW: u32 = 10;
/// No gap between two signs of life counts as an outage.
const NO_OUTAGE_MS: u64 = 86_400_000;

/// Makes every request id and nonce of the process different.
static REQUESTS: AtomicU64 = AtomicU64::new(1);

pub fn request() -> (RequestId, u32) {
    let number = REQUESTS.fetch_add(1, Ordering::Relaxed);
    (format!("request-{number}").parse().expect("a request id"), number as u32)
}

pub fn worker(number: u8) -> WorkerId {
    let instance = format!("00000000-0000-4000-8000-0000000000{number:02x}");
    WorkerId::try_new(&format!("w{number}"), &instance).expect("a worker id")
}

pub fn lane(name: &str) -> LaneName {
    name.parse().expect("a lane name")
}

/// A run as the cases want it, before it is created.
pub fn new_run(name: &str) -> NewRun {
    let definition_bytes = format!("definition of {name}").into_bytes();
    NewRun {
        id: RunId::derive("conformance", name),
        fingerprint: format!("fingerprint of {name}"),
        campaign: String::new(),
        requires_campaign: false,
        lane: lane("bulk"),
        on_unknown: OnUnknown::Resend,
        retry: RetryPolicy { base_ms: 100, cap_ms: 1000, ttl_ms: 3_600_000 },
        definition: DefinitionHash::of(&definition_bytes),
        definition_bytes,
        sender_domain: "acme.example".to_owned(),
        audience: b"audience".to_vec(),
        nominal_at_ms: None,
    }
}

pub fn outcome(index: u32, kind: OutcomeKind) -> Outcome {
    let code = match kind {
        OutcomeKind::Accepted => "250 2.0.0",
        OutcomeKind::Deferred => "450 4.2.0",
        OutcomeKind::Rejected => "550 5.1.1",
        OutcomeKind::Unknown => "lost",
        OutcomeKind::NotWritten => "",
    };
    Outcome { index, kind, code: code.to_owned(), detail: format!("detail {index}"), retry_after_ms: 0 }
}

pub fn outcomes(indexes: impl IntoIterator<Item = u32>, kind: OutcomeKind) -> Vec<Outcome> {
    indexes.into_iter().map(|index| outcome(index, kind)).collect()
}

/// A lease in the hands of a case.
#[derive(Debug, Clone)]
pub struct Held {
    pub batch: BatchId,
    pub fence: Fence,
    pub count: u32,
    pub sequence: u64,
    /// What the lease is for; None: all.
    pub only: Option<IndexRange>,
}

impl Held {
    pub fn of(claimed: &ClaimedBatch) -> Self {
        let count = claimed.recipients.len() as u32;
        Self { batch: claimed.batch.clone(), fence: claimed.fence.clone(), count, sequence: 0, only: claimed.only }
    }

    pub fn report(&mut self, outcomes: Vec<Outcome>, intents: Vec<u32>) -> LeaseReport {
        self.sequence += 1;
        self.same_report(outcomes, intents)
    }

    /// A report with the last sequence again.
    pub fn same_report(&self, outcomes: Vec<Outcome>, intents: Vec<u32>) -> LeaseReport {
        let (batch, fence) = (self.batch.clone(), self.fence.clone());
        LeaseReport { batch, fence, sequence: self.sequence, outcomes, intents, progress: 0 }
    }
}

/// A store with one run of interest.
pub struct Scene<'a, F: Fixture> {
    pub fixture: &'a F,
    pub run: RunId,
}

impl<'a, F: Fixture> Scene<'a, F> {
    /// A complete run with a batch of each of these sizes, site `other`.
    pub async fn of(fixture: &'a F, counts: &[u32]) -> Self {
        Self::with(fixture, new_run("one"), counts).await
    }

    pub async fn with(fixture: &'a F, new: NewRun, counts: &[u32]) -> Self {
        Self::at_sites(fixture, new, &vec!["other"; counts.len()], counts).await
    }

    pub async fn at_sites(fixture: &'a F, new: NewRun, sites: &[&str], counts: &[u32]) -> Self {
        let scene = Self { fixture, run: new.id.clone() };
        scene.confirm().await;
        // The masters' first sign of life, before there is a lease that could be taken back.
        scene.reclaim().await;
        assert_eq!(fixture.store().create_run(new).await.unwrap(), CreatedRun::Created);
        let lease = scene.claim_split().await.expect("the split is due");
        assert_eq!(lease.run, scene.run);
        let add = scene.add_to(&lease, sites, counts, 100, true);
        assert_eq!(fixture.store().add_batches(add).await.unwrap(), SplitStatus::Done);
        scene.check().await;
        scene
    }

    /// Confirms the server with all that this process saw, as a master does that finds nothing else.
    pub async fn confirm(&self) -> Compared {
        let store = self.fixture.store();
        let compare = Compare { marks: store.seen(), confirm: true };
        store.compare(compare).await.unwrap().remove(0)
    }

    pub async fn claim_split(&self) -> Option<SplitLease> {
        let (request, nonce) = request();
        let claim = ClaimSplit { request, nonce, ttl_ms: TTL_MS };
        self.fixture.store().claim_split(claim).await.unwrap()
    }

    pub fn add(&self, lease: &SplitLease, counts: &[u32], rows: u64, complete: bool) -> AddBatches {
        self.add_to(lease, &vec!["other"; counts.len()], counts, rows, complete)
    }

    /// The same with the site of each batch.
    pub fn add_to(&self, lease: &SplitLease, sites: &[&str], counts: &[u32], rows: u64, complete: bool) -> AddBatches {
        let batch = |(at, count): (usize, &u32)| NewBatch {
            sequence: lease.sequence_max + 1 + at as u64,
            site: sites[at].parse().expect("a site"),
            count: *count,
            payload: format!("payload {at}").into_bytes(),
            not_before_ms: 0,
            checked: 0,
        };
        AddBatches {
            run: lease.run.clone(),
            fence: lease.fence.clone(),
            cursor: lease.cursor,
            cursor_next: lease.cursor + rows,
            batches: counts.iter().enumerate().map(batch).collect(),
            open: b"open".to_vec(),
            bad_rows: 0,
            repeated_rows: 0,
            bad_row_samples: Vec::new(),
            complete,
            ttl_ms: TTL_MS,
        }
    }

    pub async fn claim(&self, by: u8, batches_max: u32) -> Vec<Held> {
        self.claim_lanes(by, batches_max, &[("bulk", 10), ("transactional", 100)]).await
    }

    pub async fn claim_one(&self, by: u8) -> Held {
        self.claim(by, 1).await.pop().expect("a batch is ready")
    }

    pub async fn claim_lanes(&self, by: u8, batches_max: u32, lanes: &[(&str, u32)]) -> Vec<Held> {
        let claim = self.claim_call(by, batches_max, lanes);
        let claimed = self.fixture.store().claim(claim).await.unwrap();
        claimed.leases.iter().map(Held::of).collect()
    }

    pub fn claim_call(&self, by: u8, batches_max: u32, lanes: &[(&str, u32)]) -> Claim {
        let (request, nonce) = request();
        Claim {
            worker: worker(by),
            request,
            nonce,
            batches_max,
            lanes: lanes.iter().map(|(name, weight)| (lane(name), *weight)).collect(),
            ttl_ms: TTL_MS,
            hard_cap_ms: HARD_CAP_MS,
            slots: 64,
            limits: Limits::default(),
        }
    }

    /// As `claim`, with limits.
    pub async fn claim_limited(&self, by: u8, batches_max: u32, limits: &Limits) -> Vec<Held> {
        let lanes = [("bulk", 10), ("transactional", 100)];
        let claim = Claim { limits: limits.clone(), ..self.claim_call(by, batches_max, &lanes) };
        let claimed = self.fixture.store().claim(claim).await.unwrap();
        claimed.leases.iter().map(Held::of).collect()
    }

    pub fn checkpoint_call(&self, reports: Vec<LeaseReport>) -> Checkpoint {
        let limits = Limits::default();
        Checkpoint {
            worker: worker(1),
            reports,
            ttl_ms: TTL_MS,
            window: WINDOW,
            retry_fraction: 0,
            limits,
            grants: None,
        }
    }

    pub async fn checkpoint_report(&self, report: LeaseReport) -> LeaseAnswer {
        self.checkpoint_limited(report, &Limits::default()).await
    }

    pub async fn checkpoint_limited(&self, report: LeaseReport, limits: &Limits) -> LeaseAnswer {
        let checkpoint = Checkpoint { limits: limits.clone(), ..self.checkpoint_call(vec![report]) };
        let mut answers = self.fixture.store().checkpoint(checkpoint).await.unwrap();
        self.check().await;
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    pub async fn checkpoint(&self, held: &mut Held, outcomes: Vec<Outcome>, intents: Vec<u32>) -> LeaseAnswer {
        let report = held.report(outcomes, intents);
        self.checkpoint_report(report).await
    }

    /// Asks for intents and expects all of them.
    pub async fn intend(&self, held: &mut Held, intents: &[u32]) {
        let answer = self.checkpoint(held, Vec::new(), intents.to_vec()).await;
        assert_eq!(answer.granted, intents, "refused: {:?}", answer.refused);
    }

    pub async fn finish(&self, held: &mut Held, outcomes: Vec<Outcome>) -> LeaseAnswer {
        let report = held.report(outcomes, Vec::new());
        self.finish_report(report).await
    }

    pub async fn finish_report(&self, report: LeaseReport) -> LeaseAnswer {
        let finish = Finish { worker: worker(1), reports: vec![report], retry_fraction: 0 };
        let mut answers = self.fixture.store().finish(finish).await.unwrap();
        self.check().await;
        answers.remove(0)
    }

    pub async fn release(&self, held: &mut Held, outcomes: Vec<Outcome>, abandon: bool) -> LeaseAnswer {
        self.release_with(held, outcomes, abandon, 0).await
    }

    pub async fn release_for(&self, held: &mut Held, delay_ms: u64) -> LeaseAnswer {
        self.release_with(held, Vec::new(), false, delay_ms).await
    }

    async fn release_with(&self, held: &mut Held, outcomes: Vec<Outcome>, abandon: bool, delay_ms: u64) -> LeaseAnswer {
        let reports = vec![held.report(outcomes, Vec::new())];
        let (worker, doubt_grace_ms) = (worker(1), GRACE_MS);
        let release = Release { worker, reports, retry_fraction: 0, abandon, doubt_grace_ms, delay_ms };
        let mut answers = self.fixture.store().release(release).await.unwrap();
        self.check().await;
        answers.remove(0)
    }

    pub async fn fact(&self, held: &Held, outcome: Outcome) -> FactStatus {
        let fact = Fact { batch: held.batch.clone(), fence: held.fence.clone(), outcome };
        let statuses = self.fixture.store().facts(vec![fact], 0).await.unwrap();
        self.check().await;
        statuses[0]
    }

    pub async fn reclaim(&self) -> Reclaimed {
        self.reclaim_after(NO_OUTAGE_MS).await
    }

    pub async fn reclaim_after(&self, outage_gap_ms: u64) -> Reclaimed {
        let reclaim = Reclaim { limit: 100, ttl_ms: TTL_MS, doubt_grace_ms: GRACE_MS, outage_gap_ms };
        let reclaimed = self.fixture.store().reclaim(reclaim).await.unwrap();
        assert_eq!(reclaimed.repaired, 0);
        reclaimed
    }

    /// Lets every lease expire and takes it back.
    pub async fn expire(&self) -> Reclaimed {
        self.fixture.pass(TTL_MS + 1).await;
        let reclaimed = self.reclaim().await;
        self.check().await;
        reclaimed
    }

    /// Sends a whole leased batch with one kind of outcome, window by window.
    pub async fn send_all(&self, held: &mut Held, kind: OutcomeKind) -> LeaseAnswer {
        let indexes: Vec<u32> = (0..held.count).collect();
        for window in indexes.chunks(WINDOW as usize) {
            self.intend(held, window).await;
            self.checkpoint(held, outcomes(window.iter().copied(), kind), Vec::new()).await;
        }
        self.finish(held, Vec::new()).await
    }

    pub async fn record(&self) -> RunRecord {
        self.fixture.store().run(&self.run).await.unwrap().expect("the run exists")
    }

    pub async fn batches(&self) -> Vec<BatchRecord> {
        self.fixture.store().batches(&self.run, 0, 1000).await.unwrap()
    }

    pub async fn delivery(&self, held: &Held, index: u32) -> Delivery {
        let batches = self.batches().await;
        let batch = batches.iter().find(|batch| batch.id == held.batch).expect("the batch exists");
        batch.recipients[index as usize].clone()
    }

    /// The invariants of docs/state-machines.md, from the outside.
    pub async fn check(&self) {
        let record = self.record().await;
        assert!(record.recipients.adds_up(), "the counts do not add up: {:?}", record.recipients);
        let batches = self.batches().await;
        let deliveries = || batches.iter().flat_map(|batch| &batch.recipients);
        let counted = |name: &str| deliveries().filter(|delivery| delivery.state.name() == name).count() as u64;
        assert_eq!(record.recipients.total, deliveries().count() as u64);
        assert_eq!(record.recipients.pending, counted("pending"));
        assert_eq!(record.recipients.accepted, counted("accepted"));
        assert_eq!(record.recipients.rejected, counted("rejected"));
        assert_eq!(record.recipients.exhausted, counted("exhausted"));
        assert_eq!(record.recipients.cancelled, counted("cancelled"));
        assert_eq!(record.recipients.unknown, counted("unknown"));
        let placed = |state| batches.iter().filter(|batch| batch.state == state).count() as u64;
        assert_eq!(record.batches.ready, placed(BatchState::Ready));
        assert_eq!(record.batches.leased, placed(BatchState::Leased));
        assert_eq!(record.batches.delayed, placed(BatchState::Delayed));
        assert_eq!(record.batches.settled, placed(BatchState::Settled));
        assert_eq!(record.batches.dead, placed(BatchState::Dead));
        for batch in &batches {
            let intent = batch.recipients.iter().any(|delivery| delivery.state == RecipientState::Intent);
            let pending = batch.recipients.iter().any(|delivery| !delivery.state.is_final());
            match batch.state {
                BatchState::Leased => (),
                BatchState::Ready | BatchState::Delayed => assert!(pending && !intent, "{batch:?}"),
                BatchState::Settled => assert!(!pending, "{batch:?}"),
                BatchState::Dead => assert!(!intent, "{batch:?}"),
            }
            assert_eq!(batch.is_retired(), batch.payload.is_empty());
            // Of a retired batch only corrections say when they were settled.
            for delivery in batch.recipients.iter().filter(|_| !batch.is_retired()) {
                assert_eq!(delivery.state.is_final(), delivery.settled_at_ms.is_some(), "{delivery:?}");
            }
        }
    }
}
