//! The reconciler's steps: what is next is read here, and is no more than a hint; the script that makes the step looks at
//! everything again, and makes it once.
//!
//! A round proves the indexes first and then the batches of every run. What is damaged so that a step fails is passed over.

use super::reply::{Elements, corrupt, read};
use super::scripts::{Args, Transition};
use super::shard::{Shard, only};
use crate::api::{Reconcile, Reconciled, Repair, RepairKind, Result};
use crate::error::StoreError;
use postrider_common::ids::{BatchId, RunId};
use redis::Value;
use std::collections::HashMap;

/// Runs that one step passes over because they are over and were proved.
const RUNS_PASSED_MAX: usize = 100;
/// One round in so many proves those again as well.
const WHOLE_ROUND_EVERY: u64 = 16;
/// Leases of which those in intent are added up; with more of them, a script would keep the server.
const FLIGHT_LEASES_MAX: u64 = 500;

/// How the members of an index are listed.
#[derive(Debug, Clone, Copy)]
enum Listed {
    Sorted,
    Hash,
    /// As a whole.
    Not,
}

/// What a member names.
#[derive(Debug, Clone, Copy)]
enum Names {
    Entry,
    Batch,
    Run,
    /// Nothing that the script needs a key for.
    Nothing,
}

/// In the order in which a round proves them; after them come the runs.
const INDEXES: [(&str, Listed, Names); 13] = [
    ("rdy", Listed::Sorted, Names::Entry),
    ("dly", Listed::Sorted, Names::Entry),
    ("lease", Listed::Sorted, Names::Batch),
    ("holder", Listed::Hash, Names::Batch),
    ("to_retire", Listed::Sorted, Names::Batch),
    ("dead", Listed::Hash, Names::Nothing),
    ("dead_order", Listed::Sorted, Names::Nothing),
    ("splits", Listed::Sorted, Names::Run),
    ("splits_parked", Listed::Sorted, Names::Run),
    ("split", Listed::Hash, Names::Run),
    ("to_cancel", Listed::Sorted, Names::Run),
    ("turns", Listed::Sorted, Names::Nothing),
    ("depth", Listed::Hash, Names::Nothing),
];
/// The number in intent, proved as a whole.
const FLIGHT: &str = "flight";
const RUNS: &str = "runs";

/// Where the round is. What is damaged in it makes it begin anew.
#[derive(Debug, Default)]
struct Round {
    step: String,
    at: i64,
    number: u64,
    phase: String,
    cursor: u64,
    run: String,
    run_at: Option<i64>,
    /// Of the run, the last batch that was looked at; None: all of it is.
    after: Option<u64>,
}

impl Round {
    fn of(mut fields: HashMap<String, String>) -> Self {
        let number = |text: Option<&String>| text.and_then(|text| text.parse::<i64>().ok());
        let positive = |text: Option<&String>| number(text).and_then(|number| u64::try_from(number).ok());
        Self {
            at: number(fields.get("at")).unwrap_or(0),
            number: positive(fields.get("number")).unwrap_or(0),
            cursor: fields.get("cursor").and_then(|text| text.parse().ok()).unwrap_or(0),
            run_at: number(fields.get("run_at")),
            after: positive(fields.get("after")),
            step: fields.remove("step").unwrap_or_else(|| "0".to_owned()),
            phase: fields.remove("phase").unwrap_or_default(),
            run: fields.remove("run").unwrap_or_default(),
        }
    }
}

