//! Makes UTF-8 of an audience's bytes: inflates gzip and zstd, and decodes what is not UTF-8.
//!
//! Compression is told by the first bytes. What a byte order mark says counts before what the campaign says of the
//! encoding; without either the bytes pass as they are, and rows that are not UTF-8 are refused one by one.

use super::ReadError;
use encoding_rs::Encoding;
use encoding_rs_io::DecodeReaderBytesBuilder;
use postrider_common::limits::AUDIENCE_INFLATED_BYTES_MAX;
use std::io::{self, Cursor, Read};

/// RFC 1952, section 2.3.1.
const GZIP: &[u8] = b"\x1f\x8b";
/// RFC 8878, section 3.1.1.
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
const MAGIC_BYTES: usize = 4;
/// The largest window of a zstd frame that is accepted, as a power of two: 128 MiB, what its own tool takes by default.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// The encoding that a label of the Encoding Standard names. None: there is no such label.
pub fn encoding(label: &str) -> Option<&'static Encoding> {
    Encoding::for_label(label.as_bytes())
}

/// The text of an audience in UTF-8, without a byte order mark. `label`: what the campaign says of the encoding.
pub fn open<'a>(source: impl Read + 'a, label: Option<&str>) -> Result<Box<dyn Read + 'a>, ReadError> {
    let declared = match label {
        None => None,
        Some(label) => Some(encoding(label).ok_or_else(|| {
            let message = format!("there is no encoding '{}' (audience.encoding)", super::shorten(label));
            ReadError::run("audience_encoding", message, ENCODING_MEND)
        })?),
    };
    let inflated = inflate(Source(source)).map_err(|error| unreadable(&error))?;
    // What is said to be UTF-8 passes as it is: a wrong byte is then an error of its row.
    let foreign = declared.filter(|encoding| *encoding != encoding_rs::UTF_8);
    let decoded = DecodeReaderBytesBuilder::new()
        .encoding(foreign)
        // Passing would also keep `foreign` from giving way to a mark of UTF-8.
        .utf8_passthru(foreign.is_none())
        .strip_bom(true)
        .bom_override(true)
        .build(inflated);
    Ok(Box::new(decoded))
}

/// For a label that is none.
pub const ENCODING_MEND: &str =
    "give a label such as utf-8, windows-1252, iso-8859-15, utf-16le or shift_jis, or leave it out for UTF-8";

/// Whether bytes that begin like this are compressed.
pub fn is_compressed(first: &[u8]) -> bool {
    first.starts_with(GZIP) || first.starts_with(ZSTD)
}

fn inflate<'a>(mut source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut first = Vec::with_capacity(MAGIC_BYTES);
    source.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut first)?;
    let is = |magic: &[u8]| first.starts_with(magic);
    let (is_gzip, is_zstd) = (is(GZIP), is(ZSTD));
    let whole = Cursor::new(first).chain(source);
    if is_gzip {
        return Ok(Box::new(Inflated::new(flate2::read::MultiGzDecoder::new(whole))));
    }
    if is_zstd {
        let mut decoder = zstd::Decoder::new(whole)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
        return Ok(Box::new(Inflated::new(decoder)));
    }
    Ok(Box::new(whole))
}

/// The bytes as they were stored: an error of theirs is one of the storage.
struct Source<R>(R);

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct SourceFailed(io::Error);

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            _ => io::Error::other(SourceFailed(error)),
        })
    }
}

/// What compressed bytes become: an error of the decoder says that they are damaged.
struct Inflated<R> {
    inner: R,
    left: u64,
}

#[derive(Debug, thiserror::Error)]
enum Damaged {
    #[error("the compressed audience cannot be inflated: {0}")]
    Compressed(io::Error),
    #[error("the compressed audience is larger than {AUDIENCE_INFLATED_BYTES_MAX} bytes (audience_inflated_bytes_max)")]
    TooLarge,
}

impl<R: Read> Inflated<R> {
    fn new(inner: R) -> Self {
        Self { inner, left: AUDIENCE_INFLATED_BYTES_MAX }
    }
}

impl<R: Read> Read for Inflated<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let is_of_source = |error: &io::Error| error.get_ref().is_some_and(|inner| inner.is::<SourceFailed>());
        let count = self.inner.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            _ if is_of_source(&error) => error,
            _ => io::Error::other(Damaged::Compressed(error)),
        })?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| io::Error::other(Damaged::TooLarge))?;
        Ok(count)
    }
}

