//! From settings to one checked value. Every complaint names its place, the key, why, and the mend;
//! all of them are told at once.

use super::settings::{Element, Keys, Origin, Setting, Settings};
use super::urls::{check_master, is_domain};
use super::{Config, LeaseConfig, MasterConfig, RetentionConfig, WorkerConfig, dkim, outgoing, retention, windows};
use crate::failure::{Failure, Result};
use crate::toml_text::Value;
use postrider_common::backoff::RetryPolicy;
use postrider_common::duration;
use postrider_common::ids::LaneName;
use postrider_common::lane::Lane;
use postrider_common::limits::{SPLIT_AHEAD_BATCHES_MAX, TRANSACTION_MS_MAX};
use postrider_common::pace::{LIMITED_MAX, Limit, Limits, Pace, RECIPIENTS_AT_ONCE_MAX, Rate};
use postrider_common::site::SiteTable;
use postrider_common::windows::Windows;
use postrider_store::StoreUrl;
use postrider_store::open::{Durability, TlsFiles};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::time::Duration;

const LEASE_TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
const DOUBT_GRACE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(600);
const HARD_CAP: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
const REPLICAS: RangeInclusive<i64> = 1..=16;
/// An idle worker asks each of them for work.
const SHARDS: RangeInclusive<i64> = 1..=64;
const DRAIN_TIMEOUT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(900);

/// Checks everything. `host` is this machine's name, for what defaults to it.
pub fn read(settings: &Settings, host: &str) -> Result<Config> {
    let refused = settings.refusals();
    let mut reader = Reader { settings, problems: refused };
    let config = reader.config(host);
    match (reader.problems.is_empty(), config) {
        (true, Some(config)) => Ok(config),
        (_, _) => Err(Failure::usage(reader.problems.join("\n       "))),
    }
}

/// Only the masters, for client commands.
pub fn masters(settings: &Settings) -> Result<Vec<String>> {
    let mut reader = Reader { settings, problems: Vec::new() };
    let urls = reader.masters();
    if reader.problems.is_empty() { Ok(urls) } else { Err(Failure::usage(reader.problems.join("\n       "))) }
}

/// Only the limit that an upload is checked against before it starts.
pub fn audience_bytes_max(settings: &Settings) -> Result<u64> {
    let mut reader = Reader { settings, problems: Vec::new() };
    let limit = reader.whole("master", "audience_bytes_max", 1..=i64::MAX);
    limit.ok_or_else(|| Failure::usage(reader.problems.join("\n       "))).map(i64::unsigned_abs)
}

pub(super) struct Reader<'a> {
    pub(super) settings: &'a Settings,
    pub(super) problems: Vec<String>,
}

