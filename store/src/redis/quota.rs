//! Limits of lanes and sites that hold over several shards: quotas, moved to where they are of use.
//!
//! A master that has claims and checkpoints with limits to make moves quotas about twice a second: it looks at all
//! shards, has the script share_limit decide under the tag `{g}`, and tells the shards. When another master did so since,
//! this one leaves it to that one. A quota ends by the clock of the shard, counted from before it was decided, and so much
//! earlier than it ends for share_limit that a clock which drifts or steps a little does no harm.

use super::global::Global;
use super::keys;
use super::reply::{Elements, corrupt, ms, parse, read};
use super::scripts::{Args, Transition};
use super::shard::Shard;
use crate::api::Result;
use crate::error::StoreError;
use crate::quota::{Amounts, CLOCK_GAP_MS, Limited, Quota, ShardDemand, ShareLimit, SharedLimit};
use ::redis::Value;
use futures::future::join_all;
use postrider_common::pace::{Limit, Limits, Pace, Rate};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

/// Between two moves.
pub(super) const PERIOD: Duration = Duration::from_millis(500);
/// What does not answer within this is not there, for this move.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Without a call that has limits for this long, quotas are left to end.
const IDLE_AFTER: Duration = Duration::from_secs(10);
/// Who gets more waits until those that have less have said so, which is mostly at once.
const PASSES_MAX: usize = 3;
/// Clocks of different servers drift apart by less than one part in this many.
const DRIFT_PART: u64 = 100;

/// The limits that calls come with.
#[derive(Debug, Clone)]
struct Wanted {
    limits: Limits,
    /// Grows when they change, and when quotas may have ended for want of calls.
    generation: u64,
    used_at: Instant,
}

/// Moves quotas for as long as it lives and there are calls with limits.
#[derive(Debug)]
pub(super) struct Quotas {
    wanted: Arc<watch::Sender<Wanted>>,
    moved: watch::Receiver<u64>,
    driver: JoinHandle<()>,
}

impl Quotas {
    pub fn start(mover: Mover) -> Self {
        let wanted = Wanted { limits: Limits::default(), generation: 0, used_at: Instant::now() };
        let wanted = Arc::new(watch::Sender::new(wanted));
        let (done, moved) = watch::channel(0);
        let driver = tokio::spawn(drive(mover, wanted.subscribe(), done));
        Self { wanted, moved, driver }
    }

    /// A call with these limits is about to be made. Waits for the first quotas, a moment at most.
    pub async fn want(&self, limits: &Limits) {
        if limits.is_empty() {
            return;
        }
        let mut generation = 0;
        self.wanted.send_if_modified(|wanted| {
            let is_new = wanted.limits != *limits || wanted.used_at.elapsed() > IDLE_AFTER;
            wanted.used_at = Instant::now();
            if is_new {
                wanted.limits.clone_from(limits);
                wanted.generation += 1;
            }
            generation = wanted.generation;
            is_new
        });
        let mut moved = self.moved.clone();
        let first = moved.wait_for(|moved| *moved >= generation);
        // Without quotas the shards give out nothing, which is no error.
        drop(tokio::time::timeout(ANSWER_MAX, first).await);
    }
}

impl Drop for Quotas {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn drive(mut mover: Mover, mut wanted: watch::Receiver<Wanted>, moved: watch::Sender<u64>) {
    let mut every = tokio::time::interval(PERIOD);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_failing = false;
    loop {
        tokio::select! {
            _ = every.tick() => (),
            changed = wanted.changed() => if changed.is_err() {
                return;
            }
        }
        let now = wanted.borrow_and_update().clone();
        if now.generation == 0 || now.used_at.elapsed() > IDLE_AFTER {
            continue;
        }
        let done = mover.move_quotas(&now.limits).await;
        if let Err(error) = &done
            && !is_failing
        {
            tracing::warn!(%error, "quotas of limits are not moved");
        }
        is_failing = done.is_err();
        moved.send_replace(now.generation);
    }
}

/// A shard as it was looked at.
struct Look {
    /// By its own clock.
    at_ms: i64,
    demands: Vec<ShardDemand>,
}

/// What moves quotas.
#[derive(Debug)]
pub(super) struct Mover {
    pub shards: Arc<[Shard]>,
    pub global: Arc<Global>,
    /// Of a quota.
    pub ttl_ms: u64,
    /// The turn of each limit that this master knows of.
    pub turns: BTreeMap<Limited, u64>,
}

impl Mover {
    /// One move: of those limits that no other master has moved since the last one.
    pub async fn move_quotas(&mut self, limits: &Limits) -> Result<()> {
        let mut limited = limited(limits);
        let all: Vec<Limited> = limited.iter().map(|(of, _)| of.clone()).collect();
        let turns = match in_time(self.global.turns(&all)).await {
            Ok(turns) => turns,
            Err(error) => {
                // A clock of a shard that goes back must not go unseen while quotas are not renewed.
                self.look(&all).await?;
                return Err(error);
            }
        };
        let known = std::mem::take(&mut self.turns);
        limited.retain(|(of, _)| known.get(of).is_none_or(|turn| turns.get(of) == Some(turn)));
        self.turns = turns;
        for _ in 0..PASSES_MAX {
            if limited.is_empty() {
                break;
            }
            let awaited = self.pass(&limited).await?;
            limited.retain(|(of, _)| awaited.contains(of));
        }
        Ok(())
    }

