//! What ends by age: runs, and what several of them share.

use super::global::Global;
use super::keys;
use super::reply::{Elements, corrupt, parse, read};
use super::runs::COUNTERS;
use super::scripts::{Args, Transition};
use super::shard::{Shard, only};
use crate::api::{ForgetRun, ForgottenRun, Kept, LeftSegment, Result, Shared};
use postrider_common::ids::{BatchId, DefinitionHash, RunId};

/// Batches that one script deletes: bounds how long it keeps the server.
const FORGET_STEP_BATCHES_MAX: u64 = 100;
/// Names in one script.
const NAMES_STEP_MAX: usize = 500;

/// As `kept` has it.
fn member(shared: &Shared) -> String {
    match shared {
        Shared::Audience(sha256) => format!("A|{sha256}"),
        Shared::Definition(hash) => format!("D|{hash}"),
    }
}

fn shared(member: &str) -> Result<Shared> {
    match member.split_once('|') {
        Some(("A", sha256)) => Ok(Shared::Audience(sha256.to_owned())),
        Some(("D", hash)) => Ok(Shared::Definition(parse(hash, "a definition's hash")?)),
        _ => Err(corrupt("what is kept")),
    }
}

/// Members of a sorted set with their scores, which are instants.
fn instants(mut answer: Elements) -> Result<Vec<(String, i64)>> {
    let mut all = Vec::new();
    while !answer.is_empty() {
        let name = answer.read()?;
        all.push((name, answer.parse()?));
    }
    Ok(all)
}

impl Shard {
    pub(super) async fn run_forget(&self, forget: ForgetRun) -> Result<ForgottenRun> {
        let run = &forget.run;
        let (status, mut left) = self.forget_step(&forget, None, 0).await?;
        match status.as_str() {
            "step" => (),
            "not_yet" => return Ok(ForgottenRun::NotYet),
            "no_run" => return Ok(ForgottenRun::NoRun),
            other => return Err(corrupt(format!("forget_run answered {other}"))),
        }
        let until = left.saturating_sub(forget.limit as u64);
        let mut batches = 0;
        while left > until {
            let step = (left - until).min(FORGET_STEP_BATCHES_MAX);
            let (status, now_left) = self.forget_step(&forget, Some(left), step).await?;
            if status == "step" && now_left == left - step {
                batches += step;
            } else if now_left >= left {
                tracing::debug!(%run, "a batch changed while its run was forgotten");
                break;
            }
            // Otherwise another caller was quicker.
            left = now_left;
        }
        Ok(ForgottenRun::Step { batches, left })
    }

    /// `left`: what is known of it; None: the first step.
    async fn forget_step(&self, forget: &ForgetRun, left: Option<u64>, step: u64) -> Result<(String, u64)> {
        let run = &forget.run;
        let ids: Vec<BatchId> =
            (0..step).map(|n| BatchId { run: run.clone(), sequence: left.unwrap_or_default() - n }).collect();
        let names = self.payload_names(&ids).await?;
        let mut own =
            vec![self.keys.to_forget(), self.keys.left_segments(), self.keys.run(run), self.keys.bad_rows(run)];
        let args = Args::default().text(run.as_str()).int(forget.keep_ms);
        let args = args.text(forget.keep_dead_ms.map_or(String::new(), |keep_ms| keep_ms.to_string()));
        let mut args = args.text(left.map_or(String::new(), |left| left.to_string())).int(step);
        for (id, name) in ids.iter().zip(&names) {
            own.extend([self.keys.batch(id), self.keys.details(id), self.keys.payload(id, name)]);
            args = args.text(name);
        }
        if left.is_none() {
            let all = COUNTERS.iter().chain(&["moves", "proved"]);
            args = all.fold(args, |args, counter| args.text(counter));
        }
        read(self.run_script(Transition::ForgetRun, &own, args).await?, "forget_run")
    }

