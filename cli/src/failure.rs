//! How a command ends when it does not end well: one message and one exit code.

use std::fmt;
use std::process::ExitCode;

/// The exit codes that other programs rely on. 0 is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was tried and did not work, or a `--wait` ended failed or cancelled.
    Failed = 1,
    /// Wrong usage, configuration or campaign file: nothing was tried.
    Usage = 2,
    /// The store's settings do not carry the promises.
    UnsafeStore = 3,
}

/// One clear message: what, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub exit: Exit,
    /// Empty when everything was said already (a report that ends in failure).
    pub message: String,
}

pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub fn failed(message: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, message: message.into() }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into() }
    }

    pub fn unsafe_store(message: impl Into<String>) -> Self {
        Self { exit: Exit::UnsafeStore, message: message.into() }
    }

    /// The report on stdout said it; only the exit code is left to give.
    pub fn told() -> Self {
        Self::failed("")
    }

    /// Prints the message on stderr and gives the exit code.
    pub fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            eprintln!("error: {}", self.message);
        }
        ExitCode::from(self.exit as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::failed(format!("{error:#}"))
    }
}

/// Writing to stdout failed; a closed pipe is how `| head` says that it has enough.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::told(),
            _ => Self::failed(format!("cannot write the output: {error}")),
        }
    }
}
