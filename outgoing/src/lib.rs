//! HTTP to URLs that somebody gave: a feed of recipients, an endpoint that answers merge fields.
//!
//! Whoever may define a campaign may name a URL, and must not reach by it what only this host can reach: the
//! store, a cloud's metadata, a printer. The invariants:
//!
//! * a connection is opened to an address that was checked, and to no other: the name is resolved once, here, and
//!   what came of it is what is connected to;
//! * every redirect is checked like the first URL, and what is secret does not go along to another origin;
//! * time, bytes (after decompression) and redirects are bounded, and no proxy of the environment is used;
//! * neither a URL's query, nor credentials, nor the value of a header is in an error.
//!
//! Master and worker use it; it knows nothing of either. In reading order: `target` is what a URL may be, `guard`
//! what may be connected to, `secret` what may be named instead of written, `client` sends.

mod client;
mod guard;
mod secret;
mod target;

pub use client::{Failure, Method, Outgoing, Request, Response, retry_after};
pub use guard::{Guard, Refused};
pub use secret::{InvalidSecret, Secret, SecretText};
pub use target::{InvalidTarget, Target};

use ipnet::IpNet;
use std::collections::BTreeSet;
use std::time::Duration;

/// Until a connection stands, TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two pieces of an answer.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Hops of one request.
pub const REDIRECTS_MAX: u32 = 5;
/// Bytes of a URL.
pub const URL_BYTES_MAX: usize = 2048;

/// What this process may do on behalf of others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Networks that may be connected to although they are not public.
    pub allow: Vec<IpNet>,
    /// Environment variables that a campaign may name.
    pub env: BTreeSet<String>,
}