    async fn look(&self, all: &[Limited]) -> Result<Vec<Option<Look>>> {
        let looks = join_all(self.shards.iter().map(|shard| in_time(shard.look_at_demand(all)))).await;
        looks.into_iter().map(there).collect()
    }

    /// Looks, shares, tells. Limits of which more can be given as soon as all have been told.
    async fn pass(&mut self, limited: &[(Limited, Limit)]) -> Result<Vec<Limited>> {
        let all: Vec<Limited> = limited.iter().map(|(of, _)| of.clone()).collect();
        let looks = self.look(&all).await?;
        let share = |(at, (of, limit)): (usize, &(Limited, Limit))| ShareLimit {
            of: of.clone(),
            limit: *limit,
            turn: self.turns.get(of).copied().unwrap_or(0),
            ttl_ms: self.ttl_ms,
            shards: looks.iter().map(|look| look.as_ref().map(|look| look.demands[at])).collect(),
        };
        let shares: Vec<ShareLimit> = limited.iter().enumerate().map(share).collect();
        let answers = in_time(self.global.limits_share(&shares)).await?;
        let mut awaited = Vec::new();
        for (of, answer) in all.iter().zip(&answers) {
            self.turns.insert(of.clone(), answer.turn);
            if answer.is_awaited {
                awaited.push(of.clone());
            }
        }
        let told = self.shards.iter().zip(&looks).enumerate().map(|(number, (shard, look))| {
            let of_shard = |answer: &SharedLimit| answer.quotas.get(number).copied().flatten();
            let quotas = all.iter().zip(&answers).filter_map(|(of, answer)| Some((of, of_shard(answer)?))).collect();
            async move {
                match look {
                    Some(look) => in_time(shard.take_quotas(look.at_ms, quotas)).await,
                    None => Ok(()),
                }
            }
        });
        for told in join_all(told).await {
            there(told)?;
        }
        Ok(awaited)
    }
}

fn limited(limits: &Limits) -> Vec<(Limited, Limit)> {
    let lanes = limits.lanes.iter().map(|(name, limit)| (Limited::Lane(name.clone()), *limit));
    lanes.chain(limits.sites.iter().map(|(name, limit)| (Limited::Site(name.clone()), *limit))).collect()
}

async fn in_time<A>(call: impl Future<Output = Result<A>>) -> Result<A> {
    let late = |_| StoreError::Unavailable("no answer in time".to_owned());
    tokio::time::timeout(ANSWER_MAX, call).await.map_err(late)?
}

/// None: it is not there now.
fn there<A>(answer: Result<A>) -> Result<Option<A>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is_retryable() => Ok(None),
        Err(error) => Err(error),
    }
}

impl Global {
    /// 0 of one that was never shared.
    async fn turns(&self, all: &[Limited]) -> Result<BTreeMap<Limited, u64>> {
        let mut pipe = ::redis::pipe();
        pipe.cmd("HMGET").arg(keys::QUOTAS).arg(all.iter().map(Limited::to_string).collect::<Vec<_>>());
        let texts: Vec<Option<String>> = read(super::shard::only(self.links.swift.call(pipe).await?)?, "quotas")?;
        let turn = |text: Option<String>| match text {
            None => Ok(0),
            Some(text) => parse(text.split('|').next().unwrap_or_default(), "the turn of a limit"),
        };
        all.iter().cloned().zip(texts).map(|(of, text)| Ok((of, turn(text)?))).collect()
    }

