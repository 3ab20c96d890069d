//! The set of those who are not sent to. It has the global tag; that it changed is an effect on every shard, so that what is
//! acknowledged holds for every intent that is granted after it.
//!
//! A subject is a field of one of 65,536 hashes, chosen by the first two bytes of its key and named by the others: the server
//! keeps short lists of short fields compact.

use super::Redis;
use super::effects::Effect;
use super::global::Global;
use super::keys;
use super::reply::{Elements, corrupt, ms, parse, read};
use super::scripts::{Args, Transition};
use super::shard::{Shard, only};
use crate::api::{
    Result, Suppress, SuppressRecipients, SuppressedRecipients, Suppressing, SuppressionChange, SuppressionRecord,
    SuppressionSet,
};
use postrider_common::ids::Fence;
use postrider_common::state::RecipientState;
use postrider_common::suppression::{SuppressionHold, SuppressionKey, SuppressionReason};
use std::collections::BTreeMap;

const SUBJECT: &str = "S|set";
/// Buckets that are read in one round trip.
const BUCKETS_PER_READ: usize = 512;
/// Bytes of a key that choose the bucket.
const BUCKET_BYTES: usize = 2;

fn bucket_of(key: &SuppressionKey) -> u16 {
    u16::from_be_bytes([key.0[0], key.0[1]])
}

fn field_of(key: &SuppressionKey) -> &[u8] {
    &key.0[BUCKET_BYTES..]
}

fn key_of(bucket: u16, field: &[u8]) -> Result<SuppressionKey> {
    let key: Vec<u8> = bucket.to_be_bytes().into_iter().chain(field.iter().copied()).collect();
    key.try_into().map(SuppressionKey).map_err(|_| corrupt("the key of a suppression"))
}

/// `scope=digit,since;…|subject`, without the comma, as `suppress.lua` writes it.
fn record(key: SuppressionKey, value: &[u8]) -> Result<SuppressionRecord> {
    let wrong = || corrupt(format!("the suppression {key}"));
    let at = value.iter().position(|byte| *byte == b'|').ok_or_else(wrong)?;
    let holds = std::str::from_utf8(&value[..at]).map_err(|_| wrong())?;
    let hold = |text: &str| {
        let (scope, rest) = text.split_once('=').ok_or_else(wrong)?;
        let reason = rest.bytes().next().and_then(SuppressionReason::from_digit).ok_or_else(wrong)?;
        let scope = scope.parse().map_err(|_| wrong())?;
        Ok(SuppressionHold { scope, reason, at_ms: parse(&rest[1..], "the time of a suppression")? })
    };
    let mut holds: Vec<SuppressionHold> = holds.split(';').map(hold).collect::<Result<_>>()?;
    holds.sort_by_cached_key(|hold| hold.scope.to_string());
    Ok(SuppressionRecord { key, subject: value[at + 1..].to_vec(), holds })
}

fn change(args: Args, change: SuppressionChange) -> Args {
    let args = args.text(field_of(&change.key()));
    match change {
        SuppressionChange::Add { key: _, scope, reason, at_ms, subject } => {
            let at = at_ms.map_or(String::new(), |at| ms(at).to_string());
            args.text("add").text(scope.to_string()).text([reason.digit()]).text(at).text(subject)
        }
        SuppressionChange::Remove { key: _, scope } => {
            let scope = scope.map_or(String::new(), |scope| scope.to_string());
            args.text("remove").text(scope).text("").text("").text("")
        }
        SuppressionChange::Unname { key: _ } => args.text("unname").text("").text("").text("").text(""),
    }
}

impl Redis {
    pub(super) async fn set_suppress(&self, suppress: Suppress) -> Result<Suppressing> {
        self.step()?;
        let Some((effect, changed)) = self.global.suppressions_change(suppress).await? else {
            return Ok(Suppressing::OtherKey);
        };
        self.carry_out(&effect).await?;
        Ok(Suppressing::Done { number: effect.version(), changed })
    }

    /// Shards that do not know it are told the number of the set.
    pub(super) async fn tell_suppressions(&self) -> Result<()> {
        let number = self.global.suppressions_set().await?.number;
        if number == 0 {
            return Ok(());
        }
        let tell = |shard| Shard::suppressions_know(shard, number);
        self.all(tell).await.map(drop)
    }
}

