//! Runs that are forgotten: their account is judged by how they were then, and the storage keeps what others name.

use crate::coverage::Point;
use crate::judge::{Excuse, Verdict, check_recipient, check_run};
use crate::people::Submission;
use crate::rules::Rules;
use crate::world::{Tx, World};
use postrider_common::ids::{BatchId, RunId};
use postrider_common::state::RecipientState;
use postrider_master::history::Known;
use postrider_master::loops::sweep::{Config, SweepDuty, SweepError};
use postrider_store::RunRecord;
use postrider_store::embedded::model::Standing;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A run as it was when it was forgotten.
#[derive(Debug)]
pub struct Forgotten {
    run: RunRecord,
    recipients: Vec<(BatchId, u32, Standing)>,
}

impl Rules {
    /// `run` was there before the call, and is not after it.
    pub fn forgot(&mut self, now: i64, at_ms: u64, run: RunRecord, keep_ms: u64) {
        self.coverage.reach(Point::RunForgotten);
        let batches = self.batches.iter().filter(|(id, _)| id.run == run.id);
        let recipients: Vec<(BatchId, u32, Standing)> = batches
            .flat_map(|(id, shadow)| (0..).zip(shadow.known()).map(move |(index, one)| (id.clone(), index, one)))
            .collect();
        if recipients.iter().any(|(_, _, one)| !one.state.is_final()) || run.recipients.pending > 0 {
            self.fail(&format!("P1: {} was forgotten with somebody pending: {:?}", run.id, run.recipients));
        }
        let ended_at_ms = run.settled_at_ms.unwrap_or(run.created_at_ms);
        if now < ended_at_ms.saturating_add_unsigned(keep_ms) {
            self.fail(&format!("{} ended at {ended_at_ms} and was forgotten at {now}", run.id));
        }
        self.forgotten_ms.entry(run.id.clone()).or_insert(at_ms);
        self.forgotten.insert(run.id.clone(), Forgotten { run, recipients });
    }
}

impl World {
    pub fn is_forgotten(&self, run: &RunId) -> bool {
        self.store().rules.forgotten.contains_key(run)
    }

    /// What is wrong with a run that is not there any more. None: it was not forgotten.
    pub fn judge_forgotten(&self, submission: &Submission, verdict: &mut Verdict) -> Option<Vec<String>> {
        let store = self.store();
        let Forgotten { run, recipients } = store.rules.forgotten.get(&submission.run)?;
        let mut found: Vec<String> = check_run(run, submission).into_iter().collect();
        let mut truth: BTreeMap<(&BatchId, u32), Vec<&Tx>> = BTreeMap::new();
        for tx in self.txs.iter().filter(|tx| tx.batch.run == run.id) {
            truth.entry((&tx.batch, tx.index)).or_default().push(tx);
        }
        let mut keys = BTreeSet::new();
        for (batch, index, one) in recipients {
            let txs = truth.get(&(batch, *index)).map_or(&[][..], Vec::as_slice);
            let key = txs.first().map(|tx| tx.key.clone()).unwrap_or_default();
            let is_new = submission.keys.contains(&key) && keys.insert(key.clone());
            if !txs.is_empty() && !is_new {
                found.push(format!("P1: {key} was there twice or was never submitted"));
            }
            let known = Known {
                address: key.clone(),
                key,
                state: one.state,
                attempts: one.attempts,
                code: String::new(),
                detail: String::new(),
                reason: one.reason,
                message_id: String::new(),
                settled_at_ms: None,
            };
            let excuse = Excuse::of(&store.rules, txs);
            found.extend(check_recipient(run, &known, txs, verdict, (&self.mix, excuse)));
        }
        if !run.cancelled && recipients.len() != submission.keys.len() {
            found.push(format!("P1: {} of {} were admitted", recipients.len(), submission.keys.len()));
        }
        Some(found)
    }

    /// Removes from the storage what nobody names, all of it, now that nobody is about to name anything.
    pub async fn sweep(&mut self) {
        let core = self.assemble_master(0).dispatch.core;
        let sweep = SweepDuty::new(core, Config { tick: Duration::from_secs(1), age: Duration::ZERO });
        match sweep.run_once().await {
            Ok(counts) if counts.segments > 0 => self.reach(Point::SegmentSwept),
            // So few segments that those of crashes are not plausible: nothing is removed.
            Ok(_) | Err(SweepError::Implausible { .. }) => (),
            Err(error) => self.fail(format!("the storage cannot be swept: {error}")),
        }
    }
}

impl crate::rules::Shadow {
    /// Recipients with the reasons that tombstones leave to the segments.
    fn known(&self) -> impl Iterator<Item = Standing> {
        self.recipients.iter().enumerate().map(|(index, one)| {
            debug_assert!(one.state != RecipientState::Intent || !one.is_retired);
            let told = self.reasons.get(index).copied().flatten();
            Standing { reason: if one.is_retired { told } else { one.reason }, ..*one }
        })
    }
}
