//! Bytes of Redis per queued recipient, through the real splitter and the real store.

use crate::people;
use postrider_tests::{Campaign, Fleet, Settings, wait};
use std::time::Duration;

/// A split runs at most 1,000 batches ahead of the workers, and there are none here: more recipients
/// than this need another run.
const RUN_RECIPIENTS_MAX: usize = 90_000;
const SPLIT_BOUND: Duration = Duration::from_secs(300);

pub fn measure(recipients: usize) {
    let fleet = Fleet::start_without_relay(Settings { masters: 1, workers: 0, ..Settings::default() });
    let client = fleet.client();
    let before = fleet.redis.info_number("used_memory");
    let mut queued = 0;
    let mut runs = 0;
    let mut csv_bytes = 0;
    while queued < recipients {
        let count = RUN_RECIPIENTS_MAX.min(recipients - queued);
        let audience = people::audience(count, runs);
        csv_bytes += audience.to_csv().len();
        let run = fleet.launch(&Campaign::named(&format!("memory-{runs}")), &audience);
        wait::until("the run to be queued", SPLIT_BOUND, || client.show(&run).split_complete.then_some(()));
        let seen = client.show(&run);
        assert_eq!(seen.recipients.pending, audience.len() as u64, "all of it is queued: {seen:?}");
        queued += audience.len();
        runs += 1;
        eprintln!("queued {queued} of {recipients}");
    }
    let after = fleet.redis.info_number("used_memory");
    let per = |bytes: f64| bytes / queued as f64;
    println!("recipients queued            {queued}");
    println!("runs                         {runs}");
    println!("CSV, bytes per recipient     {:.1}", per(csv_bytes as f64));
    println!("Redis, bytes per recipient   {:.1}", per(after - before));
    println!("Redis, MB per million        {:.1}", per(after - before) * 1e6 / (1024.0 * 1024.0));
}
