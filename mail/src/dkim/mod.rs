//! DKIM signatures (RFC 6376, Ed25519: RFC 8463): who signs what, and the header field that says so.
//!
//! Same message, same signature: the time in it is that of the message, and both algorithms are deterministic.

mod canonical;
mod key;

#[cfg(test)]
mod tests;

pub use key::{Algorithm, InvalidKey, PrivateKey};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use canonical::Field;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;

/// Signed, and listed once more than they are there, so that none can be added (RFC 6376 8.15).
const OVERSIGNED: [&str; 13] = [
    "From",
    "To",
    "Cc",
    "Reply-To",
    "Sender",
    "Subject",
    "Date",
    "Message-ID",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
];
/// The same where they are there, as are those of lists: a mailing list that adds its own breaks no signature of a message
/// without (RFC 6376 5.4.1).
const OVERSIGNED_IF_THERE: [&str; 2] = ["Feedback-ID", "Auto-Submitted"];
/// One-click unsubscription must be covered (RFC 8058 4).
const LIST_FIELDS: &str = "list-";
/// Where lines of the field end.
const LINE_BYTES_WANTED: usize = 76;
/// RFC 1035 2.3.4.
const DOMAIN_BYTES_MAX: usize = 253;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSigner {
    #[error("domain '{0}' is not the name of a domain, such as \"acme.example\"")]
    Domain(String),
    #[error("selector '{0}' is not a name, such as \"mail\" or \"2026-11.mail\"")]
    Selector(String),
    #[error(transparent)]
    Key(#[from] InvalidKey),
    #[error(
        "there are two {} keys for {domain}: one signs; to change it, publish the new selector and replace the old one",
        algorithm.as_str()
    )]
    Twice { domain: String, algorithm: Algorithm },
}

/// A message that cannot be signed: it has no header, or the library refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be signed")]
pub struct Unsigned;

/// A key with its place in the DNS.
#[derive(Debug)]
pub struct Signer {
    domain: String,
    selector: String,
    key: PrivateKey,
}

impl Signer {
    /// A domain of other than ASCII is taken in its A-labels (RFC 5890). `pem`: see `PrivateKey::of_pem`.
    pub fn new(domain: &str, selector: &str, pem: &[u8]) -> Result<Self, InvalidSigner> {
        let ascii = ascii_domain(domain).filter(|ascii| is_name(ascii) && ascii.contains('.'));
        let domain = ascii.ok_or_else(|| InvalidSigner::Domain(domain.escape_debug().to_string()))?;
        if !is_name(selector) {
            return Err(InvalidSigner::Selector(selector.escape_debug().to_string()));
        }
        Ok(Self { domain, selector: selector.to_owned(), key: PrivateKey::of_pem(pem)? })
    }

    pub fn domain(&self) -> &str {
        &self.domain
    }

    pub fn algorithm(&self) -> Algorithm {
        self.key.algorithm()
    }

    /// The name of the TXT record of its public key, and its text.
    pub fn record(&self) -> (String, String) {
        (format!("{}._domainkey.{}", self.selector, self.domain), self.key.record())
    }

    /// The field up to the signature, which is to follow.
    fn begin(&self, at_s: i64, names: &[&str], body_hash: &str) -> String {
        let mut line = Line { text: "DKIM-Signature:".to_owned(), column: 15 };
        line.word(" v=1;");
        line.word(&format!(" a={};", self.key.algorithm().as_str()));
        line.word(" c=relaxed/relaxed;");
        line.word(&format!(" d={};", self.domain));
        line.word(&format!(" s={};", self.selector));
        line.word(&format!(" t={at_s};"));
        for (at, name) in names.iter().enumerate() {
            let before = if at == 0 { " h=" } else { "" };
            let after = if at + 1 == names.len() { ";" } else { ":" };
            line.word(&format!("{before}{name}{after}"));
        }
        line.word(&format!(" bh={body_hash};"));
        line.word(" b=");
        line.text
    }
}

/// Text that is folded: before a space, or with one (both mean the same in this field).
struct Line {
    text: String,
    column: usize,
}

impl Line {
    fn word(&mut self, word: &str) {
        if self.column + word.len() > LINE_BYTES_WANTED {
            self.text.push_str("\r\n");
            self.column = 0;
            if !word.starts_with(' ') {
                self.text.push(' ');
                self.column = 1;
            }
        }
        self.text.push_str(word);
        self.column += word.len();
    }
}

