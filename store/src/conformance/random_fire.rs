//! Random comparison of schedules.

use super::Fixture;
use super::fire::{of_schedule, plan, scheduled};
use super::random::{Driver, FIRED, LONGEST_MS, RUNS, both, counts, model_counts, numbered};
use super::split::campaign;
use crate::api::{CampaignRecord, Fire, Fired, Scheduled, SkipReason, Skipped};
use crate::embedded::model::Model;
use postrider_common::ids::CampaignName;

const CAMPAIGNS: [&str; 2] = ["digest", "news"];

/// What does not depend on the instant.
fn plain(record: Option<CampaignRecord>) -> Option<CampaignRecord> {
    let steady = |schedule: Scheduled| Scheduled {
        stamp: 0,
        decided_until_ms: 0,
        active_since_ms: 0,
        last_fired: schedule.last_fired.map(|fired| crate::FiredRun { at_ms: 0, ..fired }),
        ..schedule
    };
    record.map(|record| CampaignRecord { applied_at_ms: 0, schedule: record.schedule.map(steady), ..record })
}

/// Something that concerns the schedule of a campaign.
pub(super) async fn step(fixture: &impl Fixture, model: &mut Model, driver: &mut Driver) {
    let store = fixture.store();
    let name: CampaignName = CAMPAIGNS[driver.random.usize(0..CAMPAIGNS.len())].parse().unwrap();
    match driver.random.u8(0..16) {
        0..3 => {
            let texts = ["daily", "weekly"];
            let (spec, schedule) = (texts[driver.random.usize(0..2)], texts[driver.random.usize(0..2)]);
            let apply = match driver.random.u8(0..8) {
                0 => campaign(name.as_str(), spec),
                _ => scheduled(name.as_str(), spec, schedule),
            };
            let call = store.apply_campaign(apply.clone());
            let act = |m: &mut Model, now| m.apply_campaign(now, apply.clone());
            both!(fixture, *model, "apply_campaign", call, act, |a: &_| *a);
        }
        3 | 4 => {
            let set = (name.clone(), driver.random.u8(0..3) == 0);
            let call = store.set_campaign_paused(&set.0, set.1);
            let act = |m: &mut Model, now| m.set_campaign_paused(now, set.clone());
            both!(fixture, *model, "set_campaign_paused", call, act, |a: &_| *a);
        }
        5 if driver.random.u8(0..4) == 0 => {
            let call = store.delete_campaign(&name);
            let act = |m: &mut Model, now| m.delete_campaign(now, name.clone());
            both!(fixture, *model, "delete_campaign", call, act, |a: &_| *a);
        }
        5 | 6 => {
            let names = |due: &crate::DueSchedules| {
                let mut names: Vec<_> = due.campaigns.iter().map(|record| record.name.clone()).collect();
                names.sort();
                names
            };
            let call = store.due_schedules(10);
            both!(fixture, *model, "due_schedules", call, |m: &mut Model, now| m.due_schedules(now, 10), names);
        }
        _ => fire(fixture, model, driver, &name).await,
    }
    assert_eq!(plain(store.campaign(&name).await.unwrap()), plain(model.campaign(&name)));
}

async fn fire(fixture: &impl Fixture, model: &mut Model, driver: &mut Driver, name: &CampaignName) {
    let store = fixture.store();
    let (Some(ours), Some(theirs)) = (store.campaign(name).await.unwrap(), model.campaign(name)) else { return };
    // When it was noticed that the store went back is not the same instant for both.
    if driver.rollbacks > 0 {
        fixture.pass(LONGEST_MS.load(std::sync::atomic::Ordering::Relaxed).unsigned_abs() + 1).await;
    }
    let now = store.now_ms().await.unwrap();
    // Seldom of what is to come. Never so near to now that the instant decides.
    let until = if driver.random.u8(0..12) == 0 { now + 3_600_000 } else { now };
    let is_stale = driver.random.u8(0..8) == 0;
    let mut skipped = Vec::new();
    for reason in SkipReason::ALL {
        if driver.random.u8(0..4) == 0 {
            let (count, why) = (driver.random.u64(1..9), reason.name().to_owned());
            skipped.push(Skipped { reason, count, nominal_at_ms: now, why });
        }
    }
    let fired = driver.random.u64(RUNS..RUNS + FIRED);
    let run = driver.random.bool().then(|| of_schedule(numbered(fired), name.as_str(), until));
    let cancel =
        (run.is_some() && driver.random.u8(0..6) == 0).then(|| numbered(driver.random.u64(0..RUNS + FIRED)).id);
    let cancel = cancel.filter(|id| run.as_ref().is_some_and(|run| run.id != *id));
    let look_at_ms = (driver.random.u8(0..4) != 0).then(|| now - 1000 + i64::from(driver.random.u8(0..2)) * 3_600_000);
    let call = plan(&ours, until);
    let call = Fire { due_at_ms: look_at_ms, look_at_ms, skipped, run, cancel, ..call };
    let of = |record: &CampaignRecord| {
        let stamp = record.schedule.as_ref().map_or(0, |schedule| schedule.stamp);
        Fire { stamp: if is_stale { stamp.wrapping_sub(1) } else { stamp }, ..call.clone() }
    };
    let (ours, theirs) = (of(&ours), of(&theirs));
    for again in [false, true] {
        if again && driver.random.u8(0..4) != 0 {
            break;
        }
        let call = store.fire(ours.clone());
        let fired = both!(fixture, *model, "fire", call, |m: &mut Model, now| m.fire(now, theirs.clone()), |a: &_| *a);
        driver.fired += u64::from(fired == Fired::Done && ours.run.is_some());
    }
}
