//! `dkim records`: what the DNS must say for the configured keys.

use crate::context::Context;
use crate::failure::Result;
use crate::node::signing;
use crate::output;
use clap::Subcommand;

#[derive(Debug, Clone, Subcommand)]
pub enum DkimCommand {
    /// Print the TXT records to publish for the keys of [[dkim]]
    Records,
}

pub fn perform(context: &Context, command: &DkimCommand) -> Result<()> {
    let DkimCommand::Records = command;
    let config = context.config(&context.gather(Vec::new())?)?;
    let signers = signing::signers(&config.dkim)?;
    if signers.is_empty() && !context.json() {
        return output::line("no [[dkim]] in the configuration: messages are not signed");
    }
    for signer in signers.iter() {
        let (name, text) = signer.record();
        if context.json() {
            output::json(&serde_json::json!({ "name": name, "type": "TXT", "text": text }))?;
        } else {
            output::line(format!("{name}. IN TXT {}", quoted(&text)))?;
        }
    }
    Ok(())
}

/// Strings of at most 255 bytes (RFC 1035 3.3.14), which whoever asks joins.
fn quoted(text: &str) -> String {
    let parts: Vec<&str> = (0..text.len()).step_by(255).map(|at| &text[at..text.len().min(at + 255)]).collect();
    parts.iter().map(|part| format!("\"{part}\"")).collect::<Vec<_>>().join(" ")
}
