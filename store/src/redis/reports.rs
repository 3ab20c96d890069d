//! What holders of leases say: checkpoint, finish, release, and facts from those that hold none.

use super::link::Answers;
use super::reply::{Elements, corrupt, ms, parse, read};
use super::scripts::{Args, Transition};
use super::shard::Shard;
use crate::api::{Checkpoint, Finish, GrantSpan, Release, Result};
use crate::error::StoreError;
use postrider_common::lease::{Fact, FactStatus, LeaseAnswer, LeaseReport, LeaseStatus, Outcome, RefusalReason};
use redis::{Pipeline, Value};
use std::sync::atomic::Ordering::SeqCst;

/// Reports that one script takes: bounds how long it keeps the server.
const REPORT_STEP_MAX: usize = 16;

/// What is the same for all reports of a call.
struct Reporting {
    transition: Transition,
    /// Tried first: few steps for what most reports are.
    usual: Option<Transition>,
    retry_fraction: u32,
    /// Of the script.
    settings: [u64; 2],
    /// As the script's last arguments.
    last: Vec<String>,
}

impl Shard {
    pub(super) async fn report_checkpoint(&self, checkpoint: Checkpoint) -> Result<Vec<LeaseAnswer>> {
        let Checkpoint { worker: _, reports, ttl_ms, window, retry_fraction, limits, grants } = checkpoint;
        let call = Reporting {
            transition: Transition::Checkpoint,
            usual: (limits.is_empty() && grants.is_none()).then_some(Transition::UsualCheckpoint),
            retry_fraction,
            settings: [ttl_ms, u64::from(window)],
            last: vec![grants_text(grants), self.limits_text(&limits)],
        };
        each(&reports, self.report(&call, &reports).await?, held)
    }

    pub(super) async fn report_finish(&self, finish: Finish) -> Result<Vec<LeaseAnswer>> {
        let Finish { worker: _, reports, retry_fraction } = finish;
        let call = Reporting {
            transition: Transition::Finish,
            usual: Some(Transition::UsualFinish),
            retry_fraction,
            settings: [0, 0],
            last: Vec::new(),
        };
        let answers = each(&reports, self.report(&call, &reports).await?, ended)?;
        // A batch that is settled leaves nothing to lease, but room where there are limits.
        if self.is_limited.load(SeqCst) || answers.iter().any(|answer| answer.status != LeaseStatus::Settled) {
            self.wake.bump();
        }
        Ok(answers)
    }

    pub(super) async fn report_release(&self, release: Release) -> Result<Vec<LeaseAnswer>> {
        let Release { worker: _, reports, retry_fraction, abandon, doubt_grace_ms, delay_ms } = release;
        let settings = [u64::from(abandon), if abandon { doubt_grace_ms } else { delay_ms }];
        let call =
            Reporting { transition: Transition::Release, usual: None, retry_fraction, settings, last: Vec::new() };
        let answers = self.report(&call, &reports).await?;
        self.wake.bump();
        each(&reports, answers, ended)
    }

    /// Several reports in one script, and all scripts in one round trip. An answer for each report.
    async fn report(&self, call: &Reporting, reports: &[LeaseReport]) -> Result<Answers> {
        let steps: Vec<&[LeaseReport]> = reports.chunks(REPORT_STEP_MAX).collect();
        let Some(usual) = call.usual else { return self.report_whole(call, &steps).await };
        let done = self.report_usual(call, usual, &steps).await?;
        let left = steps.iter().zip(&done).filter_map(|(step, done)| step.get(done.len()..));
        let left: Vec<&[LeaseReport]> = left.filter(|step| !step.is_empty()).collect();
        let mut whole = self.report_whole(call, &left).await?.into_iter();
        let mut answers = Vec::with_capacity(reports.len());
        for (step, done) in steps.iter().zip(done) {
            let others = step.len() - done.len();
            answers.extend(done.into_iter().map(Ok));
            answers.extend(whole.by_ref().take(others));
        }
        Ok(answers)
    }

    /// Of each step the answers to those that were carried out: from the first on that is not usual, none.
    async fn report_usual(
        &self,
        call: &Reporting,
        usual: Transition,
        steps: &[&[LeaseReport]],
    ) -> Result<Vec<Vec<Value>>> {
        let answers = self.call(usual, self.report_pipe(call, usual, steps)).await?;
        let one = |(step, answer): (&&[LeaseReport], Result<Value>)| {
            // What is wrong is said by the whole script.
            let Ok(Value::Array(mut values)) = answer else { return Vec::new() };
            if values.len() < 2 {
                return Vec::new();
            }
            let rest = values.split_off(2);
            self.note_position(Value::Array(values));
            rest.into_iter().take_while(|value| matches!(value, Value::Array(_))).take(step.len()).collect()
        };
        Ok(steps.iter().zip(answers).map(one).collect())
    }

