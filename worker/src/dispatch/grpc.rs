//! `Dispatch` over gRPC, with failover over several masters.

use super::{CallError, Dispatch, Leased, Reported};
use crate::config::WorkerError;
use crate::engine::LeaseWish;
use async_trait::async_trait;
use postrider_common::ids::{DefinitionHash, WorkerId};
use postrider_common::lease::{Fact, FactStatus, Lease, LeaseAnswer, LeaseReport};
use postrider_common::limits::{GRPC_MESSAGE_BYTES_MAX, KNOWN_DEFINITIONS_MAX};
use postrider_common::mark::Marks;
use postrider_common::message::MessageSpec;
use postrider_common::relay::{RelayShare, RelayWish};
use postrider_common::wire::{self, InvalidField};
use postrider_proto::v1;
use postrider_proto::v1::dispatch_client::DispatchClient;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A master that is gone without a word is noticed after the sum of both.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// One channel per master; calls go to the current one until it fails.
#[derive(Debug)]
pub struct GrpcDispatch {
    worker: WorkerId,
    masters: Vec<Master>,
    current: AtomicUsize,
    is_down: AtomicBool,
    /// What answers said of the store; told with every call, so that a master notices when it went back.
    seen: Mutex<Marks>,
}

#[derive(Debug)]
struct Master {
    url: String,
    client: DispatchClient<Channel>,
}

impl GrpcDispatch {
    /// Connects when first called. Must be called inside a tokio runtime.
    pub fn new(worker: WorkerId, urls: &[String]) -> Result<Self, WorkerError> {
        let connect = |url: &String| {
            let wrong = |why: String| WorkerError::config("worker.master", format!("'{url}': {why}"));
            if !url.starts_with("http://") {
                return Err(wrong("write http://host:port (TLS to masters is not supported yet)".into()));
            }
            let endpoint = Endpoint::from_shared(url.clone()).map_err(|error| wrong(error.to_string()))?;
            let channel = endpoint
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
                .keep_alive_timeout(KEEPALIVE_TIMEOUT)
                .keep_alive_while_idle(true)
                .connect_lazy();
            let client = DispatchClient::new(channel)
                .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
                .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX);
            Ok(Master { url: url.clone(), client })
        };
        let masters = urls.iter().map(connect).collect::<Result<_, _>>()?;
        Ok(Self {
            worker,
            masters,
            current: AtomicUsize::new(0),
            is_down: AtomicBool::new(false),
            seen: Mutex::default(),
        })
    }

    /// One call to the current master, within `timeout`; the next one becomes current when it fails.
    async fn call<Q, A, F>(
        &self,
        timeout: Duration,
        request: Q,
        act: impl FnOnce(DispatchClient<Channel>, Request<Q>) -> F,
    ) -> Result<A, CallError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let index = self.current.load(Ordering::Relaxed) % self.masters.len();
        let master = &self.masters[index];
        let mut request = Request::new(request);
        request.set_timeout(timeout);
        let answered = match tokio::time::timeout(timeout, act(master.client.clone(), request)).await {
            Ok(answered) => answered.map(Response::into_inner).map_err(|status| call_error(&status)),
            Err(_) => Err(CallError { is_refused: false, message: format!("no answer in {timeout:?}") }),
        };
        match &answered {
            Ok(_) => {
                if self.is_down.swap(false, Ordering::Relaxed) {
                    tracing::info!(master = master.url, "master answers again");
                }
            }
            Err(error) if error.is_refused => {
                tracing::error!(master = master.url, %error, "master refuses a call");
            }
            Err(error) => {
                let next = (index + 1) % self.masters.len();
                // Only whoever failed on the current one moves on, so that two failures do not come back to it.
                let _ = self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
                if !self.is_down.swap(true, Ordering::Relaxed) {
                    tracing::warn!(master = master.url, %error, "master does not answer; trying the next");
                }
            }
        }
        answered
    }

    fn worker(&self) -> Option<v1::Worker> {
        let seen = (&*self.seen.lock().unwrap_or_else(PoisonError::into_inner)).into();
        Some(v1::Worker { seen, ..(&self.worker).into() })
    }

    /// Marks that cannot be read prove nothing and cost nothing.
    fn note(&self, seen: &[v1::StoreMark]) {
        match wire::marks(seen) {
            Ok(marks) => self.seen.lock().unwrap_or_else(PoisonError::into_inner).merge(&marks),
            Err(error) => tracing::warn!(%error, "what a master says of the store cannot be read"),
        }
    }
}

fn call_error(status: &Status) -> CallError {
    let is_refused = match status.code() {
        Code::InvalidArgument | Code::ResourceExhausted | Code::OutOfRange => true,
        // Cancelled is also how a passed deadline surfaces.
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => false,
    };
    CallError { is_refused, message: format!("{:?}: {}", status.code(), status.message()) }
}

