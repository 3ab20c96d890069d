//! Masters are SIGKILLed just when a history segment appears, again and again: every recipient is listed once, from the
//! storage, and the store keeps little of them.

use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings, wait};
use std::fs;
use std::path::Path;
use std::time::Duration;

const RECIPIENTS: usize = 20_000;
const KILLS: usize = 5;
const SEGMENT_BOUND: Duration = Duration::from_secs(20);
const DRAINED_BOUND: Duration = Duration::from_secs(60);

/// Segments in the storage, those that nobody names included.
fn segments(folder: &Path) -> usize {
    let folders = fs::read_dir(folder.join("storage/history")).into_iter().flatten().flatten();
    let files = folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten());
    files.filter(|file| file.path().extension().is_some_and(|extension| extension == "zst")).count()
}

#[test]
fn history_survives_masters_that_die_writing_it() {
    let mut fleet = Fleet::start(Settings { sink_latency_ms: 60, ..Settings::default() });
    let audience = Audience::of(RECIPIENTS);
    let empty = fleet.redis.info_number("used_memory");
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    let mut kills = 0;
    while kills < KILLS {
        let before = segments(fleet.folder());
        let folder = fleet.folder().to_owned();
        let seen = wait::closely(SEGMENT_BOUND, || segments(&folder) > before);
        if !seen {
            break;
        }
        fleet.kill_master(kills % 2);
        fleet.start_master(kills % 2);
        kills += 1;
    }
    let ended = fleet.wait_ended(&run, Duration::from_secs(300));
    assert_eq!(ended.state, "finished", "{ended:?}");
    assert!(kills > 1, "history is written while the run goes on");
    wait::until("every payload to leave the store", DRAINED_BOUND, || {
        (fleet.redis.count_keys("postrider:{s0}:p:*") == 0).then_some(())
    });
    let details = fleet.redis.count_keys("postrider:{s0}:d:*");
    assert_eq!(details, 0, "reply texts have left the store as well");
    let kept = (fleet.redis.info_number("used_memory") - empty) / RECIPIENTS as f64;
    println!(
        "history_drained: {kills} masters killed, {} segments, {kept:.1} B a recipient left in redis",
        segments(fleet.folder())
    );
    let listed = fleet.client().recipients(&run);
    assert_eq!(listed.len(), RECIPIENTS);
    fleet.judge("history_drained", &run, audience.addresses(), Rules::CLEAN, &watcher.stop());
}
