//! What holders of leases say: checkpoint, finish, release, and facts from those that hold none.

use super::link::Answers;
use super::reply::{Elements, corrupt, ms, parse, read};
use super::scripts::{Args, Transition};
use super::shard::Shard;
use crate::api::{Checkpoint, Finish, Release, Result};
use crate::error::StoreError;
use postrider_common::lease::{Fact, FactStatus, LeaseAnswer, LeaseReport, LeaseStatus, Outcome, RefusalReason};
use redis::Value;

/// Reports that one script takes: bounds how long it keeps the server.
const REPORT_STEP_MAX: usize = 16;

/// What is the same for all reports of a call.
struct Reporting {
    transition: Transition,
    /// The retry fraction, and two of the script.
    settings: [u64; 3],
    /// As the script's last argument.
    limits: Option<String>,
}

impl Shard {
    pub(super) async fn report_checkpoint(&self, checkpoint: Checkpoint) -> Result<Vec<LeaseAnswer>> {
        let Checkpoint { worker: _, reports, ttl_ms, window, retry_fraction, limits } = checkpoint;
        let limits = self.limits_text(&limits);
        let call = Reporting {
            transition: Transition::Checkpoint,
            settings: [u64::from(retry_fraction), ttl_ms, u64::from(window)],
            limits: Some(limits),
        };
        each(&reports, self.report(&call, &reports).await?, held)
    }

    pub(super) async fn report_finish(&self, finish: Finish) -> Result<Vec<LeaseAnswer>> {
        let Finish { worker: _, reports, retry_fraction } = finish;
        let settings = [u64::from(retry_fraction), 0, 0];
        let call = Reporting { transition: Transition::Finish, settings, limits: None };
        let answers = self.report(&call, &reports).await?;
        self.wake.bump();
        each(&reports, answers, ended)
    }

    pub(super) async fn report_release(&self, release: Release) -> Result<Vec<LeaseAnswer>> {
        let Release { worker: _, reports, retry_fraction, abandon, doubt_grace_ms } = release;
        let settings = [u64::from(retry_fraction), u64::from(abandon), doubt_grace_ms];
        let call = Reporting { transition: Transition::Release, settings, limits: None };
        let answers = self.report(&call, &reports).await?;
        self.wake.bump();
        each(&reports, answers, ended)
    }

    /// Several reports in one script, and all scripts in one round trip. An answer for each report.
    async fn report(&self, call: &Reporting, reports: &[LeaseReport]) -> Result<Answers> {
        let mut answers = Vec::with_capacity(reports.len());
        let mut alone = Vec::new();
        let steps: Vec<&[LeaseReport]> = reports.chunks(REPORT_STEP_MAX).collect();
        for (step, answer) in steps.iter().zip(self.ask(call, &steps).await?) {
            match answer.and_then(|value| one_by_one(value, step.len())) {
                Ok(each) => answers.extend(each),
                Err(error) if step.len() == 1 => answers.push(Err(error)),
                // None was carried out, and most of them for no fault of theirs.
                Err(_) => {
                    alone.extend((answers.len()..).take(step.len()));
                    answers.extend(step.iter().map(|_| Err(corrupt("a report was not carried out"))));
                }
            }
        }
        let steps: Vec<&[LeaseReport]> = alone.iter().map(|at| std::slice::from_ref(&reports[*at])).collect();
        for (at, answer) in alone.iter().zip(self.ask(call, &steps).await?) {
            answers[*at] = answer.and_then(|value| one_by_one(value, 1)).and_then(|mut one| one.remove(0));
        }
        Ok(answers)
    }

