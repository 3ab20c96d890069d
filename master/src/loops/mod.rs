//! The duties of every master, one file each. Any number of masters may do them at the same time: each
//! step is a transition of the store that tolerates the others.

pub mod cancel;
pub mod census;
pub mod compare;
pub mod erase;
pub mod fire;
pub mod history;
pub mod reclaim;
pub mod reconcile;
pub mod retention;
pub mod split;
pub mod sweep;

use std::fmt;

/// Logs a failure when it begins and its end, not at every tick in between.
#[derive(Debug)]
pub struct Trouble {
    what: &'static str,
    failing: bool,
}

impl Trouble {
    pub fn new(what: &'static str) -> Self {
        Self { what, failing: false }
    }

    pub fn note<T, E: fmt::Display>(&mut self, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!(duty = self.what, "duty works again");
                }
                Some(value)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(duty = self.what, %error, "duty failed, trying on");
                }
                None
            }
        }
    }
}
