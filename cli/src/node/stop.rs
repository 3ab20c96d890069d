//! SIGTERM and SIGINT ask a process to stop.

use crate::failure::{Failure, Result};
use std::future::Future;
use tokio::signal::unix::{SignalKind, signal};

/// Resolves at the first SIGTERM or SIGINT after this call. A second one ends the process at once: the
/// person is in a hurry, and everything is built for that.
pub fn requested() -> Result<impl Future<Output = ()> + Send + 'static> {
    let wrong = |error: std::io::Error| Failure::failed(format!("cannot listen for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(wrong)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(wrong)?;
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping; once more to stop at once");
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("stopped at once: what was in flight is in doubt until its lease expires");
            std::process::exit(1);
        });
    })
}
