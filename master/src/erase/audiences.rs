//! Uploaded audiences, one after the other. One that has the address is written anew under its name, which is of what was
//! uploaded: whoever uploads the same again gets the one without. A split that reads it meanwhile notices, and reads again.

use super::EraseError;
use super::names::{Fields, Names};
use super::request::Step;
use super::rewrite::{self, Found};
use super::work::Work;
use crate::audience::{ReadError, text};
use crate::storage::StorageError;
use bytes::Bytes;
use futures::TryStreamExt as _;
use postrider_common::ids::RunId;
use std::io::{BufReader, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;
use tokio_util::io::{StreamReader, SyncIoBridge};

/// Bytes read at once.
const READ_BUFFER_BYTES: usize = 128 * 1024;
/// Pieces written ahead.
const PIECES_AHEAD_MAX: usize = 2;

pub(super) async fn all(
    work: &mut Work<'_>,
    names: &Names,
    newest: &Option<(i64, RunId)>,
    after: String,
) -> Result<(), EraseError> {
    let all = work.core.storage.audiences_after(&after).await?;
    for name in all {
        one(work, &name, names.get(&name).unwrap_or(&Fields::default())).await?;
        work.go_on(Step::Audiences { newest: newest.clone(), after: name }).await?;
    }
    Ok(())
}

async fn one(work: &mut Work<'_>, name: &str, fields: &Fields) -> Result<(), EraseError> {
    // Most do not have it: what they would be is thrown away.
    let looked = pass(work, name, fields, false).await?;
    if !looked.is_some_and(Found::is_anything) {
        return Ok(());
    }
    if let Some(found) = pass(work, name, fields, true).await? {
        work.count(|counts| {
            counts.rows += found.own;
            counts.mentions += found.mentions;
        });
    }
    Ok(())
}

/// Nothing helps, and the runs that need it say so.
fn is_damage(error: &StorageError) -> bool {
    matches!(error, StorageError::Sealed(sealed) if !sealed.is_about_keys())
}

/// Reads it to its end, and writes it anew if asked to. None: it is not there any more, or cannot be read.
async fn pass(work: &mut Work<'_>, name: &str, fields: &Fields, writes: bool) -> Result<Option<Found>, EraseError> {
    let storage = work.core.storage.clone();
    let stream = match storage.read_audience(name).await {
        Ok(Some(stream)) => stream,
        Ok(None) => return Ok(None),
        Err(error) if is_damage(&error) => {
            work.count(|counts| counts.unreadable += 1);
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let is_damaged = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&is_damaged);
    let stream = stream.map_err(move |error| {
        noted.fetch_or(is_damage(&error), Ordering::Relaxed);
        std::io::Error::other(error)
    });
    let source = SyncIoBridge::new(StreamReader::new(stream));
    let (sender, mut pieces) = mpsc::channel::<Vec<u8>>(PIECES_AHEAD_MAX);
    let (erasing, fields) = (work.erasing.clone(), fields.clone());
    let reading = tokio::task::spawn_blocking(move || {
        let source = BufReader::with_capacity(READ_BUFFER_BYTES, source);
        let write = |piece: Vec<u8>| sender.blocking_send(piece).map_err(|_| std::io::Error::other("nobody reads it"));
        rewrite::audience(&erasing, &fields, source, write)
    });
    let mut upload = match writes {
        true => Some(storage.begin_upload(work.core.random_wide()).await?),
        false => None,
    };
    while let Some(piece) = pieces.recv().await {
        work.be_sure().await?;
        if let Some(upload) = &mut upload {
            upload.write(Bytes::from(piece)).await?;
        }
    }
    let wrong = |why: String| EraseError::Audience { name: name.to_owned(), why };
    match reading.await.map_err(|error| wrong(error.to_string()))? {
        Ok(found) => {
            if let Some(upload) = upload {
                work.be_sure().await?;
                upload.finish_in_place_of(name).await?;
            }
            Ok(Some(found))
        }
        Err(error) => {
            if let Some(upload) = upload {
                upload.abort().await?;
            }
            let is_wrong =
                error.kind() == ErrorKind::InvalidData || matches!(text::unreadable(&error), ReadError::Run(_));
            if is_wrong || is_damaged.load(Ordering::Relaxed) {
                work.count(|counts| counts.unreadable += 1);
                return Ok(None);
            }
            Err(wrong(error.to_string()))
        }
    }
}
