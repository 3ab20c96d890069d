//! Both masters are SIGKILLed twenty times, at random moments, while an audience of a million rows is split: every recipient
//! is in exactly one batch in the end, and nobody was forgotten or repeated.

use postrider_tests::split_kills::kill_while_splitting;
use postrider_tests::{Audience, Campaign, Fleet, Settings, wait};
use std::time::Duration;

const ROWS: usize = 1_000_000;
const KILLS: usize = 20;
/// Rows that cannot be admitted, one in so many.
const BAD_EVERY: usize = 5_000;
/// One split, read again from its beginning after each kill.
const STEP_BOUND: Duration = Duration::from_secs(120);

#[test]
fn a_killed_split_goes_on_where_it_stopped() {
    let seed = std::env::var("POSTRIDER_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_122);
    let mut random = fastrand::Rng::with_seed(seed);
    // Nothing is sent: the whole audience is ahead of the workers.
    let extra = "[master]\nsplit_ahead_batches = 100000\n".to_owned();
    let mut fleet =
        Fleet::start_without_relay(Settings { workers: 0, lease_ttl_ms: 1_000, extra, ..Settings::default() });
    let mut audience = Audience::of(ROWS);
    for index in (0..ROWS).step_by(BAD_EVERY) {
        // Index is a multiple of five, so this address was there before, in lower case.
        audience.add_bad_row(&format!("R{index:06}@gmail.com,Again,Nowhere,K0"));
        audience.add_bad_row(&format!("nobody{index},No,Where,K0"));
    }
    let client = fleet.client();
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    println!("seed {seed}");
    let totals = kill_while_splitting(&mut fleet, (&client, &run), &mut random, (KILLS, ROWS as u64));
    let complete = wait::until("the split to be complete", STEP_BOUND, || {
        client.try_show(&run).filter(|seen| seen.split_complete)
    });
    let mut recipients: Vec<String> = client.recipients(&run).into_iter().map(|recipient| recipient.address).collect();
    let admitted = recipients.len();
    recipients.sort_unstable();
    recipients.dedup();
    println!(
        "SCENARIO split_killed: seed {seed}, rows {ROWS}, both masters killed {KILLS} times at totals {totals:?}, \
         admitted {admitted}, distinct {}",
        recipients.len()
    );
    assert_eq!(recipients.len(), admitted, "somebody is in two batches");
    assert!(recipients.iter().eq(audience.addresses()), "not the audience");
    assert_eq!(complete.recipients.total as usize, ROWS, "{complete:?}");
    assert_eq!(complete.recipients.pending as usize, ROWS, "{complete:?}");
    assert_eq!(complete.bad_rows as usize, ROWS / BAD_EVERY, "{complete:?}");
}
