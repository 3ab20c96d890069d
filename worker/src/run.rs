//! The worker's loop: events in, effects out. It moves bytes and timers, and decides nothing.

use crate::config::{RelayConfig, WorkerConfig, WorkerError};
use crate::definition::{Batch, Definition, Definitions, prepare};
use crate::dispatch::{CallError, Dispatch, GrpcDispatch, Reported};
use crate::engine::{Call, CallId, Effect, Endpoint, Engine, EngineConfig, Event, Fetched, LeaseKey, Offer};
use crate::fields::{self, Fetcher};
use crate::journal::{self, Journal};
use crate::metrics::Metrics;
use crate::sabotage::{Sabotage, Started};
use crate::send::{Hold, Pool, PoolConfig, Told};
use postrider_common::clock::Clock;
use postrider_common::ids::{DefinitionHash, LaneName, WorkerId};
use postrider_common::lease::FactStatus;
use postrider_common::limits::LEASES_PER_CALL_MAX;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};

/// Answers of calls and words of pools waiting for the loop; whoever sends waits when it is full.
const INBOX_MAX: usize = 1024;
/// For the last call of a worker that ends.
const LEAVE_MAX: Duration = Duration::from_secs(1);
/// The loop looks up at least this often, since its timers do not count while the machine sleeps.
const TICK_MS_MAX: u64 = 1_000;

/// Works until `stop` completes or a master says to drain; then hands everything back and returns.
///
/// Errors: a configuration that cannot be used; leases that no master took back while stopping.
pub async fn run(
    config: WorkerConfig,
    clock: Arc<dyn Clock>,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), WorkerError> {
    config.check()?;
    let instance = instance(clock.as_ref());
    let worker = WorkerId::try_new(&config.name, &instance.to_string())
        .map_err(|error| WorkerError::config("worker.name", error.to_string()))?;
    tracing::info!(%worker, masters = ?config.masters, slots = config.slots, "worker started");
    let dispatch = Arc::new(GrpcDispatch::new(worker, &config.masters)?);
    run_with(config, dispatch, instance, clock, stop).await
}

/// A version 4 UUID from the clock's randomness.
fn instance(clock: &dyn Clock) -> uuid::Uuid {
    let bits = (u128::from(clock.random()) << 64) | u128::from(clock.random());
    uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
}

/// As `run`, with another way to the masters.
pub async fn run_with(
    config: WorkerConfig,
    dispatch: Arc<dyn Dispatch>,
    instance: uuid::Uuid,
    clock: Arc<dyn Clock>,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), WorkerError> {
    config.check()?;
    let mut stop = std::pin::pin!(stop);
    let mut journal = None;
    // Ends with this worker: what is not told then is left for the next one.
    let mut telling = JoinSet::new();
    if let Some(folder) = &config.journal {
        let opened = journal::open(folder, &instance.simple().to_string(), &journal::boot_id());
        let (ours, left) = opened.map_err(|why| WorkerError::Journal { folder: folder.clone(), why })?;
        journal = Some(Arc::new(ours));
        let (reached, told) = oneshot::channel();
        telling.spawn(journal::tell(left, dispatch.clone(), clock.clone(), reached));
        tokio::select! {
            _ = told => {}
            () = &mut stop => return Ok(()),
        }
    }
    let metrics = Metrics::default();
    let fetcher = Fetcher::new(&config.outgoing, clock.clone(), metrics.clone())
        .map_err(|error| WorkerError::config("outgoing", error.to_string()))?;
    // Ends with this worker, too.
    let mut serving = JoinSet::new();
    if let Some(address) = config.http_listen {
        let listener = tokio::net::TcpListener::bind(address).await;
        let listener = listener.map_err(|why| WorkerError::Listen { address, why })?;
        let router = metrics.router();
        serving.spawn(async move { axum::serve(listener, router).await });
    }
    let (inbox, events) = mpsc::channel(INBOX_MAX);
    let (told, words) = mpsc::channel(INBOX_MAX + config.slots as usize);
    let sabotage = Sabotage::from_env();
    let mut pools = Vec::new();
    for (index, relay) in config.relays.iter().enumerate() {
        let pool = PoolConfig::new(&config, index, relay)?;
        pools.push(Pool::start(pool, config.slots as usize, clock.clone(), told.clone()));
    }
    let plans = config.relays.iter().map(RelayConfig::plan).collect::<Result<_, _>>()?;
    let engine = Engine::new(EngineConfig {
        instance: instance.simple().to_string(),
        slots: config.slots,
        lanes: config.lanes.clone(),
        reserve: config.reserve.clone(),
        relays: plans,
        drain_timeout_ms: u64::try_from(config.drain_timeout.as_millis()).unwrap_or(u64::MAX / 4),
    });
    let shell = Shell {
        pools,
        engine,
        dispatch,
        clock,
        inbox,
        fetcher,
        metrics,
        definitions: Definitions::default(),
        holds: BTreeMap::new(),
        journal,
        lease_call: None,
        last_key: 0,
        slots: config.slots,
        reserved: config.reserve.iter().filter(|(_, slots)| **slots > 0).map(|(lane, _)| lane.clone()).collect(),
        sabotage,
    };
    shell.run(events, words, stop).await
}

