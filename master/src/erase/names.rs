//! Who names which audience in the storage, and which of its fields are addresses and keys: without that only the address
//! itself can be taken out of a row, and not what else the row says of its recipient.

use super::EraseError;
use super::work::Work;
use crate::campaign;
use crate::list;
use crate::split::Plan;
use postrider_common::campaign::{Audience, AudienceFormat, Source, TextForm};
use std::collections::{BTreeMap, BTreeSet};

const RUNS_PER_READ: usize = 50;
const CAMPAIGNS_PER_READ: usize = 50;

/// How the rows of one audience are read, by all who name it. Fields have the names of the source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields {
    /// None: nobody says.
    pub format: Option<AudienceFormat>,
    pub text: TextForm,
    pub addresses: BTreeSet<String>,
    pub keys: BTreeSet<String>,
}

impl Fields {
    pub fn of(audience: &Audience) -> Self {
        let mut fields = Self::default();
        fields.add(audience);
        fields
    }

    fn add(&mut self, audience: &Audience) {
        self.format = Some(match &audience.source {
            Source::Stored { format, .. } | Source::File { format, .. } => *format,
            Source::Inline { .. } | Source::Sql(_) | Source::Http(_) | Source::List { .. } => AudienceFormat::Ndjson,
        });
        let TextForm { encoding, delimiter } = &audience.text;
        self.text.encoding = self.text.encoding.take().or_else(|| encoding.clone());
        self.text.delimiter = self.text.delimiter.or(*delimiter);
        let in_source = |name: &String| {
            let renamed = audience.columns.iter().find(|(_, to)| *to == name);
            renamed.map_or_else(|| name.clone(), |(from, _)| from.clone())
        };
        self.addresses.insert(in_source(&audience.address_field));
        self.keys.extend(audience.key_field.as_ref().map(in_source));
    }
}

pub(super) type Names = BTreeMap<String, Fields>;

fn note(names: &mut Names, audience: &Audience) {
    if let Source::Stored { sha256, .. } = &audience.source {
        names.entry(sha256.clone()).or_default().add(audience);
    }
}

pub(super) async fn look(work: &mut Work<'_>) -> Result<Names, EraseError> {
    let mut names = Names::new();
    let mut before = None;
    loop {
        let runs = work.core.store.runs(before.take(), RUNS_PER_READ).await?;
        let Some(last) = runs.last() else { break };
        before = Some((last.created_at_ms, last.id.clone()));
        // One that cannot be read was counted where its batches were looked at.
        let plans = runs.iter().filter_map(|run| Plan::decode(&run.audience).ok());
        plans.for_each(|plan| note(&mut names, &plan.audience));
        work.be_sure().await?;
    }
    let mut after = None;
    loop {
        let campaigns = work.core.store.campaigns(after.as_ref(), CAMPAIGNS_PER_READ).await?;
        let Some(last) = campaigns.last() else { break };
        after = Some(last.name.clone());
        for record in &campaigns {
            if work.erasing.is_in(&String::from_utf8_lossy(&record.spec)) {
                work.leave(format!("the campaign {}", record.name));
            }
            match campaign::decode(&record.spec) {
                Ok(campaign) => campaign.audience.iter().for_each(|audience| note(&mut names, audience)),
                Err(_) => work.count(|counts| counts.unreadable += 1),
            }
        }
    }
    for (list, versions) in work.core.storage.lists().await? {
        for version in versions {
            // The audience of one that cannot be read is looked at all the same.
            if let Ok(Some(version)) = list::read(&work.core.storage, &list, version).await {
                note(&mut names, &version.audience());
            }
            work.be_sure().await?;
        }
    }
    Ok(names)
}
