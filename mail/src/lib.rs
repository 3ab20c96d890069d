//! Mail as a pure protocol: render, build, speak SMTP from both ends, judge replies.
//!
//! Nothing here reads a socket, a file or a clock: callers bring bytes and instants, and get bytes and
//! verdicts. In reading order, a message is rendered (`template`), built (`message`), signed (`dkim`) and carried by one
//! connection (`smtp::client`), whose replies are judged by `smtp::classify`. `smtp::server` is the other
//! end, for the sink.

pub mod dkim;
pub mod message;
pub mod smtp;
pub mod template;

pub use message::{BuildError, Built, Envelope, Sender, build};
pub use smtp::classify::Verdict;
pub use template::{RenderError, Rendered, Template, TemplateError};
