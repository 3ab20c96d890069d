//! Audiences that are read from databases: what each type becomes, and what a run says when it cannot be.

use postrider_tests::databases::{MariaDb, PASSWORD, Postgres, write_sqlite};
use postrider_tests::{Client, Fleet, Run, Settings, binary, wait};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const BOUND: Duration = Duration::from_secs(120);

fn fleet(environment: Vec<(String, String)>, files: &Path) -> Fleet {
    let extra = format!("[master]\nfiles_root = \"{}\"\n", files.display());
    let program = Some(binary::complete());
    Fleet::start_without_relay(Settings { masters: 1, workers: 0, program, environment, extra, ..Settings::default() })
}

fn apply(fleet: &Fleet, name: &str, url: &str, query: &str) {
    let file = fleet.folder().join(format!("{name}.toml"));
    let text = format!(
        "name = \"{name}\"\nfrom = \"Acme <digest@acme.example>\"\n[audience]\naddress = \"email\"\n\
         sql = {{ url = \"{url}\", query = '''{query}''', timeout = \"20s\" }}\n\
         [template]\nsubject = \"Hello\"\ntext_inline = \"Hello\"\n"
    );
    std::fs::write(&file, text).expect("a campaign file");
    fleet.client().apply(&file);
}

fn run(fleet: &Fleet, name: &str, url: &str, query: &str) -> (String, Run) {
    apply(fleet, name, url, query);
    let client = fleet.client();
    let run = client.run(name, &format!("{name}-1"));
    (run.clone(), read(&client, &run))
}

fn read(client: &Client, run: &str) -> Run {
    wait::until("the audience to be read, or not", BOUND, || {
        client.try_show(run).filter(|seen| seen.split_complete || seen.error.is_some())
    })
}

/// The rows of all snapshots, as they are in the storage.
fn snapshots(fleet: &Fleet) -> Vec<Value> {
    let folder = std::fs::read_dir(fleet.folder().join("storage/audiences")).expect("audiences");
    let bytes = folder.map(|entry| std::fs::read(entry.expect("an entry").path()).expect("a snapshot"));
    let texts = bytes.map(|bytes| String::from_utf8(zstd::decode_all(&bytes[..]).expect("zstd")).expect("UTF-8"));
    let rows = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
    rows.map(|line| serde_json::from_str(&line).expect("JSON")).collect()
}

/// Nobody may show it: not the logs, not what is stored, not what a client is told.
fn assert_nowhere(fleet: &Fleet, name: &str) {
    let told = fleet.client().ok(&["--output", "json", "campaign", "show", name]);
    assert!(!told.contains("sesame"), "{told}");
    let mut folders = vec![fleet.folder().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry")) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() {
                let text = std::fs::read(&path).unwrap_or_default();
                let found = text.windows(6).any(|part| part == b"sesame");
                assert!(!found, "the password {PASSWORD} is in {}", path.display());
            }
        }
    }
}

fn sum(fleet: &Fleet, name: &str, expected: Value, (run, read): (String, Run)) {
    assert_eq!(read.error.as_ref().map(|error| &error.message), None, "{name}");
    assert_eq!((read.recipients.total, read.bad_rows), (1, 0), "{name}: {run}");
    let rows = snapshots(fleet);
    assert!(rows.contains(&expected), "{name}: {expected:#} is not what was read: {rows:#?}");
}

