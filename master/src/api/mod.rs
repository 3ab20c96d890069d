//! The gRPC services. What comes in is checked here, once; what goes out is made from domain values.

pub mod admin;
pub mod campaigns;
mod dead;
pub mod dispatch;
mod erase;
mod firings;
pub mod lists;
pub mod messages;
mod recipients;
pub mod status;
pub mod suppress;
pub mod upload;
mod waiting;

pub use status::ApiError;

use crate::campaign::Invalid;
use futures::Stream;
use std::pin::Pin;
use tonic::Status;

/// What a call answers piece by piece.
type Stream1<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers made ahead of a slow reader.
const STREAM_AHEAD_MAX: usize = 4;

/// A page's size: 0 means `default`, more than 1000 is refused.
fn page_limit(limit: u32, default: usize) -> Result<usize, Invalid> {
    match limit as usize {
        0 => Ok(default),
        limit if limit <= PAGE_MAX => Ok(limit),
        _ => Err(Invalid::field("limit", format!("it must be from 1 to {PAGE_MAX}, or 0 for {default}"))),
    }
}

/// Entries of one page of a list.
const PAGE_MAX: usize = 1000;
