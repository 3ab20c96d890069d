//! Reading: batches, workers, lanes. Nothing here changes what is stored.

use super::reply::{Elements, corrupt, parse, read};
use super::shard::{Shard, only};
use crate::api::{BatchRecord, BatchState, Delivery, LaneRecord, Result, WorkerRecord};
use postrider_common::ids::{BatchId, LaneName, RunId, SiteName, WorkerId};
use postrider_common::lease::IndexRange;
use postrider_common::state::{RecipientState, UnknownReason};
use redis::Value;
use std::collections::{BTreeMap, HashMap};

/// Batches read in one round trip: bounds an answer to a few megabytes.
const LOOK_STEP_BATCHES_MAX: usize = 20;

/// `lane|site|run|sequence|count|payload|expired`, as `entry_text` in `lua/prelude.lua` prints it.
#[derive(Debug)]
pub(super) struct Place {
    pub lane: String,
    pub site: String,
    pub payload: String,
}

impl Place {
    pub fn parse(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('|').collect();
        match parts.as_slice() {
            [lane, site, _, _, _, payload, _] => {
                Ok(Self { lane: (*lane).into(), site: (*site).into(), payload: (*payload).into() })
            }
            _ => Err(corrupt("an entry of an index")),
        }
    }
}

/// What the hash of a batch says of one recipient.
#[derive(Debug)]
pub(super) struct Recipient {
    pub state: RecipientState,
    pub attempts: u32,
    /// Meaningful while deferred.
    pub due_at: i64,
    reason: Option<UnknownReason>,
    settled_at_ms: Option<i64>,
    code: String,
    /// There is a record of it.
    happened: bool,
}

impl Recipient {
    fn untouched(state: RecipientState) -> Self {
        Self { state, attempts: 0, due_at: 0, reason: None, settled_at_ms: None, code: String::new(), happened: false }
    }
}

/// The fields of a batch, but for those that are no text (what its lease keeps).
fn text_fields(value: Value) -> Result<HashMap<String, String>> {
    let fields: HashMap<String, Vec<u8>> = read(value, "a batch")?;
    Ok(fields.into_iter().filter_map(|(name, bytes)| Some((name, String::from_utf8(bytes).ok()?))).collect())
}

/// The hash of a batch, as `lua/batch.lua` writes it.
#[derive(Debug)]
pub(super) struct BatchHash {
    pub recipients: Vec<Recipient>,
    /// Not empty: retired.
    segments: Vec<String>,
    erased: Vec<u32>,
    /// What its lease is for; None: all.
    pub only: Option<IndexRange>,
    /// The number of the set of those who are not sent to, at which it was looked at.
    pub checked: u64,
}

impl BatchHash {
    /// None: there is no such key.
    pub fn read(value: Value) -> Result<Option<Self>> {
        let fields = text_fields(value)?;
        if fields.is_empty() {
            return Ok(None);
        }
        let field = |name: &str| fields.get(name).cloned().ok_or_else(|| corrupt(format!("a batch without {name}")));
        let states = field("s0")? + fields.get("s1").map_or("", String::as_str);
        let count: usize = parse(&field("n")?, "the size of a batch")?;
        if states.len() != count {
            return Err(corrupt("the states of a batch are not as many as its recipients"));
        }
        let pieces = ["m0", "m1"].iter().filter_map(|piece| fields.get(*piece));
        let mut symbols: String = pieces.map(String::as_str).collect();
        if symbols.is_empty() {
            symbols = ".".repeat(count);
        }
        if symbols.len() != count {
            return Err(corrupt("the records of a batch are not as many as its recipients"));
        }
        let one = |(index, (letter, symbol)): (usize, (u8, u8))| {
            let state = RecipientState::from_letter(letter).ok_or_else(|| corrupt("the state of a recipient"))?;
            let field = match symbol {
                b'.' => return Ok(Recipient::untouched(state)),
                b'~' => index.to_string(),
                _ => format!("g{}", char::from(symbol)),
            };
            let record = fields.get(&field).ok_or_else(|| corrupt("a record of a batch is missing"))?;
            recipient(state, record)
        };
        let recipients = states.bytes().zip(symbols.bytes()).enumerate().map(one).collect::<Result<_>>()?;
        let names = fields.get("h").map_or("", String::as_str).split(',').filter(|name| !name.is_empty());
        Ok(Some(Self {
            recipients,
            segments: names.map(str::to_owned).collect(),
            erased: fields
                .get("x")
                .map_or(Ok(Vec::new()), |x| x.split(',').map(|index| parse(index, "an index")).collect())?,
            only: fields.get("w").and_then(|w| only_of(w)),
            checked: fields.get("v").map_or(Ok(0), |v| parse(v.trim_end_matches('!'), "the number of a set"))?,
        }))
    }

