//! Waiting until what was written is known to replicas.
//!
//! WAIT blocks the connection it is sent on, so it has one of its own, and one WAIT serves all calls that were answered
//! before it was sent. Before it a mark is written: servers differ in whether a connection that wrote nothing waits for
//! what others wrote, and a repeated transition writes nothing. A mark comes after all that was there, and replicas
//! take everything in order.
//!
//! The WAIT counts only when server and history are those that the call wrote to. A primary that was deposed and
//! took the history of another has forgotten the write, and may well have replicas.

use super::failure::{Failure, classify};
use super::keys;
use super::link::{CONNECT_TIMEOUT, RESPONSE_TIMEOUT};
use super::locate::Locator;
use super::preflight;
use crate::error::StoreError;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisResult, Script, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// One WAIT ends after this long, reached or not. Longer than a stall of a replica, short against the deadline of calls.
const WAIT_MS: u64 = 1_000;
const _: () = assert!(WAIT_MS < RESPONSE_TIMEOUT.as_millis() as u64);
/// Allowed when memory is used up: reports of workers must still be replicated.
const MARK: &str = "#!lua flags=allow-oom\nreturn redis.call('SET', KEYS[1], '1')\n";

#[derive(Debug)]
pub(super) struct Replicas {
    wanted: u32,
    locator: Arc<Locator>,
    mark: Script,
    key: String,
    /// Calls that ever asked to wait; each has the number it got.
    asked: AtomicU64,
    waits: Mutex<Waits>,
}

#[derive(Debug, Default)]
struct Waits {
    line: Option<(MultiplexedConnection, String)>,
    /// Up to this call a WAIT ended.
    ended: u64,
    /// And this is how.
    last: Option<Ended>,
}

#[derive(Debug, Clone)]
struct Ended {
    history: String,
    reached: u32,
}

impl Replicas {
    pub fn new(locator: Arc<Locator>, wanted: u32) -> Self {
        let (mark, key) = (Script::new(MARK), keys::mark(locator.tag()));
        Self { wanted, locator, mark, key, asked: AtomicU64::new(0), waits: Mutex::default() }
    }

    /// Returns once all that was answered on `history` before this call is known to as many replicas as are wanted.
    pub async fn wait(&self, history: &str, deadline: Instant) -> Result<(), Failure> {
        let late = |_| Failure::Reconnect("no answer about replicas in time".to_owned());
        loop {
            let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
            let ended = tokio::time::timeout_at(deadline, self.ended(number)).await.map_err(late)??;
            if ended.history != history || history.is_empty() {
                // One of the two is connected to a server that is not the primary any more: both look again.
                self.waits.lock().await.line = None;
                return Err(Failure::Reconnect("the server is not the one that was written to".to_owned()));
            }
            if ended.reached >= self.wanted {
                return Ok(());
            }
            if Instant::now() + Duration::from_millis(WAIT_MS) >= deadline {
                let error = StoreError::NotReplicated { reached: ended.reached, wanted: self.wanted };
                return Err(Failure::Fatal(error));
            }
        }
    }

    /// How a WAIT ended that was sent after `number` was drawn: that of another call, or an own one.
    async fn ended(&self, number: u64) -> Result<Ended, Failure> {
        let mut waits = self.waits.lock().await;
        if let Some(last) = waits.last.as_ref().filter(|_| waits.ended >= number) {
            return Ok(last.clone());
        }
        let covered = self.asked.load(Ordering::SeqCst);
        // Taken, so that it is gone when this is cut off in the middle: its next answer would be that of this WAIT.
        let (mut connection, place) = match waits.line.take() {
            Some(line) => line,
            None => self.connect().await?,
        };
        let ended = tokio::select! {
            ended = self.wait_once(&mut connection) => ended?,
            () = self.locator.moved_from(&place) => {
                return Err(Failure::Reconnect("the primary is another now".to_owned()));
            }
        };
        waits.line = Some((connection, place));
        (waits.ended, waits.last) = (covered, Some(ended.clone()));
        Ok(ended)
    }

    async fn connect(&self) -> Result<(MultiplexedConnection, String), Failure> {
        let found = self.locator.find().await?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let made = found.client.get_multiplexed_async_connection_with_config(&config).await;
        let mut connection = made.map_err(|error| classify(&error))?;
        self.load(&mut connection).await?;
        Ok((connection, found.place))
    }

    async fn load(&self, connection: &mut MultiplexedConnection) -> Result<(), Failure> {
        let loaded: RedisResult<Value> = redis::cmd("SCRIPT").arg("LOAD").arg(MARK).query_async(connection).await;
        loaded.map(drop).map_err(|error| classify(&error))
    }

    async fn wait_once(&self, connection: &mut MultiplexedConnection) -> Result<Ended, Failure> {
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        pipe.cmd("EVALSHA").arg(self.mark.get_hash()).arg(1).arg(&self.key);
        pipe.cmd("WAIT").arg(self.wanted).arg(WAIT_MS);
        pipe.cmd("INFO").arg("replication");
        loop {
            let answers: RedisResult<Vec<Value>> = pipe.query_async(connection).await;
            let mut answers = answers.map_err(|error| classify(&error))?.into_iter().map(Value::extract_error);
            let mut next = || answers.next().unwrap_or(Ok(Value::Nil));
            match next().map_err(|error| classify(&error)) {
                Ok(_) => (),
                Err(Failure::Reload) => {
                    self.load(connection).await?;
                    continue;
                }
                Err(failure) => return Err(failure),
            }
            let reached = next().and_then(|value| Ok(redis::from_redis_value(value)?));
            let info = next().and_then(|value| Ok(redis::from_redis_value::<String>(value)?));
            let info = preflight::lines(&info.map_err(|error| classify(&error))?);
            let reached = reached.map_err(|error| classify(&error))?;
            return Ok(Ended { history: preflight::history(&info), reached });
        }
    }
}
