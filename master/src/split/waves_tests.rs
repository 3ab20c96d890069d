//! A split in waves: everybody is in one batch of the own wave, wherever its master dies.

use super::Splitter;
use super::plan::Local;
use super::survey::Survey;
use super::waves::{Position, Waves};
use crate::audience::{ReadError, Row, RowReason};
use crate::schedule::Zones;
use jiff::Timestamp;
use jiff::civil::Time;
use postrider_common::Address;
use postrider_common::campaign::OnBadRow;
use postrider_common::erasure::Erasing;
use postrider_common::ids::{Fence, RunId};
use postrider_common::limits::{BATCH_RECIPIENTS_MAX, SPLIT_STEP_BATCHES_MAX};
use postrider_common::local_time::{Passed, SendAtLocal, UnknownZone};
use postrider_common::message::Recipient;
use postrider_common::payload;
use postrider_store::{AddBatches, NewBatch, SplitLease};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Midnight in Berlin: eight in the morning has passed only in the far east.
const NOMINAL: &str = "2026-03-28T23:00:00Z";
const ZONES: [&str; 7] = [
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kathmandu",
    "Asia/Tokyo",
    "Pacific/Auckland",
    "America/Los_Angeles",
    "Pacific/Kiritimati",
];

fn nominal_ms() -> i64 {
    NOMINAL.parse::<Timestamp>().expect("an instant").as_millisecond()
}

fn local(change: impl FnOnce(&mut SendAtLocal)) -> Local {
    let mut rule = SendAtLocal::new("08:00".parse().expect("a time"));
    rule.default_zone = "Europe/Berlin".to_owned();
    change(&mut rule);
    Local { rule, zone: "Europe/Berlin".to_owned(), windows_only: false, windows: None }
}

fn recipient(user: &str, fields: Value) -> Recipient {
    let address: Address = user.parse().expect("an address");
    let Value::Object(fields) = fields else { panic!("an object") };
    Recipient { key: address.normalised(), address, fields }
}

fn row(number: u64, user: &str, fields: Value) -> Row {
    Row { number, recipient: Ok(recipient(user, fields)) }
}

/// A store that keeps a split's position and its batches.
#[derive(Debug, Clone, Default, PartialEq)]
struct Stored {
    cursor: u64,
    open: Vec<u8>,
    bad_rows: u64,
    repeated_rows: u64,
    samples: Vec<(u64, String)>,
    batches: Vec<NewBatch>,
    complete: bool,
    steps: u64,
}

impl Stored {
    fn lease(&self) -> SplitLease {
        SplitLease {
            run: RunId::derive("campaign/x", "1"),
            fence: Fence { epoch: 1, counter: 1, nonce: 1 },
            ttl_ms: 1000,
            cursor: self.cursor,
            sequence_max: self.batches.len() as u64,
            open: self.open.clone(),
            bad_rows: self.bad_rows,
            repeated_rows: self.repeated_rows,
        }
    }

    /// As the store does it: what brings nothing new is a sign of life and stores nothing.
    fn add(&mut self, add: AddBatches) {
        assert_eq!(add.cursor, self.cursor, "compared and set");
        assert!(add.cursor_next >= self.cursor, "it never goes back");
        assert!(add.batches.len() <= SPLIT_STEP_BATCHES_MAX && !self.complete);
        self.steps += 1;
        if add.cursor_next == self.cursor && add.batches.is_empty() && !add.complete {
            return;
        }
        for batch in add.batches {
            assert_eq!(batch.sequence, self.batches.len() as u64 + 1);
            self.batches.push(batch);
        }
        (self.cursor, self.open) = (add.cursor_next, add.open);
        (self.bad_rows, self.repeated_rows, self.complete) = (add.bad_rows, add.repeated_rows, add.complete);
        self.samples.extend(add.bad_row_samples.into_iter().map(|bad| (bad.row, bad.reason)));
        assert!(!self.complete || self.open.is_empty());
    }

    /// Who is in a batch, with the instant of its wave.
    fn people(&self) -> BTreeMap<String, i64> {
        let mut people = BTreeMap::new();
        for batch in &self.batches {
            let recipients = payload::decode(&batch.payload).expect("decodes");
            assert_eq!(recipients.len(), batch.count as usize);
            for one in recipients {
                assert_eq!(people.insert(one.key, batch.not_before_ms), None, "nobody is in two batches");
            }
        }
        people
    }
}

/// Stores a step, unless the master dies now: before it (0), or after it and before it is known (1). Err: it died.
struct Deaths<'a> {
    at: &'a [(u64, u8)],
    steps: u64,
}

