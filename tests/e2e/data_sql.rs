//! Merge fields come from a database of the customer, by one query a batch: Postgres, MariaDB and SQLite.

use postrider_tests::databases::{MariaDb, Postgres, write_sqlite};
use postrider_tests::{Fleet, Settings, binary, wait};
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

const BOUND: Duration = Duration::from_secs(180);
const RECIPIENTS: usize = 150;
/// A key that would be a query if it were pasted into one.
const WILD: &str = "x' OR '1'='1";

fn is_missing(n: usize) -> bool {
    n % 10 == 3
}

/// Rows of the table, as each database takes them.
fn rows(key: impl Fn(usize) -> String) -> String {
    let row = |n: usize| format!("({}, 'Nick {n}', {}.50)", key(n), n);
    (0..RECIPIENTS).filter(|n| !is_missing(*n)).map(row).collect::<Vec<_>>().join(", ")
}

fn text_key(n: usize) -> String {
    if n == 0 { WILD.to_owned() } else { format!("k{n}") }
}

fn quoted(n: usize) -> String {
    format!("'{}'", text_key(n).replace('\'', "''"))
}

struct World {
    fleet: Fleet,
}

impl World {
    fn apply(&self, name: &str, key: impl Fn(usize) -> String, data_sql: &str) {
        let row = |n: usize| format!("\"{}\",{name}{n}@example.com\n", key(n));
        let people = "id,email\n".to_owned() + &(0..RECIPIENTS).map(row).collect::<String>();
        fs::write(self.fleet.folder().join(format!("{name}.csv")), people).expect("an audience");
        let text = format!(
            "name = \"{name}\"\nfrom = \"Acme <digest@acme.example>\"\ndata_sql = {{ {data_sql}, key = \"id\" }}\n\
             [audience]\ncsv = \"{name}.csv\"\naddress = \"email\"\nkey = \"id\"\n\
             [template]\nsubject = \"For {{{{ nick }}}} with {{{{ points }}}}\"\ntext_inline = \"Hello\"\n"
        );
        let file = self.fleet.folder().join(format!("{name}.toml"));
        fs::write(&file, text).expect("a campaign file");
        self.fleet.client().apply(&file);
    }

    /// Everybody got what the database says, and nobody whom it does not know.
    fn judge(&self, name: &str, run: &str, points: impl Fn(usize) -> String) {
        let ended = self.fleet.wait_ended(run, BOUND);
        let missing = (0..RECIPIENTS).filter(|n| is_missing(*n)).count() as u64;
        let counts = (ended.recipients.accepted, ended.recipients.rejected);
        assert_eq!(counts, (RECIPIENTS as u64 - missing, missing), "{name}: {ended:?}");
        for line in self.fleet.client().recipients(run) {
            assert_eq!(line.attempts, 1, "{name}: {line:?}");
            assert!(line.state == "accepted" || line.code == "data", "{name}: {line:?}");
        }
        let ledger = self.fleet.ledger().into_iter();
        let sent: BTreeMap<String, String> =
            ledger.filter(|line| line.rcpt_to.starts_with(name)).map(|line| (line.rcpt_to, line.subject)).collect();
        let expected: BTreeMap<String, String> = (0..RECIPIENTS)
            .filter(|n| !is_missing(*n))
            .map(|n| (format!("{name}{n}@example.com"), format!("For Nick {n} with {}", points(n))))
            .collect();
        assert_eq!(sent, expected, "{name}");
    }

    fn logs(&self) -> String {
        let logs = fs::read_dir(self.fleet.logs()).expect("logs").flatten();
        logs.filter_map(|log| fs::read_to_string(log.path()).ok()).collect()
    }
}

#[test]
fn fields_are_asked_of_a_database_by_the_keys_of_a_batch() {
    let (postgres, mariadb) = (Postgres::start(), MariaDb::start());
    let files = tempfile::tempdir().expect("a folder");
    let sqlite = files.path().join("fields.db");
    let places = [("PG", postgres.url()), ("MARIA", mariadb.url()), ("LITE", format!("sqlite:{}", sqlite.display()))];
    let world = World {
        fleet: Fleet::start(Settings {
            masters: 1,
            workers: 1,
            lease_ttl_ms: 10_000,
            program: Some(binary::complete()),
            environment: places.map(|(name, url)| (name.to_owned(), url)).into(),
            extra: "[outgoing]\nenv = [\"PG\", \"MARIA\", \"LITE\"]\n".to_owned(),
            ..Settings::default()
        }),
    };
    let client = world.fleet.client();

    // Numbers, which Postgres compares with texts only when it is told to. The table is not there yet: batches wait.
    let query = "query = '''SELECT id, nick, points FROM fields WHERE id = ANY(:keys::bigint[]) -- :keys'''";
    world.apply("postgres", |n| n.to_string(), &format!("url = \"env:PG\", {query}, timeout = \"9s\""));
    let first = client.run("postgres", "one");
    wait::until("batches to wait for the table", BOUND, || {
        let seen = client.show(&first);
        (seen.split_complete && seen.batches.delayed > 0).then_some(())
    });
    let seen = client.show(&first);
    assert_eq!((seen.recipients.pending, seen.recipients.total), (RECIPIENTS as u64, RECIPIENTS as u64), "{seen:?}");
    let rows_of_numbers = rows(|n| n.to_string());
    postgres.tell(&format!(
        "CREATE TABLE fields (id bigint PRIMARY KEY, nick text, points numeric(9,2)); INSERT INTO fields VALUES {rows_of_numbers}"
    ));
    world.judge("postgres", &first, |n| format!("{n}.50"));

    let rows = rows(quoted);
    mariadb.tell(&format!(
        "CREATE TABLE fields (id varchar(50) PRIMARY KEY, nick text, points decimal(9,2)) COLLATE utf8mb4_unicode_ci;
         INSERT INTO fields VALUES {rows}"
    ));
    let query = "query = '''SELECT id, nick, points FROM fields WHERE id IN (:keys);'''";
    world.apply("mariadb", text_key, &format!("url = \"env:MARIA\", {query}"));
    let second = client.run("mariadb", "one");
    world.judge("mariadb", &second, |n| format!("{n}.50"));

    write_sqlite(
        &sqlite,
        &format!(
            "CREATE TABLE fields (id TEXT PRIMARY KEY, nick TEXT, points REAL); INSERT INTO fields VALUES {rows};"
        ),
    );
    world.apply("sqlite", text_key, &format!("url = \"env:LITE\", {query}"));
    let third = client.run("sqlite", "one");
    world.judge("sqlite", &third, |n| format!("{n}.5"));

    let logs = world.logs();
    assert!(logs.contains("fields\\\" does not exist") || logs.contains("does not exist"), "the reason is in a log");
    assert!(!logs.contains("sesame") && !logs.contains("Nick"), "neither the password nor a field is");
}
