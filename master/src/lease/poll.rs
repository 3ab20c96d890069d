//! The long poll of workers: claims as soon as there is something to claim.
//!
//! Hints wake it, a look every `CLAIM_POLL_MS` is the truth. A call that its worker gave up on loses
//! nothing: what it claimed is answered to a repeat of the request, or comes back when it expires.

use super::Definitions;
use super::fit::{ANSWER_BYTES_MAX, fitting};
use super::turnstile::Turn;
use crate::api::ApiError;
use crate::core::Core;
use crate::suppress;
use postrider_common::WorkerId;
use postrider_common::ids::{DefinitionHash, LaneName, RequestId};
use postrider_common::lease::{Lease, LeaseReport};
use postrider_common::limits::CLAIM_POLL_MS;
use postrider_proto::v1;
use postrider_store::{Claim, ClaimedBatch, Release, StoreError};
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::watch;

/// Hints nearer to the last look than this wait: a stream of hints must not become a stream of claims.
const HINT_SPACING: Duration = Duration::from_millis(5);

/// A checked Lease request.
#[derive(Debug)]
pub struct LeaseWish {
    pub worker: WorkerId,
    pub request: RequestId,
    pub batches_max: u32,
    pub lanes: Vec<(LaneName, u32)>,
    pub wait_ms: u64,
    /// Definitions the worker holds.
    pub known: BTreeSet<DefinitionHash>,
    pub slots: u32,
}

/// Counts a held call for as long as it is held, however it ends.
struct Held<'a>(&'a Core);

impl<'a> Held<'a> {
    fn new(core: &'a Core) -> Self {
        core.metrics.polls_held.inc();
        Self(core)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.metrics.polls_held.dec();
    }
}

/// Waits for work and answers with it, or empty when the wait is over or the master stops.
pub async fn long_poll(
    core: &Core,
    definitions: &Definitions,
    wish: LeaseWish,
    arrived_ms: u64,
) -> Result<v1::LeaseResponse, ApiError> {
    if core.stopping.is_cancelled() {
        return Err(ApiError::Stopping);
    }
    let claim = Claim {
        worker: wish.worker.clone(),
        request: wish.request.clone(),
        nonce: core.nonce(),
        batches_max: wish.batches_max,
        lanes: wish.lanes.clone(),
        ttl_ms: core.lease.ttl_ms(),
        hard_cap_ms: core.lease.hard_cap_ms(),
        slots: wish.slots,
        limits: core.limits.clone(),
    };
    let _held = Held::new(core);
    let mut wake = core.store.wake();
    let mut hinted = false;
    loop {
        let version = *wake.borrow_and_update();
        let turn = if hinted { core.turnstile.turn(&wish.lanes, version).await } else { Turn::Look(None) };
        if let Turn::Look(gate) = turn {
            let before_ms = core.clock.boot_ms();
            let mut claimed = match core.gates.open_lanes(core, &wish.lanes).await? {
                None => core.store.claim(claim.clone()).await?,
                Some(lanes) => core.store.claim(Claim { lanes, ..claim.clone() }).await?,
            };
            let held = core.gates.take_held(core, definitions, &mut claimed.leases).await?;
            if !held.is_empty() {
                give_back_held(core, &wish, held).await?;
                if claimed.leases.is_empty() {
                    // The request has had its answer. The next one looks further.
                    return Ok(v1::LeaseResponse { drain: claimed.drain, ..v1::LeaseResponse::default() });
                }
            }
            if !claimed.leases.is_empty() {
                drop(gate);
                let held_ms = held_ms(arrived_ms, before_ms);
                let leases = suppress::check_claimed(core, &wish.worker, claimed.leases).await?;
                return answer(core, definitions, &wish, leases, claimed.drain, held_ms).await;
            }
            if claimed.drain {
                return Ok(v1::LeaseResponse { drain: true, ..v1::LeaseResponse::default() });
            }
            if let Some(mut gate) = gate {
                *gate = Some(version);
            }
        }
        let waited_ms = core.clock.boot_ms().saturating_sub(arrived_ms);
        if waited_ms >= wish.wait_ms {
            return Ok(v1::LeaseResponse::default());
        }
        let rest = Duration::from_millis((wish.wait_ms - waited_ms).min(CLAIM_POLL_MS));
        hinted = tokio::select! {
            biased;
            () = core.stopping.cancelled() => return Ok(v1::LeaseResponse::default()),
            () = hint(&mut wake) => true,
            () = tokio::time::sleep(rest) => false,
        };
    }
}

