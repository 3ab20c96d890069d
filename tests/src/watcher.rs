//! Polls a run for as long as it lasts and holds it to promise P1 at every single look.

use crate::client::{Client, Run};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Pause between two polls.
const POLL_EVERY: Duration = Duration::from_millis(100);

/// What the polls saw.
#[derive(Debug, Default)]
pub struct Watched {
    pub polls: u64,
    /// Polls that no master answered.
    pub unanswered: u64,
    /// Polls at which the parts did not add up to the total, spelled out.
    pub off_balance: Vec<String>,
    pub last: Option<Run>,
}

#[derive(Debug)]
pub struct Watcher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Watched>>,
}

impl Watcher {
    pub fn start(client: Client, run: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::spawn(move || watch(&client, &run, &seen));
        Self { stop, thread: Some(thread) }
    }

    pub fn stop(mut self) -> Watched {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("a watcher is stopped once");
        match thread.join() {
            Ok(watched) => watched,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn watch(client: &Client, run: &str, stop: &AtomicBool) -> Watched {
    let mut watched = Watched::default();
    while !stop.load(Ordering::Relaxed) {
        let next = Instant::now() + POLL_EVERY;
        match client.try_show(run) {
            None => watched.unanswered += 1,
            Some(seen) => {
                watched.polls += 1;
                let counts = seen.recipients;
                if counts.sum() != counts.total {
                    watched.off_balance.push(format!("sum {} of {counts:?}", counts.sum()));
                }
                watched.last = Some(seen);
            }
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    watched
}