    /// Where a batch stands that is not dead.
    fn state_at_rest(&self, is_leased: bool, is_delayed: bool) -> BatchState {
        if is_leased {
            BatchState::Leased
        } else if self.recipients.iter().all(|recipient| recipient.state.is_final()) {
            BatchState::Settled
        } else if is_delayed {
            BatchState::Delayed
        } else {
            BatchState::Ready
        }
    }
}

/// The range in `strikes|unheard|first|last|suspects`, see `lua/poison.lua`.
fn only_of(suspicion: &str) -> Option<IndexRange> {
    let mut parts = suspicion.split('|').skip(2);
    Some(IndexRange { first: parts.next()?.parse().ok()?, last: parts.next()?.parse().ok()? })
}

/// What is read of a batch before the rest of it.
struct Head {
    id: BatchId,
    site: SiteName,
    payload: String,
    entry: String,
    dead: bool,
}

impl Head {
    /// None: there is no such batch.
    fn read(id: BatchId, lane: &str, answers: &mut Elements) -> Result<Option<Self>> {
        type Field = Option<String>;
        let (payload, site, count, expired): (Field, Field, Field, Field) = answers.read()?;
        // A retired batch has none.
        let payload = payload.or_else(|| site.is_some().then(String::new));
        let dead: Field = answers.read()?;
        let place = |dead: &String| Place::parse(dead.splitn(3, '|').nth(2).unwrap_or_default());
        let (payload, site) = match (payload, site, &dead) {
            (Some(payload), Some(site), _) => (payload, site),
            (_, _, Some(dead)) => place(dead).map(|place| (place.payload, place.site))?,
            (_, _, None) => return Ok(None),
        };
        let (count, expired) = (count.unwrap_or_default(), expired.as_deref().unwrap_or("0"));
        let entry = format!("{lane}|{site}|{}|{:016x}|{count}|{payload}|{expired}", id.run, id.sequence);
        Ok(Some(Self { id, site: parse(&site, "a site")?, payload, entry, dead: dead.is_some() }))
    }

    fn record(self, answers: &mut Elements) -> Result<Option<BatchRecord>> {
        let mut payload = answers.read::<Option<Vec<u8>>>()?.unwrap_or_default();
        let details: HashMap<usize, String> = answers.read()?;
        let hash = BatchHash::read(answers.value()?);
        let (leased, delayed): (Option<f64>, Option<f64>) = (answers.read()?, answers.read()?);
        let Self { id, site, dead, .. } = self;
        let hash = match hash {
            Ok(None) | Err(_) if dead => {
                BatchHash { recipients: Vec::new(), segments: Vec::new(), erased: Vec::new(), only: None, checked: 0 }
            }
            Ok(None) => return Ok(None),
            Err(error) => return Err(error),
            Ok(Some(hash)) => hash,
        };
        let state = if dead { BatchState::Dead } else { hash.state_at_rest(leased.is_some(), delayed.is_some()) };
        let BatchHash { recipients, segments, erased, only: _, checked: _ } = hash;
        if !segments.is_empty() {
            payload = Vec::new();
        }
        let recipients = recipients.into_iter().enumerate();
        let recipients = recipients.map(|(index, recipient)| delivery(recipient, details.get(&index))).collect();
        Ok(Some(BatchRecord { id, site, state, payload, recipients, segments, erased }))
    }
}

