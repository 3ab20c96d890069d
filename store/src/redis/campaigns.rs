//! Campaigns and message definitions: global, under the tag `{g}`.

use super::global::Global;
use super::keys;
use super::reply::{Elements, corrupt, parse, read};
use super::scripts::{Args, Transition};
use super::shard::only;
use crate::api::{AppliedCampaign, ApplyCampaign, CampaignRecord, NewRun, Result};
use bytes::Bytes;
use postrider_common::ids::{CampaignName, DefinitionHash, IdempotencyKey};
use postrider_common::limits::APPLY_KEYS_KEPT_MAX;
use redis::Value;
use std::collections::HashMap;

impl Global {
    pub(super) async fn campaign_apply(&self, apply: ApplyCampaign) -> Result<AppliedCampaign> {
        self.keep_definition(&apply.definition, &apply.definition_bytes).await?;
        let own = [keys::campaign(&apply.name), keys::CAMPAIGNS.to_owned()];
        let args = Args::default().text(apply.name.as_str()).text(&apply.spec).text(apply.definition.as_str());
        let args = args.text(apply.key.as_ref().map_or("", IdempotencyKey::as_str)).text(&apply.fingerprint);
        let args = args.int(APPLY_KEYS_KEPT_MAX as u64);
        let answer = self.run_script(Transition::ApplyCampaign, &own, args).await?;
        if let Value::BulkString(word) = &answer
            && word == b"conflict"
        {
            return Ok(AppliedCampaign::Conflict);
        }
        let mut answer = Elements::of(answer, "apply_campaign")?;
        Ok(AppliedCampaign::Applied { version: answer.read()?, changed: answer.read::<u8>()? == 1 })
    }

    /// Written before the transition that names it. Its key is its content's hash, so it may be there already
    /// and may never be changed.
    pub(super) async fn keep_definition(&self, hash: &DefinitionHash, encoded: &[u8]) -> Result<()> {
        let mut pipe = redis::pipe();
        pipe.cmd("SET").arg(keys::definition(hash)).arg(encoded).arg("NX");
        only(self.links.bulk.call(pipe).await?).map(drop)
    }

    pub(super) async fn definition_of(&self, hash: &DefinitionHash) -> Result<Option<Bytes>> {
        let mut pipe = redis::pipe();
        pipe.cmd("GET").arg(keys::definition(hash));
        let value = only(self.links.bulk.call(pipe).await?)?;
        let bytes: Option<Vec<u8>> = read(value, "a definition")?;
        Ok(bytes.map(Bytes::from))
    }

    /// What is known of the campaign that a run needs: ok, none or paused.
    pub(super) async fn campaign_of(&self, run: &NewRun) -> Result<&'static str> {
        Ok(match run.campaign.parse::<CampaignName>() {
            _ if !run.requires_campaign => "ok",
            Err(_) => "none",
            Ok(name) => match self.campaign_named(&name).await? {
                None => "none",
                Some(campaign) if campaign.paused => "paused",
                Some(_) => "ok",
            },
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

    async fn campaign_records(&self, names: Vec<CampaignName>) -> Result<Vec<CampaignRecord>> {
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

    pub(super) async fn campaign_set_paused(&self, name: &CampaignName, paused: bool) -> Result<bool> {
        let args = Args::default().flag(paused);
        let answer = self.run_script(Transition::SetCampaignPaused, &[keys::campaign(name)], args).await?;
        Ok(read::<u8>(answer, "set_campaign_paused")? == 1)
    }

    pub(super) async fn campaign_delete(&self, name: &CampaignName) -> Result<bool> {
        let own = [keys::campaign(name), keys::CAMPAIGNS.to_owned()];
        let answer = self.run_script(Transition::DeleteCampaign, &own, Args::default().text(name.as_str())).await?;
        Ok(read::<u8>(answer, "delete_campaign")? == 1)
    }
}

fn campaign_record(name: CampaignName, value: Value) -> Result<Option<CampaignRecord>> {
    let mut fields: HashMap<String, Vec<u8>> = read(value, "a campaign")?;
    if fields.is_empty() {
        return Ok(None);
    }
    let mut field = |name: &str| fields.remove(name).ok_or_else(|| corrupt(format!("a campaign without {name}")));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| corrupt("a campaign: not UTF-8"));
    Ok(Some(CampaignRecord {
        version: parse(&text(field("version")?)?, "a campaign's version")?,
        definition: parse(&text(field("definition")?)?, "a campaign's definition")?,
        paused: field("paused")? == b"1",
        applied_at_ms: parse(&text(field("applied_at")?)?, "a campaign's time")?,
        spec: field("spec")?,
        name,
    }))
}