    async fn ask(&self, call: &Reporting, steps: &[&[LeaseReport]]) -> Result<Answers> {
        if steps.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for step in steps {
            let keys = |report: &LeaseReport| {
                let batch = &report.batch;
                [self.keys.batch(batch), self.keys.details(batch), self.keys.run(&batch.run)]
            };
            let own: Vec<String> = step.iter().flat_map(keys).collect();
            let args =
                call.settings.iter().fold(Args::default().int(step.len() as u64), |args, setting| args.int(*setting));
            let args = step.iter().fold(args, report_args);
            let args = call.limits.iter().fold(args, Args::text);
            pipe.add_command(self.script(call.transition, &own, args));
        }
        self.transit(call.transition, pipe).await
    }

    pub(super) async fn report_facts(&self, facts: Vec<Fact>, retry_fraction: u32) -> Result<Vec<FactStatus>> {
        if facts.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        let mut groups = Vec::new();
        for group in facts.chunk_by(|a, b| a.batch == b.batch) {
            let Some(Fact { batch, .. }) = group.first() else { continue };
            let args = Args::default().text(batch.to_string()).int(retry_fraction).int(group.len() as u64);
            let add = |args: Args, fact: &Fact| outcome_args(args.text(fact.fence.to_string()), &fact.outcome);
            let args = group.iter().fold(args, add);
            let own = [self.keys.batch(batch), self.keys.details(batch), self.keys.run(&batch.run)];
            pipe.add_command(self.script(Transition::Facts, &own, args));
            groups.push((batch.clone(), group.len()));
        }
        let answers = self.transit(Transition::Facts, pipe).await?;
        let mut statuses = Vec::with_capacity(facts.len());
        for ((batch, length), answer) in groups.into_iter().zip(answers) {
            match answer {
                Ok(value) => {
                    let words: Vec<String> = read(value, "facts")?;
                    statuses.extend(words.iter().map(|word| fact_status(word)).collect::<Result<Vec<_>>>()?);
                }
                Err(error) => {
                    tracing::error!(%batch, %error, "failed to take facts of a batch");
                    statuses.resize(statuses.len() + length, FactStatus::Refused);
                }
            }
        }
        self.wake.bump();
        Ok(statuses)
    }
}

fn outcome_args(args: Args, outcome: &Outcome) -> Args {
    let args = args.int(outcome.index).text([outcome.kind.letter()]);
    args.text(&outcome.code).text(&outcome.detail).int(outcome.retry_after_ms)
}

/// See `lua/report.lua`.
fn report_args(args: Args, report: &LeaseReport) -> Args {
    let args = args.text(report.batch.to_string()).text(report.fence.to_string());
    let args = args.int(report.sequence).int(report.progress).text(packed(report.intents.iter().copied()));
    let with_text: Vec<_> = (1u64..).zip(&report.outcomes).filter(|(_, outcome)| !outcome.detail.is_empty()).collect();
    let args = args.int(with_text.len() as u64);
    let args = with_text.iter().fold(args, |args, (place, outcome)| args.int(*place).text(&outcome.detail));
    let groups: Vec<&[Outcome]> = report.outcomes.chunk_by(same_but_for_recipient).collect();
    let args = args.int(groups.len() as u64);
    groups.into_iter().fold(args, |args, group| {
        let Some(first) = group.first() else { return args };
        let args = args.text([first.kind.letter()]).text(&first.code).int(first.retry_after_ms);
        args.text(packed(group.iter().map(|outcome| outcome.index)))
    })
}

fn same_but_for_recipient(a: &Outcome, b: &Outcome) -> bool {
    (a.kind, &a.code, a.retry_after_ms) == (b.kind, &b.code, b.retry_after_ms)
}

/// A byte each. A batch has at most a hundred recipients, so those that do not fit are of none.
fn packed(indexes: impl Iterator<Item = u32>) -> Vec<u8> {
    indexes.map(|index| u8::try_from(index).unwrap_or(u8::MAX)).collect()
}

/// The answers of one script. A report that failed has a text instead, why.
fn one_by_one(value: Value, reports: usize) -> Result<Answers> {
    let mut list = Elements::of(value, "reports")?;
    let mut answers = Vec::with_capacity(reports);
    for _ in 0..reports {
        answers.push(match list.value()? {
            answer @ Value::Array(_) => Ok(answer),
            why => Err(corrupt(read::<String>(why, "a report")?)),
        });
    }
    Ok(answers)
}

