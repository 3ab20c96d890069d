//! The whole worker, over real sockets on loopback: a master made of the store's model, and an SMTP
//! server that does what the test says.
#![expect(clippy::unwrap_used, reason = "a test")]

mod loopback;

use loopback::{Master, Relay, Script, Wish, until};
use postrider_common::SystemClock;
use postrider_common::ids::LaneName;
use postrider_common::lease::OutcomeKind;
use postrider_common::relay::RelayLimit;
use postrider_common::state::RecipientState;
use postrider_worker::{RelayConfig, WorkerConfig, WorkerError};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

struct Running {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl Running {
    async fn drain(mut self) -> Result<(), WorkerError> {
        self.stop.take();
        tokio::time::timeout(Duration::from_secs(20), self.task).await.expect("it ends").expect("it does not panic")
    }
}

fn config(masters: &[SocketAddr], relay: SocketAddr) -> WorkerConfig {
    WorkerConfig {
        masters: masters.iter().map(|address| format!("http://{address}")).collect(),
        name: "test".into(),
        slots: 16,
        lanes: Vec::new(),
        reserve: BTreeMap::from([(LaneName::transactional(), 2)]),
        relays: vec![RelayConfig {
            name: "relay".into(),
            host: "127.0.0.1".into(),
            port: relay.port(),
            security: postrider_worker::Security::None,
            authorities: None,
            login: None,
            lanes: Vec::new(),
            connections: 4,
            limit: RelayLimit::default(),
        }],
        ehlo: "worker.example".into(),
        source_address: Some("127.0.0.1".parse().unwrap()),
        journal: None,
        drain_timeout: Duration::from_secs(5),
        http_listen: None,
        outgoing: postrider_outgoing::Settings::default(),
        signing: postrider_worker::Signing::default(),
    }
}

fn start(config: WorkerConfig) -> Running {
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async {
        let _ = stopped.await;
    };
    let task = tokio::spawn(postrider_worker::run(config, Arc::new(SystemClock::default()), stopped));
    Running { stop: Some(stop), task }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_recipient_ends_in_its_state() {
    let relay = Relay::start(Script::default()).await;
    let master = Master::start(60_000).await;
    let run = master.add_run("mixed", 130, |index| match index {
        5 => "reject-5@example.com".into(),
        6 => "silent-6@example.com".into(),
        _ => format!("r{index}@example.com"),
    });
    let worker = start(config(&[master.address], relay.address));
    until("everybody else is settled", || master.counts(&run).pending <= 1).await;
    worker.drain().await.expect("a clean drain");

    let counts = master.counts(&run);
    // Of the one whose reply was lost, a second try is due after a second.
    assert_eq!((counts.accepted, counts.rejected, counts.pending), (127, 2, 1), "{counts:?}");
    let states = master.recipients(&run);
    assert_eq!((states[5].state, states[5].code.as_str()), (RecipientState::Rejected, "550 5.1.1"));
    assert_eq!((states[6].state, states[6].code.as_str()), (RecipientState::Deferred, "lost"));
    assert!(states[6].reason.is_some());
    // Recipient 7 has no name, which the template prints.
    assert_eq!((states[7].state, states[7].code.as_str()), (RecipientState::Rejected, "render"));
    let ledger = relay.ledger();
    assert_eq!(ledger.len(), 128);
    assert!(ledger.values().all(|count| *count == 1));
    assert!(relay.connections() <= 6, "connections are reused: {}", relay.connections());
    assert_eq!(master.leased(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_master_is_passed_over() {
    let relay = Relay::start(Script::default()).await;
    let master = Master::start(60_000).await;
    let run = master.add_run("small", 20, |index| format!("r{index}@example.com"));
    let dead = loopback::closed_port().await;
    let worker = start(config(&[dead, master.address], relay.address));
    until("everybody is settled", || master.counts(&run).pending == 0).await;
    // It goes away and comes back: nothing ends, nothing is lost.
    master.wish(Wish::Unavailable);
    let second = master.add_run("second", 20, |index| format!("s{index}@example.com"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    master.wish(Wish::Serve);
    until("the second run is settled", || master.counts(&second).pending == 0).await;
    worker.drain().await.expect("a clean drain");
    assert_eq!(relay.ledger().len(), 39 - 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_down_costs_nobody_an_attempt() {
    let address = loopback::closed_port().await;
    let master = Master::start(60_000).await;
    let run = master.add_run("waiting", 30, |index| format!("r{index}@example.com"));
    let worker = start(config(&[master.address], address));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(master.claims(), 0, "nothing is leased for a relay that is down");
    let relay = Relay::start_at(address, Script::default()).await;
    until("everybody is settled", || master.counts(&run).pending == 0).await;
    worker.drain().await.expect("a clean drain");
    assert!(master.recipients(&run).iter().all(|delivery| delivery.attempts == 1));
    assert_eq!(relay.ledger().len(), 29);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_stuck_with_bulk_mail_still_takes_a_reserved_lane() {
    let relay = Relay::start(Script::default()).await;
    let master = Master::start(60_000).await;
    master.add_run("bulk", 100, |index| format!("stuck-{index}@example.com"));
    let mut config = config(&[master.address], relay.address);
    config.drain_timeout = Duration::from_millis(1);
    let worker = start(config);
    until("bulk mail holds all connections it may", || relay.ledger().len() >= 3).await;
    let reset = master.add_run_in(LaneName::transactional(), "reset", 5, |index| format!("r{index}@example.com"));
    until("the reserved lane is sent", || master.counts(&reset).accepted == 5).await;
    assert_eq!(relay.ledger().len(), 3 + 5);
    worker.drain().await.expect("what is stuck is given up as in doubt");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_hands_back_what_is_unsent_and_waits_for_what_is_open() {
    let relay = Relay::start(Script { reply_delay_ms: 400, ..Script::default() }).await;
    let master = Master::start(60_000).await;
    let run = master.add_run("long", 400, |index| format!("r{index}@example.com"));
    let worker = start(config(&[master.address], relay.address));
    until("some are sent", || relay.ledger().len() >= 4).await;
    worker.drain().await.expect("a clean drain");

    assert_eq!(master.leased(), 0);
    let ledger = relay.ledger();
    let states = master.recipients(&run);
    for (index, delivery) in states.iter().enumerate() {
        let is_sent = ledger.contains_key(&format!("r{index}@example.com"));
        let expected = match (index, is_sent) {
            (_, true) => RecipientState::Accepted,
            (7, false) if delivery.state == RecipientState::Rejected => RecipientState::Rejected,
            (_, false) => RecipientState::Pending,
        };
        assert_eq!(delivery.state, expected, "recipient {index}");
        assert!(delivery.reason.is_none());
    }
    assert!(master.counts(&run).pending > 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_does_not_wait_for_ever() {
    let relay = Relay::start(Script { reply_delay_ms: 60_000, ..Script::default() }).await;
    let master = Master::start(60_000).await;
    let run = master.add_run("stuck", 100, |index| format!("r{index}@example.com"));
    let mut config = config(&[master.address], relay.address);
    config.drain_timeout = Duration::from_millis(300);
    let worker = start(config);
    until("some wait for their reply", || relay.ledger().len() >= 3).await;
    worker.drain().await.expect("a clean drain");
    assert_eq!(master.leased(), 0);
    let doubts = master.recipients(&run).into_iter().filter(|delivery| delivery.reason.is_some()).count();
    assert_eq!(doubts, relay.ledger().len(), "those and no others are in doubt");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_final_dot_is_written_after_the_end_of_trust() {
    let ttl_ms = 1_000;
    let relay = Relay::start(Script { data_delay_ms: 1_400, ..Script::default() }).await;
    let master = Master::start(ttl_ms).await;
    let run = master.add_run("late", 20, |index| format!("r{index}@example.com"));
    let worker = start(config(&[master.address], relay.address));
    until("transactions are open", || relay.data_commands() > 0).await;
    master.wish(Wish::Unavailable);
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert!(relay.ledger().is_empty(), "a final dot came after the lease: {:?}", relay.ledger());
    // The worker did not end, and tells what it did not write.
    relay.wish(Script::default());
    master.wish(Wish::Serve);
    until("everybody is settled", || master.counts(&run).pending == 0).await;
    worker.drain().await.expect("a clean drain");
    assert!(relay.ledger().values().all(|count| *count == 1));
    assert_eq!(relay.ledger().len(), 19);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_leases_than_a_call_carries_all_come_to_their_end() {
    let relay = Relay::start(Script::default()).await;
    let master = Master::start(60_000).await;
    let run = master.add_run("large", 8_000, |index| format!("r{index}@example.com"));
    let mut config = config(&[master.address], relay.address);
    config.slots = 800;
    let worker = start(config);
    until("more leases are held than fit in a call", || master.leased() > 64).await;
    until("everybody is settled", || master.counts(&run).pending == 0).await;
    worker.drain().await.expect("a clean drain");
    assert_eq!(relay.ledger().len(), 7_999);
    assert!(relay.ledger().values().all(|count| *count == 1));
}

/// What the journal would tell if the worker were killed at this instant, by batch and index.
fn told(folder: &Path) -> BTreeMap<(u64, u32), OutcomeKind> {
    let facts = postrider_worker::journal::facts_in(folder).unwrap();
    facts.into_iter().map(|fact| ((fact.batch.sequence, fact.outcome.index), fact.outcome.kind)).collect()
}

/// Intents before they are asked for, dots before their first byte, outcomes before they are reported: seen
/// from where they arrive.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_journal_is_written_before_what_it_tells_of() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(Script { reply_delay_ms: 5, ..Script::default() }).await;
    let master = Master::start(60_000).await;
    let wrong = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::new(Mutex::new((0, 0, 0)));
    {
        let (folder, wrong, seen) = (folder.path().to_owned(), wrong.clone(), seen.clone());
        relay.witness(move |recipient| {
            let index: u32 =
                recipient.trim_start_matches(|c: char| !c.is_ascii_digit()).split('@').next().unwrap().parse().unwrap();
            let known = told(&folder).get(&(1, index)).copied();
            if known != Some(OutcomeKind::Unknown) {
                wrong.lock().unwrap().push(format!("at the dot of {index}: {known:?}"));
            }
            seen.lock().unwrap().0 += 1;
        });
    }
    {
        let (folder, wrong, seen) = (folder.path().to_owned(), wrong.clone(), seen.clone());
        master.witness(move |reports| {
            let known = told(&folder);
            for report in reports {
                let key = |index: u32| (report.batch.sequence, index);
                for index in report.intents.iter().filter(|index| !known.contains_key(&key(**index))) {
                    wrong.lock().unwrap().push(format!("intent of {index} is asked for and not noted"));
                }
                for outcome in
                    report.outcomes.iter().filter(|outcome| known.get(&key(outcome.index)) != Some(&outcome.kind))
                {
                    wrong.lock().unwrap().push(format!("{outcome:?} is reported and not noted"));
                }
                let mut seen = seen.lock().unwrap();
                seen.1 += report.intents.len();
                seen.2 += report.outcomes.len();
            }
        });
    }
    let run = master.add_run("noted", 60, |index| match index {
        6 => "silent-6@example.com".into(),
        _ => format!("r{index}@example.com"),
    });
    let mut config = config(&[master.address], relay.address);
    config.journal = Some(folder.path().to_owned());
    let worker = start(config);
    until("everybody else is settled", || master.counts(&run).pending <= 1).await;
    worker.drain().await.expect("a clean drain");
    assert_eq!(*wrong.lock().unwrap(), Vec::<String>::new());
    let seen = *seen.lock().unwrap();
    assert!(seen.0 == 59 && seen.1 >= 60 && seen.2 >= 60, "dots, intents, outcomes: {seen:?}");
    assert!(told(folder.path()).is_empty(), "a clean end leaves nothing to tell");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_cannot_be_kept_says_so_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("journal");
    std::fs::write(&file, "").unwrap();
    let mut config = config(&["127.0.0.1:1".parse().unwrap()], "127.0.0.1:1".parse().unwrap());
    config.journal = Some(file);
    let error = start(config).drain().await.unwrap_err().to_string();
    assert!(error.contains("worker.journal = '") && error.contains("name another folder"), "{error}");
}
