//! Erasing one address: of recipients, of runs, and what is known of it meanwhile.

use super::global::Global;
use super::keys;
use super::reply::{corrupt, parse, read};
use super::scripts::{Args, Transition};
use super::shard::{Shard, only};
use crate::api::{
    EraseRecipients, EraseRun, ErasedRecipients, ErasedRun, ErasureRecord, Replace, Result, WriteErasure,
};
use postrider_common::ids::ErasureId;
use std::collections::BTreeSet;

/// As sets of indexes are kept in the hash of a batch.
fn indexes(all: impl IntoIterator<Item = u32>) -> String {
    let all: Vec<String> = all.into_iter().map(|index| index.to_string()).collect();
    all.join(",")
}

fn replace(args: Args, replace: Option<&Replace>) -> Args {
    match replace {
        Some(Replace { from, to }) => args.flag(true).text(from).text(to),
        None => args.flag(false).text("").text(""),
    }
}

impl Shard {
    pub(super) async fn recipients_erase(&self, erase: EraseRecipients) -> Result<ErasedRecipients> {
        let batch = &erase.batch;
        let mut pipe = redis::pipe();
        pipe.cmd("HGET").arg(self.keys.batch(batch)).arg("payload");
        let name: Option<String> = read(only(self.links.swift.call(pipe).await?)?, "a batch")?;
        let name = name.unwrap_or_default();
        let own = [
            self.keys.batch(batch),
            self.keys.details(batch),
            self.keys.run(&batch.run),
            self.keys.payload(batch, &name),
        ];
        let after: BTreeSet<u32> = erase.known.iter().chain(&erase.recipients).copied().collect();
        let args = Args::default().text(batch.to_string()).text(indexes(erase.known));
        let args = args.text(indexes(erase.recipients)).text(indexes(after)).text(indexes(erase.details));
        let args = args.text(&name).text(&erase.payload);
        let mut pipe = redis::pipe();
        pipe.add_command(self.script(Transition::EraseRecipients, &own, args));
        let (status, ended): (String, u32) = read(only(self.links.bulk.call(pipe).await?)?, "erase_recipients")?;
        self.wake.bump();
        match status.as_str() {
            "done" => Ok(ErasedRecipients::Done { ended }),
            "changed" => Ok(ErasedRecipients::Changed),
            "gone" => Ok(ErasedRecipients::Gone),
            other => Err(corrupt(format!("erase_recipients answered {other}"))),
        }
    }

    pub(super) async fn run_erase(&self, erase: EraseRun) -> Result<ErasedRun> {
        let args = Args::default().text(erase.run.as_str());
        let args = replace(replace(args, erase.audience.as_ref()), erase.open.as_ref());
        let mut pipe = redis::pipe();
        pipe.add_command(self.script(Transition::EraseRun, &[self.keys.run(&erase.run)], args));
        let (status, open): (String, Vec<u8>) = read(only(self.links.bulk.call(pipe).await?)?, "erase_run")?;
        self.wake.bump();
        match status.as_str() {
            "done" => Ok(ErasedRun::Done { open }),
            "changed" => Ok(ErasedRun::Changed),
            "no_run" => Ok(ErasedRun::NoRun),
            other => Err(corrupt(format!("erase_run answered {other}"))),
        }
    }
}

impl Global {
    pub(super) async fn erasure_write(&self, write: WriteErasure) -> Result<Option<u64>> {
        let own = [keys::erasure(&write.id), keys::ERASURES.to_owned()];
        let args = Args::default().text(write.id.as_str()).int(write.version).text(write.by.as_str());
        let args = args.flag(write.takes).int(write.hold_ms).flag(write.open).text(&write.body);
        let answer = self.run_script(Transition::WriteErasure, &own, args).await?;
        let (status, version): (String, u64) = read(answer, "write_erasure")?;
        match status.as_str() {
            "done" => Ok(Some(version)),
            "changed" => Ok(None),
            other => Err(corrupt(format!("write_erasure answered {other}"))),
        }
    }

    pub(super) async fn erasure_of(&self, id: &ErasureId) -> Result<Option<ErasureRecord>> {
        let mut pipe = redis::pipe();
        pipe.cmd("HMGET").arg(keys::erasure(id)).arg(&["version", "open", "body"]);
        type Fields = (Option<u64>, Option<String>, Option<Vec<u8>>);
        let (version, open, body): Fields = read(only(self.links.swift.call(pipe).await?)?, "an erasure")?;
        let Some(version) = version else { return Ok(None) };
        let (open, body) = open.zip(body).ok_or_else(|| corrupt("an erasure"))?;
        Ok(Some(ErasureRecord { id: id.clone(), version, open: open == "1", body }))
    }

    pub(super) async fn erasures_open(&self, limit: usize) -> Result<Vec<ErasureRecord>> {
        let Some(last) = limit.checked_sub(1) else { return Ok(Vec::new()) };
        let mut pipe = redis::pipe();
        pipe.cmd("ZRANGE").arg(keys::ERASURES).arg(0).arg(last);
        let ids: Vec<String> = read(only(self.links.swift.call(pipe).await?)?, "erasures")?;
        let mut open = Vec::with_capacity(ids.len());
        for id in ids {
            let record = self.erasure_of(&parse(&id, "an erasure")?).await?;
            // One that ended in between is not open any more.
            open.extend(record.filter(|record| record.open));
        }
        Ok(open)
    }
}
