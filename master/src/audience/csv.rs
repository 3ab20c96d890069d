//! Cuts CSV (RFC 4180, header row) into rows.

use super::row::{Roles, Row, RowReason, admit};
use super::{ReadError, column_missing, text};
use postrider_common::Recipient;
use postrider_common::limits::{FIELDS_MAX, RECIPIENT_BYTES_MAX};
use serde_json::{Map, Value};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::rc::Rc;

/// Bytes of one record, quotes and all: a quote that is never closed must not read the file into memory.
const RECORD_BYTES_MAX: usize = 4 * RECIPIENT_BYTES_MAX;
/// Bytes the parser reads ahead of the record it is at.
const BUFFER_BYTES: usize = 64 * 1024;

/// What a field must be, for people.
const UTF_8: &str = "UTF-8 (if the file is something else, name it in audience.encoding)";

/// Counts what the parser took since the record began, and stops it at the limit.
struct Bounded<R> {
    inner: R,
    taken: Rc<Cell<usize>>,
}

/// The mark of `Bounded`'s own error among errors of reading.
#[derive(Debug, thiserror::Error)]
#[error("the record is too long")]
struct RecordTooLong;

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken.get() > RECORD_BYTES_MAX + BUFFER_BYTES {
            return Err(io::Error::other(RecordTooLong));
        }
        let count = self.inner.read(buffer)?;
        self.taken.set(self.taken.get() + count);
        Ok(count)
    }
}

/// The rows of a CSV text.
pub struct CsvRows<R: Read> {
    reader: csv::Reader<Bounded<R>>,
    taken: Rc<Cell<usize>>,
    /// Column names; an empty one is not kept.
    columns: Vec<String>,
    roles: Roles,
    record: csv::ByteRecord,
    number: u64,
}

impl<R: Read> CsvRows<R> {
    /// Reads and checks the header. None: the text is empty, not even a header.
    pub fn open(source: R, delimiter: u8, roles: Roles) -> Result<Option<Self>, ReadError> {
        let taken = Rc::new(Cell::new(0));
        let bounded = Bounded { inner: source, taken: Rc::clone(&taken) };
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .delimiter(delimiter)
            .flexible(true)
            .buffer_capacity(BUFFER_BYTES)
            .from_reader(bounded);
        let mut record = csv::ByteRecord::new();
        if !reader.read_byte_record(&mut record).map_err(|error| broken(error, 0))? {
            return Ok(None);
        }
        let columns = header(&record, &roles)?;
        Ok(Some(Self { reader, taken, columns, roles, record, number: 0 }))
    }

    fn admit(&self) -> Result<Recipient, RowReason> {
        if self.record.len() != self.columns.len() {
            let (has, wants) = (self.record.len(), self.columns.len());
            return Err(RowReason::new(format!("it has {has} fields and the header has {wants}")));
        }
        let mut fields = Map::new();
        for (name, bytes) in self.columns.iter().zip(self.record.iter()) {
            if name.is_empty() {
                continue;
            }
            let name_shown = || super::shorten(name);
            let text = std::str::from_utf8(bytes)
                .map_err(|_| RowReason::new(format!("the field '{}' is not {UTF_8}", name_shown())))?;
            fields.insert(name.clone(), Value::String(text.to_owned()));
        }
        admit(fields, &self.roles)
    }
}

impl<R: Read> Iterator for CsvRows<R> {
    type Item = Result<Row, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.taken.set(0);
        match self.reader.read_byte_record(&mut self.record) {
            Ok(false) => None,
            Ok(true) => {
                self.number += 1;
                Some(Ok(Row { number: self.number, recipient: self.admit() }))
            }
            Err(error) => Some(Err(broken(error, self.number + 1))),
        }
    }
}

/// The names that the columns have from here on; all that the roles want are there.
fn header(record: &csv::ByteRecord, roles: &Roles) -> Result<Vec<String>, ReadError> {
    let wrong = |message: String, mend: &str| ReadError::run("audience_header", message, mend);
    if record.len() > FIELDS_MAX {
        let message = format!("the header has {} columns, at most {FIELDS_MAX} (fields_max) are read", record.len());
        return Err(wrong(message, "leave out the columns that no template uses"));
    }
    let mut columns: Vec<String> = Vec::with_capacity(record.len());
    for (index, bytes) in record.iter().enumerate() {
        let Some(name) = std::str::from_utf8(bytes).ok().filter(|name| !name.contains('\0')) else {
            let message = format!("column {} of the header is not UTF-8", index + 1);
            return Err(wrong(message, "save the audience as UTF-8, or name what it is in audience.encoding"));
        };
        columns.push(name.trim().to_owned());
    }
    for (setting, name) in roles.wanted() {
        if !columns.iter().any(|column| column == name) {
            return Err(column_missing(setting, name, &columns));
        }
    }
    let mut named = BTreeSet::new();
    for column in &mut columns {
        *column = roles.name_of(column).to_owned();
        if !column.is_empty() && !named.insert(column.clone()) {
            let message = format!("two columns have the name '{}'", super::shorten(column));
            return Err(wrong(message, "rename or remove one of the two, or name one otherwise in audience.columns"));
        }
    }
    Ok(columns)
}