#[test]
fn every_type_of_a_database_is_what_a_template_expects() {
    let (postgres, mariadb) = (Postgres::start(), MariaDb::start());
    let files = tempfile::tempdir().expect("a folder");
    let url = |name: &str, url: String| (name.to_owned(), url);
    let fleet = fleet(vec![url("PG", postgres.url()), url("MARIA", mariadb.url())], files.path());

    postgres.tell(
        "CREATE TYPE mood AS ENUM ('glad', 'sad');
         CREATE TABLE people (email text, big bigint, price numeric(20,2), half double precision, odd real, yes boolean,
            born date, seen timestamptz, local timestamp, id uuid, more jsonb, tags text[], feels mood, none text, quote varchar);
         INSERT INTO people VALUES ('ada@example.com', 9007199254740993, 12.10, 0.1, 'NaN', true, '1815-12-10',
            '2026-11-22 09:00:00+01', '2026-11-22 09:00:00', '6f1c2ad0-9d3f-4c55-8a1a-0c8a6a3c2b11',
            '{\"a\": [1, 2.50, null]}', '{x,\"y z\"}', 'glad', NULL, 'say \"hi\"\\nü')",
    );
    let expected = json!({
        "email": "ada@example.com", "big": 9_007_199_254_740_993_i64, "price": "12.10", "half": 0.1, "odd": "NaN",
        "yes": true, "born": "1815-12-10", "seen": "2026-11-22T08:00:00+00:00", "local": "2026-11-22T09:00:00",
        "id": "6f1c2ad0-9d3f-4c55-8a1a-0c8a6a3c2b11", "more": {"a": [1, 2.50, null]}, "tags": ["x", "y z"],
        "feels": "glad", "none": null, "quote": "say \"hi\"\\nü"
    });
    sum(&fleet, "postgres", expected, run(&fleet, "postgres", "env:PG", "SELECT * FROM people -- all of them\n;"));

    mariadb.tell(
        "CREATE TABLE people (email varchar(100), big bigint unsigned, price decimal(20,2), half double, yes boolean,
            small tinyint, born date, seen datetime, stamp timestamp, y year, feels enum('glad','sad'), more json, none text,
            quote text);
         SET time_zone = '+01:00';
         INSERT INTO people VALUES ('bob@example.com', 18446744073709551615, 12.10, 0.1, true, -5, '1815-12-10',
            '2026-11-22 09:00:00', '2026-11-22 09:00:00', 2026, 'glad', '{\"a\":[1,2]}', NULL, 'say \"hi\" ü')",
    );
    let expected = json!({
        "email": "bob@example.com", "big": 18_446_744_073_709_551_615_u64, "price": "12.10", "half": 0.1, "yes": true,
        "small": -5, "born": "1815-12-10", "seen": "2026-11-22T09:00:00", "stamp": "2026-11-22T08:00:00", "y": "2026",
        "feels": "glad", "more": "{\"a\":[1,2]}", "none": null, "quote": "say \"hi\" ü"
    });
    sum(&fleet, "mariadb", expected, run(&fleet, "mariadb", "env:MARIA", "SELECT * FROM people;"));

    write_sqlite(
        &files.path().join("people.db"),
        "CREATE TABLE people (email TEXT, big INTEGER, half REAL, yes BOOLEAN, born DATE, none TEXT, quote TEXT);
         INSERT INTO people VALUES ('carl@example.com', 9007199254740993, 0.5, 1, '1815-12-10', NULL, 'say \"hi\" ü');",
    );
    let expected = json!({
        "email": "carl@example.com", "big": 9_007_199_254_740_993_i64, "half": 0.5, "yes": true, "born": "1815-12-10",
        "none": null, "quote": "say \"hi\" ü"
    });
    sum(&fleet, "sqlite", expected, run(&fleet, "sqlite", "sqlite:people.db", "SELECT * FROM people"));
    for name in ["postgres", "mariadb", "sqlite"] {
        assert_nowhere(&fleet, name);
    }
    println!("SCENARIO sql_types: Postgres, MariaDB and SQLite, each value as it is");
}

