//! What a scenario sets: sizes and durations. There is no test mode in Postrider; these are the keys that
//! an operator has.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
pub struct Settings {
    pub masters: usize,
    pub workers: usize,
    pub slots: u32,
    pub window: u32,
    pub lease_ttl_ms: u64,
    pub doubt_grace_ms: u64,
    pub drain_timeout_ms: u64,
    /// Connections of one worker to the relay.
    pub connections: u32,
    /// Further lines of the relay's section.
    pub relay: String,
    /// The sink answers every command this much later.
    pub sink_latency_ms: u64,
    /// `--fail` rules of the sink.
    pub sink_rules: Vec<String>,
    /// Sites with one domain each, `NAME.example`, beside the built-in ones.
    pub sites: Vec<String>,
    /// Retry policy of the bulk lane.
    pub retry: &'static str,
    /// Where workers send to instead of the sink's address.
    pub through: Option<String>,
    /// `[storage] url`; none: a folder of the fleet.
    pub storage: Option<String>,
    /// For every process of the fleet.
    pub environment: Vec<(String, String)>,
    /// Another build than `binary::postrider`.
    pub program: Option<PathBuf>,
    /// Lines of `[store]`, instead of those for the fleet's own Redis.
    pub store: Option<String>,
    /// Further lines of the configuration file, whole tables.
    pub extra: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            masters: 2,
            workers: 4,
            slots: 64,
            window: 10,
            lease_ttl_ms: 3_000,
            doubt_grace_ms: 1_000,
            drain_timeout_ms: 10_000,
            connections: 16,
            relay: String::new(),
            sink_latency_ms: 10,
            sink_rules: Vec::new(),
            sites: Vec::new(),
            retry: r#"{ base = "300ms", cap = "2s", ttl = "10m" }"#,
            through: None,
            storage: None,
            environment: Vec::new(),
            program: None,
            store: None,
            extra: String::new(),
        }
    }
}

impl Settings {
    /// `postrider.toml` for every process of the fleet; what differs between them comes by environment.
    pub fn to_toml(&self, store: &str, relay: &str, dir: &Path) -> String {
        let mut text = String::new();
        let storage = self.storage.clone().unwrap_or_else(|| format!("{}/storage", dir.display()));
        let relay = self.through.as_deref().unwrap_or(relay);
        let parts = [
            match &self.store {
                Some(lines) => format!("[store]\n{lines}\n"),
                None => format!("[store]\nurl = \"{store}\"\n"),
            },
            format!("[storage]\nurl = \"{storage}\"\n"),
            format!(
                "[lease]\nttl = \"{}ms\"\nwindow = {}\ndoubt_grace = \"{}ms\"\n",
                self.lease_ttl_ms, self.window, self.doubt_grace_ms
            ),
            format!("[worker]\nslots = {}\ndrain_timeout = \"{}ms\"\n", self.slots, self.drain_timeout_ms),
            format!("[[lane]]\nname = \"bulk\"\nretry = {}\n", self.retry),
            format!(
                "[[relay]]\nname = \"sink\"\nurl = \"smtp://{relay}\"\nconnections = {}\n{}\n",
                self.connections, self.relay
            ),
        ];
        for part in parts {
            let _ = writeln!(text, "{part}");
        }
        for site in &self.sites {
            let _ = writeln!(text, "[[site]]\nname = \"{site}\"\ndomains = [\"{site}.example\"]\n");
        }
        text + &self.extra
    }
}
