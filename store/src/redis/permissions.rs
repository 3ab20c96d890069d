//! What the store's user must be allowed to do, asked before anything is done.
//!
//! A script that is refused in its middle would leave half of its writes behind, so a permission that is
//! missing must show when a master connects. Commands are queued in a MULTI that is discarded: the server
//! checks permissions as it queues, and carries nothing out.

use super::failure::{Failure, classify};
use super::keys::{self, Tags};
use crate::error::StoreError;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisResult, Value};

/// Stands for a key that nothing is ever stored under.
const NO_KEY: &str = "KEY";

/// Every command the store sends and its scripts call, with arguments a server accepts for queueing. The user of
/// docs/operations.md is allowed these and no others; tests keep the two and the sources equal.
const NEEDED: [&[&str]; 48] = [
    &["ASKING"],
    &["CLUSTER", "SLOTS"],
    &["CONFIG", "GET", "appendonly"],
    &["DEL", NO_KEY],
    &["DISCARD"],
    &["EVALSHA", "0000000000000000000000000000000000000000", "0"],
    &["EXEC"],
    &["EXISTS", NO_KEY],
    &["FCALL", "postrider", "0"],
    &["FUNCTION", "LOAD", "#!lua"],
    &["GET", NO_KEY],
    &["HDEL", NO_KEY, "x"],
    &["HGET", NO_KEY, "x"],
    &["HGETALL", NO_KEY],
    &["HINCRBY", NO_KEY, "x", "1"],
    &["HLEN", NO_KEY],
    &["HMGET", NO_KEY, "x"],
    &["HSCAN", NO_KEY, "0"],
    &["HSET", NO_KEY, "x", "1"],
    &["HSETNX", NO_KEY, "x", "1"],
    &["INFO"],
    &["LLEN", NO_KEY],
    &["LRANGE", NO_KEY, "0", "0"],
    &["MULTI"],
    &["PERSIST", NO_KEY],
    &["PING"],
    &["PUBLISH", keys::WAKE_CHANNEL, "1"],
    &["RPUSH", NO_KEY, "x"],
    &["SADD", NO_KEY, "x"],
    &["SCARD", NO_KEY],
    &["SCRIPT", "LOAD", "return 1"],
    &["SET", NO_KEY, "1"],
    &["SISMEMBER", NO_KEY, "x"],
    &["SREM", NO_KEY, "x"],
    &["SUBSCRIBE", keys::WAKE_CHANNEL],
    &["TIME"],
    &["TYPE", NO_KEY],
    &["WAIT", "0", "1"],
    &["ZADD", NO_KEY, "0", "x"],
    &["ZCARD", NO_KEY],
    &["ZLEXCOUNT", NO_KEY, "-", "+"],
    &["ZRANGE", NO_KEY, "0", "0"],
    &["ZRANGEBYLEX", NO_KEY, "-", "+"],
    &["ZRANGEBYSCORE", NO_KEY, "0", "0"],
    &["ZREM", NO_KEY, "x"],
    &["ZREVRANGEBYSCORE", NO_KEY, "0", "0"],
    &["ZSCAN", NO_KEY, "0"],
    &["ZSCORE", NO_KEY, "x"],
];

/// Fails with the first permission that is missing.
pub(super) async fn check(connection: &mut MultiplexedConnection, tags: &Tags) -> Result<(), Failure> {
    // Those of transactions by themselves: without MULTI the others would be carried out.
    refused(connection, "", &[&["EXEC"], &["DISCARD"], &["MULTI"], &["DISCARD"]]).await?;
    let is_queued = |words: &&&[&str]| !matches!(words[0], "EXEC" | "DISCARD" | "MULTI");
    let mut probe: Vec<&[&str]> = vec![&["MULTI"]];
    probe.extend(NEEDED.iter().filter(is_queued));
    probe.push(&["DISCARD"]);
    for key in tags.unused() {
        refused(connection, &key, &probe).await?;
    }
    Ok(())
}

