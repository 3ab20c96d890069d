//! Random comparison of forgetting: runs that are gone, in steps, and are created anew under the same id.

use super::Fixture;
use super::random::{Driver, both, counts, model_counts};
use crate::api::{ForgetRun, ForgottenRun, NewRun};
use crate::embedded::model::Model;
use postrider_common::ids::RunId;

pub(super) async fn forget(fixture: &impl Fixture, model: &mut Model, driver: &mut Driver, new: &NewRun) {
    let store = fixture.store();
    let forget = ForgetRun {
        run: new.id.clone(),
        keep_ms: if driver.random.u8(0..4) == 0 { 3_600_000 } else { 0 },
        keep_dead_ms: driver.random.bool().then_some(0),
        limit: driver.random.usize(0..4),
    };
    let ended = model.run(&new.id).map(|run| (run, model.batches(&new.id, 0, 100_000)));
    let call = store.forget_run(forget.clone());
    let apply = |m: &mut Model, now| m.forget_run(now, forget.clone());
    let answer = both!(fixture, *model, "forget_run", call, apply, |a: &ForgottenRun| *a);
    if let (ForgottenRun::Step { .. }, Some(ended)) = (answer, ended) {
        driver.forgotten.push(ended);
    }
    // Those that ended within the error of the model's clock may come in another order.
    let sorted = |mut runs: Vec<RunId>| {
        runs.sort();
        runs
    };
    assert_eq!(sorted(store.runs_to_forget(1_000).await.unwrap()), sorted(model.runs_to_forget(1_000)));
    let names = |left: Vec<crate::LeftSegment>| {
        let mut names: Vec<String> = left.into_iter().map(|left| left.name).collect();
        names.sort();
        names
    };
    assert_eq!(names(store.left_segments(1000).await.unwrap()), names(model.left_segments(1000)));
    let call = store.create_run(new.clone());
    both!(fixture, *model, "create_run", call, |m: &mut Model, now| m.create_run(now, new.clone()), |a: &_| *a);
}
