//! What a session and its caller say to each other.

use crate::smtp::classify::Verdict;

/// One message for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Empty: the null reverse-path.
    pub mail_from: String,
    pub rcpt_to: String,
    /// Lines end in CRLF; not dot-stuffed.
    pub message: Vec<u8>,
}

/// Bytes to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub bytes: Vec<u8>,
    /// These bytes are the whole content and the final dot: look at the lease, then write all of them, or
    /// none and call `refuse_final_dot`.
    pub carries_final_dot: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The server waits for a TLS handshake: make it, then call `secured`.
    StartTls,
    /// The session is idle and takes a message.
    Ready,
    /// The message in flight ended so.
    Done(Verdict),
    /// The session is over: drop the connection. `code` is the last reply's, or a word.
    Closed { code: String, detail: String },
}

/// How a connection was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// It never came to be.
    Connect,
    /// It was closed or reset.
    Closed,
    /// `Session::timeout` passed, or `WRITE_TIMEOUT`.
    Timeout,
    /// A write failed before all bytes of the chunk were handed to the system, so its end, and with it a
    /// final dot, was certainly not sent.
    WriteCut,
}

impl Lost {
    /// The word in the place of a reply code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Closed | Self::WriteCut => "lost",
            Self::Timeout => "timeout",
        }
    }

    pub(super) fn detail(self) -> &'static str {
        match self {
            Self::Connect => "the connection could not be made",
            Self::Closed => "the connection was closed",
            Self::Timeout => "no reply in time",
            Self::WriteCut => "the connection was closed while writing",
        }
    }
}

/// Two messages cannot be in flight on one connection; or the session is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("a message is in flight")]
    Busy,
    #[error("the session is closed")]
    Closed,
}

/// Where a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Greeting,
    Ehlo,
    /// Until the handshake is made.
    StartTls,
    Auth,
    Idle,
    Mail,
    Rcpt,
    Data,
    /// The content is ready and was not taken yet.
    Content,
    FinalDot,
    Rset,
    Quit,
    Closed,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Ehlo => "ehlo",
            Self::StartTls => "starttls",
            Self::Auth => "auth",
            Self::Idle => "idle",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Content => "content",
            Self::FinalDot => "final_dot",
            Self::Rset => "rset",
            Self::Quit => "quit",
            Self::Closed => "closed",
        }
    }
}
