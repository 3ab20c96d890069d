//! Schedules: what is due, and beginning its run.
//!
//! A schedule is global and its run is in a shard, so the run that `fire` decides on is an effect: written into the
//! outbox by the script that moves the schedule on, created in its shard, acknowledged. There is one at a time for each
//! campaign, and the shard keeps its version, so that it begins one run however often it is carried out.

use super::effects::Effect;
use super::global::Global;
use super::reply::{Elements, corrupt, parse};
use super::runs::run_fields;
use super::scripts::{Args, Transition};
use super::{Redis, keys};
use crate::api::{DueSchedules, Fire, Fired, FiredRun, NewRun, Result, Scheduled, SkipReason, Skipped, Steered};
use postrider_common::ids::{CampaignName, RunId, to_hex};
use std::collections::HashMap;

/// Of the effect that is the run of an occurrence.
pub(super) fn subject(campaign: &CampaignName) -> String {
    format!("F|{campaign}")
}

/// The run of an occurrence, as it stands in the outbox.
struct Firing {
    cancel: Option<RunId>,
    run: RunId,
    fingerprint: String,
    nominal: String,
    /// Of the hash of the run, and their values.
    fields: Vec<Vec<u8>>,
}

impl Firing {
    fn of(run: &NewRun, cancel: Option<RunId>) -> Self {
        let nominal = run.nominal_at_ms.map_or(String::new(), |at| at.to_string());
        let (run, fingerprint, fields) = (run.id.clone(), run.fingerprint.clone(), run_fields(run).0);
        Self { cancel, run, fingerprint, nominal, fields }
    }

    /// Words without spaces: the runs as they are, the rest in hexadecimal after a dot, since it may be empty.
    fn word(&self) -> String {
        let mut words = vec![self.cancel.as_ref().map_or("-", RunId::as_str).to_owned(), self.run.to_string()];
        let texts = [self.fingerprint.as_bytes(), self.nominal.as_bytes()];
        let all = texts.into_iter().chain(self.fields.iter().map(Vec::as_slice));
        words.extend(all.map(|bytes| format!(".{}", to_hex(bytes))));
        words.join(" ")
    }

    fn read(word: &str) -> Result<Self> {
        let wrong = || corrupt("a run on its way to its shard");
        let mut words = word.split(' ');
        let mut run = || words.next().ok_or_else(wrong);
        let cancel = match run()? {
            "-" => None,
            id => Some(parse(id, "a run that gives way")?),
        };
        let run = parse(run()?, "a run on its way to its shard")?;
        let rest: Option<Vec<Vec<u8>>> = words.map(|word| word.strip_prefix('.').and_then(bytes_of)).collect();
        let mut rest = rest.ok_or_else(wrong)?.into_iter();
        let mut text = || String::from_utf8(rest.next().ok_or_else(wrong)?).map_err(|_| wrong());
        let (fingerprint, nominal) = (text()?, text()?);
        Ok(Self { cancel, run, fingerprint, nominal, fields: rest.collect() })
    }
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| if let [high, low] = pair { Some(digit(*high)? << 4 | digit(*low)?) } else { None }).collect()
}

impl Global {
    async fn schedule_fire(&self, fire: &Fire) -> Result<(Fired, Option<Effect>)> {
        let subject = subject(&fire.campaign);
        let [schedules, outbox, version] = [keys::SCHEDULES, keys::OUTBOX, keys::VERSION].map(str::to_owned);
        let own = [keys::campaign(&fire.campaign), schedules, outbox, version];
        let instant = |at: Option<i64>| at.map_or(String::new(), |at| at.to_string());
        let args = Args::default().text(fire.campaign.as_str()).text(fire.request.as_str()).int(fire.stamp);
        let args = args.int(fire.decided_until_ms).text(instant(fire.due_at_ms)).text(instant(fire.look_at_ms));
        let args = args.text(&fire.zones).text(&subject);
        let args = match &fire.run {
            None => args.text("").text("").text(""),
            Some(run) => {
                let nominal = run.nominal_at_ms.unwrap_or(fire.decided_until_ms);
                args.text(Firing::of(run, fire.cancel.clone()).word()).text(run.id.as_str()).int(nominal)
            }
        };
        let skipped = |args: Args, skipped: &Skipped| {
            let args = args.text(skipped.reason.name()).int(skipped.count).int(skipped.nominal_at_ms);
            args.text(&skipped.why)
        };
        let args = fire.skipped.iter().fold(args, skipped);
        let mut answer = Elements::of(self.run_script(Transition::Fire, &own, args).await?, "fire")?;
        let fired = match answer.read::<String>()?.as_str() {
            "done" => Fired::Done,
            "stale" => Fired::Stale,
            "early" => Fired::Early,
            "busy" => Fired::Busy,
            other => return Err(corrupt(format!("fire answered {other}"))),
        };
        let effect = Effect::of(subject, &mut answer)?;
        Ok((fired, effect))
    }

    async fn schedules_due(&self, limit: usize) -> Result<DueSchedules> {
        let mut pipe = redis::pipe();
        let last = i64::try_from(limit).unwrap_or(i64::MAX) - 1;
        pipe.cmd("TIME");
        pipe.cmd("ZRANGE").arg(keys::SCHEDULES).arg(0).arg(last).arg("WITHSCORES");
        let mut answers = self.links.read_bulk(pipe, "schedules").await?;
        let (seconds, micros): (i64, i64) = answers.read()?;
        let now_ms = seconds * 1000 + micros / 1000;
        let all: Vec<(String, f64)> = if limit == 0 { Vec::new() } else { answers.read()? };
        let due = all.iter().take_while(|(_, at)| *at <= now_ms as f64);
        let names = due.map(|(name, _)| parse(name, "schedules")).collect::<Result<_>>()?;
        Ok(DueSchedules { now_ms, campaigns: self.campaign_records(names).await? })
    }

