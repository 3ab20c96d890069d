//! `send`: one message, by a campaign's template or a file's.

use super::campaign::started;
use crate::campaign_file;
use crate::client;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::shapes::Started;
use clap::Args;
use postrider_common::Address;
use postrider_common::ids::LaneName;
use postrider_proto::v1;
use std::path::PathBuf;

#[derive(Debug, Clone, Args)]
pub struct SendArgs {
    /// Use the message of this campaign
    #[arg(long, value_name = "NAME", required_unless_present = "template", conflicts_with = "template")]
    pub campaign: Option<String>,
    /// Use this file: from, [template] subject, html, text …; a campaign file will do
    #[arg(long, value_name = "FILE")]
    pub template: Option<PathBuf>,
    /// Recipient
    #[arg(long, value_name = "ADDRESS")]
    pub to: String,
    /// Sender, instead of the campaign's or the file's
    #[arg(long, value_name = "MAILBOX")]
    pub from: Option<String>,
    /// Lane, instead of the campaign's or the file's [default: transactional]
    #[arg(long, value_name = "LANE")]
    pub lane: Option<String>,
    /// Merge field, any number of them
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub set: Vec<(String, String)>,
    /// The same key again sends nothing and answers with the same run
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Carried as X-Correlation-Id
    #[arg(long, value_name = "ID")]
    pub correlation_id: Option<String>,
    /// Show progress, end with the report; fails if the run does not finish
    #[arg(long)]
    pub wait: bool,
}

pub fn pair(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE".to_owned()),
    }
}

pub async fn perform(context: &Context, args: SendArgs) -> Result<()> {
    if let Err(why) = args.to.parse::<Address>() {
        return Err(Failure::usage(format!("--to '{}': {why}", crate::output::clean(&args.to))));
    }
    if let Some(lane) = &args.lane {
        lane.parse::<LaneName>().map_err(|why| Failure::usage(format!("--lane: {why}")))?;
    }
    let (message, file_lane) = match &args.template {
        None => (None, None),
        Some(path) => {
            let file = campaign_file::read_message(path, args.from.as_deref())?;
            (Some(file.message), file.lane.map(|lane| lane.to_string()))
        }
    };
    let fields = args.set.iter().map(|(key, value)| (key.clone(), value.as_str().into()));
    let fields: serde_json::Map<String, serde_json::Value> = fields.collect();
    let (mut client, _) = context.client()?;
    let request = v1::SendMessageRequest {
        campaign: args.campaign.unwrap_or_default(),
        message: message.map(Into::into),
        to: args.to,
        fields_json: serde_json::Value::Object(fields).to_string(),
        lane: args.lane.or(file_lane).unwrap_or_default(),
        idempotency_key: args.idempotency_key.unwrap_or_else(|| client.idempotency_key()),
        correlation_id: args.correlation_id.unwrap_or_default(),
        from: args.from.unwrap_or_default(),
    };
    let call = |channel| {
        let request = request.clone();
        async move { client::messages(channel).send_message(request).await }
    };
    let answer = client.call(call).await?;
    started(context, &mut client, Started { run: answer.run_id, created: answer.created }, args.wait).await
}
