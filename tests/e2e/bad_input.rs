//! Wrong input: each ends in one clear message or state with the right exit code; none hangs, none loses
//! a recipient.

use postrider_tests::client::Answer;
use postrider_tests::{Audience, Campaign, Client, Fleet, Rules, Settings};
use std::fs;
use std::time::Duration;

const RUN_BOUND: Duration = Duration::from_secs(30);

fn fleet() -> Fleet {
    Fleet::start(Settings { masters: 1, workers: 1, ..Settings::default() })
}

/// One message, naming what the user can find, and the exit code for it.
fn assert_refused(what: &str, answer: &Answer, code: i32, names: &[&str]) {
    println!("BAD INPUT {what}: exit {}: {}", answer.code, answer.stderr.trim().replace('\n', " | "));
    assert_eq!(answer.code, code, "{what}: {answer:?}");
    for name in names {
        assert!(answer.stderr.contains(name), "{what}: '{name}' is not named: {answer:?}");
    }
    assert!(!answer.stderr.contains("panicked"), "{what}: {answer:?}");
}

#[test]
fn a_wrong_campaign_file_is_refused() {
    let fleet = fleet();
    let client = fleet.client();
    let apply = |change: &dyn Fn(&mut Campaign)| {
        let mut campaign = Campaign::named("wrong");
        change(&mut campaign);
        let file = campaign.write(fleet.folder(), &Audience::of(3));
        client.call(&["campaign", "apply", &file.display().to_string()])
    };
    // The error is in line 2, at the tag that is not closed.
    let broken = apply(&|campaign| campaign.text = "Hello {{ name }},\nnews {% if city %} and no end\n".into());
    assert_refused("template that does not compile", &broken, 2, &["line", "column"]);
    let lane = apply(&|campaign| campaign.lane = "no-such-lane".into());
    assert_refused("lane that does not exist", &lane, 2, &["no-such-lane"]);
    let key = apply(&|campaign| campaign.headers = "on_unknwon = \"hold\"".into());
    assert_refused("unknown key", &key, 2, &["on_unknwon", "on_unknown"]);
    let word = apply(&|campaign| campaign.on_unknown = "maybe");
    assert_refused("value that is none of the choices", &word, 2, &["on_unknown", "maybe", "resend", "hold"]);
    let file = Campaign::named("column").write(fleet.folder(), &Audience::with_header("mail,name,city,coupon"));
    let column = client.call(&["campaign", "apply", &file.display().to_string()]);
    assert_refused("column that is not there", &column, 2, &["audience.address", "email", "mail"]);
    let missing = client.call(&["campaign", "apply", "no-such-file.toml"]);
    assert_refused("campaign file that is not there", &missing, 2, &["no-such-file.toml"]);
    assert_refused("campaign that was never applied", &client.call(&["campaign", "run", "wrong"]), 1, &["wrong"]);
}

#[test]
fn a_wrong_call_is_refused() {
    let fleet = fleet();
    let client = fleet.client();
    assert_refused("unknown flag", &client.call(&["run", "list", "--no-such-flag"]), 2, &["--no-such-flag"]);
    let run = fleet.launch(&Campaign::named("digest"), &Audience::of(1));
    fleet.wait_ended(&run, RUN_BOUND);
    let last = run.chars().next_back().unwrap_or('0');
    let other = format!("{}{}", &run[..run.len() - 1], if last == '0' { '1' } else { '0' });
    for command in [["run", "show"], ["run", "cancel"], ["run", "recipients"]] {
        assert_refused("run that does not exist", &client.call(&[command[0], command[1], &other]), 1, &[&other]);
    }
    let nobody = Client::new(&["127.0.0.1:1".to_owned()], fleet.folder());
    assert_refused("master that cannot be reached", &nobody.call(&["run", "list"]), 1, &["127.0.0.1:1"]);
    let send = client.call(&["send", "--campaign", "digest", "--to", "not an address"]);
    assert!(send.code == 1 || send.code == 2, "{send:?}");
    assert_refused("address that is none", &send, send.code, &["not an address"]);
    fs::write(fleet.folder().join("typo.toml"), "[lease]\ntll = \"3s\"\n").expect("written");
    let typo = client.call(&["--config", "typo.toml", "config", "check"]);
    assert_refused("unknown key in the configuration", &typo, 2, &["tll", "ttl"]);
    fs::write(fleet.folder().join("open.toml"), "[master]\ngrpc_listen = \"0.0.0.0:0\"\n").expect("written");
    let open = client.call(&["--config", "open.toml", "master"]);
    assert_refused("listening beyond loopback", &open, 2, &["grpc_listen"]);
    fs::write(fleet.folder().join("dkim.toml"), "[[dkim]]\ndomain = \"a.example\"\n").expect("written");
    let signing = client.call(&["--config", "dkim.toml", "config", "check"]);
    assert_refused("signing that would not be done", &signing, 2, &["dkim"]);
}

