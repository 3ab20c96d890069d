//! The way to the masters, in domain types. Each method is one call, made once.

mod grpc;

pub use grpc::GrpcDispatch;

use crate::engine::LeaseWish;
use async_trait::async_trait;
use postrider_common::ids::DefinitionHash;
use postrider_common::lease::{Fact, FactStatus, Lease, LeaseAnswer, LeaseReport};
use postrider_common::message::MessageSpec;
use postrider_common::relay::{RelayShare, RelayWish};
use std::time::Duration;

#[derive(Debug, Clone, Default)]
pub struct Leased {
    pub leases: Vec<Lease>,
    /// Checked against their hashes.
    pub definitions: Vec<(DefinitionHash, MessageSpec)>,
    pub held_ms: u64,
    pub drain: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Reported {
    pub answers: Vec<LeaseAnswer>,
    pub drain: bool,
}

/// No answer that can be used. Unless it was refused, the call may have happened.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    /// The contents are at fault: the same again is refused again.
    pub is_refused: bool,
    pub message: String,
}

/// Masters, any of them. After a failure the next call goes to another one.
#[async_trait]
pub trait Dispatch: Send + Sync + std::fmt::Debug {
    async fn lease(
        &self,
        wish: LeaseWish,
        known: Vec<DefinitionHash>,
        slots: u32,
        timeout: Duration,
    ) -> Result<Leased, CallError>;
    async fn checkpoint(&self, reports: Vec<LeaseReport>, timeout: Duration) -> Result<Reported, CallError>;
    async fn finish(&self, reports: Vec<LeaseReport>, timeout: Duration) -> Result<Reported, CallError>;
    async fn release(
        &self,
        reports: Vec<LeaseReport>,
        abandon: bool,
        delay_ms: u64,
        timeout: Duration,
    ) -> Result<Reported, CallError>;
    async fn facts(&self, facts: Vec<Fact>, timeout: Duration) -> Result<Vec<FactStatus>, CallError>;
    /// Shares in the order of the wishes.
    async fn share_relays(
        &self,
        sequence: u64,
        wishes: Vec<RelayWish>,
        timeout: Duration,
    ) -> Result<Vec<RelayShare>, CallError>;
}
