//! Schedules: each occurrence is decided once.

use super::Fixture;
use super::rollback::{go_back, wait_for_reports};
use super::scene::{Scene, new_run, request};
use super::split::campaign;
use crate::api::{
    ApplyCampaign, CampaignRecord, Fire, Fired, FiredRun, NewRun, Scheduled, SkipReason, Skipped, Steered,
};
use postrider_common::run::RunState;

const FAR_MS: i64 = 3_600_000;

pub(super) fn scheduled(name: &str, spec: &str, schedule: &str) -> ApplyCampaign {
    let spec = format!("{spec} {schedule}");
    ApplyCampaign { schedule: schedule.as_bytes().to_vec(), ..campaign(name, &spec) }
}

pub(super) fn of_schedule(run: NewRun, campaign: &str, nominal_at_ms: i64) -> NewRun {
    NewRun { campaign: campaign.to_owned(), requires_campaign: true, nominal_at_ms: Some(nominal_at_ms), ..run }
}

/// Decides about nothing more than before.
pub(super) fn plan(record: &CampaignRecord, decided_until_ms: i64) -> Fire {
    Fire {
        campaign: record.name.clone(),
        request: request().0,
        stamp: record.schedule.as_ref().map_or(0, |schedule| schedule.stamp),
        decided_until_ms,
        due_at_ms: Some(decided_until_ms + FAR_MS),
        look_at_ms: Some(decided_until_ms + FAR_MS),
        zones: "2026e".to_owned(),
        skipped: Vec::new(),
        run: None,
        cancel: None,
    }
}

async fn record(fixture: &impl Fixture) -> CampaignRecord {
    fixture.store().campaign(&"digest".parse().unwrap()).await.unwrap().expect("it is there")
}

async fn standing(fixture: &impl Fixture) -> Scheduled {
    record(fixture).await.schedule.expect("it has a schedule")
}

/// A campaign with a schedule; now, a little later.
async fn begin(fixture: &impl Fixture) -> i64 {
    fixture.store().apply_campaign(scheduled("digest", "one", "daily")).await.unwrap();
    fixture.pass(10).await;
    fixture.store().now_ms().await.unwrap()
}

async fn fire(fixture: &impl Fixture, fire: Fire) -> Fired {
    fixture.store().fire(fire).await.unwrap()
}

async fn due(fixture: &impl Fixture) -> Vec<String> {
    let due = fixture.store().due_schedules(100).await.unwrap();
    due.campaigns.iter().map(|record| record.name.to_string()).collect()
}

pub async fn fire_begins_one_run_however_many_ask(fixture: &impl Fixture) {
    let now = begin(fixture).await;
    let before = record(fixture).await;
    let run = of_schedule(new_run("monday"), "digest", now - 1);
    // Two masters look at the same time.
    let call = || Fire { run: Some(run.clone()), ..plan(&before, now - 1) };
    assert_eq!(fire(fixture, call()).await, Fired::Done);
    assert_eq!(fire(fixture, call()).await, Fired::Stale);
    let made = fixture.store().run(&run.id).await.unwrap().expect("it was created");
    assert_eq!((made.nominal_at_ms, made.campaign.as_str(), made.state()), (now - 1, "digest", RunState::Scheduled));
    assert!(fixture.store().definition(&made.definition).await.unwrap().is_some());
    let after = standing(fixture).await;
    assert_eq!((after.fired, after.decided_until_ms), (1, now - 1));
    assert_eq!((after.due_at_ms, after.zones.as_str()), (Some(now - 1 + FAR_MS), "2026e"));
    let last = after.last_fired.clone().expect("it fired");
    assert!(last.at_ms >= now);
    assert_eq!(last, FiredRun { run: run.id.clone(), nominal_at_ms: now - 1, at_ms: last.at_ms });
    // Nor from the new stamp: what is decided stays decided.
    assert_eq!(fire(fixture, Fire { stamp: after.stamp, ..call() }).await, Fired::Stale);
    // Nor with what is decided left behind.
    let back = Fire { run: None, stamp: after.stamp, ..plan(&before, now - 5_000) };
    assert_eq!(fire(fixture, back).await, Fired::Done);
    assert_eq!(standing(fixture).await.decided_until_ms, now - 1);
    assert_eq!(fixture.store().runs(None, 10).await.unwrap().len(), 1);
}