#[test]
fn an_audience_over_its_limit_is_refused() {
    let extra = "[master]\naudience_bytes_max = 20000\n".to_owned();
    let fleet = Fleet::start(Settings { masters: 1, workers: 0, extra, ..Settings::default() });
    let client = fleet.client();
    let file = Campaign::named("large").write(fleet.folder(), &Audience::of(1_000));
    let answer = client.call(&["campaign", "apply", &file.display().to_string()]);
    assert!(answer.code == 1 || answer.code == 2, "{answer:?}");
    assert_refused("audience over its limit", &answer, answer.code, &["audience_bytes_max"]);
    let file = Campaign::named("small").write(fleet.folder(), &Audience::of(100));
    client.apply(&file);
}

#[test]
fn a_wrong_audience_ends_in_a_clear_state() {
    let mut fleet = fleet();
    let client = fleet.client();
    let none = fleet.launch(&Campaign::named("nobody"), &Audience::of(0));
    let ended = fleet.wait_ended(&none, RUN_BOUND);
    println!("BAD INPUT empty audience: {} {:?}", ended.state, ended.error);
    assert!(ended.state == "finished" || ended.error.is_some(), "{ended:?}");
    assert_eq!(ended.recipients.total, 0, "{ended:?}");

    // Fields that would end a header line, or the message; the subject uses them.
    let good = ["one@example.com", "two@example.com", "three@example.com"];
    let mut rows: Vec<String> =
        good.iter().map(|to| format!(r#"{{"email":"{to}","name":"Good","city":"Oslo","coupon":"1"}}"#)).collect();
    for (index, name) in [r"Eve\r\nBcc: eve@example.net", r"Eve\u0000", r"Eve\nX-Bad: 1", r"Eve\r"].iter().enumerate() {
        rows.push(format!(r#"{{"email":"bad{index}@example.com","name":"{name}","city":"Oslo","coupon":"1"}}"#));
    }
    fs::write(fleet.folder().join("hostile.ndjson"), rows.join("\n") + "\n").expect("written");
    let file = Campaign::named("hostile").write(fleet.folder(), &Audience::of(0));
    let text =
        fs::read_to_string(&file).expect("readable").replace("csv = \"hostile.csv\"", "ndjson = \"hostile.ndjson\"");
    fs::write(&file, text).expect("written");
    client.apply(&file);
    let run = client.run("hostile", "hostile");
    let watcher = fleet.watch(&run);
    let ended = fleet.wait_ended(&run, RUN_BOUND);
    println!(
        "BAD INPUT control characters in a header field: {} {:?}, bad rows {}",
        ended.state, ended.recipients, ended.bad_rows
    );
    assert_eq!(ended.state, "finished", "{ended:?}");
    assert_eq!(ended.recipients.accepted, 3, "{ended:?}");
    assert_eq!(ended.recipients.rejected + ended.bad_rows, 4, "{ended:?}");
    let audience = client.recipients(&run).into_iter().map(|recipient| recipient.address).collect();
    let rules = Rules { all_accepted: false, ..Rules::CLEAN };
    let findings = fleet.judge("bad_input", &run, &audience, rules, &watcher.stop());
    assert_eq!(findings.accepted, 3, "{findings:?}");
}
