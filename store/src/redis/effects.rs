//! Effects: what must become true in every shard, told one after the other without a transaction over all of them.
//!
//! The script that decides on an effect writes it into the outbox, under its subject and with a version. Then it is
//! applied in each shard, which keeps the version and lets no older one undo it; then it is acknowledged, which takes it
//! out of the outbox. Who asked is answered after that. Whoever dies in between leaves the entry, and every master
//! carries on with what it finds there: to apply once more changes nothing.

use super::global::Global;
use super::reply::{Elements, corrupt, parse, read};
use super::scripts::{Args, Transition};
use super::shard::Shard;
use super::{Redis, keys};
use crate::api::Result;
#[cfg(feature = "conformance")]
use crate::error::StoreError;
use futures::future::join_all;
use postrider_common::ids::{LaneName, WorkerId};
use redis::Value;
use std::collections::BTreeMap;

pub(super) fn campaign(name: &str) -> String {
    format!("C|{name}")
}

/// Something that every shard must be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Effect {
    /// `C|campaign`, `L|lane` or `W|worker`: of one subject the newest counts. `F|campaign`: a run that its schedule began;
    /// one at a time. `S|set`: the number of the set of those who are not sent to is the version.
    subject: String,
    version: u64,
    /// Of a campaign: ok, paused or none; of a lane: 1 paused, 0 not; of a worker to drain: `seen at｜slots`; of a run: see
    /// `schedules`.
    word: String,
}

impl Effect {
    /// As a script answered that wrote it into the outbox. None: it wrote nothing.
    pub fn sent(subject: String, answer: Value) -> Result<Option<Self>> {
        Self::of(subject, &mut Elements::of(answer, "an effect")?)
    }

    /// As the rest of what a script answered.
    pub fn of(subject: String, answer: &mut Elements) -> Result<Option<Self>> {
        if answer.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self { subject, version: answer.parse()?, word: answer.read()? }))
    }

    /// As it stands in the outbox.
    pub fn read(subject: String, entry: &str) -> Result<Self> {
        let (version, word) = entry.split_once(' ').ok_or_else(|| corrupt("an entry of the outbox"))?;
        Ok(Self { subject, version: parse(version, "the version of an effect")?, word: word.to_owned() })
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    fn entry(&self) -> String {
        format!("{} {}", self.version, self.word)
    }
}

impl Global {
    async fn send(&self, subject: String, word: String) -> Result<Effect> {
        let own = [keys::OUTBOX.to_owned(), keys::VERSION.to_owned()];
        let args = Args::default().text(&subject).text(&word);
        let version: String = read(self.run_script(Transition::SendEffect, &own, args).await?, "an effect")?;
        Ok(Effect { subject, version: parse(&version, "the version of an effect")?, word })
    }

    async fn outbox(&self) -> Result<Vec<Effect>> {
        let mut pipe = redis::pipe();
        pipe.cmd("HGETALL").arg(keys::OUTBOX);
        let entries: BTreeMap<String, String> = self.links.read_bulk(pipe, "the outbox").await?.read()?;
        entries.into_iter().map(|(subject, entry)| Effect::read(subject, &entry)).collect()
    }

    /// A newer one of the same subject stays.
    async fn acknowledge(&self, effect: &Effect) -> Result<()> {
        let args = Args::default().text(&effect.subject).text(effect.entry());
        self.run_script(Transition::AcknowledgeEffect, &[keys::OUTBOX.to_owned()], args).await.map(drop)
    }
}

impl Shard {
    async fn apply(&self, effect: &Effect) -> Result<()> {
        let Effect { subject, version, word } = effect;
        let versioned = || Args::default().int(*version).text(subject);
        let (transition, args) = match subject.split_once('|') {
            Some(("C", _)) => (Transition::SteerCampaign, versioned().text(word)),
            Some(("S", _)) => (Transition::KnowSuppressions, Args::default().int(*version)),
            Some(("L", lane)) => (Transition::SetLanePaused, versioned().text(lane).text(word)),
            Some(("W", worker)) => {
                let (seen_at, slots) = word.split_once('|').ok_or_else(|| corrupt("an effect on a worker"))?;
                (Transition::DrainWorker, Args::default().text(worker).text(seen_at).text(slots))
            }
            _ => return Err(corrupt(format!("the effect on {subject}"))),
        };
        self.run_script(transition, &[], args).await.map(drop)
    }
}

impl Redis {
    /// Applies an effect everywhere, then acknowledges it.
    pub(super) async fn carry_out(&self, effect: &Effect) -> Result<()> {
        if effect.subject.starts_with("F|") {
            // Of one shard only.
            self.begin_fired(&effect.subject, effect.version, &effect.word).await?;
        } else {
            let apply = |shard| async move {
                self.step()?;
                Shard::apply(shard, effect).await
            };
            for applied in join_all(self.shards.iter().map(apply)).await {
                applied?;
            }
        }
        self.step()?;
        self.global.acknowledge(effect).await?;
        self.wake.bump();
        Ok(())
    }

    /// Carries out what others, or this one, left in the outbox. How many effects there were.
    pub async fn relay_effects(&self) -> Result<usize> {
        let effects = self.global.outbox().await?;
        let mut first_error = None;
        for effect in &effects {
            tracing::info!(subject = effect.subject, version = effect.version, "an effect is carried on");
            // One that cannot be carried out now, such as a run when memory is used up, does not hold up the others.
            if let Err(error) = self.carry_out(effect).await {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(effects.len()), Err)
    }

    pub(super) async fn lane_set_paused(&self, lane: &LaneName, paused: bool) -> Result<()> {
        let word = if paused { "1" } else { "0" };
        self.step()?;
        let effect = self.global.send(format!("L|{lane}"), word.to_owned()).await?;
        self.carry_out(&effect).await
    }

    /// Those of that name or instance that any shard has seen.
    pub(super) async fn worker_drain(&self, name_or_instance: &str) -> Result<usize> {
        let named = |id: &WorkerId| id.name == name_or_instance || id.instance.to_string() == name_or_instance;
        let workers = super::route::workers(self.all(Shard::workers_seen).await?);
        let workers: Vec<_> = workers.into_iter().filter(|worker| named(&worker.id)).collect();
        for worker in &workers {
            self.step()?;
            let word = format!("{}|{}", worker.seen_at_ms, worker.slots);
            let effect = self.global.send(format!("W|{}", worker.id), word).await?;
            self.carry_out(&effect).await?;
        }
        Ok(workers.len())
    }
}

#[cfg(feature = "conformance")]
impl Redis {
    /// For tests: this master ends before the step after so many steps of effects.
    pub fn end_after_steps(&self, steps: usize) {
        self.steps_left.store(steps, std::sync::atomic::Ordering::SeqCst);
    }

    pub(super) fn step(&self) -> Result<()> {
        use std::sync::atomic::Ordering::SeqCst;
        let taken = self.steps_left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        taken.map(drop).map_err(|_| StoreError::Unavailable("this master has ended".to_owned()))
    }
}

#[cfg(not(feature = "conformance"))]
impl Redis {
    pub(super) fn step(&self) -> Result<()> {
        Ok(())
    }
}
