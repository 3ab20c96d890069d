//! Waiting for an event, with a bound. Nothing in the tests waits for a time to pass and hopes.

use postrider_common::{Clock, SystemClock};
use std::time::{Duration, Instant};

/// Pause between two looks. Short against every duration that the tests configure.
const LOOK_EVERY: Duration = Duration::from_millis(20);

const LOOK_CLOSELY_EVERY: Duration = Duration::from_millis(1);

/// Looks until `look` gives something.
///
/// # Panics
/// When the bound is over: an event that does not come is a failed test.
pub fn until<T>(what: &str, bound: Duration, look: impl FnMut() -> Option<T>) -> T {
    match within(bound, look) {
        Some(seen) => seen,
        None => panic!("waited {bound:?} in vain for {what}"),
    }
}

/// Looks until `look` gives something or the bound is over.
pub fn within<T>(bound: Duration, look: impl FnMut() -> Option<T>) -> Option<T> {
    looking(LOOK_EVERY, bound, look)
}

/// The same for what must be seen within a millisecond or two. False: the bound is over.
pub fn closely(bound: Duration, mut look: impl FnMut() -> bool) -> bool {
    looking(LOOK_CLOSELY_EVERY, bound, || look().then_some(())).is_some()
}

fn looking<T>(every: Duration, bound: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return Some(seen);
        }
        if begun.elapsed() >= bound {
            return None;
        }
        std::thread::sleep(every);
    }
}

/// Watches for all of the time that nothing happens which must not.
///
/// # Panics
/// As soon as `broken` says what happened.
pub fn while_nothing(what: &str, observed: Duration, mut broken: impl FnMut() -> Option<String>) {
    if let Some(broken) = within(observed, &mut broken) {
        panic!("{what}, for {observed:?}: {broken}");
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z, the clock of the sink's ledger.
pub fn now_ms() -> i64 {
    SystemClock::default().wall_ms()
}
