//! The `postrider` binary: reads the command line, performs one command, gives its exit code.

use clap::Parser;
use postrider::args::Cli;
use postrider::failure::Failure;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are not errors; everything else is wrong usage.
            let code = if error.use_stderr() { 2 } else { 0 };
            let plain = std::env::args_os().any(|argument| argument == "--no-color");
            // A pipe that nobody reads is not worth a second error.
            let _ = if plain && error.use_stderr() {
                write!(std::io::stderr(), "{}", error.render())
            } else {
                error.print()
            };
            return ExitCode::from(code);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::failed(format!("cannot start: {error}")).report(),
    };
    match runtime.block_on(postrider::commands::perform(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
