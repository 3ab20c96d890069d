//! Random shares of a relay, compared.

use super::Fixture;
use super::random::{Driver, TTL_MS, both, counts, model_counts};
use super::scene::worker;
use crate::api::ShareRelay;
use crate::embedded::model::Model;
use postrider_common::relay::{RelayLimit, RelayShare, RelayWish};

/// Workers that disagree about a relay, seldom call in the order of their numbers, and want any number.
pub(super) async fn share(fixture: &impl Fixture, model: &mut Model, driver: &mut Driver) {
    let number = driver.random.u8(1..4);
    let limit = [(36_000, 2, 4), (0, 0, 7), (72_000, 5, 0)][usize::from(number) - 1];
    driver.requests += 1;
    let wish = RelayWish {
        relay: "out".parse().expect("a relay name"),
        limit: RelayLimit::of_numbers(limit.0, limit.1, limit.2).expect("a limit"),
        held: driver.random.u32(0..3),
        wanted: driver.random.u32(0..6),
        sends: driver.random.u32(0..4),
    };
    let sequence = driver.requests - driver.random.u64(0..3).min(driver.requests - 1);
    let share = ShareRelay { worker: worker(number), sequence, wish, ttl_ms: TTL_MS };
    let same = |a: &RelayShare| (a.connections, a.sends, a.retry_in_ms > 0);
    let store = fixture.store();
    let call = store.share_relay(share.clone());
    let got = both!(fixture, *model, "share_relay", call, |m: &mut Model, now| m.share_relay(now, share.clone()), same);
    driver.shared += u64::from(got.connections > 0 && got.retry_in_ms > 0);
}
