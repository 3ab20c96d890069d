//! Reading answers of scripts and commands. What cannot be read is `StoreError::Corrupt`, by name.

use crate::error::StoreError;
use redis::{FromRedisValue, Value};
use std::str::FromStr;

pub(super) fn corrupt(what: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(what.to_string())
}

pub(super) fn read<T: FromRedisValue>(value: Value, what: &str) -> Result<T, StoreError> {
    redis::from_redis_value(value).map_err(|error| corrupt(format!("{what}: {error}")))
}

pub(super) fn parse<T: FromStr<Err: std::fmt::Display>>(text: &str, what: &str) -> Result<T, StoreError> {
    text.parse().map_err(|error| corrupt(format!("{what}: {error}")))
}

/// The elements of one array, taken from the front.
#[derive(Debug, Default)]
pub(super) struct Elements {
    what: &'static str,
    values: std::vec::IntoIter<Value>,
}

impl Elements {
    pub fn of(value: Value, what: &'static str) -> Result<Self, StoreError> {
        match value {
            Value::Array(values) => Ok(Self { what, values: values.into_iter() }),
            other => Err(corrupt(format!("{what}: not a list but {other:?}"))),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.values.len() == 0
    }

    pub fn value(&mut self) -> Result<Value, StoreError> {
        self.values.next().ok_or_else(|| corrupt(format!("{}: the list is too short", self.what)))
    }

    pub fn read<T: FromRedisValue>(&mut self) -> Result<T, StoreError> {
        let what = self.what;
        self.value().and_then(|value| read(value, what))
    }

    pub fn parse<T: FromStr<Err: std::fmt::Display>>(&mut self) -> Result<T, StoreError> {
        let text: String = self.read()?;
        parse(&text, self.what)
    }
}

/// Milliseconds that a script or the server counted; never negative.
pub(super) fn ms(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
