//! Message definitions, compiled once, and the batches that are rendered with them.

use crate::dispatch::Leased;
use crate::engine::{LeaseKey, Offer};
use postrider_common::ids::{DefinitionHash, LaneName, RunId};
use postrider_common::lease::{Lease, Outcome, OutcomeKind};
use postrider_common::limits::{CODE_BYTES_MAX, DETAIL_BYTES_MAX, KNOWN_DEFINITIONS_MAX};
use postrider_common::message::{MessageSpec, Recipient, message_id};
use postrider_common::payload;
use postrider_common::wire::printable;
use postrider_mail::smtp::client::Outgoing;
use postrider_mail::{BuildError, Envelope, RenderError, Sender, Template, build};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a run renders. One that does not compile is kept as its error: each of its recipients is refused
/// with it.
#[derive(Debug)]
pub(crate) struct Definition {
    template: Result<Template, String>,
    /// Without and with what belongs to a list.
    senders: [Result<Sender, String>; 2],
}

impl Definition {
    fn compile(spec: &MessageSpec) -> Self {
        let sender = |bulk| Sender::new(spec, bulk).map_err(|error| error.to_string());
        Self {
            template: Template::compile(spec).map_err(|error| error.to_string()),
            senders: [sender(false), sender(true)],
        }
    }
}

/// A leased batch, ready to be rendered.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) run: RunId,
    pub(crate) lane: LaneName,
    pub(crate) recipients: Vec<Recipient>,
    pub(crate) definition: Arc<Definition>,
}

impl Batch {
    /// The message for one recipient; or its outcome, when it cannot be made.
    pub(crate) fn render(&self, index: u32, date_ms: i64) -> Result<Outgoing, Outcome> {
        let refused = |code: &str, why: &dyn std::fmt::Display| Outcome {
            index,
            kind: OutcomeKind::Rejected,
            code: printable(code, CODE_BYTES_MAX),
            detail: printable(&why.to_string(), DETAIL_BYTES_MAX),
            retry_after_ms: 0,
        };
        let recipient = self
            .recipients
            .get(index as usize)
            .ok_or_else(|| refused(BuildError::CODE, &"the batch has no such recipient"))?;
        let is_bulk = self.lane != LaneName::transactional();
        let sender = self.definition.senders[usize::from(is_bulk)].as_ref();
        let sender = sender.map_err(|why| refused(BuildError::CODE, why))?;
        let template = self.definition.template.as_ref().map_err(|why| refused(RenderError::CODE, why))?;
        let rendered = template.render(recipient).map_err(|why| refused(RenderError::CODE, &why))?;
        let message_id = message_id(&self.run, &recipient.key, sender.domain());
        let envelope = Envelope { sender, run: &self.run, recipient, message_id: &message_id, date_ms };
        let built = build(&rendered, &envelope).map_err(|why| refused(BuildError::CODE, &why))?;
        Ok(Outgoing { mail_from: built.mail_from, rcpt_to: built.rcpt_to, message: built.bytes })
    }
}

/// Definitions held, the least recently used leave first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Definitions {
    by_hash: BTreeMap<DefinitionHash, (u64, Arc<Definition>)>,
    uses: u64,
}

impl Definitions {
    pub(crate) fn hashes(&self) -> Vec<DefinitionHash> {
        self.by_hash.keys().cloned().collect()
    }

    fn find(&mut self, hash: &DefinitionHash) -> Option<Arc<Definition>> {
        self.uses += 1;
        let (used, definition) = self.by_hash.get_mut(hash)?;
        *used = self.uses;
        Some(definition.clone())
    }

    pub(crate) fn keep(&mut self, hash: DefinitionHash, definition: Arc<Definition>) {
        self.uses += 1;
        self.by_hash.insert(hash, (self.uses, definition));
        if self.by_hash.len() > KNOWN_DEFINITIONS_MAX
            && let Some(oldest) = self.by_hash.iter().min_by_key(|(_, (used, _))| *used).map(|(hash, _)| hash.clone())
        {
            self.by_hash.remove(&oldest);
        }
    }
}

/// An answer to Lease, unpacked and compiled.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    pub(crate) definitions: Vec<(DefinitionHash, Arc<Definition>)>,
    /// None: the lease cannot be used.
    pub(crate) leases: Vec<(Lease, Option<Batch>)>,
}

/// Takes time: not for the loop.
pub(crate) fn prepare(leased: Leased, mut known: Definitions) -> Prepared {
    let mut prepared = Prepared::default();
    for (hash, spec) in leased.definitions {
        let definition = Arc::new(Definition::compile(&spec));
        known.keep(hash.clone(), definition.clone());
        prepared.definitions.push((hash, definition));
    }
    for mut lease in leased.leases {
        let batch = unpack(&lease, &mut known);
        lease.payload = bytes::Bytes::new();
        prepared.leases.push((lease, batch));
    }
    prepared
}

fn unpack(lease: &Lease, known: &mut Definitions) -> Option<Batch> {
    let Some(definition) = known.find(&lease.definition) else {
        tracing::error!(batch = %lease.batch, definition = %lease.definition, "lease came without its definition");
        return None;
    };
    let recipients = match payload::decode(&lease.payload) {
        Ok(recipients) => recipients,
        Err(error) => {
            tracing::error!(batch = %lease.batch, %error, "payload cannot be read");
            return None;
        }
    };
    if recipients.len() != lease.recipients.len() {
        tracing::error!(batch = %lease.batch, "payload and lease differ in the number of recipients");
        return None;
    }
    Some(Batch { run: lease.run.clone(), lane: lease.lane.clone(), recipients, definition })
}

impl Prepared {
    /// Gives each lease its key.
    pub(crate) fn offers(self, mut key: impl FnMut() -> LeaseKey) -> Vec<(Offer, Option<Batch>)> {
        let offer =
            |(lease, batch): (Lease, Option<Batch>)| (Offer { key: key(), lease, is_usable: batch.is_some() }, batch);
        self.leases.into_iter().map(offer).collect()
    }
}
