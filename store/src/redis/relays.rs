//! Relays: what workers share of them, under the tag `{g}`; and what is left of every limit.

use super::global::Global;
use super::keys;
use super::quota;
use super::reply::{Elements, corrupt, ms, parse, read};
use super::scripts::{Args, Transition};
use super::shard::Shard;
use crate::api::{Result, Room, RoomOf, ShareRelay};
use crate::embedded::model::pace::Meter;
use crate::embedded::model::relay::{relay_room, room};
use postrider_common::ids::RelayName;
use postrider_common::pace::Limits;
use postrider_common::relay::{RelayLimit, RelayShare};
use redis::Value;
use std::collections::HashMap;

impl Global {
    pub(super) async fn relay_share(&self, share: ShareRelay) -> Result<RelayShare> {
        let ShareRelay { worker, sequence, wish, ttl_ms } = share;
        let (rate, burst, total) = wish.limit.numbers();
        let args = Args::default().text(worker.to_string()).int(sequence).int(rate).int(burst).int(total);
        let args = args.int(wish.held).int(wish.wanted).int(wish.sends).int(ttl_ms).text(wish.relay.as_str());
        let own = [keys::relay(&wish.relay), keys::RELAYS.to_owned()];
        let mut answer = Elements::of(self.run_script(Transition::ShareRelay, &own, args).await?, "share_relay")?;
        let (connections, sends, retry_in_ms) = (answer.read()?, answer.read()?, ms(answer.read()?));
        Ok(RelayShare { connections, sends, retry_in_ms, ttl_ms })
    }

    pub(super) async fn relay_rooms(&self) -> Result<Vec<Room>> {
        let now = self.links.clock_ms().await?;
        let mut pipe = redis::pipe();
        pipe.cmd("ZRANGE").arg(keys::RELAYS).arg(0).arg(-1);
        let names: Vec<String> = self.links.read_bulk(pipe, "relays").await?.read()?;
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let names = names.iter().map(|name| parse(name, "relays")).collect::<Result<Vec<RelayName>>>()?;
        let mut pipe = redis::pipe();
        for name in &names {
            pipe.cmd("HGETALL").arg(keys::relay(name));
        }
        let mut answers = self.links.read_bulk(pipe, "relays").await?;
        let mut rooms = Vec::new();
        for name in names {
            rooms.extend(one_relay(name, now, answers.value()?)?);
        }
        Ok(rooms)
    }
}

impl Shard {
    /// Of what this shard may use of the limits.
    pub(super) async fn rooms_of(&self, limits: &Limits) -> Result<Vec<Room>> {
        let lanes = limits.lanes.iter().map(|(name, limit)| (RoomOf::Lane(name.clone()), format!("L|{name}"), limit));
        let sites = limits.sites.iter().map(|(name, limit)| (RoomOf::Site(name.clone()), format!("S|{name}"), limit));
        let limited: Vec<_> = lanes.chain(sites).collect();
        let mut pipe = redis::pipe();
        for (_, node, _) in &limited {
            pipe.cmd("HMGET").arg(self.keys.pace()).arg(&[node.as_str(), "Q", &format!("Q|{node}")]);
            pipe.cmd("HGET").arg(self.keys.flight()).arg(node);
        }
        let now = self.links.clock_ms().await?;
        let mut answers =
            if limited.is_empty() { Elements::default() } else { self.links.read_bulk(pipe, "rooms").await? };
        let mut rooms = Vec::with_capacity(limited.len());
        for (of, _, limit) in limited {
            let (pace, seen, quota): (Option<String>, Option<i64>, Option<String>) = answers.read()?;
            let in_intent: Option<i64> = answers.read()?;
            let meter = meter(pace.as_deref(), in_intent.unwrap_or(0))?;
            let mut room_left = if self.shards > 1 {
                let has = quota::stored(quota.as_deref(), seen, now)?;
                room(of, meter, now, &has)
            } else {
                room(of, meter, now, limit)
            };
            // Of a limit that this shard has nothing of, nothing is left.
            room_left.paced = limit.pace.map(|_| room_left.paced.unwrap_or(0));
            room_left.at_once = limit.concurrency.map(|_| room_left.at_once.unwrap_or(0));
            rooms.push(room_left);
        }
        Ok(rooms)
    }
}

/// As `pace.lua` and `share_relay.lua` keep it: `at|debt`.
fn meter(pace: Option<&str>, in_intent: i64) -> Result<Meter> {
    let (at, debt) = pace.unwrap_or("0|0").split_once('|').ok_or_else(|| corrupt("a pace"))?;
    Ok(Meter::of(parse(at, "a pace")?, parse(debt, "a pace")?, ms(in_intent)))
}

fn one_relay(name: RelayName, now: i64, value: Value) -> Result<Option<Room>> {
    let fields: HashMap<String, String> = read(value, "a relay")?;
    let (mut held, mut limit) = (0, RelayLimit::default());
    for (_, text) in fields.iter().filter(|(field, _)| field.starts_with("w|")) {
        let numbers =
            text.split('|').map(|part| parse::<u64>(part, "a share of a relay")).collect::<Result<Vec<_>>>()?;
        let [has, _, _, expires_at, _, rate, burst, total] = numbers[..] else {
            return Err(corrupt("a share of a relay"));
        };
        if expires_at <= ms(now) {
            continue;
        }
        held += has;
        let small = |number: u64| u32::try_from(number).map_err(|_| corrupt("a share of a relay"));
        limit = limit.lowest(RelayLimit::of_numbers(rate, small(burst)?, small(total)?).map_err(corrupt)?);
    }
    Ok(relay_room(name, meter(fields.get("pace").map(String::as_str), 0)?, held, now, limit))
}
