//! Which layer wins, what is refused, and what every complaint says.

use super::gather::{DEFAULTS, Gathered, Sources, gather};
use super::keys::{SECTIONS, Shape};
use super::read::{masters, read};
use super::{Config, RetentionConfig, show};
use crate::failure::{Exit, Failure};
use postrider_common::clock::SystemClock;
use postrider_common::lane;
use postrider_common::limits::{AUDIENCE_BYTES_MAX, SPLIT_AHEAD_BATCHES};
use postrider_mail::smtp::client::Method;
use postrider_store::open::{Durability, TlsFiles};
use postrider_worker::{SecretSource, Security};
use std::sync::Arc;
use std::time::Duration;

struct Given {
    folder: tempfile::TempDir,
    sources: Sources,
}

fn given(toml: &str) -> Given {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("postrider.toml");
    std::fs::write(&path, toml).expect("written");
    Given { folder, sources: Sources { file: Some(path), ..Sources::default() } }
}

impl Given {
    fn env(mut self, name: &str, value: &str) -> Self {
        self.sources.env.push((name.into(), value.into()));
        self
    }

    fn gather(&self) -> Result<Gathered, Failure> {
        gather(&self.sources)
    }

    fn read(&self) -> Result<Config, Failure> {
        read(&self.gather()?.settings, "host-1.example")
    }

    /// The complaint, with the folder of this test cut from the file names.
    fn complaint(&self) -> String {
        let failure = self.read().expect_err("it must be refused");
        assert_eq!(failure.exit, Exit::Usage);
        failure.message.replace(&format!("{}/", self.folder.path().display()), "")
    }
}

#[test]
fn the_defaults_are_those_of_the_code() {
    let config = given("").read().expect("the defaults are good");
    assert_eq!(config.lanes, lane::defaults());
    assert_eq!(config.master.audience_bytes_max, AUDIENCE_BYTES_MAX);
    assert_eq!(config.master.split_ahead_batches, SPLIT_AHEAD_BATCHES);
    assert_eq!(config.master.grpc_listen.to_string(), "127.0.0.1:7400");
    assert_eq!(config.master.http_listen.map(|a| a.to_string()).as_deref(), Some("127.0.0.1:7401"));
    assert_eq!(config.store.to_string(), "embedded:./postrider-data/store");
    assert_eq!(config.durability, Durability::Always);
    assert_eq!(config.storage, "./postrider-data/storage");
    let lease = config.lease;
    assert_eq!((lease.ttl.as_secs(), lease.window, lease.doubt_grace.as_secs()), (60, 10, 10));
    assert_eq!(lease.hard_cap, Duration::from_secs(1800));
    let days = |days: u64| Some(Duration::from_hours(days * 24));
    let kept = RetentionConfig { runs: days(90), messages: days(30), dead_letters: None };
    assert_eq!(config.retention, kept);
    let worker = &config.worker;
    assert_eq!((worker.slots, worker.drain_timeout.as_secs()), (256, 20));
    assert_eq!((worker.name.as_str(), worker.ehlo.as_str()), ("host-1.example", "host-1.example"));
    assert_eq!(worker.reserve.iter().map(|(l, n)| (l.as_str(), *n)).collect::<Vec<_>>(), [("transactional", 16)]);
    assert!(config.relays.is_empty());
}

#[test]
fn the_documentation_names_every_key() {
    for section in SECTIONS {
        assert!(DEFAULTS.contains(&format!("[{}]", section.name)), "{}", section.name);
        for key in section.keys {
            assert!(DEFAULTS.contains(&format!("{} =", key.name)), "{}.{}", section.name, key.name);
        }
        assert_eq!(section.keys.is_empty(), matches!(section.shape, Shape::Refused(_)));
    }
}

#[test]
fn the_later_layer_wins() {
    let toml = "[lease]\nwindow = 20\nttl = \"30s\"\n[worker]\nslots = 10\n";
    let mut all = given(toml).env("POSTRIDER__LEASE__WINDOW", "30").env("POSTRIDER__WORKER__SLOTS", "40");
    all.sources.flags.push(("worker", "slots", "50".into(), "--slots"));
    let gathered = all.gather().expect("good");
    let config = read(&gathered.settings, "h").expect("good");
    assert_eq!((config.lease.ttl.as_secs(), config.lease.window, config.worker.slots), (30, 30, 50));
    let layer = |section, key| gathered.settings.get(section, key).expect("there").origin.layer();
    let layers = [layer("lease", "ttl"), layer("lease", "window"), layer("worker", "slots"), layer("worker", "master")];
    assert_eq!(layers, ["file", "env", "flag", "default"]);
}

