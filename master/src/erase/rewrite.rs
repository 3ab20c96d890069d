//! Takes an address out of rows, so that there are as many rows as before, in the same order: the position of a split is
//! a number of rows. What stands in the place of the recipient's own row is a bad row to whoever reads it, see `admit`.
//!
//! Rows of which nobody says what their fields are lose the address and nothing else. Pure but for what it reads from.

use super::names::Fields;
use crate::audience::ndjson::parse_object;
use crate::audience::{ReadError, text};
use postrider_common::Address;
use postrider_common::campaign::AudienceFormat;
use postrider_common::erasure::{Erasing, Taken};
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Cursor, Read, Write as _};

/// Bytes of a line that is looked at whole. A longer one is no row that anybody admits.
const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Bytes handed over at once.
const PIECE_BYTES: usize = 512 * 1024;

/// What was found in an audience.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub own: u64,
    pub mentions: u64,
}

impl Found {
    fn add(&mut self, taken: Taken) {
        match taken {
            Taken::Nothing => {}
            Taken::Mention => self.mentions += 1,
            Taken::All => self.own += 1,
        }
    }

    pub fn is_anything(self) -> bool {
        self != Self::default()
    }
}

/// A row given with a submit.
pub(super) fn inline_row(erasing: &Erasing, fields: &Fields, row: &mut String) -> Taken {
    let (line, taken) = json_line(erasing, fields, row.as_bytes());
    if taken != Taken::Nothing {
        // What was a text and lost an address is one.
        *row = String::from_utf8_lossy(&line).into_owned();
    }
    taken
}

/// Reads an audience and hands over what it is to be, in pieces. An error of `write` ends it.
///
/// What comes out is UTF-8, and says so where a campaign says otherwise; compressed if it was.
pub(super) fn audience(
    erasing: &Erasing,
    fields: &Fields,
    mut source: impl Read,
    mut write: impl FnMut(Vec<u8>) -> io::Result<()>,
) -> io::Result<Found> {
    let mut first = Vec::new();
    source.by_ref().take(MAGIC_BYTES).read_to_end(&mut first)?;
    let mut packer = match text::is_compressed(&first) {
        true => Some(packer()?),
        false => None,
    };
    let whole = Cursor::new(first).chain(source);
    let source = text::open(whole, fields.text.encoding.as_deref()).map_err(|error| match error {
        ReadError::Run(error) => io::Error::new(io::ErrorKind::InvalidData, error.message),
        ReadError::Storage(why) => io::Error::other(why),
    })?;
    let source = BufReader::with_capacity(PIECE_BYTES, source);
    let mut hand_over = |piece: Vec<u8>| match &mut packer {
        None => write(piece),
        Some(packer) => {
            packer.write_all(&piece)?;
            write(std::mem::take(packer.get_mut()))
        }
    };
    if fields.text.encoding.is_some() {
        hand_over(BYTE_ORDER_MARK.to_vec())?;
    }
    let found = match fields.format {
        Some(AudienceFormat::Csv) => csv(erasing, fields, source, &mut hand_over),
        Some(AudienceFormat::Ndjson) => lines(source, &mut hand_over, |line| json_line(erasing, fields, line)),
        None => lines(source, &mut hand_over, |line| bare_line(erasing, line)),
    }?;
    if let Some(packer) = packer {
        write(packer.finish()?)?;
    }
    Ok(found)
}

/// Enough to tell what is compressed.
const MAGIC_BYTES: u64 = 4;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const ZSTD_LEVEL: i32 = 3;

fn packer() -> io::Result<zstd::Encoder<'static, Vec<u8>>> {
    let mut packer = zstd::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
    packer.include_checksum(true)?;
    Ok(packer)
}

type Write<'a> = &'a mut dyn FnMut(Vec<u8>) -> io::Result<()>;

