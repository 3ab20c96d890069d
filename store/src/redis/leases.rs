//! Claiming and reclaiming.

use super::looking::{self, Place};
use super::reply::{Elements, corrupt, ms, parse, read};
use super::scripts::{Args, Transition};
use super::shard::{Shard, only};
use crate::api::{Claim, Claimed, ClaimedBatch, Reclaim, Reclaimed, Result};
use postrider_common::ids::{BatchId, Fence, RunId};
use postrider_common::lease::Progress;
use postrider_common::limits::LEASES_PER_CALL_MAX;
use postrider_common::state::RecipientState;
use redis::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

/// Workers not seen for this long are forgotten.
const WORKER_FORGET_MS: u64 = 86_400_000;

/// A lease as the script answered it.
struct Granted {
    batch: BatchId,
    fence: Fence,
    place: Place,
    expires_at: i64,
    hard_at: i64,
}

impl Shard {
    pub(super) async fn lease_claim(&self, claim: Claim) -> Result<Claimed> {
        let most = claim.batches_max.min(LEASES_PER_CALL_MAX as u32);
        let args = Args::default().text(claim.worker.to_string()).text(claim.request.as_str());
        let args = args.text(format!("{:08x}", claim.nonce)).int(most).int(claim.ttl_ms).int(claim.hard_cap_ms);
        let mut args = args.int(claim.slots).int(WORKER_FORGET_MS).int(claim.lanes.len() as u64);
        for (lane, weight) in &claim.lanes {
            args = args.text(lane.as_str()).int(*weight);
        }
        let args = args.text(self.limits_text(&claim.limits));
        let mut pipe = redis::pipe();
        pipe.add_command(self.script(Transition::Claim, &[], args));
        let mut answer = Elements::of(only(self.call(Transition::Claim, pipe).await?)?, "claim")?;
        self.note_position(Value::Array(vec![answer.value()?, answer.value()?]));
        let (now, drain): (i64, u8) = (answer.read()?, answer.read()?);
        let mut granted = Vec::new();
        while !answer.is_empty() {
            let (batch, fence) = (answer.parse()?, answer.parse()?);
            let entry: String = answer.read()?;
            let place = Place::parse(&entry)?;
            granted.push(Granted { batch, fence, place, expires_at: answer.parse()?, hard_at: answer.parse()? });
        }
        Ok(Claimed { leases: self.claimed_batches(now, granted).await?, drain: drain == 1 })
    }

    /// What the leases are for: read after the claim, by the ids it answered.
    async fn claimed_batches(&self, now: i64, granted: Vec<Granted>) -> Result<Vec<ClaimedBatch>> {
        if granted.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        let runs: BTreeSet<RunId> = granted.iter().map(|lease| lease.batch.run.clone()).collect();
        for run in &runs {
            pipe.cmd("HMGET").arg(self.keys.run(run)).arg(&["campaign", "definition"]);
        }
        pipe.cmd("HGET").arg(self.keys.shard()).arg("suppressed");
        for Granted { batch, place, .. } in &granted {
            pipe.cmd("HGETALL").arg(self.keys.batch(batch));
            pipe.cmd("GET").arg(self.keys.payload(batch, &place.payload));
        }
        let mut answers = self.links.swift.call(pipe).await?.into_iter();
        type Frozen = (Option<String>, Option<String>);
        let frozen = runs.into_iter().zip(answers.by_ref());
        let frozen: BTreeMap<RunId, Result<Frozen>> =
            frozen.map(|(run, answer)| (run, answer.and_then(|value| read(value, "a run")))).collect();
        let number = answers.next().ok_or_else(|| corrupt("an answer is missing"))??;
        let number: u64 = read::<Option<u64>>(number, "the number of a set")?.unwrap_or(0);
        let mut leases = Vec::with_capacity(granted.len());
        for lease in granted {
            let mut next = || answers.next().ok_or_else(|| corrupt("an answer is missing"))?;
            let (batch, payload) = (next(), next());
            let (id, fence) = (lease.batch.clone(), lease.fence.clone());
            let made = || -> Result<ClaimedBatch> {
                let (campaign, definition) = match frozen.get(&lease.batch.run) {
                    Some(Ok(frozen)) => frozen.clone(),
                    Some(Err(error)) => return Err(corrupt(error)),
                    None => (None, None),
                };
                let missing = || corrupt("the run is missing");
                let batch = looking::BatchHash::read(batch?)?.ok_or_else(|| corrupt("the batch is missing"))?;
                let payload: Option<Vec<u8>> = read(payload?, "a payload")?;
                Ok(ClaimedBatch {
                    batch: lease.batch,
                    fence: lease.fence,
                    campaign: campaign.ok_or_else(missing)?,
                    lane: parse(&lease.place.lane, "a lane")?,
                    site: parse(&lease.place.site, "a site")?,
                    definition: parse(&definition.ok_or_else(missing)?, "a definition")?,
                    ttl_ms: ms(lease.expires_at - now),
                    hard_cap_ms: ms(lease.hard_at - now),
                    payload: payload.ok_or_else(|| corrupt("the payload is missing"))?,
                    recipients: batch.recipients.iter().map(|r| progress(r, now)).collect(),
                    only: batch.only,
                    unchecked: (batch.checked < number).then_some(number),
                })
            };
            match made() {
                Ok(claimed) => leases.push(claimed),
                Err(error) => self.set_aside(&id, Some(&fence), &error.to_string()).await?,
            }
        }
        Ok(leases)
    }