/// Letters, digits and hyphens between dots.
fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= DOMAIN_BYTES_MAX && text.split('.').all(is_label)
}

fn ascii_domain(domain: &str) -> Option<String> {
    idna::domain_to_ascii(domain.trim_end_matches('.')).ok()
}

/// All keys of a worker.
#[derive(Debug, Default)]
pub struct Signers(Vec<Signer>);

impl Signers {
    /// Errors: two keys of one algorithm for one domain.
    pub fn new(signers: Vec<Signer>) -> Result<Self, InvalidSigner> {
        let mut seen = BTreeSet::new();
        for signer in &signers {
            if !seen.insert((&signer.domain, signer.algorithm())) {
                return Err(InvalidSigner::Twice { domain: signer.domain.clone(), algorithm: signer.algorithm() });
            }
        }
        Ok(Self(signers))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Signer> {
        self.0.iter()
    }

    /// The keys of the nearest domain that has some: its own, or one above it, which is as good for DMARC (RFC 9989,
    /// relaxed alignment). None: its mail is not signed here.
    fn of<'a>(&'a self, domain: &'a str) -> impl Iterator<Item = &'a Signer> {
        let parents = std::iter::successors(Some(domain), |name| name.split_once('.').map(|(_, parent)| parent));
        let nearest = parents.into_iter().find(|name| self.0.iter().any(|signer| signer.domain == *name));
        self.0.iter().filter(move |signer| Some(signer.domain.as_str()) == nearest)
    }

    /// Puts a signature of each key before `message`. `domain`: of its author; `at_s`: in seconds since 1970.
    pub fn sign(&self, message: &mut Vec<u8>, domain: &str, at_s: i64) -> Result<(), Unsigned> {
        if self.0.is_empty() {
            return Ok(());
        }
        let domain = ascii_domain(domain).unwrap_or_default();
        let mut signers = self.of(&domain).peekable();
        if signers.peek().is_none() {
            return Ok(());
        }
        let (fields, body) = canonical::split(message).ok_or(Unsigned)?;
        let body_hash = STANDARD.encode(Sha256::digest(canonical::relaxed_body(body)));
        let names = covered(&fields);
        let mut header = Vec::new();
        let mut left: Vec<Option<&Field<'_>>> = fields.iter().map(Some).collect();
        for name in &names {
            // The last one first (RFC 6376 5.4.2); one that is not there adds nothing.
            let at = left.iter().rposition(|field| field.is_some_and(|field| field.name.eq_ignore_ascii_case(name)));
            if let Some(field) = at.and_then(|at| left[at].take()) {
                canonical::relaxed_field(&mut header, field.name, field.value);
                header.extend_from_slice(b"\r\n");
            }
        }
        let mut before = String::new();
        for signer in signers {
            let begun = signer.begin(at_s, &names, &body_hash);
            let mut data = header.clone();
            let (name, value) = begun.split_once(':').ok_or(Unsigned)?;
            canonical::relaxed_field(&mut data, name, value.as_bytes());
            let signature = STANDARD.encode(signer.key.sign(&data).ok_or(Unsigned)?);
            let mut line = Line { column: begun.rsplit('\n').next().map_or(0, str::len), text: begun };
            for at in (0..signature.len()).step_by(64) {
                line.word(&signature[at..signature.len().min(at + 64)]);
            }
            before.push_str(&line.text);
            before.push_str("\r\n");
        }
        message.splice(0..0, before.into_bytes());
        Ok(())
    }
}

/// The tag `h=`: names of fields, as often as they are covered.
fn covered<'a>(fields: &[Field<'a>]) -> Vec<&'a str> {
    let is = |name: &'a str| move |field: &&Field<'_>| field.name.eq_ignore_ascii_case(name);
    let mut names: Vec<&str> = OVERSIGNED.to_vec();
    for Field { name, .. } in fields {
        let is_of_list = name.get(..LIST_FIELDS.len()).is_some_and(|start| start.eq_ignore_ascii_case(LIST_FIELDS));
        let is_covered = is_of_list || OVERSIGNED_IF_THERE.iter().any(|one| one.eq_ignore_ascii_case(name));
        if is_covered && !names.iter().any(|one| one.eq_ignore_ascii_case(name)) {
            names.push(name);
        }
    }
    names.into_iter().flat_map(|name| std::iter::repeat_n(name, fields.iter().filter(is(name)).count() + 1)).collect()
}
