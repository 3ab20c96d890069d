//! The processes that run on: built from a checked configuration, stopped by a signal.

pub mod master;
pub mod signing;
pub mod stop;
pub mod worker;
