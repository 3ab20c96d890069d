//! Whether a server can carry the promises: a decision over what it says about itself.

use super::failure::Failure;
use super::keys::{self, Keys, Tags};
use super::permissions;
use crate::error::StoreError;
use crate::open::Durability;
use redis::aio::MultiplexedConnection;
use std::collections::BTreeMap;
use std::num::NonZeroU16;

/// What this program writes. Another number in the store means another program wrote it.
const SCHEMA_VERSION: &str = "3";

/// What a server says about itself: lines of INFO, and settings.
#[derive(Debug, Default)]
struct Said {
    info: BTreeMap<String, String>,
    config: BTreeMap<String, String>,
}

impl Said {
    fn info(&self, name: &str) -> &str {
        self.info.get(name).map_or("", String::as_str)
    }

    fn config(&self, name: &str) -> &str {
        self.config.get(name).map_or("", String::as_str)
    }
}

/// What the store URL says about servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Topology {
    One,
    Sentinels,
    Cluster,
}

/// What is demanded of a server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demands {
    pub durability: Durability,
    pub topology: Topology,
    /// At the start a wrong server is an error; later it is a failover that may end.
    pub is_first: bool,
}

/// A server that was accepted.
#[derive(Debug)]
pub(super) struct Accepted {
    /// Which promise is weaker.
    pub warnings: Vec<String>,
    /// Of its data; see `history`.
    pub history: String,
    /// Of the process: drawn anew at each start.
    pub run_id: String,
}

/// Reads what the server says and decides.
pub(super) async fn check(
    connection: &mut MultiplexedConnection,
    tags: &Tags,
    demands: Demands,
) -> Result<Accepted, Failure> {
    let mut said = Said { info: info(connection).await?, ..Said::default() };
    // Sentinels and nodes may name a server that was deposed, at the start as well.
    let may_end = !demands.is_first || demands.topology != Topology::One;
    let version = decide_version(&said, demands.topology).map_err(Failure::Fatal);
    version.map_err(|failure| if demands.is_first { failure } else { as_failover(failure) })?;
    decide_role(&said).map_err(|failure| if may_end { as_failover(failure) } else { failure })?;
    said.config = config(connection).await?;
    let warnings = decide_settings(&said, demands).map_err(Failure::Fatal)?;
    permissions::check(connection, tags).await?;
    if let Some(shards) = tags.global {
        check_schema(connection, shards).await?;
    }
    for keys in &tags.shards {
        check_shard(connection, keys).await?;
    }
    Ok(Accepted { warnings, history: history(&said.info), run_id: said.info("run_id").to_owned() })
}

/// Names a sequence of writes without a break: a server that becomes primary draws a new one, and a replica has that of
/// its primary.
pub(super) fn history(info: &BTreeMap<String, String>) -> String {
    let is_primary = info.get("role").is_some_and(|role| role == "master");
    info.get("master_replid").filter(|_| is_primary).cloned().unwrap_or_default()
}

fn as_failover(failure: Failure) -> Failure {
    match failure {
        Failure::Fatal(StoreError::Unsafe { message, .. }) => {
            let mend = "wait for the failover to end, or point the store URL at the primary";
            Failure::Wait { message, mend, reconnect: true }
        }
        other => other,
    }
}

async fn info(connection: &mut MultiplexedConnection) -> Result<BTreeMap<String, String>, Failure> {
    let answer: redis::RedisResult<String> = redis::cmd("INFO").query_async(connection).await;
    Ok(lines(&answer.map_err(|error| super::failure::classify(&error))?))
}

/// The lines of INFO, by name.
pub(super) fn lines(info: &str) -> BTreeMap<String, String> {
    info.lines().filter_map(|line| line.trim().split_once(':')).map(|(k, v)| (k.into(), v.into())).collect()
}

async fn config(connection: &mut MultiplexedConnection) -> Result<BTreeMap<String, String>, Failure> {
    let mut cmd = redis::cmd("CONFIG");
    cmd.arg("GET");
    let wanted =
        ["maxmemory-policy", "appendonly", "appendfsync", "no-appendfsync-on-rewrite", "min-replicas-to-write"];
    for name in wanted {
        cmd.arg(name);
    }
    let answer: redis::RedisResult<BTreeMap<String, String>> = cmd.query_async(connection).await;
    answer.map_err(|error| match super::failure::classify(&error) {
        Failure::Fatal(StoreError::Unsafe { message, .. } | StoreError::Corrupt(message)) => {
            Failure::Fatal(unsafe_server(
                &format!("its settings cannot be read: {message}"),
                "allow the store's user CONFIG GET (ACL SETUSER … +config|get), or undo rename-command CONFIG",
            ))
        }
        other => other,
    })
}

