//! The store behind the seal: what holds addresses goes in sealed and comes out open.
//!
//! What cannot be opened comes out as it is stored, so that one batch does not hide the others: whoever decodes it says
//! which key it needs. Only a claim must not hand it out. A key that is missing is no damage: the run is paused until
//! the key is back, nothing of it is lost.

use super::{SealError, Vault, What};
use async_trait::async_trait;
use bytes::Bytes;
use postrider_common::ids::{BatchId, CampaignName, DeadId, DefinitionHash, ErasureId, LaneName, RunId, WorkerId};
use postrider_common::lease::{Fact, FactStatus, LeaseAnswer, LeaseReport};
use postrider_common::mark::Marks;
use postrider_common::pace::Limits;
use postrider_common::relay::RelayShare;
use postrider_common::suppression::SuppressionKey;
use postrider_store::{
    AddBatches, AppliedCampaign, ApplyCampaign, BadRow, BatchRecord, CampaignRecord, CancelledBatches, Checkpoint,
    Claim, ClaimHistory, ClaimSplit, Claimed, ClaimedBatch, ClaimedHistory, Compare, Compared, CreatedRun, DeadAnswer,
    DeadLetter, DueSchedules, EraseRecipients, EraseRun, ErasedRecipients, ErasedRun, ErasureRecord, Finish, Fire,
    Fired, ForgetRun, ForgottenRun, Kept, LaneRecord, LeftSegment, NewRun, PinAudience, Reclaim, Reclaimed, Reconcile,
    Reconciled, Release, ReleaseSplit, Replace, ReplayDead, Result, RetireBatches, RetriedRun, RetryRun, Room,
    RunRecord, ShareLimit, ShareRelay, Shared, SharedLimit, SplitLease, SplitStatus, Steered, Store, StoreError,
    Suppress, SuppressRecipients, SuppressedRecipients, Suppressing, SuppressionChange, SuppressionRecord,
    SuppressionSet, WorkerRecord, WriteErasure,
};
use std::sync::Arc;
use tokio::sync::watch;

#[derive(Debug)]
pub struct Sealed {
    inner: Arc<dyn Store>,
    vault: Vault,
}

fn refusing(error: SealError) -> StoreError {
    StoreError::Refusing { message: error.to_string(), mend: "look at the master's system" }
}

impl Sealed {
    pub fn new(inner: Arc<dyn Store>, vault: Vault) -> Self {
        Self { inner, vault }
    }

    fn seal(&self, what: What<'_>, plain: Vec<u8>) -> Result<Vec<u8>> {
        self.vault.seal(what, plain).map_err(refusing)
    }

    fn seal_text(&self, what: What<'_>, text: String) -> Result<String> {
        self.vault.seal_text(what, text).map_err(refusing)
    }

    fn seal_reports(&self, reports: &mut [LeaseReport]) -> Result<()> {
        for report in reports {
            for outcome in &mut report.outcomes {
                let reply = What::Reply(&report.batch, outcome.index);
                outcome.detail = self.seal_text(reply, std::mem::take(&mut outcome.detail))?;
            }
        }
        Ok(())
    }

    /// As it is when it cannot be opened.
    fn open(&self, what: What<'_>, bytes: &mut Vec<u8>) {
        if postrider_common::seal::Header::read(bytes).is_none() {
            return;
        }
        match self.vault.open(what, bytes.clone()) {
            Ok(plain) => *bytes = plain,
            Err(error) => tracing::debug!(%error, "sealed and not opened"),
        }
    }

    fn open_run(&self, run: &mut RunRecord) {
        self.open(What::Plan(&run.id), &mut run.audience);
    }

    fn open_batch(&self, batch: &mut BatchRecord) {
        self.open(What::Batch(&batch.id), &mut batch.payload);
        for (delivery, index) in batch.recipients.iter_mut().zip(0..) {
            let reply = What::Reply(&batch.id, index);
            delivery.detail = self.vault.open_text(reply, std::mem::take(&mut delivery.detail));
        }
    }

    fn open_erasure(&self, record: &mut ErasureRecord) {
        self.open(What::Erasure(&record.id), &mut record.body);
    }

    fn open_suppression(&self, record: &mut SuppressionRecord) {
        self.open(What::Suppression(record.key), &mut record.subject);
    }

