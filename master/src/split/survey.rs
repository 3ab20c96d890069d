//! The first pass over an audience that is sent to in waves: which instants there are, and what of it is for none. Pure.
//!
//! Nothing of it is stored before its end: whoever goes on after a crash reads from the first row anyway.

use super::clocks::{Clocks, Named, Unknown};
use super::plan::Local;
use super::splitter::{AlreadyHashed, REASON_CHARS_MAX, bad_row, hash, too_many};
use super::waves::{Wave, Waves};
use crate::audience::{ReadError, Row, RowReason, nearest, shorten};
use crate::schedule::{Hours, LocalTimes, TimeZone, Zones, clock_of, zone_of_country};
use postrider_common::campaign::OnBadRow;
use postrider_common::erasure::Erasing;
use postrider_common::limits::{BAD_ROWS_KEPT_MAX, RUN_RECIPIENTS_MAX};
use postrider_common::local_time::SendAtLocal;
use postrider_store::BadRow;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashSet};
use std::hash::BuildHasherDefault;

#[derive(Debug)]
pub struct Survey {
    rule: SendAtLocal,
    zones: Zones,
    dues: Dues,
    on_bad_row: OnBadRow,
    erasing: Vec<Erasing>,
    seen: HashSet<u128, BuildHasherDefault<AlreadyHashed>>,
    clocks: Clocks<Due>,
    rows: u64,
    found: u64,
    /// With the zone that stands for each.
    used: BTreeMap<(i64, String), String>,
    bad_rows: u64,
    repeated_rows: u64,
    samples: Vec<BadRow>,
    has_zone: bool,
    has_country: bool,
    /// Those of the first recipient.
    columns: Vec<String>,
}

/// When recipients of one clock are due.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Due {
    /// Then, with those whose clocks show the same; and a zone of that clock. Both empty: with all who are due then.
    At((i64, String), String),
    /// It had passed, and then nothing is sent.
    #[default]
    Passed,
    /// Their windows never open.
    Never,
}

/// By which clocks recipients are due.
#[derive(Debug)]
struct Dues {
    nominal_at_ms: i64,
    /// None: all are due at once.
    times: Option<LocalTimes>,
    /// None: clocks need not be kept apart.
    hours: Option<Hours>,
}

impl Dues {
    fn of(&self, zone: &TimeZone) -> Due {
        let at = match &self.times {
            Some(times) => times.in_zone(zone),
            None => Some(self.nominal_at_ms),
        };
        let Some(at) = at else { return Due::Passed };
        let Some(hours) = &self.hours else { return Due::At((at, String::new()), String::new()) };
        match hours.opens(at, std::slice::from_ref(zone)) {
            Some(at) => Due::At((at, clock_of(zone, self.nominal_at_ms)), zone.iana_name().unwrap_or("UTC").to_owned()),
            None => Due::Never,
        }
    }
}

/// What it found.
#[derive(Debug)]
pub struct Surveyed {
    pub waves: Waves,
    pub repeated_rows: u64,
    pub samples: Vec<BadRow>,
}

impl Survey {
    pub fn begin(
        local: &Local,
        nominal_at_ms: i64,
        zones: &Zones,
        on_bad_row: OnBadRow,
        erasing: Vec<Erasing>,
    ) -> Result<Self, ReadError> {
        let wrong = |why: String| ReadError::run("send_at_local", why, MEND);
        let times = match local.windows_only {
            true => None,
            false => Some(
                LocalTimes::new(&local.rule, &local.zone, nominal_at_ms, zones).map_err(|e| wrong(e.to_string()))?,
            ),
        };
        let hours = match &local.windows {
            Some(windows) => Some(Hours::new(windows, zones).map_err(|error| wrong(error.to_string()))?),
            None => None,
        };
        let dues = Dues { nominal_at_ms, times, hours };
        let default = zones.get(&local.rule.default_zone).map_err(|error| wrong(error.to_string()))?;
        let default = dues.of(&default);
        Ok(Self {
            rule: local.rule.clone(),
            zones: zones.clone(),
            dues,
            on_bad_row,
            erasing,
            seen: HashSet::default(),
            clocks: Clocks { zones: Default::default(), countries: Default::default(), default },
            rows: 0,
            found: 0,
            used: BTreeMap::new(),
            bad_rows: 0,
            repeated_rows: 0,
            samples: Vec::new(),
            has_zone: false,
            has_country: false,
            columns: Vec::new(),
        })
    }

    /// Takes the next row. An error ends the run.
    pub fn take(&mut self, row: Row) -> Result<(), ReadError> {
        self.rows += 1;
        let mut recipient = match row.recipient {
            Ok(recipient) => recipient,
            Err(reason) => return self.bad(row.number, &reason),
        };
        self.note_columns(&recipient.fields);
        self.learn(&recipient.fields);
        let at = match self.clocks.of(&self.rule, &recipient.fields) {
            Ok(due) => due.clone(),
            Err(unknown) => return self.bad(row.number, &self.reason(unknown, &recipient.fields)),
        };
        if !self.seen.insert(hash(&recipient.key)) {
            self.repeated_rows += 1;
            return Ok(());
        }
        if self.seen.len() > RUN_RECIPIENTS_MAX {
            return Err(too_many(row.number, RUN_RECIPIENTS_MAX));
        }
        for erasing in &self.erasing {
            erasing.take_from_recipient(&mut recipient);
        }
        match at {
            _ if recipient.address.is_erased() => self.skip(row.number, &RowReason::erased()),
            Due::At(wave, zone) => {
                self.used.entry(wave).or_insert(zone);
                self.found += 1;
            }
            Due::Passed => self.skip(row.number, &RowReason::new(PASSED)),
            Due::Never => self.skip(row.number, &RowReason::new(NEVER)),
        }
        Ok(())
    }

