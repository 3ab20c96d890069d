//! What the ledger of the relay and the truth about every transmission say of the store's account of them.

use crate::coverage::Point;
use crate::mix::Mix;
use crate::people::Submission;
use crate::rules::Rules;
use crate::world::{Tx, TxId, World};
use postrider_common::ids::LaneName;
use postrider_common::lease::OutcomeKind;
use postrider_common::state::{RecipientState, UnknownReason};
use postrider_master::history::{Known, Reader};
use postrider_store::RunRecord;
use postrider_store::embedded::model::Model;
use std::collections::BTreeMap;

/// A single message of a world without faults has left by then (P5).
const SMALL_MS_MAX: u64 = 2_000;
/// And the first of a run that has to share its lane with a large one.
const MID_MS_MAX: u64 = 5_000;

/// Three strikes, seven halves of a hundred, and those that ended beside somebody who had an outcome. Other faults make
/// it more.
const POISON_ENDS_MAX: u32 = 3 + 7 + 10;

/// What a seed came to.
#[derive(Debug, Default, Clone)]
pub struct Verdict {
    pub recipients: u64,
    pub messages: u64,
    pub duplicates_reply_lost: u64,
    pub duplicates_not_recorded: u64,
}

impl World {
    /// Right before a final dot leaves: it is allowed by the store, and a second one has a reason.
    pub fn check_dot(&mut self, id: TxId) {
        let tx = &self.txs[id];
        let mut wrong = None;
        let mut waits = self.submissions.iter().filter(|one| one.run == tx.batch.run);
        if let Some(at) = waits.find_map(|submission| submission.waits.get(&tx.key)) {
            if self.mix.clock_steps == 0 && self.store().now() < *at {
                wrong = Some(format!("a final dot for {} before {at}, the time of its wave", tx.batch));
            }
            self.store().rules.coverage.reach(Point::WaveAwaited);
        }
        wrong = wrong.or_else(|| self.sent_past_suppression(tx));
        {
            let store = self.store();
            // What the store forgot since was allowed by it; the end shows whether it has its reason.
            if store.rules.lineage.is_stale(tx.intent()) {
                return;
            }
            let shadow = store.rules.batches.get(&tx.batch);
            let Some((shadow, standing)) = shadow.and_then(|s| Some((s, s.recipients.get(tx.index as usize)?))) else {
                drop(store);
                return self.fail("a final dot for somebody who is not in the store".to_owned());
            };
            // A late fact about an earlier transmission may have overridden the intent.
            let is_own = standing.intent == tx.fence;
            let is_open = matches!(standing.state, RecipientState::Intent | RecipientState::Accepted);
            // A store whose clock was stepped may take a lease back early; the doubt that it notes is the reason then.
            if self.mix.clock_steps == 0 && !(shadow.fence == Some(tx.fence) && is_own && is_open) {
                let now = (shadow.fence, standing);
                wrong =
                    Some(format!("P3: a final dot under fence {} for {} {}: {now:?}", tx.fence, tx.batch, tx.index));
            }
            let before = self.txs.iter().enumerate().filter(|(other, one)| {
                *other != id && one.is_dot_written && one.index == tx.index && one.batch == tx.batch
            });
            for (_, earlier) in before {
                let is_refused = matches!(earlier.verdict, Some(OutcomeKind::Deferred | OutcomeKind::NotWritten));
                let is_unknown = is_refused || store.rules.lineage.excuses(earlier.intent());
                if !is_unknown && standing.reason.is_none() && !standing.is_retired {
                    wrong = Some(format!("P2: {} {} is sent again without a reason: {earlier:?}", tx.batch, tx.index));
                }
            }
        }
        if let Some(why) = wrong {
            self.fail(why);
        }
    }

    /// Nothing is begun for somebody after it was acknowledged that he is not to be sent to. (A store that goes back may lose
    /// that, as docs/suppression.md says.)
    fn sent_past_suppression(&self, tx: &Tx) -> Option<String> {
        let (is_of_all, since_ms) = self.suppressed.get(&tx.key)?;
        let (since_ms, store) = ((*since_ms)?, self.store());
        let is_meant = *is_of_all || store.rules.runs.get(&tx.batch.run)?.lane == LaneName::bulk();
        let granted_ms = *store.rules.granted_ms.get(&(tx.batch.clone(), tx.index as usize, tx.fence))?;
        let is_late = granted_ms > since_ms && self.mix.rollbacks == 0;
        (is_meant && is_late).then(|| {
            format!("5.10: {} {} got an intent at {granted_ms}, suppressed since {since_ms}", tx.batch, tx.index)
        })
    }