fn lines(
    mut source: impl BufRead,
    write: Write<'_>,
    mut rewrite: impl FnMut(&[u8]) -> (Vec<u8>, Taken),
) -> io::Result<Found> {
    let (mut found, mut out, mut line) = (Found::default(), Vec::with_capacity(PIECE_BYTES), Vec::new());
    loop {
        line.clear();
        if (&mut source).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            write(out)?;
            return Ok(found);
        }
        let end = line.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |at| at + 1);
        let (rewritten, taken) = rewrite(&line[..end]);
        found.add(taken);
        out.extend(rewritten);
        out.extend(&line[end..]);
        if out.len() >= PIECE_BYTES {
            write(std::mem::replace(&mut out, Vec::with_capacity(PIECE_BYTES)))?;
        }
    }
}

/// Nobody says what it is: only the address goes.
fn bare_line(erasing: &Erasing, line: &[u8]) -> (Vec<u8>, Taken) {
    match std::str::from_utf8(line) {
        Ok(valid) => match erasing.taken_from(valid) {
            Some(rest) => (rest.into_bytes(), Taken::Mention),
            None => (line.to_vec(), Taken::Nothing),
        },
        Err(_) => match erasing.taken_from(&String::from_utf8_lossy(line)) {
            Some(rest) => (rest.into_bytes(), Taken::Mention),
            None => (line.to_vec(), Taken::Nothing),
        },
    }
}

/// A line that nobody takes for a row, and that has nothing in it.
const NO_ROW: &[u8] = b"\"erased\"";

pub(super) fn json_line(erasing: &Erasing, fields: &Fields, line: &[u8]) -> (Vec<u8>, Taken) {
    let unchanged = || (line.to_vec(), Taken::Nothing);
    let Ok(mut object) = parse_object(line) else {
        let mentioned = erasing.is_in(&String::from_utf8_lossy(line));
        return if mentioned { (NO_ROW.to_vec(), Taken::Mention) } else { unchanged() };
    };
    let is_own = |name: &String| match object.get(name) {
        Some(Value::String(text)) => erasing.is_text(text),
        Some(_) | None => false,
    };
    let own = fields.addresses.iter().chain(&fields.keys).any(is_own);
    if own {
        // All members stay: one that no row has is a wrong definition.
        let names = object.into_iter().map(|(name, _)| (erasing.taken_from(&name).unwrap_or(name), Value::Null));
        object = names.collect();
        let stands_for = |name: &String, text: &str| (name.clone(), Value::String(text.to_owned()));
        object.extend(fields.keys.iter().map(|name| stands_for(name, erasing.id.as_str())));
        let address = Address::erased(&erasing.id);
        object.extend(fields.addresses.iter().map(|name| stands_for(name, address.as_str())));
    } else if !erasing.take_from_fields(&mut object) {
        return unchanged();
    }
    (Value::Object(object).to_string().into_bytes(), if own { Taken::All } else { Taken::Mention })
}

/// Written anew record by record: the rows are the same, quotes may stand elsewhere.
fn csv(erasing: &Erasing, fields: &Fields, source: impl Read, write: Write<'_>) -> io::Result<Found> {
    // Another one is refused by whoever reads the rows.
    let delimiter = fields.text.delimiter.and_then(|c| u8::try_from(c).ok()).unwrap_or(b',');
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).delimiter(delimiter).from_reader(source);
    let new_writer = || {
        let pieces = Vec::with_capacity(PIECE_BYTES);
        csv::WriterBuilder::new().flexible(true).delimiter(delimiter).from_writer(pieces)
    };
    let mut writer = new_writer();
    let mut record = csv::ByteRecord::new();
    let (mut found, mut columns, mut written) = (Found::default(), None, 0);
    while reader.read_byte_record(&mut record).map_err(plain)? {
        let columns: &Columns = columns.get_or_insert_with(|| Columns::of(&record, fields));
        let taken = csv_record(erasing, columns, &mut record);
        found.add(taken);
        written += record.as_slice().len() + record.len();
        writer.write_byte_record(&record).map_err(plain)?;
        if written >= PIECE_BYTES {
            written = 0;
            let full = std::mem::replace(&mut writer, new_writer());
            write(full.into_inner().map_err(|error| io::Error::other(error.to_string()))?)?;
        }
    }
    write(writer.into_inner().map_err(|error| io::Error::other(error.to_string()))?)?;
    Ok(found)
}

