//! Which shard a call is for, and how the answers of several become one. Pure.

use super::reply::corrupt;
use crate::api::{LaneRecord, Reclaimed, Reconciled, Result, Room, RunRecord, WorkerRecord};
use crate::error::StoreError;
use postrider_common::ids::RunId;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The same number for the same text, in every program and for ever: runs stay where they are.
fn spread(text: &str, shards: usize) -> usize {
    let hash = Sha256::digest(text);
    let first: [u8; 8] = std::array::from_fn(|at| hash[at]);
    (u64::from_be_bytes(first) % shards.max(1) as u64) as usize
}

/// Where a run lives.
pub(super) fn shard_of(run: &RunId, shards: usize) -> usize {
    spread(run.as_str(), shards)
}

/// The order in which a call that any shard can answer asks them: each call begins elsewhere, a repeat of it where it
/// began before, so that it finds what the first one got.
pub(super) fn turn(request: &str, shards: usize) -> impl Iterator<Item = usize> {
    let first = spread(request, shards);
    (0..shards).map(move |step| (first + step) % shards)
}

/// What one call asks of one shard: places in the call, and what stood there.
pub(super) struct Part<T> {
    pub shard: usize,
    places: Vec<usize>,
    pub items: Vec<T>,
}

/// Takes the items of a call apart by the run they belong to. Within a shard they keep their order.
pub(super) fn split<T>(items: Vec<T>, shards: usize, run: impl Fn(&T) -> &RunId) -> Vec<Part<T>> {
    let mut parts: BTreeMap<usize, Part<T>> = BTreeMap::new();
    for (place, item) in items.into_iter().enumerate() {
        let shard = shard_of(run(&item), shards);
        let part = parts.entry(shard).or_insert_with(|| Part { shard, places: Vec::new(), items: Vec::new() });
        part.places.push(place);
        part.items.push(item);
    }
    parts.into_values().collect()
}

/// Where the answers to the items of a part belong.
pub(super) struct Places(Vec<usize>);

impl<T> Part<T> {
    pub fn take(self) -> (usize, Places, Vec<T>) {
        (self.shard, Places(self.places), self.items)
    }
}

/// The answers in the order of the call. All must be there: a caller repeats the whole call, which every shard allows.
pub(super) fn join<A>(parts: Vec<(Places, Result<Vec<A>>)>) -> Result<Vec<A>> {
    let mut placed = BTreeMap::new();
    for (Places(places), answers) in parts {
        let answers = answers?;
        if answers.len() != places.len() {
            return Err(corrupt("answers and items differ in number"));
        }
        placed.extend(places.into_iter().zip(answers));
    }
    Ok(placed.into_values().collect())
}

/// A part of a call: where its answers belong, those when its shard is away, and those of the shard.
pub(super) type Asked<A> = (Places, Vec<A>, Result<Vec<A>>);

/// As `join`, but a shard that is away keeps no other from being answered, unless none answers.
pub(super) fn join_those_that_answered<A>(parts: Vec<Asked<A>>) -> Result<Vec<A>> {
    let somebody_answered = parts.iter().any(|(_, _, answers)| answers.is_ok());
    let told = |(places, unanswered, answers): Asked<A>| match answers {
        Err(error) if error.is_retryable() && somebody_answered => {
            tracing::debug!(%error, unanswered = unanswered.len(), "a shard did not answer");
            (places, Ok(unanswered))
        }
        answers => (places, answers),
    };
    join(parts.into_iter().map(told).collect())
}

/// What shards answered that need not all answer: the errors only when there is nothing else, or when a wrong store
/// must not go unseen.
pub(super) fn those_that_answered<A>(answers: Vec<Result<A>>) -> Result<Vec<A>> {
    let (mut good, mut failed) = (Vec::with_capacity(answers.len()), None::<StoreError>);
    for answer in answers {
        match answer {
            Ok(answer) => good.push(answer),
            Err(error) if !error.is_retryable() => return Err(error),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if good.is_empty() => Err(error),
        Some(error) => {
            tracing::debug!(%error, "a shard did not answer");
            Ok(good)
        }
        None => Ok(good),
    }
}

/// Newest first, at most `limit`.
pub(super) fn newest(shards: Vec<Vec<RunRecord>>, limit: usize) -> Vec<RunRecord> {
    let mut runs: Vec<RunRecord> = shards.into_iter().flatten().collect();
    runs.sort_by(|a, b| (b.created_at_ms, b.id.as_str()).cmp(&(a.created_at_ms, a.id.as_str())));
    runs.truncate(limit);
    runs
}

/// A worker that several shards have seen is as the one that saw it last says; what it holds is the sum.
pub(super) fn workers(shards: Vec<Vec<WorkerRecord>>) -> Vec<WorkerRecord> {
    let mut all: BTreeMap<_, WorkerRecord> = BTreeMap::new();
    for seen in shards.into_iter().flatten() {
        match all.get_mut(&seen.id) {
            None => drop(all.insert(seen.id.clone(), seen)),
            Some(known) => {
                known.leases += seen.leases;
                known.in_intent += seen.in_intent;
                known.draining |= seen.draining;
                if seen.seen_at_ms > known.seen_at_ms {
                    (known.seen_at_ms, known.slots) = (seen.seen_at_ms, seen.slots);
                }
            }
        }
    }
    all.into_values().collect()
}

/// The same lanes of every shard, in the same order.
pub(super) fn lanes(shards: Vec<Vec<LaneRecord>>) -> Vec<LaneRecord> {
    let mut shards = shards.into_iter();
    let mut sum = shards.next().unwrap_or_default();
    for lane in shards.flat_map(|lanes| lanes.into_iter().enumerate()) {
        let (at, lane) = lane;
        if let Some(known) = sum.get_mut(at) {
            known.paused |= lane.paused;
            known.batches_ready += lane.batches_ready;
            known.in_intent_limited += lane.in_intent_limited;
        }
    }
    sum
}

/// What is left of each shard's part, in sum. The same limits of every shard, in the same order.
pub(super) fn rooms(shards: Vec<Vec<Room>>) -> Vec<Room> {
    let mut shards = shards.into_iter();
    let mut sum = shards.next().unwrap_or_default();
    for (at, room) in shards.flat_map(|rooms| rooms.into_iter().enumerate()) {
        if let Some(known) = sum.get_mut(at) {
            let add = |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| a + b);
            (known.paced, known.at_once) = (add(known.paced, room.paced), add(known.at_once, room.at_once));
        }
    }
    sum
}

