//! A master: the store's model behind the Dispatch service.

use postrider_common::backoff::RetryPolicy;
use postrider_common::campaign::OnUnknown;
use postrider_common::clock::{Clock, SystemClock};
use postrider_common::ids::{LaneName, RunId, SiteName};
use postrider_common::lease::{Fact, Lease, LeaseReport};
use postrider_common::message::{MessageSpec, Recipient};
use postrider_common::pace::Limits;
use postrider_common::run::RecipientCounts;
use postrider_common::{payload, wire};
use postrider_proto::v1;
use postrider_proto::v1::dispatch_server::{Dispatch, DispatchServer};
use postrider_store::api::{
    AddBatches, Checkpoint, Claim, ClaimSplit, Delivery, Finish, NewBatch, NewRun, Reclaim, Release, ShareRelay,
};
use postrider_store::embedded::model::Model;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

const WINDOW: u32 = 10;
const GRACE_MS: u64 = 200;
const HARD_CAP_MS: u64 = 1_800_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Serve,
    Unavailable,
}

#[derive(Debug)]
struct State {
    model: Model,
    wish: Wish,
    claims: u64,
    spec: MessageSpec,
}

#[derive(Clone)]
pub struct Master {
    pub address: SocketAddr,
    ttl_ms: u64,
    clock: Arc<SystemClock>,
    state: Arc<Mutex<State>>,
    witness: Arc<OnceLock<Witness>>,
}

/// Called with what a call carries, before anything is done with it.
type Witness = Box<dyn Fn(&[LeaseReport]) + Send + Sync>;