/// An answer that cannot be read counts as none.
fn unreadable(error: InvalidField) -> CallError {
    CallError { is_refused: false, message: format!("the answer cannot be read: {error}") }
}

fn checkpoints(reports: Vec<LeaseReport>) -> Vec<v1::LeaseCheckpoint> {
    reports.into_iter().map(Into::into).collect()
}

fn reported(answers: Vec<v1::LeaseAnswer>, drain: bool) -> Result<Reported, CallError> {
    let answers = answers.into_iter().map(LeaseAnswer::try_from).collect::<Result<_, _>>().map_err(unreadable)?;
    Ok(Reported { answers, drain })
}

/// Leases and definitions that can be read; the others are left out, and logged.
fn leased(response: v1::LeaseResponse) -> Leased {
    let mut leased = Leased { held_ms: response.held_ms, drain: response.drain, ..Leased::default() };
    for wire in response.leases {
        match Lease::try_from(wire) {
            Ok(lease) => leased.leases.push(lease),
            Err(error) => tracing::error!(%error, "lease cannot be read; it is left to expire"),
        }
    }
    for wire in response.definitions {
        let spec = wire.message.map(MessageSpec::from).unwrap_or_default();
        let hash = spec.hash();
        if hash.as_str() == wire.hash {
            leased.definitions.push((hash, spec));
        } else {
            tracing::error!(definition = wire.hash, "definition does not have its hash: is this worker too old?");
        }
    }
    leased
}

#[async_trait]
impl Dispatch for GrpcDispatch {
    async fn lease(
        &self,
        wish: LeaseWish,
        mut known: Vec<DefinitionHash>,
        slots: u32,
        timeout: Duration,
    ) -> Result<Leased, CallError> {
        known.truncate(KNOWN_DEFINITIONS_MAX);
        let request = v1::LeaseRequest {
            worker: self.worker(),
            request_id: wish.request.to_string(),
            batches_max: wish.batches_max,
            lanes: wish.lanes.iter().map(ToString::to_string).collect(),
            wait_ms: wish.wait_ms,
            known_definitions: known.iter().map(ToString::to_string).collect(),
            slots,
        };
        let act = |mut client: DispatchClient<Channel>, request| async move { client.lease(request).await };
        let response = self.call(timeout, request, act).await?;
        self.note(&response.seen);
        Ok(leased(response))
    }

    async fn checkpoint(&self, reports: Vec<LeaseReport>, timeout: Duration) -> Result<Reported, CallError> {
        let request = v1::CheckpointRequest { worker: self.worker(), leases: checkpoints(reports) };
        let act = |mut client: DispatchClient<Channel>, request| async move { client.checkpoint(request).await };
        let response = self.call(timeout, request, act).await?;
        self.note(&response.seen);
        reported(response.leases, response.drain)
    }

    async fn finish(&self, reports: Vec<LeaseReport>, timeout: Duration) -> Result<Reported, CallError> {
        let request = v1::FinishRequest { worker: self.worker(), leases: checkpoints(reports) };
        let act = |mut client: DispatchClient<Channel>, request| async move { client.finish(request).await };
        let response = self.call(timeout, request, act).await?;
        self.note(&response.seen);
        reported(response.leases, false)
    }

    async fn release(
        &self,
        reports: Vec<LeaseReport>,
        abandon: bool,
        delay_ms: u64,
        timeout: Duration,
    ) -> Result<Reported, CallError> {
        let request = v1::ReleaseRequest { worker: self.worker(), leases: checkpoints(reports), abandon, delay_ms };
        let act = |mut client: DispatchClient<Channel>, request| async move { client.release(request).await };
        let response = self.call(timeout, request, act).await?;
        self.note(&response.seen);
        reported(response.leases, false)
    }

    async fn facts(&self, facts: Vec<Fact>, timeout: Duration) -> Result<Vec<FactStatus>, CallError> {
        let request = v1::FactsRequest { worker: self.worker(), facts: facts.into_iter().map(Into::into).collect() };
        let act = |mut client: DispatchClient<Channel>, request| async move { client.facts(request).await };
        let response = self.call(timeout, request, act).await?;
        self.note(&response.seen);
        response.facts().map(FactStatus::try_from).collect::<Result<_, _>>().map_err(unreadable)
    }

    async fn share_relays(
        &self,
        sequence: u64,
        wishes: Vec<RelayWish>,
        timeout: Duration,
    ) -> Result<Vec<RelayShare>, CallError> {
        let relays = wishes.into_iter().map(Into::into).collect();
        let request = v1::ShareRelaysRequest { worker: self.worker(), sequence, relays };
        let act = |mut client: DispatchClient<Channel>, request| async move { client.share_relays(request).await };
        let response = self.call(timeout, request, act).await?;
        Ok(response.relays.into_iter().map(RelayShare::from).collect())
    }
}
