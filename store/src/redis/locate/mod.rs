//! Where the server of a shard is. One tag is one slot, and so one server at a time.
//!
//! A server that a URL names alone is where it is. Of sentinels and of nodes of a cluster we ask at each connect, and
//! believe nobody for longer than a connection lasts: what they answer is checked by the role of the server found. The
//! client library follows neither; its general cluster client is not needed, since a link speaks of one slot.

mod access;
mod cluster;
mod sentinel;

pub(super) use access::Servers;

use super::failure::Failure;
use super::preflight::Topology;
use crate::url::{Group, Node, NodesUrl};
use access::Named;
use redis::Client;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

/// Whoever is asked where a server is answers within this, or the next one is asked.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// Finds the server that holds the keys of one hash tag. Links and listeners of the tag share it.
#[derive(Debug)]
pub(super) struct Locator {
    servers: Arc<Servers>,
    tag: String,
    slot: u16,
    /// The place that was found or heard of last. Empty: none yet.
    known: watch::Sender<String>,
    asked: Mutex<Asked>,
    /// Listen to the sentinels.
    listeners: Vec<JoinHandle<()>>,
}

/// What is remembered from one question to the next.
#[derive(Debug, Default)]
struct Asked {
    /// Of a cluster: all nodes that were heard of.
    nodes: Vec<Node>,
    /// Who is asked first.
    first: usize,
    /// The owner that the cluster itself just named. Believed once.
    moved: Option<Node>,
}

/// A server to connect to.
#[derive(Debug)]
pub(super) struct Found {
    pub client: Client,
    /// `host:port`; empty when the URL names one server.
    pub place: String,
}

impl Locator {
    /// `tag` with its braces, such as `{s0}`.
    pub fn new(servers: &Arc<Servers>, tag: &str) -> Arc<Self> {
        let known = watch::Sender::new(String::new());
        let (mut asked, mut listeners) = (Asked::default(), Vec::new());
        if let Named::Group(url) = &servers.named {
            match &url.group {
                Group::Cluster => asked.nodes = url.nodes.clone(),
                Group::Sentinels { .. } => {
                    let listen =
                        |node: &Node| tokio::spawn(sentinel::listen(Arc::clone(servers), node.clone(), known.clone()));
                    listeners = url.nodes.iter().map(listen).collect();
                }
            }
        }
        let slot = cluster::slot(tag);
        Arc::new(Self {
            servers: Arc::clone(servers),
            tag: tag.to_owned(),
            slot,
            known,
            asked: Mutex::new(asked),
            listeners,
        })
    }

    pub fn tag(&self) -> &str {
        &self.tag
    }

    pub fn topology(&self) -> Topology {
        match &self.servers.named {
            Named::One(_) => Topology::One,
            Named::Group(NodesUrl { group: Group::Cluster, .. }) => Topology::Cluster,
            Named::Group(NodesUrl { group: Group::Sentinels { .. }, .. }) => Topology::Sentinels,
        }
    }

    /// Who to connect to now.
    pub async fn find(&self) -> Result<Found, Failure> {
        let url = match &self.servers.named {
            Named::One(client) => return Ok(Found { client: client.clone(), place: String::new() }),
            Named::Group(url) => url,
        };
        let node = match &url.group {
            Group::Sentinels { service, .. } => sentinel::primary(&self.servers, url, service).await?,
            Group::Cluster => self.owner(url).await?,
        };
        let place = node.to_string();
        self.known.send_if_modified(|known| {
            let is_news = *known != place;
            known.clone_from(&place);
            is_news
        });
        Ok(Found { client: self.servers.client(url, &node).map_err(Failure::Fatal)?, place })
    }

    /// Ends once the server is known to be another than the one at `place`.
    pub async fn moved_from(&self, place: &str) {
        let mut known = self.known.subscribe();
        let is_another = |known: &String| !known.is_empty() && known != place;
        if place.is_empty() || known.wait_for(is_another).await.is_err() {
            // It stays where it is.
            std::future::pending::<()>().await;
        }
    }

    /// A node said that the slot is there now. The host is left out when it is that of the node at `place`.
    pub async fn learn(&self, there: &str, place: &str) {
        self.asked.lock().await.moved = cluster::redirected(there, place);
    }

    /// A client for the node that a redirection names, for one call.
    pub fn at(&self, there: &str, place: &str) -> Result<Client, Failure> {
        let wrong = || Failure::Reconnect(format!("a redirection to {there}"));
        match (&self.servers.named, cluster::redirected(there, place)) {
            (Named::Group(url), Some(node)) => self.servers.client(url, &node).map_err(Failure::Fatal),
            _ => Err(wrong()),
        }
    }

    /// The owner of the slot, from the first node that answers.
    async fn owner(&self, url: &NodesUrl) -> Result<Node, Failure> {
        let mut asked = self.asked.lock().await;
        if let Some(node) = asked.moved.take() {
            return Ok(node);
        }
        let mut failure = Failure::Reconnect("the store URL names no node".to_owned());
        for _ in 0..asked.nodes.len() {
            let node = asked.nodes[asked.first % asked.nodes.len()].clone();
            // Another one is asked next time: this one may be cut off from the others and not know it.
            asked.first = asked.first.wrapping_add(1);
            let answer = tokio::time::timeout(ASK_TIMEOUT, cluster::slots(&self.servers, url, &node)).await;
            match answer.unwrap_or_else(|_| Err(Failure::Reconnect(format!("{node} does not answer in time")))) {
                Ok(slots) => {
                    for known in slots.nodes() {
                        if !asked.nodes.contains(known) && asked.nodes.len() < cluster::NODES_MAX {
                            asked.nodes.push(known.clone());
                        }
                    }
                    if let Some(owner) = slots.owner(self.slot) {
                        return Ok(owner.clone());
                    }
                    failure = cluster::uncovered(self.slot);
                }
                Err(fatal @ Failure::Fatal(_)) => return Err(fatal),
                Err(other) => failure = other,
            }
        }
        Err(failure)
    }
}

impl Drop for Locator {
    fn drop(&mut self) {
        for listener in &self.listeners {
            listener.abort();
        }
    }
}
