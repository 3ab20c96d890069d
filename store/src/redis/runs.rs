//! Runs: created, steered and read.

use super::campaigns::Needed;
use super::effects;
use super::reply::{Elements, corrupt, parse, read};
use super::scripts::{Args, Transition};
use super::shard::{Shard, only};
use crate::api::{CancelledBatches, CreatedRun, NewRun, Result, RunRecord, Steered};
use postrider_common::backoff::RetryPolicy;
use postrider_common::campaign::OnUnknown;
use postrider_common::ids::{BatchId, RunId};
use postrider_common::run::{BatchCounts, RecipientCounts, RunError};
use redis::Value;
use std::collections::HashMap;

/// Batches that one script converts: bounds how long it keeps the server.
const CANCEL_STEP_BATCHES_MAX: u64 = 100;

/// Fields of `count` for one run, in the order `Counts` reads them.
pub(super) const COUNTERS: [&str; 19] = [
    "total",
    "pending",
    "accepted",
    "rejected",
    "exhausted",
    "suppressed",
    "cancelled",
    "unknown",
    "b_ready",
    "b_leased",
    "b_delayed",
    "b_dead",
    "b_settled",
    "resent_l",
    "resent_n",
    "expired",
    "taken_over",
    "started_at",
    "settled_at",
];

/// What a new run freezes, as fields of its hash and their values.
pub(super) fn run_fields(run: &NewRun) -> Args {
    let hold = match run.on_unknown {
        OnUnknown::Resend => false,
        OnUnknown::Hold => true,
    };
    let args = Args::default().text("campaign").text(&run.campaign).text("lane").text(run.lane.as_str());
    let args = args.text("hold").flag(hold).text("base").int(run.retry.base_ms).text("cap").int(run.retry.cap_ms);
    let args = args.text("ttl").int(run.retry.ttl_ms).text("definition").text(run.definition.as_str());
    args.text("sender_domain").text(&run.sender_domain).text("audience").text(&run.audience)
}

impl Shard {
    pub(super) async fn run_create(&self, run: NewRun, campaign: Needed) -> Result<CreatedRun> {
        let nominal = run.nominal_at_ms.map_or(String::new(), |at| at.to_string());
        let args = Args::default().text(run.id.as_str()).text(&run.fingerprint);
        let args = args.text(campaign.word).int(campaign.version).text(effects::campaign(&run.campaign)).text(nominal);
        let args = run_fields(&run).0.iter().fold(args, Args::text);
        self.run_begin(&run.id, args).await
    }

    pub(super) async fn run_begin(&self, run: &RunId, args: Args) -> Result<CreatedRun> {
        let own = [self.keys.run(run), self.keys.to_forget()];
        let answer = self.run_script(Transition::CreateRun, &own, args).await?;
        self.wake.bump();
        match read::<String>(answer, "create_run")?.as_str() {
            "created" => Ok(CreatedRun::Created),
            "existed" => Ok(CreatedRun::Existed),
            "conflict" => Ok(CreatedRun::Conflict),
            "no_campaign" => Ok(CreatedRun::NoCampaign),
            "campaign_paused" => Ok(CreatedRun::CampaignPaused),
            "being_forgotten" => Ok(CreatedRun::BeingForgotten),
            other => Err(corrupt(format!("create_run answered {other}"))),
        }
    }

    pub(super) async fn run_steer(&self, transition: Transition, run: &RunId) -> Result<Steered> {
        let answer = self.run_script(transition, &[self.keys.run(run)], Args::default().text(run.as_str())).await?;
        self.wake.bump();
        match read::<String>(answer, "steering a run")?.as_str() {
            "done" => Ok(Steered::Done),
            "no_run" => Ok(Steered::NoRun),
            "cancelled" => Ok(Steered::Cancelled),
            other => Err(corrupt(format!("steering a run answered {other}"))),
        }
    }

