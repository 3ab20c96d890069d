//! Watching a run until it ends, across masters that come and go.

use crate::client::{self, Client};
use crate::failure::{Failure, Result};
use crate::output;
use crate::progress::Progress;
use crate::report::report;
use crate::shapes::Run;
use postrider_common::Clock;
use postrider_common::run::RunState;
use postrider_proto::v1;
use std::time::Duration;

/// How often a person is brought up to date, and how late the end of a run is seen.
pub const INTERVAL: Duration = Duration::from_millis(200);
/// How often `run watch --output json` prints.
pub const INTERVAL_JSON: Duration = Duration::from_secs(1);

/// Calls `on_change` with every state seen, and gives the last one when the run has ended. A broken
/// stream is opened again: each message stands alone.
pub async fn follow(
    client: &mut Client,
    run: &str,
    interval: Duration,
    mut on_change: impl FnMut(&Run) -> Result<()>,
) -> Result<Run> {
    let interval_ms = u32::try_from(interval.as_millis()).unwrap_or(u32::MAX);
    let mut last: Option<Run> = None;
    loop {
        let request = v1::WatchRunRequest { run_id: run.to_owned(), interval_ms };
        let open = |channel| {
            let request = request.clone();
            async move { client::admin(channel).watch_run(request).await }
        };
        let mut stream = client.call(open).await?;
        loop {
            match stream.message().await {
                Ok(Some(message)) => {
                    let now = Run::from_wire(message.run)?;
                    // The same state again after opening a new stream is not a change.
                    if last.as_ref() != Some(&now) {
                        on_change(&now)?;
                    }
                    last = Some(now);
                }
                Ok(None) => break,
                Err(status) if Client::is_passing(&status) => {
                    client.forget();
                    break;
                }
                Err(status) => {
                    return Err(Failure::failed(format!(
                        "the master stopped telling about {run}: {}",
                        status.message()
                    )));
                }
            }
        }
        match last.take() {
            Some(run) if run.kind.has_ended() => return Ok(run),
            unfinished => last = unfinished,
        }
        // A master that is going away ends its streams before its port.
        tokio::time::sleep(INTERVAL).await;
    }
}

/// `--wait`: progress on stderr, the report on stdout, and success only when the run finished.
pub async fn wait(client: &mut Client, clock: &dyn Clock, run: &str, json: bool) -> Result<()> {
    let mut progress = Progress::beside(json);
    let ended = follow(client, run, INTERVAL, |now| progress.show(now)).await;
    progress.end();
    let ended = ended?;
    if json {
        output::json(&ended)?;
    } else {
        output::line(report(&ended, clock.wall_ms()))?;
    }
    outcome(&ended)
}

/// The exit code of a run that ended. A person who reads the report needs no further message.
pub fn outcome(run: &Run) -> Result<()> {
    match run.kind {
        RunState::Finished => Ok(()),
        RunState::Cancelled | RunState::Failed | RunState::Scheduled | RunState::Splitting | RunState::Sending => {
            Err(Failure::told())
        }
    }
}
