//! The split of a run: claimed, moved on, given back.

use super::reply::{Elements, corrupt, ms, parse, read};
use super::scripts::{Args, Transition};
use super::shard::{Shard, only};
use crate::api::{AddBatches, BadRow, ClaimSplit, PinAudience, ReleaseSplit, Result, SplitLease, SplitStatus};
use postrider_common::ids::{BatchId, RunId, to_hex};
use postrider_common::limits::BAD_ROWS_KEPT_MAX;
use redis::Value;
use sha2::{Digest, Sha256};

/// A payload that no batch took is gone after this long.
const ORPHAN_PAYLOAD_SECONDS: u64 = 3600;
/// Bytes of the hash that a payload is named by: enough that two payloads of one batch differ in name.
const PAYLOAD_NAME_BYTES: usize = 6;

impl Shard {
    pub(super) async fn split_claim(&self, claim: ClaimSplit) -> Result<Option<SplitLease>> {
        let nonce = format!("{:08x}", claim.nonce);
        let args = Args::default().text(claim.request.as_str()).text(nonce).int(claim.ttl_ms);
        let mut answer = Elements::of(self.run_script(Transition::ClaimSplit, &[], args).await?, "claim_split")?;
        if answer.is_empty() {
            return Ok(None);
        }
        let run: RunId = answer.parse()?;
        let fence = answer.parse()?;
        let ttl_ms = ms(answer.read()?);
        let mut pipe = redis::pipe();
        pipe.cmd("HMGET").arg(self.keys.run(&run)).arg(&["cursor", "sequence", "open", "bad", "repeated"]);
        let value = only(self.links.swift.call(pipe).await?)?;
        let mut fields = Elements::of(value, "the split of a run")?;
        Ok(Some(SplitLease {
            run,
            fence,
            ttl_ms,
            cursor: fields.read()?,
            sequence_max: fields.read()?,
            open: fields.read()?,
            bad_rows: fields.read()?,
            repeated_rows: fields.read()?,
        }))
    }

    pub(super) async fn split_add_batches(&self, add: AddBatches) -> Result<SplitStatus> {
        let mut pipe = redis::pipe();
        pipe.atomic();
        let mut own = vec![self.keys.run(&add.run), self.keys.bad_rows(&add.run)];
        let mut named = Vec::with_capacity(add.batches.len());
        for new in &add.batches {
            let batch = BatchId { run: add.run.clone(), sequence: new.sequence };
            let name = to_hex(&Sha256::digest(&new.payload)[..PAYLOAD_NAME_BYTES]);
            let payload = self.keys.payload(&batch, &name);
            // NX: a payload that a batch has taken must not get a time to live again.
            pipe.cmd("SET").arg(&payload).arg(&new.payload).arg("EX").arg(ORPHAN_PAYLOAD_SECONDS).arg("NX");
            own.extend([self.keys.batch(&batch), payload]);
            named.push((new, name));
        }
        let args = Args::default().text(add.run.as_str()).text(add.fence.to_string()).int(add.cursor);
        let args = args.int(add.cursor_next).text(&add.open).int(add.bad_rows).int(add.repeated_rows);
        let args = args.flag(add.complete).int(add.ttl_ms).int(BAD_ROWS_KEPT_MAX as u64);
        let mut args = args.int(add.bad_row_samples.len() as u64);
        for bad in &add.bad_row_samples {
            args = args.int(bad.row).text(&bad.reason);
        }
        args = args.int(named.len() as u64);
        for (new, name) in &named {
            args = args.int(new.sequence).text(new.site.as_str()).int(new.count).text(name).int(ms(new.not_before_ms));
            args = args.int(new.checked);
        }
        pipe.add_command(self.script(Transition::AddBatches, &own, args));
        let status = split_status(only(self.links.bulk.call(pipe).await?)?)?;
        self.wake.bump();
        Ok(status)
    }

    pub(super) async fn split_pin_audience(&self, pin: PinAudience) -> Result<SplitStatus> {
        let args = Args::default().text(pin.run.as_str()).text(pin.fence.to_string());
        let args = args.text(&pin.audience).int(pin.ttl_ms);
        let mut pipe = redis::pipe();
        pipe.add_command(self.script(Transition::PinAudience, &[self.keys.run(&pin.run)], args));
        split_status(only(self.links.bulk.call(pipe).await?)?)
    }

    pub(super) async fn split_release(&self, release: ReleaseSplit) -> Result<SplitStatus> {
        let args = Args::default().text(release.run.as_str()).text(release.fence.to_string()).int(release.delay_ms);
        let args = args.flag(release.error.is_some());
        let args = match release.error {
            Some(error) => args.text(error.code).text(error.message).text(error.mend),
            None => args.text("").text("").text(""),
        };
        let answer = self.run_script(Transition::ReleaseSplit, &[self.keys.run(&release.run)], args).await?;
        self.wake.bump();
        split_status(answer)
    }

    pub(super) async fn split_bad_rows(&self, run: &RunId) -> Result<Vec<BadRow>> {
        let mut pipe = redis::pipe();
        pipe.cmd("LRANGE").arg(self.keys.bad_rows(run)).arg(0).arg(-1);
        let rows: Vec<String> = read(only(self.links.bulk.call(pipe).await?)?, "bad rows")?;
        let bad_row = |text: &String| {
            let (row, reason) = text.split_once('|').ok_or_else(|| corrupt("a bad row"))?;
            Ok(BadRow { row: parse(row, "a bad row")?, reason: reason.to_owned() })
        };
        rows.iter().map(bad_row).collect()
    }
}

fn split_status(answer: Value) -> Result<SplitStatus> {
    match read::<String>(answer, "the split")?.as_str() {
        "done" => Ok(SplitStatus::Done),
        "lost" => Ok(SplitStatus::Lost),
        "stopped" => Ok(SplitStatus::Stopped),
        other => Err(corrupt(format!("the split answered {other}"))),
    }
}
