//! Service Dispatch: what workers call.

use super::status::ApiError;
use crate::campaign::Invalid;
use crate::core::Core;
use crate::lease::{Definitions, LeaseWish, long_poll};
use crate::lineage;
use crate::loops::census::Draining;
use crate::suppress;
use postrider_common::WorkerId;
use postrider_common::ids::{DefinitionHash, LaneName};
use postrider_common::lease::{Fact, LeaseReport};
use postrider_common::limits::{
    FACTS_PER_CALL_MAX, KNOWN_DEFINITIONS_MAX, LEASE_WAIT_MS_MAX, LEASES_PER_CALL_MAX, RELEASE_DELAY_MS_MAX,
};
use postrider_common::relay::{RELAYS_LIMITED_MAX, RelayWish};
use postrider_common::wire;
use postrider_proto::v1;
use postrider_proto::v1::dispatch_server::Dispatch;
use postrider_store::{Finish, Release, ShareRelay};
use std::sync::Arc;
use tonic::{Request, Response, Status};

#[derive(Debug, Clone)]
pub struct DispatchApi {
    pub core: Arc<Core>,
    pub definitions: Arc<Definitions>,
    pub draining: Draining,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Dispatch for DispatchApi {
    async fn lease(&self, request: Request<v1::LeaseRequest>) -> Answer<v1::LeaseResponse> {
        // Before anything else: what the worker may trust is counted from here.
        let arrived_ms = self.core.clock.boot_ms();
        let request = request.into_inner();
        lineage::witness(&self.core, request.worker.as_ref()).await?;
        let wish = lease_wish(&self.core, request)?;
        let mut answer = long_poll(&self.core, &self.definitions, wish, arrived_ms).await?;
        answer.seen = lineage::seen(&self.core);
        Ok(Response::new(answer))
    }

    async fn checkpoint(&self, request: Request<v1::CheckpointRequest>) -> Answer<v1::CheckpointResponse> {
        let request = request.into_inner();
        lineage::witness(&self.core, request.worker.as_ref()).await?;
        let (worker, reports) = reports(request.worker, request.leases)?;
        let drain = self.draining.includes(&worker);
        let answers = suppress::checkpoint(&self.core, &self.definitions, worker, reports).await?;
        let (leases, seen) = (answers.into_iter().map(Into::into).collect(), lineage::seen(&self.core));
        Ok(Response::new(v1::CheckpointResponse { leases, drain, seen }))
    }

    async fn finish(&self, request: Request<v1::FinishRequest>) -> Answer<v1::FinishResponse> {
        let request = request.into_inner();
        lineage::witness(&self.core, request.worker.as_ref()).await?;
        let (worker, reports) = reports(request.worker, request.leases)?;
        let finish = Finish { worker, reports, retry_fraction: self.core.retry_fraction() };
        let answers = self.core.store.finish(finish).await.map_err(ApiError::from)?;
        let (leases, seen) = (answers.into_iter().map(Into::into).collect(), lineage::seen(&self.core));
        Ok(Response::new(v1::FinishResponse { leases, seen }))
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Answer<v1::ReleaseResponse> {
        let request = request.into_inner();
        lineage::witness(&self.core, request.worker.as_ref()).await?;
        let (worker, reports) = reports(request.worker, request.leases)?;
        let release = Release {
            worker,
            reports,
            retry_fraction: self.core.retry_fraction(),
            abandon: request.abandon,
            doubt_grace_ms: self.core.lease.doubt_grace_ms(),
            delay_ms: request.delay_ms.min(RELEASE_DELAY_MS_MAX),
        };
        let answers = self.core.store.release(release).await.map_err(ApiError::from)?;
        let (leases, seen) = (answers.into_iter().map(Into::into).collect(), lineage::seen(&self.core));
        Ok(Response::new(v1::ReleaseResponse { leases, seen }))
    }

    async fn facts(&self, request: Request<v1::FactsRequest>) -> Answer<v1::FactsResponse> {
        let request = request.into_inner();
        lineage::witness(&self.core, request.worker.as_ref()).await?;
        wire::worker(request.worker).map_err(ApiError::from)?;
        at_most("facts", request.facts.len(), "facts_per_call_max", FACTS_PER_CALL_MAX)?;
        let facts: Result<Vec<Fact>, _> = request.facts.into_iter().map(Fact::try_from).collect();
        let facts = facts.map_err(ApiError::from)?;
        let statuses = self.core.store.facts(facts, self.core.retry_fraction()).await.map_err(ApiError::from)?;
        let facts = statuses.into_iter().map(|status| v1::FactStatus::from(status).into()).collect();
        Ok(Response::new(v1::FactsResponse { facts, seen: lineage::seen(&self.core) }))
    }

    async fn share_relays(&self, request: Request<v1::ShareRelaysRequest>) -> Answer<v1::ShareRelaysResponse> {
        let v1::ShareRelaysRequest { worker, sequence, relays } = request.into_inner();
        let worker = wire::worker(worker).map_err(ApiError::from)?;
        at_most("relays", relays.len(), "relays_limited_max", RELAYS_LIMITED_MAX)?;
        let wishes: Result<Vec<RelayWish>, _> = relays.into_iter().map(RelayWish::try_from).collect();
        // Connections wait for replies that may come until the recipient could be sent to again: then not even
        // closing them costs anything.
        let ttl_ms = self.core.lease.ttl_ms() + self.core.lease.doubt_grace_ms();
        let mut shares = Vec::new();
        for wish in wishes.map_err(ApiError::from)? {
            let share = ShareRelay { worker: worker.clone(), sequence, wish, ttl_ms };
            shares.push(self.core.store.share_relay(share).await.map_err(ApiError::from)?.into());
        }
        Ok(Response::new(v1::ShareRelaysResponse { relays: shares }))
    }
}

fn at_most(field: &'static str, count: usize, limit: &'static str, max: usize) -> Result<(), ApiError> {
    if count <= max {
        return Ok(());
    }
    Err(ApiError::TooMany { field, limit, max: max as u64 })
}

fn reports(
    worker: Option<v1::Worker>,
    leases: Vec<v1::LeaseCheckpoint>,
) -> Result<(WorkerId, Vec<LeaseReport>), ApiError> {
    let worker = wire::worker(worker)?;
    at_most("leases", leases.len(), "leases_per_call_max", LEASES_PER_CALL_MAX)?;
    let reports = leases.into_iter().map(LeaseReport::try_from).collect::<Result<_, _>>()?;
    Ok((worker, reports))
}

fn lease_wish(core: &Core, request: v1::LeaseRequest) -> Result<LeaseWish, ApiError> {
    let worker = wire::worker(request.worker)?;
    let request_id = request.request_id.parse().map_err(Invalid::id("request_id"))?;
    if request.batches_max == 0 {
        return Err(Invalid::field("batches_max", format!("it must be from 1 to {LEASES_PER_CALL_MAX}")).into());
    }
    at_most("batches_max", request.batches_max as usize, "leases_per_call_max", LEASES_PER_CALL_MAX)?;
    if u64::from(request.wait_ms) > LEASE_WAIT_MS_MAX {
        return Err(Invalid::field("wait_ms", format!("it must be from 0 to {LEASE_WAIT_MS_MAX}")).into());
    }
    at_most("known_definitions", request.known_definitions.len(), "known_definitions_max", KNOWN_DEFINITIONS_MAX)?;
    let known = request.known_definitions.iter().map(|hash| hash.parse::<DefinitionHash>());
    let known = known.collect::<Result<_, _>>().map_err(Invalid::id("known_definitions"))?;
    Ok(LeaseWish {
        worker,
        request: request_id,
        batches_max: request.batches_max,
        lanes: lanes_wanted(core, &request.lanes)?,
        wait_ms: u64::from(request.wait_ms),
        known,
        slots: request.slots,
    })
}

/// The lanes asked for with their weights; none asked for: all.
fn lanes_wanted(core: &Core, names: &[String]) -> Result<Vec<(LaneName, u32)>, ApiError> {
    if names.is_empty() {
        return Ok(core.lanes.iter().map(|lane| (lane.name.clone(), lane.weight)).collect());
    }
    let mut wanted: Vec<(LaneName, u32)> = Vec::new();
    for name in names {
        let name: LaneName = name.parse().map_err(Invalid::id("lanes"))?;
        let Some(lane) = core.lane(&name) else {
            let why = format!("there is no lane '{name}'; known lanes: {}", core.lane_names());
            return Err(Invalid::field("lanes", why).into());
        };
        if wanted.iter().all(|(other, _)| *other != name) {
            wanted.push((name, lane.weight));
        }
    }
    Ok(wanted)
}
