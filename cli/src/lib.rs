//! The `postrider` binary as a library: configuration, commands, and the processes it can be.

pub mod args;
pub mod campaign_diff;
pub mod campaign_file;
pub mod client;
pub mod commands;
pub mod config;
pub mod context;
pub mod demo;
pub mod failure;
pub mod follow;
pub mod logging;
pub mod node;
pub mod output;
pub mod progress;
pub mod report;
pub mod shapes;
pub mod sink;
pub mod toml_text;
pub mod upload;
mod windows;
