//! What workers share of a relay: connections that never add up to more than there are, and permits by its rate.

use super::Fixture;
use super::scene::worker;
use crate::api::{Room, RoomOf, ShareRelay};
use postrider_common::pace::Limits;
use postrider_common::relay::{RelayLimit, RelayShare, RelayWish};

const TTL_MS: u64 = 300;

/// The relay's limit: rate per hour, burst, connections.
type Numbers = (u64, u32, u32);

struct Fleet<'a, F: Fixture> {
    fixture: &'a F,
    limit: Numbers,
    sequence: u64,
}

impl<'a, F: Fixture> Fleet<'a, F> {
    fn new(fixture: &'a F, limit: Numbers) -> Self {
        Self { fixture, limit, sequence: 0 }
    }

    async fn ask(&mut self, number: u8, held: u32, wanted: u32, sends: u32) -> RelayShare {
        self.sequence += 1;
        self.ask_as(number, self.sequence, (held, wanted, sends)).await
    }

    async fn ask_as(&self, number: u8, sequence: u64, (held, wanted, sends): (u32, u32, u32)) -> RelayShare {
        let limit = RelayLimit::of_numbers(self.limit.0, self.limit.1, self.limit.2).unwrap();
        let wish = RelayWish { relay: "out".parse().unwrap(), limit, held, wanted, sends };
        let share = ShareRelay { worker: worker(number), sequence, wish, ttl_ms: TTL_MS };
        self.fixture.store().share_relay(share).await.unwrap()
    }

    async fn connections(&mut self, number: u8, held: u32, wanted: u32) -> u32 {
        self.ask(number, held, wanted, 0).await.connections
    }

    async fn room(&self) -> Option<Room> {
        let rooms = self.fixture.store().rooms(&Limits::default()).await.unwrap();
        rooms.into_iter().find(|room| room.of == RoomOf::Relay("out".parse().unwrap()))
    }
}

pub async fn share_relay_divides_connections(fixture: &impl Fixture) {
    let mut fleet = Fleet::new(fixture, (0, 0, 10));
    assert_eq!(fleet.connections(1, 0, 8).await, 8);
    assert_eq!(fleet.connections(2, 0, 8).await, 2, "what is left");
    assert_eq!(fleet.connections(1, 8, 8).await, 5, "its even part, as others want more");
    assert_eq!(fleet.connections(2, 2, 8).await, 2, "until the first says that they are closed they are its own");
    assert_eq!(fleet.connections(1, 5, 8).await, 5);
    assert_eq!(fleet.connections(2, 2, 8).await, 5);
    assert_eq!(fleet.connections(3, 0, 1).await, 0);
    assert_eq!(fleet.connections(1, 5, 8).await, 5, "of nine each of two wants more than half: one of them has five");
    assert_eq!(fleet.connections(2, 5, 8).await, 4);
    assert_eq!(fleet.connections(2, 4, 8).await, 4);
    assert_eq!(fleet.connections(3, 0, 1).await, 1);
    assert_eq!(fleet.room().await.unwrap().at_once, Some(0));
}

pub async fn share_relay_gives_what_others_do_not_want(fixture: &impl Fixture) {
    let mut fleet = Fleet::new(fixture, (0, 0, 4));
    for number in 1..=4 {
        assert_eq!(fleet.connections(number, 0, 1).await, 1);
    }
    assert_eq!(fleet.connections(5, 0, 3).await, 0, "who came first keeps the last one");
    assert_eq!(fleet.connections(1, 0, 0).await, 0, "it leaves");
    assert_eq!(fleet.connections(5, 0, 3).await, 1);
    assert_eq!(fleet.connections(2, 0, 0).await, 0);
    assert_eq!(fleet.connections(5, 1, 3).await, 2);
}

pub async fn share_relay_ends_with_the_silence_of_a_worker(fixture: &impl Fixture) {
    let mut fleet = Fleet::new(fixture, (0, 0, 4));
    assert_eq!(fleet.connections(1, 0, 4).await, 4);
    assert_eq!(fleet.connections(2, 0, 4).await, 0);
    fixture.pass(TTL_MS + 1).await;
    assert_eq!(fleet.connections(2, 0, 4).await, 4);
}

pub async fn share_relay_of_a_late_call_changes_nothing(fixture: &impl Fixture) {
    let fleet = Fleet::new(fixture, (0, 0, 4));
    assert_eq!(fleet.ask_as(1, 5, (0, 3, 0)).await.connections, 3);
    assert_eq!(fleet.ask_as(1, 4, (0, 1, 0)).await.connections, 0);
    assert_eq!(fleet.ask_as(1, 5, (0, 1, 0)).await.connections, 0);
    assert_eq!(fleet.ask_as(2, 1, (0, 4, 0)).await.connections, 1, "three are still the first one's");
}

pub async fn share_relay_holds_the_lowest_limit(fixture: &impl Fixture) {
    let mut fleet = Fleet::new(fixture, (0, 0, 8));
    assert_eq!(fleet.connections(1, 0, 8).await, 8);
    fleet.limit = (3600, 3, 2);
    assert_eq!(
        fleet.ask(2, 0, 8, 5).await,
        RelayShare { connections: 0, sends: 3, retry_in_ms: 2_000, ttl_ms: TTL_MS }
    );
    fleet.limit = (0, 0, 8);
    assert_eq!(fleet.connections(1, 8, 8).await, 1);
    assert_eq!(fleet.ask(1, 1, 8, 1).await.sends, 0, "though it has no rate configured");
    fixture.pass(TTL_MS + 1).await;
    let share = fleet.ask(1, 1, 8, 1).await;
    assert_eq!((share.connections, share.sends), (8, 1), "the other one was not seen for long");
}

pub async fn share_relay_paces_all_workers_by_one_rate(fixture: &impl Fixture) {
    // One in 200 ms, three at once.
    let mut fleet = Fleet::new(fixture, (18_000, 3, 0));
    let share = fleet.ask(1, 0, 2, 2).await;
    assert_eq!((share.connections, share.sends, share.retry_in_ms), (2, 2, 0));
    let share = fleet.ask(2, 0, 1, 4).await;
    assert_eq!(share.sends, 1);
    assert!((500..=600).contains(&share.retry_in_ms), "{share:?}: until the other three fit");
    assert_eq!(fleet.room().await.unwrap().paced, Some(0));
    fixture.pass(share.retry_in_ms).await;
    assert_eq!(fleet.ask(1, 0, 1, 9).await.sends, 3);
}
