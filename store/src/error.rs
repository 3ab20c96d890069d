//! What can go wrong with a store, and what a caller may do about it.

/// An error of a store call. Reads after "failed to".
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Not reached, or no answer in time. The call may have happened.
    #[error("reach the store: {0}")]
    Unavailable(String),
    /// The store answers, and refuses writes for now (loading, read-only, out of memory). Nothing happened.
    #[error("write to the store: {message}; {mend}")]
    Refusing { message: String, mend: &'static str },
    /// Written, and not known to so many replicas as `[store] replicas` demands: a failover may lose it.
    #[error("replicate a write: {reached} of {wanted} replicas have it; start or repair the others")]
    NotReplicated { reached: u32, wanted: u32 },
    /// The server's settings or version do not carry the promises. Exit code 3.
    #[error("accept the store: {message}; {mend}")]
    Unsafe { message: String, mend: String },
    /// What is stored is not what this program writes.
    #[error("read the store: {0}")]
    Corrupt(String),
    /// A URL that cannot be used. Exit code 2.
    #[error("use the store URL: {0}")]
    Url(String),
}

const UNCOMPARED: &str = "the server was not compared with what was acknowledged yet";
pub(crate) const UNCOMPARED_MEND: &str = "a master does so as soon as it reaches the storage: see its log";

impl StoreError {
    /// A server that is new to us: see `Store::compare`.
    pub(crate) fn uncompared() -> Self {
        Self::Refusing { message: UNCOMPARED.to_owned(), mend: UNCOMPARED_MEND }
    }

    /// The same call later may succeed; every call may be repeated.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Refusing { .. } | Self::NotReplicated { .. } => true,
            Self::Unsafe { .. } | Self::Corrupt(_) | Self::Url(_) => false,
        }
    }

    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::NotReplicated { .. } => true,
            Self::Refusing { .. } | Self::Unsafe { .. } | Self::Corrupt(_) | Self::Url(_) => false,
        }
    }
}