#[test]
fn what_a_database_refuses_is_told_without_password_and_mended() {
    let (postgres, mariadb) = (Postgres::start(), MariaDb::start());
    let files = tempfile::tempdir().expect("a folder");
    let outside = tempfile::tempdir().expect("a folder");
    write_sqlite(
        &files.path().join("people.db"),
        "CREATE TABLE people (email TEXT); CREATE TABLE raw (email TEXT, x BLOB);
         INSERT INTO raw VALUES ('a@example.com', x'00')",
    );
    write_sqlite(&outside.path().join("secret.db"), "CREATE TABLE people (email TEXT)");
    std::os::unix::fs::symlink(outside.path().join("secret.db"), files.path().join("link.db")).expect("linked");
    let variable = |name: &str, url: String| (name.to_owned(), url);
    let fleet = fleet(
        vec![
            variable("PG", postgres.url()),
            variable("MARIA", mariadb.url()),
            variable("WRONG_PG", postgres.url().replace("sesame-0pen", "sesame-shut")),
            variable("WRONG_MARIA", mariadb.url().replace("sesame-0pen", "sesame-shut")),
            variable("NO_DATABASE", postgres.url().replace("/people", "/nowhere")),
            variable("NO_URL", "sesame".into()),
        ],
        files.path(),
    );
    postgres.tell("CREATE TABLE people (email text, x bytea); INSERT INTO people VALUES ('ada@example.com', 'x')");
    mariadb.tell("CREATE TABLE people (email text, x blob); INSERT INTO people VALUES ('ada@example.com', x'ff')");
    let rows = [
        ("env:WRONG_PG", "SELECT email FROM people", "source_refused", "password"),
        ("env:WRONG_MARIA", "SELECT email FROM people", "source_refused", "Access denied"),
        ("env:NO_DATABASE", "SELECT email FROM people", "source_refused", "nowhere"),
        ("env:NO_URL", "SELECT email FROM people", "source_url", "env:NO_URL"),
        ("env:NO_VARIABLE", "SELECT email FROM people", "source_url", "no such variable"),
        ("env:PG", "SELECT emial FROM people", "source_query", "emial"),
        ("env:MARIA", "SELECT emial FROM people", "source_query", "emial"),
        ("sqlite:people.db", "SELECT emial FROM people", "source_query", "emial"),
        ("env:PG", "SELECT email AS mail FROM people", "audience_column_missing", "'mail'"),
        ("env:MARIA", "SELECT email AS mail FROM people", "audience_column_missing", "'mail'"),
        ("sqlite:people.db", "SELECT email AS mail FROM people", "audience_column_missing", "'mail'"),
        ("env:PG", "SELECT * FROM people", "source_column_type", "'x'"),
        ("env:MARIA", "SELECT * FROM people", "source_column_type", "'x'"),
        ("sqlite:people.db", "SELECT * FROM raw", "source_column_type", "'x'"),
        ("env:PG", "SELECT email, email FROM people", "audience_header", "'email'"),
        ("env:PG", "SELECT 1; SELECT email FROM people", "source_query", "multiple commands"),
        ("env:MARIA", "SELECT 1; SELECT email FROM people", "source_query", "syntax"),
        ("sqlite:people.db", "SELECT 1; SELECT email FROM people", "source_query", "more than one statement"),
        ("env:PG", "DELETE FROM people RETURNING email", "source_query", "syntax"),
        ("env:MARIA", "DELETE FROM people", "source_query", "no SELECT"),
        ("sqlite:people.db", "DELETE FROM people RETURNING email", "source_query", "readonly"),
        ("env:PG", "SELECT email FROM people WHERE email = $1", "source_query", "parameters"),
        ("env:PG", "SELECT email::int AS email FROM people", "source_query", "22P02"),
        ("env:PG", "SELECT email FROM people, pg_sleep(60)", "source_timeout", "20s"),
        ("env:MARIA", "SELECT email FROM people WHERE sleep(60) = 0", "source_timeout", "20s"),
        ("sqlite:link.db", "SELECT email FROM people", "source_file", "leads out"),
        ("sqlite:../secret.db", "SELECT email FROM people", "source_file", "not below"),
    ];
    let begun: Vec<(String, String)> = (0..)
        .zip(&rows)
        .map(|(number, (url, query, ..))| {
            let name = format!("c{number}");
            apply(&fleet, &name, url, query);
            (fleet.client().run(&name, "1"), name)
        })
        .collect();
    for ((run, name), (url, query, code, part)) in begun.iter().zip(&rows) {
        let read = read(&fleet.client(), run);
        let error = read.error.unwrap_or_else(|| panic!("{url} {query}: no error"));
        assert_eq!(error.code, *code, "{url} {query}: {error:?}");
        assert!(error.message.contains(part) && !error.mend.is_empty(), "{url} {query}: {error:?}");
        let told = format!("{error:?}");
        assert!(!told.contains("sesame") && !told.contains("ada@"), "{url} {query}: {told}");
        assert_eq!(read.recipients.total, 0);
        assert_nowhere(&fleet, name);
    }
    // What was refused is mended, and the run goes on.
    let (run, read_first) = run(&fleet, "mended", "env:PG", "SELECT email FROM later");
    assert_eq!(read_first.error.expect("no such table").code, "source_query");
    postgres.tell("CREATE TABLE later (email text); INSERT INTO later VALUES ('ada@example.com')");
    fleet.client().ok(&["run", "resume", &run]);
    let read =
        wait::until("the run to go on", BOUND, || fleet.client().try_show(&run).filter(|seen| seen.split_complete));
    assert_eq!(read.recipients.total, 1);
    println!("SCENARIO sql_refusals: {} refusals told, no password and no address in any, one mended", rows.len());
}
