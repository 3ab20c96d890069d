//! How a run becomes batches. `plan` is what a split works from, `splitter` decides, `work` acts on one
//! leased split. With `send_at_local` a `survey` finds the `waves` first, by the `clocks` that rows name.

pub mod clocks;
pub mod plan;
pub mod splitter;
mod survey;
pub mod waves;
pub mod work;

pub use plan::Plan;
pub use splitter::Splitter;
pub(crate) use splitter::{AlreadyHashed, bad_row, hash};

#[cfg(test)]
mod waves_tests;
