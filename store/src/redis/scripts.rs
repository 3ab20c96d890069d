//! The scripts: one per transition, each put together from a prelude and its own file.
//!
//! They are functions of libraries that the server keeps (`FUNCTION LOAD`), not scripts of `EVALSHA`: those run all of
//! their text in each call, and defining a hundred helpers took longer than using ten of them. The names end with a
//! hash of the text, so that masters of several versions use one server side by side.

use super::failure::{Failure, classify};
use super::keys;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisResult, Script, Value};

/// One name per transition: the method, the Lua file, the group of conformance tests. (`Meet` belongs to
/// connecting, `KnowSuppressions` to `Suppress`; `Quarantine`, `SignOfLife`, `LookAtRun`, `LookAtDemand`, `TakeQuota` and `ReconcileIndex` are parts of others,
/// `UsualCheckpoint` and `UsualFinish` short ways of them.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transition {
    Meet,
    ApplyCampaign,
    SetCampaignPaused,
    DeleteCampaign,
    CreateRun,
    PauseRun,
    ResumeRun,
    CancelRun,
    CancelBatches,
    ClaimSplit,
    AddBatches,
    PinAudience,
    ReleaseSplit,
    Claim,
    Checkpoint,
    Finish,
    Release,
    Facts,
    SignOfLife,
    Reclaim,
    Quarantine,
    DrainWorker,
    SetLanePaused,
    LookAtRun,
    ClaimHistory,
    RetireBatches,
    Compare,
    RetryRun,
    ReplayDead,
    PurgeDead,
    ShareRelay,
    SendEffect,
    AcknowledgeEffect,
    SteerCampaign,
    ForgetRun,
    ForgetSegments,
    Keep,
    ForgetKept,
    ShareLimit,
    LookAtDemand,
    TakeQuota,
    Reconcile,
    ReconcileIndex,
    EraseRecipients,
    EraseRun,
    Fire,
    UsualCheckpoint,
    UsualFinish,
    WriteErasure,
    Suppress,
    KnowSuppressions,
    SuppressRecipients,
}

/// What a script is for decides whether it may run when memory is used up.
#[derive(Debug, Clone, Copy)]
enum Memory {
    /// Brings work in: refused before it starts when memory is used up.
    Refusable,
    /// Drains work or steers: allowed, or the store could never get out of it.
    Allowed,
    /// Writes nothing.
    ReadOnly,
}

/// What the files of `lua/` build on, from little to much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    Nothing,
    /// On every shard; its keys are global.
    Effect,
    Shard,
    Steer,
    Batch,
    Round,
    EndLease,
    /// With the pace of lanes and sites.
    PacedShard,
    PacedReport,
    Claim,
    /// With few of the shard's keys.
    Usual,
}

const EFFECT: &str = include_str!("lua/effect.lua");
const PRELUDE: &str = include_str!("lua/prelude.lua");
const PACE: &str = include_str!("lua/pace.lua");
const STEER: &str = include_str!("lua/steer.lua");
const POISON: &str = include_str!("lua/poison.lua");
const BATCH: &str = include_str!("lua/batch.lua");
const SETTLE: &str = include_str!("lua/settle.lua");
const ROUND: &str = include_str!("lua/round.lua");
const FACT: &str = include_str!("lua/fact.lua");
const REPORT: &str = include_str!("lua/report.lua");
const END_LEASE: &str = include_str!("lua/end_lease.lua");
const CLAIMING: &str = include_str!("lua/claiming.lua");
const USUAL: &str = include_str!("lua/usual.lua");

/// How the server says that it has a library.
const IS_THERE: &str = "already exists";
/// Of a hash, as a part of names.
const HASH_LETTERS: usize = 16;

/// Commands that the store sends outside of scripts and that write nothing.
const READS: [&str; 20] = [
    "EXISTS",
    "GET",
    "HGET",
    "HGETALL",
    "HLEN",
    "HMGET",
    "HSCAN",
    "LLEN",
    "LRANGE",
    "SCARD",
    "SISMEMBER",
    "TIME",
    "TYPE",
    "ZCARD",
    "ZRANGE",
    "ZRANGEBYLEX",
    "ZRANGEBYSCORE",
    "ZREVRANGEBYSCORE",
    "ZSCAN",
    "ZSCORE",
];

