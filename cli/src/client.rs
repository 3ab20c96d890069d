//! Calls to a master, over whichever of the given ones answers.
//!
//! Connection trouble is retried for a while across all masters with the same request, so a restart or
//! the death of one master is not seen. Every call made through here may be repeated.

use crate::failure::{Failure, Result};
use postrider_common::Clock;
use postrider_common::limits::GRPC_MESSAGE_BYTES_MAX;
use postrider_proto::v1::admin_client::AdminClient;
use postrider_proto::v1::campaigns_client::CampaignsClient;
use postrider_proto::v1::messages_client::MessagesClient;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

/// How long connection trouble is retried unless `--connect-timeout` says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// One attempt of a call; a master that hangs is left for the next.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two rounds over the masters.
const PAUSE: Duration = Duration::from_millis(200);
/// Notices a master whose machine is gone in the middle of a stream.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Knows the masters and which of them answered last.
#[derive(Debug)]
pub struct Client {
    masters: Vec<String>,
    current: usize,
    channel: Option<Channel>,
    patience: Duration,
    clock: Arc<dyn Clock>,
}

/// Why one attempt did not give an answer.
#[derive(Debug)]
enum Trouble {
    Connect(String),
    /// The master answers that it cannot, or broke off.
    Answer(Status),
    Hangs,
}

impl Client {
    pub fn new(masters: Vec<String>, patience: Duration, clock: Arc<dyn Clock>) -> Self {
        Self { masters, current: 0, channel: None, patience, clock }
    }

    /// A key for a submit that the caller gave none for, so that retrying it is safe.
    pub fn idempotency_key(&self) -> String {
        format!("cli-{:016x}{:016x}", self.clock.random(), self.clock.random())
    }

    /// Makes one call, on another master after trouble, until it is answered or patience is over.
    pub async fn call<T, F, A>(&mut self, attempt: A) -> Result<T>
    where
        A: Fn(Channel) -> F,
        F: Future<Output = std::result::Result<Response<T>, Status>>,
    {
        self.call_within(CALL_TIMEOUT, attempt).await
    }

    /// As `call`, for calls that take longer by nature (an upload).
    pub async fn call_within<T, F, A>(&mut self, timeout: Duration, attempt: A) -> Result<T>
    where
        A: Fn(Channel) -> F,
        F: Future<Output = std::result::Result<Response<T>, Status>>,
    {
        let begun = Instant::now();
        let mut tried = 0;
        loop {
            let trouble = match self.attempt(timeout, &attempt).await {
                Ok(answer) => return Ok(answer),
                Err(Trouble::Answer(status)) if !is_passing(&status) => return Err(self.refused(&status)),
                Err(trouble) => trouble,
            };
            tried += 1;
            self.channel = None;
            if begun.elapsed() >= self.patience && tried >= self.masters.len() {
                return Err(self.gave_up(&trouble));
            }
            self.current = (self.current + 1) % self.masters.len().max(1);
            if tried.is_multiple_of(self.masters.len().max(1)) {
                tokio::time::sleep(PAUSE.min(self.patience)).await;
            }
        }
    }

    async fn attempt<T, F, A>(&mut self, timeout: Duration, attempt: &A) -> std::result::Result<T, Trouble>
    where
        A: Fn(Channel) -> F,
        F: Future<Output = std::result::Result<Response<T>, Status>>,
    {
        let channel = match self.channel.clone() {
            Some(channel) => channel,
            None => self.connect().await?,
        };
        match tokio::time::timeout(timeout, attempt(channel)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Trouble::Answer(status)),
            Err(_) => Err(Trouble::Hangs),
        }
    }

    async fn connect(&mut self) -> std::result::Result<Channel, Trouble> {
        let url = self.url().to_owned();
        let wrong = |error: tonic::transport::Error| Trouble::Connect(deepest(&error));
        let endpoint = Endpoint::from_shared(url)
            .map_err(wrong)?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let channel = endpoint.connect().await.map_err(wrong)?;
        self.channel = Some(channel.clone());
        Ok(channel)
    }

    fn url(&self) -> &str {
        self.masters.get(self.current).map(String::as_str).unwrap_or_default()
    }

    fn gave_up(&self, trouble: &Trouble) -> Failure {
        let all = self.masters.join(", ");
        Failure::failed(match trouble {
            Trouble::Connect(why) => {
                format!("cannot reach a master at {all}: {why}; is it running? (postrider master)")
            }
            Trouble::Answer(status) => {
                let why = text(status);
                format!("the master at {} cannot answer now: {why}; look at its log, then try again", self.url())
            }
            Trouble::Hangs => format!("the master at {} does not answer; look at its log, then try again", self.url()),
        })
    }

    /// An answer that no other master and no later time would change.
    fn refused(&self, status: &Status) -> Failure {
        let text = text(status);
        match status.code() {
            Code::Unimplemented => Failure::failed(format!(
                "the master at {} does not know this call: is it of another version, or not a master? ({text})",
                self.url()
            )),
            Code::Internal | Code::Unknown | Code::DataLoss => {
                Failure::failed(format!("the master at {} failed: {text}", self.url()))
            }
            // Wrong input that only the master could tell.
            Code::InvalidArgument | Code::ResourceExhausted | Code::OutOfRange => Failure::usage(text),
            Code::Ok
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::Unavailable
            | Code::Unauthenticated => Failure::failed(text),
        }
    }

    /// After a stream broke: the next call goes to the next master.
    pub fn forget(&mut self) {
        self.channel = None;
        self.current = (self.current + 1) % self.masters.len().max(1);
    }

    /// Whether a stream that broke with this status is worth opening again.
    pub fn is_passing(status: &Status) -> bool {
        is_passing(status)
    }
}

/// What another master, or the same one later, may answer differently.
fn is_passing(status: &Status) -> bool {
    let broke_off = std::error::Error::source(status).is_some();
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => true,
        // What the transport makes of a connection that broke in the middle.
        Code::Unknown | Code::Internal => broke_off,
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => false,
    }
}

/// The message, or the code's own words when there is none.
fn text(status: &Status) -> String {
    let message = status.message().trim();
    if message.is_empty() { status.code().description().to_owned() } else { message.to_owned() }
}

/// The cause at the bottom: "Connection refused" rather than "transport error".
fn deepest(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(inner) = last.source() {
        last = inner;
    }
    last.to_string()
}

pub fn campaigns(channel: Channel) -> CampaignsClient<Channel> {
    CampaignsClient::new(channel).max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
}

pub fn messages(channel: Channel) -> MessagesClient<Channel> {
    MessagesClient::new(channel).max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
}

pub fn admin(channel: Channel) -> AdminClient<Channel> {
    AdminClient::new(channel).max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
}
