//! Random comparison of a store that went back in time.

use super::Fixture;
use super::random::{Driver, both, counts, model_counts};
use crate::api::{Compare, Compared, Found};
use crate::embedded::model::Model;
use postrider_common::mark::{Mark, Marks};

/// Seldom, a mark that is not covered: both go back in time, by their own count of what they acknowledged.
pub(super) async fn went_back(fixture: &impl Fixture, model: &mut Model, driver: &mut Driver) {
    if driver.random.u8(0..8) != 0 {
        return;
    }
    let store = fixture.store();
    let ahead = |mark: Mark| Mark { sequence: mark.sequence + 1, ..mark };
    let same = |a: &Compared| (matches!(a.found, Found::WentBack { .. }), a.mark.epoch, a.rollbacks, a.is_stopped);
    let at = store.compare(Compare { marks: Marks::default(), confirm: true }).await.unwrap()[0].mark;
    let marks = Marks::from_iter([ahead(at)]);
    let call = async { store.compare(Compare { marks, confirm: false }).await.map(|mut all| all.remove(0)) };
    let apply = |m: &mut Model, now| m.compare(now, (vec![ahead(m.mark())], false));
    both!(fixture, *model, "compare", call, apply, same);
    driver.rollbacks += 1;
}
