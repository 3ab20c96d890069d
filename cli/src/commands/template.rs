//! `template …`: finding out about a template without sending anything.

use crate::campaign_file;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::output;
use clap::Subcommand;
use postrider_common::{Address, Recipient};
use postrider_mail::template::Template;
use std::path::PathBuf;

#[derive(Debug, Clone, Subcommand)]
pub enum TemplateCommand {
    /// Find mistakes in a campaign file's templates
    Check {
        /// Campaign file, or a file as for `send --template`
        file: PathBuf,
    },
    /// Print what one recipient would get
    Render {
        /// Campaign file, or a file as for `send --template`
        file: PathBuf,
        /// Recipient
        #[arg(long, value_name = "ADDRESS", default_value = "someone@example.com")]
        to: String,
        /// Merge field, any number of them
        #[arg(long, value_name = "KEY=VALUE", value_parser = super::send::pair)]
        set: Vec<(String, String)>,
    },
}

pub fn perform(context: &Context, command: TemplateCommand) -> Result<()> {
    match command {
        TemplateCommand::Check { file } => {
            campaign_file::read_message(&file, None)?;
            if context.json() {
                output::json(&serde_json::json!({ "ok": true, "file": file.display().to_string() }))
            } else {
                output::line(format!("ok: {}", file.display()))
            }
        }
        TemplateCommand::Render { file, to, set } => {
            let message = campaign_file::read_message(&file, None)?.message;
            let address: Address = to.parse().map_err(|why| Failure::usage(format!("--to '{to}': {why}")))?;
            let fields = set.into_iter().map(|(key, value)| (key, value.into())).collect();
            let recipient = Recipient { key: address.normalised(), address, fields };
            let template = Template::compile(&message).map_err(|error| Failure::usage(error.to_string()))?;
            let rendered = template.render(&recipient).map_err(|error| Failure::failed(error.to_string()))?;
            if context.json() {
                let headers: serde_json::Map<String, serde_json::Value> =
                    rendered.headers.into_iter().map(|(name, value)| (name, value.into())).collect();
                let (subject, html, text) = (rendered.subject, rendered.html, rendered.text);
                return output::json(&serde_json::json!({
                    "subject": subject, "headers": headers, "html": html, "text": text,
                }));
            }
            output::line(format!("Subject: {}", rendered.subject))?;
            for (name, value) in &rendered.headers {
                output::line(format!("{name}: {value}"))?;
            }
            for (part, body) in [("text", &rendered.text), ("html", &rendered.html)] {
                if !body.is_empty() {
                    output::line(format!("\n--- {part} ---\n{}", body.trim_end()))?;
                }
            }
            Ok(())
        }
    }
}
