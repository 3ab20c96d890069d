//! Random comparison of erasing: recipients of batches in any place, and splits under way.

use super::Fixture;
use super::random::{Driver, both, counts, model_counts};
use crate::api::{EraseRecipients, EraseRun, ErasedRecipients, ErasedRun, Replace};
use crate::embedded::model::Model;

pub(super) async fn erase(fixture: &impl Fixture, model: &mut Model, driver: &mut Driver) {
    let store = fixture.store();
    let run = driver.run();
    if driver.random.u8(0..4) == 0 {
        // Seldom what is stored.
        let open = driver.random.bool().then(|| Replace { from: vec![driver.random.u8(0..4); 3], to: vec![9] });
        let from = model.run(&run).map_or(Vec::new(), |record| record.audience);
        let audience = driver.random.bool().then(|| Replace { from, to: vec![driver.random.u8(..)] });
        let erase = EraseRun { run, audience, open };
        let call = store.erase_run(erase.clone());
        let apply = |m: &mut Model, now| m.erase_run(now, erase.clone());
        let answer = both!(fixture, *model, "erase_run", call, apply, |a: &ErasedRun| a.clone());
        driver.erased += u64::from(matches!(answer, ErasedRun::Done { .. }));
        return;
    }
    let batches = model.batches(&run, 0, 100_000);
    if batches.is_empty() {
        return;
    }
    let batch = &batches[driver.random.usize(0..batches.len())];
    let some = |driver: &mut Driver, one_in: u8| -> Vec<u32> {
        (0..batch.recipients.len() as u32).filter(|_| driver.random.u8(0..one_in) == 0).collect()
    };
    let mut known = batch.erased.clone();
    let mut payload = if batch.is_retired() { Vec::new() } else { vec![7, driver.random.u8(..)] };
    match driver.random.u8(0..12) {
        0 => known = some(driver, 3),
        1 => payload.clear(),
        2 => payload = vec![8],
        _ => (),
    }
    let (recipients, details) = (some(driver, 3), some(driver, 5));
    let erase = EraseRecipients { batch: batch.id.clone(), known, recipients, details, payload };
    let call = store.erase_recipients(erase.clone());
    let apply = |m: &mut Model, now| m.erase_recipients(now, erase.clone());
    let answer = both!(fixture, *model, "erase_recipients", call, apply, |a: &ErasedRecipients| *a);
    if let ErasedRecipients::Done { ended } = answer {
        driver.erased += u64::from(ended);
    }
}
