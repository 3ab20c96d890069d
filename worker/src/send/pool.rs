//! The connections to one relay: opened on demand, reused, closed when idle; and what to do while the
//! relay cannot be reached.
//!
//! The first connection is made before anything is leased for the relay, so a relay that is down costs no
//! recipient an attempt. When it goes down later, the one recipient at the front of the queue is deferred
//! with what the relay said, for people to see; the others are handed back at no cost.

use super::connection;
use super::hold::Transmission;
use super::waiting::{Share, Waiting};
use super::{Hold, Told};
use crate::config::{LoginConfig, RelayConfig, Security, WorkerConfig, WorkerError};
use crate::signing::Signing;
use postrider_common::clock::Clock;
use postrider_common::lease::OutcomeKind;
use rustls::ClientConfig;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// Between two probes of a relay that cannot be reached; doubles from the first to the second.
const PROBE_FIRST: Duration = Duration::from_secs(1);
const PROBE_MAX: Duration = Duration::from_secs(30);
/// A relay that refuses one connection more is not asked for more for this long.
const CROWDED: Duration = Duration::from_secs(10);
/// At the end, how long the relay may take to say goodbye.
const QUIT_MAX: Duration = Duration::from_secs(1);
/// Reports waiting for the pool.
const REPORTS_MAX: usize = 1024;

#[derive(Debug)]
pub(crate) struct PoolConfig {
    /// Its place among the relays.
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) connections: usize,
    /// The fleet shares it: there are no connections but those allowed.
    pub(crate) is_limited: bool,
    /// Some connections are kept for lanes with reserved slots.
    pub(crate) share: Share,
    pub(crate) ehlo: String,
    pub(crate) source_address: Option<IpAddr>,
    pub(crate) signing: Signing,
    /// For a relay that is spoken to with TLS.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) security: Security,
    pub(crate) login: Option<LoginConfig>,
}

impl PoolConfig {
    pub(crate) fn new(config: &WorkerConfig, index: usize, relay: &RelayConfig) -> Result<Self, WorkerError> {
        let tls = match relay.security {
            Security::None => None,
            Security::StartTls | Security::Tls => {
                let made = super::tls::config(relay.authorities.as_deref());
                Some(
                    made.map_err(|why| WorkerError::config("relay.tls_ca", format!("{why} (relay '{}')", relay.name)))?,
                )
            }
        };
        Ok(Self {
            index,
            name: relay.name.clone(),
            host: relay.host.clone(),
            port: relay.port,
            connections: relay.connections as usize,
            is_limited: !relay.limit.is_none(),
            share: Share { reserved: config.reserved_for(&relay.lanes), slots: config.slots },
            ehlo: config.ehlo.clone(),
            source_address: config.source_address,
            signing: config.signing.clone(),
            tls,
            security: relay.security,
            login: relay.login.clone(),
        })
    }
}

/// What a connection tells its pool.
#[derive(Debug)]
pub(super) enum Report {
    /// Takes a transmission. `is_new`: for the first time.
    Idle { id: u64, is_new: bool },
    /// It is closed. `failure`: it never came to be usable, and why (code and detail).
    Gone { id: u64, unbegun: Option<Transmission>, failure: Option<(String, String)> },
}

/// How many connections there may be.
#[derive(Debug, Clone, Copy, Default)]
struct Allowed {
    connections: u32,
    /// How often all were to be closed at once.
    cuts: u64,
}