/// Where the round is after a step, as fields and values.
type Next = Vec<(&'static str, String)>;

fn after_index(name: &str, cursor: u64) -> Next {
    if cursor != 0 {
        return vec![("phase", name.to_owned()), ("cursor", cursor.to_string())];
    }
    let at = INDEXES.iter().position(|(known, _, _)| *known == name);
    let next = match at {
        Some(at) => INDEXES.get(at + 1).map_or(FLIGHT, |(next, _, _)| next),
        None => RUNS,
    };
    let begin = |name: &'static str| (name, String::new());
    vec![("phase", next.to_owned()), ("cursor", "0".to_owned()), begin("run"), begin("run_at"), begin("after")]
}

impl Shard {
    pub(super) async fn reconcile_step(&self, reconcile: Reconcile) -> Result<Reconciled> {
        let mut pipe = redis::pipe();
        pipe.cmd("HGETALL").arg(self.keys.round()).cmd("TIME");
        let mut answers = self.links.read_bulk(pipe, "the round").await?;
        let fields: HashMap<String, Vec<u8>> = answers.read()?;
        let fields = fields.into_iter().map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()));
        let round = Round::of(fields.collect());
        let (seconds, micros): (i64, i64) = answers.read()?;
        let now = seconds * 1000 + micros / 1000;
        let rounds = round.number;
        // A clock that went back does not stop it.
        let is_due = now < round.at || now >= round.at.saturating_add_unsigned(reconcile.interval_ms);
        if !is_due {
            return Ok(Reconciled { rounds, ..Reconciled::default() });
        }
        let index = INDEXES.iter().find(|(name, _, _)| *name == round.phase);
        let done = match (index, round.phase.as_str()) {
            (Some((name, listed, names)), _) => self.step_of_index(&round, (name, *listed, *names), reconcile).await,
            (None, FLIGHT) => self.step_of_index(&round, (FLIGHT, Listed::Not, Names::Nothing), reconcile).await,
            (None, RUNS) => self.step_of_runs(&round, reconcile).await,
            (None, _) => self.move_on(&round, after_index_begin()).await,
        }?;
        Ok(Reconciled { rounds: rounds.max(done.rounds), ..done })
    }

    async fn step_of_index(
        &self,
        round: &Round,
        (name, listed, names): (&'static str, Listed, Names),
        reconcile: Reconcile,
    ) -> Result<Reconciled> {
        let (next, members) = self.members(name, listed, round.cursor, reconcile.batches_max).await?;
        let args = Args::default().text(&round.step).text(name).int(FLIGHT_LEASES_MAX).int(members.len() as u64);
        let (mut args, mut own) = (args, Vec::with_capacity(members.len() * 2));
        for member in &members {
            let keys = std::str::from_utf8(member).ok().and_then(|member| self.keys_named(member, names));
            args = args.flag(keys.is_some()).text(member);
            own.extend(keys.unwrap_or_else(|| [self.keys.round().to_owned(), self.keys.round().to_owned()]));
        }
        let then = after_index(name, next);
        let args = then.iter().fold(args, |args, (field, value)| args.text(field).text(value));
        match self.run_script(Transition::ReconcileIndex, &own, args).await {
            Err(StoreError::Corrupt(why)) => {
                tracing::error!(index = name, why, "a part of an index cannot be proved");
                self.move_on(round, then).await
            }
            answer => {
                let (looked, repairs) = repairs_of(answer?)?;
                Ok(Reconciled { entries: looked, repairs, ..Reconciled::default() })
            }
        }
    }

    /// Some members of an index from a cursor on, and the next cursor (0: these were the last).
    async fn members(&self, name: &str, listed: Listed, cursor: u64, count: u32) -> Result<(u64, Vec<Vec<u8>>)> {
        let scan = match listed {
            Listed::Sorted => "ZSCAN",
            Listed::Hash => "HSCAN",
            Listed::Not => return Ok((0, Vec::new())),
        };
        let mut pipe = redis::pipe();
        match scan {
            "ZSCAN" => pipe.cmd("ZSCAN"),
            _ => pipe.cmd("HSCAN"),
        };
        pipe.arg(self.keys.named(name)).arg(cursor).arg("COUNT").arg(count);
        let (next, pairs): (u64, Vec<Vec<u8>>) = read(only(self.links.bulk.call(pipe).await?)?, "an index")?;
        Ok((next, pairs.into_iter().step_by(2).collect()))
    }

    /// The hash of the batch and the run that a member names.
    fn keys_named(&self, member: &str, names: Names) -> Option<[String; 2]> {
        let of_batch = |id: &BatchId| [self.keys.batch(id), self.keys.run(&id.run)];
        match names {
            Names::Entry => {
                let mut parts = member.split('|').skip(2);
                let run = parts.next()?.parse().ok()?;
                let sequence = u64::from_str_radix(parts.next()?, 16).ok()?;
                Some(of_batch(&BatchId { run, sequence }))
            }
            Names::Batch => Some(of_batch(&member.parse().ok()?)),
            Names::Run => {
                let run = self.keys.run(&member.parse::<RunId>().ok()?);
                Some([run.clone(), run])
            }
            Names::Nothing => Some([self.keys.round().to_owned(), self.keys.round().to_owned()]),
        }
    }

    /// Ends a step that looks at nothing.
    async fn move_on(&self, round: &Round, next: Next) -> Result<Reconciled> {
        let args = Args::default().text(&round.step).text("none").int(0).int(0);
        let args = next.iter().fold(args, |args, (field, value)| args.text(field).text(value));
        let (_, repairs) = repairs_of(self.run_script(Transition::ReconcileIndex, &[], args).await?)?;
        Ok(Reconciled { repairs, ..Reconciled::default() })
    }

    async fn step_of_runs(&self, round: &Round, reconcile: Reconcile) -> Result<Reconciled> {
        let (run, run_at, after) = match (round.after, round.run.parse::<RunId>()) {
            (Some(after), Ok(run)) => (run, round.run_at.unwrap_or(0), after),
            _ => match self.next_run(round).await? {
                Ok((run_at, run)) => (run, run_at, 0),
                Err(next) => return self.move_on(round, next).await,
            },
        };
        match self.step_of_run(round, (&run, run_at, after), reconcile).await {
            Err(StoreError::Corrupt(why)) => {
                tracing::error!(%run, why, "a run cannot be proved");
                let next = vec![("run", run.to_string()), ("run_at", run_at.to_string()), ("after", String::new())];
                self.move_on(round, next).await
            }
            done => done,
        }
    }

    async fn step_of_run(
        &self,
        round: &Round,
        (run, run_at, after): (&RunId, i64, u64),
        reconcile: Reconcile,
    ) -> Result<Reconciled> {
        let mut pipe = redis::pipe();
        pipe.cmd("HGET").arg(self.keys.run(run)).arg("sequence");
        let last: Option<u64> = read(only(self.links.swift.call(pipe).await?)?, "the sequence of a run")?;
        let until = last.unwrap_or(0).min(after.saturating_add(u64::from(reconcile.batches_max)));
        let ids: Vec<BatchId> =
            (after.saturating_add(1)..=until).map(|sequence| BatchId { run: run.clone(), sequence }).collect();
        let mut own = vec![self.keys.run(run)];
        let args = Args::default().text(&round.step).text(run.as_str()).int(run_at).int(reconcile.doubt_grace_ms);
        let mut args = args.int(after + 1).int(ids.len() as u64);
        let mut pipe = redis::pipe();
        for id in &ids {
            pipe.cmd("HGET").arg(self.keys.batch(id)).arg("payload");
        }
        let names = if ids.is_empty() { Vec::new() } else { self.links.swift.call(pipe).await? };
        for (id, name) in ids.iter().zip(names) {
            // One that is no hash is set aside by the script.
            let name = name.and_then(|name| read::<Option<String>>(name, "a payload")).ok().flatten();
            let name = name.unwrap_or_default();
            own.extend([self.keys.batch(id), self.keys.details(id), self.keys.payload(id, &name)]);
            args = args.text(name);
        }
        let (looked, repairs) = repairs_of(self.run_script(Transition::Reconcile, &own, args).await?)?;
        if !repairs.is_empty() {
            self.wake.bump();
        }
        Ok(Reconciled { batches: looked, repairs, ..Reconciled::default() })
    }

    /// The run that comes next and when it was created, or where the round is when none of a page has anything to prove.
    async fn next_run(&self, round: &Round) -> Result<std::result::Result<(i64, RunId), Next>> {
        let begin = round.run_at.map_or("-inf".to_owned(), |at| at.to_string());
        let mut offset = 0;
        let page = loop {
            let mut pipe = redis::pipe();
            pipe.cmd("ZRANGEBYSCORE").arg(self.keys.runs()).arg(&begin).arg("+inf").arg("WITHSCORES");
            pipe.arg("LIMIT").arg(offset).arg(RUNS_PASSED_MAX);
            let page: Vec<(String, f64)> = read(only(self.links.bulk.call(pipe).await?)?, "runs")?;
            let is_end = page.is_empty();
            let position = (round.run_at, round.run.as_str());
            let mut later: Vec<(i64, String)> = page.into_iter().map(|(run, at)| (at as i64, run)).collect();
            later.retain(|(at, run)| (Some(*at), run.as_str()) > position);
            if is_end || !later.is_empty() {
                break later;
            }
            offset += RUNS_PASSED_MAX;
        };
        let Some((last_at, last)) = page.last().cloned() else {
            let mut next = after_index_begin();
            next.push(("number", (round.number + 1).to_string()));
            return Ok(Err(next));
        };
        let mut pipe = redis::pipe();
        for (_, run) in &page {
            pipe.cmd("HMGET").arg(self.keys.count()).arg(&[format!("{run}|proved"), format!("{run}|moves")]);
        }
        let mut answers = self.links.read_bulk(pipe, "runs").await?;
        let is_whole = round.number.is_multiple_of(WHOLE_ROUND_EVERY);
        for (at, run) in page {
            let (proved, moves): (Option<String>, Option<String>) = answers.read()?;
            if (is_whole || proved.is_none() || proved != moves)
                && let Ok(run) = run.parse()
            {
                return Ok(Ok((at, run)));
            }
        }
        Ok(Err(vec![("run", last), ("run_at", last_at.to_string()), ("after", String::new())]))
    }
}

/// A round begins with the first index.
fn after_index_begin() -> Next {
    vec![("phase", INDEXES[0].0.to_owned()), ("cursor", "0".to_owned())]
}

/// What a step looked at, and what it had to repair.
fn repairs_of(answer: Value) -> Result<(u32, Vec<Repair>)> {
    let mut answer = Elements::of(answer, "reconcile")?;
    let (_, looked): (u8, u32) = (answer.read()?, answer.read()?);
    let mut repairs = Vec::new();
    while !answer.is_empty() {
        let kind: String = answer.read()?;
        let about: Vec<u8> = answer.read()?;
        let kind = RepairKind::from_name(&kind).ok_or_else(|| corrupt(format!("reconcile answered {kind}")))?;
        repairs.push(Repair { kind, about: String::from_utf8_lossy(&about).into_owned() });
    }
    Ok((looked, repairs))
}
