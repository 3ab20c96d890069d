//! What a run waits for: its windows to open, its next wave.

use super::status::ApiError;
use crate::core::Core;
use crate::schedule::{Hours, State};
use crate::split::Plan;
use postrider_common::run::RunState;
use postrider_store::RunRecord;

/// Instants by the store's clock in ms; 0: it does not wait for that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    pub held_until_ms: i64,
    pub next_wave_at_ms: i64,
}

/// Of a run that goes on. One that neither windows nor waves have to do with costs no look at all.
pub async fn of(core: &Core, run: &RunRecord) -> Result<Waiting, ApiError> {
    let goes_on = match run.state() {
        RunState::Scheduled | RunState::Splitting | RunState::Sending => true,
        RunState::Finished | RunState::Cancelled | RunState::Failed => false,
    };
    // A sealed plan whose key is missing is read once the key is back.
    let Some(plan) = Plan::decode(&run.audience).ok().filter(|_| goes_on) else { return Ok(Waiting::default()) };
    let lane = core.lane_hours.get(&run.lane).map(|lane| lane.hours.clone()).unwrap_or_default();
    let hours = Hours::new(&plan.windows, &core.zones).unwrap_or_default().and(&lane);
    if hours.is_empty() && plan.local.is_none() {
        return Ok(Waiting::default());
    }
    let now_ms = core.store.now_ms().await?;
    // By the recipients' own clocks some are held and others are not: their openings are waves.
    let held_until_ms = match hours.at(now_ms, &[]) {
        State::Closed { until_ms } if !hours.go_by_recipient() => until_ms,
        State::Closed { .. } | State::Open { .. } => 0,
    };
    let waves = if plan.local.is_some() { core.storage.waves_of(&run.id).await? } else { Vec::new() };
    let next_wave_at_ms = waves.into_iter().filter(|at| *at > now_ms).min().unwrap_or(0);
    Ok(Waiting { held_until_ms, next_wave_at_ms })
}
