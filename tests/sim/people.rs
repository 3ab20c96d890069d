//! What is submitted: one large run, one of middle size, and single messages, with rows that repeat and rows that are bad.

use crate::mix::BUSY_MS;
use crate::rules::Terms;
use crate::time::EPOCH_MS;
use crate::world::{Happening, World};
use postrider_common::MessageSpec;
use postrider_common::backoff::RetryPolicy;
use postrider_common::campaign::{Audience, OnBadRow, OnUnknown, Source};
use postrider_common::ids::{LaneName, RunId};
use postrider_common::lane::Lane;
use postrider_common::local_time::{Passed, SendAtLocal};
use postrider_common::site::SiteTable;
use postrider_master::campaign::submit::{Wish, fingerprint, message_run_id};
use postrider_master::split::plan::Local;
use postrider_store::NewRun;
use std::collections::{BTreeMap, BTreeSet};

/// Small, so that several are in a run of a few hundred.
const DOMAINS: [&str; 4] = ["gmail.com", "outlook.com", "acme.example", "other.example"];

/// More than batches of one step of a split.
const WIDE_SITES: u64 = 45;

pub fn sites() -> SiteTable {
    let mut sites = SiteTable::default();
    for site in 0..WIDE_SITES {
        let domains = [format!("site{site}.example")];
        sites.add(&format!("site{site}"), &domains).expect("the name is good");
    }
    sites
}

#[derive(Debug)]
pub struct Submission {
    pub run: RunId,
    pub new: NewRun,
    /// Keys that are to be admitted.
    pub keys: BTreeSet<String>,
    /// Of those that wait for a wave, by the store's clock.
    pub waits: BTreeMap<String, i64>,
    pub at_ms: u64,
    pub is_acknowledged: bool,
    /// When the relay first took one of them.
    pub first_ms: Option<u64>,
}

pub fn lanes(retry_ttl_ms: u64) -> Vec<Lane> {
    let retry = RetryPolicy { base_ms: 300, cap_ms: 2_500, ttl_ms: retry_ttl_ms };
    let mut lanes = postrider_common::lane::defaults();
    lanes.iter_mut().for_each(|lane| lane.retry = retry);
    lanes
}

/// Sent at that second of the simulation by the clock of each recipient.
fn local(second: u64) -> Local {
    let at = utc(EPOCH_MS / 1000 + second as i64);
    let rule = SendAtLocal {
        default_zone: "UTC".to_owned(),
        passed: Passed::AtOnce,
        ..SendAtLocal::new(at.parse().expect("a time of the day"))
    };
    Local { rule, zone: "UTC".to_owned(), windows_only: false, windows: None }
}

fn utc(second: i64) -> String {
    let second = second % 86_400;
    format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

impl World {
    pub fn people(&mut self) {
        let recipients = self.mix.recipients;
        let holds = self.mix.holds_unknown;
        self.prepare("big", LaneName::bulk(), recipients, 0, holds);
        let some = 20 + self.random.below(60);
        let at = self.random.below(BUSY_MS / 2);
        self.prepare("mid", LaneName::bulk(), some, at, false);
        if self.mix.has_poison {
            let mid = self.submissions.last().and_then(|mid| mid.keys.iter().next());
            self.poison = mid.map(|key| (key.clone(), 0));
        }
        for name in ["one", "two", "three"] {
            let at = self.random.below(BUSY_MS);
            self.prepare(name, LaneName::transactional(), 1, at, false);
        }
    }

    fn prepare(&mut self, name: &str, lane: LaneName, count: u64, at_ms: u64, holds_unknown: bool) {
        let mut keys = BTreeSet::new();
        let mut rows = Vec::new();
        let wave_s = (self.mix.has_waves && name == "mid").then(|| 1 + at_ms / 1000 + self.random.below(6));
        let mut waits = BTreeMap::new();
        for number in 0..count {
            let site = self.random.below(WIDE_SITES);
            let address = match self.mix.is_wide && name == "big" {
                true => format!("{name}{number}@site{site}.example"),
                false => format!("{name}{number}@{}", self.random.one_of(&DOMAINS)),
            };
            // It is an hour later there, so that their time has passed.
            let is_passed = wave_s.is_some() && self.random.below(3) == 0;
            let zone = if is_passed { "Etc/GMT-1" } else { "UTC" };
            if let Some(second) = wave_s.filter(|_| !is_passed) {
                waits.insert(address.clone(), EPOCH_MS + second as i64 * 1000);
            }
            let row = match wave_s {
                Some(_) => format!("{{\"email\":\"{address}\",\"time_zone\":\"{zone}\"}}"),
                None => format!("{{\"email\":\"{address}\"}}"),
            };
            if count > 1 && self.random.below(30) == 0 {
                rows.push(row.clone());
            }
            rows.push(row);
            if count > 1 && self.random.below(40) == 0 {
                rows.push("{\"email\":\"nobody\"}".to_owned());
            }
            keys.insert(address);
        }
        let lanes = lanes(self.mix.retry_ttl_ms);
        let found = lanes.iter().find(|known| known.name == lane).expect("the lane is there by default");
        let id = message_run_id(name);
        let on_unknown = if holds_unknown { OnUnknown::Hold } else { OnUnknown::Resend };
        let message = MessageSpec {
            from: "Acme <digest@acme.example>".into(),
            subject: "Hello".into(),
            text: "Hello".into(),
            ..MessageSpec::default()
        };
        let audience = Audience::of(Source::Inline { rows }, "email");
        let wish = Wish {
            id: id.clone(),
            fingerprint: fingerprint(&[name.as_bytes()]),
            campaign: "",
            campaign_version: 0,
            list: None,
            lane: found,
            on_unknown,
            on_bad_row: OnBadRow::Skip,
            message,
            audience,
            local: wave_s.map(local),
        };
        let mut new = wish.freeze().expect("what is submitted is good");
        // As a schedule begins it: one that is lost and submitted again has the same waves (docs/waves.md).
        new.nominal_at_ms = wave_s.map(|_| EPOCH_MS + at_ms as i64);
        self.store().rules.runs.insert(id.clone(), Terms { lane, holds_unknown });
        let submission = Submission { run: id, new, keys, waits, at_ms, is_acknowledged: false, first_ms: None };
        self.submissions.push(submission);
        let number = self.submissions.len() - 1;
        self.after(at_ms, Happening::Submit(number));
    }
}
