//! Hints that work may have become claimable: a counter that grows, bumped by local calls and by messages
//! of the server. A hint may be lost; whoever waits also polls.

use super::failure::{Failure, classify};
use super::keys;
use super::link::CONNECT_TIMEOUT;
use super::locate::Locator;
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Between two tries to subscribe.
const RESUBSCRIBE: Duration = Duration::from_secs(1);

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
    let client = locator.find().await?;
    let connect = async {
        let mut subscription = client.get_async_pubsub().await?;
        subscription.subscribe(keys::WAKE_CHANNEL).await?;
        Ok::<_, redis::RedisError>(subscription)
    };
    let late = |_| Failure::Reconnect("no subscription in time".to_owned());
    let subscription = tokio::time::timeout(CONNECT_TIMEOUT, connect).await.map_err(late)?;
    let subscription = subscription.map_err(|error| classify(&error))?;
    // Whatever was said while nobody listened is lost, so have everybody look.
    bump(counter);
    // The sink is kept: the connection ends with it.
    let (_sink, mut messages) = subscription.split();
    while messages.next().await.is_some() {
        bump(counter);
    }
    Ok(())
}
