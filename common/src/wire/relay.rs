//! Shares of relays.

use super::{InvalidField, at};
use crate::relay::{CONNECTIONS_TOTAL_MAX, PERMITS_PER_CALL_MAX, RelayLimit, RelayShare, RelayWish};
use postrider_proto::v1;

impl TryFrom<v1::RelayWish> for RelayWish {
    type Error = InvalidField;
    fn try_from(wire: v1::RelayWish) -> Result<Self, InvalidField> {
        let limit = RelayLimit::of_numbers(wire.rate_per_hour, wire.burst, wire.connections_total);
        let bounded = |field, number: u32, max: u32| match number <= max {
            true => Ok(number),
            false => Err(InvalidField::new(field, format!("it must be from 0 to {max}, not {number}"))),
        };
        Ok(Self {
            relay: wire.relay.parse().map_err(at("relays.relay"))?,
            limit: limit.map_err(|why| InvalidField::new("relays", why))?,
            held: bounded("relays.connections_held", wire.connections_held, CONNECTIONS_TOTAL_MAX)?,
            wanted: bounded("relays.connections_wanted", wire.connections_wanted, CONNECTIONS_TOTAL_MAX)?,
            sends: bounded("relays.sends_wanted", wire.sends_wanted, PERMITS_PER_CALL_MAX)?,
        })
    }
}

impl From<RelayWish> for v1::RelayWish {
    fn from(wish: RelayWish) -> Self {
        let (rate_per_hour, burst, connections_total) = wish.limit.numbers();
        Self {
            relay: wish.relay.to_string(),
            rate_per_hour,
            burst,
            connections_total,
            connections_held: wish.held,
            connections_wanted: wish.wanted,
            sends_wanted: wish.sends,
        }
    }
}

impl From<v1::RelayShare> for RelayShare {
    fn from(wire: v1::RelayShare) -> Self {
        let v1::RelayShare { connections, sends, retry_in_ms, ttl_ms } = wire;
        Self { connections, sends, retry_in_ms, ttl_ms }
    }
}

impl From<RelayShare> for v1::RelayShare {
    fn from(share: RelayShare) -> Self {
        let RelayShare { connections, sends, retry_in_ms, ttl_ms } = share;
        Self { connections, sends, retry_in_ms, ttl_ms }
    }
}