impl Deaths<'_> {
    fn store(&mut self, stored: &mut Stored, splitter: &mut Splitter) -> Result<(), ()> {
        self.steps += 1;
        let death = self.at.iter().find(|(step, _)| *step == self.steps).map(|(_, how)| *how);
        let add = splitter.step(1000);
        if death != Some(0) {
            stored.add(add);
        }
        death.map_or(Ok(()), |_| Err(()))
    }
}

/// What `work` does under one lease.
fn lease(
    rows: &[Row],
    local: &Local,
    step_rows: u64,
    stored: &mut Stored,
    deaths: &mut Deaths<'_>,
    erasing: &[Erasing],
) -> Result<(), ()> {
    let erasing = erasing.to_vec();
    let mut splitter = Splitter::resume(&stored.lease(), Arc::default(), OnBadRow::Skip, erasing.clone(), Some(local))
        .expect("a readable position");
    if splitter.needs_survey() {
        let mut survey =
            Survey::begin(local, nominal_ms(), &Zones::bundled(), OnBadRow::Skip, erasing).expect("a good rule");
        for row in rows {
            survey.take(row.clone()).expect("no row ends the run");
        }
        // A sign of life meanwhile.
        deaths.store(stored, &mut splitter)?;
        splitter.begin_waves(survey.end().expect("the columns are there"));
        deaths.store(stored, &mut splitter)?;
    }
    while !splitter.is_complete() {
        for row in rows {
            splitter.take(row.clone()).expect("no row ends the run");
            if splitter.step_is_full() || row.number % step_rows == 0 {
                deaths.store(stored, &mut splitter)?;
            }
        }
        splitter.end().expect("nothing is missing");
        while splitter.is_ending() {
            deaths.store(stored, &mut splitter)?;
        }
    }
    Ok(())
}

fn split(rows: &[Row], local: &Local, step_rows: u64, at: &[(u64, u8)]) -> Stored {
    let mut stored = Stored::default();
    let mut deaths = Deaths { at, steps: 0 };
    while !stored.complete {
        let _ = lease(rows, local, step_rows, &mut stored, &mut deaths, &[]);
    }
    stored
}

/// Rows of several zones, countries and sites, with repeats and bad ones.
fn audience(count: u64, random: &mut fastrand::Rng) -> Vec<Row> {
    let domains = ["gmail.com", "outlook.com", "gmx.de", "x.example"];
    let row = |number: u64| {
        let id = if random.u64(0..10) == 0 { random.u64(1..=number) } else { number };
        let user = format!("user{id}@{}", domains[(id % 4) as usize]);
        let country = ["de", "US", "jp"][random.usize(0..3)];
        let zone = ZONES[random.usize(0..ZONES.len())];
        let fields = match random.u64(0..12) {
            0 => json!({ "time_zone": "", "country": country }),
            1 => json!({ "time_zone": null }),
            2 => json!({ "time_zone": "Middle-earth/Shire" }),
            3 => json!({ "country": "ZZ" }),
            _ => {
                json!({ "time_zone": zone, "text": "y".repeat(random.usize(0..3_000)) })
            }
        };
        match random.u64(0..20) {
            0 => Row { number, recipient: Err(RowReason::new("it is bad")) },
            _ => row(number, &user, fields),
        }
    };
    (1..=count).map(row).collect()
}

/// When each is due, by the first good row of the key, worked out without a split.
fn expected(rows: &[Row], rule: &SendAtLocal) -> (BTreeMap<String, i64>, u64, u64) {
    let zones = Zones::bundled();
    let nominal: Timestamp = NOMINAL.parse().expect("an instant");
    let (mut people, mut bad, mut repeated, mut passed) = (BTreeMap::new(), 0, 0, BTreeSet::new());
    for row in rows {
        let Ok(one) = &row.recipient else {
            bad += 1;
            continue;
        };
        let text = |name: &str| one.fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let zone = match (text("time_zone"), text("country")) {
            (Some("Middle-earth/Shire"), _) | (None, Some("ZZ")) if rule.unknown_zone == UnknownZone::BadRow => {
                bad += 1;
                continue;
            }
            (Some(zone), _) if zone != "Middle-earth/Shire" => zone,
            (_, Some("US")) => "America/New_York",
            (_, Some("jp")) => "Asia/Tokyo",
            _ => "Europe/Berlin",
        };
        if people.contains_key(&one.key) || passed.contains(&one.key) {
            repeated += 1;
            continue;
        }
        let zone = zones.get(zone).expect("a zone");
        let on = |day: i8| {
            let clock = jiff::civil::date(2026, 3, day).to_datetime(Time::constant(8, 0, 0, 0));
            zone.to_ambiguous_timestamp(clock).compatible().expect("an instant")
        };
        let today = on(29);
        let at = match rule.passed {
            _ if today >= nominal => today,
            Passed::NextDay => [on(30), on(31)].into_iter().find(|at| *at >= nominal).expect("by then"),
            Passed::AtOnce => nominal,
            Passed::Skip => {
                passed.insert(one.key.clone());
                bad += 1;
                continue;
            }
        };
        people.insert(one.key.clone(), at.as_millisecond());
    }
    (people, bad, repeated)
}

