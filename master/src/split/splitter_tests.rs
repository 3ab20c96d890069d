use super::*;
use crate::audience::RowReason;
use serde_json::{Map, json};

/// A store that keeps a split's position and its batches.
#[derive(Debug, Clone, Default)]
struct Stored {
    cursor: u64,
    sequence_max: u64,
    open: Vec<u8>,
    bad_rows: u64,
    repeated_rows: u64,
    samples: Vec<u64>,
    batches: Vec<NewBatch>,
    complete: bool,
}

impl Stored {
    fn lease(&self) -> SplitLease {
        SplitLease {
            run: RunId::derive("campaign/x", "1"),
            fence: Fence { epoch: 1, counter: 1, nonce: 1 },
            ttl_ms: 1000,
            cursor: self.cursor,
            sequence_max: self.sequence_max,
            open: self.open.clone(),
            bad_rows: self.bad_rows,
            repeated_rows: self.repeated_rows,
        }
    }

    fn add(&mut self, add: AddBatches) {
        assert_eq!(add.cursor, self.cursor, "compared and set");
        assert!(add.batches.len() <= SPLIT_STEP_BATCHES_MAX);
        assert!(!self.complete);
        for batch in add.batches {
            assert_eq!(batch.sequence, self.sequence_max + 1);
            self.sequence_max += 1;
            self.batches.push(batch);
        }
        self.cursor = add.cursor_next;
        self.open = add.open;
        (self.bad_rows, self.repeated_rows, self.complete) = (add.bad_rows, add.repeated_rows, add.complete);
        self.samples.extend(add.bad_row_samples.iter().map(|row| row.row));
        assert!(!self.complete || self.open.is_empty());
    }
}

/// Rows of several sites, with repeats and bad ones.
fn audience(count: u64, random: &mut fastrand::Rng) -> Vec<Row> {
    let domains = ["gmail.com", "outlook.com", "yahoo.com", "icloud.com", "gmx.de", "proton.me", "x.example"];
    let row = |number| {
        let repeat = random.u64(0..10) == 0;
        let id = if repeat { random.u64(1..=number) } else { number };
        let address = format!("user{id}@{}", domains[(id % 7) as usize]);
        let heavy = if random.u64(0..50) == 0 { "y".repeat(20_000) } else { String::new() };
        let mut fields = Map::new();
        fields.insert("n".into(), json!(id));
        fields.insert("text".into(), json!(heavy));
        let recipient = match random.u64(0..20) {
            0 => Err(RowReason::new("it is bad")),
            _ => {
                let address: postrider_common::Address = address.parse().expect("an address");
                Ok(Recipient { key: address.normalised(), address, fields })
            }
        };
        Row { number, recipient }
    };
    (1..=count).map(row).collect()
}

/// Splits with a step after every `step_rows` rows, dying at the rows of `crashes`: before the step's
/// answer, or before the step.
fn split(rows: &[Row], step_rows: u64, crashes: &[(u64, bool)]) -> Stored {
    let mut stored = Stored::default();
    let mut crashes = crashes.iter().copied().peekable();
    'leases: while !stored.complete {
        let mut splitter =
            Splitter::resume(&stored.lease(), Arc::default(), OnBadRow::Skip, Vec::new()).expect("a readable position");
        for row in rows {
            splitter.take(row.clone()).expect("no row ends the run");
            if splitter.is_behind_position() {
                continue;
            }
            let crash = crashes.next_if(|(at, _)| *at <= row.number);
            if matches!(crash, Some((_, false))) {
                continue 'leases;
            }
            if splitter.step_is_full() || row.number % step_rows == 0 || crash.is_some() {
                stored.add(splitter.step(1000));
            }
            if crash.is_some() {
                continue 'leases;
            }
        }
        splitter.end().expect("nothing is missing");
        while !splitter.is_complete() {
            stored.add(splitter.step(1000));
            if crashes.next().is_some() {
                continue 'leases;
            }
        }
    }
    stored
}

