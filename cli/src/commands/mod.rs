//! One file per command: its flags, and what it does.

pub mod campaign;
pub mod config;
pub mod dead;
pub mod dev;
pub mod dkim;
pub mod doctor;
pub mod erase;
pub mod lane;
pub mod list;
pub mod man;
pub mod master;
pub mod run;
pub mod schedule;
pub mod send;
pub mod suppress;
pub mod template;
pub mod worker;
pub mod workers;

use crate::args::{Cli, Command};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::output;
use crate::sink::SinkArgs;
use clap::CommandFactory;
use postrider_master::schedule::{Origin, SYSTEM_FOLDER, Zones};
use std::path::Path;

/// Does what the command line says.
pub async fn perform(cli: Cli) -> Result<()> {
    let context = Context::new(cli.globals);
    match cli.command {
        Command::Demo(args) => crate::demo::perform(&context, args).await,
        Command::Dev(args) => dev::perform(&context, args).await,
        Command::Campaign(command) => campaign::perform(&context, command).await,
        Command::Run(command) => run::perform(&context, command).await,
        Command::Send(args) => send::perform(&context, args).await,
        Command::Schedule(command) => schedule::perform(&context, command).await,
        Command::Template(command) => template::perform(&context, command),
        Command::List(command) => list::perform(&context, command).await,
        Command::Lane(command) => lane::perform(&context, command).await,
        Command::Dead(command) => dead::perform(&context, command).await,
        Command::Suppress(command) => suppress::perform(&context, command).await,
        Command::Dkim(command) => dkim::perform(&context, &command),
        Command::Erase(args) => erase::perform(&context, args).await,
        Command::Workers(command) => workers::perform(&context, command).await,
        Command::Master(args) => master::perform(&context, args).await,
        Command::Worker(args) => worker::perform(&context, args).await,
        Command::Sink(args) => sink(&context, args).await,
        Command::Config(command) => config::perform(&context, &command),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "postrider", &mut script);
            output::line(String::from_utf8_lossy(&script).trim_end())
        }
        Command::Doctor => doctor::perform(&context).await,
        Command::Man(args) => man::perform(&args),
        Command::Version => version(&context),
    }
}

/// Checked here, since a wrong address is wrong usage.
async fn sink(context: &Context, args: SinkArgs) -> Result<()> {
    if !args.listen.ip().is_loopback() && !args.insecure {
        return Err(Failure::usage(format!(
            "--listen {}: other machines could reach it, and the sink takes mail from anyone; use 127.0.0.1, or \
             --insecure",
            args.listen
        )));
    }
    context.start_logging();
    crate::sink::run(args).await.map_err(Failure::from)
}

fn version(context: &Context) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let zones = Zones::newest(Path::new(SYSTEM_FOLDER));
    let (zones_version, origin) = match zones.origin() {
        Origin::Bundled => (zones.version(), "bundled"),
        Origin::System => (zones.version(), "system"),
    };
    if context.json() {
        let time_zones = serde_json::json!({ "version": zones_version, "origin": origin });
        output::json(&serde_json::json!({ "version": version, "api": "postrider.v1", "time_zones": time_zones }))
    } else {
        output::line(format!("postrider {version} (api postrider.v1, time zones {zones_version} {origin})"))
    }
}
