//! The keys that sign, which may be replaced while mail is sent.

use postrider_mail::dkim::{Signer, Signers};
use std::sync::{Arc, PoisonError, RwLock};

/// Shared by whoever sends and whoever watches the configuration.
#[derive(Debug, Clone, Default)]
pub struct Signing(Arc<RwLock<Arc<Signers>>>);

impl Signing {
    pub fn new(signers: Signers) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(signers))))
    }

    /// Messages that are made from now on are signed with these. False: they were before.
    pub fn replace(&self, signers: Signers) -> bool {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_other = !signers.iter().map(Signer::record).eq(current.iter().map(Signer::record));
        *current = Arc::new(signers);
        is_other
    }

    pub(crate) fn current(&self) -> Arc<Signers> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
