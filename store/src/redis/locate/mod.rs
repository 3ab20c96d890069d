//! Where the server of a shard is. One tag is one slot, and so one server at a time.

mod access;

pub(super) use access::Servers;

use super::failure::Failure;
use redis::Client;
use std::sync::Arc;

/// Finds the server that holds the keys of one hash tag. Links and listeners of the tag share it.
#[derive(Debug)]
pub(super) struct Locator {
    servers: Arc<Servers>,
    tag: String,
}

impl Locator {
    /// `tag` with its braces, such as `{s0}`.
    pub fn new(servers: &Arc<Servers>, tag: &str) -> Arc<Self> {
        Arc::new(Self { servers: Arc::clone(servers), tag: tag.to_owned() })
    }

    /// Who to connect to now.
    pub async fn find(&self) -> Result<Client, Failure> {
        tracing::trace!(tag = self.tag, "looking for the server");
        Ok(self.servers.fixed())
    }
}
