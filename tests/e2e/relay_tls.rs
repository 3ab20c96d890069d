//! Relays that are spoken to with TLS and want a login, served by a server of others (aiosmtpd). Whatever is wrong with them
//! costs nobody an attempt, and nothing is told to whoever has no certificate of a known authority.

use postrider_tests::secure_relay::{PASSWORD, SecureRelay, USER, certify};
use postrider_tests::{Audience, Campaign, Fleet, Settings, wait};
use std::time::Duration;

const BOUND: Duration = Duration::from_secs(60);
const RECIPIENTS: usize = 60;

/// A fleet whose folder has the password in a file.
fn fleet(password: &str) -> Fleet {
    let fleet = Fleet::prepare(Settings { masters: 1, workers: 0, ..Settings::default() });
    std::fs::write(fleet.folder().join("password"), format!("{password}\n")).expect("it can be written");
    fleet
}

/// Writes where the relay is into the configuration.
fn point(fleet: &Fleet, url: &str, further: &str) {
    let file = fleet.folder().join("postrider.toml");
    let text = std::fs::read_to_string(&file).expect("it is there");
    let (before, after) = text.split_once("url = \"smtp://").expect("the relay");
    let (_, after) = after.split_once('\n').expect("a line");
    std::fs::write(&file, format!("{before}url = \"{url}\"\n{further}\n{after}")).expect("it can be written");
}

fn with_login(url: &str, tls: &str, ca: &str) -> (String, String) {
    (url.to_owned(), format!("{tls}\ntls_ca = \"{ca}\"\nusername = \"{USER}\"\npassword = \"password\""))
}

#[test]
fn messages_go_through_tls_with_a_login() {
    for (mode, scheme, tls) in [("starttls", "smtp", "tls = \"starttls\""), ("tls", "smtps", "auth = \"login\"")] {
        let mut fleet = fleet(PASSWORD);
        let ca = certify(fleet.folder()).display().to_string();
        let relay = SecureRelay::start(fleet.folder(), mode);
        let (url, further) = with_login(&format!("{scheme}://localhost:{}", relay.port()), tls, &ca);
        point(&fleet, &url, &further);
        fleet.start_master(0);
        fleet.add_worker(0);
        let looked = fleet.client().call(&["doctor"]);
        let expected = format!("takes mail, with TLS, logged in as {USER}");
        assert!(looked.stdout.contains(&expected), "{looked:?}");
        let run = fleet.launch(&Campaign::named("digest"), &Audience::of(RECIPIENTS));
        let ended = fleet.wait_ended(&run, BOUND);
        assert_eq!((ended.state.as_str(), ended.recipients.accepted as usize), ("finished", RECIPIENTS), "{mode}");
        let messages = relay.messages();
        assert_eq!(messages.len(), RECIPIENTS);
        assert!(messages.iter().all(|(_, user, version)| user == USER && version == "TLSv1.3"), "{messages:?}");
        println!("SCENARIO relay_tls: {mode}, {RECIPIENTS} messages through TLS with a login");
    }
}

#[test]
fn a_relay_that_cannot_be_trusted_or_does_not_let_us_in_gets_nothing() {
    let other = tempfile::tempdir().expect("a folder");
    for (mode, password, knows_authority, told) in [
        ("starttls", "wrong", true, "535"),
        ("starttls", PASSWORD, false, "invalid peer certificate"),
        ("tls", PASSWORD, false, "invalid peer certificate"),
    ] {
        let mut fleet = fleet(password);
        let ca = certify(fleet.folder()).display().to_string();
        let ca = if knows_authority { ca } else { certify(other.path()).display().to_string() };
        let relay = SecureRelay::start(fleet.folder(), mode);
        let (scheme, tls) = if mode == "tls" { ("smtps", "") } else { ("smtp", "tls = \"starttls\"") };
        let (url, further) = with_login(&format!("{scheme}://127.0.0.1:{}", relay.port()), tls, &ca);
        point(&fleet, &url, &further);
        fleet.start_master(0);
        fleet.add_worker(0);
        let client = fleet.client();
        let run = fleet.launch(&Campaign::named("digest"), &Audience::of(RECIPIENTS));
        fleet.wait_worker_says(0, told, BOUND);
        let looked = client.call(&["doctor"]);
        assert!(looked.code == 1 && looked.stdout.contains(told), "{looked:?}");
        let split = wait::until("the split", BOUND, || client.try_show(&run).filter(|seen| seen.split_complete));
        assert_eq!((split.recipients.pending as usize, split.batches.leased), (RECIPIENTS, 0), "{mode} {told}");
        assert!(client.recipients(&run).iter().all(|recipient| recipient.attempts == 0));
        assert_eq!(relay.messages(), []);
        println!("SCENARIO relay_tls: {mode}, {told}: nothing was sent and nobody paid an attempt");
    }
}