fn check(stored: &Stored, rows: &[Row], rule: &SendAtLocal) {
    let (people, bad, repeated) = expected(rows, rule);
    assert_eq!(stored.people(), people);
    assert_eq!((stored.bad_rows, stored.repeated_rows), (bad, repeated));
    let instants: Vec<i64> = stored.batches.iter().map(|batch| batch.not_before_ms).collect();
    assert!(instants.is_sorted(), "one wave after the other");
}

#[test]
fn everybody_is_in_one_batch_of_the_own_wave() {
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let passed = [Passed::NextDay, Passed::AtOnce, Passed::Skip][seed as usize % 3];
        let unknown_zone = [UnknownZone::BadRow, UnknownZone::Default][seed as usize % 2];
        let local = local(|rule| (rule.passed, rule.unknown_zone) = (passed, unknown_zone));
        let rows = audience(random.u64(1..1_500), &mut random);
        let whole = split(&rows, &local, 1 + random.u64(0..400), &[]);
        check(&whole, &rows, &local.rule);
        let full = whole.batches.iter().filter(|batch| batch.count as usize == BATCH_RECIPIENTS_MAX).count();
        assert!(full <= whole.batches.len());
    }
}

#[test]
fn a_death_at_any_step_neither_skips_nor_repeats_anybody() {
    for seed in 0..6 {
        let mut random = fastrand::Rng::with_seed(seed);
        let local = local(|rule| rule.passed = [Passed::NextDay, Passed::AtOnce, Passed::Skip][seed as usize % 3]);
        let rows = audience(400, &mut random);
        let whole = split(&rows, &local, 90, &[]);
        check(&whole, &rows, &local.rule);
        assert!(whole.steps > 20, "{}", whole.steps);
        for step in 1..=whole.steps {
            for how in [0, 1] {
                let broken = split(&rows, &local, 90, &[(step, how)]);
                assert_eq!(Stored { steps: whole.steps, ..broken }, whole, "seed {seed}: death {how} at step {step}");
            }
        }
        // And many at once.
        let mut deaths: Vec<(u64, u8)> =
            (1..whole.steps * 2).map(|at| (at, random.u8(0..4))).filter(|(_, how)| *how < 2).collect();
        deaths.dedup_by_key(|(at, _)| *at);
        let broken = split(&rows, &local, 90, &deaths);
        assert_eq!(Stored { steps: whole.steps, ..broken }, whole, "seed {seed}: deaths {deaths:?}");
    }
}

#[test]
fn who_is_erased_between_the_waves_is_told_and_not_placed() {
    let local = local(|_| ());
    let rows: Vec<Row> = (1..=60)
        .map(|number| {
            let zone = if number % 2 == 0 { "Europe/Berlin" } else { "America/New_York" };
            row(number, &format!("user{number}@x.example"), json!({ "time_zone": zone }))
        })
        .collect();
    let mut stored = Stored::default();
    // Dies within the first wave, with some of it among the open ones.
    let mut deaths = Deaths { at: &[(5, 1)], steps: 0 };
    assert_eq!(lease(&rows, &local, 10, &mut stored, &mut deaths, &[]), Err(()));
    let Position { waves, open } = Position::decode(&stored.open).expect("readable");
    assert!(waves.is_some_and(|waves| waves.pass == 0) && open.len() > 5);
    let erasing: Vec<Erasing> = ["user2@x.example", "user41@x.example", "user58@x.example"]
        .map(|user| {
            let id = "0123456789abcdef0123456789abcdef".parse().expect("an id");
            Erasing::new(id, &user.parse().expect("an address"))
        })
        .into();
    lease(&rows, &local, 10, &mut stored, &mut deaths, &erasing).expect("nobody dies");
    let people = stored.people();
    assert_eq!((people.len(), stored.bad_rows, stored.repeated_rows), (57, 3, 0));
    assert!(stored.complete && !people.contains_key("user2@x.example"));
}

/// Rows, and the code and a part of the message that the run fails with; or how many waves there are.
fn survey(
    rule: impl FnOnce(&mut SendAtLocal),
    on_bad_row: OnBadRow,
    fields: &[Value],
) -> Result<Waves, (String, String)> {
    let told = |error: ReadError| match error {
        ReadError::Run(error) => (error.code, format!("{}; {}", error.message, error.mend)),
        ReadError::Storage(error) => panic!("{error}"),
    };
    let mut survey =
        Survey::begin(&local(rule), nominal_ms(), &Zones::bundled(), on_bad_row, Vec::new()).map_err(told)?;
    for (number, fields) in (1..).zip(fields) {
        survey.take(row(number, &format!("user{number}@x.example"), fields.clone())).map_err(told)?;
    }
    survey.end().map(|surveyed| surveyed.waves).map_err(told)
}

