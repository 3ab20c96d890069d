//! Looks at every campaign and every run for what they name.

use super::{Counts, KEPT_MAX, KEPT_PER_READ, SweepDuty, SweepError};
use crate::campaign;
use crate::core::Core;
use crate::list;
use crate::split::Plan;
use crate::storage::StorageError;
use postrider_common::campaign::{Audience, Source};
use postrider_store::{Kept, RunRecord, Shared};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Runs, campaigns and batches read at once.
const RUNS_PER_READ: usize = 50;
const CAMPAIGNS_PER_READ: usize = 50;
const BATCHES_PER_READ: usize = 20;
/// Between reads, so that the store has time for others.
pub(super) const READ_PAUSE: Duration = Duration::from_millis(5);

/// What is left of candidates after everybody was asked.
#[derive(Debug)]
pub(super) struct Named {
    /// Named by no batch.
    pub segments: BTreeSet<String>,
    /// Named by nobody, and when somebody was about to.
    unnamed: BTreeMap<Shared, i64>,
    /// Named by somebody.
    named: Vec<Shared>,
    /// Some could not say what they name.
    is_unsure: bool,
}

impl Named {
    pub async fn look(
        core: &Core,
        segments: BTreeSet<String>,
        kept: BTreeMap<Shared, i64>,
    ) -> Result<Self, SweepError> {
        let mut all = Self { segments, unnamed: kept, named: Vec::new(), is_unsure: false };
        // Campaigns last: what a run was made from since is noted in the store since, and is no candidate that goes.
        all.look_at_runs(core).await?;
        all.look_at_campaigns(core).await?;
        // Whoever writes a version has noted its audience in the store before.
        all.look_at_lists(core).await?;
        Ok(all)
    }

    fn note(&mut self, shared: &Shared) {
        if self.unnamed.remove(shared).is_some() {
            self.named.push(shared.clone());
        }
    }

    fn note_audience(&mut self, audience: &Audience) {
        match &audience.source {
            Source::Stored { sha256, format: _ } => self.note(&Shared::Audience(sha256.clone())),
            // What was fetched for a run is named by its plan as it is stored.
            // What a run froze of a list is stored, and what is kept of the list is named by its versions.
            Source::Inline { .. } | Source::Sql(_) | Source::Http(_) | Source::File { .. } | Source::List { .. } => (),
        }
    }

    async fn look_at_campaigns(&mut self, core: &Core) -> Result<(), SweepError> {
        let mut after = None;
        while !self.unnamed.is_empty() {
            let campaigns = core.store.campaigns(after.as_ref(), CAMPAIGNS_PER_READ).await?;
            let Some(last) = campaigns.last() else { break };
            after = Some(last.name.clone());
            for record in &campaigns {
                self.note(&Shared::Definition(record.definition.clone()));
                match campaign::decode(&record.spec) {
                    Ok(campaign) => campaign.audience.iter().for_each(|audience| self.note_audience(audience)),
                    Err(_) => self.is_unsure = true,
                }
            }
        }
        Ok(())
    }

    async fn look_at_lists(&mut self, core: &Core) -> Result<(), SweepError> {
        if self.unnamed.is_empty() {
            return Ok(());
        }
        for (name, versions) in core.storage.lists().await? {
            for version in versions {
                match list::read(&core.storage, &name, version).await {
                    Ok(Some(version)) => self.note(&Shared::Audience(version.sha256)),
                    // Gone since.
                    Ok(None) => {}
                    Err(list::ReadError::Storage(StorageError::Failed(error))) => {
                        return Err(StorageError::Failed(error).into());
                    }
                    // Sealed with a key that is not here, or of a later version of the program.
                    Err(_) => self.is_unsure = true,
                }
            }
            if !core.pause(READ_PAUSE).await {
                return Err(SweepError::Stopping);
            }
        }
        Ok(())
    }

    async fn look_at_runs(&mut self, core: &Core) -> Result<(), SweepError> {
        let mut before = None;
        while !(self.segments.is_empty() && self.unnamed.is_empty()) {
            let runs = core.store.runs(before.take(), RUNS_PER_READ).await?;
            let Some(last) = runs.last() else { break };
            before = Some((last.created_at_ms, last.id.clone()));
            for run in &runs {
                self.note(&Shared::Definition(run.definition.clone()));
                match Plan::decode(&run.audience) {
                    Ok(plan) => self.note_audience(&plan.audience),
                    // Sealed with a key that is not here.
                    Err(_) => self.is_unsure = true,
                }
                if !self.segments.is_empty() {
                    self.look_at_batches(core, run).await?;
                }
            }
            if !core.pause(READ_PAUSE).await {
                return Err(SweepError::Stopping);
            }
        }
        Ok(())
    }

    async fn look_at_batches(&mut self, core: &Core, run: &RunRecord) -> Result<(), SweepError> {
        let (mut after, mut seen) = (0, 0);
        while after < run.sequence_max {
            let batches = core.store.batches(&run.id, after, BATCHES_PER_READ).await?;
            let Some(last) = batches.last() else { break };
            after = last.id.sequence;
            seen += batches.iter().filter(|batch| batch.id.sequence <= run.sequence_max).count() as u64;
            for name in batches.iter().flat_map(|batch| &batch.segments) {
                self.segments.remove(name);
            }
            if !core.pause(READ_PAUSE).await {
                return Err(SweepError::Stopping);
            }
        }
        // One that was forgotten meanwhile names nothing any more.
        if seen == run.sequence_max || core.store.run(&run.id).await?.is_none() {
            Ok(())
        } else {
            Err(SweepError::Missing(run.id.to_string()))
        }
    }
}

impl SweepDuty {
    /// What nobody was about to name since a day ago, by the store's clock.
    pub(super) async fn kept(&self) -> Result<BTreeMap<Shared, i64>, SweepError> {
        let store = &self.core.store;
        let age_ms = u64::try_from(self.config.age.as_millis()).unwrap_or(u64::MAX);
        let before_ms = store.now_ms().await?.saturating_sub_unsigned(age_ms);
        let mut all = BTreeMap::new();
        let mut skip = 0;
        while skip < KEPT_MAX {
            let kept = store.kept(before_ms, skip, KEPT_PER_READ).await?;
            if kept.is_empty() {
                break;
            }
            skip += kept.len();
            all.extend(kept.into_iter().map(|Kept { shared, at_ms }| (shared, at_ms)));
        }
        Ok(all)
    }

    /// The store lets go of each first, unless somebody was about to name it meanwhile; then its object is removed. An
    /// upload of the same contents in between those two would be in vain: the run says that its audience is missing.
    pub(super) async fn forget_unnamed(&self, named: &Named) -> Result<Counts, SweepError> {
        let store = &self.core.store;
        store.keep(named.named.clone()).await?;
        let sure = |shared: &Shared| match shared {
            Shared::Audience(_) => !named.is_unsure,
            // What runs and campaigns have of it is not sealed.
            Shared::Definition(_) => true,
        };
        let unnamed = named.unnamed.iter().filter(|(shared, _)| sure(shared));
        let unnamed = unnamed.map(|(shared, at_ms)| Kept { shared: shared.clone(), at_ms: *at_ms }).collect();
        let mut counts = Counts::default();
        for shared in store.forget_kept(unnamed).await? {
            match shared {
                Shared::Audience(sha256) => {
                    self.core.storage.remove_audience(&sha256).await?;
                    counts.audiences += 1;
                }
                Shared::Definition(_) => counts.definitions += 1,
            }
        }
        Ok(counts)
    }
}