fn broken(error: csv::Error, number: u64) -> ReadError {
    if let csv::ErrorKind::Io(io) = error.kind()
        && io.get_ref().is_some_and(|inner| inner.is::<RecordTooLong>())
    {
        let row = if number == 0 { "the header".to_owned() } else { format!("row {number}") };
        let message = format!("{row} is longer than {RECORD_BYTES_MAX} bytes (record_bytes_max)");
        return ReadError::run(
            "audience_record_too_long",
            message,
            "look for a quote that is not closed near that row",
        );
    }
    match error.into_kind() {
        csv::ErrorKind::Io(io) => text::unreadable(&io),
        // The reader is told to take records of any length, in bytes.
        other => ReadError::Storage(format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &[u8], address: &str, key: Option<&str>) -> Result<Vec<Row>, ReadError> {
        let roles = Roles { address_field: address.into(), key_field: key.map(Into::into), ..Roles::default() };
        match CsvRows::open(text, b',', roles)? {
            None => Ok(Vec::new()),
            Some(rows) => rows.collect(),
        }
    }

    fn check(text: &[u8], expected: &[Result<&str, &str>]) {
        let got = rows(text, "email", None).expect("readable");
        assert_eq!(got.len(), expected.len(), "{got:?}");
        for (index, (row, expected)) in got.iter().zip(expected).enumerate() {
            assert_eq!(row.number, index as u64 + 1);
            match (&row.recipient, expected) {
                (Ok(recipient), Ok(shown)) => {
                    let name = recipient.fields.get("name").and_then(Value::as_str).unwrap_or_default();
                    assert_eq!(format!("{}|{name}", recipient.address), *shown);
                }
                (Err(reason), Err(part)) => assert!(reason.0.contains(part), "{reason} has no '{part}'"),
                (got, expected) => panic!("row {}: {got:?}, expected {expected:?}", row.number),
            }
        }
    }

    #[test]
    fn nasty_rows_are_read_or_refused_one_by_one() {
        check(b"", &[]);
        check(b"email,name\n", &[]);
        check(b"email,name\na@x.io,Ada\n", &[Ok("a@x.io|Ada")]);
        check(b"email,name\r\na@x.io,Ada\r\n", &[Ok("a@x.io|Ada")]);
        check(b" email , name \na@x.io,Ada", &[Ok("a@x.io|Ada")]);
        check(b"email,name\na@x.io,\"A\nda, \"\"x\"\"\"\n\n\nb@x.io,B\n", &[Ok("a@x.io|A\nda, \"x\""), Ok("b@x.io|B")]);
        check(b"email,name\na@x.io\nb@x.io,B,C\nc@x.io,C\n", &[Err("1 fields"), Err("3 fields"), Ok("c@x.io|C")]);
        check(b"email,name\na@x.io,\xff\nb@x.io,B\n", &[Err("not UTF-8"), Ok("b@x.io|B")]);
        check(b"email,name\na@x.io,A\0\n,B\nnone,C\n", &[Err("NUL"), Err("it is empty"), Err("no @")]);
        check(b"email,name,\na@x.io,A,ignored\n", &[Ok("a@x.io|A")]);
        check("email,name\njosé@exämple.com,Jörg\n".as_bytes(), &[Ok("josé@exämple.com|Jörg")]);
    }

    fn fails(text: &[u8], code: &str, message: &str, mend: &str) {
        match rows(text, "email", Some("id")) {
            Err(ReadError::Run(error)) => {
                assert_eq!(error.code, code);
                assert!(error.message.contains(message), "{}", error.message);
                assert!(error.mend.contains(mend), "{}", error.mend);
            }
            other => panic!("expected {code}, got {other:?}"),
        }
    }

    #[test]
    fn a_wrong_header_names_the_mend() {
        fails(b"e-mail,id\n", "audience_column_missing", "'email'", "did you mean 'e-mail'?");
        fails(b"email,ID\n", "audience_column_missing", "(audience.key)", "did you mean 'ID'?");
        fails(b"zzz;qqq\n", "audience_column_missing", "it has 'zzz;qqq'", "audience.delimiter = ';'");
        fails(b"email,id,id\n", "audience_header", "name 'id'", "rename");
        fails(b"\xff\xfee\0m\0a\0i\0l\0\n", "audience_header", "column 1", "UTF-8");
    }

    #[test]
    fn a_quote_that_is_never_closed_does_not_fill_the_memory() {
        let mut text = b"email,id\na@x.io,1\nb@x.io,\"".to_vec();
        text.resize(text.len() + 3 * RECORD_BYTES_MAX, b'x');
        fails(&text, "audience_record_too_long", "row 2", "quote");
    }
}
