//! Message definitions, compiled once, and the batches that are rendered with them.

use crate::dispatch::Leased;
use crate::engine::{Endpoint, LeaseKey, Offer};
use crate::fields::{Absent, Found, Origin};
use postrider_common::ids::{BatchId, DefinitionHash, Fence, LaneName, RunId};
use postrider_common::lease::{Lease, Outcome, OutcomeKind};
use postrider_common::limits::{CODE_BYTES_MAX, DETAIL_BYTES_MAX, KNOWN_DEFINITIONS_MAX};
use postrider_common::message::{MessageSpec, OnMissingData, Recipient, message_id};
use postrider_common::payload;
use postrider_common::wire::printable;
use postrider_mail::dkim::Signers;
use postrider_mail::smtp::client::Outgoing;
use postrider_mail::{BuildError, Envelope, RenderError, Sender, Template, build};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// For recipients whose fields an endpoint does not know.
const NO_FIELDS: &str = "data";

/// What a run renders. One that does not compile is kept as its error: each of its recipients is refused
/// with it.
#[derive(Debug)]
pub(crate) struct Definition {
    template: Result<Template, String>,
    /// Without and with what belongs to a list.
    senders: [Result<Sender, String>; 2],
    /// Where merge fields are fetched.
    pub(crate) origin: Option<Result<Origin, String>>,
}

impl Definition {
    fn compile(spec: &MessageSpec) -> Self {
        let sender = |bulk| Sender::new(spec, bulk).map_err(|error| error.to_string());
        Self {
            template: Template::compile(spec).map_err(|error| error.to_string()),
            senders: [sender(false), sender(true)],
            origin: Origin::of(spec),
        }
    }
}

/// A leased batch, ready to be rendered.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) id: BatchId,
    pub(crate) fence: Fence,
    pub(crate) run: RunId,
    pub(crate) campaign: String,
    pub(crate) lane: LaneName,
    pub(crate) recipients: Vec<Recipient>,
    pub(crate) definition: Arc<Definition>,
    /// By index, once they were fetched; never again under the same lease.
    pub(crate) fields: OnceLock<BTreeMap<u32, Found>>,
}

impl Batch {
    /// Where its merge fields are to be fetched.
    pub(crate) fn endpoint(&self) -> Option<Endpoint> {
        self.definition.origin.as_ref()?.as_ref().ok().map(|origin| origin.endpoint.clone())
    }

    pub(crate) fn give_fields(&self, found: BTreeMap<u32, Found>) {
        // A second answer to the same question says nothing new.
        let _ = self.fields.set(found);
    }

    /// The recipient with all its fields: what was fetched wins. Or why it has none, and what becomes of it.
    fn complete(&self, index: u32) -> Result<Cow<'_, Recipient>, (OutcomeKind, String)> {
        let recipient = self.recipients.get(index as usize);
        let recipient = recipient.ok_or((OutcomeKind::Rejected, "the batch has no such recipient".to_owned()))?;
        let origin = match &self.definition.origin {
            None => return Ok(Cow::Borrowed(recipient)),
            // Such a lease is handed back before anybody of it is asked for.
            Some(Err(why)) => return Err((OutcomeKind::NotWritten, why.clone())),
            Some(Ok(origin)) => origin,
        };
        // The engine asks for nobody before; without, nothing is sent.
        let found = self.fields.get().and_then(|fields| fields.get(&index));
        match found.ok_or((OutcomeKind::NotWritten, "its fields were not fetched".to_owned()))? {
            Ok(fields) => {
                let mut recipient = recipient.clone();
                recipient.fields.extend(fields.clone());
                Ok(Cow::Owned(recipient))
            }
            Err(why @ (Absent::Shape | Absent::Size | Absent::Several)) => {
                Err((OutcomeKind::Rejected, why.to_string()))
            }
            Err(why @ Absent::Missing) => match origin.on_missing {
                OnMissingData::Reject => Err((OutcomeKind::Rejected, why.to_string())),
                OnMissingData::Defer => Err((OutcomeKind::Deferred, why.to_string())),
                OnMissingData::Send => Ok(Cow::Borrowed(recipient)),
            },
        }
    }

    /// The message for one recipient; or its outcome, when it cannot be made.
    pub(crate) fn render(&self, index: u32, date_ms: i64, signers: &Signers) -> Result<Outgoing, Outcome> {
        let refused = |code: &str, why: &dyn std::fmt::Display| Outcome {
            index,
            kind: OutcomeKind::Rejected,
            code: printable(code, CODE_BYTES_MAX),
            detail: printable(&why.to_string(), DETAIL_BYTES_MAX),
            retry_after_ms: 0,
        };
        let recipient = self.complete(index).map_err(|(kind, why)| Outcome { kind, ..refused(NO_FIELDS, &why) })?;
        let recipient = recipient.as_ref();
        let is_bulk = self.lane != LaneName::transactional();
        let sender = self.definition.senders[usize::from(is_bulk)].as_ref();
        let sender = sender.map_err(|why| refused(BuildError::CODE, why))?;
        let template = self.definition.template.as_ref().map_err(|why| refused(RenderError::CODE, why))?;
        let rendered = template.render(recipient).map_err(|why| refused(RenderError::CODE, &why))?;
        let message_id = message_id(&self.run, &recipient.key, sender.domain());
        let envelope = Envelope { sender, run: &self.run, recipient, message_id: &message_id, date_ms };
        let mut built = build(&rendered, &envelope).map_err(|why| refused(BuildError::CODE, &why))?;
        let signed = signers.sign(&mut built.bytes, sender.domain(), date_ms / 1000);
        signed.map_err(|why| refused(BuildError::CODE, &why))?;
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
    if let Some(Err(why)) = &definition.origin {
        tracing::error!(batch = %lease.batch, error = why, "merge fields cannot be fetched by this worker");
        return None;
    }
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
    let (id, fence) = (lease.batch.clone(), lease.fence.clone());
    let (run, campaign, lane) = (lease.run.clone(), lease.campaign.clone(), lease.lane.clone());
    Some(Batch { id, fence, run, campaign, lane, recipients, definition, fields: OnceLock::new() })
}

impl Prepared {
    /// Gives each lease its key.
    pub(crate) fn offers(self, mut key: impl FnMut() -> LeaseKey) -> Vec<(Offer, Option<Batch>)> {
        let offer = |(lease, batch): (Lease, Option<Batch>)| {
            (
                Offer {
                    key: key(),
                    lease,
                    is_usable: batch.is_some(),
                    endpoint: batch.as_ref().and_then(Batch::endpoint),
                },
                batch,
            )
        };
        self.leases.into_iter().map(offer).collect()
    }
}