    async fn payload_names(&self, ids: &[BatchId]) -> Result<Vec<String>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for id in ids {
            pipe.cmd("HGET").arg(self.keys.batch(id)).arg("payload");
        }
        let mut answers = self.links.read_bulk(pipe, "a batch").await?;
        ids.iter().map(|_| Ok(answers.read::<Option<String>>()?.unwrap_or_default())).collect()
    }

    pub(super) async fn runs_forgotten(&self, limit: usize) -> Result<Vec<RunId>> {
        let Some(last) = limit.checked_sub(1) else { return Ok(Vec::new()) };
        let mut pipe = redis::pipe();
        pipe.cmd("ZRANGE").arg(self.keys.to_forget()).arg(0).arg(last);
        let ids: Vec<String> = read(only(self.links.swift.call(pipe).await?)?, "runs to forget")?;
        ids.iter().map(|id| parse(id, "runs to forget")).collect()
    }

    pub(super) async fn segments_left(&self, limit: usize) -> Result<Vec<LeftSegment>> {
        let Some(last) = limit.checked_sub(1) else { return Ok(Vec::new()) };
        let mut pipe = redis::pipe();
        pipe.cmd("ZRANGE").arg(self.keys.left_segments()).arg(0).arg(last).arg("WITHSCORES");
        let answer = Elements::of(only(self.links.bulk.call(pipe).await?)?, "segments left")?;
        Ok(instants(answer)?.into_iter().map(|(name, at_ms)| LeftSegment { name, at_ms }).collect())
    }

    /// Those that are not of this shard change nothing.
    pub(super) async fn segments_forget(&self, segments: &[LeftSegment]) -> Result<()> {
        for step in segments.chunks(NAMES_STEP_MAX) {
            let args = step.iter().fold(Args::default(), |args, left| args.text(&left.name).int(left.at_ms));
            self.run_script(Transition::ForgetSegments, &[self.keys.left_segments()], args).await?;
        }
        Ok(())
    }
}

impl Global {
    /// Written before the transition that names it.
    pub(super) async fn keep_definition(&self, hash: &DefinitionHash, encoded: &[u8]) -> Result<()> {
        let own = [keys::KEPT.to_owned(), keys::definition(hash)];
        let args = Args::default().text(encoded).text(member(&Shared::Definition(hash.clone())));
        let mut pipe = redis::pipe();
        pipe.add_command(self.scripts.call(Transition::Keep, &[], &own, &args.0));
        only(self.links.bulk.call(pipe).await?).map(drop)
    }

    pub(super) async fn shared_keep(&self, shared: &[Shared]) -> Result<()> {
        for step in shared.chunks(NAMES_STEP_MAX) {
            let args = step.iter().fold(Args::default().text(""), |args, shared| args.text(member(shared)));
            self.run_script(Transition::Keep, &[keys::KEPT.to_owned()], args).await?;
        }
        Ok(())
    }

    pub(super) async fn shared_kept(&self, before_ms: i64, skip: usize, limit: usize) -> Result<Vec<Kept>> {
        let mut pipe = redis::pipe();
        pipe.cmd("ZRANGEBYSCORE").arg(keys::KEPT).arg("-inf").arg(format!("({before_ms}")).arg("WITHSCORES");
        pipe.arg("LIMIT").arg(skip).arg(limit);
        let answer = Elements::of(only(self.links.bulk.call(pipe).await?)?, "what is kept")?;
        instants(answer)?.into_iter().map(|(name, at_ms)| Ok(Kept { shared: shared(&name)?, at_ms })).collect()
    }

    pub(super) async fn shared_forget(&self, unnamed: Vec<Kept>) -> Result<Vec<Shared>> {
        let mut all_gone = Vec::new();
        for step in unnamed.chunks(NAMES_STEP_MAX) {
            let (mut own, mut args) = (vec![keys::KEPT.to_owned()], Args::default());
            for Kept { shared, at_ms } in step {
                own.push(match shared {
                    Shared::Audience(_) => keys::KEPT.to_owned(),
                    Shared::Definition(hash) => keys::definition(hash),
                });
                args = args.text(member(shared)).int(*at_ms);
            }
            let gone: Vec<usize> = read(self.run_script(Transition::ForgetKept, &own, args).await?, "forget_kept")?;
            all_gone.extend(gone.into_iter().filter_map(|at| step.get(at)).map(|kept| kept.shared.clone()));
        }
        Ok(all_gone)
    }
}