#[test]
fn short_names_are_the_same_keys() {
    let given_both = given("").env("POSTRIDER_STORE", "embedded:").env("POSTRIDER_MASTER", "http://a:1,http://b:2");
    let config = given_both.read().expect("good");
    assert_eq!(config.store.to_string(), "embedded:");
    assert_eq!(config.worker.masters, ["http://a:1", "http://b:2"]);
    let differ = given("").env("POSTRIDER_STORE", "embedded:").env("POSTRIDER__STORE__URL", "embedded:x");
    assert!(differ.complaint().contains("POSTRIDER_STORE and POSTRIDER__STORE__URL differ"));
}

#[test]
fn lists_and_tables_come_from_the_environment_too() {
    let config = given("")
        .env("POSTRIDER__WORKER__LANES", "bulk, transactional")
        .env("POSTRIDER__WORKER__RESERVE", "transactional=8,bulk=1")
        .env("POSTRIDER__RELAY", r#"[{ name = "a", url = "smtp://127.0.0.1:2525", connections = 4 }]"#)
        .read()
        .expect("good");
    assert_eq!((config.worker.lanes.len(), config.worker.reserve.len()), (2, 2));
    let relay = &config.relays[0];
    assert_eq!((relay.host.as_str(), relay.port, relay.connections), ("127.0.0.1", 2525, 4));
}

#[test]
fn lanes_are_merged_by_name_over_the_defaults() {
    let toml = "[[lane]]\nname = \"bulk\"\nretry = { base = \"1s\" }\n[[lane]]\nname = \"news\"\nweight = 3\n";
    let config = given(toml).read().expect("good");
    let lanes: Vec<_> = config.lanes.iter().map(|l| (l.name.as_str(), l.weight, l.retry.base_ms)).collect();
    assert_eq!(lanes, [("transactional", 100, 300_000), ("bulk", 10, 1000), ("news", 3, 300_000)]);
}

#[test]
fn windows_of_lanes_are_read() {
    let toml = "[[lane]]\nname = \"bulk\"\nquiet_hours = { from = \"21:00\", to = \"08:00\", time_zone = \"recipient\" }\n\
        default_zone = \"Europe/Berlin\"\n";
    let config = given(toml).read().expect("good");
    assert!(config.lanes.iter().all(|lane| lane.windows.is_empty() == (lane.name.as_str() == "transactional")));
    let bulk = &config.lanes.iter().find(|lane| lane.name.as_str() == "bulk").expect("there").windows;
    assert_eq!((bulk.quiet.len(), bulk.go_by_recipient()), (1, true));
    assert_eq!(bulk.clock.as_ref().map(|clock| clock.default_zone.as_str()), Some("Europe/Berlin"));
}

#[test]
fn limits_of_lanes_and_sites_are_read() {
    let toml = "[[lane]]\nname = \"bulk\"\nrate = \"30000/h\"\nconcurrency = 40\n[[lane]]\nname = \"news\"\nrate = \"20/s\"\n\
                burst = 3\n[[site]]\nname = \"a\"\ndomains = [\"a.example\"]\nconcurrency = 5\n[[site]]\nname = \"b\"\n\
                domains = [\"b.example\"]\n";
    let limits = given(toml).read().expect("good").limits;
    let told = |(name, limit): (String, postrider_common::pace::Limit)| {
        let pace = limit.pace.map(|pace| (pace.rate.per_hour(), pace.burst));
        (name, pace, limit.concurrency)
    };
    let lanes: Vec<_> = limits.lanes.iter().map(|(name, limit)| told((name.to_string(), *limit))).collect();
    let expected = [("bulk".to_owned(), Some((30_000, 8)), Some(40)), ("news".to_owned(), Some((72_000, 3)), None)];
    assert_eq!(lanes, expected);
    let sites: Vec<_> = limits.sites.iter().map(|(name, limit)| told((name.to_string(), *limit))).collect();
    assert_eq!(sites, [("a".to_owned(), None, Some(5))], "a site without a limit is not limited");
    assert!(given("").read().expect("good").limits.is_empty(), "nothing is limited without being asked for");
}

#[test]
fn limits_of_relays_are_read() {
    let toml = "[[relay]]\nname = \"a\"\nurl = \"smtp://h\"\nrate = \"20/s\"\nconnections_total = 6\n\
                [[relay]]\nname = \"B\"\nurl = \"smtp://h\"\n";
    let relays = given(toml).read().expect("good").relays;
    let limits: Vec<_> = relays.iter().map(|relay| relay.limit.numbers()).collect();
    assert_eq!(limits, [(72_000, 20, 6), (0, 0, 0)]);
}

#[test]
fn relays_with_tls_and_a_login_are_read() {
    let relay = |lines: &str| given(&format!("[[relay]]\nname = \"a\"\n{lines}\n"));
    let good = |lines: &str| relay(lines).read().expect("good").relays.remove(0);
    let tls = good("url = \"smtps://mail.example\"\nusername = \"ada\"\npassword = \"env:MAIL\"\nauth = \"login\"");
    let login = tls.login.expect("a login");
    assert_eq!((tls.port, tls.security, login.user.as_str()), (465, Security::Tls, "ada"));
    assert_eq!((login.secret, login.method), (SecretSource::Env("MAIL".into()), Some(Method::Login)));
    let starttls = good(
        "url = \"smtp://mail.example:587\"\ntls = \"starttls\"\ntls_ca = \"ca.pem\"\nusername = \"a\"\npassword = \"p\"",
    );
    assert_eq!(
        (starttls.port, starttls.security, starttls.authorities),
        (587, Security::StartTls, Some("ca.pem".into()))
    );
    assert_eq!(starttls.login.expect("a login").secret, SecretSource::File("p".into()));
    assert_eq!(good("url = \"smtp://mail.example\"").security, Security::None);
    assert!(
        good("url = \"smtp://127.0.0.1\"\nusername = \"a\"\npassword = \"p\"").login.is_some(),
        "nobody listens there"
    );
    for (lines, part) in [
        ("url = \"smtps://h\"\ntls = \"starttls\"", "relay.a.tls: smtps:// is TLS from the first byte on"),
        ("url = \"smtp://h\"\ntls = \"yes\"", "neither \"starttls\" nor \"none\""),
        ("url = \"smtp://h\"\nusername = \"a\"\npassword = \"hunter2\"", "relay.a.password is refused without TLS"),
        ("url = \"smtps://h\"\nusername = \"a\"", "relay.a.password is missing"),
        ("url = \"smtps://h\"\npassword = \"hunter2\"", "relay.a.username is missing"),
        ("url = \"smtps://h\"\nauth = \"plain\"", "relay.a.auth needs username and password"),
        (
            "url = \"smtps://h\"\nusername = \"a\"\npassword = \"hunter2\"\nauth = \"ntlm\"",
            "none of \"plain\", \"login\"",
        ),
    ] {
        let text = relay(lines).complaint();
        assert!(text.contains(part) && !text.contains("hunter2"), "{lines}\n{text}");
    }
}

#[test]
fn unknown_keys_name_file_line_key_and_the_nearest() {
    let rows = [
        ("[lease]\ntll = \"1s\"\n", "postrider.toml:2: there is no key lease.tll; the nearest is lease.ttl"),
        ("\n[leese]\n", "postrider.toml:2: there is no key leese; the nearest is lease"),
        (
            "[[lane]]\nname = \"a\"\nwieght = 1\n",
            "postrider.toml:3: there is no key lane.wieght; the nearest is lane.weight",
        ),
        (
            "[[lane]]\nname = \"a\"\nretry = { bass = \"1s\" }\n",
            "postrider.toml:3: there is no key lane.retry.bass; the nearest is lane.retry.base",
        ),
        ("ttl = \"1s\"\n", "postrider.toml:1: there is no key ttl; the nearest is lease.ttl"),
    ];
    for (toml, expected) in rows {
        assert_eq!(given(toml).complaint(), expected);
    }
    let env = given("").env("POSTRIDER__STORE__URLL", "x").complaint();
    assert_eq!(env, "environment POSTRIDER__STORE__URLL: there is no key store.urll; the nearest is store.url");
}

#[test]
fn every_complaint_is_told_at_once() {
    let text = given("[lease]\nttl = \"2h\"\nwindow = 0\n[worker]\nslots = 0\n").complaint();
    assert_eq!(text.lines().count(), 3, "{text}");
    let text = given("[lease]\ntll = \"1s\"\nwindwo = 0\n").complaint();
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn values_out_of_range_name_the_range() {
    let rows = [
        ("[lease]\nttl = \"900ms\"", "postrider.toml:2: lease.ttl: it must be from 1s to 1h, not 900ms"),
        ("[lease]\nttl = \"60\"", "lease.ttl: '60' is not a duration"),
        ("[lease]\nttl = 60", "lease.ttl must be a duration in quotes, such as \"60s\", not a whole number"),
        ("[lease]\nwindow = 101", "lease.window: it must be a whole number from 1 to 100, not 101"),
        ("[lease]\nhard_cap = \"10m\"", "lease.hard_cap: 10m is too short"),
        ("[lease]\nhard_cap = \"20m\"\nttl = \"30m\"", "lease.hard_cap: 20m is too short"),
        ("[lease]\ndoubt_grace = \"11m\"", "from 0s to 10m"),
        (
            "[retention]\nruns = \"0s\"",
            "postrider.toml:2: retention.runs: it must be from 1s to 36500d, or \"forever\"",
        ),
        ("[retention]\nrun = \"1d\"", "there is no key retention.run; the nearest is retention.runs"),
        ("[worker]\ndrain_timeout = \"16m\"", "from 0s to 15m"),
        ("[worker]\nreserve = { bulk = 256 }", "worker.reserve.bulk: 256 must be from 0 to less than worker.slots"),
        ("[worker]\nreserve = { bulk = 200, a = 100 }", "300 slots are reserved in all and there are 256"),
        ("[worker]\nname = \"a b\"", "worker.name: 'a b' is not a name"),
        ("[worker]\nsource_address = \"here\"", "'here' is not an IP address"),
        ("[worker]\nehlo = \"a b\"", "'a b' is not a host name"),
        ("[worker]\nmaster = \"\"", "worker.master: it is empty"),
        ("[worker]\nhttp_listen = \"0.0.0.0:7402\"", "worker.http_listen: listening on 0.0.0.0:7402 is refused"),
        ("[outgoing]\nallow = [\"10.0.0.0/40\"]", "postrider.toml:2: outgoing.allow: '10.0.0.0/40' is not a network"),
        ("[outgoing]\nallow = \"10.0.0.0/8\"", "outgoing.allow must be a list of texts"),
        ("[outgoing]\nenv = [\"A=B\"]", "postrider.toml:2: outgoing.env: this is not the name"),
        ("[worker]\nmaster = \"127.0.0.1:7400\"", "write http://HOST:PORT"),
        ("[master]\ngrpc_listen = \"7400\"", "'7400' is not an address and a port"),
        ("[storage]\nurl = \"gs://bucket\"", "gs:// is none of this version"),
        ("[store]\ndurability = \"best\"", "it must be always, replicated or relaxed, not 'best'"),
        ("[store]\nurl = \"mysql://x\"", "store.url: it must begin with redis://"),
        ("[[lane]]\nweight = 1", "lane.name is missing"),
        ("[[lane]]\nname = \"A\"", "'A' is not a lane name"),
        ("[[lane]]\nname = \"a\"\n[[lane]]\nname = \"a\"", "lane.name 'a' is there twice"),
        (
            "[[lane]]\nname = \"a\"\nquiet_hours = { from = \"8\", to = \"9\", time_zone = \"UTC\" }",
            "quiet_hours.from: '8' is not a time",
        ),
        (
            "[[lane]]\nname = \"a\"\nquiet_hours = { from = \"21:00\", to = \"08:00\" }",
            "lane.a.quiet_hours.time_zone: it is missing",
        ),
        (
            "[[lane]]\nname = \"a\"\nsend_window = { from = \"08:00\", to = \"20:00\", time_zone = \"Europe/Berln\" }",
            "lane.a.send_window.time_zone: there is no time zone 'Europe/Berln'",
        ),
        (
            "[[lane]]\nname = \"a\"\nquiet_hours = { time_zone = \"UTC\" }",
            "lane.a.quiet_hours: sending could never begin",
        ),
        (
            "[[lane]]\nname = \"a\"\nsend_window = { from = \"08:00\", to = \"20:00\", time_zone = \"recipient\" }",
            "lane.a.default_zone: it is missing",
        ),
        (
            "[[lane]]\nname = \"a\"\ndefault_zone = \"UTC\"",
            "lane.a.default_zone: it is for windows with time_zone = \"recipient\"",
        ),
        ("[[lane]]\nname = \"a\"\nweight = 0", "lane.a.weight: it must be a whole number from 1 to 1000, not 0"),
        ("[[lane]]\nname = \"a\"\nretry = { base = \"0s\" }", "retry.base must be from 1ms to 7d"),
        ("[[lane]]\nname = \"a\"\nrate = \"5\"", "postrider.toml:3: lane.a.rate: '5' is not a rate"),
        ("[[lane]]\nname = \"a\"\nrate = 5", "lane.rate must be a rate in quotes"),
        ("[[lane]]\nname = \"a\"\nrate = \"0/s\"", "lane.a.rate: it must be from 1/h to 100000/s, not 0/s"),
        ("[[lane]]\nname = \"a\"\nburst = 5", "lane.a.burst: it limits nothing without a rate"),
        (
            "[[lane]]\nname = \"a\"\nrate = \"5/s\"\nburst = 0",
            "lane.a.burst: it must be a whole number from 1 to 1000000",
        ),
        ("[[lane]]\nname = \"a\"\nconcurrency = 0", "lane.a.concurrency: it must be a whole number from 1"),
        ("[[site]]\nname = \"a\"\ndomains = [\"a.example\"]\nrate = \"5/d\"", "site.a.rate: '5/d' is not a rate"),
        ("[[site]]\nname = \"a\"", "site.a.domains is empty"),
        ("[[site]]\nname = \"a\"\ndomains = [\"b c\"]", "'b c' is not a domain"),
        ("[[relay]]\nname = \"a\"", "relay.a.url is missing"),
        ("[[relay]]\nname = \"a\"\nurl = \"smtp://h:99999\"", "'99999' is not a port"),
        ("[[relay]]\nname = \"a\"\nurl = \"smtp://h\"\nconnections = 0", "from 1 to 1000"),
        ("[[relay]]\nname = \"a\"\nurl = \"smtp://h\"\nconnections_total = 0", "relay.a.connections_total: it must be"),
        ("[[relay]]\nname = \"a\"\nurl = \"smtp://h\"\nrate = \"5\"", "relay.a.rate: '5' is not a rate"),
        ("[[relay]]\nname = \"A b\"\nurl = \"smtp://h\"\nrate = \"5/s\"", "'A b' is not a relay name"),
        ("[lane]\nname = \"a\"", "lane must be a list: write [[lane]]"),
        ("lease = 3", "lease must be a section: write [lease]"),
        ("[lease\n", "postrider.toml:1:"),
    ];
    for (toml, expected) in rows {
        let text = given(toml).complaint();
        assert!(text.contains(expected), "{toml}\n{text}");
    }
}

#[test]
fn what_limits_signs_or_protects_is_refused() {
    let rows = [
        "[[relay]]\nname = \"a\"\nurl = \"smtp://me:secret@h\"",
        "[auth]\ntokens = \"x\"",
        "[worker]\nmaster = \"https://h:1\"",
        "[master]\ngrpc_listen = \"0.0.0.0:7400\"",
        "[master]\nhttp_listen = \"192.0.2.1:7401\"",
    ];
    for toml in rows {
        let text = given(toml).complaint();
        assert!(text.contains("refused"), "{toml}\n{text}");
        assert!(!text.contains("secret"), "{text}");
    }
    assert!(given("").env("POSTRIDER_TOKEN", "t").complaint().contains("POSTRIDER_TOKEN is refused"));
}

#[test]
fn stores_of_several_servers_and_with_tls_are_understood() {
    let config = |toml: &str| given(&format!("[store]\n{toml}")).read().expect("good");
    let sentinels =
        config("url = \"redis+sentinel://me:secret@a:1,b:2/mail\"\ndurability = \"replicated\"\nreplicas = 2");
    assert_eq!(sentinels.durability, Durability::Replicated { replicas: 2 });
    assert_eq!(sentinels.store.to_string(), "redis+sentinel://…@a:1,b:2/mail");
    let cluster = config("url = \"redis+cluster://a:1,b:2\"\nshards = 12");
    assert_eq!(cluster.store_options(&(Arc::new(SystemClock::default()) as _)).shards.get(), 12);
    let one = config("url = \"redis://h\"\ndurability = \"replicated\"");
    assert_eq!(one.durability, Durability::Replicated { replicas: 1 });
    let tls = config("url = \"rediss://h\"\ntls_ca = \"ca.pem\"\ntls_certificate = \"c\"\ntls_key = \"k\"").tls;
    assert_eq!((tls.ca, tls.certificate, tls.key), (Some("ca.pem".into()), Some("c".into()), Some("k".into())));
    assert_eq!(config("url = \"redis://h\"").tls, TlsFiles::default());
    for (toml, expected) in [
        ("url = \"redis+sentinel://me:secret@a:1\"", "store.url: the name of the service is missing"),
        ("url = \"redis+cluster://me:secret@a:1/3\"", "store.url: nothing may follow the nodes"),
        ("url = \"redis://me:secret@h\"\ntls_ca = \"ca.pem\"", "store.tls_ca: it protects nothing"),
        ("url = \"rediss://me:secret@h\"\ntls_key = \"k\"", "belong together"),
        ("url = \"redis://h\"\ndurability = \"replicated\"\nreplicas = 0", "store.replicas: it must be a whole number"),
        ("durability = \"replicated\"", "an embedded store has none"),
        ("shards = 2", "store.shards: an embedded store is one shard"),
        ("url = \"redis://h\"\nshards = 65", "store.shards: it must be a whole number from 1 to 64, not 65"),
    ] {
        let text = given(&format!("[store]\n{toml}")).complaint();
        assert!(text.contains(expected) && !text.contains("secret"), "{toml}\n{text}");
    }
}

#[test]
fn the_crash_journal_is_a_folder_or_switched_off() {
    let journal = |toml: &str| given(toml).read().expect("good").worker.journal;
    assert_eq!(journal("").as_deref(), Some(std::path::Path::new("./postrider-data/journal")));
    assert_eq!(journal("[worker]\njournal = \"/j\"\n").as_deref(), Some(std::path::Path::new("/j")));
    assert_eq!(journal("[worker]\njournal = \"\"\n"), None);
}

#[test]
fn small_workers_keep_room_for_every_lane() {
    let config = given("[worker]\nslots = 8\n").read().expect("good");
    assert_eq!(config.worker.reserve.values().copied().collect::<Vec<_>>(), [2]);
    let config = given("[worker]\nslots = 1\n").read().expect("good");
    assert!(config.worker.reserve.is_empty());
}

#[test]
fn showing_hides_secrets_and_tells_origins() {
    let toml = "[store]\nurl = \"redis://me:secret@h:1\"\n[auth]\nkey = \"secret\"\n";
    let gathered = given(toml).gather().expect("good");
    let (text, json) = (show::as_text(&gathered.settings), show::as_json(&gathered.settings).to_string());
    for shown in [&text, &json] {
        assert!(!shown.contains("secret"), "{shown}");
        assert!(shown.contains("redis://…@h:1"), "{shown}");
    }
    let toml = "[store]\nurl = \"redis+sentinel://me:se,cret@a:1,b:2/mail?sentinel_password=secret\"\n";
    let text = show::as_text(&given(toml).gather().expect("good").settings);
    assert!(text.contains("redis+sentinel://…@a:1,b:2/mail?…") && !text.contains("cret"), "{text}");
    assert!(json.contains(r#""ttl":{"origin":"default","value":"60s"}"#), "{json}");
}

#[test]
fn relay_flags_replace_the_configured_relays() {
    let mut flags = given("[[relay]]\nname = \"a\"\nurl = \"smtp://h\"\n");
    flags.sources.relays = vec!["smtp://127.0.0.1:2525".into(), "smtp://[::1]:26".into()];
    let config = flags.read().expect("good");
    let relays: Vec<_> = config.relays.iter().map(|r| (r.name.as_str(), r.host.as_str(), r.port)).collect();
    assert_eq!(relays, [("relay-1", "127.0.0.1", 2525), ("relay-2", "::1", 26)]);
}

#[test]
fn clients_need_only_the_masters() {
    // A client on a machine whose file is made for a later version still knows where to call.
    let gathered = given("[worker]\nmaster = \"http://a:1\"\n[auth]\nx = 1\n").gather().expect("good");
    assert_eq!(masters(&gathered.settings).expect("good"), ["http://a:1"]);
}
