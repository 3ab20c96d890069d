//! Both masters are SIGKILLed twenty times, at random moments, while a table of a million rows is fetched and split, and the
//! table changes meanwhile: the recipients in batches are those that the table had when it was read, each once.

use postrider_tests::databases::Postgres;
use postrider_tests::split_kills::{kill_while_splitting, restart_masters};
use postrider_tests::{Fleet, Settings, binary, wait};
use std::time::Duration;

const ROWS: u64 = 1_000_000;
const KILLS: usize = 20;
/// Of them, while the query is read; the others while its rows are split.
const KILLS_WHILE_FETCHING: usize = 8;
/// After the masters are there again. Far less than reading takes, so that it comes to an end in no life of theirs.
const FETCH_MS_MAX: u64 = 1_500;
/// One fetch, or one split read again from its beginning after a kill.
const STEP_BOUND: Duration = Duration::from_secs(180);

#[test]
fn a_table_is_split_once_whoever_is_killed() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("POSTRIDER_SEED").unwrap_or(20_261_122);
    let rows = number("POSTRIDER_SQL_ROWS").unwrap_or(ROWS);
    let mut random = fastrand::Rng::with_seed(seed);
    let postgres = Postgres::start();
    postgres.tell(&format!(
        "CREATE TABLE people AS SELECT id, 'r' || id || '@' || (ARRAY['gmail.com','outlook.com','example.org'])[1 + id % 3] \
         AS email, 'Person ' || id AS name, 12.10 + id AS points, now() - id * interval '1 second' AS seen \
         FROM generate_series(1, {rows}) AS id"
    ));
    // Nothing is sent: the whole audience is ahead of the workers.
    let extra = "[master]\nsplit_ahead_batches = 100000\n".to_owned();
    let environment = vec![("DIGEST_DB".to_owned(), postgres.url())];
    let program = Some(binary::complete());
    let mut fleet = Fleet::start_without_relay(Settings {
        workers: 0,
        lease_ttl_ms: 1_000,
        extra,
        environment,
        program,
        ..Settings::default()
    });
    let file = fleet.folder().join("digest.toml");
    let campaign = "name = \"digest\"\nfrom = \"Acme <digest@acme.example>\"\n[audience]\naddress = \"email\"\n\
         sql = { url = \"env:DIGEST_DB\", query = \"SELECT * FROM people\", key = \"id\" }\n\
         [template]\nsubject = \"Hello {{ name }}\"\ntext_inline = \"You have {{ points }}.\"\n";
    std::fs::write(&file, campaign).expect("a campaign file");
    let client = fleet.client();
    client.apply(&file);
    let run = client.run("digest", "digest-1");

    println!("seed {seed}");
    let mut fetching = 0;
    for _ in 0..KILLS_WHILE_FETCHING {
        std::thread::sleep(Duration::from_millis(random.u64(0..FETCH_MS_MAX)));
        let seen = wait::until("a master to answer", STEP_BOUND, || client.try_show(&run));
        fetching += u32::from(seen.recipients.total == 0);
        restart_masters(&mut fleet);
    }
    wait::until("the first batches", STEP_BOUND, || client.try_show(&run).filter(|seen| seen.recipients.total > 0));
    // From here on the table is another one.
    postgres.tell("DELETE FROM people WHERE id % 2 = 0; ALTER TABLE people RENAME email TO mail");
    let kills = (KILLS - KILLS_WHILE_FETCHING, rows);
    let totals = kill_while_splitting(&mut fleet, (&client, &run), &mut random, kills);
    let complete = wait::until("the split to be complete", STEP_BOUND, || {
        client.try_show(&run).filter(|seen| seen.split_complete || seen.error.is_some())
    });
    assert!(complete.error.is_none(), "seed {seed}: {complete:?}");
    let mut recipients: Vec<(u64, String)> = client
        .recipients(&run)
        .into_iter()
        .map(|recipient| (recipient.key.parse().expect("the key is the id"), recipient.address))
        .collect();
    let admitted = recipients.len();
    recipients.sort_unstable();
    recipients.dedup();
    println!(
        "SCENARIO sql_killed: seed {seed}, rows {rows}, both masters killed {KILLS} times, {fetching} of them while fetching, \
         then at totals {totals:?}, admitted {admitted}, distinct {}",
        recipients.len()
    );
    assert_eq!(recipients.len(), admitted, "seed {seed}: somebody is in two batches");
    let domains = ["gmail.com", "outlook.com", "example.org"];
    let address = |id: u64| (id, format!("r{id}@{}", domains[(id % 3) as usize]));
    assert!(recipients.into_iter().eq((1..=rows).map(address)), "seed {seed}: not the table");
    assert_eq!((complete.recipients.total, complete.recipients.pending, complete.bad_rows), (rows, rows, 0));
    // Killed masters leave nothing open at the server.
    wait::until("the server to be left alone", STEP_BOUND, || {
        let open = postgres.ask("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'postrider'");
        (open.trim() == "0").then_some(())
    });
}
