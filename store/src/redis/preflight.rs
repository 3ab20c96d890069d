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
const SCHEMA_VERSION: &str = "2";

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

/// Reads what the server says and decides. `first`: at the start a wrong server is an error; later it is
/// a failover that may end. Warnings say which promise is weaker.
pub(super) async fn check(
    connection: &mut MultiplexedConnection,
    tags: &Tags,
    durability: Durability,
    first: bool,
) -> Result<Vec<String>, Failure> {
    let mut said = Said { info: info(connection).await?, ..Said::default() };
    decide_server(&said).map_err(|failure| if first { failure } else { as_failover(failure) })?;
    said.config = config(connection).await?;
    let warnings = decide_settings(&said, durability).map_err(Failure::Fatal)?;
    permissions::check(connection, tags).await?;
    if let Some(shards) = tags.global {
        check_schema(connection, shards).await?;
    }
    for keys in &tags.shards {
        check_shard(connection, keys).await?;
    }
    Ok(warnings)
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
    let text = answer.map_err(|error| super::failure::classify(&error))?;
    Ok(text.lines().filter_map(|line| line.trim().split_once(':')).map(|(k, v)| (k.into(), v.into())).collect())
}

async fn config(connection: &mut MultiplexedConnection) -> Result<BTreeMap<String, String>, Failure> {
    let mut cmd = redis::cmd("CONFIG");
    cmd.arg("GET");
    for name in ["maxmemory-policy", "appendonly", "appendfsync", "no-appendfsync-on-rewrite"] {
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

fn decide_server(said: &Said) -> Result<(), Failure> {
    if said.info("loading") == "1" {
        let mend = "wait until the server has read its file";
        return Err(Failure::Wait { message: "LOADING".into(), mend, reconnect: false });
    }
    // A Valkey says as redis_version which Redis it is like, 7.2.4; the first Valkey was 7.2.
    let version = said.info("redis_version");
    let major: u32 = version.split('.').next().and_then(|part| part.parse().ok()).unwrap_or(0);
    if major < 7 {
        let message = format!("the server is version {version}");
        return Err(Failure::Fatal(unsafe_server(&message, "use Redis 7.0 or newer, or Valkey")));
    }
    if said.info("cluster_enabled") == "1" {
        let mend = "use a server with cluster-enabled no";
        return Err(Failure::Fatal(unsafe_server("the server is a cluster node", mend)));
    }
    if said.info("role") != "master" {
        let message = format!("the server's role is {}", said.info("role"));
        return Err(Failure::Fatal(unsafe_server(&message, "point the store URL at the primary")));
    }
    Ok(())
}

fn decide_settings(said: &Said, durability: Durability) -> Result<Vec<String>, StoreError> {
    let policy = said.config("maxmemory-policy");
    if policy != "noeviction" {
        // Not even relaxed: eviction deletes batches.
        return Err(unsafe_server(
            &format!("maxmemory-policy is {policy}, so the server may delete batches"),
            "CONFIG SET maxmemory-policy noeviction, and maxmemory-policy noeviction in redis.conf",
        ));
    }
    let mut weaker = Vec::new();
    let wanted = [
        ("appendonly", "yes", "a crash of the server loses everything since its last snapshot"),
        ("appendfsync", "always", "a crash of the server loses up to the last second of what was acknowledged"),
        ("no-appendfsync-on-rewrite", "no", "a crash of the server during a rewrite loses what was acknowledged"),
    ];
    for (name, value, promise) in wanted {
        let is = said.config(name);
        if is != value {
            weaker.push((
                format!("{name} is {is}: {promise}"),
                format!("CONFIG SET {name} {value}, and {name} {value} in redis.conf; or durability = \"relaxed\""),
            ));
        }
    }
    let replicas = said.info("connected_slaves");
    if !matches!(replicas, "" | "0") {
        weaker.push((
            format!("{replicas} replicas are attached: a failover loses what had not reached them"),
            "detach them, or say durability = \"relaxed\"".to_owned(),
        ));
    }
    match durability {
        Durability::Relaxed => Ok(weaker.into_iter().map(|(message, _)| message).collect()),
        Durability::Always => match weaker.into_iter().next() {
            Some((message, mend)) => Err(StoreError::Unsafe { message, mend }),
            None => Ok(Vec::new()),
        },
    }
}

/// The store is empty, or written by this program with as many shards.
async fn check_schema(connection: &mut MultiplexedConnection, shards: NonZeroU16) -> Result<(), Failure> {
    let mut pipe = redis::pipe();
    pipe.cmd("SET").arg(keys::SCHEMA).arg(SCHEMA_VERSION).arg("NX").ignore();
    pipe.cmd("GET").arg(keys::SCHEMA);
    pipe.cmd("SET").arg(keys::SHARDS).arg(shards.get()).arg("NX").ignore();
    pipe.cmd("GET").arg(keys::SHARDS);
    let answer: redis::RedisResult<(String, String)> = pipe.query_async(connection).await;
    let (version, kept) = answer.map_err(|error| super::failure::classify(&error))?;
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

/// Each key has the type that the scripts take for granted.
async fn check_shard(connection: &mut MultiplexedConnection, keys: &Keys) -> Result<(), Failure> {
    let mut pipe = redis::pipe();
    pipe.cmd("HSETNX").arg(keys.shard()).arg("epoch").arg("1").ignore();
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

    #[test]
    fn a_safe_server_is_accepted() {
        assert!(decide_server(&good()).is_ok());
        assert_eq!(decide_settings(&good(), Durability::Always).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_valkey_is_accepted() {
        let mut said = good();
        let valkey = [("redis_version", "7.2.4"), ("server_name", "valkey"), ("valkey_version", "9.1.2")];
        said.info.extend(valkey.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(decide_server(&said).is_ok());
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
            let error = decide_settings(&said, Durability::Always).unwrap_err();
            let StoreError::Unsafe { message, mend } = error else { panic!("{error:?}") };
            assert!(message.contains(name) && mend.contains(&format!("CONFIG SET {name}")), "{message}; {mend}");
            let relaxed = decide_settings(&said, Durability::Relaxed);
            assert_eq!(relaxed.is_ok(), name != "maxmemory-policy", "{name}");
        }
        let mut said = good();
        said.info.insert("connected_slaves".into(), "2".into());
        assert!(decide_settings(&said, Durability::Always).is_err());
        assert_eq!(decide_settings(&said, Durability::Relaxed).unwrap().len(), 1);
    }

    #[test]
    fn wrong_servers_are_refused_at_the_start_and_waited_for_later() {
        for (name, value) in [("redis_version", "6.2.14"), ("role", "slave"), ("cluster_enabled", "1")] {
            let mut said = good();
            said.info.insert(name.into(), value.into());
            let failure = decide_server(&said).unwrap_err();
            assert!(matches!(failure, Failure::Fatal(StoreError::Unsafe { .. })), "{name}");
            assert!(matches!(as_failover(failure), Failure::Wait { reconnect: true, .. }));
        }
        let mut said = good();
        said.info.insert("loading".into(), "1".into());
        assert!(matches!(decide_server(&said), Err(Failure::Wait { .. })));
    }
}