fn unsafe_server(message: &str, mend: &str) -> StoreError {
    StoreError::Unsafe { message: message.to_owned(), mend: mend.to_owned() }
}

fn decide_version(said: &Said, topology: Topology) -> Result<(), StoreError> {
    // A Valkey says as redis_version which Redis it is like, 7.2.4; the first Valkey was 7.2.
    let version = said.info("redis_version");
    let major: u32 = version.split('.').next().and_then(|part| part.parse().ok()).unwrap_or(0);
    if major < 7 {
        let message = format!("the server is version {version}");
        return Err(unsafe_server(&message, "use Redis 7.0 or newer, or Valkey"));
    }
    match (topology, said.info("cluster_enabled") == "1") {
        (Topology::One | Topology::Sentinels, true) => {
            let mend = "name its nodes: redis+cluster://HOST:PORT,HOST:PORT; or use a server with cluster-enabled no";
            Err(unsafe_server("the server is a cluster node", mend))
        }
        (Topology::Cluster, false) => {
            let mend = "use redis:// for a server alone, or set cluster-enabled yes";
            Err(unsafe_server("the server is not a cluster node", mend))
        }
        (Topology::One | Topology::Sentinels, false) | (Topology::Cluster, true) => Ok(()),
    }
}

fn decide_role(said: &Said) -> Result<(), Failure> {
    if said.info("loading") == "1" {
        let mend = "wait until the server has read its file";
        return Err(Failure::Wait { message: "LOADING".into(), mend, reconnect: false });
    }
    if said.info("role") != "master" {
        let message = format!("the server's role is {}", said.info("role"));
        return Err(Failure::Fatal(unsafe_server(&message, "point the store URL at the primary")));
    }
    Ok(())
}

fn decide_settings(said: &Said, demands: Demands) -> Result<Vec<String>, StoreError> {
    let policy = said.config("maxmemory-policy");
    if policy != "noeviction" {
        // Not even relaxed: eviction deletes batches.
        return Err(unsafe_server(
            &format!("maxmemory-policy is {policy}, so the server may delete batches"),
            "CONFIG SET maxmemory-policy noeviction, and maxmemory-policy noeviction in redis.conf",
        ));
    }
    let mut weaker = weaker_file(said);
    match demands.durability {
        Durability::Relaxed => {
            weaker.extend(weaker_failover(said, demands.topology));
            Ok(weaker.into_iter().map(|(message, _)| message).collect())
        }
        Durability::Always => {
            weaker.extend(weaker_failover(said, demands.topology));
            first_of(weaker)
        }
        Durability::Replicated { replicas } => {
            // Later too few replicas are an error of the call that waits for them.
            weaker.extend(too_few_replicas(said, replicas).filter(|_| demands.is_first));
            first_of(weaker)
        }
    }
}

/// A promise that is not kept, and the mend.
type Weaker = (String, String);

fn first_of(weaker: Vec<Weaker>) -> Result<Vec<String>, StoreError> {
    match weaker.into_iter().next() {
        Some((message, mend)) => Err(StoreError::Unsafe { message, mend }),
        None => Ok(Vec::new()),
    }
}

fn weaker_file(said: &Said) -> Vec<Weaker> {
    let wanted = [
        ("appendonly", "yes", "a crash of the server loses everything since its last snapshot"),
        ("appendfsync", "always", "a crash of the server loses up to the last second of what was acknowledged"),
        ("no-appendfsync-on-rewrite", "no", "a crash of the server during a rewrite loses what was acknowledged"),
    ];
    let differing = wanted.into_iter().filter(|(name, value, _)| said.config(name) != *value);
    let tell = |(name, value, promise): (&str, &str, &str)| {
        let mend = format!("CONFIG SET {name} {value}, and {name} {value} in redis.conf; or durability = \"relaxed\"");
        (format!("{name} is {}: {promise}", said.config(name)), mend)
    };
    differing.map(tell).collect()
}

fn weaker_failover(said: &Said, topology: Topology) -> Option<Weaker> {
    let replicas = said.info("connected_slaves");
    let message = match (topology, replicas) {
        (Topology::Sentinels, _) => {
            "the store URL names sentinels: a failover loses what had not reached the new primary".to_owned()
        }
        (Topology::One | Topology::Cluster, "" | "0") => return None,
        (Topology::One | Topology::Cluster, _) => {
            format!("{replicas} replicas are attached: a failover loses what had not reached them")
        }
    };
    let mend = "say durability = \"replicated\" to wait for replicas, or \"relaxed\" to accept it; or detach them";
    Some((message, mend.to_owned()))
}

