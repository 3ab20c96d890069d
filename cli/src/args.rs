//! The command line, as clap knows it.

use crate::commands::{
    campaign, config, dead, dev, dkim, erase, lane, list, man, master, run, schedule, send, suppress, template, worker,
    workers,
};
use crate::output::Output;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Distributed master/worker job system for sending campaigns.
#[derive(Debug, Parser)]
#[command(name = "postrider", version, disable_help_subcommand = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that go before or after the command.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// Configuration file [default: ./postrider.toml if there]
    #[arg(long, global = true, env = "POSTRIDER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Masters, comma-separated [env: POSTRIDER_MASTER] [default: http://127.0.0.1:7400]
    #[arg(long, global = true, value_name = "URL")]
    pub master: Option<String>,
    /// Store of the master [env: POSTRIDER_STORE]
    #[arg(long, global = true, value_name = "URL")]
    pub store: Option<String>,
    /// Refused: tokens are not part of this version
    #[arg(long, global = true, hide = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// What is printed
    #[arg(long, global = true, value_enum, value_name = "FORM")]
    pub output: Option<Output>,
    /// No colour (also: NO_COLOR)
    #[arg(long, global = true)]
    pub no_color: bool,
    /// What log lines look like
    #[arg(long, global = true, value_enum, value_name = "FORM", hide_short_help = true)]
    pub log_format: Option<LogFormat>,
    /// How long a client call retries connection trouble
    #[arg(long, global = true, value_parser = postrider_common::duration::parse, hide = true, value_name = "TIME")]
    pub connect_timeout: Option<Duration>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// See it work: a campaign, a worker killed in the middle, and the report
    Demo(crate::demo::DemoArgs),
    /// Master, worker and mail catcher in one process
    Dev(dev::DevArgs),
    /// Define campaigns and start runs
    #[command(subcommand)]
    Campaign(campaign::CampaignCommand),
    /// Keep lists of recipients that campaigns share
    #[command(subcommand)]
    List(list::ListCommand),
    /// Look at runs and steer them
    #[command(subcommand)]
    Run(run::RunCommand),
    /// Send one message
    Send(send::SendArgs),
    /// See when campaigns are due
    #[command(subcommand)]
    Schedule(schedule::ScheduleCommand),
    /// Check and try templates
    #[command(subcommand)]
    Template(template::TemplateCommand),
    /// Look at lanes, pause and resume them
    #[command(subcommand)]
    Lane(lane::LaneCommand),
    /// Look at what was set aside, replay and purge it
    #[command(subcommand)]
    Dead(dead::DeadCommand),
    /// Say who is not sent to
    #[command(subcommand)]
    Suppress(suppress::SuppressCommand),
    /// See what the DNS must say for the keys that sign
    #[command(subcommand)]
    Dkim(dkim::DkimCommand),
    /// Erase an address everywhere
    Erase(erase::EraseArgs),
    /// Look at workers and drain them
    #[command(subcommand)]
    Workers(workers::WorkersCommand),
    /// Run a master
    Master(master::MasterArgs),
    /// Run a worker
    Worker(worker::WorkerArgs),
    /// Run an SMTP server for tests: takes mail, delays, refuses by rule, records
    Sink(crate::sink::SinkArgs),
    /// Check and show the configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Look whether store, storage, masters and relays of this configuration work from here
    Doctor,
    /// Print a completion script for a shell
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual (roff): postrider man | man -l -
    Man(man::ManArgs),
    /// Print the version
    Version,
}
