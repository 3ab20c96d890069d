//! What a fetcher hands over: lines of NDJSON, or a file as it is, in pieces that a few wait for the storage.

use super::FetchError;
use crate::audience::shorten;
use postrider_common::limits::RECIPIENT_BYTES_MAX;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

/// Bytes of a piece, about.
const PIECE_BYTES: usize = 256 * 1024;
/// Pieces that wait: with the one that is filled and the one that is written, what a fetch has in memory.
const PIECES_AHEAD_MAX: usize = 4;
/// Bytes of one line. A longer one is no row that anybody admits; the largest there may be is far below.
const LINE_BYTES_MAX: usize = 4 * RECIPIENT_BYTES_MAX;

/// One row was longer than any recipient may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("row {row} has over {LINE_BYTES_MAX} bytes")]
pub struct RowTooLong {
    pub row: u64,
}

/// What is handed over at once: whole lines, unless it is a file.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    pub bytes: Vec<u8>,
}

/// Where a fetcher puts what it reads. Waits while the storage is slower.
#[derive(Debug)]
pub struct Pieces {
    sender: mpsc::Sender<Piece>,
    piece: Piece,
    rows: u64,
}

impl Pieces {
    pub(super) fn channel() -> (Self, mpsc::Receiver<Piece>) {
        let (sender, receiver) = mpsc::channel(PIECES_AHEAD_MAX);
        (Self { sender, piece: Piece::default(), rows: 0 }, receiver)
    }

    /// Rows handed over so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// One row, as a line of NDJSON.
    pub async fn row(&mut self, row: &Map<String, Value>) -> Result<(), FetchError> {
        let begin = self.piece.bytes.len();
        // Nothing in a map of values fails to be written into memory.
        let written = serde_json::to_writer(&mut self.piece.bytes, row);
        self.end_line(begin, written.map_err(|error| error.to_string())).await
    }

    /// One row that is JSON already, without the end of its line.
    pub async fn line(&mut self, line: &[u8]) -> Result<(), FetchError> {
        let begin = self.piece.bytes.len();
        self.piece.bytes.extend_from_slice(line);
        self.end_line(begin, Ok(())).await
    }

    async fn end_line(&mut self, begin: usize, written: Result<(), String>) -> Result<(), FetchError> {
        self.rows += 1;
        if let Err(why) = written {
            let message = format!("row {} cannot be written as JSON: {}", self.rows, shorten(&why));
            return Err(FetchError::lasting("source_row", message, "leave what it holds out"));
        }
        if self.piece.bytes.len() - begin > LINE_BYTES_MAX {
            let message = RowTooLong { row: self.rows }.to_string();
            return Err(FetchError::lasting(
                "source_row_too_long",
                message,
                "select fewer or shorter columns, then resume",
            ));
        }
        self.piece.bytes.push(b'\n');
        if self.piece.bytes.len() >= PIECE_BYTES { self.flush().await } else { Ok(()) }
    }

    /// A part of a file.
    pub async fn raw(&mut self, bytes: Vec<u8>) -> Result<(), FetchError> {
        self.piece.bytes = bytes;
        self.flush().await
    }

    pub(super) async fn flush(&mut self) -> Result<(), FetchError> {
        if self.piece.bytes.is_empty() {
            return Ok(());
        }
        let next = Piece { bytes: Vec::with_capacity(PIECE_BYTES + PIECE_BYTES / 8) };
        let piece = std::mem::replace(&mut self.piece, next);
        self.sender.send(piece).await.map_err(|_| FetchError::unread())
    }
}