    async fn report_whole(&self, call: &Reporting, steps: &[&[LeaseReport]]) -> Result<Answers> {
        let mut answers = Vec::new();
        let mut alone = Vec::new();
        for (step, answer) in steps.iter().zip(self.ask(call, steps).await?) {
            match answer.and_then(|value| one_by_one(value, step.len())) {
                Ok(each) => answers.extend(each),
                Err(error) if step.len() == 1 => answers.push(Err(error)),
                // None was carried out, and most of them for no fault of theirs.
                Err(_) => {
                    alone.extend((answers.len()..).zip(step.chunks(1)));
                    answers.extend(step.iter().map(|_| Err(corrupt("a report was not carried out"))));
                }
            }
        }
        let steps: Vec<&[LeaseReport]> = alone.iter().map(|(_, step)| *step).collect();
        for ((at, _), answer) in alone.iter().zip(self.ask(call, &steps).await?) {
            answers[*at] = answer.and_then(|value| one_by_one(value, 1)).and_then(|mut one| one.remove(0));
        }
        Ok(answers)
    }

    async fn ask(&self, call: &Reporting, steps: &[&[LeaseReport]]) -> Result<Answers> {
        if steps.is_empty() {
            return Ok(Vec::new());
        }
        self.transit(call.transition, self.report_pipe(call, call.transition, steps)).await
    }

    fn report_pipe(&self, call: &Reporting, transition: Transition, steps: &[&[LeaseReport]]) -> Pipeline {
        let mut pipe = redis::pipe();
        for step in steps {
            let is_usual = call.usual == Some(transition);
            let own: Vec<String> = step.iter().flat_map(|report| self.report_keys(report, is_usual)).collect();
            let args = Args::default().text(head(step.len(), call));
            let args = step.iter().fold(args, report_args);
            let args = call.last.iter().filter(|_| !is_usual).fold(args, Args::text);
            pipe.add_command(self.script(transition, &own, args));
        }
        pipe
    }

    fn report_keys(&self, report: &LeaseReport, is_usual: bool) -> Vec<String> {
        let batch = &report.batch;
        let (states, details, run) = (self.keys.batch(batch), self.keys.details(batch), self.keys.run(&batch.run));
        let has_text = || report.outcomes.iter().any(|outcome| !outcome.detail.is_empty());
        match is_usual {
            false => vec![states, details, run],
            true if has_text() => vec![states, run, details],
            true => vec![states, run],
        }
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

/// `HEAD` of `lua/prelude.lua`.
fn head(reports: usize, call: &Reporting) -> Vec<u8> {
    let [first, second] = call.settings.map(u64::to_be_bytes);
    [&small(reports)[..], &call.retry_fraction.to_be_bytes(), &first, &second].concat()
}

/// From when until when intents are granted. Empty: at any time.
fn grants_text(grants: Option<GrantSpan>) -> String {
    grants.map_or(String::new(), |span| format!("{}|{}", span.from_ms, span.until_ms))
}

/// As many as there can be in one call.
fn small(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes()
}

/// See `lua/report.lua`.
fn report_args(args: Args, report: &LeaseReport) -> Args {
    let with_text: Vec<_> = (1u32..).zip(&report.outcomes).filter(|(_, outcome)| !outcome.detail.is_empty()).collect();
    let groups: Vec<&[Outcome]> = report.outcomes.chunk_by(same_but_for_recipient).collect();
    let numbers = [report.sequence, report.progress].map(u64::to_be_bytes).concat();
    let args = args.text(report.batch.to_string()).text(report.fence.to_string());
    let args = args.text([&numbers[..], &small(with_text.len()), &small(groups.len())].concat());
    let args = args.text(packed(report.intents.iter().copied()));
    let places = packed(with_text.iter().map(|(place, _)| *place));
    let args = if places.is_empty() { args } else { args.text(places) };
    let args = with_text.iter().fold(args, |args, (_, outcome)| args.text(&outcome.detail));
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
        "unchecked" => Ok(RefusalReason::Unchecked),
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