fn too_few_replicas(said: &Said, wanted: u32) -> Option<Weaker> {
    // The server then refuses writes by itself while they are away.
    let demanded: u32 = said.config("min-replicas-to-write").parse().unwrap_or(0);
    let is_replica = |name: &str| name.strip_prefix("slave").is_some_and(|rest| rest.parse::<u32>().is_ok());
    let online = said.info.iter().filter(|(name, state)| is_replica(name) && state.contains("state=online")).count();
    if demanded >= wanted || online >= wanted as usize {
        return None;
    }
    let message = format!("{online} replicas are in step and durability = \"replicated\" wants {wanted}");
    let mend = format!(
        "attach replicas, or set min-replicas-to-write {wanted} so that the server waits for them, or lower [store] \
         replicas"
    );
    Some((message, mend))
}

/// The store is empty, or written by this program with as many shards.
async fn check_schema(connection: &mut MultiplexedConnection, shards: NonZeroU16) -> Result<(), Failure> {
    let wanted = [(keys::SCHEMA, SCHEMA_VERSION.to_owned()), (keys::SHARDS, shards.to_string())];
    let mut said = kept(connection).await?;
    if said.iter().any(Option::is_none) {
        let mut pipe = redis::pipe();
        for (key, value) in &wanted {
            pipe.cmd("SET").arg(key).arg(value).arg("NX").ignore();
        }
        let written: redis::RedisResult<()> = pipe.query_async(connection).await;
        written.map_err(|error| super::failure::classify(&error))?;
        said = kept(connection).await?;
    }
    let [version, kept] = said.map(Option::unwrap_or_default);
    if version != SCHEMA_VERSION {
        let message = format!("the store has schema version {version}, this program writes {SCHEMA_VERSION}");
        return Err(Failure::Fatal(unsafe_server(&message, "use the version of postrider that wrote it")));
    }
    if kept != shards.to_string() {
        let message = format!("the store has {kept} shards, not {shards}");
        let mend = format!("say shards = {kept} in [store]: every run stays in its shard for life");
        return Err(Failure::Fatal(unsafe_server(&message, &mend)));
    }
    Ok(())
}

/// The schema version and the number of shards. Nothing is written where they are: a server that is full refuses that.
async fn kept(connection: &mut MultiplexedConnection) -> Result<[Option<String>; 2], Failure> {
    let mut pipe = redis::pipe();
    pipe.cmd("GET").arg(keys::SCHEMA).cmd("GET").arg(keys::SHARDS);
    let answer: redis::RedisResult<[Option<String>; 2]> = pipe.query_async(connection).await;
    answer.map_err(|error| super::failure::classify(&error))
}

