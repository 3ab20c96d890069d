//! Log lines go to stderr; what they may say is up to `RUST_LOG`.

use crate::args::LogFormat;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// For commands that run on; `level` is what is shown when `RUST_LOG` says nothing. A second call
/// changes nothing.
pub fn start(format: LogFormat, color: bool, level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let color = color && std::io::stderr().is_terminal();
    // An error means that somebody set a subscriber before: theirs stays.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(color).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}
