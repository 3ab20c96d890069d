//! Sources that cannot be read twice the same: a query, a feed, a file that others write to. Each is read once for a run,
//! by whoever holds its split, into a snapshot in the storage; that takes the source's place in the run's plan before
//! anything is split. From then on it is an audience like any other: proven unchanged, resumable at each row, erasable.
//!
//! A fetch that ends half-way has sent nothing and begins again. `Fetcher` reads one kind of source, `pieces` is what it
//! hands over, `snapshot` writes that, `pin` does all of it under a leased split.

mod file;
mod http;
pub(crate) mod pieces;
pub(crate) mod pin;
mod root;
pub(crate) mod snapshot;
#[cfg(feature = "sql")]
mod sql;

pub use pieces::{Pieces, RowTooLong};
pub use root::FilesRoot;

use crate::audience::ReadError;
use crate::audience::column_missing;
use crate::audience::row::Roles;
use async_trait::async_trait;
use postrider_common::Clock;
use postrider_common::campaign::{Audience, AudienceFormat, Source, TextForm};
use postrider_common::run::RunError;
use std::fmt::Debug;
use std::sync::Arc;

/// One source that was opened for reading.
#[async_trait]
pub trait Fetcher: Send + Sync + Debug {
    /// How what it hands over is written.
    fn form(&self) -> Form {
        Form { format: AudienceFormat::Ndjson, text: TextForm::default() }
    }

    /// Hands over all of the source, from the start at each call. Dropped when the split is not ours any more.
    async fn fetch(&self, pieces: &mut Pieces) -> Result<(), FetchError>;
}

/// How the bytes of a snapshot are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    pub format: AudienceFormat,
    pub text: TextForm,
}

/// Why a source was not read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchError {
    /// What the run fails with. Neither it nor anything in it tells a password or a recipient.
    pub error: RunError,
    /// It may go better in a moment: tried again a few times first.
    pub passes: bool,
}

impl FetchError {
    /// The source, or what is said of it, must be mended.
    pub fn lasting(code: &str, message: impl Into<String>, mend: impl Into<String>) -> Self {
        let error = RunError { code: code.to_owned(), message: message.into(), mend: mend.into() };
        Self { error, passes: false }
    }

    /// Such as a server that cannot be reached.
    pub fn passing(code: &str, message: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { passes: true, ..Self::lasting(code, message, mend) }
    }

    /// Nobody reads on: the reason is known there.
    fn unread() -> Self {
        Self::passing("source_unread", "the snapshot is not written any more", "resume the run")
    }
}

/// What fetchers need of a master.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Local files are read below it only. None: none are.
    pub files: Option<FilesRoot>,
    /// What may be called.
    pub outgoing: postrider_outgoing::Settings,
}

/// The columns that a campaign names, by their names in the source.
#[derive(Debug, Clone)]
pub struct Wanted(Vec<(&'static str, String)>);

impl Wanted {
    pub fn of(audience: &Audience) -> Self {
        Self(Roles::of(audience).wanted().map(|(setting, name)| (setting, name.to_owned())).collect())
    }

    /// Told before the first row is taken: a column that was renamed overnight costs nobody a mail.
    pub fn check(&self, columns: &[String]) -> Result<(), FetchError> {
        let missing = self.0.iter().find(|(_, name)| !columns.contains(name));
        match missing.map(|(setting, name)| column_missing(setting, name, columns)) {
            Some(ReadError::Run(error)) => Err(FetchError { error, passes: false }),
            Some(ReadError::Storage(_)) | None => Ok(()),
        }
    }
}

/// Whether this build can read the source at all. The error says how to build one that can.
pub fn supports(source: &Source) -> Result<(), &'static str> {
    match source {
        Source::Stored { .. } | Source::Inline { .. } | Source::Http(_) | Source::File { .. } | Source::List { .. } => {
            Ok(())
        }
        #[cfg(feature = "sql")]
        Source::Sql(_) => Ok(()),
        #[cfg(not(feature = "sql"))]
        Source::Sql(_) => {
            Err("this build cannot read databases: use one with the feature sql (cargo build --features sql)")
        }
    }
}

/// The fetcher of a source. None: it is read as it is.
fn open(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    audience: &Audience,
) -> Result<Option<Arc<dyn Fetcher>>, FetchError> {
    match &audience.source {
        Source::Stored { .. } | Source::Inline { .. } | Source::List { .. } => Ok(None),
        Source::File { path, format } => {
            let form = Form { format: *format, text: audience.text.clone() };
            Ok(Some(Arc::new(file::FileFetcher::new(settings.files.clone(), path, form))))
        }
        Source::Http(source) => {
            let fetcher = http::HttpFetcher::new(&settings.outgoing, Arc::clone(clock), source)?;
            Ok(Some(Arc::new(fetcher)))
        }
        #[cfg(feature = "sql")]
        Source::Sql(source) => {
            let (root, source, wanted) = (settings.files.clone(), source.clone(), Wanted::of(audience));
            Ok(Some(Arc::new(sql::SqlFetcher { root, source, wanted })))
        }
        #[cfg(not(feature = "sql"))]
        Source::Sql(_) => {
            let why = supports(&audience.source).err().unwrap_or_default();
            Err(FetchError::lasting(
                "source_not_built_in",
                why,
                "start every master with such a build, then resume the run",
            ))
        }
    }
}
