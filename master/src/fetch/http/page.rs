//! One page while it arrives: cut into lines, and compared with what an earlier try handed over of it. Does no IO.

use super::link;
use crate::fetch::FetchError;
use postrider_common::limits::RECIPIENT_BYTES_MAX;
use postrider_outgoing::{Response, Target};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// Bytes of one line, as the snapshot takes them.
const LINE_BYTES_MAX: usize = 4 * RECIPIENT_BYTES_MAX;

/// Why a page was not read to its end.
#[derive(Debug)]
pub(super) enum Broken {
    Passing { why: String, retry_after: Option<Duration> },
    Lasting(FetchError),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    Line(Vec<u8>),
}

#[derive(Debug)]
pub(super) struct Page {
    pub number: u64,
    pub rows: u64,
    pub etag: Option<String>,
    /// Where the next one is, and what that is relative to.
    pub next: Option<(Target, String)>,
    /// Of all that was handed over, and how much that was.
    handed: Sha256,
    handed_bytes: u64,
    /// Of this try: what it has to repeat, and how much of it came already.
    repeated: Option<(Sha256, u64)>,
    /// The line that is not whole yet.
    line: Vec<u8>,
    is_begun: bool,
}

impl Page {
    pub fn new(number: u64) -> Self {
        Self {
            number,
            rows: 0,
            etag: None,
            next: None,
            handed: Sha256::new(),
            handed_bytes: 0,
            repeated: None,
            line: Vec::new(),
            is_begun: false,
        }
    }

    /// What an answer says of itself, before its body.
    pub fn begin(&mut self, answer: &Response) -> Result<(), FetchError> {
        let etag = answer.header("etag").map(str::to_owned);
        if self.is_begun && etag != self.etag {
            return Err(self.changed());
        }
        let next = link::next(answer.headers("link"));
        self.start(etag, next.map(|reference| (answer.target().clone(), reference.to_owned())));
        Ok(())
    }

    fn start(&mut self, etag: Option<String>, next: Option<(Target, String)>) {
        (self.etag, self.next, self.is_begun) = (etag, next, true);
        self.line.clear();
        self.repeated = (self.handed_bytes > 0).then(|| (Sha256::new(), 0));
    }

    fn changed(&self) -> FetchError {
        let message = format!("page {} changed while it was read", self.number);
        let mend = "run it when the feed is at rest, or have its cursor name a snapshot; then resume the run";
        FetchError::passing("source_changed", message, mend)
    }

