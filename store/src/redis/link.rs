//! The way to the server: one multiplexed connection that is remade when it breaks, and calls that are
//! repeated within a deadline. Every call may be repeated, so a lost answer costs a repeat, not a doubt.

use super::asking;
use super::failure::{Failure, classify, into_error};
use super::keys::Tags;
use super::locate::Locator;
use super::preflight::{self, Demands, Topology};
use super::replicas::Replicas;
use super::scripts::{Args, Scripts, Transition};
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
pub(super) const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Longer than a stall of fsync on a busy disk, and short enough for a second try within the deadline.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
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
    /// What a write waits for before it is answered.
    replicas: Option<Replicas>,
    slot: Mutex<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    /// Grows with each connection, so that one broken connection is thrown away once.
    generation: u64,
    line: Option<Line>,
}

/// A connection to a server that was accepted.
#[derive(Debug, Clone)]
struct Line {
    connection: MultiplexedConnection,
    generation: u64,
    place: Arc<str>,
    /// Of the server's data when it was accepted.
    history: Arc<str>,
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
        let replicas = match durability {
            Durability::Replicated { replicas } => Some(Replicas::new(Arc::clone(&locator), replicas)),
            Durability::Always | Durability::Relaxed => None,
        };
        Self { locator, scripts, tags, clock, durability, replicas, slot: Mutex::default() }
    }

    /// Connects and checks the server, once.
    pub async fn open(&self) -> Result<(), StoreError> {
        let deadline = Instant::now() + CALL_DEADLINE;
        match self.acquire(deadline).await {
            Ok(_) => Ok(()),
            Err(Failure::Wait { message, mend, .. }) => Err(StoreError::Unavailable(format!("{message}: {mend}"))),
            Err(failure) => Err(into_error(failure, false)),
        }
    }

    /// Sends the commands and gives their answers, repeating all of them when some were refused for now.
    pub async fn call(&self, pipe: Pipeline) -> Result<Answers, StoreError> {
        self.call_repeated(pipe, CALL_DEADLINE).await
    }

    /// As `call`, but what was refused or got no answer is repeated for this long only.
    pub async fn call_repeated(&self, mut pipe: Pipeline, repeated: Duration) -> Result<Answers, StoreError> {
        pipe.ignore_errors();
        let begun = Instant::now();
        let deadline = begun + CALL_DEADLINE;
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
            if Instant::now() + pause >= begun + repeated.min(CALL_DEADLINE) {
                return Err(into_error(failure, maybe));
            }
            tracing::debug!(?failure, "store call is repeated");
            before = Some(failure);
            tokio::time::sleep(pause).await;
            pause_ms = (pause_ms * 2).min(PAUSE_MS_MAX);
        }
    }

    async fn attempt(&self, pipe: &Pipeline, deadline: Instant, maybe: &mut bool) -> Result<Answers, Failure> {
        let mut line = self.acquire(deadline).await?;
        let failure = match self.ask(pipe, &mut line, deadline, maybe).await {
            Ok(answers) => match self.replicate(pipe, &line, deadline).await {
                Ok(()) => return Ok(answers),
                Err(failure) => {
                    *maybe = true;
                    failure
                }
            },
            Err(failure) => failure,
        };
        match &failure {
            Failure::Reload => {
                self.scripts.load(&mut line.connection).await?;
            }
            Failure::Reconnect(_) => {
                *maybe = true;
                self.drop_line(line.generation).await;
            }
            Failure::Elsewhere { asking: true, .. } => (),
            Failure::Elsewhere { there, asking: false } => {
                self.locator.learn(there, &line.place).await;
                self.drop_line(line.generation).await;
            }
            Failure::Wait { reconnect: true, .. } => self.drop_line(line.generation).await,
            Failure::Wait { reconnect: false, .. } | Failure::Fatal(_) => (),
        }
        Err(failure)
    }

    /// One round trip. It is given up when the server is known to be another by then: one that vanished never answers.
    async fn ask(
        &self,
        pipe: &Pipeline,
        line: &mut Line,
        deadline: Instant,
        maybe: &mut bool,
    ) -> Result<Answers, Failure> {
        let answered = tokio::select! {
            answered = tokio::time::timeout_at(deadline, pipe.query_async::<Vec<Value>>(&mut line.connection)) => answered,
            () = self.locator.moved_from(&line.place) => {
                return Err(Failure::Reconnect("the primary is another now".to_owned()));
            }
        };
        match answered {
            Ok(Ok(values)) if self.may_follow(pipe) => {
                let (locator, scripts) = (&self.locator, &self.scripts);
                sort_answers(asking::follow(locator, scripts, &line.place, pipe, values).await?, maybe)
            }
            Ok(Ok(values)) => sort_answers(values, maybe),
            Ok(Err(error)) if pipe.is_transaction() && self.may_follow(pipe) => {
                let (locator, scripts) = (&self.locator, &self.scripts);
                sort_answers(asking::follow_transaction(locator, scripts, &line.place, pipe, &error).await?, maybe)
            }
            Ok(Err(error)) => Err(classify(&error)),
            Err(_) => Err(Failure::Reconnect("no answer in time".to_owned())),
        }
    }

    /// A write that waits for replicas is not sent to the node that a slot is being moved to: its replicas are others.
    fn may_follow(&self, pipe: &Pipeline) -> bool {
        self.locator.topology() == Topology::Cluster && !(self.replicas.is_some() && self.scripts.may_write(pipe))
    }

    /// Waits for replicas when they are wanted and the call may have written.
    async fn replicate(&self, pipe: &Pipeline, line: &Line, deadline: Instant) -> Result<(), Failure> {
        match &self.replicas {
            Some(replicas) if self.scripts.may_write(pipe) => replicas.wait(&line.history, deadline).await,
            Some(_) | None => Ok(()),
        }
    }

    async fn drop_line(&self, generation: u64) {
        let mut slot = self.slot.lock().await;
        if slot.generation == generation {
            slot.line = None;
        }
    }

    /// The connection, or a new one. Only one caller connects, the others wait for it.
    async fn acquire(&self, deadline: Instant) -> Result<Line, Failure> {
        let no_time = |_| Failure::Reconnect("no connection in time".to_owned());
        let mut slot = tokio::time::timeout_at(deadline, self.slot.lock()).await.map_err(no_time)?;
        if let Some(line) = &slot.line {
            return Ok(line.clone());
        }
        let generation = slot.generation + 1;
        let line = tokio::time::timeout_at(deadline, self.connect(generation)).await.map_err(no_time)??;
        slot.generation = generation;
        slot.line = Some(line.clone());
        if generation > 1 {
            tracing::info!(server = &*line.place, "store connection is remade");
        }
        Ok(line)
    }

    async fn connect(&self, generation: u64) -> Result<Line, Failure> {
        let found = self.locator.find().await?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_pipeline_buffer_size(PIPELINE_BUFFER_REQUESTS);
        let made = found.client.get_multiplexed_async_connection_with_config(&config).await;
        let mut connection = made.map_err(|error| classify(&error))?;
        let is_first = generation == 1;
        let demands = Demands { durability: self.durability, topology: self.locator.topology(), is_first };
        let accepted = preflight::check(&mut connection, &self.tags, demands).await?;
        for weaker in accepted.warnings.iter().filter(|_| is_first) {
            tracing::warn!("store durability is relaxed: {weaker}");
        }
        self.meet(&mut connection, &accepted.run_id).await?;
        Ok(Line { connection, generation, place: found.place.into(), history: accepted.history.into() })
    }

    /// Loads the scripts and tells each shard which server it is on. A server that is full refuses to load even what it has,
    /// so only what is missing then is an error.
    async fn meet(&self, connection: &mut MultiplexedConnection, run_id: &str) -> Result<(), Failure> {
        let loaded = self.scripts.load(connection).await;
        for keys in &self.tags.shards {
            let call =
                self.scripts.call(Transition::Meet, &[], &[keys.shard().to_owned()], &Args::default().text(run_id).0);
            let met: redis::RedisResult<Value> = call.query_async(connection).await;
            match met.map_err(|error| classify(&error)) {
                Ok(_) => (),
                Err(Failure::Reload) => return loaded.and(Err(Failure::Reload)),
                Err(failure) => return Err(failure),
            }
        }
        match loaded {
            Err(Failure::Wait { reconnect: false, .. }) | Ok(()) => Ok(()),
            Err(failure) => Err(failure),
        }
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
