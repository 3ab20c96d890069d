//! Service Messages: one message, which is a run with one recipient.

use super::campaigns::{create, decode_record, parse_name};
use super::status::{ApiError, no_campaign};
use crate::campaign::submit::{self, Wish};
use crate::campaign::{Invalid, validate};
use crate::core::Core;
use postrider_common::LaneName;
use postrider_common::MessageSpec;
use postrider_common::RunId;
use postrider_common::campaign::{OnBadRow, OnUnknown};
use postrider_proto::v1;
use postrider_proto::v1::messages_server::Messages;
use postrider_store::NewRun;
use prost::Message as _;
use std::sync::Arc;
use tonic::{Request, Response, Status};

#[derive(Debug, Clone)]
pub struct MessagesApi {
    pub core: Arc<Core>,
}

#[tonic::async_trait]
impl Messages for MessagesApi {
    async fn send_message(
        &self,
        request: Request<v1::SendMessageRequest>,
    ) -> Result<Response<v1::SendMessageResponse>, Status> {
        Ok(Response::new(self.send(request.into_inner()).await?))
    }
}

/// What a message takes from a campaign, or from the request alone.
struct Frame {
    campaign: String,
    campaign_version: u64,
    lane: LaneName,
    on_unknown: OnUnknown,
    message: MessageSpec,
}

impl MessagesApi {
    async fn send(&self, request: v1::SendMessageRequest) -> Result<v1::SendMessageResponse, ApiError> {
        let core = &self.core;
        let key = submit::key(&request.idempotency_key, core.random_wide())?;
        let id = submit::message_run_id(&key);
        let fingerprint = submit::fingerprint(&[&request.encode_to_vec()]);
        let run = self.prepare(&request, id.clone(), fingerprint).await;
        let (run_id, created) = create(core, id, run).await?;
        Ok(v1::SendMessageResponse { run_id: run_id.to_string(), created })
    }

    async fn prepare(
        &self,
        request: &v1::SendMessageRequest,
        id: RunId,
        fingerprint: String,
    ) -> Result<NewRun, ApiError> {
        let audience = submit::single_recipient(&request.to, &request.fields_json)?;
        validate::correlation_id(&request.correlation_id)?;
        let frame = self.frame(request).await?;
        let lane = validate::lane(&frame.lane, &self.core.lanes)?;
        let wish = Wish {
            id,
            fingerprint,
            campaign: &frame.campaign,
            campaign_version: frame.campaign_version,
            lane,
            on_unknown: frame.on_unknown,
            on_bad_row: OnBadRow::Fail,
            message: frame.message,
            audience,
            local: None,
            list: None,
        };
        Ok(wish.freeze()?)
    }

    async fn frame(&self, request: &v1::SendMessageRequest) -> Result<Frame, ApiError> {
        let lane = match request.lane.as_str() {
            "" => None,
            name => Some(name.parse::<LaneName>().map_err(Invalid::id("lane"))?),
        };
        match (&request.message, request.campaign.as_str()) {
            (Some(_), name) if !name.is_empty() => {
                Err(Invalid::field("message", "give either message or campaign, not both").into())
            }
            (None, "") => Err(Invalid::field("message", "it is missing: give message or campaign").into()),
            (Some(wire), _) => {
                let mut message = MessageSpec::from(wire.clone());
                message.campaign.clear();
                message.correlation_id = request.correlation_id.clone();
                let message = sent_by(message, &request.from);
                validate::message(&message)?;
                let lane = lane.unwrap_or_else(LaneName::transactional);
                let campaign = String::new();
                Ok(Frame { campaign, campaign_version: 0, lane, on_unknown: OnUnknown::Resend, message })
            }
            (None, name) => {
                let name = parse_name("campaign", name)?;
                let record = self.core.store.campaign(&name).await?.ok_or_else(|| no_campaign(name.as_str()))?;
                let campaign = decode_record(&record)?;
                let name_of_lane = lane.clone().unwrap_or_else(|| campaign.lane.clone());
                let in_lane = validate::lane(&name_of_lane, &self.core.lanes)?;
                let message = submit::campaign_message(&campaign, in_lane, &request.correlation_id);
                let message = sent_by(message, &request.from);
                validate::message(&message)?;
                Ok(Frame {
                    campaign: name.to_string(),
                    campaign_version: record.version,
                    lane: name_of_lane,
                    on_unknown: campaign.on_unknown,
                    message,
                })
            }
        }
    }
}

/// With another sender, when one is given.
fn sent_by(message: MessageSpec, from: &str) -> MessageSpec {
    if from.is_empty() { message } else { MessageSpec { from: from.to_owned(), ..message } }
}
