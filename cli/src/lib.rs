//! The `postrider` binary as a library: configuration, commands, and the processes it can be.

pub mod campaign_file;
pub mod config;
pub mod failure;
pub mod toml_text;