    /// The run of this campaign that is still on its way to its shard.
    async fn waiting_run(&self, campaign: &CampaignName) -> Result<Option<Effect>> {
        let subject = subject(campaign);
        let mut pipe = redis::pipe();
        pipe.cmd("HGET").arg(keys::OUTBOX).arg(&subject);
        let entry: Option<String> = self.links.read_bulk(pipe, "the outbox").await?.read()?;
        entry.map(|entry| Effect::read(subject, &entry)).transpose()
    }
}

impl Redis {
    pub(super) async fn schedule_fire(&self, fire: Fire) -> Result<Fired> {
        if let Some(run) = &fire.run {
            self.global.keep_definition(&run.definition, &run.definition_bytes).await?;
        }
        self.step()?;
        let (fired, effect) = self.global.schedule_fire(&fire).await?;
        if let Some(effect) = effect {
            self.carry_out(&effect).await?;
        }
        Ok(fired)
    }

    pub(super) async fn schedules_due(&self, limit: usize) -> Result<DueSchedules> {
        self.global.schedules_due(limit).await
    }

    /// Carries out what the schedule of this campaign decided on before it was paused or deleted: no run begins after.
    pub(super) async fn end_firing(&self, campaign: &CampaignName) -> Result<()> {
        match self.global.waiting_run(campaign).await? {
            Some(effect) => self.carry_out(&effect).await,
            None => Ok(()),
        }
    }

    /// Creates the run in its shard, after the one that gives way to it was cancelled in its own.
    pub(super) async fn begin_fired(&self, subject: &str, version: u64, word: &str) -> Result<()> {
        let firing = Firing::read(word)?;
        if let Some(run) = &firing.cancel {
            self.step()?;
            match self.shard(run).run_steer(Transition::CancelRun, run).await? {
                // It may have been forgotten.
                Steered::Done | Steered::Cancelled | Steered::NoRun => (),
            }
        }
        self.step()?;
        let args = Args::default().text(firing.run.as_str()).text(&firing.fingerprint).text("fired").int(version);
        let args = firing.fields.iter().fold(args.text(subject).text(&firing.nominal), Args::text);
        self.shard(&firing.run).run_begin(&firing.run, args).await.map(drop)
    }
}

/// Takes where its schedule stands out of the hash of a campaign.
pub(super) fn standing(fields: &mut HashMap<String, Vec<u8>>) -> Result<Option<Scheduled>> {
    if fields.remove("schedule").is_none() {
        return Ok(None);
    }
    let mut text = |name: &str| -> Result<String> {
        let bytes = fields.remove(name).unwrap_or_default();
        String::from_utf8(bytes).map_err(|_| corrupt(format!("a campaign: {name} is not UTF-8")))
    };
    let number = |text: String| if text.is_empty() { Ok(0) } else { parse::<u64>(&text, "a number of a campaign") };
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let instant = |text: String| parse::<i64>(&text, "an instant of a campaign");
    let last_fired = match some(text("fired_run")?) {
        None => None,
        Some(run) => Some(FiredRun {
            run: parse(&run, "a run of a campaign")?,
            nominal_at_ms: instant(text("fired_nominal")?)?,
            at_ms: instant(text("fired_at")?)?,
        }),
    };
    let last_skipped = some(text("skipped")?).map(|skipped| skipped_of(&skipped)).transpose()?;
    let why = text("skipped_why")?;
    Ok(Some(Scheduled {
        stamp: number(text("stamp")?)?,
        decided_until_ms: instant(text("decided")?)?,
        active_since_ms: instant(text("active")?)?,
        due_at_ms: some(text("due")?).map(instant).transpose()?,
        zones: text("zones")?,
        fired: number(text("fired")?)?,
        last_fired,
        missed: number(text(SkipReason::Missed.name())?)?,
        overlapped: number(text(SkipReason::Overlap.name())?)?,
        refused: number(text(SkipReason::CannotRun.name())?)?,
        last_skipped: last_skipped.map(|skipped| Skipped { why, ..skipped }),
        by: some(text("by")?).map(|by| parse(&by, "a request of a campaign")).transpose()?,
    }))
}

/// `reason count nominal`.
fn skipped_of(text: &str) -> Result<Skipped> {
    let wrong = || corrupt("what a campaign passed over");
    let words: Vec<&str> = text.split(' ').collect();
    let [reason, count, nominal] = words[..] else { return Err(wrong()) };
    let reason = SkipReason::ALL.into_iter().find(|known| known.name() == reason).ok_or_else(wrong)?;
    let (count, nominal_at_ms) = (parse(count, "a count of a campaign")?, parse(nominal, "an instant of a campaign")?);
    Ok(Skipped { reason, count, nominal_at_ms, why: String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_on_its_way_is_read_as_it_was_written() {
        for cancel in [None, Some(RunId::derive("test", "before"))] {
            let run = RunId::derive("test", "run");
            let fields =
                vec![b"lane".to_vec(), b"bulk".to_vec(), b"audience".to_vec(), (0..=255).collect(), Vec::new()];
            let firing = Firing { cancel, run, fingerprint: "f g".into(), nominal: "17".into(), fields };
            let read = Firing::read(&firing.word()).unwrap();
            assert_eq!((&read.cancel, &read.run, &read.nominal), (&firing.cancel, &firing.run, &firing.nominal));
            assert_eq!((&read.fingerprint, &read.fields), (&firing.fingerprint, &firing.fields));
        }
        for wrong in ["", "-", "- x", "- run_000000000000000000000000 .4", "- run_000000000000000000000000 .zz ."] {
            assert!(Firing::read(wrong).is_err(), "{wrong}");
        }
    }
}
