//! The way to the server: one multiplexed connection that is remade when it breaks, and calls that are
//! repeated within a deadline. Every call may be repeated, so a lost answer costs a repeat, not a doubt.

use super::failure::{Failure, classify, into_error};
use super::keys::Tags;
use super::locate::Locator;
use super::preflight;
use super::scripts::Scripts;
use crate::error::StoreError;
use crate::open::Durability;
use postrider_common::Clock;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Pipeline, Value};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// A call is repeated for this long before the caller gets an error.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Longer than a stall of fsync on a busy disk, and short enough for a second try within the deadline.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Requests that may wait to be written. Beyond it callers wait.
const PIPELINE_BUFFER_REQUESTS: usize = 1024;
/// Pause before the second try; doubles up to the longest.
const PAUSE_MS_FIRST: u64 = 20;
const PAUSE_MS_MAX: u64 = 500;

#[derive(Debug)]
pub(super) struct Link {
    locator: Arc<Locator>,
    scripts: Arc<Scripts>,
    /// Whose keys are reached through it.
    tags: Arc<Tags>,
    clock: Arc<dyn Clock>,
    durability: Durability,
    slot: Mutex<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    /// Grows with each connection, so that one broken connection is thrown away once.
    generation: u64,
    connection: Option<MultiplexedConnection>,
}

/// What a server answered to the commands of one pipeline, in order.
pub(super) type Answers = Vec<Result<Value, StoreError>>;

impl Link {
    pub fn new(
        locator: Arc<Locator>,
        scripts: Arc<Scripts>,
        tags: Arc<Tags>,
        durability: Durability,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { locator, scripts, tags, clock, durability, slot: Mutex::default() }
    }

    /// Connects and checks the server, once.
    pub async fn open(&self) -> Result<(), StoreError> {
        let deadline = Instant::now() + CALL_DEADLINE;
        match self.acquire(deadline).await {
            Ok(_) => Ok(()),
            Err(Failure::Wait { message, .. }) => Err(StoreError::Unavailable(message)),
            Err(failure) => Err(into_error(failure, false)),
        }
    }

    /// Sends the commands and gives their answers, repeating all of them when some were refused for now.
    pub async fn call(&self, mut pipe: Pipeline) -> Result<Answers, StoreError> {
        pipe.ignore_errors();
        let deadline = Instant::now() + CALL_DEADLINE;
        let mut pause_ms = PAUSE_MS_FIRST;
        let mut maybe = false;
        let mut before = None;
        loop {
            let failure = match self.attempt(&pipe, deadline, &mut maybe).await {
                Ok(answers) => return Ok(answers),
                Err(Failure::Fatal(error)) => return Err(error),
                Err(failure) => failure,
            };
            // The end of the deadline says less than what went wrong before it.
            let failure = if Instant::now() < deadline { failure } else { before.take().unwrap_or(failure) };
            let jitter = self.clock.random() % (pause_ms / 2 + 1);
            let pause = Duration::from_millis(pause_ms / 2 + jitter);
            if Instant::now() + pause >= deadline {
                return Err(into_error(failure, maybe));
            }
            tracing::debug!(?failure, "store call is repeated");
            before = Some(failure);
            tokio::time::sleep(pause).await;
            pause_ms = (pause_ms * 2).min(PAUSE_MS_MAX);
        }
    }

    async fn attempt(&self, pipe: &Pipeline, deadline: Instant, maybe: &mut bool) -> Result<Answers, Failure> {
        let (generation, mut connection) = self.acquire(deadline).await?;
        let query = pipe.query_async::<Vec<Value>>(&mut connection);
        let failure = match tokio::time::timeout_at(deadline, query).await {
            Ok(Ok(values)) => match sort_answers(values, maybe) {
                Ok(answers) => return Ok(answers),
                Err(failure) => failure,
            },
            Ok(Err(error)) => classify(&error),
            Err(_) => Failure::Reconnect("no answer in time".to_owned()),
        };
        match &failure {
            Failure::Reload => {
                let load: redis::RedisResult<()> = self.scripts.load().query_async(&mut connection).await;
                load.map_err(|error| classify(&error))?;
            }
            Failure::Reconnect(_) => {
                *maybe = true;
                self.drop_connection(generation).await;
            }
            Failure::Wait { reconnect: true, .. } => self.drop_connection(generation).await,
            Failure::Wait { reconnect: false, .. } | Failure::Fatal(_) => (),
        }
        Err(failure)
    }

    async fn drop_connection(&self, generation: u64) {
        let mut slot = self.slot.lock().await;
        if slot.generation == generation {
            slot.connection = None;
        }
    }

    /// The connection, or a new one. Only one caller connects, the others wait for it.
    async fn acquire(&self, deadline: Instant) -> Result<(u64, MultiplexedConnection), Failure> {
        let no_time = |_| Failure::Reconnect("no connection in time".to_owned());
        let mut slot = tokio::time::timeout_at(deadline, self.slot.lock()).await.map_err(no_time)?;
        if let Some(connection) = &slot.connection {
            return Ok((slot.generation, connection.clone()));
        }
        let first = slot.generation == 0;
        let made = tokio::time::timeout_at(deadline, self.connect(first)).await.map_err(no_time)??;
        slot.generation += 1;
        slot.connection = Some(made.clone());
        if !first {
            tracing::info!("store connection is remade");
        }
        Ok((slot.generation, made))
    }

    async fn connect(&self, first: bool) -> Result<MultiplexedConnection, Failure> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_pipeline_buffer_size(PIPELINE_BUFFER_REQUESTS);
        let client = self.locator.find().await?;
        let made = client.get_multiplexed_async_connection_with_config(&config).await;
        let mut connection = made.map_err(|error| classify(&error))?;
        let warnings = preflight::check(&mut connection, &self.tags, self.durability, first).await?;
        for weaker in warnings.iter().filter(|_| first) {
            tracing::warn!("store durability is relaxed: {weaker}");
        }
        let load: redis::RedisResult<()> = self.scripts.load().query_async(&mut connection).await;
        load.map_err(|error| classify(&error))?;
        Ok(connection)
    }
}

/// Answers by command, or the failure that makes all of them be asked again.
fn sort_answers(values: Vec<Value>, maybe: &mut bool) -> Result<Answers, Failure> {
    let mut answers = Vec::with_capacity(values.len());
    let mut again = None;
    for value in values {
        match value.extract_error() {
            Ok(value) => answers.push(Ok(value)),
            Err(error) => match classify(&error) {
                Failure::Fatal(error) => answers.push(Err(error)),
                failure => again = Some(failure),
            },
        }
    }
    match again {
        Some(failure) => {
            *maybe |= !answers.is_empty();
            Err(failure)
        }
        None => Ok(answers),
    }
}
