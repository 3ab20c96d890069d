//! `config check` and `config show`.

use crate::config::show;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::output;
use clap::Subcommand;

#[derive(Debug, Clone, Subcommand)]
pub enum ConfigCommand {
    /// Say what is wrong, what is refused, and what has no effect yet
    Check,
    /// Print what is in force and who said it; secrets are hidden
    Show,
    /// Print a line with a fresh key for the file of [encryption] key_file
    Keygen {
        /// What to call it, such as 2026-11: 1 to 32 of a-z, 0-9, '.', '_' and '-'
        name: String,
    },
}

pub fn perform(context: &Context, command: &ConfigCommand) -> Result<()> {
    match command {
        ConfigCommand::Check => check(context),
        ConfigCommand::Keygen { name } => keygen(name),
        ConfigCommand::Show => {
            let gathered = context.gather(Vec::new())?;
            if context.json() {
                output::json(&show::as_json(&gathered.settings))
            } else {
                output::line(show::as_text(&gathered.settings))
            }
        }
    }
}

fn keygen(name: &str) -> Result<()> {
    let id = name.parse().map_err(|error| Failure::usage(format!("{error}")))?;
    let without = "this build cannot seal: use one with the feature encryption";
    output::line(postrider_master::seal::new_line(&id).ok_or_else(|| Failure::failed(without))?)
}

fn check(context: &Context) -> Result<()> {
    let checked = context.gather(Vec::new()).and_then(|gathered| Ok((context.config(&gathered)?, gathered)));
    let (config, gathered) = match checked {
        Ok(both) => both,
        Err(failure) => {
            if context.json() {
                let errors: Vec<&str> = failure.message.lines().map(str::trim).collect();
                output::json(&serde_json::json!({ "ok": false, "errors": errors }))?;
            }
            return Err(failure);
        }
    };
    let mut warnings = Vec::new();
    if config.relays.is_empty() {
        warnings.push("no [[relay]]: a worker with this configuration has nowhere to send (worker --relay URL)");
    }
    let signers = crate::node::signing::signers(&config.dkim).err();
    let unsigned = signers.map(|why| format!("a worker would not start here: {}", why.message));
    warnings.extend(unsigned.as_deref());
    let file = gathered.file.map(|path| path.display().to_string());
    if context.json() {
        return output::json(&serde_json::json!({ "ok": true, "file": file, "warnings": warnings }));
    }
    output::line(format!("ok: {}", file.as_deref().unwrap_or("no file, defaults and environment only")))?;
    for warning in warnings {
        output::line(format!("warning: {warning}"))?;
    }
    Ok(())
}
