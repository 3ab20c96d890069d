//! Random comparison of suppressing: the set itself, and recipients of batches in any place.

use super::Fixture;
use super::random::{Driver, both, counts, model_counts};
use crate::api::{Suppress, SuppressRecipients, SuppressedRecipients, Suppressing, SuppressionChange};
use crate::embedded::model::Model;
use postrider_common::suppression::{SuppressionKey, SuppressionReason};

/// A number that the set never comes to.
pub(super) const LATER: u64 = 1 << 52;
const SCOPES: [&str; 4] = ["all", "lane:bulk", "campaign:news", "lane:transactional"];

pub(super) fn reason(driver: &mut Driver) -> SuppressionReason {
    SuppressionReason::ALL[driver.random.usize(0..SuppressionReason::ALL.len())]
}

/// Of few subjects, so that they meet; some share a bucket.
fn key(driver: &mut Driver) -> SuppressionKey {
    let mut key = [0; SuppressionKey::BYTES];
    (key[1], key[11]) = (driver.random.u8(0..2), driver.random.u8(0..4));
    SuppressionKey(key)
}

fn change(driver: &mut Driver) -> SuppressionChange {
    let key = key(driver);
    let scope = SCOPES[driver.random.usize(0..SCOPES.len())].parse().unwrap();
    match driver.random.u8(0..8) {
        0 => SuppressionChange::Remove { key, scope: Some(scope) },
        1 => SuppressionChange::Remove { key, scope: None },
        2 => SuppressionChange::Unname { key },
        _ => {
            let names: [&[u8]; 3] = [b"", b"a@b|c;d=1", &[0, 255, b'\n']];
            let subject = names[driver.random.usize(0..names.len())].to_vec();
            let at_ms = Some(driver.random.i64(0..1000));
            SuppressionChange::Add { key, scope, reason: reason(driver), at_ms, subject }
        }
    }
}

pub(super) async fn suppress(fixture: &impl Fixture, model: &mut Model, driver: &mut Driver) {
    let store = fixture.store();
    let check = if driver.random.u8(0..12) == 0 { "other" } else { "own" };
    let changes = (0..driver.random.u8(0..5)).map(|_| change(driver)).collect();
    let suppress = Suppress { check: check.to_owned(), changes };
    // The number is of the instant.
    let same = |answer: &Suppressing| match answer {
        Suppressing::Done { number, changed } => Some((*number > 0, *changed)),
        Suppressing::OtherKey => None,
    };
    let call = store.suppress(suppress.clone());
    both!(fixture, *model, "suppress", call, |m: &mut Model, now| m.suppress(now, suppress.clone()), same);
    let after = driver.random.bool().then(|| key(driver));
    let limit = driver.random.usize(1..10);
    assert_eq!(store.suppressions_after(after, limit).await.unwrap(), model.suppressions_after(after, limit));
    let keys = [key(driver), key(driver), key(driver)];
    assert_eq!(store.suppressions_of(&keys).await.unwrap(), model.suppressions_of(&keys));
    let (ours, theirs) = (store.suppression_set().await.unwrap(), model.suppression_set());
    assert_eq!((ours.count, ours.check), (theirs.count, theirs.check));
}

pub(super) async fn recipients(fixture: &impl Fixture, model: &mut Model, driver: &mut Driver) {
    let store = fixture.store();
    let leased = driver.leases.iter().rev().take(6).cloned().collect::<Vec<_>>();
    let (batch, fence, count) = match driver.random.u8(0..4) {
        0 => {
            let batches = model.batches(&driver.run(), 0, 100_000);
            let Some(batch) = batches.get(driver.random.usize(0..batches.len().max(1))) else { return };
            (batch.id.clone(), None, batch.recipients.len() as u32)
        }
        _ => {
            let Some((batch, fence, count)) = leased.get(driver.random.usize(0..leased.len().max(1))) else { return };
            (batch.clone(), Some(fence.clone()), *count)
        }
    };
    let found = (0..count + 1).filter(|_| driver.random.u8(0..6) == 0).collect::<Vec<_>>();
    let recipients = found.into_iter().map(|index| (index, reason(driver))).collect();
    let checked = if driver.random.u8(0..4) == 0 { 1 } else { LATER };
    let found = SuppressRecipients { batch, fence, checked, recipients };
    let call = store.suppress_recipients(found.clone());
    let apply = |m: &mut Model, now| m.suppress_recipients(now, found.clone());
    let answer = both!(fixture, *model, "suppress_recipients", call, apply, |a: &SuppressedRecipients| a.clone());
    if let SuppressedRecipients::Done { ended } = answer {
        driver.suppressed += ended.len() as u64;
    }
}
