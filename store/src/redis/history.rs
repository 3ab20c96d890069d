//! What settled batches leave behind: handed to a writer of history, then replaced by tombstones.

use super::reply::{Elements, read};
use super::scripts::{Args, Transition};
use super::shard::Shard;
use crate::api::{ClaimHistory, ClaimedHistory, Result, RetireBatches, SettledBatch};
use postrider_common::ids::BatchId;

/// Batches that one script retires: bounds how long it keeps the server.
const RETIRE_STEP_BATCHES_MAX: usize = 20;

impl Shard {
    /// A batch is read after it was claimed: what changes in between changes its stamp, so that it is not retired.
    pub(super) async fn history_claim(&self, claim: ClaimHistory) -> Result<ClaimedHistory> {
        let args = Args::default().text(claim.request.as_str()).int(claim.ttl_ms).int(claim.limit as u64);
        let mut answer = Elements::of(self.run_script(Transition::ClaimHistory, &[], args).await?, "claim_history")?;
        let backlog = answer.read()?;
        let mut stamps: Vec<(BatchId, u64)> = Vec::new();
        while !answer.is_empty() {
            let id = answer.parse()?;
            stamps.push((id, answer.parse()?));
        }
        let ids: Vec<BatchId> = stamps.iter().map(|(id, _)| id.clone()).collect();
        let mut batches = Vec::with_capacity(ids.len());
        for record in self.records_of(&ids).await? {
            if let Some((_, stamp)) = stamps.iter().find(|(id, _)| *id == record.id) {
                batches.push(SettledBatch { stamp: *stamp, record });
            }
        }
        Ok(ClaimedHistory { backlog, batches })
    }

    pub(super) async fn history_retire(&self, retire: RetireBatches) -> Result<u64> {
        if retire.batches.is_empty() {
            return Ok(0);
        }
        let ids: Vec<BatchId> = retire.batches.iter().map(|(id, _)| id.clone()).collect();
        let mut pipe = redis::pipe();
        for id in &ids {
            pipe.cmd("HGET").arg(self.keys.batch(id)).arg("payload");
        }
        let mut names = self.links.read_bulk(pipe, "a batch").await?;
        let mut pipe = redis::pipe();
        for step in retire.batches.chunks(RETIRE_STEP_BATCHES_MAX) {
            let args = Args::default().text(retire.request.as_str()).text(&retire.segment).int(step.len() as u64);
            let (mut args, mut own) = (args, Vec::with_capacity(step.len() * 3));
            for (id, stamp) in step {
                let name = names.read::<Option<String>>()?.unwrap_or_default();
                own.extend([self.keys.batch(id), self.keys.details(id), self.keys.payload(id, &name)]);
                args = args.text(id.to_string()).int(*stamp).text(name);
            }
            pipe.add_command(self.script(Transition::RetireBatches, &own, args));
        }
        let mut retired = 0;
        for answer in self.links.swift.call(pipe).await? {
            retired += read::<u64>(answer?, "retire_batches")?;
        }
        self.wake.bump();
        Ok(retired)
    }
}