/// What an error of reading means for the run.
pub fn unreadable(error: &io::Error) -> ReadError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Damaged>()) {
        Some(damaged @ Damaged::Compressed(_)) => ReadError::run(
            "audience_damaged",
            damaged.to_string(),
            "compress it again with gzip or zstd, and run the campaign again with its audience uploaded anew",
        ),
        Some(damaged @ Damaged::TooLarge) => {
            ReadError::run("audience_too_large", damaged.to_string(), "split it into several campaigns")
        }
        None => ReadError::Storage(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    const TEXT: &str = "email,name\na@example.com,J\u{f6}rg \u{20ac}\n";

    fn read(bytes: &[u8], label: Option<&str>) -> Result<Vec<u8>, ReadError> {
        let mut text = Vec::new();
        open(bytes, label)?.read_to_end(&mut text).map_err(|error| unreadable(&error))?;
        Ok(text)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 1).unwrap()
    }

    fn utf_16(text: &str, of: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(of).collect()
    }

    #[test]
    fn a_mark_or_the_campaign_tells_the_encoding() {
        let marked = |mark: &[u8], bytes: &[u8]| [mark, bytes].concat();
        let windows = b"email,name\na@example.com,J\xf6rg \x80\n";
        let latin_9 = b"email,name\na@example.com,J\xf6rg \xa4\n";
        let (le, be) = (utf_16(TEXT, u16::to_le_bytes), utf_16(TEXT, u16::to_be_bytes));
        let cases: [(Vec<u8>, Option<&str>); 9] = [
            (TEXT.into(), None),
            (TEXT.into(), Some("UTF-8")),
            (marked(b"\xef\xbb\xbf", TEXT.as_bytes()), None),
            (marked(b"\xef\xbb\xbf", TEXT.as_bytes()), Some("windows-1252")),
            (marked(b"\xff\xfe", &le), None),
            (marked(b"\xfe\xff", &be), None),
            (le, Some("utf-16le")),
            (windows.to_vec(), Some("windows-1252")),
            (latin_9.to_vec(), Some("ISO-8859-15")),
        ];
        for (bytes, label) in cases {
            for bytes in [bytes.clone(), gzip(&bytes), zstd(&bytes)] {
                let read = read(&bytes, label).unwrap();
                assert_eq!(String::from_utf8(read).unwrap(), TEXT, "{label:?} {:?}", &bytes[..4]);
            }
        }
        assert_eq!(read(windows, None).unwrap(), windows, "nothing is guessed");
        let Err(ReadError::Run(error)) = read(b"x", Some("latin-x")) else { panic!("no encoding") };
        assert!(error.message.contains("'latin-x'") && error.mend.contains("windows-1252"), "{error:?}");
    }

    #[test]
    fn short_and_joined_sources_are_read_whole() {
        for text in ["", "a", "ab", "abc"] {
            for bytes in [text.as_bytes().to_vec(), gzip(text.as_bytes()), zstd(text.as_bytes())] {
                assert_eq!(read(&bytes, None).unwrap(), text.as_bytes());
            }
        }
        assert_eq!(read(&[gzip(b"one,"), gzip(b"two")].concat(), None).unwrap(), b"one,two");
        assert_eq!(read(&[zstd(b"one,"), zstd(b"two")].concat(), None).unwrap(), b"one,two");
    }

    #[test]
    fn damage_fails_the_run_and_a_storage_that_fails_does_not() {
        let long: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        // Gzip has a checksum of what was compressed. Zstd need not have one: there the header of the first block is harmed.
        for (bytes, harmed_at) in [(gzip(&long), 1_000), (zstd(&long), 8)] {
            let mut flipped = bytes.clone();
            flipped[harmed_at] ^= 0xff;
            for harmed in [&bytes[..bytes.len() - 9], &flipped] {
                let Err(ReadError::Run(error)) = read(harmed, None) else { panic!("it is damaged") };
                assert_eq!(error.code, "audience_damaged");
            }
            let broken = bytes[..bytes.len() / 2].chain(Fails);
            let mut text = Vec::new();
            let error = open(broken, None).unwrap().read_to_end(&mut text).unwrap_err();
            assert_eq!(unreadable(&error), ReadError::Storage("away".into()));
        }
    }

    struct Fails;

    impl Read for Fails {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("away"))
        }
    }
}