impl Global {
    async fn suppressions_change(&self, suppress: Suppress) -> Result<Option<(Effect, u64)>> {
        let mut own = vec![keys::OUTBOX.to_owned(), keys::VERSION.to_owned(), keys::SUPPRESSED.to_owned()];
        own.extend(suppress.changes.iter().map(|change| keys::suppressed(bucket_of(&change.key()))));
        let args = Args::default().text(suppress.check).int(suppress.changes.len() as u64);
        let args = suppress.changes.into_iter().fold(args, change);
        let mut answer = Elements::of(self.run_script(Transition::Suppress, &own, args).await?, "suppress")?;
        match answer.read::<String>()?.as_str() {
            "other_key" => return Ok(None),
            "done" => {}
            other => return Err(corrupt(format!("suppress answered {other}"))),
        }
        let effect = Effect::of(SUBJECT.to_owned(), &mut answer)?.ok_or_else(|| corrupt("suppress sent nothing"))?;
        Ok(Some((effect, answer.read()?)))
    }

    pub(super) async fn suppressions_set(&self) -> Result<SuppressionSet> {
        let mut pipe = redis::pipe();
        pipe.cmd("HMGET").arg(keys::SUPPRESSED).arg(&["number", "count", "check"]);
        type Fields = (Option<u64>, Option<u64>, Option<String>);
        let (number, count, check): Fields = read(only(self.links.swift.call(pipe).await?)?, "the set")?;
        Ok(SuppressionSet { number: number.unwrap_or(0), count: count.unwrap_or(0), check: check.unwrap_or_default() })
    }

    pub(super) async fn suppressions_with(&self, keys: &[SuppressionKey]) -> Result<Vec<Option<SuppressionRecord>>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for key in keys {
            pipe.cmd("HGET").arg(keys::suppressed(bucket_of(key))).arg(field_of(key));
        }
        let answers = self.links.swift.call(pipe).await?;
        let one = |(key, answer): (&SuppressionKey, Result<redis::Value>)| {
            let value: Option<Vec<u8>> = read(answer?, "a suppression")?;
            value.map(|value| record(*key, &value)).transpose()
        };
        keys.iter().zip(answers).map(one).collect()
    }

    /// Bucket by bucket: they are in the order of the keys.
    pub(super) async fn suppressions_from(
        &self,
        after: Option<SuppressionKey>,
        limit: usize,
    ) -> Result<Vec<SuppressionRecord>> {
        let mut found: Vec<SuppressionRecord> = Vec::new();
        if self.suppressions_set().await?.count == 0 {
            return Ok(found);
        }
        let first = after.map_or(0, |after| bucket_of(&after));
        let buckets: Vec<u16> = (first..=u16::MAX).collect();
        for buckets in buckets.chunks(BUCKETS_PER_READ) {
            let mut pipe = redis::pipe();
            for bucket in buckets {
                pipe.cmd("HGETALL").arg(keys::suppressed(*bucket));
            }
            for (bucket, answer) in buckets.iter().zip(self.links.bulk.call(pipe).await?) {
                let fields: BTreeMap<Vec<u8>, Vec<u8>> = read(answer?, "suppressions")?;
                for (field, value) in fields {
                    let key = key_of(*bucket, &field)?;
                    if after.is_none_or(|after| key > after) {
                        found.push(record(key, &value)?);
                    }
                }
            }
            if found.len() >= limit {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }
}

impl Shard {
    async fn suppressions_know(&self, number: u64) -> Result<()> {
        self.run_script(Transition::KnowSuppressions, &[], Args::default().int(number)).await.map(drop)
    }

    pub(super) async fn recipients_suppress(&self, found: SuppressRecipients) -> Result<SuppressedRecipients> {
        let SuppressRecipients { batch, fence, checked, recipients } = found;
        let own = [self.keys.batch(&batch), self.keys.details(&batch), self.keys.run(&batch.run)];
        let fence = fence.as_ref().map_or(String::new(), Fence::to_string);
        let args = Args::default().text(batch.to_string()).text(fence).int(checked).int(recipients.len() as u64);
        let args = recipients.iter().fold(args, |args, (index, reason)| args.int(*index).text(reason.as_str()));
        let answer = self.run_script(Transition::SuppressRecipients, &own, args).await?;
        let mut answer = Elements::of(answer, "suppress_recipients")?;
        match answer.read::<String>()?.as_str() {
            "lost" => return Ok(SuppressedRecipients::Lost),
            "done" => {}
            other => return Err(corrupt(format!("suppress_recipients answered {other}"))),
        }
        let mut ended = Vec::new();
        while !answer.is_empty() {
            let (index, letter): (u32, String) = (answer.read()?, answer.read()?);
            let state = letter.bytes().next().and_then(RecipientState::from_letter);
            ended.push((index, state.ok_or_else(|| corrupt("the state of a recipient"))?));
        }
        self.wake.bump();
        Ok(SuppressedRecipients::Done { ended })
    }
}
