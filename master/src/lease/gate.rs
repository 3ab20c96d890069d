//! Which hours a batch has: those of its lane, from the configuration, and those that its run froze. Kept by run, so that
//! runs without any cost one look into a table.
//!
//! What is kept here never changes, and is found out anew by a master that does not have it. Whether an intent is granted
//! is decided by the store, within the span that it is told.

use super::Definitions;
use crate::api::ApiError;
use crate::core::Core;
use crate::schedule::{Hours, State, TimeZone, zone_of_country};
use crate::split::clocks::Named;
use postrider_common::ids::{BatchId, DefinitionHash, LaneName, RunId};
use postrider_common::lease::{LeaseAnswer, LeaseReport};
use postrider_common::local_time::SendAtLocal;
use postrider_common::payload;
use postrider_common::windows::Windows;
use postrider_store::{Checkpoint, ClaimedBatch, GrantSpan, StoreError};
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Runs, definitions and batches that are kept, each. Others are looked up again.
const KEPT_MAX: usize = 20_000;
/// A batch that its lane holds is looked at again after this long at the latest: the lane's hours may be changed. Those
/// of a run may not.
pub const LANE_HOLDS_MS_MAX: u64 = 300_000;

/// Reports whose intents are granted in one span, with their places among all.
type Together = (Option<GrantSpan>, Vec<(usize, LeaseReport)>);

/// The hours of all that is leased here.
#[derive(Debug, Default)]
pub struct Gates {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    definitions: HashMap<DefinitionHash, Option<Arc<Frozen>>>,
    runs: HashMap<RunId, Option<Arc<Gate>>>,
    /// Of batches whose hours go by their recipients.
    clocks: HashMap<BatchId, Arc<[TimeZone]>>,
}

/// What a run froze.
#[derive(Debug)]
struct Frozen {
    hours: Hours,
    /// By which a row tells its clock. None: its batches are of all clocks.
    rule: Option<SendAtLocal>,
}

/// The hours of the batches of a run.
#[derive(Debug)]
pub struct Gate {
    lane: Hours,
    run: Hours,
    both: Hours,
    rule: Option<SendAtLocal>,
    /// For who has no clock, and for all whose clocks are not told.
    default_clock: TimeZone,
}

impl Gate {
    fn goes_by_recipient(&self) -> bool {
        self.both.go_by_recipient()
    }

    /// How long a batch is given back for. None: it is open.
    fn holds_ms(&self, now_ms: i64, clocks: &[TimeZone]) -> Option<u64> {
        let left = |state| match state {
            State::Open { .. } => None,
            State::Closed { until_ms } => Some(u64::try_from(until_ms - now_ms).unwrap_or(0).max(1)),
        };
        let run = left(self.run.at(now_ms, clocks));
        let lane = left(self.lane.at(now_ms, clocks)).map(|ms| ms.min(LANE_HOLDS_MS_MAX));
        run.max(lane)
    }

    fn span(&self, now_ms: i64, clocks: &[TimeZone]) -> GrantSpan {
        match self.both.at(now_ms, clocks) {
            State::Open { until_ms } => GrantSpan { from_ms: now_ms, until_ms },
            State::Closed { .. } => GrantSpan::NEVER,
        }
    }

    fn clocks_of(&self, core: &Core, frame: &[u8]) -> Arc<[TimeZone]> {
        let default = || Arc::from([self.default_clock.clone()]);
        let (Some(rule), Ok(recipients)) = (&self.rule, payload::decode(frame)) else { return default() };
        let mut clocks: Vec<TimeZone> = Vec::new();
        // Of who was erased nothing is there, and nothing is sent.
        for recipient in recipients.iter().filter(|recipient| !recipient.address.is_erased()) {
            let zone = Named::zone(rule, &recipient.fields).name().and_then(|name| core.zones.find(&name));
            let country = || Named::country(rule, &recipient.fields).name().and_then(|code| zone_of_country(&code));
            let found = zone.or_else(|| country().and_then(|zone| core.zones.find(zone)));
            let clock = found.unwrap_or_else(|| self.default_clock.clone());
            if !clocks.contains(&clock) {
                clocks.push(clock);
            }
        }
        if clocks.is_empty() { default() } else { clocks.into() }
    }
}

