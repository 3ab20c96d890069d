//! A store that does not carry the promises is refused before any port is bound: exit code 3, and one message that names
//! what is wrong and what to do about it.

use postrider_tests::redis_server::RedisServer;
use postrider_tests::{binary, process::Process};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const EXIT_BOUND: Duration = Duration::from_secs(20);

/// Starts a master on the store, sees it refuse, and gives its last words.
fn refusal(name: &str, dir: &Path, store: &str, durability: &str) -> String {
    let mut command = Command::new(binary::postrider());
    command.current_dir(dir).args(["--no-color", "--store", store, "master"]);
    command.env("POSTRIDER__STORE__DURABILITY", durability);
    command.env("POSTRIDER__MASTER__GRPC_LISTEN", "127.0.0.1:0").env("POSTRIDER__MASTER__HTTP_LISTEN", "127.0.0.1:0");
    let mut master = Process::start(&format!("master-{name}"), &mut command, dir);
    let status = master.wait_exit(EXIT_BOUND);
    let said = master.stderr();
    println!("SCENARIO unsafe_store {name}: exit {:?}: {}", status.code(), said.lines().last().unwrap_or_default());
    assert_eq!(status.code(), Some(3), "{name}: {}", master.tail());
    said
}

#[test]
fn a_master_refuses_a_redis_that_may_forget() {
    let dir = tempfile::Builder::new().prefix("postrider-e2e-").tempdir().expect("a temporary folder");
    let redis = RedisServer::start_with(&dir.path().join("redis"), dir.path(), "everysec");
    let said = refusal("everysec", dir.path(), &redis.url(), "always");
    assert!(said.contains("CONFIG SET appendfsync always"), "the setting is named: {said}");
    assert_eq!(redis.count_keys("*"), 0, "a refused start wrote something");
}

#[test]
fn a_master_names_what_is_wrong_with_its_redis() {
    let dir = tempfile::Builder::new().prefix("postrider-e2e-").tempdir().expect("a temporary folder");
    let rows: [(&str, &str, &str, &[&str]); 6] = [
        ("evicting", "CONFIG SET maxmemory-policy allkeys-lru", "always", &["maxmemory-policy noeviction"]),
        ("replica", "REPLICAOF 127.0.0.1 1", "always", &["the server's role is slave", "at the primary"]),
        ("password", "CONFIG SET requirepass secret", "always", &["NOAUTH", "user and password in the store URL"]),
        (
            "schema",
            "SET postrider:{g}:schema 99",
            "always",
            &["schema version 99", "the version of postrider that wrote it"],
        ),
        ("foreign", "SET postrider:{s0}:lease x", "always", &["postrider:{s0}:lease is a string", "use another"]),
        ("alone", "PING", "replicated", &["0 replicas are in step", "min-replicas-to-write 1"]),
    ];
    for (name, harm, durability, expected) in rows {
        let redis = RedisServer::start(&dir.path().join(name), dir.path());
        redis.tell(harm);
        let said = refusal(name, dir.path(), &redis.url(), durability);
        for words in expected {
            assert!(said.contains(words), "{name}: {said}");
        }
        assert!(!said.contains("secret"), "{said}");
    }
}

/// A server that says of itself that it is an old one.
#[test]
fn a_master_refuses_a_redis_that_is_too_old() {
    let dir = tempfile::Builder::new().prefix("postrider-e2e-").tempdir().expect("a temporary folder");
    let listener = TcpListener::bind("127.0.0.1:0").expect("some port is free");
    let port = listener.local_addr().expect("it is bound").port();
    std::thread::spawn(move || {
        let info = "# Server\r\nredis_version:6.2.14\r\nrole:master\r\nloading:0\r\n";
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 1024];
            while stream.read(&mut request).is_ok_and(|length| length > 0) {
                if stream.write_all(format!("${}\r\n{info}\r\n", info.len()).as_bytes()).is_err() {
                    break;
                }
            }
        }
    });
    let said = refusal("old", dir.path(), &format!("redis://127.0.0.1:{port}"), "always");
    assert!(said.contains("the server is version 6.2.14") && said.contains("use Redis 7.0 or newer"), "{said}");
}
