//! Which node of a cluster owns a slot, by what a node says.

use super::super::failure::{Failure, classify};
use super::ASK_TIMEOUT;
use super::access::Servers;
use crate::error::StoreError;
use crate::url::{Node, NodesUrl};
use redis::{AsyncConnectionConfig, Value};

/// Slots of a cluster, and the polynomial of the checksum that spreads keys over them (CRC-16/XMODEM).
const SLOTS: u16 = 16384;
const POLYNOMIAL: u16 = 0x1021;
/// Nodes that are remembered. A cluster has at most a thousand.
pub(super) const NODES_MAX: usize = 1000;

/// The slot of a hash tag, given with its braces.
pub(super) fn slot(tag: &str) -> u16 {
    let hashed = tag.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(tag);
    let mut sum = 0u16;
    for byte in hashed.bytes() {
        sum ^= u16::from(byte) << 8;
        for _ in 0..8 {
            sum = if sum & 0x8000 == 0 { sum << 1 } else { (sum << 1) ^ POLYNOMIAL };
        }
    }
    sum % SLOTS
}

/// Who owns what, as one node sees it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Slots {
    /// First slot, last slot, primary.
    ranges: Vec<(u16, u16, Node)>,
}

impl Slots {
    pub fn owner(&self, slot: u16) -> Option<&Node> {
        self.ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&slot)).map(|(_, _, node)| node)
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.ranges.iter().map(|(_, _, node)| node)
    }
}

/// Asks a node.
pub(super) async fn slots(servers: &Servers, url: &NodesUrl, node: &Node) -> Result<Slots, Failure> {
    let client = servers.client(url, node).map_err(Failure::Fatal)?;
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(ASK_TIMEOUT)).set_response_timeout(Some(ASK_TIMEOUT));
    let made = client.get_multiplexed_async_connection_with_config(&config).await;
    let mut connection = made.map_err(|error| refused(&error, node))?;
    let answer = redis::cmd("CLUSTER").arg("SLOTS").query_async::<Value>(&mut connection).await;
    Ok(parse(&answer.map_err(|error| refused(&error, node))?, node))
}

fn refused(error: &redis::RedisError, node: &Node) -> Failure {
    match classify(error) {
        Failure::Fatal(StoreError::Corrupt(message)) => Failure::Fatal(StoreError::Unsafe {
            message: format!("{node} is not a node of a cluster: {message}"),
            mend: "use redis:// for a server alone, or set cluster-enabled yes".to_owned(),
        }),
        Failure::Reconnect(message) => Failure::Reconnect(format!("the node {node}: {message}")),
        other => other,
    }
}

/// The answer of CLUSTER SLOTS: `[[first, last, [host, port, …], replica…], …]`. A host that is absent or `?` is the
/// one that was asked.
fn parse(answer: &Value, asked: &Node) -> Slots {
    let Value::Array(ranges) = answer else { return Slots::default() };
    Slots { ranges: ranges.iter().filter_map(|range| range_of(range, asked)).collect() }
}

fn range_of(range: &Value, asked: &Node) -> Option<(u16, u16, Node)> {
    let Value::Array(parts) = range else { return None };
    let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = &parts[..] else { return None };
    let [host, Value::Int(port), ..] = &primary[..] else { return None };
    let host: Option<String> = redis::from_redis_value_ref(host).ok()?;
    let host = host.filter(|host| !matches!(host.as_str(), "" | "?")).unwrap_or_else(|| asked.host.clone());
    let node = Node { host, port: u16::try_from(*port).ok().filter(|port| *port > 0)? };
    Some((u16::try_from(*first).ok()?, u16::try_from(*last).ok()?, node))
}

/// The node that `MOVED slot there` or `ASK slot there` names, told by the node at `place`.
pub(super) fn redirected(there: &str, place: &str) -> Option<Node> {
    let node = Node::parse(there)?;
    if matches!(node.host.as_str(), "" | "?") {
        return Some(Node { host: Node::parse(place)?.host, ..node });
    }
    Some(node)
}

pub(super) fn uncovered(slot: u16) -> Failure {
    Failure::Wait {
        message: format!("CLUSTERDOWN no node owns slot {slot}"),
        mend: "wait until the cluster is up",
        reconnect: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_servers() {
        // As CLUSTER KEYSLOT says.
        for (tag, expected) in [("{123456789}", 12739), ("{foo}", 12182), ("{user1000}", 3443)] {
            assert_eq!(slot(tag), expected, "{tag}");
        }
    }

    #[test]
    fn the_owner_of_a_slot_is_read_and_what_is_unreadable_left_out() {
        let text = |text: &str| Value::BulkString(text.into());
        let primary = |host: Value, port| Value::Array(vec![host, Value::Int(port), text("id")]);
        let range = |first, last, primary| Value::Array(vec![Value::Int(first), Value::Int(last), primary]);
        let answer = Value::Array(vec![
            range(0, 99, primary(text("a"), 7000)),
            range(100, 199, primary(Value::Nil, 7001)),
            range(200, 299, primary(text("b"), -1)),
            Value::Nil,
        ]);
        let node = |host: &str, port| Node { host: host.to_owned(), port };
        let slots = parse(&answer, &node("asked", 1));
        assert_eq!(slots.owner(99), Some(&node("a", 7000)));
        assert_eq!(slots.owner(100), Some(&node("asked", 7001)));
        assert_eq!((slots.owner(250), slots.nodes().count()), (None, 2));
    }

    #[test]
    fn a_redirection_without_a_host_stays_on_the_host() {
        let node = |host: &str, port| Some(Node { host: host.to_owned(), port });
        assert_eq!(redirected("10.0.0.1:7001", "10.0.0.9:7000"), node("10.0.0.1", 7001));
        assert_eq!(redirected(":7001", "10.0.0.9:7000"), node("10.0.0.9", 7001));
        assert_eq!(redirected("nonsense", "10.0.0.9:7000"), None);
    }
}
