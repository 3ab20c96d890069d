//! Reads an audience from its source in a thread of its own, a chunk of rows at a time.

use super::csv::CsvRows;
use super::ndjson::{NdjsonRows, parse_object};
use super::row::{Roles, Row, admit, renamed, weight};
use super::{ReadError, column_missing, text};
use crate::storage::{Storage, StorageError};
use futures::TryStreamExt as _;
use postrider_common::campaign::{Audience, AudienceFormat, Source, TextForm};
use serde_json::{Map, Value};
use std::io::{BufReader, Read};
use tokio::sync::mpsc;
use tokio_util::io::{StreamReader, SyncIoBridge};

/// Rows handed over at once: few enough to keep a split responsive, many enough to make it cheap.
const CHUNK_ROWS_MAX: usize = 256;
/// Bytes handed over at once, when rows are large.
const CHUNK_BYTES_MAX: usize = 512 * 1024;
/// Chunks read ahead of the split.
const CHUNKS_AHEAD_MAX: usize = 4;
/// Bytes read from the storage at once.
const READ_BUFFER_BYTES: usize = 128 * 1024;

/// The rows of an audience, from the first.
#[derive(Debug)]
pub struct Rows {
    chunks: mpsc::Receiver<Chunk>,
}

#[derive(Debug)]
enum Chunk {
    Rows(Vec<Row>),
    End,
    Failed(ReadError),
}

impl Rows {
    /// The next rows; none: the audience is read to its end. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Vec<Row>>, ReadError> {
        match self.chunks.recv().await {
            Some(Chunk::Rows(rows)) => Ok(Some(rows)),
            Some(Chunk::End) => Ok(None),
            Some(Chunk::Failed(error)) => Err(error),
            // Never taken for the end of the audience.
            None => Err(ReadError::Storage("the reader of the audience ended early".into())),
        }
    }
}

/// Begins to read. The thread ends when the rows are dropped.
pub async fn open(storage: &Storage, audience: &Audience) -> Result<Rows, ReadError> {
    let roles = Roles::of(audience);
    let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD_MAX);
    match &audience.source {
        Source::Inline { rows } => {
            let rows = inline(rows, &roles)?;
            let sent = [Chunk::Rows(rows), Chunk::End].into_iter().try_for_each(|chunk| sender.try_send(chunk));
            sent.map_err(|error| ReadError::Storage(error.to_string()))?;
        }
        Source::List { .. } => return Err(ReadError::Storage("the run froze no version of its list".into())),
        Source::Sql(_) | Source::Http(_) | Source::File { .. } => {
            return Err(ReadError::Storage("the source of the run was not fetched".into()));
        }
        Source::Stored { sha256, format } => {
            let stream = storage.read_audience(sha256).await.map_err(not_readable)?;
            let Some(stream) = stream else {
                let message = format!("the audience {sha256} is not in the storage");
                return Err(ReadError::run("audience_missing", message, MISSING_MEND));
            };
            let bytes = StreamReader::new(stream.map_err(std::io::Error::other));
            let (format, form) = (*format, audience.text.clone());
            let source = SyncIoBridge::new(bytes);
            tokio::task::spawn_blocking(move || {
                let last = match read(source, format, &form, roles, &sender) {
                    Ok(()) => Chunk::End,
                    Err(error) => Chunk::Failed(error),
                };
                // The split may be gone; then nobody asks for the rest.
                let _ = sender.blocking_send(last);
            });
        }
    }
    Ok(Rows { chunks })
}

/// A key that is missing may come back; a damaged audience stays one.
fn not_readable(error: StorageError) -> ReadError {
    match &error {
        StorageError::Sealed(sealed) if !sealed.is_about_keys() => {
            let message = format!("failed to {error}");
            ReadError::run(
                "audience_damaged",
                message,
                "restore it, or run the campaign again with its audience uploaded anew",
            )
        }
        StorageError::Open { .. }
        | StorageError::Failed(_)
        | StorageError::Marks(_)
        | StorageError::ErasureKey
        | StorageError::Sealed(_) => ReadError::Storage(format!("failed to {error}")),
    }
}

const MISSING_MEND: &str =
    "point every master's [storage] url at the same place, or run the campaign again with its audience uploaded anew";

