//! The commands of the `postrider` binary.

pub mod sink;