/// Answers by report. One batch that cannot be read must not cost the others their answers: its holder is
/// told to let go of it, and reclaim sets it aside.
fn each(
    reports: &[LeaseReport],
    answers: Answers,
    read_one: fn(&LeaseReport, Value) -> Result<LeaseAnswer>,
) -> Result<Vec<LeaseAnswer>> {
    if reports.len() != answers.len() {
        return Err(corrupt("answers and reports differ in number"));
    }
    let one = |(report, answer): (&LeaseReport, std::result::Result<Value, StoreError>)| match answer {
        Ok(value) => read_one(report, value),
        Err(error) => {
            tracing::error!(batch = %report.batch, %error, "failed to take a report");
            Ok(LeaseAnswer::plain(report.batch.clone(), LeaseStatus::Gone))
        }
    };
    reports.iter().zip(answers).map(one).collect()
}

fn held(report: &LeaseReport, answer: Value) -> Result<LeaseAnswer> {
    let mut list = Elements::of(answer, "checkpoint")?;
    let status = lease_status(&list.read::<String>()?)?;
    let ttl_ms = ms(list.read()?);
    let granted: Vec<u8> = list.read()?;
    let granted = granted.into_iter().map(u32::from).collect();
    let mut reasons = Elements::of(list.value()?, "checkpoint")?;
    let mut refused = Vec::new();
    while !reasons.is_empty() {
        let place: usize = reasons.read()?;
        let index = place.checked_sub(1).and_then(|at| report.intents.get(at)).copied();
        let index = index.ok_or_else(|| corrupt(format!("the refused intent {place}")))?;
        refused.push((index, refusal(&reasons.read::<String>()?)?));
    }
    Ok(LeaseAnswer { granted, refused, ttl_ms, ..LeaseAnswer::plain(report.batch.clone(), status) })
}

fn ended(report: &LeaseReport, answer: Value) -> Result<LeaseAnswer> {
    let (word, due): (String, i64) = read(answer, "the end of a lease")?;
    Ok(LeaseAnswer { due_in_ms: ms(due), ..LeaseAnswer::plain(report.batch.clone(), lease_status(&word)?) })
}

fn lease_status(word: &str) -> Result<LeaseStatus> {
    match word {
        "held" => Ok(LeaseStatus::Held),
        "lost" => Ok(LeaseStatus::Lost),
        "settled" => Ok(LeaseStatus::Settled),
        "returned" => Ok(LeaseStatus::Returned),
        "in_intent" => Ok(LeaseStatus::InIntent),
        "gone" => Ok(LeaseStatus::Gone),
        other => Err(corrupt(format!("the status {other}"))),
    }
}

fn refusal(word: &str) -> Result<RefusalReason> {
    if let Some(ms) = word.strip_prefix("throttled:") {
        return Ok(RefusalReason::Throttled { retry_in_ms: parse(ms, "a refusal")? });
    }
    match word {
        "settled" => Ok(RefusalReason::Settled),
        "not_due" => Ok(RefusalReason::NotDue),
        "window" => Ok(RefusalReason::Window),
        "paused" => Ok(RefusalReason::Paused),
        "cancelled" => Ok(RefusalReason::Cancelled),
        "hard_cap" => Ok(RefusalReason::HardCap),
        "repeated" => Ok(RefusalReason::Repeated),
        "outside" => Ok(RefusalReason::Outside),
        other => Err(corrupt(format!("the refusal {other}"))),
    }
}

fn fact_status(word: &str) -> Result<FactStatus> {
    match word {
        "applied" => Ok(FactStatus::Applied),
        "already" => Ok(FactStatus::Already),
        "refused" => Ok(FactStatus::Refused),
        other => Err(corrupt(format!("the status {other} of a fact"))),
    }
}
