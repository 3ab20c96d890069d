//! Merge fields come from a customer's endpoint, which is away at first: batches wait, nobody is lost, nobody's attempts
//! are counted, and what was fetched is in the mails and nowhere else.

use postrider_tests::{Asked, Audience, Campaign, Fleet, HttpEndpoint, Reply, Rules, Settings, wait};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const RECIPIENTS: usize = 400;
const BOUND: Duration = Duration::from_secs(180);
/// In the environment of the workers.
const SECRET: &str = "correct horse battery staple";
/// Begins what is fetched, so that it can be looked for.
const MARK: &str = "Zephyrine";

fn is_missing(key: &str) -> bool {
    key.starts_with("r00001")
}

fn nick(key: &str) -> String {
    format!("{MARK}-{}", key.split('@').next().unwrap_or_default())
}

fn keys_of(asked: &Asked) -> Vec<String> {
    let question: Value = serde_json::from_slice(&asked.body).expect("a question is JSON");
    let keys = question["keys"].as_array().expect("it has keys").iter();
    keys.map(|key| key.as_str().expect("a key is a text").to_owned()).collect()
}

fn answer(asked: &Asked) -> Reply {
    let known = keys_of(asked).into_iter().filter(|key| !is_missing(key));
    let fields = |key: String| {
        let fields = json!({"nick": nick(&key), "name": "of the endpoint"});
        (key, fields)
    };
    let recipients: Map<String, Value> = known.map(fields).collect();
    Reply::of(200, json!({ "recipients": recipients }).to_string())
}

/// The signature as another program makes it.
fn signature(asked: &Asked) -> String {
    let header = |name: &str| asked.headers.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", asked.headers));
    let signed = format!("{}.{}.", header("webhook-id"), header("webhook-timestamp"));
    let key: String = SECRET.bytes().map(|byte| format!("{byte:02x}")).collect();
    let script = format!("openssl dgst -sha256 -mac HMAC -macopt hexkey:{key} -binary | openssl base64 -A");
    let mut shell = Command::new("sh");
    let mut shell = shell.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
    let mut input = shell.stdin.take().expect("it has an input");
    input.write_all(signed.as_bytes()).and_then(|()| input.write_all(&asked.body)).expect("it reads");
    drop(input);
    let output = shell.wait_with_output().expect("it ends");
    format!("v1,{}", String::from_utf8(output.stdout).expect("base64").trim())
}

