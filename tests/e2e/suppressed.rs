//! Somebody is suppressed in the middle of a run: once that is answered, nothing is begun for him, whatever the workers hold;
//! he is counted and shown, and everybody else gets exactly one message. Whoever was suppressed before the run gets nothing.

use postrider_tests::{Audience, Campaign, Fleet, Settings, wait};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

const RECIPIENTS: usize = 4_000;
const BOUND: Duration = Duration::from_secs(60);
const ENDED_BOUND: Duration = Duration::from_secs(180);

#[test]
fn who_is_suppressed_in_the_middle_of_a_run_gets_nothing_after_the_answer() {
    let fleet = Fleet::start(Settings { workers: 2, sink_latency_ms: 40, ..Settings::default() });
    let client = fleet.client();
    let mut audience = Audience::of(RECIPIENTS);
    audience.add("early@example.com");
    audience.add("one@suppressed.example");
    audience.add("two@suppressed.example");
    client.ok(&["suppress", "add", "Early@Example.com", "--reason", "unsubscribe"]);
    client.ok(&["suppress", "add", "@suppressed.example", "--reason", "hard_bounce"]);
    // Of another campaign, and of a lane that this is not of.
    client.ok(&["suppress", "add", "r000001@outlook.com", "--scope", "campaign:other"]);
    client.ok(&["suppress", "add", "@example.com", "--scope", "lane:transactional"]);

    let run = fleet.launch(&Campaign::named("digest"), &audience);
    fleet.wait_copies(300, BOUND);
    let sent = |fleet: &Fleet| -> BTreeMap<String, u32> {
        let mut copies = BTreeMap::new();
        for line in fleet.ledger().iter().filter(|line| line.decision.is_a_copy()) {
            *copies.entry(line.rcpt_to.clone()).or_default() += 1;
        }
        copies
    };
    let spared = [
        ("early@example.com", "unsubscribe"),
        ("one@suppressed.example", "hard_bounce"),
        ("two@suppressed.example", "hard_bounce"),
    ];
    let is_spared = |address: &String| spared.iter().any(|(one, _)| one == address);
    // Everybody who has none yet and whose turn may be at any instant.
    let before = sent(&fleet);
    let waits = |address: &&String| !before.contains_key(*address) && !is_spared(address);
    let chosen: Vec<String> = audience.addresses().iter().filter(waits).step_by(7).cloned().collect();
    assert!(chosen.len() > 100, "there is something to show: {}", chosen.len());
    let file = fleet.folder().join("complaints.csv");
    let rows: Vec<String> = chosen.iter().map(|address| format!("{},complaint", address.to_uppercase())).collect();
    fs::write(&file, format!("address,reason\n{}\n", rows.join("\n"))).expect("the file can be written");
    client.ok(&["suppress", "import", &file.display().to_string()]);
    // What was in intent then ends by its outcome. Nothing is begun from here on: it ends while the run is paused.
    client.ok(&["run", "pause", &run]);
    wait::until("what is in flight to end", BOUND, || {
        client.workers().iter().all(|worker| worker.in_intent == 0).then_some(())
    });
    let in_flight: BTreeSet<String> = {
        let after = sent(&fleet);
        chosen.iter().filter(|address| after.contains_key(*address)).cloned().collect()
    };
    assert!(in_flight.len() <= 2 * 64, "no more than two workers have slots: {}", in_flight.len());
    client.ok(&["run", "resume", &run]);
    let ended = fleet.wait_ended(&run, ENDED_BOUND);

    assert_eq!(ended.state, "finished", "{ended:?}");
    let after = sent(&fleet);
    let mine = |address: &String| chosen.contains(address);
    let late = chosen.iter().filter(|address| after.contains_key(*address) && !in_flight.contains(*address));
    assert_eq!(late.collect::<Vec<_>>(), Vec::<&String>::new(), "sent to after the answer");
    assert!(spared.iter().all(|(address, _)| !after.contains_key(*address)), "suppressed before the run");
    let others =
        audience.addresses().iter().filter(|address| !mine(address) && !spared.iter().any(|(one, _)| one == address));
    assert!(others.clone().all(|address| after.get(address) == Some(&1)), "everybody else got exactly one");

    let counts = ended.recipients;
    let suppressed = (chosen.len() - in_flight.len() + spared.len()) as u64;
    assert_eq!((counts.total, counts.sum()), (audience.len() as u64, audience.len() as u64));
    assert_eq!((counts.suppressed, counts.accepted), (suppressed, counts.total - suppressed), "{counts:?}");
    let mut shown: BTreeMap<String, u64> = BTreeMap::new();
    for one in client.recipients(&run).into_iter().filter(|one| one.state == "suppressed") {
        assert!(mine(&one.address) || spared.contains(&(one.address.as_str(), one.code.as_str())), "{one:?}");
        *shown.entry(one.code).or_default() += 1;
    }
    let complaints = (chosen.len() - in_flight.len()) as u64;
    let expected = [("complaint", complaints), ("hard_bounce", 2), ("unsubscribe", 1)];
    assert_eq!(shown, BTreeMap::from(expected.map(|(code, number)| (code.to_owned(), number))));
    let metric = |name: &str| -> u64 {
        let of = |index| fleet.http(index, "/metrics").expect("metrics").1;
        let value = |text: String| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        (0..2).filter_map(|index| value(of(index))).sum()
    };
    assert_eq!(metric("postrider_recipients_suppressed_total{reason=\"complaint\"}"), complaints);
    println!(
        "suppressed: {} of {} in the middle of the run, {} were in flight",
        chosen.len(),
        RECIPIENTS,
        in_flight.len()
    );

    the_list(&fleet, chosen.len());
}

/// What is in it can be seen, taken away and brought back.
fn the_list(fleet: &Fleet, complaints: usize) {
    let client = fleet.client();
    let one = client.ok(&["--output", "json", "suppress", "list", "EARLY@example.com"]);
    assert!(one.contains(r#""reason":"unsubscribe","scope":"lane:bulk""#), "{one}");
    let file = fleet.folder().join("all.csv").display().to_string();
    client.ok(&["suppress", "export", &file]);
    let exported = fs::read_to_string(&file).expect("the export");
    assert_eq!(exported.lines().count(), 1 + complaints + 4, "{exported}");
    client.ok(&["suppress", "remove", "early@example.com", "@example.com"]);
    assert_eq!(client.ok(&["--output", "json", "suppress", "list", "early@example.com"]), "");
    let answer = client.ok(&["--output", "json", "suppress", "import", &file]);
    assert!(answer.contains(r#""changed":2,"bad_rows":0"#), "{answer}");

    fs::write(&file, "address,scope\ngood@example.com,all\nbad,all\nworse@example.com,nowhere\n").expect("a file");
    let answer = client.call(&["suppress", "import", &file]);
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(answer.stdout.contains("row 3: ") && answer.stdout.contains("row 4: scope: "), "{answer:?}");
    assert!(client.ok(&["suppress", "list", "good@example.com"]).contains("manual"), "the good one is in");

    // Erased, and still not sent to.
    client.ok(&["erase", "good@example.com", "--wait"]);
    let erased = client.ok(&["--output", "json", "suppress", "list", "good@example.com"]);
    assert!(erased.contains(r#""subject":"","reason":"manual""#), "{erased}");
    let wrong = client.call(&["suppress", "add", "nobody"]);
    assert!(wrong.code == 2 && wrong.stderr.contains("it has no @"), "{wrong:?}");
}
