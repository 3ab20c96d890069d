//! Dead letters, and runs that begin again with whom they gave up.

use super::reply::{Elements, corrupt, parse, read};
use super::scripts::{Args, Transition};
use super::shard::{Shard, only};
use crate::api::{DeadAnswer, DeadLetter, ReplayDead, Result, RetriedRun, RetryRun};
use crate::error::StoreError;
use postrider_common::ids::{BatchId, DeadId, RunId};
use postrider_common::limits::{DEAD_LETTERS_PAGE_MAX, RETRY_KEYS_KEPT_MAX};
use redis::Value;

/// Batches that one script looks at: bounds how long it keeps the server.
const RETRY_STEP_BATCHES_MAX: u64 = 100;

/// What `dead_order` has for a dead letter, see `dead_member` in `lua/prelude.lua`.
fn member(id: &DeadId) -> String {
    let DeadId { batch, index } = id;
    let index = index.map_or(String::new(), |index| format!("/{index:02}"));
    format!("{}.{:016x}{index}", batch.run, batch.sequence)
}

fn id_of(member: &str) -> Option<DeadId> {
    let (run, rest) = member.split_once('.')?;
    let (sequence, index) = match rest.split_once('/') {
        Some((sequence, index)) => (sequence, Some(index.parse().ok()?)),
        None => (rest, None),
    };
    let sequence = u64::from_str_radix(sequence, 16).ok()?;
    Some(DeadId { batch: BatchId { run: run.parse().ok()?, sequence }, index })
}

impl Shard {
    pub(super) async fn run_retry(&self, retry: RetryRun) -> Result<RetriedRun> {
        let mut pipe = redis::pipe();
        pipe.cmd("HGET").arg(self.keys.run(&retry.run)).arg("sequence");
        let last: Option<u64> = read(only(self.links.swift.call(pipe).await?)?, "the sequence of a run")?;
        let Some(last) = last else { return Ok(RetriedRun::NoRun) };
        let until = last.min(retry.after.saturating_add(retry.limit as u64));
        let (mut from, mut recipients) = (retry.after.saturating_add(1), 0);
        loop {
            let step = (until + 1).saturating_sub(from).min(RETRY_STEP_BATCHES_MAX);
            let mut own = vec![self.keys.run(&retry.run)];
            for sequence in from..from + step {
                let batch = BatchId { run: retry.run.clone(), sequence };
                own.extend([self.keys.batch(&batch), self.keys.details(&batch)]);
            }
            let args = Args::default().text(retry.run.as_str()).text(retry.key.as_str()).flag(retry.unknown);
            let args = args.int(from).int(step).int(RETRY_KEYS_KEPT_MAX as u64);
            let answer = self.run_script(Transition::RetryRun, &own, args).await?;
            let (status, generation, count, ends): (String, u64, u64, u64) = read(answer, "retry_run")?;
            match status.as_str() {
                "step" => (),
                "no_run" => return Ok(RetriedRun::NoRun),
                "cancelled" => return Ok(RetriedRun::Cancelled),
                "conflict" => return Ok(RetriedRun::Conflict),
                other => return Err(corrupt(format!("retry_run answered {other}"))),
            }
            recipients += count;
            from += step;
            if step == 0 || from > until.min(ends) {
                self.wake.bump();
                let next = (until < ends).then_some(until);
                return Ok(RetriedRun::Step { generation, recipients, next });
            }
        }
    }