/// Files in which what was fetched can be read.
fn mentions(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(mentions(&path));
        } else if let Ok(bytes) = fs::read(&path)
            && bytes.windows(MARK.len()).any(|window| window == MARK.as_bytes())
        {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn fields_are_fetched_and_an_endpoint_that_is_away_costs_only_time() {
    let is_up = Arc::new(AtomicBool::new(false));
    let up = Arc::clone(&is_up);
    let endpoint = HttpEndpoint::start(move |asked| match up.load(Ordering::SeqCst) {
        true => Some(answer(asked)),
        // Now an error, now no answer at all.
        false if asked.body.len() % 2 == 0 => Some(Reply::of(503, "try later")),
        false => None,
    });
    let mut fleet = Fleet::start(Settings {
        workers: 2,
        lease_ttl_ms: 10_000,
        environment: vec![("FIELDS_SECRET".to_owned(), SECRET.to_owned())],
        extra: "[outgoing]\nallow = [\"127.0.0.1/32\"]\nenv = [\"FIELDS_SECRET\"]\n".to_owned(),
        ..Settings::default()
    });
    let audience = Audience::of(RECIPIENTS);
    let url = endpoint.url("/fields?token=not-to-be-shown");
    let campaign = Campaign {
        subject: "For {{ nick }} by {{ name }} with {{ coupon }}".to_owned(),
        headers: format!("data_url = {{ url = \"{url}\", secret = \"env:FIELDS_SECRET\", timeout = \"20s\" }}"),
        ..Campaign::named("digest")
    };
    let client = fleet.client();
    let run = fleet.launch(&campaign, &audience);
    let watcher = fleet.watch(&run);
    wait::until("batches to wait for the endpoint", BOUND, || {
        let seen = client.show(&run);
        (seen.split_complete && seen.batches.delayed > 0 && seen.batches.ready == 0).then_some(())
    });
    let seen = client.show(&run);
    assert_eq!((seen.recipients.pending, seen.recipients.total), (RECIPIENTS as u64, RECIPIENTS as u64), "{seen:?}");
    let before = endpoint.asked().len();
    is_up.store(true, Ordering::SeqCst);
    let ended = fleet.wait_ended(&run, BOUND);
    let missing: BTreeSet<String> = audience.addresses().iter().filter(|key| is_missing(key)).cloned().collect();
    let counts = (ended.recipients.accepted, ended.recipients.rejected);
    assert_eq!(counts, ((RECIPIENTS - missing.len()) as u64, missing.len() as u64), "{ended:?}");

    for line in client.recipients(&run) {
        let expected = if is_missing(&line.key) { ("rejected", "data") } else { ("accepted", "250 2.0.0") };
        assert_eq!((line.state.as_str(), line.attempts), (expected.0, 1), "{line:?}");
        assert!(line.code.starts_with(&expected.1[..3]), "{line:?}");
    }
    let coupons: BTreeMap<String, String> = audience.to_csv().lines().skip(1).map(coupon).collect();
    for line in fleet.ledger() {
        let expected = format!("For {} by of the endpoint with {}", nick(&line.rcpt_to), coupons[&line.rcpt_to]);
        assert_eq!(line.subject, expected, "what is fetched wins, what is not stays");
    }
    let asked = endpoint.asked();
    for one in asked.iter().take(3).chain(asked.iter().skip(before).take(3)) {
        assert_eq!(one.headers.get("webhook-signature"), Some(&signature(one)), "{:?}", one.headers);
    }
    let answered: Vec<String> = asked.iter().skip(before).flat_map(keys_of).collect();
    let everybody: BTreeSet<String> = answered.iter().cloned().collect();
    assert_eq!(&everybody, audience.addresses());
    assert_eq!(answered.len(), everybody.len(), "each is asked for once");
    assert_eq!(mentions(&fleet.logs()), Vec::<String>::new(), "nothing that was fetched is in a log");
    assert_eq!(mentions(&fleet.folder().join("storage")), Vec::<String>::new(), "nor stored");
    assert_eq!(mentions(&fleet.folder().join("redis")), Vec::<String>::new(), "nor in the store");
    let sent: BTreeSet<String> = audience.addresses().difference(&missing).cloned().collect();
    fleet.judge("data_url", &run, &sent, Rules::CLEAN, &watcher.stop());
}

fn coupon(row: &str) -> (String, String) {
    let mut fields = row.split(',');
    let address = fields.next().unwrap_or_default();
    (address.to_owned(), fields.next_back().unwrap_or_default().to_owned())
}

/// Without a word of the operator nothing on this host is called, whatever a campaign says.
#[test]
fn an_endpoint_on_a_private_address_is_refused_unless_it_is_allowed() {
    let endpoint = HttpEndpoint::start(|asked| Some(answer(asked)));
    let fleet = Fleet::start(Settings { workers: 1, masters: 1, ..Settings::default() });
    let audience = Audience::of(5);
    let port = endpoint.url("").rsplit(':').next().unwrap_or_default().to_owned();
    let campaign = Campaign {
        subject: "For {{ nick }}".to_owned(),
        headers: format!("data_url = \"http://localhost:{port}/fields\""),
        ..Campaign::named("inside")
    };
    let run = fleet.launch(&campaign, &audience);
    let client = fleet.client();
    wait::until("its batches to wait", BOUND, || (client.show(&run).batches.delayed > 0).then_some(()));
    assert!(endpoint.asked().is_empty(), "nobody connected");
    let logs = fs::read_dir(fleet.logs()).expect("logs").flatten();
    let text: String = logs.filter_map(|log| fs::read_to_string(log.path()).ok()).collect();
    assert!(text.contains("[outgoing] allow"), "the mend is in a log");
    client.ok(&["run", "cancel", &run]);
    assert_eq!(fleet.wait_ended(&run, BOUND).state, "cancelled");
}
