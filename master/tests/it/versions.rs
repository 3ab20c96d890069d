//! Versions of campaigns: what a run froze, and what was in force before.

use crate::harness::{World, campaign, inline};
use postrider_common::limits::CAMPAIGN_VERSIONS_KEPT_MAX;
use postrider_proto::v1;
use tonic::Code;

const NAME: &str = "digest";

fn with_subject(subject: &str) -> v1::Campaign {
    let mut campaign = campaign(NAME, Some(inline(&[r#"{"email":"ada@example.com","name":"A"}"#])));
    campaign.message.as_mut().unwrap().subject = subject.into();
    campaign
}

async fn version(world: &World, version: u64) -> Result<v1::CampaignRecord, tonic::Status> {
    let request = v1::GetCampaignRequest { name: NAME.into(), version };
    Ok(world.campaigns().get_campaign(request).await?.into_inner().campaign.unwrap())
}

async fn subject(world: &World, number: u64) -> String {
    let record = version(world, number).await.unwrap();
    assert!(number == 0 || record.version == number);
    assert!(record.applied_at_ms > 0);
    record.campaign.unwrap().message.unwrap().subject
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_force_can_be_read_and_a_run_keeps_what_it_froze() {
    let world = World::new().await;
    world.apply(with_subject("one")).await;
    let first = world.run(NAME, "a").await;
    world.apply(with_subject("two")).await;
    let second = world.run(NAME, "b").await;
    world.apply(with_subject("two")).await;
    world.apply(with_subject("three")).await;
    for (number, expected) in [(0, "three"), (1, "one"), (2, "two"), (3, "three")] {
        assert_eq!(subject(&world, number).await, expected, "version {number}");
    }
    let kept = version(&world, 1).await.unwrap().campaign.unwrap().audience.unwrap();
    assert_eq!((kept.address_field.as_str(), kept.inline.len()), ("email", 0), "people are no part of a version");
    assert_eq!(version(&world, 4).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(world.show(&first).await.campaign_version, 1);
    assert_eq!(world.show(&second).await.campaign_version, 2);
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_versions_go_and_those_of_a_deleted_campaign_too() {
    let world = World::new().await;
    let last = CAMPAIGN_VERSIONS_KEPT_MAX + 2;
    for number in 1..=last {
        world.apply(with_subject(&number.to_string())).await;
    }
    for gone in [1, 2] {
        let error = version(&world, gone).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
        assert!(error.message().contains("the newest 20 are"), "{}", error.message());
    }
    assert_eq!(subject(&world, 3).await, "3");
    let folder = world.storage.path().join("campaigns").join(NAME);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count() as u64, CAMPAIGN_VERSIONS_KEPT_MAX);
    world.campaigns().delete_campaign(v1::DeleteCampaignRequest { name: NAME.into() }).await.unwrap();
    assert_eq!(std::fs::read_dir(&folder).map_or(0, |folder| folder.count()), 0);
    world.apply(with_subject("anew")).await;
    assert_eq!(version(&world, 3).await.unwrap_err().code(), Code::NotFound);
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_not_written_is_kept_before_it_is_replaced() {
    let world = World::new().await;
    world.apply(with_subject("one")).await;
    // As if the master had died after the store had it.
    std::fs::remove_dir_all(world.storage.path().join("campaigns")).unwrap();
    world.apply(with_subject("two")).await;
    assert_eq!(subject(&world, 1).await, "one");
    world.master.stop().await;
}
