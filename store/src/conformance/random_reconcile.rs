//! The reconciler among random calls: whatever these made of the store, there is nothing to repair.

use super::Fixture;
use super::random::{Driver, both, counts, model_counts};
use crate::api::{Reconcile, Reconciled};
use crate::embedded::model::Model;

/// Some steps, each as another caller would make it.
pub(super) async fn reconcile(fixture: &impl Fixture, model: &mut Model, driver: &mut Driver) {
    let store = fixture.store();
    for _ in 0..driver.random.u8(1..6) {
        let reconcile = Reconcile { interval_ms: 0, batches_max: driver.random.u32(1..20), doubt_grace_ms: 15 };
        let call = store.reconcile(reconcile);
        // How far a step gets is another matter: indexes are proved apart, where there are any.
        let same = |a: &Reconciled| a.repairs.clone();
        let step = both!(fixture, *model, "reconcile", call, |m: &mut Model, now| m.reconcile(now, reconcile), same);
        assert_eq!(step.repairs, [], "nobody did any harm");
    }
}