pub async fn fire_repeated_answers_the_same(fixture: &impl Fixture) {
    let now = begin(fixture).await;
    let run = of_schedule(new_run("monday"), "digest", now);
    let missed = Skipped { reason: SkipReason::Missed, count: 2, nominal_at_ms: now - 2, why: String::new() };
    let call = Fire { run: Some(run), skipped: vec![missed], ..plan(&record(fixture).await, now) };
    assert_eq!(fire(fixture, call.clone()).await, Fired::Done);
    let after = record(fixture).await;
    assert_eq!(fire(fixture, call).await, Fired::Done);
    assert_eq!(record(fixture).await, after);
}

pub async fn fire_of_what_changed_is_stale(fixture: &impl Fixture) {
    let store = fixture.store();
    let name = "digest".parse().unwrap();
    let now = begin(fixture).await;
    let call = async |number: u32| {
        let run = of_schedule(new_run(&format!("run {number}")), "digest", now);
        Fire { run: Some(run), ..plan(&record(fixture).await, now) }
    };
    let edited = call(1).await;
    // The template only: the schedule and what it decided stay.
    store.apply_campaign(scheduled("digest", "two", "daily")).await.unwrap();
    let decided = standing(fixture).await.decided_until_ms;
    assert_eq!(fire(fixture, edited).await, Fired::Stale);
    let paused = call(2).await;
    store.set_campaign_paused(&name, true).await.unwrap();
    store.set_campaign_paused(&name, false).await.unwrap();
    assert_eq!(fire(fixture, paused).await, Fired::Stale);
    assert_eq!(standing(fixture).await.decided_until_ms, decided);
    let deleted = call(3).await;
    store.delete_campaign(&name).await.unwrap();
    assert_eq!(fire(fixture, deleted.clone()).await, Fired::Stale);
    store.apply_campaign(scheduled("digest", "one", "daily")).await.unwrap();
    assert_eq!(fire(fixture, deleted).await, Fired::Stale, "of the campaign before");
    let unscheduled = call(4).await;
    store.apply_campaign(campaign("digest", "on demand")).await.unwrap();
    assert_eq!(fire(fixture, unscheduled).await, Fired::Stale);
    assert_eq!(record(fixture).await.schedule, None);
    assert_eq!(store.runs(None, 10).await.unwrap(), []);
}

pub async fn fire_of_what_is_to_come_is_early(fixture: &impl Fixture) {
    let now = begin(fixture).await;
    let before = record(fixture).await;
    let run = of_schedule(new_run("tomorrow"), "digest", now + FAR_MS);
    let call = Fire { run: Some(run.clone()), ..plan(&before, now) };
    assert_eq!(fire(fixture, call).await, Fired::Early);
    assert_eq!(fire(fixture, plan(&before, now + FAR_MS)).await, Fired::Early);
    assert_eq!(record(fixture).await, before);
    assert_eq!(fixture.store().run(&run.id).await.unwrap(), None);
}

pub async fn fire_counts_what_was_passed_over(fixture: &impl Fixture) {
    let now = begin(fixture).await;
    let skipped = |reason, count, nominal_at_ms, why: &str| Skipped { reason, count, nominal_at_ms, why: why.into() };
    let missed = skipped(SkipReason::Missed, 7, now - 5, "");
    let overlap = skipped(SkipReason::Overlap, 1, now - 4, "run_x");
    let call = Fire { skipped: vec![missed, overlap.clone()], ..plan(&record(fixture).await, now - 4) };
    assert_eq!(fire(fixture, call).await, Fired::Done);
    let after = standing(fixture).await;
    assert_eq!((after.missed, after.overlapped, after.refused, after.fired), (7, 1, 0, 0));
    assert_eq!(after.last_skipped, Some(overlap));
    let refused = skipped(SkipReason::CannotRun, 1, now - 3, "no lane \u{201e}fast\u{201c}");
    let call = Fire { skipped: vec![refused.clone()], ..plan(&record(fixture).await, now - 3) };
    assert_eq!(fire(fixture, call).await, Fired::Done);
    let after = standing(fixture).await;
    assert_eq!((after.missed, after.overlapped, after.refused), (7, 1, 1));
    assert_eq!((after.last_skipped, after.last_fired), (Some(refused), None));
}

