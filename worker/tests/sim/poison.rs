//! One recipient ends whatever worker begins to send to it.

use super::{Faults, Happening, World};
use postrider_common::ids::{BatchId, LaneName};
use postrider_common::state::RecipientState;
use postrider_store::embedded::model::Model;
use postrider_worker::engine::LeaseKey;

/// Recipients of the one batch.
const RECIPIENTS: u32 = 100;

#[derive(Debug)]
pub struct Poison {
    batch: BatchId,
    index: u32,
    /// A worker that ended is started again on the same host, and tells what its journal says.
    has_journal: bool,
    pub ended: u32,
}

impl World {
    pub fn poisoned_batch(seed: u64) -> Self {
        let mut world = Self::empty(seed, Faults::default());
        world.add_run("poison", LaneName::bulk(), &[RECIPIENTS]);
        let index = world.below(u64::from(RECIPIENTS)) as u32;
        let batch = BatchId { run: world.runs[0].clone(), sequence: 1 };
        world.poison = Some(Poison { batch, index, has_journal: seed.is_multiple_of(2), ended: 0 });
        for _ in 0..2 {
            world.add_worker();
        }
        world.at(1, Happening::Reclaim);
        world
    }

    pub fn is_poison(&self, worker: usize, lease: LeaseKey, index: u32) -> bool {
        let batch = self.workers[worker].lease(lease).map(|(batch, _)| batch);
        self.poison.as_ref().is_some_and(|poison| Some(&poison.batch) == batch && poison.index == index)
    }

    pub fn poisoned(&mut self, worker: usize) {
        let facts = self.workers[worker].unwritten();
        self.workers[worker].crash();
        self.add_worker();
        let Some(poison) = &mut self.poison else { return };
        poison.ended += 1;
        if poison.has_journal {
            self.at(300, Happening::Journal(facts));
        }
    }

    /// The others have their mail, once or marked; the one is a dead letter. How many workers it ended.
    pub fn judge_poison(&self) -> u32 {
        self.judge();
        let Some(poison) = &self.poison else { return 0 };
        let batch = self.model.batches(&self.runs[0], 0, 1).remove(0);
        for (index, delivery) in (0u32..).zip(&batch.recipients) {
            let wanted = match (index == poison.index, poison.has_journal) {
                (false, _) => RecipientState::Accepted,
                // Certainly not sent, as the journal says.
                (true, true) => RecipientState::Exhausted,
                (true, false) => RecipientState::Unknown,
            };
            if delivery.state != wanted {
                self.fail(&format!("{index} is {delivery:?}, not {wanted}; the one is {}", poison.index));
            }
        }
        let letters: Vec<_> =
            Model::dead_letters(&self.model, None, None, 10).into_iter().map(|letter| letter.id.index).collect();
        if letters != [Some(poison.index)] {
            self.fail(&format!("dead letters {letters:?}, the one is {}", poison.index));
        }
        poison.ended
    }
}