/// `attempts|doubts|first_at|due_at|intent|doubt|reason|settled_at|code`, as `record_text` in `lua/batch.lua`.
fn recipient(state: RecipientState, record: &str) -> Result<Recipient> {
    let parts: Vec<&str> = record.splitn(9, '|').collect();
    let [attempts, _, _, due_at, _, _, reason, settled_at, code] = parts.as_slice() else {
        return Err(corrupt("the record of a recipient"));
    };
    let number = |text: &str| -> Result<Option<i64>> {
        if text.is_empty() { Ok(None) } else { parse(text, "the record of a recipient").map(Some) }
    };
    Ok(Recipient {
        state,
        attempts: parse(attempts, "the attempts of a recipient")?,
        due_at: number(due_at)?.unwrap_or(0),
        reason: reason.bytes().next().and_then(UnknownReason::from_letter),
        settled_at_ms: number(settled_at)?,
        code: (*code).to_owned(),
        happened: true,
    })
}

impl Shard {
    pub(super) async fn batches_after(&self, run: &RunId, after: u64, limit: usize) -> Result<Vec<BatchRecord>> {
        let mut pipe = redis::pipe();
        pipe.cmd("HMGET").arg(self.keys.run(run)).arg(&["sequence", "lane"]);
        let (last, lane): (Option<u64>, Option<String>) =
            read(only(self.links.bulk.call(pipe).await?)?, "the sequence of a run")?;
        let (Some(last), Some(lane)) = (last, lane) else { return Ok(Vec::new()) };
        let until = last.min(after.saturating_add(limit as u64));
        let mut records = Vec::new();
        let sequences: Vec<u64> = (after.saturating_add(1)..=until).collect();
        for step in sequences.chunks(LOOK_STEP_BATCHES_MAX) {
            let ids = step.iter().map(|sequence| BatchId { run: run.clone(), sequence: *sequence }).collect();
            records.extend(self.batch_records(ids, &lane).await?);
        }
        Ok(records)
    }

    /// The batches with these ids, of any runs, in their order.
    pub(super) async fn records_of(&self, ids: &[BatchId]) -> Result<Vec<BatchRecord>> {
        let mut records = Vec::with_capacity(ids.len());
        for step in ids.chunks(LOOK_STEP_BATCHES_MAX) {
            for group in step.chunk_by(|a, b| a.run == b.run) {
                let Some(BatchId { run, .. }) = group.first() else { continue };
                let mut pipe = redis::pipe();
                pipe.cmd("HGET").arg(self.keys.run(run)).arg("lane");
                let lane: Option<String> = read(only(self.links.bulk.call(pipe).await?)?, "the lane of a run")?;
                records.extend(self.batch_records(group.to_vec(), &lane.unwrap_or_default()).await?);
            }
        }
        Ok(records)
    }

    /// First the heads, for the names of the payloads, then all of each batch. Each recipient is as of one instant;
    /// the place of a batch may be one transition younger. The hash is read last: one that is not retired then had
    /// its payload before, and of one that is, the hash says all there is.
    async fn batch_records(&self, ids: Vec<BatchId>, lane: &str) -> Result<Vec<BatchRecord>> {
        let mut pipe = redis::pipe();
        for id in &ids {
            pipe.cmd("HMGET").arg(self.keys.batch(id)).arg(&["payload", "site", "n", "expired"]);
            pipe.cmd("HGET").arg(self.keys.dead()).arg(id.to_string());
        }
        let mut answers = self.links.read_bulk(pipe, "a batch").await?;
        let mut heads = Vec::with_capacity(ids.len());
        for id in ids {
            heads.extend(Head::read(id, lane, &mut answers)?);
        }
        if heads.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for head in &heads {
            pipe.cmd("GET").arg(self.keys.payload(&head.id, &head.payload));
            pipe.cmd("HGETALL").arg(self.keys.details(&head.id));
            pipe.cmd("HGETALL").arg(self.keys.batch(&head.id));
            pipe.cmd("ZSCORE").arg(self.keys.lease()).arg(head.id.to_string());
            pipe.cmd("ZSCORE").arg(self.keys.delayed()).arg(&head.entry);
        }
        let mut answers = self.links.read_bulk(pipe, "a batch").await?;
        let mut records = Vec::with_capacity(heads.len());
        for head in heads {
            records.extend(head.record(&mut answers)?);
        }
        Ok(records)
    }

