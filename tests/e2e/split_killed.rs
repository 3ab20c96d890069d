//! Both masters are SIGKILLed again and again while the audience is split: every recipient is in exactly
//! one batch in the end, and nobody was forgotten or repeated.

use postrider_tests::{Audience, Campaign, Fleet, Settings, wait};
use std::collections::BTreeSet;
use std::time::Duration;

const ROWS: usize = 50_000;
const KILLS: usize = 4;
/// Fewer would not have been during the split.
const KILLS_MIN: usize = 2;

#[test]
fn a_killed_split_goes_on_where_it_stopped() {
    let mut fleet = Fleet::start_without_relay(Settings { workers: 0, lease_ttl_ms: 1_000, ..Settings::default() });
    let mut audience = Audience::of(ROWS);
    for index in (0..ROWS).step_by(500) {
        // Index is a multiple of five, so this address was there before, in lower case.
        audience.add_bad_row(&format!("R{index:06}@gmail.com,Again,Nowhere,K0"));
    }
    let client = fleet.client();
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let mut totals = Vec::new();
    while totals.len() < KILLS {
        let before = totals.last().copied().unwrap_or_default();
        let seen = wait::until("the split to go on", Duration::from_secs(60), || {
            client.try_show(&run).filter(|seen| seen.recipients.total > before || seen.split_complete)
        });
        if seen.split_complete {
            break;
        }
        for index in 0..2 {
            fleet.kill_master(index);
        }
        totals.push(seen.recipients.total);
        for index in 0..2 {
            fleet.start_master(index);
        }
    }
    let complete = wait::until("the split to be complete", Duration::from_secs(120), || {
        client.try_show(&run).filter(|seen| seen.split_complete)
    });
    let recipients = client.recipients(&run);
    let addresses: BTreeSet<String> = recipients.iter().map(|recipient| recipient.address.clone()).collect();
    println!(
        "SCENARIO split_killed: rows {ROWS}, both masters killed {} times at totals {totals:?}, admitted {}, distinct {}",
        totals.len(),
        recipients.len(),
        addresses.len()
    );
    assert!(totals.len() >= KILLS_MIN, "the split ended too soon for the test: {totals:?}");
    assert_eq!(recipients.len(), addresses.len(), "somebody is in two batches");
    assert!(addresses == *audience.addresses(), "not the audience: {}", difference(&addresses, audience.addresses()));
    assert_eq!(complete.recipients.total as usize, ROWS, "{complete:?}");
    assert_eq!(complete.recipients.pending as usize, ROWS, "{complete:?}");
}

fn difference(admitted: &BTreeSet<String>, audience: &BTreeSet<String>) -> String {
    let missing: Vec<_> = audience.difference(admitted).take(5).collect();
    let strange: Vec<_> = admitted.difference(audience).take(5).collect();
    format!("missing {missing:?}, not asked for {strange:?}")
}