impl Transition {
    pub const ALL: [Self; 52] = [
        Self::Meet,
        Self::ApplyCampaign,
        Self::SetCampaignPaused,
        Self::DeleteCampaign,
        Self::CreateRun,
        Self::PauseRun,
        Self::ResumeRun,
        Self::CancelRun,
        Self::CancelBatches,
        Self::ClaimSplit,
        Self::AddBatches,
        Self::PinAudience,
        Self::ReleaseSplit,
        Self::Claim,
        Self::Checkpoint,
        Self::Finish,
        Self::Release,
        Self::Facts,
        Self::SignOfLife,
        Self::Reclaim,
        Self::Quarantine,
        Self::DrainWorker,
        Self::SetLanePaused,
        Self::LookAtRun,
        Self::ClaimHistory,
        Self::RetireBatches,
        Self::Compare,
        Self::RetryRun,
        Self::ReplayDead,
        Self::PurgeDead,
        Self::ShareRelay,
        Self::SendEffect,
        Self::AcknowledgeEffect,
        Self::SteerCampaign,
        Self::ForgetRun,
        Self::ForgetSegments,
        Self::Keep,
        Self::ForgetKept,
        Self::ShareLimit,
        Self::LookAtDemand,
        Self::TakeQuota,
        Self::Reconcile,
        Self::ReconcileIndex,
        Self::EraseRecipients,
        Self::EraseRun,
        Self::Fire,
        Self::UsualCheckpoint,
        Self::UsualFinish,
        Self::WriteErasure,
        Self::Suppress,
        Self::KnowSuppressions,
        Self::SuppressRecipients,
    ];

