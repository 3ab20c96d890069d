//! How a call gets from a master to the store and its answer back: late, twice, or not at all.

use super::{LOST_AFTER_MS, Line, StoreWorld};
use crate::fate::Fate;
use postrider_store::embedded::model::{Command, Model};
use postrider_store::{Result, StoreError};
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Line {
    fn fate(&self) -> Fate {
        let mut world = self.world();
        if world.is_healed {
            return Fate::default();
        }
        let StoreWorld { mix, random, faults, .. } = &mut *world;
        let fate = Fate::draw(mix, random);
        *faults += fate.faults();
        fate
    }

    async fn runs(&self) {
        loop {
            let goes_on = self.gate.goes_on.notified();
            if !self.gate.is_stopped() {
                return;
            }
            goes_on.await;
        }
    }

    async fn lost(&self, why: &str) -> StoreError {
        tokio::time::sleep(Duration::from_millis(LOST_AFTER_MS)).await;
        StoreError::Unavailable(why.to_owned())
    }

    /// Makes a call as a line makes it: perhaps late, perhaps twice, perhaps without an answer.
    pub(super) async fn carry<T: Send>(&self, apply: impl Fn(&mut StoreWorld) -> Result<T> + Send + Sync) -> Result<T> {
        self.runs().await;
        let fate = self.fate();
        if fate.delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(fate.delay_ms)).await;
        }
        if fate.is_lost || self.gate.is_cut.load(Ordering::Relaxed) {
            return Err(self.lost("the call was lost").await);
        }
        if fate.is_repeated {
            let first = apply(&mut self.world());
            drop(first);
            tokio::time::sleep(Duration::from_millis(1 + fate.delay_back_ms)).await;
        }
        let (answer, position) = {
            let mut world = self.world();
            (apply(&mut world), world.position())
        };
        if fate.delay_back_ms > 0 {
            tokio::time::sleep(Duration::from_millis(fate.delay_back_ms)).await;
        }
        if fate.is_answer_lost || self.gate.is_cut.load(Ordering::Relaxed) {
            return Err(self.lost("the answer was lost").await);
        }
        self.runs().await;
        if self.world().was_never_told(&position) {
            return Err(self.lost("the server ended").await);
        }
        if answer.is_ok() {
            self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).note(position.mark);
            self.world().tell(position.length);
        }
        answer
    }

    pub(super) async fn read<T: Send>(&self, look: impl Fn(&Model) -> T + Send + Sync) -> Result<T> {
        self.carry(|world| match world.is_down {
            true => Err(StoreError::Unavailable("it is down".to_owned())),
            false => Ok(look(&world.model)),
        })
        .await
    }

    pub(super) async fn write<A: Clone + Send + Sync + 'static, T: Send + 'static>(
        &self,
        arguments: A,
        command: fn(A) -> Command,
        act: fn(&mut Model, i64, A) -> T,
    ) -> Result<T> {
        self.carry(|world| world.apply(&arguments, command, act)).await
    }

    pub(super) async fn write_and_wake<A: Clone + Send + Sync + 'static, T: Send + 'static>(
        &self,
        arguments: A,
        command: fn(A) -> Command,
        act: fn(&mut Model, i64, A) -> T,
    ) -> Result<T> {
        let answer = self.write(arguments, command, act).await;
        self.world().hint();
        answer
    }
}
