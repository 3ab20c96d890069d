//! SMTP (RFC 5321) without a socket: both ends as state machines over bytes.

pub mod classify;
pub mod client;
pub mod dots;
pub mod reply;
pub mod server;
