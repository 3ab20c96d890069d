//! Between wire and domain types, both ways. Wrong input is an error that names the field.

mod campaign;
mod lease;
mod local_time;
mod mark;
mod relay;
mod run;
mod schedule;
mod windows;

pub use mark::{marks, seen};

use crate::ids::{InvalidId, WorkerId};
use postrider_proto::v1;

/// A field of a message that is missing or wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct InvalidField {
    pub field: &'static str,
    pub why: String,
}

impl InvalidField {
    pub fn new(field: &'static str, why: impl Into<String>) -> Self {
        Self { field, why: why.into() }
    }
}

fn at(field: &'static str) -> impl Fn(InvalidId) -> InvalidField {
    move |error| InvalidField::new(field, error.to_string())
}

/// Printable ASCII only, cut to a length: replies of servers must not reach a terminal or a log as they are.
pub fn printable(text: &str, bytes_max: usize) -> String {
    let clean = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    text.chars().take(bytes_max).map(clean).collect()
}

pub fn worker(worker: Option<v1::Worker>) -> Result<WorkerId, InvalidField> {
    let worker = worker.ok_or_else(|| InvalidField::new("worker", "it is missing"))?;
    WorkerId::try_new(&worker.name, &worker.instance).map_err(at("worker"))
}

impl From<&WorkerId> for v1::Worker {
    fn from(id: &WorkerId) -> Self {
        Self { name: id.name.clone(), instance: id.instance.to_string(), seen: Vec::new() }
    }
}
