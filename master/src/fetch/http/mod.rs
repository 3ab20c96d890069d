//! Pages of NDJSON over HTTP: the first from the URL of the campaign, each next one from where the page before says, in
//! its header `Link: <…>; rel="next"` (RFC 8288).
//!
//! A page is handed over while it arrives. One that breaks off is asked for again, and must begin with what was handed
//! over of it; one that is not the same any more begins the whole fetch again. So is a feed whose first page has another
//! `ETag` at the end than at the beginning. docs/audiences.md has the rules for whoever writes such a feed.

mod link;
mod page;

use super::{FetchError, Fetcher, Pieces};
use crate::campaign::calls::revealed;
use async_trait::async_trait;
use page::{Broken, Page, Part};
use postrider_common::Clock;
use postrider_common::campaign::HttpSource;
use postrider_common::limits::HTTP_PAGES_MAX;
use postrider_outgoing::{Failure, Outgoing, Request, Response, SecretText, Settings, Target};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

const ACCEPT: &str = "application/x-ndjson, application/jsonl;q=0.9, */*;q=0.1";
/// Tries at one page, and the pause before the second; each further one is twice as long.
const TRIES_MAX: u32 = 6;
const PAUSE: Duration = Duration::from_millis(500);
/// The longest that a server may have a page waited for by `Retry-After`.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
/// Pages without a row, one after the other.
const EMPTY_MAX: u32 = 100;
/// Bytes of the hash that a page is known by.
const SEEN_BYTES: usize = 16;

#[derive(Debug)]
pub(super) struct HttpFetcher {
    outgoing: Outgoing,
    clock: Arc<dyn Clock>,
    first: Target,
    headers: Vec<(String, SecretText)>,
    timeout: Duration,
}

impl HttpFetcher {
    pub fn new(settings: &Settings, clock: Arc<dyn Clock>, source: &HttpSource) -> Result<Self, FetchError> {
        let mend =
            "mend it, apply the campaign and run it again; or mend [outgoing] of every master and resume the run";
        let wrong = |why: String| FetchError::lasting("source_settings", format!("audience.http: {why}"), mend);
        let first = source.url.parse().map_err(|error: postrider_outgoing::InvalidTarget| wrong(error.to_string()))?;
        let headers = revealed(&source.headers, settings).map_err(wrong)?;
        let outgoing = Outgoing::new(settings).map_err(|failure| wrong(failure.to_string()))?;
        let timeout = Duration::from_millis(source.timeout_ms);
        Ok(Self { outgoing, clock, first, headers, timeout })
    }

    fn request(&self, target: &Target) -> Request {
        let mut request = Request::get(target.clone(), self.timeout).header("Accept", ACCEPT);
        request.headers.extend(self.headers.iter().cloned());
        request
    }

    /// Reads a page, however often that takes. What is handed over twice is what was not handed over before.
    async fn page(&self, number: u64, target: &Target, pieces: &mut Pieces) -> Result<Page, FetchError> {
        let mut page = Page::new(number);
        let mut tries = 0;
        loop {
            let broken = match self.try_page(target, &mut page, pieces).await {
                Ok(()) => return Ok(page),
                Err(Broken::Lasting(error)) => return Err(error),
                Err(Broken::Passing { why, retry_after }) => (why, retry_after),
            };
            tries += 1;
            let (why, retry_after) = broken;
            if tries == TRIES_MAX || retry_after.is_some_and(|wait| wait > RETRY_AFTER_MAX) {
                let message = format!("page {number} of {} cannot be read: {why}", target.shown());
                let mend = "see that it answers, then resume the run: it begins again with the first page";
                return Err(FetchError::lasting("source_unreachable", message, mend));
            }
            let pause = retry_after.unwrap_or(PAUSE * 2_u32.pow(tries - 1));
            tracing::warn!(page = number, tries, error = why, "page of an audience not read, trying again");
            tokio::time::sleep(pause).await;
        }
    }

    async fn try_page(&self, target: &Target, page: &mut Page, pieces: &mut Pieces) -> Result<(), Broken> {
        let mut answer = self.outgoing.send(self.request(target)).await.map_err(|failure| broken(target, failure))?;
        self.accept(target, page.number, &answer)?;
        page.begin(&answer).map_err(Broken::Lasting)?;
        // A 204 has no body to read.
        while let Some(piece) = answer.chunk(u64::MAX).await.map_err(|failure| broken(target, failure))? {
            for part in page.take(&piece)? {
                match part {
                    Part::Line(line) => pieces.line(&line).await.map_err(Broken::Lasting)?,
                }
            }
        }
        if let Some(line) = page.end()? {
            pieces.line(&line).await.map_err(Broken::Lasting)?;
        }
        Ok(())
    }