impl Master {
    pub async fn start(ttl_ms: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let spec = MessageSpec {
            from: "Acme <digest@acme.example>".into(),
            subject: "Hello, {{ name }}".into(),
            text: "Dear {{ name }}".into(),
            ..MessageSpec::default()
        };
        let state = State { model: Model::default(), wish: Wish::Serve, claims: 0, spec };
        let master = Self {
            address: listener.local_addr().unwrap(),
            ttl_ms,
            clock: Arc::new(SystemClock::default()),
            state: Arc::new(Mutex::new(state)),
            witness: Arc::default(),
        };
        let server = tonic::transport::Server::builder().add_service(DispatchServer::new(master.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let reclaimer = master.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let ttl_ms = reclaimer.ttl_ms;
                let reclaim = Reclaim { limit: 100, ttl_ms, doubt_grace_ms: GRACE_MS, outage_gap_ms: 60_000 };
                reclaimer.with(|model, now| model.reclaim(now, reclaim));
            }
        });
        master
    }

    pub fn wish(&self, wish: Wish) {
        self.state.lock().unwrap().wish = wish;
    }

    /// Once at most.
    pub fn witness(&self, witness: impl Fn(&[LeaseReport]) + Send + Sync + 'static) {
        assert!(self.witness.set(Box::new(witness)).is_ok());
    }

    fn reports(&self, leases: Vec<v1::LeaseCheckpoint>) -> Result<Vec<LeaseReport>, Status> {
        let reports = reports(leases)?;
        self.witness.get().inspect(|witness| witness(&reports));
        Ok(reports)
    }

    pub fn claims(&self) -> u64 {
        self.state.lock().unwrap().claims
    }

    fn with<T>(&self, act: impl FnOnce(&mut Model, i64) -> T) -> T {
        let now = self.clock.wall_ms();
        act(&mut self.state.lock().unwrap().model, now)
    }

    /// Recipient 7 has no name.
    pub fn add_run(&self, name: &str, count: usize, address: impl Fn(usize) -> String) -> RunId {
        self.add_run_in(LaneName::bulk(), name, count, address)
    }

    pub fn add_run_in(&self, lane: LaneName, name: &str, count: usize, address: impl Fn(usize) -> String) -> RunId {
        let id = RunId::derive(name, "1");
        let recipients: Vec<Recipient> = (0..count)
            .map(|index| {
                let address: postrider_common::Address = address(index).parse().unwrap();
                let mut fields = serde_json::Map::new();
                if index != 7 {
                    fields.insert("name".into(), format!("Person {index}").into());
                }
                Recipient { key: address.normalised(), address, fields }
            })
            .collect();
        let site = SiteName::other();
        let batch = |(sequence, recipients): (u64, &[Recipient])| NewBatch {
            sequence,
            site: site.clone(),
            count: recipients.len() as u32,
            payload: payload::encode(recipients).to_vec(),
            not_before_ms: 0,
            checked: 0,
        };
        let batches = (1u64..).zip(recipients.chunks(100)).map(batch).collect();
        let spec = self.state.lock().unwrap().spec.clone();
        let new = NewRun {
            id: id.clone(),
            fingerprint: String::new(),
            campaign: name.to_owned(),
            requires_campaign: false,
            lane,
            on_unknown: OnUnknown::Resend,
            retry: RetryPolicy { base_ms: 60_000, cap_ms: 60_000, ttl_ms: 86_400_000 },
            definition: spec.hash(),
            definition_bytes: spec.encode(),
            sender_domain: "acme.example".into(),
            audience: Vec::new(),
            nominal_at_ms: None,
        };
        self.with(|model, now| {
            model.create_run(now, new);
            let request = format!("split-{name}").parse().unwrap();
            let split = model.claim_split(now, ClaimSplit { request, nonce: 1, ttl_ms: 60_000 }).unwrap();
            let add = AddBatches {
                run: id.clone(),
                fence: split.fence,
                cursor: 0,
                cursor_next: 1,
                batches,
                open: Vec::new(),
                bad_rows: 0,
                repeated_rows: 0,
                bad_row_samples: Vec::new(),
                complete: true,
                ttl_ms: 60_000,
            };
            model.add_batches(now, add);
        });
        id
    }

    pub fn counts(&self, run: &RunId) -> RecipientCounts {
        self.with(|model, _| model.run(run).unwrap().recipients)
    }

    pub fn recipients(&self, run: &RunId) -> Vec<Delivery> {
        self.with(|model, _| model.batches(run, 0, 1000)).into_iter().flat_map(|batch| batch.recipients).collect()
    }

    pub fn leased(&self) -> u64 {
        self.with(|model, _| model.runs(None, 100)).iter().map(|run| run.batches.leased).sum()
    }

    fn serve(&self) -> Result<(), Status> {
        match self.state.lock().unwrap().wish {
            Wish::Serve => Ok(()),
            Wish::Unavailable => Err(Status::unavailable("told so")),
        }
    }

    fn lease_once(&self, request: &v1::LeaseRequest) -> Result<v1::LeaseResponse, Status> {
        self.serve()?;
        let claim = Claim {
            worker: wire::worker(request.worker.clone()).map_err(invalid)?,
            request: request.request_id.parse().unwrap(),
            nonce: 3,
            batches_max: request.batches_max,
            lanes: lanes(&request.lanes),
            ttl_ms: self.ttl_ms,
            hard_cap_ms: HARD_CAP_MS,
            slots: request.slots,
            limits: Limits::default(),
        };
        let claimed = self.with(|model, now| model.claim(now, claim));
        let mut state = self.state.lock().unwrap();
        state.claims += claimed.leases.len() as u64;
        let hash = state.spec.hash().to_string();
        let is_known = claimed.leases.is_empty() || request.known_definitions.contains(&hash);
        let definition = v1::Definition { hash, message: Some(state.spec.clone().into()) };
        let lease = |claimed: postrider_store::api::ClaimedBatch| Lease {
            run: claimed.batch.run.clone(),
            batch: claimed.batch,
            fence: claimed.fence,
            campaign: claimed.campaign,
            lane: claimed.lane,
            site: claimed.site,
            definition: claimed.definition,
            ttl_ms: claimed.ttl_ms,
            hard_cap_ms: claimed.hard_cap_ms,
            window: WINDOW,
            payload: claimed.payload.into(),
            recipients: claimed.recipients,
            only: claimed.only,
        };
        Ok(v1::LeaseResponse {
            leases: claimed.leases.into_iter().map(|claimed| lease(claimed).into()).collect(),
            definitions: if is_known { Vec::new() } else { vec![definition] },
            held_ms: 0,
            drain: claimed.drain,
            seen: Vec::new(),
        })
    }
}

fn lanes(wanted: &[String]) -> Vec<(LaneName, u32)> {
    let all = [(LaneName::bulk(), 10), (LaneName::transactional(), 100)];
    let is_wanted = |lane: &LaneName| wanted.is_empty() || wanted.iter().any(|name| name == lane.as_str());
    all.into_iter().filter(|(lane, _)| is_wanted(lane)).collect()
}

