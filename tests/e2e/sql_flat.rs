//! Reading a table takes no more memory the larger the table is, but for the hashes of the keys; how fast it is, beside the
//! client of the database reading the same. `POSTRIDER_SQL_ROWS` asks for other sizes.

use postrider_tests::databases::Postgres;
use postrider_tests::{Fleet, Settings, binary, wait};
use std::time::Duration;

const ROWS: u64 = 200_000;
/// What the splitter keeps of each recipient (16 bytes of a hash, in a table that doubles), with room.
const KEY_BYTES: u64 = 64;
/// What differs from run to run: buffers, and what an allocator keeps.
const SLACK_BYTES: u64 = 48 * 1024 * 1024;
const BOUND: Duration = Duration::from_secs(240);

/// What one run showed.
struct Seen {
    fetch_ms: u64,
    most_bytes: u64,
}

#[test]
fn a_larger_table_takes_no_more_memory() {
    let rows = std::env::var("POSTRIDER_SQL_ROWS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROWS);
    let postgres = Postgres::start();
    postgres.tell(&format!(
        "CREATE TABLE people AS SELECT id, 'r' || id || '@gmail.com' AS email, 'Person ' || id AS name, 12.10 + id AS points, \
         now() - id * interval '1 second' AS seen FROM generate_series(1, {rows}) AS id"
    ));
    let begun = std::time::Instant::now();
    postgres.ask("\\copy (SELECT * FROM people) TO '/dev/null'");
    let copy_ms = begun.elapsed().as_millis().max(1) as u64;
    let few = (rows / 10).max(1);
    let (small, large) = (fetch(&postgres, few), fetch(&postgres, rows));
    println!(
        "SCENARIO sql_flat: {rows} rows fetched in {} ms ({} a second; psql \\copy {copy_ms} ms), most memory {} MB, of {few} rows {} MB",
        large.fetch_ms,
        rows * 1000 / large.fetch_ms.max(1),
        large.most_bytes >> 20,
        small.most_bytes >> 20
    );
    let grown = large.most_bytes.saturating_sub(small.most_bytes);
    assert!(grown < rows * KEY_BYTES + SLACK_BYTES, "{grown} bytes more for {rows} rows");
}

/// By a master that does nothing else.
fn fetch(postgres: &Postgres, rows: u64) -> Seen {
    let environment = vec![("DIGEST_DB".to_owned(), postgres.url())];
    let program = Some(binary::complete());
    let extra = "[master]\nsplit_ahead_batches = 100000\n".to_owned();
    let settings = Settings { masters: 1, workers: 0, environment, program, extra, ..Settings::default() };
    let fleet = Fleet::start_without_relay(settings);
    let file = fleet.folder().join("digest.toml");
    let campaign = format!(
        "name = \"digest\"\nfrom = \"Acme <digest@acme.example>\"\n[audience]\naddress = \"email\"\n\
         sql = {{ url = \"env:DIGEST_DB\", query = \"SELECT * FROM people WHERE id <= {rows}\", key = \"id\" }}\n\
         [template]\nsubject = \"Hello\"\ntext_inline = \"Hello\"\n"
    );
    std::fs::write(&file, campaign).expect("a campaign file");
    let client = fleet.client();
    client.apply(&file);
    let run = client.run("digest", "digest-1");
    let seen = wait::until("the audience to be split", BOUND, || {
        client.try_show(&run).filter(|seen| seen.split_complete || seen.error.is_some())
    });
    assert_eq!((seen.recipients.total, seen.error.is_some()), (rows, false), "{seen:?}");
    let log = std::fs::read_to_string(fleet.logs().join("m0-1.err")).expect("the log of the master");
    let line = log.lines().find(|line| line.contains("audience fetched")).expect("it says so");
    let ms = line.split(" ms=").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    Seen { fetch_ms: ms.expect("how long it took"), most_bytes: fleet.master_peak_bytes(0) }
}
