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