    pub(super) async fn dead_after(
        &self,
        run: Option<&RunId>,
        after: Option<&DeadId>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let limit = limit.min(DEAD_LETTERS_PAGE_MAX);
        let first = run.map_or("-".to_owned(), |run| format!("[{run}."));
        let from = after.map(|after| format!("({}", member(after)));
        // '/' is the character after '.'.
        let to = run.map_or("+".to_owned(), |run| format!("({run}/"));
        // A page of another run may have been asked for.
        let from = from.filter(|from| first == "-" || from[1..] > first[1..]).unwrap_or(first);
        let mut pipe = redis::pipe();
        pipe.cmd("ZRANGEBYLEX").arg(self.keys.dead_order()).arg(from).arg(to).arg("LIMIT").arg(0).arg(limit);
        let members: Vec<String> = read(only(self.links.bulk.call(pipe).await?)?, "dead letters")?;
        let ids = members.iter().map(|member| id_of(member).ok_or_else(|| corrupt("the id of a dead letter")));
        let ids = ids.collect::<Result<Vec<_>>>()?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for id in &ids {
            pipe.cmd("HGET").arg(self.keys.dead()).arg(id.to_string());
        }
        let mut texts: Elements = self.links.read_bulk(pipe, "dead letters").await?;
        let mut letters = Vec::with_capacity(ids.len());
        for id in ids {
            // None: replayed or purged in between.
            let Some(text) = texts.read::<Option<String>>()? else { continue };
            let mut parts = text.splitn(3, '|');
            let (at, reason) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            letters.push(DeadLetter { id, at_ms: parse(at, "a dead letter")?, reason: reason.to_owned() });
        }
        Ok(letters)
    }

    pub(super) async fn dead_replay(&self, replay: ReplayDead) -> Result<DeadAnswer> {
        let ReplayDead { id, unknown } = replay;
        let mut pipe = redis::pipe();
        pipe.cmd("HGET").arg(self.keys.batch(&id.batch)).arg("payload");
        let name: Option<String> = read(only(self.links.swift.call(pipe).await?)?, "a batch")?;
        let mut own = self.dead_keys(&id);
        own.push(self.keys.payload(&id.batch, &name.unwrap_or_default()));
        let answer = self.run_script(Transition::ReplayDead, &own, dead_args(&id).flag(unknown)).await;
        self.wake.bump();
        dead_answer(answer)
    }

    pub(super) async fn dead_purge(&self, id: &DeadId) -> Result<DeadAnswer> {
        dead_answer(self.run_script(Transition::PurgeDead, &self.dead_keys(id), dead_args(id)).await)
    }

    fn dead_keys(&self, id: &DeadId) -> Vec<String> {
        let batch = &id.batch;
        vec![self.keys.batch(batch), self.keys.details(batch), self.keys.run(&batch.run)]
    }
}

fn dead_args(id: &DeadId) -> Args {
    Args::default().text(id.batch.to_string()).text(id.index.map_or(String::new(), |index| index.to_string()))
}

fn dead_answer(answer: Result<Value>) -> Result<DeadAnswer> {
    let (status, recipients): (String, u64) = match answer {
        Ok(value) => read(value, "a dead letter")?,
        // A record in it.
        Err(StoreError::Corrupt(why)) => {
            tracing::warn!(why, "a dead letter cannot be read");
            return Ok(DeadAnswer::Unreadable);
        }
        Err(error) => return Err(error),
    };
    match status.as_str() {
        "done" => Ok(DeadAnswer::Done { recipients }),
        "none" => Ok(DeadAnswer::NoSuch),
        "in_doubt" => Ok(DeadAnswer::InDoubt),
        "cancelled" => Ok(DeadAnswer::Cancelled),
        "unreadable" => Ok(DeadAnswer::Unreadable),
        other => Err(corrupt(format!("a dead letter answered {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_in_the_order_of_the_ids() {
        let batch = |sequence| BatchId { run: RunId::derive("test", "run"), sequence };
        let id = |sequence, index| DeadId { batch: batch(sequence), index };
        let ids = [id(2, None), id(2, Some(0)), id(2, Some(11)), id(10, None), id(300, Some(99))];
        assert!(ids.is_sorted());
        assert!(ids.iter().map(member).is_sorted());
        for id in ids {
            assert_eq!(id_of(&member(&id)), Some(id));
        }
    }
}