/// The loop's end of a pool. Dropping it ends the pool and its connections.
#[derive(Debug)]
pub(crate) struct Pool {
    transmissions: mpsc::Sender<Transmission>,
    sweep: Arc<Notify>,
    allowed: watch::Sender<Allowed>,
    told: mpsc::Sender<Told>,
    task: JoinHandle<()>,
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pool {
    pub(crate) fn start(config: PoolConfig, jobs_max: usize, clock: Arc<dyn Clock>, told: mpsc::Sender<Told>) -> Self {
        let (transmissions, queue) = mpsc::channel(jobs_max);
        let sweep = Arc::new(Notify::new());
        let connections = if config.is_limited { 0 } else { config.connections as u32 };
        let (allow, allowed) = watch::channel(Allowed { connections, cuts: 0 });
        let (reports, reported) = mpsc::channel(REPORTS_MAX);
        let waiting = Waiting::new(config.share, |transmission: &Transmission| transmission.hold.is_reserved);
        let keeper = Keeper {
            config: Arc::new(config),
            clock,
            told: told.clone(),
            reports,
            tasks: JoinSet::new(),
            connections: BTreeMap::new(),
            idle: Vec::new(),
            connecting: BTreeSet::new(),
            closing: BTreeMap::new(),
            allowed: connections as usize,
            cuts: 0,
            counted: None,
            waiting,
            is_up: false,
            probe: PROBE_FIRST,
            probe_at: Instant::now(),
            crowded_until: Instant::now(),
            last_id: 0,
        };
        let task = tokio::spawn(keeper.run(queue, reported, sweep.clone(), allowed));
        Self { transmissions, sweep, allowed: allow, told, task }
    }

    /// Starts a send. When the pool has no room for it, it is handed back.
    pub(crate) fn start_send(&self, hold: &Arc<Hold>, index: u32) {
        // A transmission that is dropped hands itself back.
        let _ = self.transmissions.try_send(hold.transmission(index, self.told.clone()));
    }

    /// From now on there may be so many connections. `cut`: those there are are closed at once.
    pub(crate) fn allow(&self, connections: u32, cut: bool) {
        self.allowed.send_modify(|allowed| {
            allowed.connections = connections;
            allowed.cuts += u64::from(cut);
        });
    }

    /// Ends the pool; when it returns its connections are closed, or will be soon.
    pub(crate) async fn close(mut self) {
        self.transmissions = mpsc::channel(1).0;
        // One that does not end in time is aborted with the pool; a defect of it has closed them as well.
        let _ = tokio::time::timeout(QUIT_MAX * 2, &mut self.task).await;
    }

    /// Looks for recalled transmissions that wait.
    pub(crate) fn sweep(&self) {
        self.sweep.notify_one();
    }
}

struct Keeper {
    config: Arc<PoolConfig>,
    clock: Arc<dyn Clock>,
    told: mpsc::Sender<Told>,
    reports: mpsc::Sender<Report>,
    tasks: JoinSet<()>,
    /// Where to give a connection its next transmission; those being made too.
    connections: BTreeMap<u64, (mpsc::Sender<Transmission>, AbortHandle)>,
    /// The last one used is used first, so that the others may close.
    idle: Vec<u64>,
    /// Those of them that never took a transmission yet.
    connecting: BTreeSet<u64>,
    /// Others, that take no transmission any more and are not closed yet.
    closing: BTreeMap<u64, AbortHandle>,
    /// Connections that there may be.
    allowed: usize,
    cuts: u64,
    /// What the loop was told last: allowed, open, wanted.
    counted: Option<(u32, u32, u32)>,
    waiting: Waiting<Transmission>,
    is_up: bool,
    probe: Duration,
    probe_at: Instant,
    crowded_until: Instant,
    last_id: u64,
}

impl Keeper {
    async fn run(
        mut self,
        mut transmissions: mpsc::Receiver<Transmission>,
        mut reports: mpsc::Receiver<Report>,
        sweep: Arc<Notify>,
        mut allowed: watch::Receiver<Allowed>,
    ) {
        loop {
            self.tell_count().await;
            let is_probing = !self.is_up && self.connecting.is_empty() && self.open() < self.allowed;
            tokio::select! {
                transmission = transmissions.recv() => match transmission {
                    Some(transmission) => self.waiting.push(transmission),
                    None => return self.close_all().await,
                },
                Some(report) = reports.recv() => self.reported(report).await,
                () = sweep.notified() => self.hand_back(Transmission::is_recalled).await,
                () = sleep_until(self.probe_at), if is_probing => self.connect(),
                Ok(()) = allowed.changed() => {
                    let now_allowed = *allowed.borrow_and_update();
                    self.allow(now_allowed).await;
                }
                Some(ended) = self.tasks.join_next() => if ended.is_err() {
                    self.prune();
                },
            }
            self.assign().await;
        }
    }

    /// Connections that the relay may see.
    fn open(&self) -> usize {
        self.connections.len() + self.closing.len()
    }

    async fn allow(&mut self, allowed: Allowed) {
        self.allowed = (allowed.connections as usize).min(self.config.connections);
        if allowed.cuts != self.cuts {
            self.cuts = allowed.cuts;
            tracing::warn!(
                relay = self.config.name,
                open = self.open(),
                "share of the relay ended; connections are cut"
            );
            self.tasks.shutdown().await;
            (self.connections, self.idle) = (BTreeMap::new(), Vec::new());
            (self.connecting, self.closing) = (BTreeSet::new(), BTreeMap::new());
            self.waiting.keep_busy(|_| false);
        }
        while self.connections.len() > self.allowed {
            let unused = self.idle.pop().or_else(|| self.connecting.first().copied());
            let Some(id) = unused.or_else(|| self.connections.keys().next().copied()) else { break };
            // Without its sender it ends after what it carries.
            let Some((_, task)) = self.connections.remove(&id) else { continue };
            self.connecting.remove(&id);
            self.closing.insert(id, task);
        }
        if self.allowed == 0 {
            self.down().await;
        } else if !self.is_up {
            self.probe_at = Instant::now();
        }
    }

