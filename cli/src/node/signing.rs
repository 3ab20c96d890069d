//! The keys of `[[dkim]]`: read when a worker starts, and again while it runs, so that they can be changed without a
//! restart.

use crate::config::dkim::{DkimConfig, KeySource};
use crate::failure::{Failure, Result};
use postrider_mail::dkim::{Signer, Signers};
use postrider_worker::Signing;
use std::future::Future;
use std::path::Path;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How often keys and configuration are read again.
const AGAIN: Duration = Duration::from_secs(60);
/// Bytes of a key in PEM.
const KEY_BYTES_MAX: u64 = 64 * 1024;

/// Errors: a key that cannot be read or cannot sign; all of them are told.
pub fn signers(configured: &[DkimConfig]) -> Result<Signers> {
    let mut problems = Vec::new();
    let mut signers = Vec::new();
    for one in configured {
        let signer = read(&one.key).map_err(|why| format!("{}.key: {why}", one.place)).and_then(|pem| {
            Signer::new(&one.domain, &one.selector, &pem).map_err(|why| format!("{}: {why}", one.place))
        });
        match signer {
            Ok(signer) => signers.push(signer),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(Failure::usage(problems.join("\n       ")));
    }
    Signers::new(signers).map_err(|error| Failure::usage(format!("dkim: {error}")))
}

fn read(key: &KeySource) -> std::result::Result<Vec<u8>, String> {
    match key {
        KeySource::File(path) => read_file(path),
        KeySource::Env(name) => match std::env::var(name) {
            Ok(text) if !text.is_empty() => Ok(text.into_bytes()),
            _ => Err(format!("the environment has no variable {name}, or it is empty")),
        },
    }
}

fn read_file(path: &Path) -> std::result::Result<Vec<u8>, String> {
    let wrong = |why: String| format!("cannot read {}: {why}", path.display());
    let size = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if size > KEY_BYTES_MAX {
        return Err(wrong(format!("it has {size} bytes and a key has at most {KEY_BYTES_MAX}")));
    }
    std::fs::read(path).map_err(|error| wrong(error.to_string()))
}

/// Reads again, every minute and at SIGHUP, what `configured` says now. Keys that cannot be read change nothing: the ones
/// before go on signing.
pub fn watch(signing: Signing, configured: impl Fn() -> Result<Vec<DkimConfig>>) -> Result<impl Future<Output = ()>> {
    let wrong = |error: std::io::Error| Failure::failed(format!("cannot listen for signals: {error}"));
    let mut hangup = signal(SignalKind::hangup()).map_err(wrong)?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = hangup.recv() => {}
                () = tokio::time::sleep(AGAIN) => {}
            }
            match configured().and_then(|now| signers(&now)) {
                Ok(now) => {
                    let records: Vec<String> = now.iter().map(|signer| signer.record().0).collect();
                    if signing.replace(now) {
                        tracing::info!(?records, "the keys that sign have changed");
                    }
                }
                Err(error) => {
                    tracing::error!(
                        error = error.message,
                        "keys of [[dkim]] cannot be read, the ones before go on signing"
                    );
                }
            }
        }
    })
}
