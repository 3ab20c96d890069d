//! The one mapping from what can go wrong to gRPC status codes.

use crate::campaign::Invalid;
use crate::history::HistoryError;
use crate::storage::StorageError;
use crate::suppress::SuppressError;
use postrider_common::wire::InvalidField;
use postrider_store::StoreError;
use tonic::{Code, Status};

/// Why a call is not answered with OK.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// A named limit of a call is passed.
    #[error("{field}: at most {max} are allowed ({limit})")]
    TooMany { field: &'static str, limit: &'static str, max: u64 },
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Precondition(String),
    /// It may go better in a moment.
    #[error("{0}")]
    Passing(String),
    #[error("the master is stopping: retry on any master")]
    Stopping,
    #[error("failed to {0}")]
    Store(#[from] StoreError),
    #[error("failed to {0}")]
    Storage(#[from] StorageError),
    #[error("failed to {0}")]
    History(#[from] HistoryError),
    /// A defect, or a store that holds what no master wrote.
    #[error("{0}")]
    Internal(String),
}

impl From<InvalidField> for ApiError {
    fn from(error: InvalidField) -> Self {
        Self::Invalid(error.into())
    }
}

impl From<SuppressError> for ApiError {
    fn from(error: SuppressError) -> Self {
        match error {
            SuppressError::Store(error) => Self::Store(error),
            SuppressError::Storage(error) => Self::Storage(error),
            error @ (SuppressError::OtherKey | SuppressError::Unreadable { .. }) => {
                Self::Precondition(format!("failed to {error}"))
            }
        }
    }
}

impl ApiError {
    pub fn code(&self) -> Code {
        match self {
            Self::Invalid(Invalid::Field { .. }) => Code::InvalidArgument,
            Self::Invalid(Invalid::Limit { .. }) | Self::TooMany { .. } => Code::ResourceExhausted,
            Self::NotFound(_) => Code::NotFound,
            Self::Conflict(_) => Code::AlreadyExists,
            Self::Precondition(_) => Code::FailedPrecondition,
            Self::Stopping | Self::Passing(_) => Code::Unavailable,
            Self::Store(
                StoreError::Unavailable(_)
                | StoreError::Refusing { .. }
                | StoreError::NotReplicated { .. }
                | StoreError::Unsafe { .. },
            ) => Code::Unavailable,
            Self::Store(StoreError::Corrupt(_) | StoreError::Url(_)) | Self::Internal(_) => Code::Internal,
            Self::History(HistoryError::Missing(_) | HistoryError::Damaged { .. }) => Code::Internal,
            Self::History(HistoryError::Storage(error)) | Self::Storage(error) => match error {
                StorageError::Open { .. } | StorageError::Failed(_) => Code::Unavailable,
                StorageError::Marks(_) | StorageError::ErasureKey => Code::Internal,
                // A retry does not help; a person must act.
                StorageError::Sealed(sealed) if sealed.is_about_keys() => Code::FailedPrecondition,
                StorageError::Sealed(_) => Code::Internal,
            },
        }
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        if error.code() == Code::Internal {
            tracing::error!(%error, "call failed by a defect or damaged data");
        }
        Self::new(error.code(), error.to_string())
    }
}

pub fn no_campaign(name: &str) -> ApiError {
    let name: String = name.escape_debug().take(80).collect();
    ApiError::NotFound(format!("there is no campaign '{name}': apply it first, or see campaign list"))
}

pub fn no_run(run: &str) -> ApiError {
    let run: String = run.escape_debug().take(80).collect();
    ApiError::NotFound(format!("there is no run '{run}': see run list"))
}