#[test]
fn any_crash_and_any_step_give_the_same_batches() {
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let rows = audience(random.u64(0..3000), &mut random);
        let whole = split(&rows, u64::MAX, &[]);
        let mut crashes: Vec<(u64, bool)> =
            (0..random.usize(0..8)).map(|_| (random.u64(1..3000), random.bool())).collect();
        crashes.sort_unstable();
        let broken = split(&rows, random.u64(1..500), &crashes);
        assert_eq!(broken.batches, whole.batches, "seed {seed}");
        let counts = |s: &Stored| (s.bad_rows, s.repeated_rows, s.samples.clone());
        assert_eq!(counts(&broken), counts(&whole), "seed {seed}");
        check_against_rows(&rows, &whole);
    }
}

/// Every key once, in batches of one site and within the limits.
fn check_against_rows(rows: &[Row], stored: &Stored) {
    let sites = SiteTable::default();
    let mut keys: Vec<String> = Vec::new();
    for batch in &stored.batches {
        let recipients = payload::decode(&batch.payload).expect("decodes");
        assert_eq!(recipients.len(), batch.count as usize);
        assert!((1..=BATCH_RECIPIENTS_MAX).contains(&recipients.len()));
        assert!(recipients.len() == 1 || recipients.iter().map(weight).sum::<usize>() <= BATCH_BYTES_MAX);
        for recipient in recipients {
            assert_eq!(sites.site_of(&recipient.address.domain()), batch.site);
            keys.push(recipient.key);
        }
    }
    let count = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), count, "nobody twice");
    let mut expected: Vec<String> =
        rows.iter().filter_map(|row| row.recipient.as_ref().ok()).map(|r| r.key.clone()).collect();
    let good = expected.len() as u64;
    expected.sort_unstable();
    expected.dedup();
    assert_eq!(keys, expected, "nobody lost");
    assert_eq!(stored.repeated_rows, good - count as u64);
    assert_eq!(stored.bad_rows, rows.len() as u64 - good);
}

#[test]
fn an_empty_audience_completes_with_nothing() {
    let stored = split(&[], 1, &[]);
    assert!(stored.complete && stored.batches.is_empty() && stored.cursor == 0);
}

#[test]
fn samples_of_bad_rows_are_capped_and_all_are_counted() {
    let bad = |number| Row { number, recipient: Err(RowReason::new("bad")) };
    let rows: Vec<Row> = (1..=1500).map(bad).collect();
    let stored = split(&rows, 100, &[(300, true), (700, false)]);
    assert_eq!((stored.bad_rows, stored.samples.len()), (1500, BAD_ROWS_KEPT_MAX));
    assert_eq!(stored.samples, (1..=1000).collect::<Vec<u64>>());
}

#[test]
fn a_bad_row_can_fail_the_run() {
    let mut splitter = Splitter::resume(&Stored::default().lease(), Arc::default(), OnBadRow::Fail, Vec::new())
        .expect("a readable position");
    let error = splitter.take(Row { number: 7, recipient: Err(RowReason::new("it has no @")) }).expect_err("fails");
    let ReadError::Run(error) = error else { panic!("{error:?}") };
    assert_eq!((error.code.as_str(), error.message.as_str()), ("bad_row", "row 7: it has no @"));
}

#[test]
fn a_shorter_audience_than_before_fails_the_run() {
    let stored = Stored { cursor: 5, ..Stored::default() };
    let mut splitter = Splitter::resume(&stored.lease(), Arc::default(), OnBadRow::Skip, Vec::new()).expect("readable");
    assert!(matches!(splitter.end(), Err(ReadError::Run(error)) if error.code == "audience_changed"));
}

#[test]
fn a_position_that_cannot_be_read_fails_the_run() {
    let lease = SplitLease { open: vec![1, 2, 3], ..Stored::default().lease() };
    let error = Splitter::resume(&lease, Arc::default(), OnBadRow::Skip, Vec::new()).expect_err("unreadable");
    assert!(matches!(error, ReadError::Run(error) if error.code == "split_position"));
}

