//! Erasure of an address, asked for through the port.

use crate::harness::{SOON, Worker, World, campaign, inline, message};
use postrider_proto::v1;
use tokio::time::Instant;

pub async fn erased(world: &World, address: &str) -> v1::Erasure {
    let request = v1::EraseRequest { address: address.into() };
    let asked = world.admin().erase(request).await.unwrap().into_inner().erasure.unwrap();
    assert!(asked.asked_at_ms > 0);
    let deadline = Instant::now() + SOON;
    loop {
        let request = v1::GetErasureRequest { id: asked.id.clone() };
        let erasure = world.admin().get_erasure(request).await.unwrap().into_inner().erasure.unwrap();
        if erasure.done {
            assert!(erasure.done_at_ms >= asked.asked_at_ms);
            return erasure;
        }
        assert!(Instant::now() < deadline, "not done in time: {erasure:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_goes_from_a_run_that_goes_on() {
    let world = World::new().await;
    let run = world.run_csv("digest", "email,name\nada@example.com,Ada\nbob@example.com,Bob\n").await;
    world.until(&run, "split", |run| run.split_complete).await;
    let erasure = erased(&world, "ADA@example.com").await;
    assert_eq!((erasure.recipients, erasure.ended, erasure.rows, erasure.unreadable), (1, 1, 1, 0));
    assert_eq!(erasure.left, Vec::<String>::new());
    let delivered = Worker::new(&world, "w").deliver_run(&world, &run).await;
    assert_eq!(delivered.into_keys().collect::<Vec<_>>(), ["bob@example.com"]);
    let counts = world.show(&run).await.recipients.unwrap();
    assert_eq!((counts.total, counts.accepted, counts.cancelled), (2, 1, 1));
    let listed = world.recipients(&run, &[v1::RecipientState::Cancelled]).await;
    assert_eq!(listed[0].address, format!("{}@erased.invalid", erasure.id));
    assert_eq!((listed[0].key.as_str(), listed[0].message_id.as_str()), (erasure.id.as_str(), ""));
    // The same file again has the row of nobody.
    let again = world.run("digest", "again").await;
    let shown = world.until(&again, "split", |run| run.split_complete).await;
    assert_eq!((shown.recipients.unwrap().total, shown.bad_rows), (1, 1));
    let request = v1::ListErasuresRequest {};
    assert_eq!(world.admin().list_erasures(request).await.unwrap().into_inner().erasures, []);
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_wrote_is_named_and_left_to_them() {
    let world = World::new().await;
    let audience = inline(&[r#"{"email":"ada@example.com"}"#]);
    let mut wrote = campaign("letters", Some(audience));
    wrote.message = Some(v1::MessageDefinition { reply_to: "ada@example.com".into(), ..message() });
    world.apply(wrote).await;
    let run = world.run("letters", "").await;
    world.until(&run, "split", |run| run.split_complete).await;
    let erasure = erased(&world, "ada@example.com").await;
    assert_eq!((erasure.recipients, erasure.rows), (1, 1));
    assert_eq!(erasure.left, [format!("the message of {run}"), "the campaign letters".to_owned()]);
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_address_or_no_erasure_is_refused() {
    let world = World::new().await;
    for wrong in ["", "nobody", "0123456789abcdef0123456789abcdef@erased.invalid"] {
        let refused = world.admin().erase(v1::EraseRequest { address: wrong.into() }).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{wrong}: {refused}");
        assert!(refused.message().contains("address"), "{refused}");
    }
    for (id, code) in [("x", tonic::Code::InvalidArgument), (&*"0".repeat(32), tonic::Code::NotFound)] {
        let refused = world.admin().get_erasure(v1::GetErasureRequest { id: id.into() }).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
    }
    let nobody = erased(&world, "nobody@example.com").await;
    assert_eq!((nobody.recipients, nobody.rows, nobody.mentions, nobody.unreadable), (0, 0, 0, 0));
    world.master.stop().await;
}
