//! What is not of one shard: campaigns, message definitions, the schema, the number of shards. Its keys have the tag
//! `{g}`.

use super::link::Answers;
use super::scripts::{Args, Scripts, Transition};
use super::shard::{Links, only};
use crate::api::Result;
use redis::Value;
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Global {
    pub scripts: Arc<Scripts>,
    pub links: Links,
}

impl Global {
    /// One transition.
    pub async fn run_script(&self, transition: Transition, own_keys: &[String], args: Args) -> Result<Value> {
        let mut pipe = redis::pipe();
        pipe.add_command(self.scripts.call(transition, &[], own_keys, &args.0));
        let answers: Answers = self.links.swift.call(pipe).await?;
        only(answers)
    }
}
