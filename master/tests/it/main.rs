//! A master through its ports, on the embedded store: one file per area.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod dead;
mod dispatch;
mod erase;
mod fetch;
mod fetch_http;
mod firings;
mod harness;
mod history;
mod lifecycle;
mod lists;
mod retention;
#[cfg(feature = "encryption")]
mod sealed;
mod split;
mod submit;
mod versions;
mod windows;
