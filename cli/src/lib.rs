//! The `postrider` binary as a library: configuration, commands, and the processes it can be.

pub mod campaign_file;
pub mod client;
pub mod config;
pub mod failure;
pub mod follow;
pub mod output;
pub mod progress;
pub mod report;
pub mod shapes;
pub mod toml_text;
pub mod upload;