    /// What is to replace something stored, as it is stored. None: something else is stored there.
    fn seal_replace(&self, what: What<'_>, stored: &[u8], replace: Replace) -> Result<Option<Replace>> {
        let mut plain = stored.to_vec();
        self.open(what, &mut plain);
        if plain != replace.from && plain != replace.to {
            return Ok(None);
        }
        Ok(Some(Replace { from: stored.to_vec(), to: self.seal(what, replace.to)? }))
    }

    /// The parts of the call are sealed anew at each time, so they are compared here; that nobody changed them since, the
    /// store compares.
    async fn erase_sealed_run(&self, erase: EraseRun) -> Result<ErasedRun> {
        let EraseRun { run, audience, open } = erase;
        let Some(record) = self.inner.run(&run).await? else { return Ok(ErasedRun::NoRun) };
        let taken = EraseRun { run: run.clone(), audience: None, open: None };
        let ErasedRun::Done { open: stored } = self.inner.erase_run(taken).await? else { return Ok(ErasedRun::NoRun) };
        let mut sealed = EraseRun { run: run.clone(), audience: None, open: None };
        if let Some(replace) = audience {
            sealed.audience = self.seal_replace(What::Plan(&run), &record.audience, replace)?;
            if sealed.audience.is_none() {
                return Ok(ErasedRun::Changed);
            }
        }
        if let Some(replace) = open {
            sealed.open = self.seal_replace(What::Open(&run), &stored, replace)?;
            if sealed.open.is_none() {
                return Ok(ErasedRun::Changed);
            }
        }
        let mut answer = self.inner.erase_run(sealed).await?;
        if let ErasedRun::Done { open } = &mut answer {
            self.open(What::Open(&run), open);
        }
        Ok(answer)
    }

    /// Gives back what was claimed and no key here opens, and pauses its run: it is as it was before the claim, and is
    /// not claimed again until somebody resumes it.
    async fn set_aside(&self, worker: &WorkerId, lease: ClaimedBatch, error: &SealError) -> Result<()> {
        let run = &lease.batch.run;
        tracing::error!(%run, batch = %lease.batch, %error, "run paused, its batches cannot be opened here: run resume once that is mended");
        self.inner.pause_run(run).await?;
        let report = LeaseReport {
            batch: lease.batch,
            fence: lease.fence,
            sequence: 1,
            outcomes: Vec::new(),
            intents: Vec::new(),
            progress: 0,
        };
        let (worker, reports) = (worker.clone(), vec![report]);
        let release = Release { worker, reports, retry_fraction: 0, abandon: false, doubt_grace_ms: 0, delay_ms: 0 };
        self.inner.release(release).await.map(drop)
    }
}

