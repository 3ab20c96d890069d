//! One shard: the part of the store that one script can touch. Everything of a run is in one shard, for life.

use super::keys::Keys;
use super::link::{Answers, Link};
use super::reply::{self, read};
use super::scripts::{Args, Scripts, Transition};
use super::wake::Wake;
use crate::api::Result;
use crate::error::StoreError;
use ::redis::{Cmd, Pipeline, Value};
use postrider_common::mark::Marks;
use postrider_common::pace::Limits;
use std::fmt::Write as _;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// The two ways to the server that holds the keys of a tag.
#[derive(Debug, Clone)]
pub(super) struct Links {
    /// For transitions.
    pub swift: Arc<Link>,
    /// For what is large (payloads in, listings out), so that transitions do not queue behind it.
    pub bulk: Arc<Link>,
}

impl Links {
    pub async fn clock_ms(&self) -> Result<i64> {
        let mut pipe = ::redis::pipe();
        pipe.cmd("TIME");
        let (seconds, micros): (i64, i64) = read(only(self.swift.call(pipe).await?)?, "TIME")?;
        Ok(seconds * 1000 + micros / 1000)
    }

    /// Reads; the answers are elements of one list. (Not as one: MULTI is refused when memory is used up.)
    pub async fn read_bulk(&self, pipe: Pipeline, what: &'static str) -> Result<reply::Elements> {
        let answers = self.bulk.call(pipe).await?;
        let values = answers.into_iter().collect::<Result<Vec<_>>>()?;
        reply::Elements::of(Value::Array(values), what)
    }
}

/// The answer of the last command, when none failed.
pub(super) fn only(answers: Answers) -> Result<Value> {
    let mut last = Err(reply::corrupt("no answer"));
    for answer in answers {
        last = Ok(answer?);
    }
    last
}

/// A call that several shards take part in is repeated in one of them for this long.
const REPEATED_FOR: Duration = Duration::from_secs(1);
/// A shard that is away is asked this often whether it is back.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Ends when the shard answers, or nobody asks for it any more.
async fn probe(number: u16, links: Links, is_away: Weak<AtomicBool>) {
    loop {
        tokio::time::sleep(PROBE_EVERY).await;
        let Some(is_away) = is_away.upgrade() else { return };
        if links.clock_ms().await.is_ok() {
            tracing::info!(shard = number, "a shard is back");
            is_away.store(false, SeqCst);
            return;
        }
    }
}

#[derive(Debug)]
pub(super) struct Shard {
    /// Which one it is, from 0, and of how many.
    pub number: u16,
    pub shards: u16,
    pub keys: Keys,
    pub scripts: Arc<Scripts>,
    pub links: Links,
    pub wake: Arc<Wake>,
    /// It did not answer last time; a probe finds out when it does.
    pub is_away: Arc<AtomicBool>,
    /// Batches set aside since the last reclaim reported them.
    pub set_aside: AtomicU32,
    /// Positions that calls came back with.
    pub seen: Mutex<Marks>,
    /// Some lane or site has a limit, as far as calls said: what ends makes room for others.
    pub is_limited: AtomicBool,
}

impl Shard {
    pub fn limits_text(&self, limits: &Limits) -> String {
        self.is_limited.fetch_or(!limits.is_empty(), SeqCst);
        limits_text(limits, self.shards > 1)
    }

    pub fn script(&self, transition: Transition, own_keys: &[String], args: Args) -> Cmd {
        self.scripts.call(transition, self.keys.all(), own_keys, &args.0)
    }

    /// Calls of this transition. Where others wait for the answer, a shard that is away does not keep them waiting.
    pub async fn call(&self, transition: Transition, pipe: Pipeline) -> Result<Answers> {
        if self.shards == 1 || !transition.is_for_several_shards() {
            return self.links.swift.call(pipe).await;
        }
        if self.is_away.load(SeqCst) {
            return Err(StoreError::Unavailable(format!("shard {} does not answer", self.number)));
        }
        let answers = self.links.swift.call_repeated(pipe, REPEATED_FOR).await;
        if matches!(answers, Err(StoreError::Unavailable(_))) && !self.is_away.swap(true, SeqCst) {
            tracing::warn!(shard = self.number, "a shard is away; the others go on");
            tokio::spawn(probe(self.number, self.links.clone(), Arc::downgrade(&self.is_away)));
        }
        answers
    }

    /// One transition.
    pub async fn run_script(&self, transition: Transition, own_keys: &[String], args: Args) -> Result<Value> {
        let mut pipe = ::redis::pipe();
        pipe.add_command(self.script(transition, own_keys, args));
        only(self.transit(transition, pipe).await?)
    }
}

/// Limits as scripts read them, see `lua/pace.lua`. Empty: none. `shared`: a shard may use its quota of them.
fn limits_text(limits: &Limits, shared: bool) -> String {
    let mut text = String::new();
    if shared && !limits.is_empty() {
        text.push('*');
    }
    let lanes = limits.lanes.iter().map(|(name, limit)| ('L', name.as_str(), limit));
    let sites = limits.sites.iter().map(|(name, limit)| ('S', name.as_str(), limit));
    for (kind, name, limit) in lanes.chain(sites) {
        let (rate, burst) = limit.pace.map_or((0, 0), |pace| (pace.rate.per_hour(), pace.burst));
        // Writing to a text cannot fail.
        let _ = write!(text, ";{kind}|{name}|{rate}|{burst}|{}", limit.concurrency.unwrap_or(0));
    }
    text
}