    pub(super) async fn run_cancel_batches(&self, run: &RunId, after: u64, limit: usize) -> Result<CancelledBatches> {
        let mut pipe = redis::pipe();
        pipe.cmd("HMGET").arg(self.keys.run(run)).arg(&["sequence", "cancelled"]);
        let (last, cancelled): (Option<u64>, Option<String>) =
            read(only(self.links.swift.call(pipe).await?)?, "the sequence of a run")?;
        let mut done = CancelledBatches { recipients: 0, next: None };
        let (Some(last), Some("1")) = (last, cancelled.as_deref()) else { return Ok(done) };
        let until = last.min(after.saturating_add(limit as u64));
        let mut from = after.saturating_add(1);
        loop {
            let step = (until + 1).saturating_sub(from).min(CANCEL_STEP_BATCHES_MAX);
            let mut own = vec![self.keys.run(run)];
            for sequence in from..from + step {
                let batch = BatchId { run: run.clone(), sequence };
                own.extend([self.keys.batch(&batch), self.keys.details(&batch)]);
            }
            let ends = from + step > last;
            let args = Args::default().text(run.as_str()).int(from).int(step).flag(ends);
            let answer = self.run_script(Transition::CancelBatches, &own, args).await?;
            done.recipients += read::<u64>(answer, "cancel_batches")?;
            from += step;
            if step == 0 || from > until {
                break;
            }
        }
        done.next = (until < last).then_some(until);
        Ok(done)
    }

    pub(super) async fn runs_cancelled(&self, limit: usize) -> Result<Vec<RunId>> {
        let Some(last) = limit.checked_sub(1) else { return Ok(Vec::new()) };
        let mut pipe = redis::pipe();
        pipe.cmd("ZRANGE").arg(self.keys.to_cancel()).arg(0).arg(last);
        let ids: Vec<String> = read(only(self.links.swift.call(pipe).await?)?, "runs to cancel")?;
        ids.iter().map(|id| parse(id, "runs to cancel")).collect()
    }

    pub(super) async fn runs_before(&self, before: Option<(i64, RunId)>, limit: usize) -> Result<Vec<RunRecord>> {
        let mut ids = Vec::new();
        if let Some((at, than)) = &before {
            // Those of the very same millisecond are in order of their id.
            let mut pipe = redis::pipe();
            pipe.cmd("ZREVRANGEBYSCORE").arg(self.keys.runs()).arg(*at).arg(*at);
            let same: Vec<String> = read(only(self.links.bulk.call(pipe).await?)?, "runs")?;
            ids.extend(same.into_iter().filter(|id| id.as_str() < than.as_str()).take(limit));
        }
        let mut pipe = redis::pipe();
        let below = before.map_or("+inf".to_owned(), |(at, _)| format!("({at}"));
        let room = limit - ids.len();
        pipe.cmd("ZREVRANGEBYSCORE").arg(self.keys.runs()).arg(below).arg("-inf").arg("LIMIT").arg(0).arg(room);
        let older: Vec<String> = read(only(self.links.bulk.call(pipe).await?)?, "runs")?;
        let ids = ids.iter().chain(&older).map(|id| parse(id, "runs")).collect::<Result<Vec<_>>>()?;
        self.run_records(&ids).await
    }

    /// Each run and its counters as of one instant, so that they add up.
    pub(super) async fn run_records(&self, ids: &[RunId]) -> Result<Vec<RunRecord>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for id in ids {
            let args = COUNTERS.iter().fold(Args::default(), |args, counter| args.text(format!("{id}|{counter}")));
            pipe.add_command(self.script(
                Transition::LookAtRun,
                &[self.keys.run(id), self.keys.count().to_owned()],
                args,
            ));
        }
        let mut answers = self.links.read_bulk(pipe, "runs").await?;
        let mut records = Vec::with_capacity(ids.len());
        for id in ids {
            let mut answer = Elements::of(answers.value()?, "a run")?;
            let fields = Fields(read(answer.value()?, "a run")?);
            let counts = Counts::read(answer.value()?)?;
            if !fields.0.is_empty() {
                records.push(record(id, fields, &counts)?);
            }
        }
        Ok(records)
    }
}