/// Methods that hold nothing to seal.
macro_rules! passed_on {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl Store for Sealed {
            fn describe(&self) -> String {
                self.inner.describe()
            }

            fn wake(&self) -> watch::Receiver<u64> {
                self.inner.wake()
            }

            fn seen(&self) -> Marks {
                self.inner.seen()
            }

            async fn create_run(&self, mut run: NewRun) -> Result<CreatedRun> {
                run.audience = self.seal(What::Plan(&run.id), std::mem::take(&mut run.audience))?;
                self.inner.create_run(run).await
            }

            async fn fire(&self, mut fire: Fire) -> Result<Fired> {
                if let Some(run) = &mut fire.run {
                    run.audience = self.seal(What::Plan(&run.id), std::mem::take(&mut run.audience))?;
                }
                self.inner.fire(fire).await
            }

            async fn run(&self, run: &RunId) -> Result<Option<RunRecord>> {
                let mut run = self.inner.run(run).await?;
                run.iter_mut().for_each(|run| self.open_run(run));
                Ok(run)
            }

            async fn runs(&self, before: Option<(i64, RunId)>, limit: usize) -> Result<Vec<RunRecord>> {
                let mut runs = self.inner.runs(before, limit).await?;
                runs.iter_mut().for_each(|run| self.open_run(run));
                Ok(runs)
            }

            async fn claim_split(&self, claim: ClaimSplit) -> Result<Option<SplitLease>> {
                let mut lease = self.inner.claim_split(claim).await?;
                lease.iter_mut().for_each(|lease| self.open(What::Open(&lease.run), &mut lease.open));
                Ok(lease)
            }

            async fn add_batches(&self, mut add: AddBatches) -> Result<SplitStatus> {
                let run = add.run.clone();
                for batch in &mut add.batches {
                    let id = BatchId { run: run.clone(), sequence: batch.sequence };
                    batch.payload = self.seal(What::Batch(&id), std::mem::take(&mut batch.payload))?;
                }
                if !add.open.is_empty() {
                    add.open = self.seal(What::Open(&run), add.open)?;
                }
                for bad in &mut add.bad_row_samples {
                    bad.reason = self.seal_text(What::BadRow(&run, bad.row), std::mem::take(&mut bad.reason))?;
                }
                self.inner.add_batches(add).await
            }

            async fn pin_audience(&self, mut pin: PinAudience) -> Result<SplitStatus> {
                pin.audience = self.seal(What::Plan(&pin.run), std::mem::take(&mut pin.audience))?;
                self.inner.pin_audience(pin).await
            }

            async fn bad_rows(&self, run: &RunId) -> Result<Vec<BadRow>> {
                let mut rows = self.inner.bad_rows(run).await?;
                for bad in &mut rows {
                    bad.reason = self.vault.open_text(What::BadRow(run, bad.row), std::mem::take(&mut bad.reason));
                }
                Ok(rows)
            }

            async fn claim(&self, claim: Claim) -> Result<Claimed> {
                let worker = claim.worker.clone();
                let mut claimed = self.inner.claim(claim).await?;
                let mut leases = Vec::with_capacity(claimed.leases.len());
                for mut lease in claimed.leases {
                    let what = What::Batch(&lease.batch);
                    match self.vault.open(what, lease.payload.clone()) {
                        Ok(plain) => {
                            lease.payload = plain;
                            leases.push(lease);
                        }
                        Err(error) if error.is_about_keys() => self.set_aside(&worker, lease, &error).await?,
                        // Damage goes the way of all damage: the worker cannot read it and hands it back.
                        Err(error) => {
                            tracing::error!(batch = %lease.batch, %error, "a payload is damaged");
                            leases.push(lease);
                        }
                    }
                }
                claimed.leases = leases;
                Ok(claimed)
            }

            async fn checkpoint(&self, mut checkpoint: Checkpoint) -> Result<Vec<LeaseAnswer>> {
                self.seal_reports(&mut checkpoint.reports)?;
                self.inner.checkpoint(checkpoint).await
            }

            async fn finish(&self, mut finish: Finish) -> Result<Vec<LeaseAnswer>> {
                self.seal_reports(&mut finish.reports)?;
                self.inner.finish(finish).await
            }

            async fn release(&self, mut release: Release) -> Result<Vec<LeaseAnswer>> {
                self.seal_reports(&mut release.reports)?;
                self.inner.release(release).await
            }

            async fn facts(&self, mut facts: Vec<Fact>, retry_fraction: u32) -> Result<Vec<FactStatus>> {
                for fact in &mut facts {
                    let reply = What::Reply(&fact.batch, fact.outcome.index);
                    fact.outcome.detail = self.seal_text(reply, std::mem::take(&mut fact.outcome.detail))?;
                }
                self.inner.facts(facts, retry_fraction).await
            }

            async fn claim_history(&self, claim: ClaimHistory) -> Result<ClaimedHistory> {
                let mut claimed = self.inner.claim_history(claim).await?;
                claimed.batches.iter_mut().for_each(|settled| self.open_batch(&mut settled.record));
                Ok(claimed)
            }

            async fn batches(&self, run: &RunId, after: u64, limit: usize) -> Result<Vec<BatchRecord>> {
                let mut batches = self.inner.batches(run, after, limit).await?;
                batches.iter_mut().for_each(|batch| self.open_batch(batch));
                Ok(batches)
            }

            async fn erase_recipients(&self, mut erase: EraseRecipients) -> Result<ErasedRecipients> {
                if !erase.payload.is_empty() {
                    erase.payload = self.seal(What::Batch(&erase.batch), std::mem::take(&mut erase.payload))?;
                }
                self.inner.erase_recipients(erase).await
            }

            async fn erase_run(&self, erase: EraseRun) -> Result<ErasedRun> {
                self.erase_sealed_run(erase).await
            }

            async fn write_erasure(&self, mut write: WriteErasure) -> Result<Option<u64>> {
                write.body = self.seal(What::Erasure(&write.id), std::mem::take(&mut write.body))?;
                self.inner.write_erasure(write).await
            }

            async fn erasure(&self, id: &ErasureId) -> Result<Option<ErasureRecord>> {
                let mut record = self.inner.erasure(id).await?;
                record.iter_mut().for_each(|record| self.open_erasure(record));
                Ok(record)
            }

            async fn open_erasures(&self, limit: usize) -> Result<Vec<ErasureRecord>> {
                let mut records = self.inner.open_erasures(limit).await?;
                records.iter_mut().for_each(|record| self.open_erasure(record));
                Ok(records)
            }

            async fn suppress(&self, mut suppress: Suppress) -> Result<Suppressing> {
                for change in &mut suppress.changes {
                    if let SuppressionChange::Add { key, subject, .. } = change {
                        *subject = self.seal(What::Suppression(*key), std::mem::take(subject))?;
                    }
                }
                self.inner.suppress(suppress).await
            }

            async fn suppressions_of(&self, keys: &[SuppressionKey]) -> Result<Vec<Option<SuppressionRecord>>> {
                let mut records = self.inner.suppressions_of(keys).await?;
                records.iter_mut().flatten().for_each(|record| self.open_suppression(record));
                Ok(records)
            }

            async fn suppressions_after(&self, after: Option<SuppressionKey>, limit: usize) -> Result<Vec<SuppressionRecord>> {
                let mut records = self.inner.suppressions_after(after, limit).await?;
                records.iter_mut().for_each(|record| self.open_suppression(record));
                Ok(records)
            }

            $(async fn $name(&self, $($argument: $kind),*) -> Result<$answer> {
                self.inner.$name($($argument),*).await
            })*
        }
    };
}

