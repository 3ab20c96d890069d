//! The keys of `[[dkim]]`: read when a worker starts, and again while it runs, so that they can be changed without a
//! restart.

use crate::config::dkim::DkimConfig;
use crate::failure::{Failure, Result};
use postrider_mail::dkim::{Signer, Signers};
use postrider_worker::Signing;
use std::future::Future;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How often keys and configuration are read again.
const AGAIN: Duration = Duration::from_secs(60);

/// Errors: a key that cannot be read or cannot sign; all of them are told.
pub fn signers(configured: &[DkimConfig]) -> Result<Signers> {
    let mut problems = Vec::new();
    let mut signers = Vec::new();
    for one in configured {
        let signer = one.key.read().map_err(|why| format!("{}.key: {why}", one.place)).and_then(|pem| {
            Signer::new(&one.domain, &one.selector, pem.as_bytes()).map_err(|why| format!("{}: {why}", one.place))
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