#[test]
fn what_is_open_is_bounded_whatever_the_number_of_sites() {
    let mut sites = SiteTable::default();
    for n in 0..60 {
        sites.add(&format!("s{n}"), &[format!("s{n}.example")]).expect("a site");
    }
    let mut splitter =
        Splitter::resume(&Stored::default().lease(), Arc::new(sites), OnBadRow::Skip, Vec::new()).expect("readable");
    for number in 1..=600 {
        let address: postrider_common::Address = format!("u{number}@s{}.example", number % 60).parse().expect("good");
        let mut fields = Map::new();
        fields.insert("text".into(), json!("x".repeat(60_000)));
        let row = Row { number, recipient: Ok(Recipient { key: address.normalised(), address, fields }) };
        splitter.take(row).expect("taken");
        assert!(splitter.open_bytes <= SPLIT_OPEN_BYTES_MAX);
        assert!(splitter.ready.len() <= SPLIT_STEP_BATCHES_MAX);
        if splitter.step_is_full() {
            splitter.step(1);
        }
    }
}

#[test]
fn who_is_being_erased_is_left_out_wherever_it_stands() {
    let erasing = || {
        let id = "0123456789abcdef0123456789abcdef".parse().expect("an id");
        vec![Erasing::new(id, &"user7@x.example".parse().expect("an address"))]
    };
    let row = |number: u64, user: u64| {
        let address: postrider_common::Address = format!("User{user}@x.example").parse().expect("an address");
        let fields = Map::from_iter([("by".to_owned(), json!("user7@x.example"))]);
        Row { number, recipient: Ok(Recipient { key: address.normalised(), address, fields }) }
    };
    let mut stored = Stored::default();
    // The first one did not know of it yet, and has it among its open rows.
    let mut before =
        Splitter::resume(&stored.lease(), Arc::default(), OnBadRow::Fail, Vec::new()).expect("a readable position");
    (1..=10).for_each(|number| before.take(row(number, number)).expect("taken"));
    stored.add(before.step(1));
    let mut after = Splitter::resume(&stored.lease(), Arc::default(), OnBadRow::Fail, erasing()).expect("readable");
    for (number, user) in (1..).zip([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 7, 12]) {
        after.take(row(number, user)).expect("no row fails the run");
    }
    after.take(Row { number: 14, recipient: Err(RowReason::erased()) }).expect("no row fails the run");
    after.end().expect("nothing is missing");
    stored.add(after.step(1));
    let recipients: Vec<Recipient> =
        stored.batches.iter().flat_map(|batch| payload::decode(&batch.payload).expect("decodes")).collect();
    assert_eq!(recipients.len(), 11);
    assert!(recipients.iter().all(|one| !format!("{one:?}").to_lowercase().contains("user7@")));
    // The one that was open, and the one that was erased; the second row of the same key is a repeat.
    assert_eq!((stored.bad_rows, stored.repeated_rows, stored.samples), (2, 1, vec![14]));
    assert!(stored.complete);
}

#[test]
fn a_run_has_a_limit_of_recipients_and_repeats_do_not_count() {
    let mut splitter =
        Splitter::resume(&Stored::default().lease(), Arc::default(), OnBadRow::Skip, Vec::new()).expect("readable");
    splitter.recipients_max = 2;
    let row = |number: u64, user: u64| {
        let address: postrider_common::Address = format!("user{user}@x.example").parse().expect("an address");
        Row { number, recipient: Ok(Recipient { key: address.normalised(), address, fields: Map::new() }) }
    };
    for (number, user) in (1..).zip([1, 2, 2, 1]) {
        splitter.take(row(number, user)).expect("two people");
    }
    let error = splitter.take(row(5, 3)).expect_err("a third");
    let ReadError::Run(error) = error else { panic!("{error:?}") };
    assert_eq!(error.code, "audience_too_many");
    assert!(error.message.contains("row 5: a run has at most 2 recipients"), "{}", error.message);
}