#[test]
fn columns_that_no_row_has_fail_the_run() {
    let named = |rule: &mut SendAtLocal| rule.zone = Some("zone".to_owned());
    let rows = [json!({ "timezone": "Europe/Berlin" }), json!({})];
    let fails = |result: Result<Waves, (String, String)>, part: &str| {
        let (code, text) = result.expect_err("it fails");
        assert!(code == "audience_column_missing" && text.contains(part), "{code}: {text}");
    };
    fails(survey(|_| (), OnBadRow::Skip, &rows), "'time_zone' (send_at_local.zone); did you mean 'timezone'?");
    fails(survey(named, OnBadRow::Skip, &rows), "'zone' (send_at_local.zone)");
    let country = |rule: &mut SendAtLocal| rule.country = Some("land".to_owned());
    fails(survey(country, OnBadRow::Skip, &[json!({ "time_zone": "UTC" })]), "'land' (send_at_local.country)");
    // One of the two that need not be named is enough, and nobody need have anything in it.
    for fields in [json!({ "country": "" }), json!({ "time_zone": null })] {
        let waves = survey(|_| (), OnBadRow::Skip, &[fields]).expect("goes on");
        assert_eq!((waves.waves.len(), waves.found), (1, 1));
    }
    assert_eq!(survey(named, OnBadRow::Skip, &[]).expect("nobody is nobody").waves, []);
}

#[test]
fn a_zone_that_nobody_knows_is_a_bad_row_or_none() {
    let rows = [json!({ "time_zone": "Europe/Berln" }), json!({ "time_zone": 7 }), json!({ "time_zone": "UTC" })];
    let (code, text) = survey(|_| (), OnBadRow::Fail, &rows).expect_err("fails");
    assert!(code == "bad_row" && text.contains("row 1: ") && text.contains("the nearest is Europe/Berlin"), "{text}");
    assert!(!text.contains("Berln"), "what a row says is not repeated: {text}");
    let waves = survey(|_| (), OnBadRow::Skip, &rows).expect("goes on");
    assert_eq!((waves.found, waves.bad_rows, waves.rows), (1, 2, 3));
    let waves = survey(|rule| rule.unknown_zone = UnknownZone::Default, OnBadRow::Fail, &rows).expect("goes on");
    assert_eq!((waves.found, waves.bad_rows, waves.waves.len()), (3, 0, 2));
    let (code, text) = survey(|rule| rule.default_zone = "Europe/Berln".into(), OnBadRow::Skip, &rows).expect_err("no");
    assert!(code == "send_at_local" && text.contains("the nearest is Europe/Berlin"), "{text}");
}

#[test]
fn an_audience_that_is_longer_or_shorter_in_a_later_pass_fails_the_run() {
    let mut random = fastrand::Rng::with_seed(1);
    let (rows, local) = (audience(50, &mut random), local(|_| ()));
    for other in [audience(49, &mut random), audience(51, &mut random)] {
        let mut stored = Stored::default();
        let mut deaths = Deaths { at: &[(2, 1)], steps: 0 };
        assert_eq!(lease(&rows, &local, 1_000, &mut stored, &mut deaths, &[]), Err(()));
        let mut splitter = Splitter::resume(&stored.lease(), Arc::default(), OnBadRow::Skip, Vec::new(), Some(&local))
            .expect("readable");
        other.into_iter().for_each(|row| splitter.take(row).expect("taken"));
        assert!(matches!(splitter.end(), Err(ReadError::Run(error)) if error.code == "audience_changed"));
    }
}

#[test]
fn a_position_is_read_as_it_was_written_and_damage_is_noticed() {
    let open = vec![recipient("ada@x.example", json!({ "time_zone": "UTC" }))];
    let rows = [json!({ "time_zone": "UTC" }), json!({ "country": "JP" })];
    let waves = survey(|_| (), OnBadRow::Skip, &rows).expect("two");
    for (waves, open) in [(None, vec![]), (None, open.clone()), (Some(waves.clone()), vec![]), (Some(waves), open)] {
        let bytes = Position::encode(waves.as_ref(), &open);
        assert_eq!(Position::decode(&bytes).expect("readable"), Position { waves: waves.clone(), open });
        if waves.is_some() {
            for cut in [9, 12, 20] {
                assert!(Position::decode(&bytes[..cut]).is_err(), "cut at {cut}");
            }
        }
    }
}
