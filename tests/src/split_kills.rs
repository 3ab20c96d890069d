//! Masters that die while an audience is split.

use crate::client::Client;
use crate::{Fleet, wait};
use std::time::Duration;

/// One split, read again from its beginning after each kill.
const STEP_BOUND: Duration = Duration::from_secs(180);

/// All masters are killed and started again.
pub fn restart_masters(fleet: &mut Fleet) {
    for index in 0..fleet.masters() {
        fleet.kill_master(index);
    }
    for index in 0..fleet.masters() {
        fleet.start_master(index);
    }
}

/// Kills all masters this often, each time when the run has come to a number of recipients below `rows` that is drawn. Later
/// ones than nine tenths may come when the split is over. Returns how many there were at each kill.
pub fn kill_while_splitting(
    fleet: &mut Fleet,
    (client, run): (&Client, &str),
    random: &mut fastrand::Rng,
    (kills, rows): (usize, u64),
) -> Vec<u64> {
    let mut kill_at: Vec<u64> = (0..kills).map(|_| random.u64(1..rows / 10 * 9)).collect();
    kill_at.sort_unstable();
    let mut totals = Vec::new();
    for at in kill_at {
        let seen = wait::until("the split to go on", STEP_BOUND, || {
            client.try_show(run).filter(|seen| seen.recipients.total >= at || seen.split_complete)
        });
        assert!(!seen.split_complete, "the split ended before it was killed at {at}, after {totals:?}");
        restart_masters(fleet);
        totals.push(seen.recipients.total);
    }
    totals
}
