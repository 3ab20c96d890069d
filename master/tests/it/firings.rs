//! When a campaign is due, as callers see it.

use crate::harness::{World, campaign, inline};
use postrider_proto::v1;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn next_firings_explain_gaps_and_overlaps() {
    let world = World::new().await;
    let schedule =
        Some(v1::Schedule { cron: "30 2 * * *".into(), time_zone: "Europe/Berlin".into(), ..Default::default() });
    world.apply(v1::Campaign { schedule, ..campaign("digest", Some(inline(&["{}"]))) }).await;
    world.apply(campaign("at-will", Some(inline(&["{}"])))).await;
    let next = async |name: &str, limit: u32, from_ms: i64| {
        let request = v1::NextFiringsRequest { campaign: name.into(), limit, from_ms };
        world.campaigns().next_firings(request).await.map(tonic::Response::into_inner)
    };
    // 2026-03-28T12:00:00Z
    let answer = next("digest", 2, 1_774_699_200_000).await.unwrap();
    assert_eq!(answer.time_zone, "Europe/Berlin");
    assert!(answer.time_zone_version.as_str() >= "2026e");
    let shown: Vec<_> = answer.firings.iter().map(|f| (f.local.as_str(), f.nominal.as_str(), f.note())).collect();
    assert_eq!(
        shown,
        [
            ("2026-03-29T03:00:00+02:00", "2026-03-29T02:30:00", v1::FiringNote::AfterGap),
            ("2026-03-30T02:30:00+02:00", "2026-03-30T02:30:00", v1::FiringNote::Plain),
        ]
    );
    let from_now = next("digest", 0, 0).await.unwrap().firings;
    assert_eq!(from_now.len(), 10);
    assert!(from_now.windows(2).all(|pair| pair[0].at_ms < pair[1].at_ms));
    for (name, limit, from_ms, code, part) in [
        ("at-will", 1, 0, Code::InvalidArgument, "no schedule"),
        ("nobody", 1, 0, Code::NotFound, "nobody"),
        ("digest", 1001, 0, Code::InvalidArgument, "limit: "),
        ("digest", 1, i64::MAX, Code::InvalidArgument, "from_ms: "),
    ] {
        let error = next(name, limit, from_ms).await.expect_err("refused");
        assert_eq!((error.code(), error.message().contains(part)), (code, true), "{}", error.message());
    }
    world.master.stop().await;
}

fn often() -> v1::Schedule {
    v1::Schedule { cron: "* * * * * *".into(), time_zone: "UTC".into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_begins_runs_and_says_where_it_stands() {
    let world = World::new().await;
    let audience = || Some(inline(&[r#"{"email": "ada@example.com"}"#]));
    let schedule = v1::Schedule { overlap: v1::Overlap::Skip.into(), ..often() };
    world.apply(v1::Campaign { schedule: Some(schedule), ..campaign("digest", audience()) }).await;
    let show = async || {
        let request = v1::GetCampaignRequest { name: "digest".into(), version: 0 };
        let answer = world.campaigns().get_campaign(request).await.expect("it is there").into_inner();
        answer.campaign.and_then(|record| record.schedule).expect("it has a schedule")
    };
    // Nobody sends: the first run is still going when the next are due.
    let state = loop {
        let state = show().await;
        if state.overlapped >= 2 {
            break state;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!((state.fired, state.refused), (1, 0));
    assert!(state.last_fired_at_ms >= state.last_nominal_at_ms && state.decided_until_ms > state.last_nominal_at_ms);
    assert!(state.due_at_ms > state.decided_until_ms && state.time_zone_version.as_str() >= "2026e");
    let skipped = state.last_skipped.expect("some were");
    assert_eq!((skipped.reason(), skipped.why.as_str()), (v1::SkipReason::Overlap, state.last_run_id.as_str()));
    let run = world.show(&state.last_run_id).await;
    assert_eq!((run.campaign.as_str(), run.nominal_at_ms), ("digest", state.last_nominal_at_ms));
    // It and a run that somebody starts are not the same.
    assert_ne!(world.run("digest", "by-hand").await, state.last_run_id);
    let metrics = world.metrics().await;
    for line in [
        "postrider_schedule_runs_fired_total 1\n",
        "postrider_schedule_occurrences_skipped_total{reason=\"cannot_run\"} 0\n",
        "postrider_schedule_lateness_seconds_count 1\n",
        "postrider_time_zone_database_info{version=\"2026",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_due_again_is_refused_when_it_is_new() {
    let world = World::new().await;
    let apply = async |schedule: v1::Schedule, subject: &str, has_audience: bool| {
        let audience = has_audience.then(|| inline(&[r#"{"email": "ada@example.com"}"#]));
        let mut campaign = v1::Campaign { schedule: Some(schedule), ..campaign("digest", audience) };
        campaign.message.as_mut().expect("a message").subject = subject.into();
        let request = v1::ApplyCampaignRequest { campaign: Some(campaign), idempotency_key: String::new() };
        world.campaigns().apply_campaign(request).await.map(tonic::Response::into_inner)
    };
    let at = |text: &str| v1::Schedule { at: text.into(), cron: String::new(), ..often() };
    let ended = v1::Schedule { end: "2020-12-31".into(), ..often() };
    let both = v1::Schedule { at: "2030-01-01T08:00".into(), ..often() };
    let limit = v1::Schedule { catch_up_limit: 3, ..often() };
    for (schedule, parts) in [
        (at("2020-02-02T08:00"), &["schedule.at: ", "it has passed"][..]),
        (ended, &["schedule.end: ", "it has passed"]),
        (both, &["schedule.at: ", "keep one"]),
        (limit, &["schedule.catch_up_limit: ", "all"]),
        (v1::Schedule { cron: "0 0 30 2 *".into(), ..often() }, &["schedule.cron: ", "never due"]),
        (v1::Schedule { time_zone: "Mars/Base".into(), ..often() }, &["schedule.time_zone: ", "Mars/Base"]),
    ] {
        let error = apply(schedule, "one", true).await.expect_err("refused");
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(parts.iter().all(|part| error.message().contains(part)), "{}", error.message());
    }
    let error = apply(often(), "one", false).await.expect_err("refused");
    assert!(error.message().starts_with("audience: "), "{}", error.message());
    // Once it has run it may still be changed.
    let now = async || world.store.now_ms().await.expect("it answers");
    let soon = now().await + 2_000;
    let once = at(&jiff::Timestamp::from_millisecond(soon).expect("an instant").to_string());
    assert_eq!(apply(once.clone(), "one", true).await.expect("it is to come").version, 1);
    while now().await < soon {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(apply(once, "two", true).await.expect("as it was").version, 2);
    world.master.stop().await;
}
