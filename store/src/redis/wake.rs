//! Hints that work may have become claimable: a counter that grows, bumped by local calls and by messages
//! of the server. A hint may be lost; whoever waits also polls.

use super::failure::{Failure, classify};
use super::keys;
use super::link::CONNECT_TIMEOUT;
use super::locate::Locator;
use futures::StreamExt;
use redis::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Between two tries to subscribe.
const RESUBSCRIBE: Duration = Duration::from_secs(1);

/// A subscription without messages is probed this often.
const PROBE_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Wake {
    counter: Arc<watch::Sender<u64>>,
    listener: JoinHandle<()>,
}

impl Wake {
    pub fn start(locator: Arc<Locator>) -> Self {
        let counter = Arc::new(watch::Sender::new(0));
        let listener = tokio::spawn(listen(locator, Arc::clone(&counter)));
        Self { counter, listener }
    }

    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.counter.subscribe()
    }

    pub fn bump(&self) {
        bump(&self.counter);
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

fn bump(counter: &watch::Sender<u64>) {
    counter.send_modify(|count| *count = count.wrapping_add(1));
}

async fn listen(locator: Arc<Locator>, counter: Arc<watch::Sender<u64>>) {
    loop {
        if let Err(failure) = listen_once(&locator, &counter).await {
            tracing::debug!(?failure, "store notifications are interrupted");
        }
        tokio::time::sleep(RESUBSCRIBE).await;
    }
}

async fn listen_once(locator: &Locator, counter: &watch::Sender<u64>) -> Result<(), Failure> {
    let found = locator.find().await?;
    let connect = async {
        let mut subscription = found.client.get_async_pubsub().await?;
        subscription.subscribe(keys::WAKE_CHANNEL).await?;
        Ok::<_, redis::RedisError>(subscription)
    };
    let late = |_| Failure::Reconnect("no subscription in time".to_owned());
    let subscription = tokio::time::timeout(CONNECT_TIMEOUT, connect).await.map_err(late)?;
    let subscription = subscription.map_err(|error| classify(&error))?;
    // Whatever was said while nobody listened is lost, so have everybody look.
    bump(counter);
    let (mut sink, mut messages) = subscription.split();
    let mut probe = tokio::time::interval_at(Instant::now() + PROBE_EVERY, PROBE_EVERY);
    let moved = locator.moved_from(&found.place);
    tokio::pin!(moved);
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(_) => bump(counter),
                None => return Ok(()),
            },
            // Silence says nothing: the server may have stopped, or have vanished behind the network.
            _ = probe.tick() => {
                let answer = tokio::time::timeout(CONNECT_TIMEOUT, sink.ping::<Value>()).await;
                answer.map_err(|_| Failure::Reconnect("no answer to a probe".to_owned()))?.map_err(|error| classify(&error))?;
            }
            () = &mut moved => return Ok(()),
        }
    }
}
