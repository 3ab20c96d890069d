//! Service Messages: one message, which is a run with one recipient.

use super::campaigns::{create, decode_record, parse_name};
use super::status::{ApiError, no_campaign};
use crate::campaign::submit::{self, Wish};
use crate::campaign::{Invalid, validate};
use crate::core::Core;
use postrider_common::LaneName;
use postrider_common::MessageSpec;
use postrider_common::campaign::{OnBadRow, OnUnknown};
use postrider_proto::v1;
use postrider_proto::v1::messages_server::Messages;
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
        let audience = submit::single_recipient(&request.to, &request.fields_json)?;
        validate::correlation_id(&request.correlation_id)?;
        let Some(frame) = self.frame(&request).await? else {
            // The campaign was deleted since? Then a repeat still gets the run that it started.
            return match core.store.run(&id).await? {
                Some(run) => Ok(v1::SendMessageResponse { run_id: run.id.to_string(), created: false }),
                None => Err(no_campaign(&request.campaign)),
            };
        };
        let lane = validate::lane(&frame.lane, &core.lanes)?;
        let wish = Wish {
            id,
            fingerprint,
            campaign: &frame.campaign,
            lane,
            on_unknown: frame.on_unknown,
            on_bad_row: OnBadRow::Fail,
            message: frame.message,
            audience,
        };
        let (run_id, created) = create(core, wish.freeze()?).await?;
        Ok(v1::SendMessageResponse { run_id: run_id.to_string(), created })
    }

    /// None: there is no such campaign.
    async fn frame(&self, request: &v1::SendMessageRequest) -> Result<Option<Frame>, ApiError> {
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
                validate::message(&message)?;
                let lane = lane.unwrap_or_else(LaneName::transactional);
                Ok(Some(Frame { campaign: String::new(), lane, on_unknown: OnUnknown::Resend, message }))
            }
            (None, name) => {
                let name = parse_name("campaign", name)?;
                let Some(record) = self.core.store.campaign(&name).await? else { return Ok(None) };
                let campaign = decode_record(&record)?;
                Ok(Some(Frame {
                    campaign: name.to_string(),
                    lane: lane.unwrap_or_else(|| campaign.lane.clone()),
                    on_unknown: campaign.on_unknown,
                    message: submit::campaign_message(&campaign, &request.correlation_id),
                }))
            }
        }
    }
}