    /// What is handed over of the next bytes.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<Vec<Part>, Broken> {
        if let Some((mut hash, came)) = self.repeated.take() {
            let left = usize::try_from(self.handed_bytes - came).unwrap_or(usize::MAX);
            let (again, rest) = bytes.split_at(left.min(bytes.len()));
            hash.update(again);
            let came = came + again.len() as u64;
            if came < self.handed_bytes {
                self.repeated = Some((hash, came));
                return Ok(Vec::new());
            }
            if hash.finalize() != self.handed.clone().finalize() {
                return Err(Broken::Lasting(self.changed()));
            }
            bytes = rest;
        }
        let mut parts = Vec::new();
        while let Some(at) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(at + 1);
            self.line.extend_from_slice(line);
            bytes = rest;
            parts.extend(self.hand_over()?);
        }
        self.line.extend_from_slice(bytes);
        self.check_line()?;
        Ok(parts)
    }

    /// The last line, which may lack its end.
    pub fn end(&mut self) -> Result<Option<Vec<u8>>, Broken> {
        if self.repeated.is_some() {
            return Err(Broken::Lasting(self.changed()));
        }
        Ok(self.hand_over()?.map(|Part::Line(line)| line))
    }

    fn hand_over(&mut self) -> Result<Option<Part>, Broken> {
        self.check_line()?;
        let mut line = std::mem::take(&mut self.line);
        self.handed.update(&line);
        self.handed_bytes += line.len() as u64;
        while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            line.pop();
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        if self.number == 1 && self.rows == 0 {
            self.check_form(&line)?;
        }
        self.rows += 1;
        Ok(Some(Part::Line(line)))
    }

    /// Told by the first row: a page of anything else would be all bad rows.
    fn check_form(&self, line: &[u8]) -> Result<(), Broken> {
        let what = match line.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'{') => return Ok(()),
            Some(b'[') => "a JSON list",
            Some(b'<') => "HTML or XML",
            Some(_) | None => "no JSON object",
        };
        let message = format!("page {} begins with {what}: it must be NDJSON, one JSON object a line", self.number);
        Err(Broken::Lasting(FetchError::lasting("source_format", message, "mend the feed, then resume the run")))
    }

    fn check_line(&self) -> Result<(), Broken> {
        if self.line.len() <= LINE_BYTES_MAX {
            return Ok(());
        }
        let message = format!("row {} of page {} has over {LINE_BYTES_MAX} bytes", self.rows + 1, self.number);
        let mend = "see that its lines end with a line feed and hold one row each, then resume the run";
        Err(Broken::Lasting(FetchError::lasting("source_row_too_long", message, mend)))
    }

    /// What was in it.
    pub fn contents(&self) -> [u8; 32] {
        self.handed.clone().finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(parts: Result<Vec<Part>, Broken>) -> Vec<String> {
        let text = |Part::Line(line)| String::from_utf8(line).unwrap();
        parts.expect("it is taken").into_iter().map(text).collect()
    }

    fn page() -> Page {
        let mut page = Page::new(1);
        page.start(None, None);
        page
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        let text = b"{\"a\":1}\r\n\n{\"a\":2}\n  \n{\"a\":3}";
        for size in 1..text.len() {
            let mut page = page();
            let mut got: Vec<String> = text.chunks(size).flat_map(|piece| lines(page.take(piece))).collect();
            got.extend(page.end().unwrap().map(|line| String::from_utf8(line).unwrap()));
            assert_eq!((got, page.rows), (vec!["{\"a\":1}".into(), "{\"a\":2}".into(), "{\"a\":3}".into()], 3));
        }
    }

    #[test]
    fn a_page_that_broke_off_goes_on_where_it_was() {
        let text = "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n";
        for cut in 0..text.len() {
            for size in [1, 3, 100] {
                let mut page = page();
                let mut got = lines(page.take(&text.as_bytes()[..cut]));
                page.start(None, None);
                got.extend(text.as_bytes().chunks(size).flat_map(|piece| lines(page.take(piece))));
                assert_eq!((got.len(), page.end().unwrap()), (3, None), "cut at {cut}, pieces of {size}");
                assert_eq!(page.contents(), <[u8; 32]>::from(Sha256::digest(text)));
            }
        }
    }

    #[test]
    fn a_page_that_is_another_one_the_second_time_is_noticed() {
        let code = |broken: Broken| match broken {
            Broken::Lasting(error) => (error.error.code, error.passes),
            Broken::Passing { why, .. } => panic!("{why}"),
        };
        let mut one = page();
        one.take(b"{\"a\":1}\n{\"a\":2}\n{").unwrap();
        one.start(None, None);
        assert_eq!(code(one.take(b"{\"a\":1}\n{\"a\":3}\n").unwrap_err()), ("source_changed".to_owned(), true));
        let mut short = page();
        short.take(b"{\"a\":1}\n{\"a\":2}\n{").unwrap();
        short.start(None, None);
        short.take(b"{\"a\":1}\n").unwrap();
        assert_eq!(code(short.end().unwrap_err()), ("source_changed".to_owned(), true));
    }

    #[test]
    fn what_is_not_ndjson_is_told_by_its_first_row() {
        for (text, what) in
            [("[{}]\n", "a JSON list"), ("\n <html>\n", "HTML or XML"), ("email,name\n", "no JSON object")]
        {
            let Err(Broken::Lasting(error)) = page().take(text.as_bytes()) else { panic!("{text} is taken") };
            assert!(error.error.message.contains(what), "{}", error.error.message);
        }
        let long = vec![b'{'; LINE_BYTES_MAX + 1];
        let Err(Broken::Lasting(error)) = page().take(&long) else { panic!("it is taken") };
        assert_eq!(error.error.code, "source_row_too_long");
    }
}
