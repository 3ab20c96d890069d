//! A store whose settings do not carry the promises is refused before any port is bound.

use postrider_tests::redis_server::RedisServer;
use postrider_tests::{binary, process::Process};
use std::process::Command;
use std::time::Duration;

#[test]
fn a_master_refuses_a_redis_that_may_forget() {
    let dir = tempfile::Builder::new().prefix("postrider-e2e-").tempdir().expect("a temporary folder");
    let redis = RedisServer::start_with(&dir.path().join("redis"), dir.path(), "everysec");
    let mut command = Command::new(binary::postrider());
    command.current_dir(dir.path()).args(["--no-color", "--store", &redis.url(), "master"]);
    command.env("POSTRIDER__MASTER__GRPC_LISTEN", "127.0.0.1:0").env("POSTRIDER__MASTER__HTTP_LISTEN", "127.0.0.1:0");
    let mut master = Process::start("master", &mut command, dir.path());
    let status = master.wait_exit(Duration::from_secs(20));
    println!("SCENARIO unsafe_store: exit {:?}: {}", status.code(), master.stderr().lines().last().unwrap_or_default());
    assert_eq!(status.code(), Some(3), "{}", master.tail());
    assert!(master.stderr().contains("appendfsync"), "the setting is named: {}", master.tail());
}