    fn parts(self) -> (Memory, Base, &'static str) {
        use Base::{Batch, Effect, EndLease, Nothing, PacedReport, PacedShard, Round, Shard, Steer, Usual};
        use Memory::{Allowed, ReadOnly, Refusable};
        match self {
            Self::Meet => (Allowed, Nothing, include_str!("lua/meet.lua")),
            Self::ApplyCampaign => (Refusable, Effect, include_str!("lua/apply_campaign.lua")),
            Self::SetCampaignPaused => (Allowed, Effect, include_str!("lua/set_campaign_paused.lua")),
            Self::DeleteCampaign => (Allowed, Effect, include_str!("lua/delete_campaign.lua")),
            Self::CreateRun => (Refusable, Shard, include_str!("lua/create_run.lua")),
            Self::PauseRun => (Allowed, Steer, include_str!("lua/pause_run.lua")),
            Self::ResumeRun => (Allowed, Steer, include_str!("lua/resume_run.lua")),
            Self::CancelRun => (Allowed, Steer, include_str!("lua/cancel_run.lua")),
            Self::CancelBatches => (Allowed, Batch, include_str!("lua/cancel_batches.lua")),
            Self::ClaimSplit => (Refusable, Shard, include_str!("lua/claim_split.lua")),
            Self::AddBatches => (Refusable, Shard, include_str!("lua/add_batches.lua")),
            Self::PinAudience => (Refusable, Shard, include_str!("lua/pin_audience.lua")),
            Self::ReleaseSplit => (Allowed, Shard, include_str!("lua/release_split.lua")),
            Self::Claim => (Refusable, Base::Claim, include_str!("lua/claim.lua")),
            Self::Checkpoint => (Allowed, PacedReport, include_str!("lua/checkpoint.lua")),
            Self::Finish => (Allowed, EndLease, include_str!("lua/finish.lua")),
            Self::Release => (Allowed, EndLease, include_str!("lua/release.lua")),
            Self::Facts => (Allowed, Batch, include_str!("lua/facts.lua")),
            Self::SignOfLife => (Allowed, Shard, include_str!("lua/sign_of_life.lua")),
            Self::Reclaim => (Allowed, Batch, include_str!("lua/reclaim.lua")),
            Self::Quarantine => (Allowed, Batch, include_str!("lua/quarantine.lua")),
            Self::DrainWorker => (Allowed, Shard, include_str!("lua/drain_worker.lua")),
            Self::SetLanePaused => (Allowed, Shard, include_str!("lua/set_lane_paused.lua")),
            Self::LookAtRun => (ReadOnly, Nothing, include_str!("lua/look_at_run.lua")),
            Self::ClaimHistory => (Allowed, Shard, include_str!("lua/claim_history.lua")),
            Self::RetireBatches => (Allowed, Shard, include_str!("lua/retire_batches.lua")),
            Self::Compare => (Allowed, Shard, include_str!("lua/compare.lua")),
            Self::RetryRun => (Refusable, Batch, include_str!("lua/retry_run.lua")),
            Self::ReplayDead => (Refusable, Batch, include_str!("lua/replay_dead.lua")),
            Self::PurgeDead => (Allowed, Batch, include_str!("lua/purge_dead.lua")),
            Self::ShareRelay => (Allowed, Nothing, include_str!("lua/share_relay.lua")),
            Self::SendEffect => (Allowed, Effect, include_str!("lua/send_effect.lua")),
            Self::AcknowledgeEffect => (Allowed, Nothing, include_str!("lua/acknowledge_effect.lua")),
            Self::SteerCampaign => (Allowed, Shard, include_str!("lua/steer_campaign.lua")),
            Self::ForgetRun => (Allowed, Shard, include_str!("lua/forget_run.lua")),
            Self::ForgetSegments => (Allowed, Nothing, include_str!("lua/forget_segments.lua")),
            Self::Keep => (Refusable, Nothing, include_str!("lua/keep.lua")),
            Self::ForgetKept => (Allowed, Nothing, include_str!("lua/forget_kept.lua")),
            Self::ShareLimit => (Allowed, Nothing, include_str!("lua/share_limit.lua")),
            Self::LookAtDemand => (Allowed, PacedShard, include_str!("lua/look_at_demand.lua")),
            Self::TakeQuota => (Allowed, PacedShard, include_str!("lua/take_quota.lua")),
            Self::Reconcile => (Allowed, Round, include_str!("lua/reconcile.lua")),
            Self::ReconcileIndex => (Allowed, Round, include_str!("lua/reconcile_index.lua")),
            Self::Fire => (Refusable, Effect, include_str!("lua/fire.lua")),
            Self::UsualCheckpoint => (Allowed, Usual, include_str!("lua/usual_checkpoint.lua")),
            Self::UsualFinish => (Allowed, Usual, include_str!("lua/usual_finish.lua")),
            Self::EraseRecipients => (Allowed, Batch, include_str!("lua/erase_recipients.lua")),
            Self::EraseRun => (Allowed, Shard, include_str!("lua/erase_run.lua")),
            Self::WriteErasure => (Allowed, Nothing, include_str!("lua/write_erasure.lua")),
            Self::Suppress => (Refusable, Effect, include_str!("lua/suppress.lua")),
            Self::KnowSuppressions => (Allowed, Shard, include_str!("lua/know_suppressions.lua")),
            Self::SuppressRecipients => (Allowed, Batch, include_str!("lua/suppress_recipients.lua")),
        }
    }

    /// A call that may go to several shards, of which the others must not wait for one that is away.
    pub fn is_for_several_shards(self) -> bool {
        matches!(
            self,
            Self::Claim
                | Self::ClaimSplit
                | Self::ClaimHistory
                | Self::Checkpoint
                | Self::UsualCheckpoint
                | Self::Finish
                | Self::UsualFinish
                | Self::Release
                | Self::SignOfLife
                | Self::LookAtDemand
                | Self::TakeQuota
        )
    }

