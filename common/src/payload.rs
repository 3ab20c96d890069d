//! The payload of a batch: its recipients by column, in one zstd frame.
//!
//! Columns because values of one field resemble each other: they compress to about half of rows.

use crate::address::Address;
use crate::limits::{BATCH_RECIPIENTS_MAX, RECIPIENT_BYTES_MAX};
use crate::message::Recipient;
use crate::seal::{Header, KeyId};
use bytes::Bytes;
use postrider_proto::v1::{BatchPayload, Column, Texts};
use prost::Message as _;
use serde_json::Value;
use std::collections::BTreeMap;

const ZSTD_LEVEL: i32 = 1;
const LINE_END: char = '\n';

/// For whoever meets something sealed that no key of his opens.
pub const OPEN_MEND: &str = "put that key into the file of [encryption] key_file of every master, and restart them";

#[derive(Debug, thiserror::Error)]
pub enum InvalidPayload {
    #[error("the frame cannot be unpacked: {0}")]
    Frame(std::io::Error),
    #[error("the message cannot be decoded: {0}")]
    Message(prost::DecodeError),
    #[error("it contradicts itself: {0}")]
    Shape(&'static str),
    #[error("it is sealed with the key '{0}' and was not opened: {OPEN_MEND}")]
    Sealed(KeyId),
}

/// Packs recipients of any number; their order is kept.
pub fn encode(recipients: &[Recipient]) -> Bytes {
    let mut columns: BTreeMap<&str, Values> = BTreeMap::new();
    for (index, recipient) in recipients.iter().enumerate() {
        for (name, value) in &recipient.fields {
            let column = columns.entry(name).or_default();
            pad(column, index);
            match value {
                Value::String(text) => column.values.push(text.clone()),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                    column.json.push(index as u32);
                    column.values.push(value.to_string());
                }
            }
        }
    }
    let default_keys = recipients.iter().all(|r| r.key == r.address.normalised());
    let payload = BatchPayload {
        addresses: Some(texts(recipients.iter().map(|r| r.address.to_string()).collect())),
        keys: (!default_keys).then(|| texts(recipients.iter().map(|r| r.key.clone()).collect())),
        columns: columns
            .into_iter()
            .map(|(name, mut column)| {
                pad(&mut column, recipients.len());
                let Values { values, json, absent } = column;
                Column { name: name.to_owned(), values: Some(texts(values)), json, absent }
            })
            .collect(),
    };
    let encoded = payload.encode_to_vec();
    // Writing to memory cannot fail; an empty frame would be refused by `decode`, not sent.
    Bytes::from(zstd::bulk::compress(&encoded, ZSTD_LEVEL).unwrap_or_default())
}

/// A column that is being made.
#[derive(Debug, Default)]
struct Values {
    values: Vec<String>,
    json: Vec<u32>,
    absent: Vec<u32>,
}

fn texts(list: Vec<String>) -> Texts {
    if list.iter().any(|text| text.contains(LINE_END)) {
        return Texts { lines: String::new(), whole: list };
    }
    let mut lines = String::with_capacity(list.iter().map(|text| text.len() + 1).sum());
    for text in list {
        lines.push_str(&text);
        lines.push(LINE_END);
    }
    Texts { lines, whole: Vec::new() }
}

fn list(texts: Option<Texts>) -> Result<Vec<String>, InvalidPayload> {
    let Texts { lines, whole } = texts.unwrap_or_default();
    match (lines.is_empty(), whole.is_empty()) {
        (true, _) => Ok(whole),
        (false, true) if lines.ends_with(LINE_END) => Ok(lines.split_terminator(LINE_END).map(str::to_owned).collect()),
        (false, _) => Err(InvalidPayload::Shape("a list of texts is neither lines nor whole")),
    }
}

fn pad(column: &mut Values, length: usize) {
    while column.values.len() < length {
        column.absent.push(column.values.len() as u32);
        column.values.push(String::new());
    }
}