    /// The end: everybody has one final state, and it is the true one.
    pub async fn judge(&mut self) -> Verdict {
        self.check_proofs();
        self.sweep().await;
        let mut verdict = Verdict::default();
        let model = self.store().model.clone();
        if let Err(why) = model.audit(|_, _, _| {}) {
            self.fail(format!("P1: {why}"));
        }
        let runs: BTreeMap<_, RunRecord> = model.all_runs().map(|run| (run.id.clone(), run)).collect();
        let submissions = std::mem::take(&mut self.submissions);
        if runs.len() + self.store().rules.forgotten.len() != submissions.len() {
            self.fail(format!("P4: {} submits made {} runs", submissions.len(), runs.len()));
        }
        let mut truth: BTreeMap<(&str, &str), Vec<&Tx>> = BTreeMap::new();
        for tx in &self.txs {
            truth.entry((tx.batch.run.as_str(), tx.key.as_str())).or_default().push(tx);
        }
        let mut found = Vec::new();
        let mut reader = Reader::new(self.storage.clone());
        for submission in &submissions {
            let Some(run) = runs.get(&submission.run) else {
                if let Some(wrong) = self.judge_forgotten(submission, &mut verdict) {
                    found.extend(wrong);
                    continue;
                }
                found.push(format!("P9: the submit of {} was acknowledged and it is gone", submission.run));
                continue;
            };
            if model.definition(&run.definition).is_none() {
                found.push(format!("P8: the message of {} is gone", run.id));
            }
            let mut keys = submission.keys.clone();
            for batch in model.batches(&run.id, 0, 10_000) {
                let known = match reader.batch(run, &batch).await {
                    Ok(known) => known,
                    Err(error) => {
                        found.push(format!("P8: {} cannot be read: {error}", batch.id));
                        continue;
                    }
                };
                for one in known {
                    if one.state == RecipientState::Suppressed && !self.suppressed.contains_key(&one.key) {
                        found.push(format!("5.10: {} is suppressed, and nobody asked for that", one.key));
                    }
                    if !keys.remove(&one.key) {
                        found.push(format!("P1: {} is there twice or was never submitted", one.key));
                    }
                    let txs = truth.get(&(run.id.as_str(), one.key.as_str()));
                    let txs = txs.map_or(&[][..], Vec::as_slice);
                    let excuse = Excuse::of(&self.store().rules, txs);
                    found.extend(check_recipient(run, &one, txs, &mut verdict, (&self.mix, excuse)));
                }
            }
            if !run.cancelled && !keys.is_empty() {
                found.push(format!("P1: {} of {} were never admitted", keys.len(), submission.keys.len()));
            }
            found.extend(check_run(run, submission));
            found.extend(self.mix.is_calm.then(|| check_pace(submission, self.mix.is_limited)).flatten());
        }
        drop(truth);
        found.extend(self.check_poison(&model));
        self.check_points(&runs);
        if let Some(first) = found.into_iter().next() {
            self.fail(first);
        }
        self.submissions = submissions;
        verdict
    }

    /// Whoever ends workers is a dead letter, or was cancelled before that.
    fn check_poison(&mut self, model: &Model) -> Option<String> {
        let letters = model.dead_letters(None, None, 1_000);
        if !letters.is_empty() {
            self.reach(Point::DeadLetter);
        }
        let (who, ended) = self.poison.clone()?;
        self.print.add(u64::from(ended));
        let bound = 3 * POISON_ENDS_MAX;
        (ended > bound).then(|| format!("{who} ended {ended} workers, more than {bound}"))
    }

    fn check_points(&mut self, runs: &BTreeMap<postrider_common::RunId, RunRecord>) {
        for run in runs.values() {
            if run.leases_taken_over > 0 {
                self.reach(Point::LeaseTakenOver);
            }
            let counts = [run.recipients.total, run.recipients.accepted, run.recipients.unknown];
            counts.into_iter().for_each(|count| self.print.add(count));
        }
    }
}

pub fn check_run(run: &RunRecord, submission: &Submission) -> Option<String> {
    if run.recipients.pending > 0 || run.batches.leased + run.batches.ready + run.batches.delayed > 0 {
        return Some(format!("P1: {} has not ended: {:?} {:?}", run.id, run.recipients, run.batches));
    }
    if !run.recipients.adds_up() {
        return Some(format!("P1: {} does not add up: {:?}", run.id, run.recipients));
    }
    (!run.cancelled && run.recipients.total != submission.keys.len() as u64)
        .then(|| format!("P1: {} has {} recipients of {}", run.id, run.recipients.total, submission.keys.len()))
}