fn read(
    source: impl Read,
    format: AudienceFormat,
    form: &TextForm,
    roles: Roles,
    sender: &mpsc::Sender<Chunk>,
) -> Result<(), ReadError> {
    let source = BufReader::with_capacity(READ_BUFFER_BYTES, source);
    match format {
        AudienceFormat::Ndjson => {
            let text = BufReader::with_capacity(READ_BUFFER_BYTES, text::open(source, form.encoding.as_deref())?);
            hand_over(NdjsonRows::new(text, roles), sender)
        }
        AudienceFormat::Csv => match csv(source, form, roles)? {
            Some(rows) => hand_over(rows, sender),
            None => Ok(()),
        },
    }
}

/// The rows of a CSV source, its header read and checked. None: it is empty, not even a header.
pub fn csv<'a>(
    source: impl Read + 'a,
    form: &TextForm,
    roles: Roles,
) -> Result<Option<CsvRows<Box<dyn Read + 'a>>>, ReadError> {
    let delimiter = form.delimiter.map_or(Ok(b','), |c| u8::try_from(c).map_err(|_| c)).map_err(|c| {
        let message = format!("the character {c:?} cannot separate columns (audience.delimiter)");
        ReadError::run("audience_delimiter", message, "give one ASCII character, such as \";\"")
    })?;
    CsvRows::open(text::open(source, form.encoding.as_deref())?, delimiter, roles)
}

fn hand_over(
    rows: impl Iterator<Item = Result<Row, ReadError>>,
    sender: &mpsc::Sender<Chunk>,
) -> Result<(), ReadError> {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    for row in rows {
        let row = match row {
            Ok(row) => row,
            Err(error) => {
                let _ = sender.blocking_send(Chunk::Rows(chunk));
                return Err(error);
            }
        };
        bytes += row.recipient.as_ref().map_or(0, weight);
        chunk.push(row);
        if chunk.len() >= CHUNK_ROWS_MAX || bytes >= CHUNK_BYTES_MAX {
            bytes = 0;
            if sender.blocking_send(Chunk::Rows(std::mem::take(&mut chunk))).is_err() {
                return Ok(());
            }
        }
    }
    let _ = sender.blocking_send(Chunk::Rows(chunk));
    Ok(())
}

/// Rows given with the request: a member that no row has is a wrong definition.
fn inline(rows: &[String], roles: &Roles) -> Result<Vec<Row>, ReadError> {
    let objects: Vec<_> = rows.iter().map(|text| parse_object(text.as_bytes())).collect();
    let good = || objects.iter().filter_map(|object| object.as_ref().ok());
    if let Some(first) = good().next() {
        let columns = |object: &Map<String, Value>| object.keys().cloned().collect::<Vec<_>>();
        if let Some((setting, name)) = roles.wanted().find(|(_, name)| !good().any(|object| object.contains_key(*name)))
        {
            return Err(column_missing(setting, name, &columns(first)));
        }
    }
    let row = |(index, object): (usize, Result<Map<String, Value>, _>)| Row {
        number: index as u64 + 1,
        recipient: object.and_then(|object| renamed(object, roles)).and_then(|object| admit(object, roles)),
    };
    Ok(objects.into_iter().enumerate().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(source: Source) -> Result<Vec<Row>, ReadError> {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = Storage::open(&folder.path().display().to_string(), Default::default()).expect("opens");
        let audience = Audience::of(source, "email");
        let mut rows = open(&storage, &audience).await?;
        let mut read = Vec::new();
        while let Some(mut chunk) = rows.next().await? {
            read.append(&mut chunk);
        }
        Ok(read)
    }

    #[tokio::test]
    async fn inline_rows_are_rows() {
        let rows = vec![r#"{"email":"a@example.com"}"#.to_owned(), "x".to_owned(), r#"{"name":"B"}"#.to_owned()];
        let read = all(Source::Inline { rows }).await.expect("readable");
        let good: Vec<bool> = read.iter().map(|row| row.recipient.is_ok()).collect();
        assert_eq!(good, [true, false, false]);
        let error = all(Source::Inline { rows: vec![r#"{"mail":"x@example.com"}"#.into()] }).await.expect_err("wrong");
        assert!(matches!(error, ReadError::Run(error) if error.code == "audience_column_missing"));
        assert_eq!(all(Source::Inline { rows: Vec::new() }).await, Ok(Vec::new()));
    }

    #[tokio::test]
    async fn an_audience_that_is_gone_fails_the_run() {
        let source = Source::Stored { sha256: "0".repeat(64), format: AudienceFormat::Csv };
        let error = all(source).await.expect_err("gone");
        assert!(matches!(error, ReadError::Run(error) if error.code == "audience_missing"));
    }
}