/// The error of the source itself, if it is one.
fn plain(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

/// Which columns are whose.
struct Columns {
    addresses: Vec<usize>,
    keys: Vec<usize>,
}

impl Columns {
    fn of(header: &csv::ByteRecord, fields: &Fields) -> Self {
        let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let names: Vec<String> = header.iter().map(name).collect();
        let at = |wanted: &std::collections::BTreeSet<String>| {
            (0..).zip(&names).filter(|(_, name)| wanted.contains(*name)).map(|(at, _)| at).collect()
        };
        Self { addresses: at(&fields.addresses), keys: at(&fields.keys) }
    }
}

fn csv_record(erasing: &Erasing, columns: &Columns, record: &mut csv::ByteRecord) -> Taken {
    let is_own = |at: &usize| {
        let field = record.get(*at).and_then(|field| std::str::from_utf8(field).ok());
        field.is_some_and(|field| erasing.is_text(field))
    };
    if columns.addresses.iter().chain(&columns.keys).any(is_own) {
        let address = Address::erased(&erasing.id);
        let blank = |at: usize| match (columns.addresses.contains(&at), columns.keys.contains(&at)) {
            (true, _) => address.as_str(),
            (false, true) => erasing.id.as_str(),
            (false, false) => "",
        };
        *record = (0..record.len()).map(|at| blank(at).as_bytes()).collect();
        return Taken::All;
    }
    if !record.iter().any(|field| erasing.is_in(&String::from_utf8_lossy(field))) {
        return Taken::Nothing;
    }
    let without = |field: &[u8]| match (std::str::from_utf8(field), erasing.taken_from(&String::from_utf8_lossy(field)))
    {
        (Ok(_), Some(rest)) => rest.into_bytes(),
        // A field that is not UTF-8 makes a bad row, and stays one.
        (Err(_), Some(_)) => vec![0xff],
        (_, None) => field.to_vec(),
    };
    *record = record.iter().map(without).collect();
    Taken::Mention
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audience::csv::CsvRows;
    use crate::audience::ndjson::NdjsonRows;
    use crate::audience::row::{Roles, Row};
    use postrider_common::campaign::TextForm;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn ada() -> Erasing {
        Erasing::new(ID.parse().expect("an id"), &"ada@example.com".parse().expect("an address"))
    }

    fn fields(format: Option<AudienceFormat>) -> Fields {
        let text = Default::default();
        Fields { format, text, addresses: ["email".to_owned()].into(), keys: ["id".to_owned()].into() }
    }

    fn rewritten(format: Option<AudienceFormat>, text: &[u8]) -> (Vec<u8>, Found) {
        let mut out = Vec::new();
        let write = |piece: Vec<u8>| {
            out.extend(piece);
            Ok(())
        };
        let found = audience(&ada(), &fields(format), text, write).expect("reads");
        assert!(!ada().is_in(&String::from_utf8_lossy(&out)));
        (out, found)
    }

    fn rows(format: AudienceFormat, bytes: &[u8]) -> Vec<Row> {
        let roles = Roles { address_field: "email".into(), key_field: Some("id".into()), ..Roles::default() };
        let source = BufReader::new(text::open(bytes, None).expect("a text"));
        match format {
            AudienceFormat::Csv => {
                let rows = CsvRows::open(source, b',', roles).expect("a header").expect("rows");
                rows.collect::<Result<_, _>>().expect("rows")
            }
            AudienceFormat::Ndjson => NdjsonRows::new(source, roles).collect::<Result<_, _>>().expect("rows"),
        }
    }

    /// Everybody else's row is as it was, and a bad row is a bad row.
    fn check(format: AudienceFormat, text: &[u8], expected: Found, own: &[u64]) {
        let (out, found) = rewritten(Some(format), text);
        assert_eq!(found, expected);
        let (before, after) = (rows(format, text), rows(format, &out));
        assert_eq!(before.len(), after.len(), "{}", String::from_utf8_lossy(&out));
        for (before, after) in before.into_iter().zip(after) {
            match (before.recipient, after.recipient) {
                (Ok(_), Err(reason)) if own.contains(&before.number) => assert!(reason.is_erased(), "{reason}"),
                (Ok(mut before), Ok(after)) => {
                    ada().take_from_recipient(&mut before);
                    assert_eq!(before, after);
                }
                (Err(_), Err(_)) => {}
                (before, after) => panic!("{before:?} became {after:?}"),
            }
        }
        // Again, it finds nothing.
        assert_eq!(rewritten(Some(format), &out), (out, Found::default()));
    }

    #[test]
    fn rows_stay_in_their_places_in_csv() {
        let text = b"\xef\xbb\xbf\"email\",name,id\r\n\
            bob@example.com,\"Bob, \"\"the\"\"\nsecond\",1\r\n\r\n\
            Ada@example.com,Ada,2\r\n\
            bob@example.com\r\n\
            carl@example.com,by ada@example.com,3\r\n\
            \"ada@example.com\",\xff,4\r\n\
            dora@example.com,\xff ada@example.com,5\r\n\
            lada@example.com,x,6";
        check(AudienceFormat::Csv, text, Found { own: 2, mentions: 2 }, &[2, 5]);
    }

    #[test]
    fn rows_stay_in_their_places_in_ndjson() {
        let text = b"\xef\xbb\xbf{\"email\":\"ADA@example.com\",\"id\":1,\"name\":\"Ada\"}\n\
            {\"email\":\"bob@example.com\",\"id\":2,\"by\":[\"ada@example.com\"]}\n\n\
            {\"email\":\"ada\\u0040example.com\",\"id\":3}\n\
            ada@example.com\n\
            {\"email\":\"carl@example.com\",\"id\":\"ada@example.com\"}\n\
            {\"email\":\"dora@example.com\",\"id\":5}";
        check(AudienceFormat::Ndjson, text, Found { own: 3, mentions: 2 }, &[1, 3, 5]);
    }

    #[test]
    fn of_rows_that_nobody_knows_only_the_address_goes() {
        let (out, found) = rewritten(None, b"email,name\nada@example.com,Ada\nbob@example.com,B\xff\n");
        assert_eq!(found, Found { own: 0, mentions: 1 });
        let wanted = [b"email,name\n", ID.as_bytes(), b"@erased.invalid,Ada\nbob@example.com,B\xff\n"].concat();
        assert_eq!(out, wanted);
    }

    #[test]
    fn pieces_add_up() {
        let long: String = (0..60_000).map(|n| format!("user{n}@example.com,{n},{n}\n")).collect();
        let text = format!("email,id,x\n{long}ada@example.com,9,9\n");
        let (out, found) = rewritten(Some(AudienceFormat::Csv), text.as_bytes());
        assert_eq!((found.own, rows(AudienceFormat::Csv, &out).len()), (1, 60_001));
        let (out, _) = rewritten(None, text.as_bytes());
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 60_002);
    }

    #[test]
    fn what_is_compressed_or_in_another_encoding_stays_readable() {
        let latin = b"mail;name\nada@example.com;Ada\nj\xf6rg@example.com;J\xf6rg\n";
        let mut fields = fields(Some(AudienceFormat::Csv));
        fields.addresses = ["mail".to_owned()].into();
        fields.text = TextForm { encoding: Some("windows-1252".into()), delimiter: Some(';') };
        for source in [latin.to_vec(), zstd::encode_all(&latin[..], 1).expect("packs")] {
            let mut out = Vec::new();
            let write = |piece: Vec<u8>| {
                out.extend(piece);
                Ok(())
            };
            let found = audience(&ada(), &fields, source.as_slice(), write).expect("reads");
            assert_eq!(found, Found { own: 1, mentions: 0 });
            assert_eq!(text::is_compressed(&out), text::is_compressed(&source));
            let mut read = String::new();
            let text = text::open(out.as_slice(), Some("windows-1252")).expect("a text");
            BufReader::new(text).read_to_string(&mut read).expect("UTF-8");
            assert_eq!(read, format!("mail;name\n{ID}@erased.invalid;\nj\u{f6}rg@example.com;J\u{f6}rg\n"));
        }
    }
}