async fn refused(connection: &mut MultiplexedConnection, key: &str, commands: &[&[&str]]) -> Result<(), Failure> {
    let mut pipe = Pipeline::new();
    pipe.ignore_errors();
    for words in commands {
        let words: Vec<&str> = words.iter().map(|word| if *word == NO_KEY { key } else { word }).collect();
        pipe.cmd(words[0]).arg(&words[1..]);
    }
    let answers: RedisResult<Vec<Value>> = pipe.query_async(connection).await;
    for answer in answers.map_err(|error| classify(&error))? {
        let Err(error) = answer.extract_error() else { continue };
        // Other refusals are no matter of permission: EXEC without MULTI, memory used up.
        if let failure @ Failure::Fatal(StoreError::Unsafe { .. }) = classify(&error) {
            return Err(failure);
        }
    }
    Ok(())
}

/// The error of a NOPERM, with the words that mend it.
pub(super) fn missing(message: String, detail: &str) -> StoreError {
    let grant = match detail.split('\'').nth(1) {
        Some(command) if detail.contains("command") => format!("+{command}"),
        _ if detail.contains("channel") => "&postrider:*".to_owned(),
        _ => "~postrider:*".to_owned(),
    };
    let mend =
        format!("allow it to the store's user: ACL SETUSER … {grant} (all that it needs is in docs/operations.md)");
    StoreError::Unsafe { message, mend }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// `+get` for GET, `+config|get` for CONFIG GET.
    fn grant(words: &[&str]) -> String {
        let name = match words[0] {
            "CLUSTER" | "CONFIG" | "FUNCTION" | "SCRIPT" => format!("{}|{}", words[0], words[1]),
            name => name.to_owned(),
        };
        format!("+{}", name.to_lowercase())
    }

    #[test]
    fn the_documented_user_is_allowed_what_is_needed_and_no_more() {
        let operations = include_str!("../../../docs/operations.md");
        let line = operations.lines().find(|line| line.starts_with("ACL SETUSER")).unwrap();
        let grants: Vec<String> = NEEDED.iter().map(|words| grant(words)).collect();
        let wanted = format!("ACL SETUSER postrider reset on >PASSWORD ~postrider:* &postrider:* {}", grants.join(" "));
        assert_eq!(line, wanted, "write this into docs/operations.md:\n{wanted}");
    }

    /// First words of what follows `before` in the sources of the store.
    fn named_after(before: &str, folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                named_after(before, &path, found);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let words = text.split(before).skip(1).filter_map(|rest| rest.split(['\'', '"']).next());
            found.extend(words.filter(|word| word.chars().all(|c| c.is_ascii_uppercase())).map(str::to_owned));
        }
    }

    #[test]
    fn every_command_of_the_sources_is_needed_and_every_needed_one_is_there() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/redis");
        let mut found = BTreeSet::new();
        for before in ["call('", "=> \"'", "cmd(\""] {
            named_after(before, &folder, &mut found);
        }
        // Sent by the client library.
        found.extend(["MULTI", "EXEC", "SUBSCRIBE"].map(str::to_owned));
        found.insert("PING".to_owned());
        // Only here.
        found.insert("DISCARD".to_owned());
        // Of sentinels, whose users are others.
        found.remove("SENTINEL");
        found.remove("");
        let needed: BTreeSet<String> = NEEDED.iter().map(|words| words[0].to_owned()).collect();
        assert_eq!(needed, found);
    }

    #[test]
    fn a_missing_permission_names_its_mend() {
        for (detail, wanted) in [
            ("User postrider has no permissions to run the 'script|load' command", "ACL SETUSER … +script|load "),
            ("No permissions to access a key", "ACL SETUSER … ~postrider:* "),
            ("No permissions to access a channel", "ACL SETUSER … &postrider:* "),
        ] {
            let error = missing("NOPERM".into(), detail).to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
