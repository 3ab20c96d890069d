//! Service Campaigns: definitions, and runs of them.

use super::status::{ApiError, no_campaign};
use super::{STREAM_AHEAD_MAX, Stream1, firings, lists, page_limit, upload};
use crate::campaign::prepare::{self, require_stored};
use crate::campaign::submit;
use crate::campaign::{self, Invalid, validate, versions};
use crate::core::Core;
use crate::schedule::{self, WrongSchedule};
use jiff::Timestamp;
use postrider_common::CampaignName;
use postrider_common::campaign::{Audience, Campaign, When};
use postrider_common::ids::{DefinitionHash, IdempotencyKey, RunId};
use postrider_proto::v1;
use postrider_proto::v1::campaigns_server::Campaigns;
use postrider_store::{AppliedCampaign, ApplyCampaign, CampaignRecord, CreatedRun, NewRun, StoreError};
use prost::Message as _;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

#[derive(Debug, Clone)]
pub struct CampaignsApi {
    pub core: Arc<Core>,
}

/// Firings that are told when the caller does not say how many.
const NEXT_FIRINGS: usize = 10;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Campaigns for CampaignsApi {
    async fn apply_campaign(&self, request: Request<v1::ApplyCampaignRequest>) -> Answer<v1::ApplyCampaignResponse> {
        let request = request.into_inner();
        let key = match request.idempotency_key.as_str() {
            "" => None,
            text => Some(text.parse().map_err(Invalid::id("idempotency_key")).map_err(ApiError::from)?),
        };
        let wire = request.campaign.ok_or_else(|| ApiError::from(Invalid::field("campaign", "it is missing")))?;
        Ok(Response::new(self.apply(wire, key).await?))
    }

    async fn get_campaign(&self, request: Request<v1::GetCampaignRequest>) -> Answer<v1::GetCampaignResponse> {
        let v1::GetCampaignRequest { name, version } = request.into_inner();
        let record = self.find(&name).await?;
        let campaign = match version {
            0 => record_to_wire(record)?,
            same if same == record.version => record_to_wire(record)?,
            later if later > record.version => {
                let newest = record.version;
                return Err(ApiError::NotFound(format!("the campaign '{name}' is at version {newest}")).into());
            }
            earlier => versions::read(&self.core, &record.name, earlier).await?,
        };
        Ok(Response::new(v1::GetCampaignResponse { campaign: Some(campaign) }))
    }

    async fn list_campaigns(&self, request: Request<v1::ListCampaignsRequest>) -> Answer<v1::ListCampaignsResponse> {
        let request = request.into_inner();
        let limit = page_limit(request.limit, 100).map_err(ApiError::from)?;
        let after = if request.after.is_empty() { None } else { Some(parse_name("after", &request.after)?) };
        let mut records = self.core.store.campaigns(after.as_ref(), limit + 1).await.map_err(ApiError::from)?;
        let more = records.len() > limit;
        records.truncate(limit);
        let next = records.last().filter(|_| more).map(|record| record.name.to_string()).unwrap_or_default();
        let campaigns = records.into_iter().map(record_to_wire).collect::<Result<_, _>>()?;
        Ok(Response::new(v1::ListCampaignsResponse { campaigns, next }))
    }

    async fn delete_campaign(&self, request: Request<v1::DeleteCampaignRequest>) -> Answer<v1::DeleteCampaignResponse> {
        let name = parse_name("name", &request.into_inner().name)?;
        let found = self.core.store.delete_campaign(&name).await.map_err(ApiError::from)?;
        // Also when it is gone already: whoever deleted it may have died here.
        self.core.storage.remove_versions(&name).await.map_err(ApiError::from)?;
        if !found {
            return Err(no_campaign(name.as_str()).into());
        }
        tracing::info!(campaign = %name, "campaign deleted");
        Ok(Response::new(v1::DeleteCampaignResponse {}))
    }

    async fn pause_campaign(&self, request: Request<v1::PauseCampaignRequest>) -> Answer<v1::PauseCampaignResponse> {
        self.set_paused(&request.into_inner().name, true).await?;
        Ok(Response::new(v1::PauseCampaignResponse {}))
    }

    async fn resume_campaign(&self, request: Request<v1::ResumeCampaignRequest>) -> Answer<v1::ResumeCampaignResponse> {
        self.set_paused(&request.into_inner().name, false).await?;
        Ok(Response::new(v1::ResumeCampaignResponse {}))
    }

    async fn run_campaign(&self, request: Request<v1::RunCampaignRequest>) -> Answer<v1::RunCampaignResponse> {
        Ok(Response::new(self.run(request.into_inner()).await?))
    }

    async fn next_firings(&self, request: Request<v1::NextFiringsRequest>) -> Answer<v1::NextFiringsResponse> {
        let request = request.into_inner();
        let limit = page_limit(request.limit, NEXT_FIRINGS).map_err(ApiError::from)?;
        let campaign = decode_record(&self.find(&request.campaign).await?)?;
        let from_ms = match request.from_ms {
            0 => self.core.store.now_ms().await.map_err(ApiError::from)?,
            given => given,
        };
        Ok(Response::new(firings::next(&self.core.zones, &campaign, from_ms, limit)?))
    }

    async fn upload_audience(
        &self,
        request: Request<Streaming<v1::UploadAudienceRequest>>,
    ) -> Answer<v1::UploadAudienceResponse> {
        Ok(Response::new(upload::receive(&self.core, request.into_inner()).await?))
    }

    async fn change_list(&self, request: Request<v1::ChangeListRequest>) -> Answer<v1::ChangeListResponse> {
        Ok(Response::new(lists::change(&self.core, request.into_inner()).await?))
    }

    async fn list_lists(&self, request: Request<v1::ListListsRequest>) -> Answer<v1::ListListsResponse> {
        Ok(Response::new(lists::page(&self.core, request.into_inner()).await?))
    }

    async fn get_list(&self, request: Request<v1::GetListRequest>) -> Answer<v1::GetListResponse> {
        Ok(Response::new(lists::get(&self.core, request.into_inner()).await?))
    }

    async fn delete_list(&self, request: Request<v1::DeleteListRequest>) -> Answer<v1::DeleteListResponse> {
        Ok(Response::new(lists::delete(&self.core, request.into_inner()).await?))
    }

    type ExportListStream = Stream1<v1::ExportListResponse>;

    async fn export_list(&self, request: Request<v1::ExportListRequest>) -> Answer<Self::ExportListStream> {
        let (core, request) = (Arc::clone(&self.core), request.into_inner());
        let (sender, receiver) = mpsc::channel(STREAM_AHEAD_MAX);
        tokio::spawn(async move {
            if let Err(error) = lists::export(&core, request, &sender).await {
                let _ = sender.send(Err(error.into())).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl CampaignsApi {
    async fn apply(
        &self,
        wire: v1::Campaign,
        key: Option<IdempotencyKey>,
    ) -> Result<v1::ApplyCampaignResponse, ApiError> {
        let core = &self.core;
        let mut campaign = Campaign::try_from(wire)?;
        // Filled in by the master at each run.
        campaign.message.campaign.clear();
        campaign.message.correlation_id.clear();
        validate::campaign(&campaign, &core.lanes, &core.zones)?;
        if let Some(audience) = &campaign.audience {
            require_stored(core, audience).await?;
        }
        self.has_something_to_come(&campaign).await?;
        self.keep_version(&campaign.name).await;
        let lane = validate::lane(&campaign.lane, &core.lanes)?;
        let message = submit::campaign_message(&campaign, lane, "");
        let spec = campaign::encode(&campaign);
        let apply = ApplyCampaign {
            name: campaign.name.clone(),
            key,
            fingerprint: DefinitionHash::of(&spec).to_string(),
            spec,
            schedule: campaign::encode_schedule(&campaign),
            definition: message.hash(),
            definition_bytes: message.encode(),
        };
        let AppliedCampaign::Applied { version, changed } = core.store.apply_campaign(apply).await? else {
            return Err(key_conflict());
        };
        if changed {
            tracing::info!(campaign = %campaign.name, version, "campaign applied");
            self.keep_version(&campaign.name).await;
        }
        Ok(v1::ApplyCampaignResponse { version, changed })
    }

    /// What is in force, before it is replaced and when it is new: that of whoever died in between is kept by the next one.
    async fn keep_version(&self, name: &CampaignName) {
        match self.core.store.campaign(name).await {
            Ok(Some(record)) => versions::keep(&self.core, record).await,
            Ok(None) => {}
            Err(error) => tracing::warn!(campaign = %name, %error, "failed to keep a version of a campaign"),
        }
    }

    /// A schedule of which nothing is still to come is a mistake, unless it is the one that was applied before.
    async fn has_something_to_come(&self, campaign: &Campaign) -> Result<(), ApiError> {
        let Some(schedule) = &campaign.schedule else { return Ok(()) };
        let wrong = |error: WrongSchedule| Invalid::field(error.field(), error.to_string());
        let timetable = schedule::read(schedule, campaign.name.as_str(), &self.core.zones).map_err(wrong)?.timetable;
        let now = Timestamp::from_millisecond(self.core.store.now_ms().await?)
            .map_err(|error| ApiError::Internal(format!("the store's clock cannot be used: {error}")))?;
        if timetable.after(now).is_some() {
            return Ok(());
        }
        let before =
            self.core.store.campaign(&campaign.name).await?.map(|record| decode_record(&record)).transpose()?;
        if before.is_some_and(|before| before.schedule.as_ref() == Some(schedule)) {
            return Ok(());
        }
        let field = match schedule.when {
            When::At(_) => "schedule.at",
            When::Cron(_) => "schedule.end",
        };
        let why = "it has passed, nothing is due any more: give a later one, or leave the schedule out";
        Err(Invalid::field(field, why).into())
    }

    async fn find(&self, name: &str) -> Result<CampaignRecord, ApiError> {
        let name = parse_name("name", name)?;
        self.core.store.campaign(&name).await?.ok_or_else(|| no_campaign(name.as_str()))
    }

    async fn set_paused(&self, name: &str, paused: bool) -> Result<(), ApiError> {
        let name = parse_name("name", name)?;
        if !self.core.store.set_campaign_paused(&name, paused).await? {
            return Err(no_campaign(name.as_str()));
        }
        tracing::info!(campaign = %name, paused, "campaign paused or resumed");
        Ok(())
    }

    async fn run(&self, request: v1::RunCampaignRequest) -> Result<v1::RunCampaignResponse, ApiError> {
        let core = &self.core;
        let name = parse_name("campaign", &request.campaign)?;
        let key = submit::key(&request.idempotency_key, core.random_wide())?;
        let id = submit::campaign_run_id(name.as_str(), &key);
        let given = request.audience.as_ref().map(v1::AudienceSource::encode_to_vec).unwrap_or_default();
        let fingerprint = submit::fingerprint(&[name.as_str().as_bytes(), &given]);
        let run = self.prepare(&name, id.clone(), fingerprint, request.audience).await;
        let (run_id, created) = create(core, id, run).await?;
        Ok(v1::RunCampaignResponse { run_id: run_id.to_string(), created })
    }

    async fn prepare(
        &self,
        name: &CampaignName,
        id: RunId,
        fingerprint: String,
        audience: Option<v1::AudienceSource>,
    ) -> Result<NewRun, ApiError> {
        let core = &self.core;
        let record = core.store.campaign(name).await?.ok_or_else(|| no_campaign(name.as_str()))?;
        let campaign = decode_record(&record)?;
        let audience = audience.map(Audience::try_from).transpose()?;
        let mut run = prepare::run(core, &campaign, record.version, id, fingerprint, audience).await?;
        let lane = core.lane(&campaign.lane);
        if lane.is_some_and(|lane| submit::local(&campaign, lane).is_some()) {
            // What is in which batch follows from it: a store that lost the run and is told of it again has the same batches.
            run.nominal_at_ms = Some(core.storage.nominal_of(&run.id, core.store.now_ms().await?).await?);
        }
        Ok(run)
    }
}

/// Creates a run, or finds the one that the same submit created before.
///
/// What a run needs may be gone when a submit is repeated (its campaign deleted, its lane no longer
/// configured): the repeat is answered with the run all the same.
pub async fn create(core: &Core, id: RunId, run: Result<NewRun, ApiError>) -> Result<(RunId, bool), ApiError> {
    let run = match run {
        Ok(run) => run,
        Err(error) => match error {
            ApiError::NotFound(_) | ApiError::Precondition(_) if core.store.run(&id).await?.is_some() => {
                return Ok((id, false));
            }
            error => return Err(error),
        },
    };
    let campaign = run.campaign.clone();
    match core.store.create_run(run).await? {
        CreatedRun::Created => {
            core.split_due.notify_one();
            tracing::info!(run = %id, campaign, "run created");
            Ok((id, true))
        }
        CreatedRun::Existed => Ok((id, false)),
        CreatedRun::Conflict => Err(key_conflict()),
        CreatedRun::BeingForgotten => Err(StoreError::Refusing {
            message: format!("the run {id} of this idempotency key ended so long ago that it is being forgotten"),
            mend: "repeat the call in a moment, or use another key",
        }
        .into()),
        CreatedRun::NoCampaign => Err(no_campaign(&campaign)),
        CreatedRun::CampaignPaused => {
            Err(ApiError::Precondition(format!("the campaign '{campaign}' is paused: resume it first")))
        }
    }
}

pub fn parse_name(field: &str, text: &str) -> Result<CampaignName, ApiError> {
    Ok(text.parse().map_err(Invalid::id(field))?)
}

pub fn decode_record(record: &CampaignRecord) -> Result<Campaign, ApiError> {
    campaign::decode(&record.spec)
        .map_err(|error| ApiError::Internal(format!("the stored campaign '{}' cannot be read: {error}", record.name)))
}

fn record_to_wire(record: CampaignRecord) -> Result<v1::CampaignRecord, ApiError> {
    let campaign = decode_record(&record)?;
    Ok(v1::CampaignRecord {
        campaign: Some(campaign.into()),
        version: record.version,
        paused: record.paused,
        applied_at_ms: record.applied_at_ms,
        schedule: record.schedule.map(firings::state),
    })
}

fn key_conflict() -> ApiError {
    ApiError::Conflict("idempotency_key: it was used before with other contents; use a new key for a new submit".into())
}