impl Reader<'_> {
    fn config(&mut self, host: &str) -> Option<Config> {
        // Each part is read before any is given up, so that every complaint is told.
        let master = self.master();
        let store = self.store();
        let shards = self.shards();
        let durability = self.durability();
        let tls = self.store_tls();
        let storage = self.storage();
        let key_file = self.text("encryption", "key_file").map(|(path, _)| path);
        let files_root = self.text("master", "files_root").map(|(path, _)| path);
        let lease = self.lease();
        let [runs, messages, dead_letters] = ["runs", "messages", "dead_letters"].map(|key| self.kept(key));
        let lanes = self.lanes();
        let sites = self.sites();
        let limits = self.limits();
        let worker = self.worker(host);
        let relays = self.relays();
        let dkim = dkim::read(self.settings, &mut self.problems);
        let outgoing = outgoing::read(self.settings, &mut self.problems);
        Some(Config {
            master: master?,
            store: store?,
            shards: shards?,
            durability: durability?,
            tls: tls?,
            storage: storage?,
            key_file: key_file.filter(|path| !path.is_empty()).map(Into::into),
            files_root: files_root.filter(|path| !path.is_empty()).map(Into::into),
            lease: lease?,
            retention: RetentionConfig { runs: runs?, messages: messages?, dead_letters: dead_letters? },
            lanes,
            sites,
            limits,
            worker: worker?,
            relays,
            dkim,
            outgoing,
        })
    }

    pub(super) fn wrong(&mut self, setting: &Setting, path: &str, why: impl std::fmt::Display) {
        self.problems.push(format!("{}: {path}: {why}", setting.origin));
    }

    fn setting(&mut self, section: &str, key: &str) -> Option<Setting> {
        let found = self.settings.get(section, key).cloned();
        if found.is_none() {
            self.problems.push(format!("{section}.{key} is missing"));
        }
        found
    }

    fn text(&mut self, section: &str, key: &str) -> Option<(String, Setting)> {
        let setting = self.setting(section, key)?;
        match &setting.value {
            Value::Text(text) => Some((text.trim().to_owned(), setting)),
            other => {
                let why = format!("it must be a text, not {}", other.kind());
                self.wrong(&setting, &format!("{section}.{key}"), why);
                None
            }
        }
    }

    fn whole(&mut self, section: &str, key: &str, range: RangeInclusive<i64>) -> Option<i64> {
        let setting = self.setting(section, key)?;
        self.whole_of(&setting, &format!("{section}.{key}"), range)
    }

    pub(super) fn whole_of(&mut self, setting: &Setting, path: &str, range: RangeInclusive<i64>) -> Option<i64> {
        match &setting.value {
            Value::Integer(number) if range.contains(number) => Some(*number),
            other => {
                let why = format!("it must be a whole number from {} to {}, not {other}", range.start(), range.end());
                self.wrong(setting, path, why);
                None
            }
        }
    }

    fn duration(&mut self, section: &str, key: &str, range: &RangeInclusive<Duration>) -> Option<Duration> {
        let (text, setting) = self.text(section, key)?;
        let path = format!("{section}.{key}");
        match duration::parse(&text) {
            Ok(value) if range.contains(&value) => Some(value),
            Ok(_) => {
                let (low, high) = (duration::print(*range.start()), duration::print(*range.end()));
                let low = if range.start().is_zero() { "0s".to_owned() } else { low };
                self.wrong(&setting, &path, format!("it must be from {low} to {high}, not {text}"));
                None
            }
            Err(why) => {
                self.wrong(&setting, &path, why);
                None
            }
        }
    }

    fn master(&mut self) -> Option<MasterConfig> {
        let grpc_listen = self.listen("master", "grpc_listen", false);
        let http_listen = self.listen("master", "http_listen", true);
        let audience_bytes_max = self.whole("master", "audience_bytes_max", 1..=i64::MAX);
        let split_ahead_batches = self.whole("master", "split_ahead_batches", 1..=SPLIT_AHEAD_BATCHES_MAX as i64);
        Some(MasterConfig {
            grpc_listen: grpc_listen??,
            http_listen: http_listen?,
            audience_bytes_max: audience_bytes_max?.unsigned_abs(),
            split_ahead_batches: split_ahead_batches?.unsigned_abs(),
        })
    }

    /// `Some(None)`: given as empty, which `optional` allows.
    fn listen(&mut self, section: &str, key: &str, optional: bool) -> Option<Option<SocketAddr>> {
        let (text, setting) = self.text(section, key)?;
        let path = format!("{section}.{key}");
        if text.is_empty() && optional {
            return Some(None);
        }
        let address = text.strip_prefix("localhost:").map_or(text.clone(), |port| format!("127.0.0.1:{port}"));
        let Ok(address) = address.parse::<SocketAddr>() else {
            self.wrong(&setting, &path, format!("'{text}' is not an address and a port, such as 127.0.0.1:7400"));
            return None;
        };
        if !address.ip().is_loopback() {
            let why = format!(
                "listening on {address} is refused: this version has neither tokens nor TLS, so anyone who reaches \
                 the port could send mail; use a loopback address such as 127.0.0.1:{}",
                address.port()
            );
            self.wrong(&setting, &path, why);
            return None;
        }
        Some(Some(address))
    }

    fn store(&mut self) -> Option<StoreUrl> {
        let (text, setting) = self.text("store", "url")?;
        match text.parse() {
            Ok(url) => Some(url),
            Err(why) => {
                // The text itself may carry a password.
                self.wrong(&setting, "store.url", why);
                None
            }
        }
    }

    fn shards(&mut self) -> Option<NonZeroU16> {
        let setting = self.setting("store", "shards")?;
        let number = self.whole_of(&setting, "store.shards", SHARDS)?;
        if number > 1 && self.is_store_embedded() {
            let why = "an embedded store is one shard; more are for a server, of use on the nodes of a cluster: use 1";
            self.wrong(&setting, "store.shards", why);
        }
        u16::try_from(number).ok().and_then(NonZeroU16::new)
    }

    fn durability(&mut self) -> Option<Durability> {
        let (text, setting) = self.text("store", "durability")?;
        let replicas = self.whole("store", "replicas", REPLICAS).map(to_u32);
        match text.as_str() {
            "always" => Some(Durability::Always),
            "relaxed" => Some(Durability::Relaxed),
            "replicated" if self.is_store_embedded() => {
                let why =
                    "\"replicated\" waits for replicas of a server, and an embedded store has none: use \"always\"";
                self.wrong(&setting, "store.durability", why);
                None
            }
            "replicated" => replicas.map(|replicas| Durability::Replicated { replicas }),
            _ => {
                let why = format!("it must be always, replicated or relaxed, not '{text}'");
                self.wrong(&setting, "store.durability", why);
                None
            }
        }
    }

    fn is_store_embedded(&self) -> bool {
        let url = self.settings.get("store", "url").map(|setting| &setting.value);
        matches!(url, Some(Value::Text(text)) if text.trim().starts_with("embedded:"))
    }

    fn store_tls(&mut self) -> Option<TlsFiles> {
        let (url, _) = self.text("store", "url")?;
        let mut file = |key: &str| {
            let (text, setting) = self.text("store", key)?;
            if !text.is_empty() && !url.starts_with("rediss") {
                let why = "it protects nothing: the store URL is without TLS; write rediss://, rediss+sentinel:// or \
                           rediss+cluster://, or remove the key";
                self.wrong(&setting, &format!("store.{key}"), why);
                return None;
            }
            Some((!text.is_empty()).then(|| text.into()))
        };
        let (ca, certificate, key) = (file("tls_ca"), file("tls_certificate"), file("tls_key"));
        let files = TlsFiles { ca: ca?, certificate: certificate?, key: key? };
        if files.certificate.is_some() != files.key.is_some() {
            self.problems.push("store.tls_certificate and store.tls_key belong together: give both or none".to_owned());
            return None;
        }
        Some(files)
    }

    fn storage(&mut self) -> Option<String> {
        let (text, setting) = self.text("storage", "url")?;
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        match scheme {
            None if !text.is_empty() => Some(text),
            Some("file" | "s3") => Some(text),
            None => {
                self.wrong(&setting, "storage.url", "it is empty: give a folder");
                None
            }
            Some(scheme) => {
                let why = format!(
                    "{scheme}:// is none of this version: give a folder that all masters share, or s3://BUCKET/PREFIX"
                );
                self.wrong(&setting, "storage.url", why);
                None
            }
        }
    }

    fn lease(&mut self) -> Option<LeaseConfig> {
        let ttl = self.duration("lease", "ttl", &LEASE_TTL);
        let window = self.whole("lease", "window", 1..=100);
        let doubt_grace = self.duration("lease", "doubt_grace", &DOUBT_GRACE);
        let hard_cap = self.duration("lease", "hard_cap", &HARD_CAP);
        let (ttl, hard_cap) = (ttl?, hard_cap?);
        let least = ttl.max(Duration::from_millis(TRANSACTION_MS_MAX));
        if hard_cap <= least {
            let setting = self.setting("lease", "hard_cap")?;
            let why = format!(
                "{} is too short: it must be longer than lease.ttl ({}) and than one SMTP transaction may take ({}), \
                 or no intent could be granted",
                duration::print(hard_cap),
                duration::print(ttl),
                duration::print(Duration::from_millis(TRANSACTION_MS_MAX)),
            );
            self.wrong(&setting, "lease.hard_cap", why);
            return None;
        }
        Some(LeaseConfig { ttl, window: to_u32(window?), doubt_grace: doubt_grace?, hard_cap })
    }

    /// The inner none: for ever.
    fn kept(&mut self, key: &str) -> Option<Option<Duration>> {
        let (text, setting) = self.text("retention", key)?;
        retention::parse(&text).map_err(|why| self.wrong(&setting, &format!("retention.{key}"), why)).ok()
    }

    fn lanes(&mut self) -> Vec<Lane> {
        let elements = self.settings.elements("lane").to_vec();
        elements.iter().filter_map(|element| self.lane(element)).collect()
    }

    fn lane(&mut self, element: &Element) -> Option<Lane> {
        let path = format!("lane.{}", element.name);
        let name = self.lane_name(&element.name, &element.origin, "lane.name");
        let weight = match element.keys.get("weight") {
            Some(setting) => self.whole_of(setting, &format!("{path}.weight"), 1..=1000),
            None => Some(10),
        };
        let retry = match element.keys.get("retry") {
            Some(setting) => self.retry(setting, &format!("{path}.retry"), &element.name),
            None => Some(RetryPolicy::BULK),
        };
        let lane = Lane { name: name?, weight: to_u32(weight?), retry: retry?, windows: Windows::default() };
        windows::of_lane(element, lane, &mut self.problems)
    }

    fn lane_name(&mut self, text: &str, origin: &Origin, path: &str) -> Option<LaneName> {
        text.parse().map_err(|why| self.problems.push(format!("{origin}: {path}: {why}"))).ok()
    }

    /// What is not given stays as the default of that lane.
    fn retry(&mut self, setting: &Setting, path: &str, lane: &str) -> Option<RetryPolicy> {
        let Value::Table(table) = &setting.value else { return None };
        let default = if lane == "transactional" { RetryPolicy::TRANSACTIONAL } else { RetryPolicy::BULK };
        let mut part = |key: &str, default_ms: u64| match table.entry(key).map(|entry| &entry.node.value) {
            None => Some(Duration::from_millis(default_ms)),
            Some(Value::Text(text)) => {
                let parsed = duration::parse(text);
                parsed.map_err(|why| self.wrong(setting, &format!("{path}.{key}"), why)).ok()
            }
            Some(_) => None,
        };
        let (base, cap, ttl) =
            (part("base", default.base_ms), part("cap", default.cap_ms), part("ttl", default.ttl_ms));
        let policy = RetryPolicy::try_new(base?, cap?, ttl?);
        policy.map_err(|why| self.wrong(setting, path, why)).ok()
    }

    fn sites(&mut self) -> SiteTable {
        let mut table = SiteTable::default();
        for element in self.settings.elements("site").to_vec() {
            let domains = self.texts(&element.keys, "domains", &format!("site.{}.domains", element.name));
            if domains.is_empty() {
                let why = format!("site.{}.domains is empty: name at least one domain", element.name);
                self.problems.push(format!("{}: {why}", element.origin));
            }
            for domain in domains.iter().filter(|domain| !is_domain(domain)) {
                let why = format!("site.{}.domains: '{domain}' is not a domain", element.name);
                self.problems.push(format!("{}: {why}", element.origin));
            }
            if let Err(why) = table.add(&element.name, &domains) {
                self.problems.push(format!("{}: site.name: {why}", element.origin));
            }
        }
        table
    }

    /// Rate and concurrency of lanes and of sites.
    fn limits(&mut self) -> Limits {
        let mut limits = Limits::default();
        for element in self.settings.elements("lane").to_vec() {
            let limit = self.limit(&element, "lane");
            // A name that is none was complained about before.
            let _ = element.name.parse().map(|name| limits.lane(name, limit));
        }
        for element in self.settings.elements("site").to_vec() {
            let limit = self.limit(&element, "site");
            let _ = element.name.parse().map(|name| limits.site(name, limit));
        }
        let count = limits.lanes.len() + limits.sites.len();
        if count > LIMITED_MAX {
            let why = format!("{count} lanes and sites have a rate or a concurrency and at most {LIMITED_MAX} may");
            self.problems.push(format!("lane and site: {why}; put sites with one pace together"));
        }
        limits
    }

    pub(super) fn limit(&mut self, element: &Element, section: &str) -> Limit {
        let path = |key: &str| format!("{section}.{}.{key}", element.name);
        let mut at_once = |key: &str| {
            let setting = element.keys.get(key)?;
            self.whole_of(setting, &path(key), 1..=i64::from(RECIPIENTS_AT_ONCE_MAX)).map(to_u32)
        };
        let (burst, concurrency) = (at_once("burst"), at_once("concurrency"));
        let rate = element.keys.get("rate").and_then(|setting| {
            let Value::Text(text) = &setting.value else { return None };
            text.trim().parse::<Rate>().map_err(|why| self.wrong(setting, &path("rate"), why)).ok()
        });
        if let Some(setting) = element.keys.get("burst").filter(|_| !element.keys.contains_key("rate")) {
            self.wrong(setting, &path("burst"), "it limits nothing without a rate: give rate as well, or remove it");
        }
        Limit { pace: rate.map(|rate| Pace { rate, burst: burst.unwrap_or(rate.burst()) }), concurrency }
    }

    fn texts(&mut self, keys: &Keys, key: &str, path: &str) -> Vec<String> {
        let Some(setting) = keys.get(key) else { return Vec::new() };
        let Value::List(items) = &setting.value else {
            self.wrong(setting, path, "it must be a list of texts");
            return Vec::new();
        };
        let text = |value: &Value| if let Value::Text(text) = value { Some(text.clone()) } else { None };
        items.iter().filter_map(|item| text(&item.value)).collect()
    }

    pub(super) fn lane_list(&mut self, keys: &Keys, path: &str) -> Vec<LaneName> {
        let Some(origin) = keys.get("lanes").map(|setting| setting.origin.clone()) else { return Vec::new() };
        let names = self.texts(keys, "lanes", path);
        names.iter().filter_map(|name| self.lane_name(name, &origin, path)).collect()
    }

    fn worker(&mut self, host: &str) -> Option<WorkerConfig> {
        let keys = self.settings.tables.get("worker").cloned().unwrap_or_default();
        let masters = self.masters();
        let name = self.worker_name(host);
        let slots = self.whole("worker", "slots", 1..=10_000);
        let lanes = self.lane_list(&keys, "worker.lanes");
        let reserve = slots.and_then(|slots| self.reserve(slots, &lanes));
        let source_address = self.source_address();
        let ehlo = self.ehlo(host);
        let (journal, _) = self.text("worker", "journal")?;
        let drain_timeout = self.duration("worker", "drain_timeout", &DRAIN_TIMEOUT);
        let http_listen = self.listen("worker", "http_listen", true);
        Some(WorkerConfig {
            masters,
            name: name?,
            slots: to_u32(slots?),
            lanes,
            reserve: reserve?,
            source_address: source_address?,
            ehlo: ehlo?,
            journal: (!journal.is_empty()).then(|| journal.into()),
            drain_timeout: drain_timeout?,
            http_listen: http_listen?,
        })
    }

    fn masters(&mut self) -> Vec<String> {
        let Some((text, setting)) = self.text("worker", "master") else { return Vec::new() };
        let mut urls = Vec::new();
        for url in text.split(',').map(str::trim).filter(|url| !url.is_empty()) {
            match check_master(url) {
                Ok(()) => urls.push(url.trim_end_matches('/').to_owned()),
                Err(why) => self.wrong(&setting, "worker.master", why),
            }
        }
        if text.split(',').all(|url| url.trim().is_empty()) {
            self.wrong(&setting, "worker.master", "it is empty: give a URL such as http://127.0.0.1:7400");
        }
        urls
    }

    fn worker_name(&mut self, host: &str) -> Option<String> {
        let (text, setting) = self.text("worker", "name")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if text.is_empty() {
            let clean: String = host.chars().filter(|c| plain(*c)).take(100).collect();
            return Some(if clean.is_empty() { "worker".to_owned() } else { clean });
        }
        if text.len() > 100 || !text.chars().all(plain) {
            self.wrong(&setting, "worker.name", format!("'{text}' is not a name: 1 to 100 of A-Z a-z 0-9 . _ -"));
            return None;
        }
        Some(text)
    }

    fn reserve(&mut self, slots: i64, lanes: &[LaneName]) -> Option<BTreeMap<LaneName, u32>> {
        let setting = self.setting("worker", "reserve")?;
        let Value::Table(table) = &setting.value else { return None };
        let mut reserve = BTreeMap::new();
        for entry in &table.entries {
            let path = format!("worker.reserve.{}", entry.key);
            let Value::Integer(mut number) = entry.node.value else { continue };
            let name = self.lane_name(&entry.key, &setting.origin, &path)?;
            if setting.origin == Origin::Default {
                // The default suits the default number of slots; a small worker keeps its shape.
                number = number.min(slots / 4);
                if number == 0 || !(lanes.is_empty() || lanes.contains(&name)) {
                    continue;
                }
            }
            if !(0..slots).contains(&number) {
                self.wrong(&setting, &path, format!("{number} must be from 0 to less than worker.slots ({slots})"));
                return None;
            }
            reserve.insert(name, to_u32(number));
        }
        let sum: i64 = reserve.values().map(|number| i64::from(*number)).sum();
        if sum >= slots {
            let why = format!("{sum} slots are reserved in all and there are {slots}: leave at least one for the rest");
            self.wrong(&setting, "worker.reserve", why);
            return None;
        }
        Some(reserve)
    }

    fn source_address(&mut self) -> Option<Option<IpAddr>> {
        let (text, setting) = self.text("worker", "source_address")?;
        if text.is_empty() {
            return Some(None);
        }
        let parsed = text.parse().map(Some);
        let why = format!("'{text}' is not an IP address");
        parsed.map_err(|_| self.wrong(&setting, "worker.source_address", why)).ok()
    }

    fn ehlo(&mut self, host: &str) -> Option<String> {
        let (text, setting) = self.text("worker", "ehlo")?;
        if text.is_empty() {
            return Some(if is_domain(host) { host.to_owned() } else { "localhost".to_owned() });
        }
        let literal = text.starts_with('[') && text.ends_with(']') && text.bytes().all(|c| c.is_ascii_graphic());
        if !is_domain(&text) && !literal {
            self.wrong(&setting, "worker.ehlo", format!("'{text}' is not a host name"));
            return None;
        }
        Some(text)
    }
}

/// Numbers that were checked against a range inside `u32`.
pub(super) fn to_u32(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
