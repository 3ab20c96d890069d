//! One shard: the part of the store that one script can touch. Everything of a run is in one shard, for life.

use super::keys::Keys;
use super::link::{Answers, Link};
use super::reply::{self, read};
use super::scripts::{Args, Scripts, Transition, limits_text};
use super::wake::Wake;
use crate::api::Result;
use crate::error::StoreError;
use ::redis::{Cmd, Pipeline, Value};
use postrider_common::mark::Marks;
use postrider_common::pace::Limits;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};

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

#[derive(Debug)]
pub(super) struct Shard {
    /// Which one it is, from 0, and of how many.
    pub number: u16,
    pub shards: u16,
    pub keys: Keys,
    pub scripts: Arc<Scripts>,
    pub links: Links,
    pub wake: Arc<Wake>,
    /// Batches set aside since the last reclaim reported them.
    pub set_aside: AtomicU32,
    /// Positions that calls came back with.
    pub seen: Mutex<Marks>,
}

impl Shard {
    /// The part of the limits that is this shard's.
    pub fn share(&self, limits: &Limits) -> Result<Limits> {
        let wrong = |message| StoreError::Unsafe { message, mend: "raise the limit, or take it away".to_owned() };
        limits.share(self.number, self.shards).map_err(wrong)
    }

    pub fn limits_text(&self, limits: &Limits) -> Result<String> {
        Ok(limits_text(&self.share(limits)?))
    }

    pub fn script(&self, transition: Transition, own_keys: &[String], args: Args) -> Cmd {
        self.scripts.call(transition, self.keys.all(), own_keys, &args.0)
    }

    /// One transition.
    pub async fn run_script(&self, transition: Transition, own_keys: &[String], args: Args) -> Result<Value> {
        let mut pipe = ::redis::pipe();
        pipe.add_command(self.script(transition, own_keys, args));
        only(self.transit(pipe).await?)
    }
}