    /// Of the function. The file of `lua/` has the same name.
    fn name(self) -> &'static str {
        let own = self.parts().2;
        own.trim_start_matches("-- ").split(':').next().unwrap_or_default()
    }

    /// The usual way through it is short: it checks types itself, of what it writes.
    fn checks_itself(self) -> bool {
        matches!(self, Self::Claim | Self::Checkpoint | Self::Finish)
    }

    /// As a member of a library whose names end with this.
    fn registered(self, ending: &str) -> String {
        let (memory, base, own) = self.parts();
        let flags = match memory {
            Memory::Refusable => "",
            Memory::Allowed => "'allow-oom'",
            Memory::ReadOnly => "'no-writes', 'allow-oom'",
        };
        let (name, begin) = (self.name(), base.parts().1);
        let itself = if base.is_of_shard() { format!("begin({})", self.checks_itself()) } else { String::new() };
        let names: Vec<String> = self.usual_keys().iter().map(|name| format!("'{name}'")).collect();
        let names = match names.is_empty() {
            true => String::new(),
            false => format!("local {}_KEYS = {{ {} }}\n", name.to_uppercase(), names.join(", ")),
        };
        format!(
            "{names}redis.register_function({{ function_name = 'postrider_{name}{ending}', flags = {{ {flags} }},\n\
            callback = function(keys, argv)\nKEYS, ARGV = keys, argv\n{itself} {begin}\n{own}\nend }})\n"
        )
    }

    fn takes_shard_keys(self) -> bool {
        self.parts().1.is_of_shard()
    }

    /// Those of the shard's that it takes, when it does not take all.
    fn usual_keys(self) -> &'static [&'static str] {
        match self {
            Self::UsualCheckpoint => &["shard", "count", "holder", "parked", "lease", "lanes"],
            Self::UsualFinish => &["shard", "count", "holder", "parked", "lease", "to_retire"],
            _ => &[],
        }
    }
}

impl Base {
    const ALL: [Self; 11] = [
        Self::Nothing,
        Self::Effect,
        Self::Shard,
        Self::Steer,
        Self::Batch,
        Self::Round,
        Self::EndLease,
        Self::PacedShard,
        Self::PacedReport,
        Self::Claim,
        Self::Usual,
    ];

    /// Its files, and what is to be done before a function of it, after `begin`.
    fn parts(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Nothing => (&[], ""),
            Self::Effect => (&[EFFECT], ""),
            Self::Shard => (&[PRELUDE], ""),
            Self::Steer => (&[PRELUDE, STEER], "begin_steer()"),
            Self::Batch => (&[PRELUDE, POISON, BATCH, FACT, SETTLE], "begin_batch()"),
            Self::Round => (&[PRELUDE, POISON, BATCH, FACT, SETTLE, ROUND], "begin_batch() begin_round()"),
            Self::PacedShard => (&[PRELUDE, PACE], ""),
            Self::PacedReport => {
                (&[PRELUDE, PACE, POISON, BATCH, FACT, SETTLE, REPORT], "begin_batch() begin_report()")
            }
            Self::EndLease => {
                (&[PRELUDE, POISON, BATCH, FACT, SETTLE, REPORT, END_LEASE], "begin_batch() begin_report()")
            }
            Self::Claim => (&[PRELUDE, PACE, CLAIMING], "begin_claim()"),
            Self::Usual => (&[PRELUDE, USUAL], ""),
        }
    }

    fn is_of_shard(self) -> bool {
        match self {
            Self::Nothing | Self::Effect | Self::Usual => false,
            Self::Shard
            | Self::Steer
            | Self::Batch
            | Self::Round
            | Self::EndLease
            | Self::PacedShard
            | Self::PacedReport
            | Self::Claim => true,
        }
    }

    fn assemble(self, ignore_fences: bool) -> Library {
        let channel = keys::WAKE_CHANNEL;
        let settings = format!("local IGNORE_FENCES, WAKE_CHANNEL = {ignore_fences}, '{channel}'");
        let mut body = format!("{settings}\n{}\nlocal KEYS, ARGV\n{}", type_checks(), self.parts().0.concat());
        let members: Vec<Transition> =
            Transition::ALL.into_iter().filter(|transition| transition.parts().1 == self).collect();
        let own: String = members.iter().map(|transition| transition.registered("")).collect();
        let hash = Script::new(&format!("{body}{own}")).get_hash().to_owned();
        let ending = format!("_{}", &hash[..HASH_LETTERS]);
        members.iter().for_each(|transition| body.push_str(&transition.registered(&ending)));
        let source = format!("#!lua name=postrider_{}{ending}\n{body}", format!("{self:?}").to_lowercase());
        Library { base: self, source, ending }
    }
}