pub async fn fire_lets_the_run_before_give_way(fixture: &impl Fixture) {
    let now = begin(fixture).await;
    let store = fixture.store();
    let (first, second) = (new_run("first"), new_run("second"));
    let begin = async |run: &NewRun, nominal: i64, cancel| {
        let run = Some(of_schedule(run.clone(), "digest", nominal));
        fire(fixture, Fire { run, cancel, ..plan(&record(fixture).await, nominal) }).await
    };
    assert_eq!(begin(&first, now - 3, None).await, Fired::Done);
    assert_eq!(begin(&second, now - 2, Some(first.id.clone())).await, Fired::Done);
    assert!(store.run(&first.id).await.unwrap().unwrap().cancelled);
    let second = store.run(&second.id).await.unwrap().unwrap();
    assert_eq!((second.cancelled, second.state()), (false, RunState::Scheduled));
    // One that was forgotten gives way as well.
    assert_eq!(begin(&new_run("third"), now - 1, Some(new_run("none").id)).await, Fired::Done);
    assert_eq!(store.cancel_run(&new_run("none").id).await.unwrap(), Steered::NoRun);
    assert_eq!(store.runs(None, 10).await.unwrap().len(), 3);
}

pub async fn fire_begins_nothing_for_a_paused_or_deleted_campaign(fixture: &impl Fixture) {
    let store = fixture.store();
    let name = "digest".parse().unwrap();
    let now = begin(fixture).await;
    let fire_now = async |number: u32| {
        let run = of_schedule(new_run(&format!("run {number}")), "digest", now);
        fire(fixture, Fire { run: Some(run), ..plan(&record(fixture).await, now) }).await
    };
    assert_eq!(due(fixture).await, ["digest"]);
    let since = standing(fixture).await.active_since_ms;
    store.set_campaign_paused(&name, true).await.unwrap();
    assert_eq!(due(fixture).await, Vec::<String>::new());
    // Changed while paused, it stays paused.
    store.apply_campaign(scheduled("digest", "two", "daily")).await.unwrap();
    assert_eq!(due(fixture).await, Vec::<String>::new());
    assert_eq!(fire_now(1).await, Fired::Stale);
    store.set_campaign_paused(&name, false).await.unwrap();
    let resumed = standing(fixture).await;
    assert!(resumed.active_since_ms > since);
    assert_eq!(due(fixture).await, ["digest"]);
    fixture.pass(5).await;
    // To resume what is not paused is no new beginning.
    store.set_campaign_paused(&name, false).await.unwrap();
    assert_eq!(standing(fixture).await.active_since_ms, resumed.active_since_ms);
    assert_eq!(fire_now(2).await, Fired::Done);
    assert_eq!(due(fixture).await, Vec::<String>::new());
    assert_eq!(store.runs(None, 10).await.unwrap().len(), 1);
    store.delete_campaign(&name).await.unwrap();
    store.apply_campaign(scheduled("digest", "three", "daily")).await.unwrap();
    let anew = standing(fixture).await;
    assert_eq!((anew.fired, anew.last_fired.clone(), anew.due_at_ms), (0, None, None));
    store.delete_campaign(&name).await.unwrap();
    assert_eq!(due(fixture).await, Vec::<String>::new());
}