/// Unpacks what `encode` packed, checking everything: it may come from another program.
pub fn decode(frame: &[u8]) -> Result<Vec<Recipient>, InvalidPayload> {
    if frame.is_empty() {
        return Err(InvalidPayload::Shape("it is empty"));
    }
    if let Some((header, _)) = Header::read(frame) {
        return Err(InvalidPayload::Sealed(header.key));
    }
    let bound = BATCH_RECIPIENTS_MAX * RECIPIENT_BYTES_MAX * 2;
    let encoded = zstd::bulk::Decompressor::new()
        .and_then(|mut unpack| {
            let size = zstd::bulk::Decompressor::upper_bound(frame).unwrap_or(bound);
            unpack.decompress(frame, size.min(bound))
        })
        .map_err(InvalidPayload::Frame)?;
    let payload = BatchPayload::decode(encoded.as_slice()).map_err(InvalidPayload::Message)?;
    let (addresses, keys) = (list(payload.addresses)?, list(payload.keys)?);
    let count = addresses.len();
    if !keys.is_empty() && keys.len() != count {
        return Err(InvalidPayload::Shape("keys and addresses differ in number"));
    }
    let mut recipients = Vec::with_capacity(count);
    for (index, text) in addresses.iter().enumerate() {
        let address: Address = text.parse().map_err(|_| InvalidPayload::Shape("an address is none"))?;
        let key = keys.get(index).cloned().unwrap_or_else(|| address.normalised());
        recipients.push(Recipient { address, key, fields: serde_json::Map::new() });
    }
    for column in payload.columns {
        fill(&mut recipients, column)?;
    }
    Ok(recipients)
}

fn fill(recipients: &mut [Recipient], column: Column) -> Result<(), InvalidPayload> {
    let values = list(column.values)?;
    if values.len() != recipients.len() {
        return Err(InvalidPayload::Shape("a column and the addresses differ in number"));
    }
    let mut absent = column.absent.into_iter().peekable();
    let mut json = column.json.into_iter().peekable();
    for (index, (recipient, text)) in recipients.iter_mut().zip(values).enumerate() {
        if absent.next_if(|at| *at as usize == index).is_some() {
            continue;
        }
        let value = if json.next_if(|at| *at as usize == index).is_some() {
            serde_json::from_str(&text).map_err(|_| InvalidPayload::Shape("a JSON value is none"))?
        } else {
            Value::String(text)
        };
        recipient.fields.insert(column.name.clone(), value);
    }
    if absent.next().is_some() || json.next().is_some() {
        return Err(InvalidPayload::Shape("an index is out of order or range"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn recipient(address: &str, key: &str, fields: Value) -> Recipient {
        let Value::Object(fields) = fields else { panic!("fields are an object") };
        Recipient { address: address.parse().expect("an address"), key: key.into(), fields }
    }

    #[test]
    fn recipients_come_back_as_they_were() {
        let recipients = vec![
            recipient("a@example.com", "a@example.com", json!({"name": "Ada", "n": 1})),
            recipient("b@example.com", "b@example.com", json!({"name": "", "list": [1, "x"]})),
            recipient("c@example.com", "7", json!({"only": null, "text": "two\nlines\n"})),
            recipient("d@example.com", "8\n", json!({"only": "\n", "text": ""})),
        ];
        assert_eq!(decode(&encode(&recipients)).expect("decodes"), recipients);
        assert_eq!(decode(&encode(&recipients[..2])).expect("decodes"), recipients[..2]);
        assert_eq!(decode(&encode(&[])).expect("decodes"), vec![]);
    }

    #[test]
    fn texts_that_are_in_both_forms_or_cut_off_are_refused() {
        let payload = |lines: &str, whole: &[&str]| {
            let texts = Texts { lines: lines.to_owned(), whole: whole.iter().map(|text| (*text).to_owned()).collect() };
            let payload = BatchPayload { addresses: Some(texts), ..BatchPayload::default() };
            decode(&zstd::bulk::compress(&payload.encode_to_vec(), ZSTD_LEVEL).expect("it can be packed"))
        };
        assert_eq!(payload("a@example.com\nb@example.com\n", &[]).expect("lines").len(), 2);
        assert_eq!(payload("", &["a@example.com"]).expect("whole").len(), 1);
        for (lines, whole) in [("a@example.com", &[][..]), ("a@example.com\n", &["b@example.com"]), ("\n", &[])] {
            assert!(payload(lines, whole).is_err(), "{lines:?} {whole:?}");
        }
    }

    #[test]
    fn a_damaged_frame_is_an_error() {
        let frame = encode(&[recipient("a@example.com", "a@example.com", json!({"name": "Ada"}))]);
        for length in 0..frame.len() {
            assert!(decode(&frame[..length]).is_err());
        }
    }
}