/// The hash of a run.
struct Fields(HashMap<String, Vec<u8>>);

impl Fields {
    fn bytes(&mut self, name: &str) -> Result<Vec<u8>> {
        self.0.remove(name).ok_or_else(|| corrupt(format!("a run without {name}")))
    }

    fn text(&mut self, name: &str) -> Result<String> {
        String::from_utf8(self.bytes(name)?).map_err(|_| corrupt(format!("a run: {name} is not UTF-8")))
    }

    fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(&mut self, name: &str) -> Result<T> {
        let text = self.text(name)?;
        parse(&text, name)
    }

    fn flag(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some_and(|value| value == b"1")
    }

    fn error(&mut self) -> Result<Option<RunError>> {
        if !self.0.contains_key("error") {
            return Ok(None);
        }
        let (code, message, mend) = (self.text("error")?, self.text("error_message")?, self.text("error_mend")?);
        Ok(Some(RunError { code, message, mend }))
    }
}

/// The counters of a run, in the order of `COUNTERS`.
struct Counts(Vec<Option<i64>>);

impl Counts {
    fn read(value: Value) -> Result<Self> {
        let mut list = Elements::of(value, "the counters of a run")?;
        let mut counts = Vec::with_capacity(COUNTERS.len());
        while !list.is_empty() {
            counts.push(list.read()?);
        }
        Ok(Self(counts))
    }

    fn at(&self, name: &str) -> Option<i64> {
        let at = COUNTERS.iter().position(|counter| *counter == name)?;
        self.0.get(at).copied().flatten()
    }

    /// A counter below zero would be a bug; it shows as zero, and the sums do not add up.
    fn count(&self, name: &str) -> u64 {
        self.at(name).and_then(|count| u64::try_from(count).ok()).unwrap_or(0)
    }
}

fn record(id: &RunId, mut run: Fields, counts: &Counts) -> Result<RunRecord> {
    let count = |name| counts.count(name);
    Ok(RunRecord {
        id: id.clone(),
        campaign: run.text("campaign")?,
        lane: run.parse("lane")?,
        on_unknown: if run.flag("hold") { OnUnknown::Hold } else { OnUnknown::Resend },
        retry: RetryPolicy { base_ms: run.parse("base")?, cap_ms: run.parse("cap")?, ttl_ms: run.parse("ttl")? },
        definition: run.parse("definition")?,
        sender_domain: run.text("sender_domain")?,
        audience: run.bytes("audience")?,
        nominal_at_ms: run.parse("nominal_at")?,
        created_at_ms: run.parse("created_at")?,
        started_at_ms: counts.at("started_at"),
        settled_at_ms: counts.at("settled_at").filter(|_| count("pending") == 0),
        paused: run.flag("paused"),
        cancelled: run.flag("cancelled"),
        error: run.error()?,
        split_complete: run.flag("complete"),
        sequence_max: run.parse("sequence")?,
        bad_rows: run.parse("bad")?,
        repeated_rows: run.parse("repeated")?,
        recipients: RecipientCounts {
            total: count("total"),
            pending: count("pending"),
            accepted: count("accepted"),
            rejected: count("rejected"),
            exhausted: count("exhausted"),
            suppressed: count("suppressed"),
            cancelled: count("cancelled"),
            unknown: count("unknown"),
        },
        batches: BatchCounts {
            ready: count("b_ready"),
            leased: count("b_leased"),
            delayed: count("b_delayed"),
            dead: count("b_dead"),
            settled: count("b_settled"),
        },
        resent_reply_lost: count("resent_l"),
        resent_outcome_not_recorded: count("resent_n"),
        leases_expired: count("expired"),
        leases_taken_over: count("taken_over"),
        generation: if run.0.contains_key("generation") { run.parse("generation")? } else { 0 },
    })
}
