//! Where the shard is, and whether it went back in time.

use super::link::Answers;
use super::reply::{Elements, corrupt, parse, read};
use super::scripts::{Args, Transition};
use super::shard::Shard;
use crate::api::{Compare, Compared, Found, Result};
use postrider_common::mark::{Mark, Marks};
use redis::{Pipeline, Value};
use std::sync::PoisonError;

impl Shard {
    /// Transitions in one round trip, and where the shard is after them: what an answer shows is in what was seen.
    pub(super) async fn transit(&self, transition: Transition, mut pipe: Pipeline) -> Result<Answers> {
        pipe.cmd("HMGET").arg(self.keys.shard()).arg(&["epoch", "sequence"]);
        let mut answers = self.call(transition, pipe).await?;
        if let Some(Ok(position)) = answers.pop() {
            self.note_position(position);
        }
        Ok(answers)
    }

    /// Epoch and sequence, as a script or the server told them. What cannot be read proves nothing later, and must not cost
    /// an answer that was given.
    pub(super) fn note_position(&self, position: Value) {
        if let Ok((Some(epoch), sequence)) = read::<(Option<u64>, Option<u64>)>(position, "the position") {
            self.note(self.mark(epoch, sequence.unwrap_or(0)));
        }
    }

    fn mark(&self, epoch: u64, sequence: u64) -> Mark {
        Mark { shard: u32::from(self.number), epoch, sequence }
    }

    fn note(&self, mark: Mark) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).note(mark);
    }

    pub(super) fn marks_seen(&self) -> Marks {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) async fn compare_marks(&self, compare: &Compare) -> Result<Compared> {
        let marks: Vec<Mark> = compare.marks.of_shard(u32::from(self.number)).collect();
        let args = Args::default().flag(compare.confirm).int(marks.len() as u64);
        let args = marks.iter().fold(args, |args, mark| args.int(mark.epoch).int(mark.sequence));
        let mut answer = Elements::of(self.run_script(Transition::Compare, &[], args).await?, "compare")?;
        let found: String = answer.read()?;
        let seen = self.mark(answer.parse()?, answer.parse()?);
        let had: u64 = answer.parse()?;
        let mark = self.mark(answer.parse()?, answer.parse()?);
        let (stopped, rollbacks): (u8, u64) = (answer.read()?, answer.parse()?);
        let sign: String = answer.read()?;
        let found = match found.as_str() {
            "same" => Found::Same,
            "new_server" => Found::NewServer,
            "confirmed" => {
                self.wake.bump();
                Found::Confirmed
            }
            "went_back" => Found::WentBack { seen, had },
            other => return Err(corrupt(format!("compare answered {other}"))),
        };
        let sign_ms = if sign.is_empty() { None } else { Some(parse(&sign, "the sign of life")?) };
        Ok(Compared { found, mark, is_stopped: stopped == 1, rollbacks, sign_ms })
    }
}
