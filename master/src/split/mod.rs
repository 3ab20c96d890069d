//! How a run becomes batches. `plan` is what a split works from, `splitter` decides, `work` acts on one
//! leased split.

pub mod plan;
pub mod splitter;
pub mod work;

pub use plan::Plan;
pub use splitter::Splitter;