impl Kept {
    /// Keeps it; when there are too many the others go: they are found again.
    fn keep<K: Eq + Hash, V>(map: &mut HashMap<K, V>, key: K, value: V) {
        if map.len() >= KEPT_MAX {
            map.clear();
        }
        map.insert(key, value);
    }
}

impl Gates {
    fn kept<T>(&self, look: impl FnOnce(&mut Kept) -> T) -> T {
        look(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn frozen(
        &self,
        core: &Core,
        definitions: &Definitions,
        hash: &DefinitionHash,
    ) -> Result<Option<Arc<Frozen>>, ApiError> {
        if let Some(known) = self.kept(|kept| kept.definitions.get(hash).cloned()) {
            return Ok(known);
        }
        let message = definitions.find(core, hash).await?;
        let frozen = message.windows.map(Windows::from).and_then(|windows| {
            let rule = windows.clock.as_ref().map(postrider_common::windows::RecipientClock::rule);
            // It was checked when it was applied. Of a zone that is gone since, a person is told.
            let hours = Hours::new(&windows, &core.zones).unwrap_or_else(|error| {
                tracing::error!(
                    field = error.field,
                    why = error.why,
                    "windows of a run cannot be read and are not kept"
                );
                Hours::default()
            });
            (!hours.is_empty() || rule.is_some()).then(|| Arc::new(Frozen { hours, rule }))
        });
        self.kept(|kept| Kept::keep(&mut kept.definitions, hash.clone(), frozen.clone()));
        Ok(frozen)
    }

    async fn of_run(
        &self,
        core: &Core,
        definitions: &Definitions,
        run: &RunId,
        known: Option<(&LaneName, &DefinitionHash)>,
    ) -> Result<Option<Arc<Gate>>, ApiError> {
        if let Some(found) = self.kept(|kept| kept.runs.get(run).cloned()) {
            return Ok(found);
        }
        let looked_up;
        let (lane, definition) = match known {
            Some(known) => known,
            None => {
                let Some(record) = core.store.run(run).await? else { return Ok(None) };
                looked_up = (record.lane, record.definition);
                (&looked_up.0, &looked_up.1)
            }
        };
        let frozen = self.frozen(core, definitions, definition).await?;
        let lane = core.lane_hours.get(lane).cloned().unwrap_or_default();
        let frozen_hours = frozen.as_ref().map(|frozen| frozen.hours.clone()).unwrap_or_default();
        let both = lane.hours.and(&frozen_hours);
        let rule = frozen.as_ref().and_then(|frozen| frozen.rule.clone());
        let zone = rule.as_ref().map(|rule| rule.default_zone.as_str()).filter(|zone| !zone.is_empty());
        let clock = zone.and_then(|zone| core.zones.find(zone)).or(lane.default_clock);
        let default_clock = clock.unwrap_or(TimeZone::UTC);
        let gate = (!both.is_empty())
            .then(|| Arc::new(Gate { lane: lane.hours, run: frozen_hours, both, rule, default_clock }));
        self.kept(|kept| Kept::keep(&mut kept.runs, run.clone(), gate.clone()));
        Ok(gate)
    }

    /// The clocks of a batch, from its payload, or else from the store.
    async fn clocks(
        &self,
        core: &Core,
        gate: &Gate,
        batch: &BatchId,
        frame: Option<&[u8]>,
    ) -> Result<Arc<[TimeZone]>, ApiError> {
        if !gate.goes_by_recipient() {
            return Ok(Arc::from([]));
        }
        if let Some(known) = self.kept(|kept| kept.clocks.get(batch).cloned()) {
            return Ok(known);
        }
        let stored;
        let frame = match frame {
            Some(frame) => frame,
            None => {
                let found = core.store.batches(&batch.run, batch.sequence.saturating_sub(1), 1).await?;
                stored = found.into_iter().find(|record| record.id == *batch).map(|record| record.payload);
                stored.as_deref().unwrap_or_default()
            }
        };
        let clocks = gate.clocks_of(core, frame);
        self.kept(|kept| Kept::keep(&mut kept.clocks, batch.clone(), Arc::clone(&clocks)));
        Ok(clocks)
    }

    /// Those of these lanes that are open now. None: all of them.
    pub async fn open_lanes(
        &self,
        core: &Core,
        lanes: &[(LaneName, u32)],
    ) -> Result<Option<Vec<(LaneName, u32)>>, ApiError> {
        // What goes by recipients is found out batch by batch.
        let fixed = |lane: &LaneName| core.lane_hours.get(lane).filter(|of| !of.hours.go_by_recipient());
        if lanes.iter().all(|(lane, _)| fixed(lane).is_none()) {
            return Ok(None);
        }
        let now_ms = core.store.now_ms().await?;
        let is_open = |lane: &LaneName| fixed(lane).is_none_or(|of| of.hours.at(now_ms, &[]).is_open());
        Ok(Some(lanes.iter().filter(|(lane, _)| is_open(lane)).cloned().collect()))
    }

    /// Takes out of what was claimed the batches that are held now, each with how long.
    pub async fn take_held(
        &self,
        core: &Core,
        definitions: &Definitions,
        leases: &mut Vec<ClaimedBatch>,
    ) -> Result<Vec<(ClaimedBatch, u64)>, ApiError> {
        let mut gates = Vec::with_capacity(leases.len());
        for lease in &*leases {
            let known = Some((&lease.lane, &lease.definition));
            gates.push(self.of_run(core, definitions, &lease.batch.run, known).await?);
        }
        if gates.iter().all(Option::is_none) {
            return Ok(Vec::new());
        }
        let now_ms = core.store.now_ms().await?;
        let (mut open, mut held) = (Vec::new(), Vec::new());
        for (lease, gate) in leases.drain(..).zip(gates) {
            let holds_ms = match gate {
                None => None,
                Some(gate) => {
                    let clocks = self.clocks(core, &gate, &lease.batch, Some(&lease.payload)).await?;
                    gate.holds_ms(now_ms, &clocks)
                }
            };
            match holds_ms {
                None => open.push(lease),
                Some(ms) => held.push((lease, ms)),
            }
        }
        *leases = open;
        Ok(held)
    }

    /// When intents of each of these reports are granted; none: at any time.
    async fn spans(
        &self,
        core: &Core,
        definitions: &Definitions,
        reports: &[LeaseReport],
    ) -> Result<Vec<Option<GrantSpan>>, ApiError> {
        let mut gates = Vec::with_capacity(reports.len());
        for report in reports {
            gates.push(match report.intents.is_empty() {
                true => None,
                false => self.of_run(core, definitions, &report.batch.run, None).await?,
            });
        }
        if gates.iter().all(Option::is_none) {
            return Ok(vec![None; reports.len()]);
        }
        let now_ms = core.store.now_ms().await?;
        let mut spans = Vec::with_capacity(reports.len());
        for (report, gate) in reports.iter().zip(gates) {
            spans.push(match gate {
                None => None,
                Some(gate) => {
                    let clocks = self.clocks(core, &gate, &report.batch, None).await?;
                    Some(gate.span(now_ms, &clocks))
                }
            });
        }
        Ok(spans)
    }

    /// Carries out a checkpoint, with the hours of each batch.
    pub async fn checkpoint(
        &self,
        core: &Core,
        definitions: &Definitions,
        checkpoint: Checkpoint,
    ) -> Result<Vec<LeaseAnswer>, ApiError> {
        let spans = self.spans(core, definitions, &checkpoint.reports).await?;
        if spans.iter().all(Option::is_none) {
            return Ok(core.store.checkpoint(checkpoint).await?);
        }
        let (terms, reports) = (Checkpoint { reports: Vec::new(), ..checkpoint.clone() }, checkpoint.reports);
        let count = reports.len();
        // Those of one span go in one call; each is a transition of its own anyway.
        let mut groups: Vec<Together> = Vec::new();
        for (at, (report, span)) in reports.into_iter().zip(spans).enumerate() {
            match groups.iter_mut().find(|(known, _)| *known == span) {
                Some((_, group)) => group.push((at, report)),
                None => groups.push((span, vec![(at, report)])),
            }
        }
        let mut answers: Vec<Option<LeaseAnswer>> = vec![None; count];
        for (grants, group) in groups {
            let (places, reports): (Vec<usize>, Vec<LeaseReport>) = group.into_iter().unzip();
            let told = core.store.checkpoint(Checkpoint { reports, grants, ..terms.clone() }).await?;
            for (place, answer) in places.into_iter().zip(told) {
                if let Some(slot) = answers.get_mut(place) {
                    *slot = Some(answer);
                }
            }
        }
        let missing = || StoreError::Corrupt("answers and reports differ in number".to_owned());
        Ok(answers.into_iter().collect::<Option<Vec<_>>>().ok_or_else(missing)?)
    }
}
