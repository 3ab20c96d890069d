//! The conformance suite over a real server, one server for each case, as the user of docs/operations.md that is
//! allowed what the store needs and nothing else.

#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

mod redis_server;

use redis_server::{Served, Server};
use std::sync::Arc;

async fn server() -> Served {
    let server = Server::start();
    server.allow_least_user(&[]);
    Served { store: Arc::new(server.store_of_least_user().await.unwrap()), server }
}

postrider_store::conformance_tests!(server);

/// Seeds of random calls: so many, or POSTRIDER_SEEDS of them, from POSTRIDER_SEED_FIRST on, for a long run.
const SEEDS: u64 = 6;
/// On a slow machine and a real clock some calls come too late to mean anything: then more seeds, up to this.
const SEEDS_MAX: u64 = 4 * SEEDS;

#[tokio::test]
async fn random_calls_agree_with_the_model() {
    let number = |name: &str, other| std::env::var(name).map_or(other, |number| number.parse().unwrap());
    let (first, seeds) = (number("POSTRIDER_SEED_FIRST", 0), number("POSTRIDER_SEEDS", SEEDS));
    let mut reached = postrider_store::conformance::random::Reached::default();
    // On a real clock the rare ones may be missed; that the mix reaches everything is shown on the embedded store.
    let mut seed = 0;
    let mut is_enough = false;
    while seed < seeds || (!is_enough && seed < SEEDS_MAX) {
        postrider_store::conformance::random::compare(&server().await, first + seed, 400, &mut reached).await;
        seed += 1;
        let often = [reached.accepted, reached.settled, reached.leases_taken_over, reached.resent_outcome_not_recorded];
        is_enough = often.iter().all(|count| *count > 0);
    }
    println!("{seed} seeds: {reached:?}");
    assert!(is_enough, "the calls reach too little: {reached:?}");
}

#[test]
fn the_server_is_the_one_that_was_asked_for() {
    let info: String = Server::start().command(&["INFO", "server"]);
    let is_valkey = info.lines().any(|line| line.trim() == "server_name:valkey");
    assert_eq!(is_valkey, redis_server::program().contains("valkey"), "{info}");
    let version =
        info.lines().find(|line| line.starts_with(if is_valkey { "valkey_version" } else { "redis_version" }));
    println!("{}", version.unwrap());
}
