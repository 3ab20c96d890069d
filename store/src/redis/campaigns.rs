//! Campaigns and message definitions: global, under the tag `{g}`.

use super::effects::{self, Effect};
use super::global::Global;
use super::keys;
use super::reply::{Elements, corrupt, parse, read};
use super::schedules;
use super::scripts::{Args, Transition};
use super::shard::only;
use crate::api::{AppliedCampaign, ApplyCampaign, CampaignRecord, NewRun, Result};
use bytes::Bytes;
use postrider_common::ids::{CampaignName, DefinitionHash, IdempotencyKey};
use postrider_common::limits::APPLY_KEYS_KEPT_MAX;
use redis::Value;
use std::collections::HashMap;

/// Later than every version: nothing that was steered concerns a run without a campaign.
const MAX_VERSION: u64 = 1 << 53;

/// The campaign that a run needs, as it was read before the run is created.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needed {
    /// ok, none or paused.
    pub word: &'static str,
    /// Of what was steered last. A shard that knows a newer one knows better.
    pub version: u64,
}

impl Global {
    pub(super) async fn campaign_apply(&self, apply: ApplyCampaign) -> Result<AppliedCampaign> {
        self.keep_definition(&apply.definition, &apply.definition_bytes).await?;
        let [outbox, version] = [keys::OUTBOX, keys::VERSION].map(str::to_owned);
        let own =
            [keys::campaign(&apply.name), keys::CAMPAIGNS.to_owned(), outbox, version, keys::SCHEDULES.to_owned()];
        let args = Args::default().text(apply.name.as_str()).text(&apply.spec).text(apply.definition.as_str());
        let args = args.text(apply.key.as_ref().map_or("", IdempotencyKey::as_str)).text(&apply.fingerprint);
        let args = args.int(APPLY_KEYS_KEPT_MAX as u64).text(&apply.schedule);
        let answer = self.run_script(Transition::ApplyCampaign, &own, args).await?;
        if let Value::BulkString(word) = &answer
            && word == b"conflict"
        {
            return Ok(AppliedCampaign::Conflict);
        }
        let mut answer = Elements::of(answer, "apply_campaign")?;
        Ok(AppliedCampaign::Applied { version: answer.read()?, changed: answer.read::<u8>()? == 1 })
    }

    pub(super) async fn definition_of(&self, hash: &DefinitionHash) -> Result<Option<Bytes>> {
        let mut pipe = redis::pipe();
        pipe.cmd("GET").arg(keys::definition(hash));
        let value = only(self.links.bulk.call(pipe).await?)?;
        let bytes: Option<Vec<u8>> = read(value, "a definition")?;
        Ok(bytes.map(Bytes::from))
    }

    /// What is known of the campaign that a run needs.
    pub(super) async fn campaign_of(&self, run: &NewRun) -> Result<Needed> {
        let needed = |word, version| Needed { word, version };
        let name = match run.campaign.parse::<CampaignName>() {
            _ if !run.requires_campaign => return Ok(needed("ok", MAX_VERSION)),
            Err(_) => return Ok(needed("none", 0)),
            Ok(name) => name,
        };
        let mut pipe = redis::pipe();
        pipe.cmd("HMGET").arg(keys::campaign(&name)).arg(&["paused", "steered"]);
        let (paused, steered): (Option<String>, Option<u64>) =
            read(only(self.links.swift.call(pipe).await?)?, "a campaign")?;
        let version = steered.unwrap_or(0);
        Ok(match paused.as_deref() {
            None => needed("none", version),
            Some("1") => needed("paused", version),
            Some(_) => needed("ok", version),
        })
    }

    pub(super) async fn campaign_named(&self, name: &CampaignName) -> Result<Option<CampaignRecord>> {
        Ok(self.campaign_records(vec![name.clone()]).await?.into_iter().next())
    }

    pub(super) async fn campaigns_after(
        &self,
        after: Option<&CampaignName>,
        limit: usize,
    ) -> Result<Vec<CampaignRecord>> {
        let mut pipe = redis::pipe();
        let from = after.map_or("-".to_owned(), |name| format!("({name}"));
        pipe.cmd("ZRANGEBYLEX").arg(keys::CAMPAIGNS).arg(from).arg("+").arg("LIMIT").arg(0).arg(limit);
        let names: Vec<String> = read(only(self.links.bulk.call(pipe).await?)?, "campaigns")?;
        let names = names.iter().map(|name| parse(name, "campaigns")).collect::<Result<_>>()?;
        self.campaign_records(names).await
    }

    pub(super) async fn campaign_records(&self, names: Vec<CampaignName>) -> Result<Vec<CampaignRecord>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for name in &names {
            pipe.cmd("HGETALL").arg(keys::campaign(name));
        }
        let mut answers = self.links.read_bulk(pipe, "campaigns").await?;
        let mut records = Vec::with_capacity(names.len());
        for name in names {
            records.extend(campaign_record(name, answers.value()?)?);
        }
        Ok(records)
    }

    /// The effect on the shards; None: there is no such campaign.
    pub(super) async fn campaign_set_paused(&self, name: &CampaignName, paused: bool) -> Result<Option<Effect>> {
        let subject = effects::campaign(name.as_str());
        let [outbox, version, schedules] = [keys::OUTBOX, keys::VERSION, keys::SCHEDULES].map(str::to_owned);
        let own = [keys::campaign(name), outbox, version, schedules];
        let args = Args::default().flag(paused).text(&subject).text(name.as_str());
        Effect::sent(subject, self.run_script(Transition::SetCampaignPaused, &own, args).await?)
    }

    /// The effect on the shards; None: there was no such campaign.
    pub(super) async fn campaign_delete(&self, name: &CampaignName) -> Result<Option<Effect>> {
        let subject = effects::campaign(name.as_str());
        let [outbox, version, schedules] = [keys::OUTBOX, keys::VERSION, keys::SCHEDULES].map(str::to_owned);
        let own = [keys::campaign(name), keys::CAMPAIGNS.to_owned(), outbox, version, schedules];
        let args = Args::default().text(name.as_str()).text(&subject);
        Effect::sent(subject, self.run_script(Transition::DeleteCampaign, &own, args).await?)
    }
}

fn campaign_record(name: CampaignName, value: Value) -> Result<Option<CampaignRecord>> {
    let mut fields: HashMap<String, Vec<u8>> = read(value, "a campaign")?;
    if fields.is_empty() {
        return Ok(None);
    }
    let schedule = schedules::standing(&mut fields)?;
    let mut field = |name: &str| fields.remove(name).ok_or_else(|| corrupt(format!("a campaign without {name}")));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| corrupt("a campaign: not UTF-8"));
    Ok(Some(CampaignRecord {
        version: parse(&text(field("version")?)?, "a campaign's version")?,
        definition: parse(&text(field("definition")?)?, "a campaign's definition")?,
        paused: field("paused")? == b"1",
        applied_at_ms: parse(&text(field("applied_at")?)?, "a campaign's time")?,
        spec: field("spec")?,
        schedule,
        name,
    }))
}