/// Text that the server keeps, and the end of the names in it.
#[derive(Debug)]
struct Library {
    base: Base,
    source: String,
    ending: String,
}

/// For each of the shard's keys the command that fails when it has another type, and costs next to nothing.
fn type_checks() -> String {
    let check = |(_, kind): &(&str, &str)| match *kind {
        "hash" => "'HLEN'",
        "zset" => "'ZCARD'",
        "set" => "'SCARD'",
        // `keys::SHARD_KEYS` has no other; TYPE never fails, so a test would see it.
        _ => "'TYPE'",
    };
    let checks: Vec<&str> = keys::SHARD_KEYS.iter().map(check).collect();
    format!("local TYPE_CHECKS = {{ {} }}", checks.join(", "))
}

/// All scripts, put together and named once.
#[derive(Debug)]
pub(super) struct Scripts {
    libraries: Vec<Library>,
    /// Names of the functions, by transition.
    names: Vec<String>,
}

impl Scripts {
    pub fn new(ignore_fences: bool) -> Self {
        let libraries: Vec<Library> = Base::ALL.into_iter().map(|base| base.assemble(ignore_fences)).collect();
        let name = |transition: Transition| {
            let own = libraries.iter().find(|library| library.base == transition.parts().1);
            format!("postrider_{}{}", transition.name(), own.map_or("", |library| &library.ending))
        };
        let names = Transition::ALL.into_iter().map(name).collect();
        Self { libraries, names }
    }

    /// Loads what the server has not got, all in one round trip. Also what it has is refused while its memory is used up.
    pub async fn load(&self, connection: &mut MultiplexedConnection) -> Result<(), Failure> {
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        for library in &self.libraries {
            pipe.cmd("FUNCTION").arg("LOAD").arg(&library.source);
        }
        let answers: RedisResult<Vec<Value>> = pipe.query_async(connection).await;
        for answer in answers.map_err(|error| classify(&error))? {
            match answer.extract_error() {
                Err(error) if !error.detail().is_some_and(|detail| detail.ends_with(IS_THERE)) => {
                    return Err(classify(&error));
                }
                Ok(_) | Err(_) => (),
            }
        }
        Ok(())
    }

    /// False only when every command is known to write nothing.
    pub fn may_write(&self, pipe: &redis::Pipeline) -> bool {
        pipe.cmd_iter().any(|cmd| {
            let mut words = cmd.args_iter().filter_map(|word| match word {
                redis::Arg::Simple(bytes) => Some(bytes),
                _ => None,
            });
            match words.next() {
                Some(b"FCALL") => {
                    let name = words.next().unwrap_or_default();
                    let is_this = |transition: &&Transition| self.names[**transition as usize].as_bytes() == name;
                    let called = Transition::ALL.iter().find(is_this);
                    called.is_none_or(|transition| !matches!(transition.parts().0, Memory::ReadOnly))
                }
                Some(name) => !READS.iter().any(|read| read.as_bytes() == name),
                None => true,
            }
        })
    }

    /// The call of a transition: the shard's keys, its own keys, its arguments.
    pub fn call(&self, transition: Transition, shard_keys: &[String], own_keys: &[String], args: &[Vec<u8>]) -> Cmd {
        let mut cmd = redis::cmd("FCALL");
        cmd.arg(&self.names[transition as usize]);
        let shard: Vec<&String> = match transition.usual_keys() {
            [] if transition.takes_shard_keys() => shard_keys.iter().collect(),
            [] => Vec::new(),
            names => names.iter().filter_map(|name| shard_keys.get(keys::place_of(name)?)).collect(),
        };
        cmd.arg(shard.len() + own_keys.len());
        for key in shard.into_iter().chain(own_keys) {
            cmd.arg(key);
        }
        for arg in args {
            cmd.arg(arg);
        }
        cmd
    }
}

/// Arguments of a script, one after the other.
#[derive(Debug, Default)]
pub(super) struct Args(pub Vec<Vec<u8>>);