fn check_pace(submission: &Submission, is_limited: bool) -> Option<String> {
    let bound = match submission.keys.len() {
        1 => SMALL_MS_MAX,
        _ => MID_MS_MAX,
    };
    let took = submission.first_ms.map(|first| first.saturating_sub(submission.at_ms));
    (!is_limited && took.is_none_or(|took| took > bound))
        .then(|| format!("P5: {} had to wait: {took:?} ms", submission.run))
}

/// What a store that went back, or has forgotten a run, cannot be asked for.
#[derive(Debug, Clone, Copy)]
pub struct Excuse {
    pub no_reason: bool,
    pub no_acceptance: bool,
}

impl Excuse {
    pub fn of(rules: &Rules, txs: &[&Tx]) -> Self {
        let lineage = &rules.lineage;
        let no_reason = txs.iter().any(|tx| lineage.excuses(tx.intent()));
        // Of what a store does not know it takes no reports.
        let is_lost = |tx: &&Tx| lineage.lost_acceptance(&tx.batch, tx.index as usize);
        // Nor of what it has forgotten.
        let is_forgotten = |tx: &&Tx| {
            let forgotten_ms = rules.forgotten_ms.get(&tx.batch.run);
            tx.told_ms.zip(forgotten_ms).is_some_and(|(told_ms, forgotten_ms)| told_ms >= *forgotten_ms)
        };
        Self { no_reason, no_acceptance: no_reason || txs.iter().any(|tx| is_lost(tx) || is_forgotten(tx)) }
    }
}

/// One recipient: what the store says, and the transmissions there were.
pub fn check_recipient(
    run: &RunRecord,
    known: &Known,
    txs: &[&Tx],
    verdict: &mut Verdict,
    (mix, excuse): (&Mix, Excuse),
) -> Option<String> {
    let accepted = txs.iter().filter(|tx| tx.is_accepted).count() as u64;
    verdict.recipients += 1;
    verdict.messages += accepted;
    match known.reason {
        Some(UnknownReason::ReplyLost) => verdict.duplicates_reply_lost += accepted.saturating_sub(1),
        Some(UnknownReason::OutcomeNotRecorded) => verdict.duplicates_not_recorded += accepted.saturating_sub(1),
        None => {}
    }
    let wrong = |what: &str| Some(format!("{what}: {} of {}: {known:?}, {txs:?}", known.key, run.id));
    let is_accepted = known.state == RecipientState::Accepted;
    if !known.state.is_final() {
        return wrong("P1: not final");
    }
    if is_accepted && accepted == 0 {
        return wrong("P1: lost: accepted, and the relay has nothing");
    }
    let has_reason = known.reason.is_some() || excuse.no_reason;
    if accepted > 1 && !has_reason {
        return wrong("P2: a duplicate without a reason");
    }
    if accepted > 0 && !is_accepted && !has_reason {
        return wrong("P1: the relay has it, and the store says that it does not");
    }
    let is_told = txs.iter().any(|tx| tx.told_ms.is_some() && tx.verdict == Some(OutcomeKind::Accepted));
    if !is_accepted && is_told && !excuse.no_acceptance {
        return wrong("P9: an acceptance that was acknowledged is gone");
    }
    if known.state == RecipientState::Unknown && known.reason.is_none() {
        return wrong("P2: unknown without a reason");
    }
    if known.state == RecipientState::Cancelled && !run.cancelled {
        return wrong("5.9: cancelled in a run that is not");
    }
    // One whose process died has no verdict, and its journal says that the reply was lost; so does one whose end went
    // with its host.
    let is_unread =
        |tx: &Tx| matches!(tx.verdict, Some(OutcomeKind::Unknown) | None) || (mix.reboots && tx.told_ms.is_none());
    let may_be_lost = |tx: &&&Tx| tx.is_dot_written && is_unread(tx);
    if known.reason == Some(UnknownReason::ReplyLost) && !txs.iter().any(|tx| may_be_lost(&tx)) {
        return wrong("P2: a lost reply that was not lost");
    }
    if known.reason == Some(UnknownReason::OutcomeNotRecorded) && !mix.may_lose_leases() {
        return wrong("P2: an outcome was not recorded although nobody was cut off");
    }
    None
}