fn invalid(error: wire::InvalidField) -> Status {
    Status::invalid_argument(error.to_string())
}

fn reports(leases: Vec<v1::LeaseCheckpoint>) -> Result<Vec<LeaseReport>, Status> {
    leases.into_iter().map(|lease| lease.try_into().map_err(invalid)).collect()
}

#[tonic::async_trait]
impl Dispatch for Master {
    async fn lease(&self, request: Request<v1::LeaseRequest>) -> Result<Response<v1::LeaseResponse>, Status> {
        let request = request.into_inner();
        let begun = self.clock.boot_ms();
        loop {
            let mut response = self.lease_once(&request)?;
            response.held_ms = self.clock.boot_ms() - begun;
            if !response.leases.is_empty() || response.held_ms >= u64::from(request.wait_ms) {
                return Ok(Response::new(response));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn checkpoint(
        &self,
        request: Request<v1::CheckpointRequest>,
    ) -> Result<Response<v1::CheckpointResponse>, Status> {
        self.serve()?;
        let request = request.into_inner();
        let checkpoint = Checkpoint {
            worker: wire::worker(request.worker).map_err(invalid)?,
            reports: self.reports(request.leases)?,
            ttl_ms: self.ttl_ms,
            window: WINDOW,
            retry_fraction: 0,
            limits: Limits::default(),
            grants: None,
        };
        let answers = self.with(|model, now| model.checkpoint(now, checkpoint));
        Ok(Response::new(v1::CheckpointResponse {
            leases: answers.into_iter().map(Into::into).collect(),
            drain: false,
            seen: Vec::new(),
        }))
    }

    async fn finish(&self, request: Request<v1::FinishRequest>) -> Result<Response<v1::FinishResponse>, Status> {
        self.serve()?;
        let request = request.into_inner();
        let worker = wire::worker(request.worker).map_err(invalid)?;
        let finish = Finish { worker, reports: self.reports(request.leases)?, retry_fraction: 0 };
        let answers = self.with(|model, now| model.finish(now, finish));
        Ok(Response::new(v1::FinishResponse {
            leases: answers.into_iter().map(Into::into).collect(),
            seen: Vec::new(),
        }))
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Result<Response<v1::ReleaseResponse>, Status> {
        self.serve()?;
        let request = request.into_inner();
        let release = Release {
            worker: wire::worker(request.worker).map_err(invalid)?,
            reports: self.reports(request.leases)?,
            retry_fraction: 0,
            abandon: request.abandon,
            doubt_grace_ms: GRACE_MS,
            delay_ms: request.delay_ms,
        };
        let answers = self.with(|model, now| model.release(now, release));
        Ok(Response::new(v1::ReleaseResponse {
            leases: answers.into_iter().map(Into::into).collect(),
            seen: Vec::new(),
        }))
    }

    async fn facts(&self, request: Request<v1::FactsRequest>) -> Result<Response<v1::FactsResponse>, Status> {
        self.serve()?;
        let facts = request.into_inner().facts.into_iter().map(|fact| fact.try_into().map_err(invalid));
        let facts: Vec<Fact> = facts.collect::<Result<_, _>>()?;
        let statuses = self.with(|model, now| model.facts(now, (facts, 0)));
        let statuses = statuses.into_iter().map(|status| v1::FactStatus::from(status).into()).collect();
        Ok(Response::new(v1::FactsResponse { facts: statuses, seen: Vec::new() }))
    }

    async fn share_relays(
        &self,
        request: Request<v1::ShareRelaysRequest>,
    ) -> Result<Response<v1::ShareRelaysResponse>, Status> {
        self.serve()?;
        let v1::ShareRelaysRequest { worker, sequence, relays } = request.into_inner();
        let worker = wire::worker(worker).map_err(invalid)?;
        let mut shares = Vec::new();
        for relay in relays {
            let wish = relay.try_into().map_err(invalid)?;
            let share = ShareRelay { worker: worker.clone(), sequence, wish, ttl_ms: self.ttl_ms };
            shares.push(self.with(|model, now| model.share_relay(now, share)).into());
        }
        Ok(Response::new(v1::ShareRelaysResponse { relays: shares }))
    }
}