/// Each key has the type that the scripts take for granted.
async fn check_shard(connection: &mut MultiplexedConnection, keys: &Keys) -> Result<(), Failure> {
    let mut pipe = redis::pipe();
    for key in keys.all() {
        pipe.cmd("TYPE").arg(key);
    }
    let answer: redis::RedisResult<Vec<String>> = pipe.query_async(connection).await;
    let answers = answer.map_err(|error| super::failure::classify(&error))?;
    for ((key, (_, kind)), is) in keys.all().iter().zip(keys::SHARD_KEYS).zip(&answers) {
        if is != "none" && is != kind {
            let message = format!("the key {key} is a {is}, not a {kind}");
            return Err(Failure::Fatal(unsafe_server(
                &message,
                "another program writes to this database: use another",
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Said {
        let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Said {
            info: pairs(&[
                ("redis_version", "7.0.15"),
                ("role", "master"),
                ("loading", "0"),
                ("cluster_enabled", "0"),
                ("connected_slaves", "0"),
            ]),
            config: pairs(&[
                ("maxmemory-policy", "noeviction"),
                ("appendonly", "yes"),
                ("appendfsync", "always"),
                ("no-appendfsync-on-rewrite", "no"),
            ]),
        }
    }

    const ALWAYS: Demands = Demands { durability: Durability::Always, topology: Topology::One, is_first: true };
    const RELAXED: Demands = Demands { durability: Durability::Relaxed, ..ALWAYS };

    fn accept(said: &Said, topology: Topology) -> Result<(), Failure> {
        decide_version(said, topology).map_err(Failure::Fatal)?;
        decide_role(said)
    }

    #[test]
    fn a_safe_server_is_accepted() {
        accept(&good(), Topology::One).unwrap();
        assert_eq!(decide_settings(&good(), ALWAYS).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_valkey_is_accepted() {
        let mut said = good();
        let valkey = [("redis_version", "7.2.4"), ("server_name", "valkey"), ("valkey_version", "9.1.2")];
        said.info.extend(valkey.map(|(name, value)| (name.to_owned(), value.to_owned())));
        accept(&said, Topology::One).unwrap();
    }

    #[test]
    fn each_unsafe_setting_is_named_with_its_mend() {
        for (name, value) in [
            ("appendonly", "no"),
            ("appendfsync", "everysec"),
            ("no-appendfsync-on-rewrite", "yes"),
            ("maxmemory-policy", "allkeys-lru"),
        ] {
            let mut said = good();
            said.config.insert(name.into(), value.into());
            let error = decide_settings(&said, ALWAYS).unwrap_err();
            let StoreError::Unsafe { message, mend } = error else { panic!("{error:?}") };
            assert!(message.contains(name) && mend.contains(&format!("CONFIG SET {name}")), "{message}; {mend}");
            let relaxed = decide_settings(&said, RELAXED);
            assert_eq!(relaxed.is_ok(), name != "maxmemory-policy", "{name}");
        }
        let mut said = good();
        said.info.insert("connected_slaves".into(), "2".into());
        assert!(decide_settings(&said, ALWAYS).is_err());
        assert_eq!(decide_settings(&said, RELAXED).unwrap().len(), 1);
    }

    #[test]
    fn sentinels_need_a_word_about_failover() {
        let demands = |durability| Demands { topology: Topology::Sentinels, durability, is_first: true };
        let error = decide_settings(&good(), demands(Durability::Always)).unwrap_err().to_string();
        assert!(error.contains("sentinels") && error.contains("durability = \"replicated\""), "{error}");
        assert_eq!(decide_settings(&good(), demands(Durability::Relaxed)).unwrap().len(), 1);
    }

    #[test]
    fn too_few_replicas_are_refused_at_the_start_only() {
        let demands = |is_first| Demands { durability: Durability::Replicated { replicas: 2 }, is_first, ..ALWAYS };
        let mut said = good();
        let error = decide_settings(&said, demands(true)).unwrap_err().to_string();
        assert!(error.contains("0 replicas") && error.contains("min-replicas-to-write 2"), "{error}");
        assert!(decide_settings(&said, demands(false)).is_ok());
        said.info.insert("slave0".into(), "ip=h,port=1,state=online,offset=1,lag=0".into());
        said.info.insert("slave1".into(), "ip=h,port=2,state=wait_bgsave,offset=0,lag=0".into());
        assert!(decide_settings(&said, demands(true)).unwrap_err().to_string().contains("1 replicas"));
        said.info.insert("slave1".into(), "ip=h,port=2,state=online,offset=1,lag=0".into());
        assert!(decide_settings(&said, demands(true)).is_ok());
        said.config.insert("appendfsync".into(), "everysec".into());
        assert!(decide_settings(&said, demands(true)).unwrap_err().to_string().contains("appendfsync"));
        let mut said = good();
        said.config.insert("min-replicas-to-write".into(), "2".into());
        assert!(decide_settings(&said, demands(true)).is_ok());
    }

    #[test]
    fn wrong_servers_are_refused() {
        for (name, value, topology) in [
            ("redis_version", "6.2.14", Topology::One),
            ("role", "slave", Topology::One),
            ("cluster_enabled", "1", Topology::One),
            ("cluster_enabled", "1", Topology::Sentinels),
            ("cluster_enabled", "0", Topology::Cluster),
        ] {
            let mut said = good();
            said.info.insert(name.into(), value.into());
            let failure = accept(&said, topology).unwrap_err();
            assert!(matches!(failure, Failure::Fatal(StoreError::Unsafe { .. })), "{name}");
            assert!(matches!(as_failover(failure), Failure::Wait { reconnect: true, .. }));
        }
        let mut said = good();
        said.info.insert("loading".into(), "1".into());
        assert!(matches!(decide_role(&said), Err(Failure::Wait { .. })));
    }

    #[test]
    fn only_a_primary_has_a_history() {
        let info = |role: &str| lines(&format!("# Replication\r\nrole:{role}\r\nmaster_replid:abc\r\n"));
        assert_eq!((history(&info("master")).as_str(), history(&info("slave")).as_str()), ("abc", ""));
    }
}
