//! Who is primary, by what the sentinels say.
//!
//! Each says an address and the epoch of its configuration. A majority is waited for, and the highest epoch wins: a
//! sentinel that was cut off answers with what was true before. The role of the server found is checked by the link.

use super::super::failure::{Failure, classify};
use super::super::link::CONNECT_TIMEOUT;
use super::ASK_TIMEOUT;
use super::access::{Named, Servers};
use crate::error::StoreError;
use crate::url::{Node, NodesUrl};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use redis::{AsyncConnectionConfig, RedisResult, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Between two tries to listen to a sentinel.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);
const SWITCHED: &str = "+switch-master";

/// What one sentinel says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Says {
    primary: Node,
    epoch: u64,
}

/// Asks all sentinels at once, and answers when most have.
pub(super) async fn primary(servers: &Servers, url: &NodesUrl, service: &str) -> Result<Node, Failure> {
    let mut asking: FuturesUnordered<_> = url.nodes.iter().map(|node| ask(servers, url, node, service)).collect();
    let mut heard = Vec::new();
    let (mut strangers, mut failure) = (0, None);
    while let Some(answer) = asking.next().await {
        match answer {
            Ok(Some(says)) => heard.push(says),
            Ok(None) => strangers += 1,
            Err(fatal @ Failure::Fatal(_)) => return Err(fatal),
            Err(other) => failure = Some(other),
        }
        if heard.len() > url.nodes.len() / 2 {
            break;
        }
    }
    match (newest(heard), failure) {
        (Some(primary), _) => Ok(primary),
        (None, Some(failure)) => Err(failure),
        (None, None) if strangers > 0 => {
            let wrong = format!("no sentinel knows the service '{service}': give the name of `sentinel monitor`");
            Err(Failure::Fatal(StoreError::Url(wrong)))
        }
        (None, None) => Err(Failure::Reconnect("no sentinel answers".to_owned())),
    }
}

/// The address with the highest epoch.
fn newest(heard: Vec<Says>) -> Option<Node> {
    heard.into_iter().max_by_key(|says| says.epoch).map(|says| says.primary)
}

/// None: it does not know the service.
async fn ask(servers: &Servers, url: &NodesUrl, node: &Node, service: &str) -> Result<Option<Says>, Failure> {
    let late = |_| Failure::Reconnect(format!("the sentinel {node} does not answer in time"));
    tokio::time::timeout(ASK_TIMEOUT, ask_patiently(servers, url, node, service)).await.map_err(late)?
}

async fn ask_patiently(servers: &Servers, url: &NodesUrl, node: &Node, service: &str) -> Result<Option<Says>, Failure> {
    let client = servers.sentinel_client(url, node).map_err(Failure::Fatal)?;
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(ASK_TIMEOUT)).set_response_timeout(Some(ASK_TIMEOUT));
    let made = client.get_multiplexed_async_connection_with_config(&config).await;
    let mut connection = made.map_err(|error| refused(&error, node))?;
    let mut pipe = redis::pipe();
    pipe.ignore_errors();
    pipe.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(service);
    pipe.cmd("SENTINEL").arg("MASTER").arg(service);
    let answers: RedisResult<Vec<Value>> = pipe.query_async(&mut connection).await;
    let mut answers = answers.map_err(|error| refused(&error, node))?.into_iter();
    let (address, state) = (answers.next().unwrap_or(Value::Nil), answers.next().unwrap_or(Value::Nil));
    let address = address.extract_error().map_err(|error| refused(&error, node))?;
    let Ok(Some((host, port))) = redis::from_redis_value::<Option<(String, u16)>>(address) else { return Ok(None) };
    let state = state.extract_error().map_err(|error| refused(&error, node))?;
    let state: BTreeMap<String, String> = redis::from_redis_value(state).unwrap_or_default();
    let epoch = state.get("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    Ok(Some(Says { primary: Node { host, port }, epoch }))
}

/// A refusal of a sentinel is mended at the sentinel.
fn refused(error: &redis::RedisError, node: &Node) -> Failure {
    match classify(error) {
        Failure::Fatal(StoreError::Unsafe { message, mend }) if error.is_io_error() => {
            Failure::Fatal(StoreError::Unsafe { message: format!("the sentinel {node}: {message}"), mend })
        }
        Failure::Fatal(StoreError::Unsafe { message, .. }) => Failure::Fatal(StoreError::Unsafe {
            message: format!("the sentinel {node}: {message}"),
            mend: "give what it asks for as ?sentinel_user=…&sentinel_password=… in the store URL, and allow that \
                   user +sentinel|get-master-addr-by-name +sentinel|master +subscribe +ping and the channel \
                   +switch-master"
                .to_owned(),
        }),
        Failure::Fatal(StoreError::Corrupt(message)) => Failure::Fatal(StoreError::Url(format!(
            "{node} is not a sentinel ({message}): name sentinels, or use redis://"
        ))),
        Failure::Reconnect(message) => Failure::Reconnect(format!("the sentinel {node}: {message}")),
        other => other,
    }
}

/// Tells `known` where the primary is whenever the sentinel says that it was switched. A hint: it only makes links
/// look sooner.
pub(super) async fn listen(servers: Arc<Servers>, node: Node, known: watch::Sender<String>) {
    let Named::Group(url) = &servers.named else { return };
    let crate::url::Group::Sentinels { service, .. } = &url.group else { return };
    loop {
        if let Err(error) = listen_once(&servers, url, &node, service, &known).await {
            tracing::debug!(sentinel = %node, %error, "sentinel notifications are interrupted");
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}

async fn listen_once(
    servers: &Servers,
    url: &NodesUrl,
    node: &Node,
    service: &str,
    known: &watch::Sender<String>,
) -> RedisResult<()> {
    let wrong = |error: StoreError| redis::RedisError::from(std::io::Error::other(error.to_string()));
    let client = servers.sentinel_client(url, node).map_err(wrong)?;
    let connect = async {
        let mut subscription = client.get_async_pubsub().await?;
        subscription.subscribe(SWITCHED).await?;
        Ok::<_, redis::RedisError>(subscription)
    };
    let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
    let (_sink, mut messages) = tokio::time::timeout(CONNECT_TIMEOUT, connect).await.map_err(late)??.split();
    while let Some(message) = messages.next().await {
        if let Some(primary) = switched(&message.get_payload::<String>().unwrap_or_default(), service) {
            tracing::info!(service, %primary, "sentinels switched the primary");
            known.send_replace(primary.to_string());
        }
    }
    Ok(())
}

/// The new primary, of `SERVICE OLD-HOST OLD-PORT NEW-HOST NEW-PORT`.
fn switched(payload: &str, service: &str) -> Option<Node> {
    let words: Vec<&str> = payload.split(' ').collect();
    let [name, _, _, host, port] = words[..] else { return None };
    (name == service).then_some(())?;
    Some(Node { host: host.to_owned(), port: port.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(port: u16) -> Node {
        Node { host: "h".to_owned(), port }
    }

    #[test]
    fn the_highest_epoch_wins() {
        let says = |port, epoch| Says { primary: node(port), epoch };
        assert_eq!(newest(vec![says(1, 4), says(2, 5), says(1, 4)]), Some(node(2)));
        assert_eq!(newest(Vec::new()), None);
    }

    #[test]
    fn a_switch_of_another_service_is_none() {
        assert_eq!(switched("mail h 1 h 2", "mail"), Some(node(2)));
        assert_eq!(switched("other h 1 h 2", "mail"), None);
        assert_eq!(switched("mail h 1 h", "mail"), None);
    }
}