/// How long the call was held before the claim, never more than that: both instants are cut to whole
/// milliseconds, which may make their difference one too large, and a worker adds this to its trust.
fn held_ms(arrived_ms: u64, before_ms: u64) -> u64 {
    before_ms.saturating_sub(arrived_ms).saturating_sub(1)
}

/// Ends when the store hints at work, not at once after a look.
async fn hint(wake: &mut watch::Receiver<u64>) {
    tokio::time::sleep(HINT_SPACING).await;
    if wake.changed().await.is_err() {
        // A store without hints: the poll alone finds work.
        std::future::pending::<()>().await;
    }
}

async fn answer(
    core: &Core,
    definitions: &Definitions,
    wish: &LeaseWish,
    mut leases: Vec<ClaimedBatch>,
    drain: bool,
    held_ms: u64,
) -> Result<v1::LeaseResponse, ApiError> {
    let mut told = wish.known.clone();
    let mut found: Vec<(DefinitionHash, v1::MessageDefinition)> = Vec::new();
    let mut sizes = Vec::with_capacity(leases.len());
    for lease in &leases {
        let mut size = lease.payload.len() + lease.recipients.len() * RECIPIENT_FRAME_BYTES;
        if told.insert(lease.definition.clone()) {
            let message = definitions.find(core, &lease.definition).await?;
            size += message.encoded_len();
            found.push((lease.definition.clone(), message));
        }
        sizes.push(size);
    }
    let rest = leases.split_off(fitting(sizes.into_iter(), ANSWER_BYTES_MAX));
    if !rest.is_empty() {
        give_back(core, &wish.worker, rest, 0).await?;
    }
    found.retain(|(hash, _)| leases.iter().any(|lease| lease.definition == *hash));
    let to_wire =
        |(hash, message): (DefinitionHash, _)| v1::Definition { hash: hash.to_string(), message: Some(message) };
    Ok(v1::LeaseResponse {
        leases: leases.into_iter().map(|claimed| lease(core, claimed).into()).collect(),
        definitions: found.into_iter().map(to_wire).collect(),
        held_ms,
        drain,
        seen: Vec::new(),
    })
}

/// Bytes of one recipient's progress, at most.
const RECIPIENT_FRAME_BYTES: usize = 24;

fn lease(core: &Core, claimed: ClaimedBatch) -> Lease {
    Lease {
        run: claimed.batch.run.clone(),
        batch: claimed.batch,
        fence: claimed.fence,
        campaign: claimed.campaign,
        lane: claimed.lane,
        site: claimed.site,
        definition: claimed.definition,
        ttl_ms: claimed.ttl_ms,
        hard_cap_ms: claimed.hard_cap_ms,
        window: core.lease.window,
        payload: claimed.payload.into(),
        recipients: claimed.recipients,
        only: claimed.only,
    }
}

/// What is held goes back until it opens.
async fn give_back_held(core: &Core, wish: &LeaseWish, held: Vec<(ClaimedBatch, u64)>) -> Result<(), ApiError> {
    let mut by_delay: BTreeMap<u64, Vec<ClaimedBatch>> = BTreeMap::new();
    for (lease, delay_ms) in held {
        by_delay.entry(delay_ms).or_default().push(lease);
    }
    for (delay_ms, leases) in by_delay {
        tracing::debug!(batches = leases.len(), delay_ms, "batches held until their windows open");
        give_back(core, &wish.worker, leases, delay_ms).await?;
    }
    Ok(())
}

/// What is not handed out goes back, at no cost: at once, or for a while.
pub(crate) async fn give_back(
    core: &Core,
    worker: &WorkerId,
    leases: Vec<ClaimedBatch>,
    delay_ms: u64,
) -> Result<(), StoreError> {
    let report = |lease: ClaimedBatch| LeaseReport {
        batch: lease.batch,
        fence: lease.fence,
        sequence: 1,
        outcomes: Vec::new(),
        intents: Vec::new(),
        progress: 0,
    };
    let release = Release {
        worker: worker.clone(),
        reports: leases.into_iter().map(report).collect(),
        retry_fraction: 0,
        abandon: false,
        doubt_grace_ms: core.lease.doubt_grace_ms(),
        delay_ms,
    };
    core.store.release(release).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_held_is_never_overstated() {
        for (arrived, before, held) in [(10, 10, 0), (10, 11, 0), (10, 250, 239), (10, 5, 0)] {
            assert_eq!(held_ms(arrived, before), held);
        }
    }
}