    /// A leased batch that cannot be read waits for a person: not leased again, and not lost from the counts.
    /// Without a fence: whoever held it, if the lease has expired.
    async fn set_aside(&self, batch: &BatchId, fence: Option<&Fence>, reason: &str) -> Result<()> {
        let reason = reason.replace('|', "/");
        let fence = fence.map_or(String::new(), Fence::to_string);
        let args = Args::default().text(batch.to_string()).text(fence).text(&reason);
        let done: u32 = read(self.run_script(Transition::Quarantine, &[], args).await?, "quarantine")?;
        if done == 1 {
            tracing::error!(%batch, reason, "a batch cannot be read and is set aside as dead");
            self.set_aside.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) async fn lease_reclaim(&self, reclaim: Reclaim) -> Result<Reclaimed> {
        let hold_ms = reclaim.ttl_ms.saturating_add(reclaim.doubt_grace_ms);
        let args = Args::default().int(hold_ms).int(reclaim.outage_gap_ms).int(reclaim.limit);
        let answer = self.run_script(Transition::SignOfLife, &[], args).await?;
        let mut answer = Elements::of(answer, "sign_of_life")?;
        let mut reclaimed = Reclaimed { held_ms: ms(answer.read()?), ..Reclaimed::default() };
        let mut expired: Vec<BatchId> = Vec::new();
        while !answer.is_empty() {
            expired.push(answer.parse()?);
        }
        if expired.is_empty() {
            reclaimed.repaired = self.set_aside.swap(0, Ordering::Relaxed);
            return Ok(reclaimed);
        }
        let mut pipe = redis::pipe();
        for batch in &expired {
            let own = [self.keys.batch(batch), self.keys.details(batch), self.keys.run(&batch.run)];
            let args = Args::default().text(batch.to_string()).int(reclaim.doubt_grace_ms);
            pipe.add_command(self.script(Transition::Reclaim, &own, args));
        }
        for (batch, answer) in expired.iter().zip(self.links.swift.call(pipe).await?) {
            match answer.and_then(|value| read::<(String, u32, u32)>(value, "reclaim")) {
                Ok((status, doubts, dead)) => match status.as_str() {
                    "reclaimed" => {
                        reclaimed.leases += 1;
                        reclaimed.doubts += doubts;
                        reclaimed.dead += dead;
                    }
                    "dead" => {
                        tracing::error!(%batch, "a batch cannot be read and is set aside as dead");
                        reclaimed.repaired += 1;
                    }
                    _ => (),
                },
                // One that cannot be read must not keep the others from coming back.
                Err(error) => {
                    tracing::error!(%batch, %error, "failed to reclaim a lease");
                    self.set_aside(batch, None, &error.to_string()).await?;
                }
            }
        }
        reclaimed.repaired += self.set_aside.swap(0, Ordering::Relaxed);
        if reclaimed.leases > 0 {
            self.wake.bump();
        }
        Ok(reclaimed)
    }
}

fn progress(recipient: &looking::Recipient, now: i64) -> Progress {
    let wait = if recipient.state == RecipientState::Deferred { recipient.due_at - now } else { 0 };
    Progress { state: recipient.state, attempts: recipient.attempts, not_before_ms: ms(wait) }
}