    fn accept(&self, target: &Target, number: u64, answer: &Response) -> Result<(), Broken> {
        match answer.status() {
            200 | 204 => Ok(()),
            status @ (408 | 425 | 429 | 500..=599) => {
                let retry_after = answer.retry_after(self.clock.wall_ms());
                Err(Broken::Passing { why: format!("it answered {status}"), retry_after })
            }
            status => {
                let mend = match status {
                    401 | 403 => "give what it asks for in audience.http.headers, by env:NAME",
                    _ => "mend audience.http.url, or what answers there",
                };
                let message = format!("page {number} of {}: it answered {status}, not 200", target.shown());
                Err(Broken::Lasting(FetchError::lasting("source_refused", message, mend)))
            }
        }
    }

    /// The first page is still what it was, as far as its server can say.
    async fn is_unchanged(&self, etag: &str) -> Result<bool, FetchError> {
        for tries in 1..=TRIES_MAX {
            let request = self.request(&self.first).header("If-None-Match", etag);
            let why = match self.outgoing.send(request).await {
                Ok(answer) => match answer.status() {
                    304 => return Ok(true),
                    200 => return Ok(answer.header("etag") == Some(etag)),
                    status => format!("it answered {status}"),
                },
                Err(failure) => failure.to_string(),
            };
            tracing::warn!(tries, error = why, "the first page of an audience was not compared, trying again");
            tokio::time::sleep(PAUSE * 2_u32.pow(tries - 1)).await;
        }
        let message = format!("{}: whether it changed meanwhile could not be seen", self.first.shown());
        Err(FetchError::passing(
            "source_unreachable",
            message,
            "see that it answers If-None-Match, then resume the run",
        ))
    }

    fn repeats(target: &Target, number: u64, why: &str) -> FetchError {
        let message = format!("page {number} of {} {why}", target.shown());
        let mend = "the last page must have no Link with rel=\"next\": mend the feed, then resume the run";
        FetchError::lasting("source_page_repeats", message, mend)
    }
}

#[async_trait]
impl Fetcher for HttpFetcher {
    async fn fetch(&self, pieces: &mut Pieces) -> Result<(), FetchError> {
        let (mut target, mut number, mut empty) = (self.first.clone(), 0, 0);
        let (mut seen, mut before, mut etag) = (HashSet::new(), None, None);
        loop {
            number += 1;
            let known: [u8; SEEN_BYTES] = Sha256::digest(target.as_str())[..SEEN_BYTES].try_into().unwrap_or_default();
            if !seen.insert(known) {
                return Err(Self::repeats(&target, number, "was there before: pages lead back to it for ever"));
            }
            let page = self.page(number, &target, pieces).await?;
            if number == 1 {
                etag = page.etag.clone();
            }
            empty = if page.rows == 0 { empty + 1 } else { 0 };
            let contents = page.contents();
            if page.rows > 0 && before == Some(contents) {
                return Err(Self::repeats(&target, number, "is the same as the one before, under another cursor"));
            }
            before = Some(contents);
            let Some((base, next)) = page.next else { break };
            if empty == EMPTY_MAX {
                return Err(Self::repeats(&target, number, "is one of a hundred in a row without a row"));
            }
            if number == HTTP_PAGES_MAX {
                return Err(Self::repeats(&target, number, "has another one after it, which is over http_pages_max"));
            }
            target = self.next(&base, number, &next)?;
        }
        match etag.filter(|_| number > 1) {
            Some(etag) if !self.is_unchanged(&etag).await? => {
                let message = format!("{} changed while its pages were read", self.first.shown());
                let mend = "run it when the feed is at rest, or have its cursor name a snapshot; then resume the run";
                Err(FetchError::passing("source_changed", message, mend))
            }
            _ => Ok(()),
        }
    }
}

impl HttpFetcher {
    fn next(&self, target: &Target, number: u64, reference: &str) -> Result<Target, FetchError> {
        let wrong = |why: String| {
            let message =
                format!("page {number} of {}: its Link with rel=\"next\" is not followed: {why}", target.shown());
            FetchError::lasting("source_link", message, "mend the feed, then resume the run")
        };
        let next = target.join(reference).map_err(|error| wrong(error.to_string()))?;
        // What the headers hold is for that origin alone.
        if !next.has_same_origin(&self.first) {
            return Err(wrong("it leads to another scheme, host or port".to_owned()));
        }
        Ok(next)
    }
}

fn broken(target: &Target, failure: Failure) -> Broken {
    if failure.is_retryable() {
        return Broken::Passing { why: failure.to_string(), retry_after: None };
    }
    let mend = "mend audience.http.url, or [outgoing] of every master, then resume the run";
    Broken::Lasting(FetchError::lasting("source_refused", format!("{}: {failure}", target.shown()), mend))
}
