//! One query at a database of somebody else: it only reads, in a transaction that sees one instant, and its rows come as
//! lines of JSON, one after the other. For audiences, which masters read, and for merge fields, which workers ask for by keys.
//!
//! `keys` finds where a query wants its keys, `fetch` reads by `postgres`, `mysql` or `sqlite`, `line` writes a row, `fault`
//! turns errors into those of a run, `statement` counts statements. Nothing here tells a URL: there may be a password in it.
//! What is asked for is bound and never written into a query.

mod keys;

#[cfg(any(feature = "drivers", test))]
mod fault;
#[cfg(any(feature = "drivers", test))]
mod line;
#[cfg(any(feature = "drivers", test))]
mod statement;

#[cfg(feature = "drivers")]
mod fetch;
#[cfg(feature = "drivers")]
mod mysql;
#[cfg(feature = "drivers")]
mod postgres;
#[cfg(feature = "drivers")]
mod sqlite;

pub use keys::{PLACEHOLDER, wants_keys};

#[cfg(feature = "drivers")]
pub use fault::{Asked, Fault};
#[cfg(feature = "drivers")]
pub use fetch::{Database, Found, Query, Rows, fetch, parse};

/// A name of a column in an error, without what a terminal may take for a command.
#[cfg(feature = "drivers")]
fn shorten(name: &str) -> String {
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    name.chars().take(NAME_CHARS_SHOWN_MAX).map(clean).collect()
}

#[cfg(feature = "drivers")]
const NAME_CHARS_SHOWN_MAX: usize = 60;
