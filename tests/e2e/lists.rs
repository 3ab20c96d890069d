//! A saved list by the command line: imported with rows that are bad, appended to, taken from, sent to, exported, erased.

use postrider_tests::{Fleet, Settings, wait};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

const BOUND: Duration = Duration::from_secs(120);
const ROWS: usize = 300;

fn value(text: &str) -> Value {
    serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_list_is_kept_and_shared_by_campaigns() {
    let fleet = Fleet::start(Settings { masters: 2, workers: 1, ..Settings::default() });
    let client = fleet.client();
    let write = |name: &str, text: &str| fs::write(fleet.folder().join(name), text).expect("a file");
    let row = |n: usize| format!("{n};person{n}@example.com;Person {n}\n");
    let mut people = "Nr.;E-Mail;name\n".to_owned();
    people.extend((0..ROWS).map(row));
    people.push_str("7;person7@example.com;again\n999;nobody;Nobody\n");
    write("people.csv", &people);
    let answer = client.ok(&[
        "--output",
        "json",
        "list",
        "import",
        "people",
        "people.csv",
        "--delimiter",
        ";",
        "--column",
        "E-Mail=email",
        "--column",
        "Nr.=id",
        "--key",
        "id",
    ]);
    let answer = value(&answer);
    assert_eq!((&answer["version"], &answer["rows"]), (&1.into(), &ROWS.into()), "{answer}");
    assert_eq!((&answer["counts"]["bad_rows"], &answer["counts"]["repeated_rows"]), (&1.into(), &1.into()));
    assert_eq!(answer["refused"][0]["row"], Value::from(ROWS + 2));

    // Columns are named otherwise, and become what the list calls them.
    write("more.csv", "number,mail,name\n0,zero@example.com,Zero\n1000,late@example.com,Late\n");
    let append = ["list", "append", "people", "more.csv", "--address", "mail", "--key", "number"];
    let told = client.ok(&append);
    assert!(told.contains("is at version 2: 301 rows (1 added, 1 replaced)"), "{told}");
    assert!(client.ok(&append).contains("stays at version 2"), "the same again is nothing new");
    write("gone.csv", "email\nPERSON5@example.com\nstranger@example.com\n");
    let told = client.ok(&["list", "remove", "people", "--file", "gone.csv"]);
    assert!(told.contains("version 3: 300 rows (1 removed, 1 not in the list)"), "{told}");
    let told = client.ok(&["list", "remove", "people", "person6@example.com"]);
    assert!(told.contains("version 4: 299 rows (1 removed)"), "{told}");
    let shown = client.ok(&["list", "show", "people"]);
    assert!(["version 4", "299", "email, id, name"].iter().all(|part| shown.contains(part)), "{shown}");
    assert!(client.ok(&["list", "list"]).contains("people"));

    let campaign = |name: &str| {
        let text = format!(
            "name = \"{name}\"\nfrom = \"Acme <digest@acme.example>\"\n[audience]\nlist = \"people\"\n\
             [template]\nsubject = \"For {{{{ name }}}}\"\ntext_inline = \"Hello\"\n"
        );
        let file = fleet.folder().join(format!("{name}.toml"));
        fs::write(&file, text).expect("a campaign file");
        client.apply(&file);
    };
    campaign("digest");
    campaign("letter");
    assert!(client.ok(&["campaign", "show", "digest"]).contains("the list people"));
    let run = client.run("digest", "one");
    let ended = fleet.wait_ended(&run, BOUND);
    assert_eq!((ended.recipients.accepted, ended.recipients.total), (299, 299), "{ended:?}");
    assert!(client.ok(&["run", "show", &run]).contains("people version 4"));
    let sent: BTreeSet<String> = fleet.ledger().into_iter().map(|line| line.rcpt_to).collect();
    let mut expected: BTreeSet<String> = (1..ROWS).map(|n| format!("person{n}@example.com")).collect();
    expected.retain(|address| !["person5@example.com", "person6@example.com"].contains(&address.as_str()));
    expected.extend(["zero@example.com", "late@example.com"].map(str::to_owned));
    assert_eq!(sent, expected);

    let erased = client.call_within(&["--output", "json", "erase", "person9@example.com", "--wait"], BOUND);
    assert_eq!(erased.code, 0, "{erased:?}");
    for version in ["1", "4"] {
        let rows = client.ok(&["list", "export", "people", "--version", version]);
        assert_eq!(rows.lines().filter(|line| line.contains("person9@")).count(), 0);
        assert_eq!(rows.lines().filter(|line| value(line)["email"] == "person10@example.com").count(), 1);
    }
    let refused = client.call(&["list", "delete", "people"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("digest"), "{refused:?}");
    client.ok(&["campaign", "delete", "digest"]);
    client.ok(&["campaign", "delete", "letter"]);
    client.ok(&["list", "delete", "people"]);
    assert_eq!(client.call(&["list", "show", "people"]).code, 1);
    wait::until("the list to be gone", BOUND, || client.ok(&["list", "list"]).lines().nth(1).is_none().then_some(()));
    let unknown = client.call(&["campaign", "apply", "letter.toml"]);
    assert!(unknown.code == 1 && unknown.stderr.contains("there is no list 'people'"), "{unknown:?}");
}