    /// Tells the loop, of a relay that the fleet shares, what there is and what there is use for.
    async fn tell_count(&mut self) {
        let waiting = self.waiting.len().saturating_sub(self.connecting.len());
        let wanted = (self.connections.len() + waiting).clamp(1, self.config.connections);
        let counted = (self.allowed as u32, self.open() as u32, wanted as u32);
        if self.config.is_limited && self.counted != Some(counted) {
            self.counted = Some(counted);
            let (index, (allowed, open, wanted)) = (self.config.index, counted);
            let _ = self.told.send(Told::Connections { index, allowed, open, wanted }).await;
        }
    }

    async fn close_all(mut self) {
        self.connections.clear();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(QUIT_MAX, all).await.is_err() {
            self.tasks.shutdown().await;
        }
    }

    async fn down(&mut self) {
        if self.is_up {
            self.is_up = false;
            let _ = self.told.send(Told::Relay { index: self.config.index, is_up: false }).await;
        }
    }

    /// A connection ended without its last words, by a defect: forgets those that take no transmission any more.
    fn prune(&mut self) {
        tracing::error!(relay = self.config.name, "a connection ended by a defect of this program");
        self.connections.retain(|_, (transmissions, _)| !transmissions.is_closed());
        self.closing.retain(|_, task| !task.is_finished());
        self.connecting.retain(|id| self.connections.contains_key(id));
        self.idle.retain(|id| self.connections.contains_key(id));
        self.waiting.keep_busy(|id| self.connections.contains_key(&id) || self.closing.contains_key(&id));
        self.probe_at = Instant::now() + self.probe;
    }

    async fn reported(&mut self, report: Report) {
        match report {
            Report::Idle { id, is_new } => {
                self.waiting.freed(id);
                if self.connections.contains_key(&id) {
                    self.idle.push(id);
                    if is_new {
                        self.connecting.remove(&id);
                        self.connected().await;
                    }
                }
            }
            Report::Gone { id, unbegun, failure } => {
                self.connections.remove(&id);
                self.connecting.remove(&id);
                let was_closing = self.closing.remove(&id).is_some();
                self.idle.retain(|idle| *idle != id);
                self.waiting.freed(id);
                if let Some(transmission) = unbegun {
                    self.waiting.push_front(transmission);
                }
                if let Some((code, detail)) = failure
                    && !was_closing
                {
                    self.failed(&code, &detail).await;
                }
            }
        }
    }

    async fn connected(&mut self) {
        self.probe = PROBE_FIRST;
        if !self.is_up {
            self.is_up = true;
            tracing::info!(relay = self.config.name, "relay takes connections");
            let _ = self.told.send(Told::Relay { index: self.config.index, is_up: true }).await;
        }
    }

    /// A connection could not be made.
    async fn failed(&mut self, code: &str, detail: &str) {
        let relay = &self.config.name;
        if self.connections.len() > self.connecting.len() {
            // Others work: the relay takes no more than these.
            tracing::debug!(relay, code, detail, open = self.connections.len(), "relay refuses another connection");
            self.crowded_until = Instant::now() + CROWDED;
            return;
        }
        self.probe_at = Instant::now() + self.probe;
        tracing::warn!(relay, code, detail, retry_in = ?self.probe, "relay refuses connections");
        self.probe = (self.probe * 2).min(PROBE_MAX);
        self.down().await;
        if let Some(transmission) = self.waiting.least() {
            let outcome = transmission.outcome(OutcomeKind::Deferred, code, detail);
            transmission.end(outcome).await;
        }
    }

    /// Gives waiting transmissions to idle connections, and opens more when there are too few.
    async fn assign(&mut self) {
        if !self.is_up {
            return self.hand_back(|_| true).await;
        }
        while let Some(id) = self.idle.pop() {
            let Some((connection, _)) = self.connections.get(&id) else { continue };
            let Some(transmission) = self.waiting.next_for(id, self.allowed) else {
                self.idle.push(id);
                break;
            };
            if let Err(refused) = connection.try_send(transmission) {
                // It closes at this moment; its last words follow.
                self.waiting.push_front(refused.into_inner());
                self.waiting.freed(id);
            }
        }
        let is_crowded = Instant::now() < self.crowded_until;
        while self.waiting.ready(self.allowed) > self.connecting.len() && self.open() < self.allowed {
            let is_first = self.connections.is_empty();
            let is_alone = self.connections.len() == self.connecting.len();
            // Without a connection that works, one at a time is tried.
            if (is_alone && !is_first) || (is_crowded && !is_alone) {
                break;
            }
            self.connect();
        }
    }

    fn connect(&mut self) {
        self.last_id += 1;
        let id = self.last_id;
        let (transmissions, queue) = mpsc::channel(1);
        let run = connection::run(id, self.config.clone(), self.clock.clone(), queue, self.reports.clone());
        let task = self.tasks.spawn(run);
        self.connections.insert(id, (transmissions, task));
        self.connecting.insert(id);
    }

    async fn hand_back(&mut self, which: impl Fn(&Transmission) -> bool) {
        for transmission in self.waiting.take(which) {
            transmission.hand_back().await;
        }
    }
}