    /// The transition, of several limits in one round trip.
    pub(super) async fn limits_share(&self, shares: &[ShareLimit]) -> Result<Vec<SharedLimit>> {
        let mut pipe = ::redis::pipe();
        for share in shares {
            let [rate, burst, at_once] = Amounts::of(&share.limit).0;
            let args = Args::default().text(share.of.to_string()).int(share.turn).int(rate).int(burst).int(at_once);
            let mut args = args.int(share.ttl_ms);
            for shard in &share.shards {
                args = args.text(shard.as_ref().map(demand_text).unwrap_or_default());
            }
            pipe.add_command(self.scripts.call(Transition::ShareLimit, &[], &[keys::QUOTAS.to_owned()], &args.0));
        }
        self.links.swift.call(pipe).await?.into_iter().map(|answer| shared(answer?)).collect()
    }
}

fn demand_text(demand: &ShardDemand) -> String {
    let ShardDemand { version, is_live, has: Amounts([rate, burst, at_once]), waiting, in_flight } = demand;
    format!("{version}|{}|{rate}|{burst}|{at_once}|{waiting}|{in_flight}", u8::from(*is_live))
}

fn shared(answer: Value) -> Result<SharedLimit> {
    let mut answer = Elements::of(answer, "share_limit")?;
    let (turn, is_stale, is_awaited): (u64, u8, u8) = (answer.read()?, answer.read()?, answer.read()?);
    let mut quotas = Vec::new();
    while !answer.is_empty() {
        let text: String = answer.read()?;
        let quota = |text: &str| {
            let numbers = text.split('|').map(|n| parse::<u64>(n, "a quota")).collect::<Result<Vec<_>>>()?;
            let [version, lasts_ms, rate, burst, at_once, saved] = numbers[..] else { return Err(corrupt("a quota")) };
            Ok(Quota { version, lasts_ms, amounts: Amounts([rate, burst, at_once]), saved })
        };
        quotas.push(if text.is_empty() { None } else { Some(quota(&text)?) });
    }
    Ok(SharedLimit { turn, is_stale: is_stale == 1, is_awaited: is_awaited == 1, quotas })
}

/// A quota as `lua/pace.lua` keeps it, as a limit: no limit stands for no quota.
pub(super) fn stored(text: Option<&str>, seen: Option<i64>, now: i64) -> Result<Limit> {
    let numbers = text.unwrap_or("0|0|0|0|0").split('|').map(|n| parse::<u64>(n, "a quota"));
    let numbers = numbers.collect::<Result<Vec<_>>>()?;
    let [_, until, rate, burst, at_once] = numbers[..] else { return Err(corrupt("a quota")) };
    if seen.is_none_or(|seen| now < seen) || ms(now) >= until {
        return Ok(Limit::default());
    }
    let small = |number: u64| u32::try_from(number).map_err(|_| corrupt("a quota"));
    let pace = match (rate, small(burst)?) {
        (0, _) | (_, 0) => None,
        (rate, burst) => Some(Pace { rate: Rate::of_per_hour(rate).map_err(corrupt)?, burst }),
    };
    Ok(Limit { pace, concurrency: Some(small(at_once)?).filter(|most| *most > 0) })
}

impl Shard {
    async fn look_at_demand(&self, all: &[Limited]) -> Result<Look> {
        let args = all.iter().fold(Args::default(), |args, of| args.text(of.to_string()));
        let answer = self.run_script(Transition::LookAtDemand, &[], args).await?;
        let mut answer = Elements::of(answer, "look_at_demand")?;
        let at_ms = answer.read()?;
        let mut demands = Vec::with_capacity(all.len());
        for _ in all {
            let (version, live): (u64, u8) = (answer.parse()?, answer.read()?);
            let has = Amounts([answer.parse()?, answer.parse()?, answer.parse()?]);
            let (waiting, in_flight) = (answer.parse()?, answer.parse()?);
            demands.push(ShardDemand { version, is_live: live == 1, has, waiting, in_flight });
        }
        Ok(Look { at_ms, demands })
    }

    /// `asked_at_ms`: by the shard's clock, before any of these was decided.
    async fn take_quotas(&self, asked_at_ms: i64, quotas: Vec<(&Limited, Quota)>) -> Result<()> {
        let mut args = Args::default().int(asked_at_ms);
        let mut some = false;
        for (of, Quota { version, lasts_ms, amounts, saved }) in quotas {
            let trusted_ms = lasts_ms.saturating_sub(CLOCK_GAP_MS + lasts_ms / DRIFT_PART);
            let until = asked_at_ms.saturating_add_unsigned(trusted_ms);
            args = args.text(of.to_string()).int(version).int(until);
            args = amounts.0.into_iter().fold(args, Args::int).int(saved);
            some = true;
        }
        if some {
            self.run_script(Transition::TakeQuota, &[], args).await?;
        }
        Ok(())
    }
}