/// The store was restored from a copy of before it fired: it fires again.
pub async fn fire_of_what_was_lost_marks_who_may_have_been_sent_to(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[1]).await;
    let before = begin(fixture).await;
    go_back(&scene).await;
    fixture.pass(10).await;
    let after = fixture.store().now_ms().await.unwrap();
    for (name, nominal) in [("again", before), ("new", after)] {
        let run = of_schedule(new_run(name), "digest", nominal);
        let call = Fire { run: Some(run), ..plan(&record(fixture).await, nominal) };
        assert_eq!(fire(fixture, call).await, Fired::Done);
    }
    for _ in 0..2 {
        let lease = scene.claim_split().await.expect("a split is no lease to send");
        fixture.store().add_batches(scene.add(&lease, &[1], 1, true)).await.unwrap();
    }
    wait_for_reports(&scene).await;
    let mut held = scene.claim(1, 3).await;
    assert_eq!(held.len(), 3);
    for held in &mut held {
        scene.intend(held, &[0]).await;
    }
    for (name, resent) in [("again", 1), ("new", 0)] {
        let scene = Scene { fixture, run: new_run(name).id };
        assert_eq!(scene.record().await.resent_outcome_not_recorded, resent, "{name}");
    }
}

pub async fn apply_campaign_with_another_schedule_begins_now(fixture: &impl Fixture) {
    let store = fixture.store();
    let now = begin(fixture).await;
    let applied = standing(fixture).await;
    assert_eq!(applied.decided_until_ms, applied.active_since_ms);
    assert!(applied.decided_until_ms <= now && applied.due_at_ms.is_none() && applied.zones.is_empty());
    let run = of_schedule(new_run("monday"), "digest", now - 1);
    let call = Fire { run: Some(run), look_at_ms: None, ..plan(&record(fixture).await, now - 1) };
    assert_eq!(fire(fixture, call).await, Fired::Done);
    assert_eq!(due(fixture).await, Vec::<String>::new());
    // Another template: it is looked at once more, and goes on where it was.
    store.apply_campaign(scheduled("digest", "two", "daily")).await.unwrap();
    let after = standing(fixture).await;
    assert_eq!((after.decided_until_ms, after.due_at_ms), (now - 1, Some(now - 1 + FAR_MS)));
    assert_eq!(due(fixture).await, ["digest"]);
    store.apply_campaign(scheduled("digest", "two", "weekly")).await.unwrap();
    let changed = standing(fixture).await;
    assert!(changed.decided_until_ms >= now && changed.stamp != after.stamp);
    assert_eq!((changed.due_at_ms, changed.zones.as_str(), changed.fired), (None, "", 1));
    // The same again changes nothing.
    store.apply_campaign(scheduled("digest", "two", "weekly")).await.unwrap();
    assert_eq!(standing(fixture).await, changed);
    store.apply_campaign(campaign("digest", "on demand")).await.unwrap();
    assert_eq!((record(fixture).await.schedule, due(fixture).await), (None, Vec::new()));
}

pub async fn due_schedules_are_listed_longest_due_first(fixture: &impl Fixture) {
    let store = fixture.store();
    store.apply_campaign(campaign("on-demand", "x")).await.unwrap();
    let now = begin(fixture).await;
    for (name, look_at) in
        [("second", Some(now - 5)), ("later", Some(now + FAR_MS)), ("first", Some(now - 9)), ("ended", None)]
    {
        store.apply_campaign(scheduled(name, "x", "daily")).await.unwrap();
        let record = store.campaign(&name.parse().unwrap()).await.unwrap().unwrap();
        let call = Fire { look_at_ms: look_at, ..plan(&record, now) };
        assert_eq!(fire(fixture, call).await, Fired::Done);
    }
    assert_eq!(due(fixture).await, ["digest", "first", "second"]);
    let found = store.due_schedules(2).await.unwrap();
    assert_eq!(found.campaigns.iter().map(|record| record.name.as_str()).collect::<Vec<_>>(), ["digest", "first"]);
    assert!(found.now_ms >= now);
    let first = store.campaign(&"first".parse().unwrap()).await.unwrap();
    assert_eq!(found.campaigns.get(1), first.as_ref());
    assert_eq!(store.due_schedules(0).await.unwrap().campaigns, []);
}
