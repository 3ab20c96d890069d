//! What is rendered, for whom, and the identity that the message carries.

use crate::address::Address;
use crate::ids::{DefinitionHash, RunId, to_hex};
use crate::windows::Windows;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// One person in a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipient {
    pub address: Address,
    /// Identifies the recipient in the run; repeats are by key.
    pub key: String,
    pub fields: serde_json::Map<String, serde_json::Value>,
}

/// A message definition: templates and header values, the same for every recipient of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageSpec {
    pub from: String,
    pub reply_to: String,
    /// Empty: the address of `from`.
    pub return_path: String,
    pub subject: String,
    pub html: String,
    /// Empty: made from the HTML.
    pub text: String,
    pub headers: BTreeMap<String, String>,
    pub tags: Vec<String>,
    pub campaign: String,
    pub correlation_id: String,
    /// Where merge fields are fetched; `None`: all are in the payload.
    #[serde(default)]
    pub data_url: Option<DataUrl>,
    /// When sending may begin.
    #[serde(default)]
    pub windows: Windows,
    /// Or this instead.
    #[serde(default)]
    pub data_sql: Option<DataSql>,
}

/// The query that gives the merge fields of each batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSql {
    /// `env:NAME` of the worker's host: the URL may have a password in it.
    pub url: String,
    pub query: String,
    /// Column of the rows that holds the key.
    pub key: String,
    /// Of one try.
    pub timeout_ms: u64,
    pub on_missing: OnMissingData,
}

/// Where the merge fields of each batch are fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataUrl {
    pub url: String,
    /// Of one try.
    pub timeout_ms: u64,
    /// `env:NAME` of the worker's host. Empty: calls are not signed.
    pub secret: String,
    pub on_missing: OnMissingData,
    /// Values may be `env:NAME`, too.
    pub headers: BTreeMap<String, String>,
}

/// What becomes of a recipient that the answer does not name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnMissingData {
    /// Never sent.
    #[default]
    Reject,
    /// Sent with the fields of the audience alone.
    Send,
    /// Tried again by the retry schedule, which costs an attempt.
    Defer,
}

impl MessageSpec {
    /// The encoding that the hash is of: deterministic, since every map is ordered.
    pub fn encode(&self) -> Vec<u8> {
        postrider_proto::v1::MessageDefinition::from(self.clone()).encode_to_vec()
    }

    pub fn hash(&self) -> DefinitionHash {
        DefinitionHash::of(&self.encode())
    }

    /// The address in `from`, without the display name.
    pub fn from_address(&self) -> Option<Address> {
        let mailbox: lettre::message::Mailbox = self.from.parse().ok()?;
        mailbox.email.to_string().parse().ok()
    }

    /// The domain that message ids are made at.
    pub fn sender_domain(&self) -> String {
        self.from_address().map(|address| address.domain()).unwrap_or_default()
    }
}

/// `<hash@domain>`, the same at every attempt for one recipient of one run and for nothing else, so a
/// receiver can tell a repeat from a second message (RFC 5322 3.6.4).
pub fn message_id(run: &RunId, key: &str, sender_domain: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(run.as_str());
    hash.update([0]);
    hash.update(key);
    format!("<{}@{sender_domain}>", &to_hex(&hash.finalize())[..32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_id_belongs_to_one_recipient_of_one_run() {
        let (one, two) = (RunId::derive("a", "1"), RunId::derive("a", "2"));
        let id = message_id(&one, "x@example.com", "acme.example");
        assert_eq!(id, message_id(&one, "x@example.com", "acme.example"));
        assert_ne!(id, message_id(&two, "x@example.com", "acme.example"));
        assert_ne!(id, message_id(&one, "y@example.com", "acme.example"));
        assert!(id.ends_with("@acme.example>"));
    }

    #[test]
    fn the_hash_follows_the_contents() {
        let mut spec = MessageSpec { from: "Acme <digest@acme.example>".into(), ..MessageSpec::default() };
        let before = spec.hash();
        assert_eq!(spec.sender_domain(), "acme.example");
        spec.subject = "Hello".into();
        assert_ne!(before, spec.hash());
    }
}
