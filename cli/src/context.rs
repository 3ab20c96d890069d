//! What every command is given: flags, environment and clock, taken once.

use crate::args::Globals;
use crate::client::{Client, PATIENCE};
use crate::config::Config;
use crate::config::gather::{Gathered, Sources, gather};
use crate::config::read;
use crate::failure::{Failure, Result};
use crate::output::Output;
use postrider_common::{Clock, SystemClock};
use std::sync::Arc;

#[derive(Debug, Clone)]
pub struct Context {
    pub globals: Globals,
    env: Vec<(String, String)>,
    pub clock: Arc<dyn Clock>,
}

impl Context {
    pub fn new(globals: Globals) -> Self {
        // Names and values that are not text cannot be ours.
        let env = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Self { globals, env: env.collect(), clock: Arc::new(SystemClock::default()) }
    }

    /// For commands that run on: log lines on stderr.
    pub fn start_logging(&self) {
        self.start_logging_at("info");
    }

    /// With another level than info unless `RUST_LOG` says so.
    pub fn start_logging_at(&self, level: &str) {
        let no_color = self.globals.no_color || self.env.iter().any(|(k, v)| k == "NO_COLOR" && !v.is_empty());
        crate::logging::start(self.globals.log_format.unwrap_or_default(), !no_color, level);
    }

    pub fn json(&self) -> bool {
        self.globals.output.unwrap_or_default() == Output::Json
    }

    /// The layers of configuration, with the flags of this command on top.
    pub fn gather(&self, flags: Vec<(&'static str, &'static str, String, &'static str)>) -> Result<Gathered> {
        self.gather_with_relays(flags, Vec::new())
    }

    pub fn gather_with_relays(
        &self,
        flags: Vec<(&'static str, &'static str, String, &'static str)>,
        relays: Vec<String>,
    ) -> Result<Gathered> {
        if self.globals.token.is_some() {
            let why = "tokens are not part of this version, and a call that looks authenticated would not be";
            return Err(Failure::usage(format!("--token is refused: {why}; leave it out")));
        }
        let mut all = Vec::new();
        if let Some(url) = &self.globals.store {
            all.push(("store", "url", url.clone(), "--store"));
        }
        if let Some(urls) = &self.globals.master {
            all.push(("worker", "master", urls.clone(), "--master"));
        }
        all.extend(flags);
        // An empty POSTRIDER_CONFIG is none.
        let file = self.globals.config.clone().filter(|path| !path.as_os_str().is_empty());
        gather(&Sources { file, env: self.env.clone(), flags: all, relays })
    }

    /// Everything checked; refuses what this version does not enforce.
    pub fn config(&self, gathered: &Gathered) -> Result<Config> {
        read::read(&gathered.settings, &host_name())
    }

    /// A client of the configured masters, and the limit for uploads.
    pub fn client(&self) -> Result<(Client, u64)> {
        let gathered = self.gather(Vec::new())?;
        let masters = read::masters(&gathered.settings)?;
        let limit = read::audience_bytes_max(&gathered.settings)?;
        let patience = self.globals.connect_timeout.unwrap_or(PATIENCE);
        Ok((Client::new(masters, patience, self.clock.clone()), limit))
    }
}

/// This machine's name; empty when it has none.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