    /// The audience is read to its end.
    pub fn end(self) -> Result<Surveyed, ReadError> {
        self.check_columns()?;
        let keys: Vec<&(i64, String)> = self.used.keys().collect();
        let wave = |due: Due| match due {
            Due::At(key, _) => keys.binary_search(&&key).ok(),
            Due::Passed | Due::Never => None,
        };
        let clocks = self.clocks.map(wave);
        let waves =
            self.used.iter().map(|((at_ms, _), clock)| Wave { at_ms: *at_ms, batches: 0, clock: clock.clone() });
        let waves = waves.collect();
        let (rows, found, bad_rows) = (self.rows, self.found, self.bad_rows);
        let waves = Waves { rows, waves, pass: 0, clocks, found, placed: 0, bad_rows };
        Ok(Surveyed { waves, repeated_rows: self.repeated_rows, samples: self.samples })
    }

    fn bad(&mut self, number: u64, reason: &RowReason) -> Result<(), ReadError> {
        match self.on_bad_row {
            OnBadRow::Fail if !reason.is_erased() => return Err(bad_row(number, reason)),
            OnBadRow::Fail | OnBadRow::Skip => self.skip(number, reason),
        }
        Ok(())
    }

    fn skip(&mut self, number: u64, reason: &RowReason) {
        if self.samples.len() < BAD_ROWS_KEPT_MAX {
            let reason = reason.0.chars().take(REASON_CHARS_MAX).collect();
            self.samples.push(BadRow { row: number, reason });
        }
        self.bad_rows += 1;
    }

    /// When the time comes by the clock that the row names, if it is a new one.
    fn learn(&mut self, fields: &Map<String, Value>) {
        if let Named::Name(name) = Named::zone(&self.rule, fields)
            && !self.clocks.zones.contains_key(&name)
            && let Some(zone) = self.zones.find(&name)
        {
            self.clocks.zones.insert(name, self.dues.of(&zone));
        }
        if let Named::Name(code) = Named::country(&self.rule, fields)
            && !self.clocks.countries.contains_key(&code)
            && let Some(zone) = zone_of_country(&code).and_then(|zone| self.zones.find(zone))
        {
            self.clocks.countries.insert(code, self.dues.of(&zone));
        }
    }

    /// Why the row is a bad one, without what it says: that may be anything.
    fn reason(&self, unknown: Unknown, fields: &Map<String, Value>) -> RowReason {
        // Looking for the nearest takes a while, and only the first ones are kept.
        let is_kept = self.samples.len() < BAD_ROWS_KEPT_MAX;
        let column = match unknown {
            Unknown::Zone => shorten(self.rule.zone_column()),
            Unknown::Country => {
                let column = shorten(self.rule.country_column());
                return RowReason::new(format!(
                    "the country in '{column}' is no code of ISO 3166-1 alpha-2, such as DE"
                ));
            }
        };
        let mut reason = format!("the time zone in '{column}' is not in the IANA database {}", self.zones.version());
        if let Named::Name(name) = Named::zone(&self.rule, fields)
            && is_kept
            && let Some(nearest) = self.zones.get(&name).err().and_then(|unknown| unknown.nearest)
        {
            reason.push_str(&format!("; the nearest is {nearest}"));
        }
        RowReason::new(reason)
    }

    fn note_columns(&mut self, fields: &Map<String, Value>) {
        self.has_zone = self.has_zone || fields.contains_key(self.rule.zone_column());
        self.has_country = self.has_country || fields.contains_key(self.rule.country_column());
        if self.columns.is_empty() {
            self.columns = fields.keys().cloned().collect();
        }
    }

    /// A column that no row has is a mistake, and not a reason to take everybody for one zone.
    fn check_columns(&self) -> Result<(), ReadError> {
        let rule = &self.rule;
        let missing = match (&rule.zone, &rule.country) {
            _ if self.found == 0 => return Ok(()),
            (Some(zone), _) if !self.has_zone => ("zone", zone.as_str()),
            (_, Some(country)) if !self.has_country => ("country", country.as_str()),
            (None, None) if !self.has_zone && !self.has_country => ("zone", SendAtLocal::ZONE_COLUMN),
            (Some(_) | None, Some(_) | None) => return Ok(()),
        };
        let key = if self.dues.times.is_some() { "send_at_local" } else { "recipient_clock" };
        let (setting, name) = (format!("{key}.{}", missing.0), shorten(missing.1));
        let message = format!("no row of the audience has a column '{name}' ({setting})");
        let mend = match nearest(missing.1, &self.columns) {
            Some(near) => format!("did you mean '{}'? name a column that is there in {setting}", shorten(near)),
            None => format!("name the column with the time zones in {setting}, or add it to the audience"),
        };
        Err(ReadError::run("audience_column_missing", message, mend))
    }
}

const MEND: &str = "bring the time zone database of the masters up to date and resume the run, or mend send_at_local and run the campaign again";
const NEVER: &str =
    "by its clock sending could never begin: its send windows and those of others have no time in common";
const PASSED: &str = "its time had passed when the run was due (send_at_local.passed = \"skip\")";
