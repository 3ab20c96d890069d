//! Messages are signed with the keys of the configuration, and a verifier of others (dkimpy) agrees; keys are changed while
//! the worker runs.

use postrider_tests::keeping_relay::KeepingRelay;
use postrider_tests::{Audience, Campaign, Client, Fleet, Settings};
use rustix::process::Signal;
use serde::Deserialize;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const BOUND: Duration = Duration::from_secs(60);
const RECIPIENTS: usize = 20;
/// The interpreter that has dkimpy.
const VERIFIERS: &str = "POSTRIDER_VERIFIERS";
/// Reads {"message": …, "records": {name: text}}; prints a line for each signature: algorithm, selector, whether it is good.
const VERIFY: &str = r#"
import dkim, json, sys
asked = json.load(sys.stdin)
message = asked["message"].encode("latin-1")
def ask(name, timeout=5):
    return asked["records"].get(name.decode().rstrip("."), "").encode()
verifier = dkim.DKIM(message)
for index, (name, value) in enumerate(h for h in verifier.headers if h[0].lower() == b"dkim-signature"):
    tags = dkim.util.parse_tag_value(value)
    good = dkim.DKIM(message, minkey=2048).verify(idx=index, dnsfunc=ask)
    print(tags[b"a"].decode(), tags[b"s"].decode(), "good" if good else "bad")
"#;

#[derive(Deserialize)]
struct Record {
    name: String,
    text: String,
}

fn openssl(folder: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output().expect("openssl runs");
    assert!(output.status.success(), "{output:?}");
}

/// `[[dkim]]` for these: domain, selector and file.
fn sections(keys: &[(&str, &str, &str)]) -> String {
    keys.iter().fold(String::new(), |mut text, (domain, selector, file)| {
        let _ = writeln!(text, "[[dkim]]\ndomain = \"{domain}\"\nselector = \"{selector}\"\nkey = \"{file}\"");
        text
    })
}

fn records(client: &Client) -> serde_json::Map<String, serde_json::Value> {
    let lines = client.ok(&["--output", "json", "dkim", "records"]);
    let record = |line: &str| serde_json::from_str::<Record>(line).expect("a record");
    lines.lines().map(record).map(|record| (record.name, record.text.into())).collect()
}

fn verified(message: &[u8], records: &serde_json::Map<String, serde_json::Value>) -> Vec<String> {
    let python = std::env::var(VERIFIERS).unwrap_or_else(|_| panic!("{VERIFIERS} is not set: run scripts/test"));
    let message: String = message.iter().map(|byte| char::from(*byte)).collect();
    let asked = serde_json::json!({ "message": message, "records": records }).to_string();
    let command = Command::new(python).args(["-c", VERIFY]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = command.expect("python runs");
    let mut input = child.stdin.take().expect("it is piped");
    std::io::Write::write_all(&mut input, asked.as_bytes()).expect("it is read");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn a_verifier_of_others_agrees_and_keys_change_while_it_runs() {
    let relay = KeepingRelay::start();
    let before = [("acme.example", "r1", "r1.pem"), ("acme.example", "e1", "e1.pem"), ("other.example", "x", "e1.pem")];
    let settings = Settings {
        masters: 1,
        workers: 0,
        through: Some(relay.address()),
        extra: sections(&before),
        ..Settings::default()
    };
    let mut fleet = Fleet::prepare(settings);
    for (file, arguments) in [
        ("r1.pem", &["genrsa", "-traditional", "-out", "r1.pem", "2048"][..]),
        ("r2.pem", &["genpkey", "-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:3072", "-out", "r2.pem"]),
        ("e1.pem", &["genpkey", "-algorithm", "ed25519", "-out", "e1.pem"]),
    ] {
        openssl(fleet.folder(), arguments);
        assert!(fleet.folder().join(file).is_file(), "{file}");
    }
    let client = fleet.client();
    openssl(fleet.folder(), &["genrsa", "-out", "short.pem", "1024"]);
    std::fs::write(fleet.folder().join("short.toml"), sections(&[("acme.example", "s", "short.pem")]))
        .expect("written");
    let short = client.call(&["--config", "short.toml", "dkim", "records"]);
    assert!(short.code == 2 && short.stderr.contains("must have from 2048 to 4096 bits"), "{short:?}");
    fleet.start_master(0);
    fleet.add_worker(0);
    let client = fleet.client();
    let published = records(&client);
    assert_eq!(published.len(), before.len());
    let campaign = Campaign::named("digest");
    fleet.launch(&campaign, &Audience::of(RECIPIENTS));
    for number in 0..RECIPIENTS {
        let message = relay.messages.recv_timeout(BOUND).expect("a message");
        let text = String::from_utf8_lossy(&message);
        assert_eq!(
            verified(&message, &published),
            ["rsa-sha256 r1 good", "ed25519-sha256 e1 good"],
            "{number}\n{text}"
        );
    }
    // Another selector for RSA, and none for Ed25519 any more: first with a file that is not there, which changes nothing.
    let file = fleet.folder().join("postrider.toml");
    let configuration = std::fs::read_to_string(&file).expect("it is there");
    let changed = |keys: &str| {
        let text = configuration.replace(&sections(&before), &sections(&[("acme.example", "r2", keys)]));
        std::fs::write(&file, text).expect("it can be written");
    };
    let mut runs = 1;
    let mut signed_next = || {
        runs += 1;
        client.run(&campaign.name, &format!("digest-{runs}"));
        let first = relay.messages.recv_timeout(BOUND).expect("a message");
        (1..RECIPIENTS).for_each(|_| drop(relay.messages.recv_timeout(BOUND).expect("a message")));
        first
    };
    changed("none.pem");
    fleet.signal_worker(0, Signal::HUP);
    fleet.wait_worker_says(0, "the ones before go on signing", BOUND);
    assert_eq!(verified(&signed_next(), &published).len(), 2);
    changed("r2.pem");
    fleet.signal_worker(0, Signal::HUP);
    fleet.wait_worker_says(0, "the keys that sign have changed", BOUND);
    assert_eq!(verified(&signed_next(), &records(&client)), ["rsa-sha256 r2 good"]);
    println!(
        "SCENARIO dkim: {runs} runs of {RECIPIENTS} recipients, each message verified by dkimpy, keys changed once"
    );
}
