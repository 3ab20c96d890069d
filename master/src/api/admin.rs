//! Service Admin: looking at and steering runs, lanes and workers.

use super::status::{ApiError, no_run};
use super::{STREAM_AHEAD_MAX, Stream1, dead, erase, page_limit, recipients, suppress, waiting};
use crate::campaign::Invalid;
use crate::core::Core;
use crate::split::Plan;
use postrider_common::address::{Address, InvalidAddress};
use postrider_common::ids::{LaneName, RunId};
use postrider_proto::v1;
use postrider_proto::v1::admin_server::Admin;
use postrider_store::{RunRecord, Steered, WorkerRecord};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Runs looked at, at most, for one page of one campaign's runs.
const RUNS_LOOKED_AT_MAX: usize = 10_000;
const WATCH_INTERVAL_MS: std::ops::RangeInclusive<u32> = 100..=60_000;
const WATCH_INTERVAL_MS_DEFAULT: u32 = 1_000;

#[derive(Debug, Clone)]
pub struct AdminApi {
    pub core: Arc<Core>,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Admin for AdminApi {
    async fn get_run(&self, request: Request<v1::GetRunRequest>) -> Answer<v1::GetRunResponse> {
        let run = find(&self.core, &request.into_inner().run_id).await?;
        Ok(Response::new(v1::GetRunResponse { run: Some(looked_at(&self.core, run).await?) }))
    }

    async fn list_runs(&self, request: Request<v1::ListRunsRequest>) -> Answer<v1::ListRunsResponse> {
        Ok(Response::new(self.list(request.into_inner()).await?))
    }

    type WatchRunStream = Stream1<v1::WatchRunResponse>;

    async fn watch_run(&self, request: Request<v1::WatchRunRequest>) -> Answer<Self::WatchRunStream> {
        let request = request.into_inner();
        let interval_ms = match request.interval_ms {
            0 => WATCH_INTERVAL_MS_DEFAULT,
            ms if WATCH_INTERVAL_MS.contains(&ms) => ms,
            _ => return Err(ApiError::from(Invalid::field("interval_ms", "it must be from 100 to 60000")).into()),
        };
        let run = find(&self.core, &request.run_id).await?;
        let (sender, receiver) = mpsc::channel(STREAM_AHEAD_MAX);
        let core = Arc::clone(&self.core);
        tokio::spawn(async move {
            if let Err(error) = watch(&core, run, Duration::from_millis(u64::from(interval_ms)), &sender).await {
                let _ = sender.send(Err(error.into())).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn pause_run(&self, request: Request<v1::PauseRunRequest>) -> Answer<v1::PauseRunResponse> {
        let id = parse_run(&request.into_inner().run_id)?;
        steered(&id, "pause", self.core.store.pause_run(&id).await.map_err(ApiError::from)?)?;
        Ok(Response::new(v1::PauseRunResponse {}))
    }

    async fn resume_run(&self, request: Request<v1::ResumeRunRequest>) -> Answer<v1::ResumeRunResponse> {
        let id = parse_run(&request.into_inner().run_id)?;
        steered(&id, "resume", self.core.store.resume_run(&id).await.map_err(ApiError::from)?)?;
        self.core.split_due.notify_one();
        Ok(Response::new(v1::ResumeRunResponse {}))
    }

    async fn cancel_run(&self, request: Request<v1::CancelRunRequest>) -> Answer<v1::CancelRunResponse> {
        let id = parse_run(&request.into_inner().run_id)?;
        match self.core.store.cancel_run(&id).await.map_err(ApiError::from)? {
            Steered::Done | Steered::Cancelled => tracing::info!(run = %id, "run cancelled"),
            Steered::NoRun => return Err(no_run(id.as_str()).into()),
        }
        Ok(Response::new(v1::CancelRunResponse {}))
    }

    async fn retry_run(&self, request: Request<v1::RetryRunRequest>) -> Answer<v1::RetryRunResponse> {
        Ok(Response::new(dead::retry(&self.core, request.into_inner()).await?))
    }

    async fn list_dead_letters(
        &self,
        request: Request<v1::ListDeadLettersRequest>,
    ) -> Answer<v1::ListDeadLettersResponse> {
        Ok(Response::new(dead::list(&self.core, request.into_inner()).await?))
    }

    async fn get_dead_letter(&self, request: Request<v1::GetDeadLetterRequest>) -> Answer<v1::GetDeadLetterResponse> {
        let letter = dead::get(&self.core, &request.into_inner().id).await?;
        Ok(Response::new(v1::GetDeadLetterResponse { letter: Some(letter) }))
    }

    async fn replay_dead_letter(
        &self,
        request: Request<v1::ReplayDeadLetterRequest>,
    ) -> Answer<v1::ReplayDeadLetterResponse> {
        let recipients = dead::replay(&self.core, request.into_inner()).await?;
        Ok(Response::new(v1::ReplayDeadLetterResponse { recipients }))
    }

    async fn purge_dead_letter(
        &self,
        request: Request<v1::PurgeDeadLetterRequest>,
    ) -> Answer<v1::PurgeDeadLetterResponse> {
        let recipients = dead::purge(&self.core, &request.into_inner().id).await?;
        Ok(Response::new(v1::PurgeDeadLetterResponse { recipients }))
    }

    type ListRecipientsStream = Stream1<v1::ListRecipientsResponse>;

    async fn list_recipients(&self, request: Request<v1::ListRecipientsRequest>) -> Answer<Self::ListRecipientsStream> {
        let request = request.into_inner();
        let states = recipients::states(&request)?;
        let run = find(&self.core, &request.run_id).await?;
        let (sender, receiver) = mpsc::channel(STREAM_AHEAD_MAX);
        let core = Arc::clone(&self.core);
        tokio::spawn(async move {
            if let Err(error) = recipients::list(&core, &run, &states, &sender).await {
                let _ = sender.send(Err(error.into())).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type FindRecipientStream = Stream1<v1::FindRecipientResponse>;

    async fn find_recipient(&self, request: Request<v1::FindRecipientRequest>) -> Answer<Self::FindRecipientStream> {
        let address: Address = request
            .into_inner()
            .address
            .parse()
            .map_err(|error: InvalidAddress| ApiError::from(Invalid::field("address", error.to_string())))?;
        let (sender, receiver) = mpsc::channel(STREAM_AHEAD_MAX);
        let core = Arc::clone(&self.core);
        tokio::spawn(async move {
            if let Err(error) = recipients::find(&core, &address, &sender).await {
                let _ = sender.send(Err(error.into())).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn list_bad_rows(&self, request: Request<v1::ListBadRowsRequest>) -> Answer<v1::ListBadRowsResponse> {
        let run = find(&self.core, &request.into_inner().run_id).await?;
        let rows = self.core.store.bad_rows(&run.id).await.map_err(ApiError::from)?;
        let rows = rows.into_iter().map(|row| v1::BadRow { row: row.row, reason: row.reason }).collect();
        Ok(Response::new(v1::ListBadRowsResponse { rows, total: run.bad_rows }))
    }

    async fn erase(&self, request: Request<v1::EraseRequest>) -> Answer<v1::EraseResponse> {
        let erasure = erase::ask(&self.core, &request.into_inner().address).await?;
        Ok(Response::new(v1::EraseResponse { erasure: Some(erasure) }))
    }

    async fn get_erasure(&self, request: Request<v1::GetErasureRequest>) -> Answer<v1::GetErasureResponse> {
        let erasure = erase::get(&self.core, &request.into_inner().id).await?;
        Ok(Response::new(v1::GetErasureResponse { erasure: Some(erasure) }))
    }

    async fn list_erasures(&self, _: Request<v1::ListErasuresRequest>) -> Answer<v1::ListErasuresResponse> {
        Ok(Response::new(erase::list(&self.core).await?))
    }

    async fn suppress(&self, request: Request<v1::SuppressRequest>) -> Answer<v1::SuppressResponse> {
        Ok(Response::new(suppress::add(&self.core, request.into_inner()).await?))
    }

    async fn unsuppress(&self, request: Request<v1::UnsuppressRequest>) -> Answer<v1::UnsuppressResponse> {
        Ok(Response::new(suppress::remove(&self.core, request.into_inner()).await?))
    }

    async fn list_suppressions(
        &self,
        request: Request<v1::ListSuppressionsRequest>,
    ) -> Answer<v1::ListSuppressionsResponse> {
        Ok(Response::new(suppress::list(&self.core, request.into_inner()).await?))
    }

    async fn list_lanes(&self, _request: Request<v1::ListLanesRequest>) -> Answer<v1::ListLanesResponse> {
        let names: Vec<LaneName> = self.core.lanes.iter().map(|lane| lane.name.clone()).collect();
        let records = self.core.store.lanes(&names).await.map_err(ApiError::from)?;
        let lanes = self.core.lanes.iter().map(|lane| {
            let record = records.iter().find(|record| record.name == lane.name);
            let limit = self.core.limits.lanes.get(&lane.name).copied().unwrap_or_default();
            v1::Lane {
                rate: limit.pace.map(|pace| pace.rate.to_string()).unwrap_or_default(),
                burst: limit.pace.map_or(0, |pace| pace.burst),
                concurrency: limit.concurrency.unwrap_or(0),
                in_intent: record.map_or(0, |record| record.in_intent_limited),
                name: lane.name.to_string(),
                weight: lane.weight,
                paused: record.is_some_and(|record| record.paused),
                batches_ready: record.map_or(0, |record| record.batches_ready),
            }
        });
        Ok(Response::new(v1::ListLanesResponse { lanes: lanes.collect() }))
    }

    async fn pause_lane(&self, request: Request<v1::PauseLaneRequest>) -> Answer<v1::PauseLaneResponse> {
        self.set_lane_paused(&request.into_inner().lane, true).await?;
        Ok(Response::new(v1::PauseLaneResponse {}))
    }

    async fn resume_lane(&self, request: Request<v1::ResumeLaneRequest>) -> Answer<v1::ResumeLaneResponse> {
        self.set_lane_paused(&request.into_inner().lane, false).await?;
        Ok(Response::new(v1::ResumeLaneResponse {}))
    }

    async fn list_workers(&self, _request: Request<v1::ListWorkersRequest>) -> Answer<v1::ListWorkersResponse> {
        let workers = self.core.store.workers().await.map_err(ApiError::from)?;
        Ok(Response::new(v1::ListWorkersResponse { workers: workers.iter().map(worker_to_wire).collect() }))
    }

    async fn drain_worker(&self, request: Request<v1::DrainWorkerRequest>) -> Answer<v1::DrainWorkerResponse> {
        let name = request.into_inner().worker;
        if name.is_empty() || name.len() > 100 {
            return Err(ApiError::from(Invalid::field("worker", "give a worker's name or instance")).into());
        }
        let workers = self.core.store.drain_worker(&name).await.map_err(ApiError::from)?;
        if workers == 0 {
            let shown: String = name.escape_debug().collect();
            return Err(ApiError::NotFound(format!("there is no worker '{shown}': see workers list")).into());
        }
        tracing::info!(worker = name.escape_debug().to_string(), workers, "workers told to drain");
        Ok(Response::new(v1::DrainWorkerResponse { workers: u32::try_from(workers).unwrap_or(u32::MAX) }))
    }
}

impl AdminApi {
    async fn set_lane_paused(&self, name: &str, paused: bool) -> Result<(), ApiError> {
        let name: LaneName = name.parse().map_err(Invalid::id("lane"))?;
        if self.core.lane(&name).is_none() {
            let known = self.core.lane_names();
            return Err(ApiError::NotFound(format!("there is no lane '{name}'; known lanes: {known}")));
        }
        self.core.store.set_lane_paused(&name, paused).await?;
        tracing::info!(lane = %name, paused, "lane paused or resumed");
        Ok(())
    }

    async fn list(&self, request: v1::ListRunsRequest) -> Result<v1::ListRunsResponse, ApiError> {
        let limit = page_limit(request.limit, 50)?;
        let mut before = if request.after.is_empty() { None } else { Some(parse_page(&request.after)?) };
        let mut runs: Vec<RunRecord> = Vec::new();
        let mut looked_at = 0;
        let mut more = true;
        while more && runs.len() < limit && looked_at < RUNS_LOOKED_AT_MAX {
            let page = self.core.store.runs(before.clone(), limit).await?;
            looked_at += page.len();
            more = page.len() == limit;
            for run in page {
                if runs.len() == limit {
                    more = true;
                    break;
                }
                before = Some((run.created_at_ms, run.id.clone()));
                if request.campaign.is_empty() || run.campaign == request.campaign {
                    runs.push(run);
                }
            }
        }
        let next = before.filter(|_| more).map(|(at, id)| format!("{at}/{id}")).unwrap_or_default();
        Ok(v1::ListRunsResponse { runs: runs.into_iter().map(|run| to_wire(&self.core, run)).collect(), next })
    }
}

fn parse_page(text: &str) -> Result<(i64, RunId), ApiError> {
    let parts = text.split_once('/').and_then(|(at, id)| Some((at.parse().ok()?, id.parse().ok()?)));
    Ok(parts.ok_or_else(|| Invalid::field("after", "it is not from a previous page"))?)
}

fn parse_run(text: &str) -> Result<RunId, ApiError> {
    // Opaque: what does not parse is a run that is not there.
    text.parse().map_err(|_| no_run(text))
}

async fn find(core: &Core, run: &str) -> Result<RunRecord, ApiError> {
    let id = parse_run(run)?;
    core.store.run(&id).await?.ok_or_else(|| no_run(run))
}

fn steered(run: &RunId, what: &'static str, steered: Steered) -> Result<(), ApiError> {
    match steered {
        Steered::Done => {
            tracing::info!(%run, what, "run steered");
            Ok(())
        }
        Steered::NoRun => Err(no_run(run.as_str())),
        Steered::Cancelled => Err(ApiError::Precondition(format!(
            "cannot {what} the run {run}: it is cancelled for ever; run the campaign again"
        ))),
    }
}

/// Sends the run when it changed, until it has ended or nobody listens.
async fn watch(
    core: &Core,
    run: RunRecord,
    interval: Duration,
    sender: &mpsc::Sender<Result<v1::WatchRunResponse, Status>>,
) -> Result<(), ApiError> {
    let id = run.id.clone();
    let mut sent: Option<v1::Run> = None;
    let mut now = Some(run);
    loop {
        let run = match now.take() {
            Some(run) => run,
            None => core.store.run(&id).await?.ok_or_else(|| no_run(id.as_str()))?,
        };
        let ended = run.state().has_ended();
        let wire = looked_at(core, run).await?;
        if sent.as_ref() != Some(&wire) {
            sent = Some(wire.clone());
            if sender.send(Ok(v1::WatchRunResponse { run: Some(wire) })).await.is_err() {
                return Ok(());
            }
        }
        if ended {
            return Ok(());
        }
        tokio::select! {
            () = sender.closed() => return Ok(()),
            going = core.pause(interval) => if !going { return Err(ApiError::Stopping) },
        }
    }
}

/// What keeps a run from going on: its own error, or a lane that left the configuration.
fn error_of(core: &Core, run: &RunRecord) -> Option<v1::RunError> {
    if let Some(error) = &run.error {
        return Some(error.clone().into());
    }
    if run.state().has_ended() || core.lane(&run.lane).is_some() {
        return None;
    }
    let (lane, known) = (&run.lane, core.lane_names());
    Some(v1::RunError {
        code: "lane_unknown".to_owned(),
        message: format!("the run uses the lane '{lane}', which the masters do not have any more (lanes: {known})"),
        mend: format!(
            "nothing is lost and nothing is sent until then: add [[lane]] name = \"{lane}\" to the configuration of \
             all masters and restart them, or cancel the run"
        ),
    })
}

fn to_wire(core: &Core, run: RunRecord) -> v1::Run {
    let state = v1::RunState::from(run.state());
    let error = error_of(core, &run);
    let finished_at_ms = run.finished_at_ms().unwrap_or_default();
    // A sealed plan whose key is missing is read once the key is back.
    let plan = Plan::decode(&run.audience).ok();
    let campaign_version = plan.as_ref().map_or(0, |plan| plan.campaign_version);
    let list = plan.and_then(|plan| plan.list);
    let (list, list_version) = list.map_or_else(Default::default, |(name, version)| (name.to_string(), version));
    v1::Run {
        run_id: run.id.to_string(),
        campaign: run.campaign,
        state: state.into(),
        error,
        paused: run.paused,
        split_complete: run.split_complete,
        recipients: Some(run.recipients.into()),
        bad_rows: run.bad_rows,
        repeated_rows: run.repeated_rows,
        batches: Some(run.batches.into()),
        nominal_at_ms: run.nominal_at_ms,
        started_at_ms: run.started_at_ms.unwrap_or_default(),
        finished_at_ms,
        resent_reply_lost: run.resent_reply_lost,
        resent_outcome_not_recorded: run.resent_outcome_not_recorded,
        leases_expired: run.leases_expired,
        leases_taken_over: run.leases_taken_over,
        lane: run.lane.to_string(),
        cancel_requested: run.cancelled,
        generation: run.generation,
        campaign_version,
        held_until_ms: 0,
        next_wave_at_ms: 0,
        list,
        list_version,
    }
}

/// With what it waits for.
async fn looked_at(core: &Core, run: RunRecord) -> Result<v1::Run, ApiError> {
    let waiting::Waiting { held_until_ms, next_wave_at_ms } = waiting::of(core, &run).await?;
    Ok(v1::Run { held_until_ms, next_wave_at_ms, ..to_wire(core, run) })
}

fn worker_to_wire(worker: &WorkerRecord) -> v1::WorkerStatus {
    v1::WorkerStatus {
        worker: Some((&worker.id).into()),
        seen_at_ms: worker.seen_at_ms,
        slots: worker.slots,
        leases: worker.leases,
        in_intent: worker.in_intent,
        draining: worker.draining,
    }
}
