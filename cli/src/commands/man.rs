//! `man`: the manual as roff, of the whole program or of one command.

use crate::args::Cli;
use crate::failure::{Failure, Result};
use clap::{Args, Command, CommandFactory as _};
use std::io::Write as _;

#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// A command, such as: campaign run
    #[arg(value_name = "COMMAND")]
    pub command: Vec<String>,
}

pub fn perform(args: &ManArgs) -> Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(find(&args.command)?).render(&mut page)?;
    let mut out = std::io::stdout().lock();
    out.write_all(&page)?;
    Ok(out.flush()?)
}

fn find(words: &[String]) -> Result<Command> {
    let mut found = Cli::command();
    // Gives each its full name.
    found.build();
    for word in words {
        found = found.find_subcommand(word).cloned().ok_or_else(|| {
            Failure::usage(format!("'{}' is no command; postrider --help lists them", words.join(" ")))
        })?;
    }
    Ok(found)
}