pub(super) fn reclaimed(shards: Vec<Reclaimed>) -> Reclaimed {
    let add = |sum: Reclaimed, one: Reclaimed| Reclaimed {
        leases: sum.leases + one.leases,
        doubts: sum.doubts + one.doubts,
        dead: sum.dead + one.dead,
        held_ms: sum.held_ms.max(one.held_ms),
        repaired: sum.repaired + one.repaired,
    };
    shards.into_iter().fold(Reclaimed::default(), add)
}

pub(super) fn reconciled(shards: Vec<Reconciled>) -> Reconciled {
    let rounds = shards.iter().map(|one| one.rounds).min().unwrap_or(0);
    let mut sum = Reconciled { rounds, ..Reconciled::default() };
    for one in shards {
        sum.batches += one.batches;
        sum.entries += one.entries;
        sum.repairs.extend(one.repairs);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_common::ids::BatchId;
    use postrider_common::lease::{LeaseAnswer, LeaseStatus};

    fn run(number: u32) -> RunId {
        RunId::derive("test", &number.to_string())
    }

    #[test]
    fn a_run_stays_in_its_shard_for_ever() {
        // Written down: another answer would lose every run that is stored.
        let homes: Vec<usize> = (0..12).map(|number| shard_of(&run(number), 5)).collect();
        assert_eq!(homes, [3, 4, 2, 4, 3, 2, 0, 0, 0, 4, 4, 2], "never change these");
    }

    #[test]
    fn runs_spread_over_all_shards() {
        let mut counts = [0; 7];
        (0..7000).for_each(|number| counts[shard_of(&run(number), 7)] += 1);
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_turn_asks_each_shard_once_and_a_repeat_in_the_same_order() {
        let mut begun = [0; 4];
        for number in 0..400 {
            let request = format!("request-{number}");
            let order: Vec<usize> = turn(&request, 4).collect();
            assert_eq!(order, turn(&request, 4).collect::<Vec<_>>());
            begun[order[0]] += 1;
            let mut each = order;
            each.sort_unstable();
            assert_eq!(each, [0, 1, 2, 3]);
        }
        assert!(begun.iter().all(|count| *count > 60), "{begun:?}");
    }

    #[test]
    fn answers_come_back_in_the_order_of_the_call() {
        let items: Vec<(u32, RunId)> = (0..50).map(|number| (number, run(number % 11))).collect();
        let parts = split(items, 3, |(_, run)| run);
        assert!(parts.len() > 1);
        let answered = parts.into_iter().rev().map(|part| {
            let (_, places, items) = part.take();
            (places, Ok(items.into_iter().map(|(number, _)| number).collect()))
        });
        assert_eq!(join(answered.collect()).unwrap(), (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn leases_of_a_shard_that_is_away_are_told_so() {
        let batch = |sequence| BatchId { run: run(1), sequence };
        let held = || Ok(vec![LeaseAnswer::plain(batch(1), LeaseStatus::Held)]);
        let away = || Err(StoreError::Unavailable("away".into()));
        let unanswered = |sequence| vec![LeaseAnswer::plain(batch(sequence), LeaseStatus::Unanswered)];
        let parts =
            |first, second| vec![(Places(vec![1]), unanswered(1), first), (Places(vec![0]), unanswered(2), second)];
        let joined = join_those_that_answered(parts(held(), away())).unwrap();
        let statuses: Vec<LeaseStatus> = joined.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [LeaseStatus::Unanswered, LeaseStatus::Held]);
        assert!(join_those_that_answered(parts(away(), away())).is_err(), "nobody answered");
        let wrong = Err(StoreError::Corrupt("x".into()));
        assert!(matches!(join_those_that_answered(parts(held(), wrong)), Err(StoreError::Corrupt(_))));
    }

    #[test]
    fn one_shard_that_is_away_keeps_the_others_from_nothing() {
        let away = || Err(StoreError::Unavailable("away".into()));
        assert_eq!(those_that_answered(vec![Ok(1), away()]).unwrap(), [1]);
        assert!(those_that_answered::<u8>(vec![away(), away()]).is_err());
        let wrong = Err(StoreError::Corrupt("x".into()));
        assert!(matches!(those_that_answered(vec![Ok(1), wrong]), Err(StoreError::Corrupt(_))));
    }
}