impl Args {
    pub fn text(mut self, text: impl AsRef<[u8]>) -> Self {
        self.0.push(text.as_ref().to_vec());
        self
    }

    pub fn int(self, number: impl Into<i128>) -> Self {
        let number: i128 = number.into();
        self.text(number.to_string())
    }

    pub fn flag(self, flag: bool) -> Self {
        self.text(if flag { "1" } else { "0" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions_index_their_scripts() {
        for (at, transition) in Transition::ALL.into_iter().enumerate() {
            assert_eq!(transition as usize, at);
        }
    }

    #[test]
    fn reads_are_told_from_writes() {
        let scripts = Scripts::new(false);
        let may_write = |cmds: Vec<Cmd>| {
            let mut pipe = redis::pipe();
            for cmd in cmds {
                pipe.add_command(cmd);
            }
            scripts.may_write(&pipe)
        };
        let command = |name: &str| redis::cmd(name).arg("x").to_owned();
        let script = |transition| scripts.call(transition, &[], &["k".to_owned()], &[]);
        assert!(!may_write(vec![command("GET"), command("ZRANGE"), script(Transition::LookAtRun)]));
        assert!(may_write(vec![command("GET"), command("SET")]));
        assert!(may_write(vec![command("GET"), script(Transition::Claim)]));
        assert!(may_write(vec![redis::cmd("FCALL").arg("other").to_owned()]));
    }

    #[test]
    fn the_type_of_every_shard_key_is_checked() {
        assert!(!type_checks().contains("TYPE'"), "{}", type_checks());
    }

    #[test]
    fn every_script_says_what_it_takes_returns_and_refuses() {
        for transition in Transition::ALL {
            let (_, _, own) = transition.parts();
            for word in ["-- KEYS", "ARGV", "-- returns"] {
                assert!(own.contains(word), "{transition:?} does not say {word}");
            }
            assert!(!own.contains("postrider:"), "{transition:?} spells a key");
        }
    }

    #[test]
    fn limits_of_the_scripts_are_those_of_the_program() {
        use postrider_common::limits;
        for (name, value) in [
            ("TRANSACTION_MS_MAX", limits::TRANSACTION_MS_MAX),
            ("RETRY_COALESCE_MS", limits::RETRY_COALESCE_MS),
            ("DOUBTS_MAX", u64::from(limits::DOUBTS_MAX)),
        ] {
            assert!(BATCH.contains(&format!("local {name} = {value}\n")), "{name}");
        }
        assert!(USUAL.contains(&format!("local TRANSACTION_MS_MAX = {}\n", limits::TRANSACTION_MS_MAX)));
        for (name, value) in [("STRIKES_MAX", limits::STRIKES_MAX), ("UNHEARD_MAX", limits::UNHEARD_MAX)] {
            assert!(POISON.contains(&format!("local {name} = {value}\n")), "{name}");
        }
        assert!(BATCH.contains(&format!("local ENDS_WORKERS, DEAD_LETTER = '{}', ", crate::api::ENDS_WORKERS)));
        let backlog = format!("local HISTORY_BACKLOG_BATCHES_MAX = {}\n", limits::HISTORY_BACKLOG_BATCHES_MAX);
        assert!(Transition::Claim.parts().2.contains(&backlog));
        use postrider_common::pace::{CAP_PAUSE_MS, COST};
        let pause = super::super::quota::PERIOD.as_millis();
        assert!(
            PACE.contains(&format!("local COST, CAP_PAUSE_MS, QUOTA_PAUSE_MS = {COST}, {CAP_PAUSE_MS}, {pause}\n"))
        );
        let numbers = [
            crate::quota::CLOCK_GAP_MS,
            crate::quota::IN_FLIGHT_MS,
            crate::quota::QUOTA_TURN_MS,
            crate::quota::QUOTA_TURN_RECIPIENTS,
            crate::quota::IDLE_PART,
            crate::quota::MANY,
        ];
        let numbers = numbers.map(|number| number.to_string()).join(", ");
        assert!(Transition::ShareLimit.parts().2.contains(&format!("MANY = {numbers}\n")));
    }
}
