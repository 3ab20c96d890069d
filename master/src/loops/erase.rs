//! Takes erasures that nobody works on, and works on them, one after the other.

use super::Trouble;
use crate::core::Core;
use crate::erase::{EraseError, Work, Worked};
use std::sync::Arc;
use std::time::Duration;

/// How often it looks whether somebody asked.
const TICK: Duration = Duration::from_secs(1);
/// How long an erasure is left to a master that is not heard: many times what one write into the storage takes.
const HOLD: Duration = Duration::from_mins(3);
/// Open erasures looked at.
const LOOKED_AT_MAX: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    pub tick: Duration,
    pub hold: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { tick: TICK, hold: HOLD }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub done: u64,
}

#[derive(Debug)]
pub struct EraseDuty {
    core: Arc<Core>,
    config: Config,
}

impl EraseDuty {
    pub fn new(core: Arc<Core>, config: Config) -> Self {
        Self { core, config }
    }

    pub async fn run(self) {
        let mut trouble = Trouble::new("erase");
        while self.core.pause(self.config.tick).await {
            match self.run_once().await {
                Err(EraseError::Stopping) => return,
                result => drop(trouble.note(result)),
            }
        }
    }

    /// All that are open; the first trouble when each was tried.
    pub async fn run_once(&self) -> Result<Counts, EraseError> {
        let (mut counts, mut trouble) = (Counts::default(), None);
        for record in self.core.store.open_erasures(LOOKED_AT_MAX).await? {
            let worked = match Work::take(&self.core, record, self.config.hold).await {
                Ok(Some(work)) => work.all().await,
                Ok(None) => Ok(Worked::Held),
                Err(error) => Err(error),
            };
            match worked {
                Ok(Worked::Done) => counts.done += 1,
                Ok(Worked::Held) => {}
                Err(error) => drop(trouble.get_or_insert(error)),
            }
        }
        trouble.map_or(Ok(counts), Err)
    }
}
