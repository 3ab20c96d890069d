//! A user that lacks a permission is refused when a master connects, by the name of what is missing.

#![expect(clippy::unwrap_used, reason = "a case that cannot reach its server has failed")]

mod redis_server;

use postrider_store::{Store, StoreError};
use redis_server::Server;

/// What a start says with the least user, less or more `change`. Nothing may be written by then.
async fn refusal(server: &Server, change: &[&str]) -> String {
    server.allow_least_user(change);
    let Err(error) = server.store_of_least_user().await else { panic!("{change:?} is accepted") };
    assert!(matches!(error, StoreError::Unsafe { .. }) && !error.may_have_happened(), "{error}");
    assert_eq!(server.command::<i64>(&["DBSIZE"]), 0, "{change:?}: a refused start wrote something");
    error.to_string()
}

#[tokio::test]
async fn each_missing_command_is_named_at_the_start() {
    let server = Server::start();
    let granted: String = server.least_user_line();
    let commands: Vec<&str> = granted.split(' ').filter_map(|word| word.strip_prefix('+')).collect();
    assert!(commands.len() > 30, "{granted}");
    for command in commands {
        let error = refusal(&server, &[&format!("-{command}")]).await;
        assert!(error.contains(&format!("'{command}' command")), "{error}");
        // Settings have a mend of their own, for servers where the command was renamed.
        assert!(error.contains(&format!("+{command} ")) || error.contains("+config|get"), "{error}");
    }
}

#[tokio::test]
async fn missing_keys_and_channels_are_named_at_the_start() {
    let server = Server::start();
    for keys in [&["resetkeys"][..], &["resetkeys", "~postrider:{s0}:*"], &["resetkeys", "~postrider:{g}:*"]] {
        let error = refusal(&server, keys).await;
        assert!(error.contains("NOPERM") && error.contains("ACL SETUSER … ~postrider:* "), "{error}");
    }
    let error = refusal(&server, &["resetchannels"]).await;
    assert!(error.contains("NOPERM") && error.contains("ACL SETUSER … &postrider:* "), "{error}");
}

#[tokio::test]
async fn a_permission_taken_away_later_is_an_error_that_names_it() {
    let server = Server::start();
    server.allow_least_user(&[]);
    let store = server.store_of_least_user().await.unwrap();
    server.allow_least_user(&["-fcall", "-zrevrangebyscore"]);
    let error = store.runs(None, 10).await.unwrap_err();
    let StoreError::Unsafe { message, mend } = &error else { panic!("{error}") };
    assert!(message.contains("NOPERM") && mend.contains("+zrevrangebyscore "), "{error}");
    let error = store.set_lane_paused(&"bulk".parse().unwrap(), true).await.unwrap_err();
    assert!(error.to_string().contains("+fcall "), "{error}");
}

#[tokio::test]
async fn the_least_user_can_do_nothing_else() {
    let server = Server::start();
    server.allow_least_user(&[]);
    let mut connection = server.connection_of_least_user();
    for words in [
        &["FLUSHALL"][..],
        &["CONFIG", "SET", "appendfsync", "no"],
        &["GET", "another:program"],
        &["KEYS", "*"],
        &["EVAL", "return 1", "0"],
        &["ACL", "WHOAMI"],
    ] {
        let error = redis::cmd(words[0]).arg(&words[1..]).query::<redis::Value>(&mut connection).unwrap_err();
        assert_eq!(error.code(), Some("NOPERM"), "{words:?}: {error}");
    }
}