passed_on! {
    now_ms() -> i64;
    compare(compare: Compare) -> Vec<Compared>;
    apply_campaign(apply: ApplyCampaign) -> AppliedCampaign;
    campaign(name: &CampaignName) -> Option<CampaignRecord>;
    campaigns(after: Option<&CampaignName>, limit: usize) -> Vec<CampaignRecord>;
    set_campaign_paused(name: &CampaignName, paused: bool) -> bool;
    delete_campaign(name: &CampaignName) -> bool;
    due_schedules(limit: usize) -> DueSchedules;
    definition(hash: &DefinitionHash) -> Option<Bytes>;
    pause_run(run: &RunId) -> Steered;
    resume_run(run: &RunId) -> Steered;
    cancel_run(run: &RunId) -> Steered;
    cancel_batches(run: &RunId, after: u64, limit: usize) -> CancelledBatches;
    runs_to_cancel(limit: usize) -> Vec<RunId>;
    release_split(release: ReleaseSplit) -> SplitStatus;
    reclaim(reclaim: Reclaim) -> Reclaimed;
    reconcile(reconcile: Reconcile) -> Reconciled;
    share_relay(share: ShareRelay) -> RelayShare;
    share_limit(share: ShareLimit) -> SharedLimit;
    rooms(limits: &Limits) -> Vec<Room>;
    retire_batches(retire: RetireBatches) -> u64;
    workers() -> Vec<WorkerRecord>;
    drain_worker(name_or_instance: &str) -> usize;
    lanes(lanes: &[LaneName]) -> Vec<LaneRecord>;
    set_lane_paused(lane: &LaneName, paused: bool) -> ();
    retry_run(retry: RetryRun) -> RetriedRun;
    dead_letters(run: Option<&RunId>, after: Option<&DeadId>, limit: usize) -> Vec<DeadLetter>;
    replay_dead(replay: ReplayDead) -> DeadAnswer;
    purge_dead(id: &DeadId) -> DeadAnswer;
    forget_run(forget: ForgetRun) -> ForgottenRun;
    runs_to_forget(limit: usize) -> Vec<RunId>;
    left_segments(limit: usize) -> Vec<LeftSegment>;
    forget_segments(segments: Vec<LeftSegment>) -> ();
    keep(shared: Vec<Shared>) -> ();
    kept(before_ms: i64, skip: usize, limit: usize) -> Vec<Kept>;
    forget_kept(unnamed: Vec<Kept>) -> Vec<Shared>;
    suppression_set() -> SuppressionSet;
    suppress_recipients(found: SuppressRecipients) -> SuppressedRecipients;
}