    pub(super) async fn workers_seen(&self) -> Result<Vec<WorkerRecord>> {
        let mut pipe = redis::pipe();
        pipe.cmd("HGETALL").arg(self.keys.worker());
        pipe.cmd("HGETALL").arg(self.keys.holder());
        let mut answers = self.links.read_bulk(pipe, "workers").await?;
        let workers: BTreeMap<String, String> = answers.read()?;
        let holders: BTreeMap<String, String> = answers.read()?;
        let held = self.held_by(holders).await?;
        let mut records = Vec::with_capacity(workers.len());
        for (text, seen) in workers {
            let (name, instance) = text.rsplit_once('/').ok_or_else(|| corrupt("a worker"))?;
            let id = WorkerId::try_new(name, instance).map_err(corrupt)?;
            let parts: Vec<&str> = seen.split('|').collect();
            let [seen_at, slots, draining] = parts.as_slice() else { return Err(corrupt("a worker")) };
            let (leases, in_intent) = held.get(&text).copied().unwrap_or_default();
            records.push(WorkerRecord {
                id,
                seen_at_ms: parse(seen_at, "a worker")?,
                slots: parse(slots, "a worker")?,
                leases,
                in_intent,
                draining: *draining == "1",
            });
        }
        records.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(records)
    }

    /// Leases, and recipients in intent, by worker.
    async fn held_by(&self, holders: BTreeMap<String, String>) -> Result<HashMap<String, (u32, u32)>> {
        let mut held: HashMap<String, (u32, u32)> = HashMap::new();
        if holders.is_empty() {
            return Ok(held);
        }
        let mut pipe = redis::pipe();
        for id in holders.keys() {
            pipe.cmd("HMGET").arg(self.keys.batch(&parse(id, "a batch id")?)).arg(&["s0", "s1"]);
        }
        let mut answers = self.links.read_bulk(pipe, "states").await?;
        for holder in holders.values() {
            let worker = holder.split('|').nth(1).ok_or_else(|| corrupt("the holder of a lease"))?;
            let (first, second): (Option<String>, Option<String>) = answers.read()?;
            let letters = first.iter().chain(&second).flat_map(|states| states.bytes());
            let (leases, in_intent) = held.entry(worker.to_owned()).or_default();
            *leases += 1;
            *in_intent += letters.filter(|letter| *letter == RecipientState::Intent.letter()).count() as u32;
        }
        Ok(held)
    }

    pub(super) async fn lanes_named(&self, lanes: &[LaneName]) -> Result<Vec<LaneRecord>> {
        if lanes.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for lane in lanes {
            pipe.cmd("SISMEMBER").arg(self.keys.lanes()).arg(lane.as_str());
            pipe.cmd("HGET").arg(self.keys.depth()).arg(lane.as_str());
            pipe.cmd("HGET").arg(self.keys.flight()).arg(format!("L|{lane}"));
        }
        let mut answers = self.links.read_bulk(pipe, "lanes").await?;
        let mut records = Vec::with_capacity(lanes.len());
        for name in lanes.iter().cloned() {
            let paused = answers.read::<u8>()? == 1;
            let mut count = || {
                Ok::<_, crate::StoreError>(
                    answers.read::<Option<i64>>()?.and_then(|n| u64::try_from(n).ok()).unwrap_or(0),
                )
            };
            let (batches_ready, in_intent_limited) = (count()?, count()?);
            records.push(LaneRecord { name, paused, batches_ready, in_intent_limited });
        }
        Ok(records)
    }
}

fn delivery(recipient: Recipient, detail: Option<&String>) -> Delivery {
    Delivery {
        state: recipient.state,
        attempts: recipient.attempts,
        code: recipient.code,
        // Nothing happened to it that is not in a segment: a detail read before that is not this record's.
        detail: detail.filter(|_| recipient.happened).cloned().unwrap_or_default(),
        reason: recipient.reason,
        settled_at_ms: recipient.settled_at_ms,
    }
}