/// What the tasks of calls send to the loop.
enum Inbound {
    Leased { event: Event, batches: Vec<(LeaseKey, Batch)>, definitions: Vec<(DefinitionHash, Arc<Definition>)> },
    Event(Event),
}

struct Shell {
    engine: Engine,
    dispatch: Arc<dyn Dispatch>,
    clock: Arc<dyn Clock>,
    pools: Vec<Pool>,
    inbox: mpsc::Sender<Inbound>,
    fetcher: Fetcher,
    metrics: Metrics,
    definitions: Definitions,
    holds: BTreeMap<LeaseKey, Arc<Hold>>,
    journal: Option<Arc<Journal>>,
    lease_call: Option<AbortHandle>,
    last_key: u64,
    slots: u32,
    /// Lanes with slots of their own.
    reserved: BTreeSet<LaneName>,
    sabotage: Sabotage,
}

impl Shell {
    async fn run(
        mut self,
        mut events: mpsc::Receiver<Inbound>,
        mut words: mpsc::Receiver<Told>,
        mut stop: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<(), WorkerError> {
        let mut is_stopping = false;
        loop {
            let now = self.clock.boot_ms();
            let wait_ms = self.engine.next_wake_ms(now).saturating_sub(now).min(TICK_MS_MAX);
            let event = tokio::select! {
                () = &mut stop, if !is_stopping => {
                    is_stopping = true;
                    tracing::info!(leases = self.engine.leases_held(), "draining");
                    Some(Event::Stop)
                }
                Some(inbound) = events.recv() => self.inbound(inbound),
                Some(told) = words.recv() => self.told(told),
                () = tokio::time::sleep(Duration::from_millis(wait_ms)) => Some(Event::Tick),
            };
            let Some(event) = event else { continue };
            for effect in self.engine.handle(self.clock.boot_ms(), event) {
                if let Effect::Exit { leases_held } = effect {
                    self.journal.iter().for_each(|journal| journal.close());
                    self.leave_relays().await;
                    return match leases_held {
                        0 => Ok(()),
                        leases => Err(WorkerError::NotHandedBack { leases }),
                    };
                }
                self.perform(effect);
            }
        }
    }

    fn inbound(&mut self, inbound: Inbound) -> Option<Event> {
        let (event, batches) = match inbound {
            Inbound::Event(event) => return Some(event),
            Inbound::Leased { event, batches, definitions } => {
                for (hash, definition) in definitions {
                    self.definitions.keep(hash, definition);
                }
                (event, batches)
            }
        };
        for (key, batch) in batches {
            let is_reserved = self.reserved.contains(&batch.lane);
            self.holds.insert(key, Arc::new(Hold::new(key, batch, is_reserved, self.journal.clone())));
        }
        if let Event::Leased { offers, .. } = &event {
            for offer in offers {
                if let Some(journal) = &self.journal {
                    journal.leased(offer.key.0, &offer.lease.batch, &offer.lease.fence);
                }
                for index in self.sabotage.starts_early(offer.key, &offer.lease) {
                    if let Some(hold) = self.holds.get(&offer.key) {
                        hold.trust(u64::MAX);
                    }
                    self.start_send(offer.key, index, 0);
                }
            }
        }
        Some(event)
    }

    fn told(&mut self, told: Told) -> Option<Event> {
        match told {
            Told::Sent { lease, outcome } => {
                let outcome = self.sabotage.withhold(lease, outcome)?;
                tracing::debug!(lease = lease.0, index = outcome.index, kind = ?outcome.kind, code = outcome.code, "sent");
                Some(Event::Sent { lease, outcome })
            }
            Told::Progress { lease } => Some(Event::Progress { lease }),
            Told::Relay { index, is_up } => Some(Event::Relay { index, is_up }),
            Told::Connections { index, allowed, open, wanted } => {
                Some(Event::Connections { index, allowed, open, wanted })
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Call { id, call, timeout_ms } => self.call(id, call, Duration::from_millis(timeout_ms)),
            Effect::Trust { lease, until_ms } => {
                if let Some(hold) = self.holds.get(&lease) {
                    hold.trust(until_ms);
                }
            }
            Effect::StartSend { lease, index, relay } => match self.sabotage.started_early(lease, index) {
                Started::No => self.start_send(lease, index, relay),
                #[cfg(feature = "sabotage")]
                Started::Flying => {}
                #[cfg(feature = "sabotage")]
                Started::Done(outcome) => self.tell(Event::Sent { lease, outcome }),
            },
            Effect::Fetch { lease, indexes } => self.fetch(lease, indexes),
            Effect::Breaker { endpoint, is_open } => self.breaker(&endpoint, is_open),
            Effect::Allow { relay, connections, cut } => {
                self.pools.get(relay).into_iter().for_each(|pool| pool.allow(connections, cut));
            }
            Effect::Recall { lease } => self.signal(lease, Hold::recall),
            Effect::Cut { lease } => self.signal(lease, Hold::cut),
            Effect::Forget { lease, owed } => {
                self.signal(lease, Hold::cut);
                self.holds.remove(&lease);
                self.journal.iter().for_each(|journal| journal.over(lease.0, owed.clone()));
            }
            Effect::Told { lease, indexes } => {
                self.journal.iter().for_each(|journal| journal.told(lease.0, indexes.clone()));
            }
            Effect::Exit { .. } => {}
        }
    }

    fn signal(&self, lease: LeaseKey, signal: fn(&Hold)) {
        if let Some(hold) = self.holds.get(&lease) {
            signal(hold);
            self.pools.iter().for_each(Pool::sweep);
        }
    }

    fn start_send(&self, lease: LeaseKey, index: u32, relay: usize) {
        if let (Some(hold), Some(pool)) = (self.holds.get(&lease), self.pools.get(relay)) {
            pool.start_send(hold, index);
        }
    }

    fn fetch(&self, lease: LeaseKey, indexes: Vec<u32>) {
        let (fetcher, clock, inbox) = (self.fetcher.clone(), self.clock.clone(), self.inbox.clone());
        let hold = self.holds.get(&lease).cloned();
        tokio::spawn(async move {
            let fetched = match hold {
                Some(hold) => fetcher.fetch(&hold, &indexes).await,
                None => Fetched::Failed { is_passing: false, retry_after_ms: 0, random: clock.random() },
            };
            // The loop is gone only when the worker has ended.
            let _ = inbox.send(Inbound::Event(Event::Fetched { lease, fetched })).await;
        });
    }

    fn breaker(&self, endpoint: &Endpoint, is_open: bool) {
        let endpoint = fields::shown(endpoint);
        self.metrics.breaker(&endpoint, is_open);
        match is_open {
            true => tracing::warn!(endpoint, "merge fields cannot be fetched: batches wait, and it is probed"),
            false => tracing::info!(endpoint, "merge fields can be fetched again"),
        }
    }

    /// Shares of relays that are not given back would be nobody's until they end.
    async fn leave_relays(&mut self) {
        let Some(Call::ShareRelays { sequence, wishes }) = self.engine.leave_relays() else { return };
        for pool in self.pools.drain(..) {
            pool.close().await;
        }
        if let Err(error) = self.dispatch.share_relays(sequence, wishes, LEAVE_MAX).await {
            tracing::warn!(%error, "shares of relays are not given back; they end by themselves");
        }
    }

    /// An event that is known already goes the way of all others, so that effects stay in order.
    #[cfg(feature = "sabotage")]
    fn tell(&self, event: Event) {
        let inbox = self.inbox.clone();
        tokio::spawn(async move { inbox.send(Inbound::Event(event)).await });
    }

    fn call(&mut self, id: CallId, call: Call, timeout: Duration) {
        let (dispatch, clock, inbox) = (self.dispatch.clone(), self.clock.clone(), self.inbox.clone());
        let sent_at_ms = clock.boot_ms();
        match call {
            Call::Lease(wish) => self.call_lease(id, wish, timeout),
            Call::Checkpoint(mut reports) => {
                self.sabotage.strip(&mut reports);
                self.journal.iter().for_each(|journal| journal.asked(&reports));
                tokio::spawn(async move {
                    let answer = dispatch.checkpoint(reports, timeout).await;
                    answered(&inbox, clock.as_ref(), id, sent_at_ms, answer).await;
                });
            }
            Call::Finish(reports) => drop(tokio::spawn(async move {
                let answer = dispatch.finish(reports, timeout).await;
                answered(&inbox, clock.as_ref(), id, sent_at_ms, answer).await;
            })),
            Call::Release { reports, abandon, delay_ms } => drop(tokio::spawn(async move {
                let answer = dispatch.release(reports, abandon, delay_ms, timeout).await;
                answered(&inbox, clock.as_ref(), id, sent_at_ms, answer).await;
            })),
            Call::Facts(facts) => drop(tokio::spawn(async move {
                let answer: Result<Vec<FactStatus>, CallError> = dispatch.facts(facts, timeout).await;
                let event = match answer {
                    Ok(statuses) => Event::FactsAnswered { call: id, statuses },
                    Err(error) => failed(clock.as_ref(), id, &error),
                };
                let _ = inbox.send(Inbound::Event(event)).await;
            })),
            Call::ShareRelays { sequence, wishes } => drop(tokio::spawn(async move {
                let event = match dispatch.share_relays(sequence, wishes, timeout).await {
                    Ok(shares) => Event::Shared { call: id, sent_at_ms, shares },
                    Err(error) => failed(clock.as_ref(), id, &error),
                };
                let _ = inbox.send(Inbound::Event(event)).await;
            })),
        }
    }

    fn call_lease(&mut self, id: CallId, wish: crate::engine::LeaseWish, timeout: Duration) {
        if let Some(before) = self.lease_call.take() {
            before.abort();
        }
        let (dispatch, clock, inbox) = (self.dispatch.clone(), self.clock.clone(), self.inbox.clone());
        let (known, slots) = (self.definitions.clone(), self.slots);
        // Keys are handed out before the call, as many as there can be leases.
        let first_key = self.last_key + 1;
        self.last_key += LEASES_PER_CALL_MAX as u64;
        let sent_at_ms = clock.boot_ms();
        let task = tokio::spawn(async move {
            let mut leased = match dispatch.lease(wish, known.hashes(), slots, timeout).await {
                Ok(leased) => leased,
                Err(error) => {
                    let event = failed(clock.as_ref(), id, &error);
                    let _ = inbox.send(Inbound::Event(event)).await;
                    return;
                }
            };
            leased.leases.truncate(LEASES_PER_CALL_MAX);
            let (held_ms, drain) = (leased.held_ms, leased.drain);
            // Unpacking and compiling take a while; a panic there is a defect that counts as no answer.
            let Ok(mut prepared) = tokio::task::spawn_blocking(move || prepare(leased, known)).await else {
                let event = Event::CallFailed { call: id, refused: true, random: clock.random() };
                let _ = inbox.send(Inbound::Event(event)).await;
                return;
            };
            let definitions = std::mem::take(&mut prepared.definitions);
            let mut offers: Vec<Offer> = Vec::new();
            let mut batches = Vec::new();
            let mut next_key = first_key;
            let key = || {
                next_key += 1;
                LeaseKey(next_key - 1)
            };
            for (offer, batch) in prepared.offers(key) {
                batches.extend(batch.map(|batch| (offer.key, batch)));
                offers.push(offer);
            }
            let event = Event::Leased { call: id, sent_at_ms, held_ms, offers, drain };
            let _ = inbox.send(Inbound::Leased { event, batches, definitions }).await;
        });
        self.lease_call = Some(task.abort_handle());
    }
}

fn failed(clock: &dyn Clock, call: CallId, error: &CallError) -> Event {
    tracing::debug!(call = call.0, %error, "call failed");
    Event::CallFailed { call, refused: error.is_refused, random: clock.random() }
}

async fn answered(
    inbox: &mpsc::Sender<Inbound>,
    clock: &dyn Clock,
    call: CallId,
    sent_at_ms: u64,
    answer: Result<Reported, CallError>,
) {
    let event = match answer {
        Ok(Reported { answers, drain }) => Event::Answered { call, sent_at_ms, answers, drain },
        Err(error) => failed(clock, call, &error),
    };
    // The loop is gone only when the worker has ended.
    let _ = inbox.send(Inbound::Event(event)).await;
}
